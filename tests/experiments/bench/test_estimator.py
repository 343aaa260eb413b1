from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

import interactions as ix
from experiments.bench import estimator as module
from experiments.bench.estimator import (
    CASES,
    Case,
    EqualError,
    Measured,
    covered,
    crossing,
    exact_J,
    measured,
    our_design,
    published_design,
    published_forwards,
    relative_rmse,
    resampled,
)

GRID = ix.PatchGrid(3, 3)


@pytest.fixture(scope="module")
def tables():
    """Three games of 9 players with interactions of all orders."""
    return [
        ix.ExactGame(9, np.random.default_rng(k).normal(size=2**9), image=f"image {k}")
        for k in range(3)
    ]


@pytest.fixture
def tiny(monkeypatch):
    """A case that takes next to no time."""

    def build():
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 10))

    case = Case(build, size=8, steps=5, lr=1e-2, tabulated=3, compared=2, pairs=3)
    monkeypatch.setitem(CASES, "tiny", case)
    monkeypatch.setattr(module, "CONTEXTS", 10)
    monkeypatch.setattr(module, "ERROR_REPEATS", 4)
    monkeypatch.setattr(module, "COVERAGE_REPEATS", 3)
    monkeypatch.setattr(module, "COVERAGE_IMAGES", 4)
    monkeypatch.setattr(module, "COVERAGE_PAIRS", 2)
    monkeypatch.setattr(module, "REAL_IMAGES", 10)
    yield case
    for cached in (module.trained, module._table, module.equal_error, module._real_repeats):
        cached.cache_clear()


@pytest.mark.parametrize("estimator", ["rms", "plug_in"])
def test_the_exact_J_is_that_of_all_contexts(tables, estimator):
    """The truth from the tables, and the estimator where nothing is random."""
    everything = ix.Design(ix.NeighbourPairs(GRID, count=36), ix.AllContexts())
    expected = ix.strength(ix.measure(tables, everything), estimator).J
    np.testing.assert_allclose(exact_J(tables, GRID, estimator), expected, rtol=1e-12)


def test_a_design_without_chance_has_no_error(tables):
    everything = ix.Design(ix.NeighbourPairs(GRID, count=36), ix.AllContexts())
    found = measured(tables, everything, "rms", exact_J(tables, GRID, "rms"), range(2))
    assert found.rmse < 1e-12
    assert found.pairs == 36
    assert found.forwards == 2**9  # every coalition, once


@pytest.mark.integration
def test_more_pairs_have_less_error_and_need_more_forwards(tables):
    truth_O = exact_J(tables, GRID, "rms")
    few, many = (
        measured(tables, our_design(GRID, pairs), "rms", truth_O, range(20)) for pairs in (2, 30)
    )
    assert few.rmse > many.rmse + 3 * (few.se + many.se)
    assert few.forwards < many.forwards <= 2**9


def test_relative_rmse_by_hand():
    truth_O = np.array([1.0, 2.0])
    # Relative errors 0.1, -0.3 and 0.2, 0.0: mean squares 0.05 and 0.02.
    J_RO = np.array([[1.1, 1.4], [1.2, 2.0]])
    rmse, se = relative_rmse(J_RO, truth_O)
    assert rmse == pytest.approx(np.sqrt(0.035))
    # The mean of 0.05 and 0.02 has the error 0.015; d sqrt(x) = dx / (2 sqrt(x)).
    assert se == pytest.approx(0.015 / (2 * np.sqrt(0.035)))
    assert relative_rmse(np.stack([truth_O, truth_O]), truth_O) == (0, 0)


def test_the_crossing_of_a_power_law_is_exact():
    costs = [100.0, 200.0, 800.0, 1600.0]
    errors = [3 * cost**-0.5 for cost in costs]
    for cost in (150.0, 800.0, 1000.0):
        assert crossing(costs, errors, 3 * cost**-0.5) == pytest.approx(cost)


@pytest.mark.parametrize("target", [0.5, 0.01])
def test_there_is_no_crossing_outside_of_what_was_measured(target):
    with pytest.raises(ValueError, match="begin above"):
        crossing([1, 2], [0.4, 0.2], target)


def strengths(count, images):
    """Strengths of two orders with energies that are gamma distributed around 1."""
    for seed in range(count):
        yield ix.Strength(
            tuple(map(str, range(images))),
            4,
            np.array([0, 2]),
            np.random.default_rng(seed).gamma(4, 1 / 4, size=(images, 2)),
            np.full(2, np.nan),
            np.zeros(2, dtype=bool),
        )


@pytest.mark.integration
def test_intervals_are_compared_with_the_truth():
    """Around 95 % of 1,000 hold a J of 1: from 92 to 97 %, and a chance of 1e-4 at either end."""
    inside_RO = covered(strengths(1000, images=30), np.ones(2))
    assert inside_RO.shape == (1000, 2)
    low, high = binom.ppf(1e-4, 1000, 0.92), binom.ppf(1 - 1e-4, 1000, 0.97)
    assert low <= inside_RO[:, 0].sum() <= high
    assert not covered(strengths(5, images=30), np.array([1.0, 50.0]))[:, 1].any()


