"""Sampled contributions against closed forms, the exact table, loops, and captum."""

from itertools import permutations

import numpy as np
import pytest
import torch
from captum.attr import ShapleyValues as CaptumShapleyValues
from captum.attr import ShapleyValueSampling
from torch import nn

import interactions as ix
from interactions.games.exact import ExactGame, exact
from interactions.orders.attribution import marginals, marginals_of, shapley, shapley_of

PARITY = ix.toy.ParityGame(8, {frozenset({0, 1, 2, 3}): 0.5, frozenset({2, 3, 7}): 0.25})
TEAMS = ix.toy.DividendGame(
    8, {frozenset({0}): 3.0, frozenset({0, 1}): 1, frozenset({1, 2, 5}): -2, frozenset(range(7)): 4}
)


def random_game(n, seed=0):
    return ExactGame(n, np.random.default_rng(seed).normal(size=2**n), image="random")


GAMES = [PARITY, TEAMS, random_game(8)]


# Closed forms


def test_size_games():
    """phi^(m)(i) = worth(m+1) - worth(m) whatever the context; phi(i) = worth(n) / n."""
    game = ix.toy.SizeGame(20, lambda k: float(k**2))
    record = marginals(game, (0, 7, 10, 19), 3)
    np.testing.assert_array_equal(record.replicates_RNO, np.tile([1.0, 15, 21, 39], (3, 20, 1)))
    assert record.orders_O.tolist() == [0, 7, 10, 19]
    # a player who is k-th in one walk is k-th from the end in the other: |S|^2 averages out
    np.testing.assert_allclose(shapley(game, 2).replicates_RN, 20)


def test_antithetic_permutations_are_exact_for_quadratic_games():
    """Every other player is before i in one walk, or on one side of the ring, and once after."""
    pairs = ix.toy.pair_weights([(0, 1, 2.0), (1, 4, -3.0), (2, 6, 0.5)])
    game = ix.toy.DividendGame(7, {frozenset({0}): 1.0, frozenset({4}): -1.5, **pairs})
    table = exact(game)
    np.testing.assert_allclose(
        shapley(game, 2).replicates_RN, np.tile(table.shapley(), (2, 1)), atol=1e-12
    )
    np.testing.assert_allclose(
        marginals(game, (3,), 2).replicates_RNO[:, :, 0],
        np.tile(table.marginals()[:, 3], (2, 1)),
        atol=1e-12,
    )


# Loops


def test_rings_and_walks_by_loops():
    game = random_game(6)
    rows = np.array([[3, 0, 5, 1, 4, 2], [2, 1, 0, 5, 3, 4]])

    def gain(i, context):
        return (
            game.values_K[sum(2**k for k in (*context, i))]
            - game.values_K[sum(2**k for k in context)]
        )

    by_order, overall = marginals_of(game, range(6), rows), shapley_of(game, rows)
    for r, row in enumerate(rows.tolist()):
        for place, i in enumerate(row):
            for m in range(6):
                before = [row[(place - step) % 6] for step in range(1, m + 1)]
                after = [row[(place + step) % 6] for step in range(1, m + 1)]
                expected = (gain(i, before) + gain(i, after)) / 2
                assert by_order.replicates_RNO[r, i, m] == pytest.approx(expected, abs=1e-12)
            expected = (gain(i, row[:place]) + gain(i, row[place + 1 :])) / 2
            assert overall.replicates_RN[r, i] == pytest.approx(expected, abs=1e-12)


# The exact table


@pytest.mark.parametrize("n", [2, 5])
def test_all_permutations_give_the_exact_values(n):
    game = random_game(n)
    rows = np.array(list(permutations(range(n))))
    np.testing.assert_allclose(
        marginals_of(game, range(n), rows).mean_NO, game.marginals(), atol=1e-12
    )
    np.testing.assert_allclose(shapley_of(game, rows).mean_N, game.shapley(), atol=1e-12)


@pytest.mark.parametrize("game", GAMES, ids=lambda game: type(game).__name__)
def test_samples_agree_with_the_exact_values(game):
    table = exact(game)
    by_order, overall = marginals(game, range(8), 300), shapley(game, 300)
    # 8 players x 9 values in 3 games: one of 216 t-scores passes 4.7 with probability 1e-3, and
    # the draw is fixed
    error_NO = np.abs(by_order.mean_NO - table.marginals())
    assert (error_NO <= 4.7 * by_order.se_NO + 1e-12).all()
    error_N = np.abs(overall.mean_N - table.shapley())
    assert (error_N <= 4.7 * overall.se_N + 1e-12).all()


def test_standard_errors_are_the_errors_that_are_made():
    """Over 400 seeds the mean squared error is the mean of se^2, for players taken together."""
    game = random_game(6)
    phi, phi_2 = game.shapley(), game.marginals()[:, 2]
    errors, claims = [], []
    for seed in range(400):
        overall, by_order = shapley(game, 6, seed), marginals(game, (2,), 6, seed)
        errors.append([(overall.mean_N - phi) ** 2, (by_order.mean_NO[:, 0] - phi_2) ** 2])
        claims.append([overall.se_N**2, by_order.se_NO[:, 0] ** 2])
    ratio = np.mean(claims, axis=(0, 2)) / np.mean(errors, axis=(0, 2))
    # even if the 6 players said the same, the ratio of these means would have a standard error of
    # sqrt(2/400 + 2/2000) = 0.08: 0.32 is 4 of them, with probability 1e-4
    np.testing.assert_allclose(ratio, 1, atol=0.32)


