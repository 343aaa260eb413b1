"""The published draws against a straight re-enactment with the global generators.

The re-enactment follows the rule on top of ``interactions/orders/published.py`` in plain loops and
shares no code with it. Neither it nor the numbers below are taken from published files of pairs or
contexts: none were at hand.
"""

import random
from contextlib import contextmanager

import numpy as np
import pytest

import interactions as ix
from interactions.orders import estimator
from interactions.orders.estimator import measure_one
from interactions.orders.published import PublishedContexts, PublishedPairs, protocol


@contextmanager
def untouched_generators():
    """Give the global generators back as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def same_generator_states(one, two):
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def seed_everything(seed):
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


def reenacted_pairs(side, count, index, seed, radius=2):
    """Pairs as tuples (i, j) in the order drawn."""
    window = []
    for down in range(-radius, radius + 1):
        for right in range(-radius, radius + 1):
            if down or right:
                window.append((down, right))
    pairs = []
    with untouched_generators():
        seed_everything(1000 * index + seed)
        while len(pairs) < count:
            row = np.random.randint(0, side)  # noqa: NPY002
            col = np.random.randint(0, side)  # noqa: NPY002
            down, right = random.choice(window)
            other_row = np.clip(row + down, 0, side - 1)
            other_col = np.clip(col + right, 0, side - 1)
            pair = (int(row * side + col), int(other_row * side + other_col))
            if pair[0] != pair[1] and pair not in pairs and pair[::-1] not in pairs:
                pairs.append(pair)
    return pairs


def reenacted_contexts(n, pairs, count, order, index, seed):
    """For each pair a list of ``count`` contexts, each the list of its players as drawn."""
    contexts = []
    with untouched_generators():
        seed_everything(1000 * index + order + 1 + seed)
        for pair in pairs:
            others = [player for player in range(n) if player not in pair]
            contexts.append([])
            for _ in range(count):
                drawn = np.random.choice(others, order, replace=False)  # noqa: NPY002
                contexts[-1].append(drawn.tolist())
    return contexts


def members(contexts_PK1N):
    """For each pair and context the ascending list of its players."""
    return [[np.flatnonzero(row).tolist() for row in pair[:, 0]] for pair in contexts_PK1N]


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize("name", ["iclr22", "a2mim"])
def test_pairs_are_the_published_ones(name, seed):
    sampler = protocol(name).pairs
    for index in (0, 1, 2, 49, 499):
        drawn = sampler.draw(sampler.grid.n, seed, str(index))
        assert drawn.dtype == np.int64
        assert [tuple(pair) for pair in drawn.tolist()] == reenacted_pairs(
            sampler.grid.rows, sampler.count, index, seed
        )


@pytest.mark.parametrize(("side", "radius", "count"), [(3, 1, 20), (4, 2, 40), (5, 3, 60)])
def test_pairs_of_other_grids(side, radius, count):
    """Small grids, where most draws are clamped or repeats and have to be dropped."""
    for index in (0, 3):
        drawn = PublishedPairs(ix.PatchGrid(side, side), count, radius).draw(side**2, 5, str(index))
        assert [tuple(pair) for pair in drawn.tolist()] == reenacted_pairs(
            side, count, index, 5, radius
        )


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "index", "orders", "first"),
    [
        ("iclr22", 2, (228,), 200),
        ("iclr22", 11, (0, 12, 254), 10),  # a few pairs, for speed
        ("a2mim", 0, (0, 9, 97, 194), 50),
        ("a2mim", 1, (9, 155), 50),
        ("a2mim", 99, (184,), 50),
    ],
)
def test_contexts_are_the_published_ones(name, index, orders, first):
    design = protocol(name)
    n = design.pairs.grid.n
    pairs = design.pairs.draw(n, design.seed, str(index))[:first]
    library = design.contexts.draw(n, pairs, orders, design.seed, str(index))
    for order, contexts in zip(orders, library, strict=True):
        replicates = design.contexts.replicates
        drawn = reenacted_contexts(n, pairs.tolist(), replicates, order, index, design.seed)
        expected = np.zeros((len(pairs), replicates, 1, n), dtype=bool)
        for p, of_pair in enumerate(drawn):
            for k, players in enumerate(of_pair):
                expected[p, k, 0, players] = True
        assert contexts.dtype == bool
        np.testing.assert_array_equal(contexts, expected)


def test_first_draws_as_numbers():
    """Fixed numbers, so that a change of ``RandomState`` or ``random.choice`` is seen.

    Printed by ``reenacted_pairs`` and ``reenacted_contexts`` above with Python 3.9.18 and NumPy
    1.19.5, the versions that the ICLR'22 repository names. Python 3.8, 3.11 and 3.13 with NumPy
    1.21.6, 1.23.5 and 2.4.6 printed the same.
    """
    iclr, a2mim = protocol("iclr22"), protocol("a2mim")
    first_pairs = {
        (iclr, "0"): [[80, 82], [59, 26], [55, 40], [147, 163]],
        (iclr, "7"): [[29, 27], [249, 216], [31, 29], [117, 135]],
        (a2mim, "0"): [[81, 55], [176, 192], [137, 109], [70, 57]],
        (a2mim, "99"): [[6, 8], [46, 18], [153, 167], [118, 146]],
    }
    for (design, image), expected in first_pairs.items():
        drawn = design.pairs.draw(design.pairs.grid.n, design.seed, image)
        assert drawn[:4].tolist() == expected

    # Image 0, the first two contexts of the first pair at m = 12.
    first = np.array(first_pairs[iclr, "0"][:1])
    (contexts,) = iclr.contexts.draw(256, first, (12,), 0, "0")
    assert members(contexts)[0][:2] == [
        [92, 133, 144, 153, 154, 157, 160, 197, 203, 215, 221, 234],
        [0, 7, 33, 76, 98, 136, 148, 149, 191, 205, 223, 253],
    ]
    # Image 0, the last context of the first and of the last pair at m = 9.
    (contexts,) = a2mim.contexts.draw(196, a2mim.pairs.draw(196, 1, "0"), (9,), 1, "0")
    assert members(contexts[[0, -1], -1:]) == [
        [[3, 15, 61, 67, 72, 78, 101, 184, 188]],
        [[15, 25, 34, 48, 77, 82, 108, 140, 156]],
    ]


@pytest.mark.parametrize(
    ("name", "players", "pairs", "contexts", "seed"),
    [("iclr22", 256, 200, 100, 0), ("a2mim", 196, 50, 50, 1)],
)
def test_published_sizes(name, players, pairs, contexts, seed):
    design = protocol(name)
    assert design.seed == seed
    assert design.ratios == ix.PUBLISHED_RATIOS
    assert design.contexts.replicates == contexts
    drawn = design.pairs.draw(players, seed, "0")
    assert drawn.shape == (pairs, 2)
    assert len({frozenset(pair) for pair in drawn.tolist()}) == pairs
    assert (drawn[:, 0] > drawn[:, 1]).any()  # kept in the order drawn
    rows, cols = np.divmod(drawn, design.pairs.grid.cols)
    assert np.abs(np.diff(rows)).max() == np.abs(np.diff(cols)).max() == 2
    (first,) = design.contexts.draw(players, drawn[:3], (40,), seed, "0")
    assert first.shape == (3, contexts, 1, players)
    assert (first.sum(axis=3) == 40).all()
    for p, pair in enumerate(drawn[:3]):
        assert not first[p, :, 0, pair].any()


def test_all_neighbouring_pairs_can_be_asked_for():
    grid = ix.PatchGrid(4, 4)
    candidates = ix.NeighbourPairs(grid).candidates()
    drawn = PublishedPairs(grid, len(candidates)).draw(16, 0, "0")
    assert sorted(map(sorted, drawn.tolist())) == sorted(candidates.tolist())


SMALL = PublishedPairs(ix.PatchGrid(4, 4), 9)


def test_a_context_depends_on_its_own_pair_and_order_only():
    """However pairs and orders are divided: the estimator goes through the pairs in chunks."""
    pairs, orders = SMALL.draw(16, 0, "3"), (0, 3, 9, 14)
    sampler = PublishedContexts(SMALL, 5)
    together = list(sampler.draw(16, pairs, orders, 0, "3"))
    for some in ([4], [8, 2], [6, 7, 8], range(8, -1, -1)):
        for given in (pairs[some], pairs[some, ::-1]):  # (i, j) and (j, i) are one pair
            for order, contexts in zip(orders, together, strict=True):
                np.testing.assert_array_equal(
                    contexts[some], *sampler.draw(16, given, (order,), 0, "3")
                )


@pytest.mark.parametrize("limit", [1, 20_000])
def test_chunks_of_the_estimator_change_nothing(monkeypatch, limit):
    game = ix.toy.ParityGame(16, {frozenset({0, 1, 2, 4, 5}): 1.0}, image="3")
    design = ix.Design(SMALL, PublishedContexts(SMALL, 5))
    reference = measure_one(game, design)
    monkeypatch.setattr(estimator, "CHUNK_BYTES", limit)
    chunked = measure_one(game, design)
    np.testing.assert_array_equal(chunked.replicates_PRO, reference.replicates_PRO)


def test_global_generators_are_left_alone():
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    list(PublishedContexts(SMALL, 5).draw(16, SMALL.draw(16, 0, "3"), (3,), 0, "3"))
    assert same_generator_states(np.random.get_state(), numpy_state)  # noqa: NPY002
    assert random.getstate() == python_state


def test_measuring_is_the_published_arithmetic():
    """A small run of the protocol against a loop over the re-enacted draws."""
    side, count, replicates, index = 4, 5, 6, 3
    rng = np.random.default_rng(0)
    game = ix.toy.DividendGame(
        16,
        {frozenset(rng.choice(16, 3, replace=False).tolist()): float(k) for k in range(1, 40)},
        image=str(index),
    )
    sampler = PublishedPairs(ix.PatchGrid(side, side), count)
    design = ix.Design(sampler, PublishedContexts(sampler, replicates), seed=1)
    record = measure_one(game, design)

    def value(team):
        return sum(a for part, a in game.dividends.items() if part <= team)

    pairs = reenacted_pairs(side, count, index, 1)
    assert record.pairs_P2.tolist() == [list(pair) for pair in pairs]
    for o, order in enumerate(record.orders_O.tolist()):
        drawn = reenacted_contexts(side**2, pairs, replicates, order, index, 1)
        for p, (i, j) in enumerate(pairs):
            deltas = []
            for context in drawn[p]:
                s = frozenset(context)
                deltas.append(value(s | {i, j}) - value(s | {i}) - value(s | {j}) + value(s))
            np.testing.assert_allclose(record.replicates_PRO[p, :, o], deltas, atol=1e-12)


@pytest.mark.parametrize("image", ["cat.png", "", "-1", "1.0", "007", "+7", " 7", "1_000", "٣"])
def test_images_have_to_be_named_by_their_index(image):
    with pytest.raises(ValueError, match="expected an image named '0', '1', '2'"):
        protocol("a2mim").pairs.draw(196, 1, image)
    with pytest.raises(ValueError, match="expected an image named '0', '1', '2'"):
        list(PublishedContexts(SMALL, 2).draw(16, np.array([[0, 1]]), (3,), 1, image))


def test_seeds_have_to_fit_the_generators():
    assert SMALL.draw(16, 2**32 - 1, "0").shape == (9, 2)
    with pytest.raises(ValueError, match=r"between 0 and 2\*\*32 - 1, got -1 for image '0'"):
        SMALL.draw(16, -1, "0")
    with pytest.raises(ValueError, match=r"between 0 and 2\*\*32 - 1, got 4294968000"):
        SMALL.draw(16, 0, "4294968")


def test_unknown_names_and_bad_arguments():
    with pytest.raises(ValueError, match=r"\['a2mim', 'iclr22'\], got 'iclr23'"):
        protocol("iclr23")
    with pytest.raises(ValueError, match="square grid, got 4 x 5"):
        PublishedPairs(ix.PatchGrid(4, 5), 10)
    with pytest.raises(ValueError, match="between 1 and 20 pairs per image, got 21"):
        PublishedPairs(ix.PatchGrid(3, 3), 21, radius=1)
    with pytest.raises(ValueError, match="between 1 and 20 pairs per image, got 0"):
        PublishedPairs(ix.PatchGrid(3, 3), 0, radius=1)
    with pytest.raises(ValueError, match="at least 1 for radius"):
        PublishedPairs(ix.PatchGrid(3, 3), 2, radius=0)
    with pytest.raises(ValueError, match="grid's 196 players, got 256"):
        protocol("a2mim").pairs.draw(256, 1, "0")
    with pytest.raises(ValueError, match="at least 1 of replicates, got 0"):
        PublishedContexts(SMALL, 0)
    with pytest.raises(ValueError, match=r"among the 9 published ones of image 3, got \(0, 15\)"):
        list(PublishedContexts(SMALL, 2).draw(16, np.array([[0, 15]]), (3,), 0, "3"))