def test_an_image_that_comes_twice_gets_draws_of_its_own(tables):
    one = [replace(tables[0], image="x")]
    strength = resampled(one, our_design(GRID, 3), images=4, repeat=1)
    assert strength.images == ("x/0", "x/1", "x/2", "x/3")
    assert len(np.unique(strength.per_image_IO[:, 3])) == 4
    again = resampled(one, our_design(GRID, 3), images=4, repeat=1)
    np.testing.assert_array_equal(strength.per_image_IO, again.per_image_IO)
    other = resampled(one, our_design(GRID, 3), images=4, repeat=2)
    assert not np.isin(strength.per_image_IO[:, 3], other.per_image_IO[:, 3]).any()


def test_images_are_drawn_with_replacement(tables):
    drawn = resampled(tables, our_design(GRID, 3), images=50, repeat=0).images
    assert {name.split("/")[0] for name in drawn} == {table.image for table in tables}


def test_published_forwards_are_counted_as_the_code_makes_them():
    # 16 players: the ratios 0 and 0.05 are one order, so 12 orders; 4 x 8 pairs x 50 contexts each.
    assert published_forwards(8) == 19_200


def test_both_designs_draw_the_same_pairs():
    """Estimators are compared, not rules for pairs."""
    ours, published = our_design(GRID, 5), published_design(GRID, 5)
    assert ours.pairs == published.pairs
    assert ours.ratios == published.ratios == ix.PUBLISHED_RATIOS


def test_equal_error_in_forwards_and_in_pairs():
    published = Measured(pairs=8, forwards=10_000, rmse=0.05, se=0.001)
    ours = tuple(Measured(pairs, 250.0 * pairs, 0.1 / np.sqrt(pairs), 0.001) for pairs in (1, 2, 8))
    found = EqualError(published, ours)
    assert found.pairs == pytest.approx(4)
    assert found.forwards == pytest.approx(1000)
    assert "published P=8 5.00%" in found.notes()[0]
    # 4 x 4 pairs x (8 contexts at 10 orders and 1 at 2) = 1312 of 19,200.
    assert "0.068" in found.notes()[1]


@pytest.mark.integration
def test_the_rows(tiny):
    row = module.forwards("f", "tiny")
    assert row.baseline == 4 * 3 * 10 * 12
    assert row.n == 4
    assert 0 < row.ratio < 3
    row = module.coverage("c", "tiny")
    assert (row.baseline, row.n) == (0.95, 3)
    assert 0 <= row.ours <= 1
    assert "m=14" in row.notes[1]
    row = module.wall("w", "tiny", repeats=1)
    assert (row.unit, row.n) == ("s", 1)
    assert 0 < row.ours < 60
    assert 0 < row.baseline < 60


@pytest.mark.integration
def test_the_rows_of_real_replicates(tiny, monkeypatch):
    monkeypatch.setattr(module, "REAL_REPEATS", 30)
    row = module.real_coverage("c")
    assert (row.baseline, row.n) == (0.95, 30)
    assert 0.6 < row.ours < 1  # the lowest of 26 shares of 30 repeats
    assert len(row.notes) == 2
    assert "8 contexts: m=0" in row.notes[0]
    row = module.false_positives("p")
    assert (row.baseline, row.n) == (0.05, 30)
    assert 0 <= row.ours < 0.3
    monkeypatch.setattr(module, "CONTEXTS", 50)
    monkeypatch.setattr(module, "ERROR_REPEATS", 20)
    row = module.real_forwards("f")
    assert row.baseline == 53 * 12 * 4 * 50 * 13
    assert 0.05 < row.ratio < 0.2
    assert "of which bias" in row.notes[0]


def test_fixed_images_and_pairs_leave_nothing_but_contexts_to_chance():
    network = module.Population(np.arange(3 * 4 * 13.0).reshape(3, 4, 1, 13))
    x = module._fixed(network, np.random.default_rng(0), 3, 4, 5)
    expected = network.replicates_IPRO[..., 0].ravel()
    np.testing.assert_array_equal(np.sort(x[:, :, 0, 0], axis=None), np.sort(expected))


def test_training_is_repeatable_and_leaves_the_global_generator_alone(tiny):
    state = torch.random.get_rng_state()
    first = module.trained("tiny")
    assert torch.equal(torch.random.get_rng_state(), state)
    module.trained.cache_clear()
    second = module.trained("tiny")
    assert first.accuracy == second.accuracy
    assert torch.equal(first.model(first.images_ICHW), second.model(second.images_ICHW))
    assert not first.model.training
    assert len(set(first.names)) == 3


@pytest.mark.parametrize("name", ["cnn16", "vit16"])
def test_the_networks_are_small_and_have_a_token_or_more_for_each_player(name):
    model = CASES[name].build()
    assert sum(p.numel() for p in model.parameters()) < 30_000
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