def test_the_ends_are_exact():
    game = random_game(8)
    record = marginals(game, (0, 7), 3)
    expected = game.marginals()[:, [0, 7]]
    np.testing.assert_allclose(record.replicates_RNO, np.tile(expected, (3, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(record.se_NO, 0, atol=1e-12)
    assert record.forwards == 2 + 8 + 8


# Work and keys


def test_no_coalition_is_asked_for_twice(counting):
    for run in (lambda game: shapley(game, 20), lambda game: marginals(game, range(8), 20)):
        game = counting(GAMES[2])
        record = run(game)
        asked = torch.cat(game.asked)
        assert len(torch.unique(asked, dim=0)) == len(asked) == record.forwards
        assert record.forwards <= 256


def test_forwards_are_what_the_docstrings_say():
    game = ix.toy.SizeGame(64, float)
    assert 2 * 61 * 3 < shapley(game, 3).forwards <= 2 * 63 * 3 + 2
    # sizes 0 and 64 once, 1 and 63 once for each player, 20, 21 and 22 on every ring
    assert marginals(game, (0, 20, 21, 63), 3).forwards == 2 + 2 * 64 + 3 * 3 * 64


def test_draws_are_keyed():
    def play(image, count, seed=0):
        game = ix.toy.ParityGame(8, PARITY.weights, image=image)
        return (
            marginals(game, (2, 5), count, seed).replicates_RNO,
            shapley(game, count, seed).replicates_RN,
        )

    for few, many, other_image, other_seed in zip(
        play("a", 4), play("a", 9), play("b", 4), play("a", 4, seed=1), strict=True
    ):
        np.testing.assert_array_equal(few, many[:4])
        assert not np.array_equal(few, other_image)
        assert not np.array_equal(few, other_seed)


def test_orders_do_not_change_each_other():
    together = marginals(GAMES[2], (6, 1, 3), 4)
    for o, m in enumerate((6, 1, 3)):
        alone = marginals(GAMES[2], (m,), 4)
        np.testing.assert_array_equal(
            together.replicates_RNO[:, :, o], alone.replicates_RNO[..., 0]
        )


# captum


GRID = ix.PatchGrid(2, 3)


@pytest.fixture(scope="module")
def patch_game():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(4 * 4 * 6, 3)
        )
    with torch.no_grad():
        for weights in model.parameters():
            weights *= 3  # random networks are nearly additive at their usual scale
    image = 3 * torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    return ix.PatchGame(model.double().eval(), image.double(), 1, GRID, image="cat.png")


def ask_captum(method, game, **kwargs):
    """Attributions of the patches, as captum gives them: one number for each pixel."""
    cells = torch.arange(6).reshape(2, 3).repeat_interleave(2, 0).repeat_interleave(2, 1)
    # captum 0.9 fails on an expanded mask that is not contiguous
    feature_mask = cells.expand(1, 2, 4, 6).contiguous()
    pixels = method.attribute(
        game.image_CHW[None],
        baselines=0,
        feature_mask=feature_mask,
        perturbations_per_eval=6,
        **kwargs,
    )
    return pixels[0, 0, ::2, ::2].flatten().numpy()


def forward_of(game):
    return lambda images: game.reward(game.model(images), game.label)


def test_captum_walking_the_same_permutations_agrees(patch_game):
    rows = np.random.default_rng(0).permuted(np.tile(np.arange(6), (5, 1)), axis=1)
    ours = shapley_of(patch_game, rows)
    method = ShapleyValueSampling(forward_of(patch_game))
    walks = np.concatenate([rows, rows[:, ::-1]]).tolist()
    method.permutation_generator = lambda features, samples: iter(walks)
    theirs = ask_captum(method, patch_game, n_samples=len(walks))
    assert ours.se_N.min() > 0.03  # so that other permutations would not agree
    # captum adds up in float32: 10 steps of up to 5, each sum rounded by at most 2e-6
    np.testing.assert_allclose(ours.mean_N, theirs, atol=2e-6, rtol=0)


def test_captum_walking_all_permutations_agrees_with_the_table(patch_game):
    table = exact(patch_game).shapley()
    theirs = ask_captum(CaptumShapleyValues(forward_of(patch_game)), patch_game)
    # 720 steps of up to 5 in float32: sums below 4096 are each rounded by at most 1.3e-4
    np.testing.assert_allclose(table, theirs, atol=1.3e-4, rtol=0)
    ours = shapley(patch_game, 50)
    # one of 6 t-scores of 49 degrees of freedom passes 4.2 with probability 1e-3
    assert (np.abs(ours.mean_N - table) <= 4.2 * ours.se_N).all()


# The border


def test_bad_input():
    game = GAMES[2]
    for orders in ((), (2, 2), (-1,), (0, 8)):
        with pytest.raises(ValueError, match="expected distinct orders from 0 to 7, got"):
            marginals(game, orders, 2)
    for run in (lambda count: shapley(game, count), lambda count: marginals(game, (1,), count)):
        with pytest.raises(ValueError, match="at least 2 permutations for a standard error, got 1"):
            run(1)
    with pytest.raises(ValueError, match=r"permutations \(R, 8\) .* got \(1, 8\)"):
        shapley_of(game, np.arange(8)[None])
    with pytest.raises(ValueError, match=r"permutations \(R, 8\) .* got \(2, 7\)"):
        shapley_of(game, np.tile(np.arange(7), (2, 1)))
    with pytest.raises(ValueError, match="a permutation of the players 0 to 7"):
        marginals_of(game, (1,), np.zeros((2, 8), dtype=np.int64))


def test_one_player():
    game = ix.toy.SizeGame(1, lambda k: 2.5 * k)
    assert shapley(game, 2).mean_N.tolist() == [2.5]
    assert marginals(game, (0,), 2).mean_NO.tolist() == [[2.5]]
