import numpy as np
import pytest
import torch

from interactions.orders.pairs import AdjacentPairs, AllPairs, NeighbourPairs, RandomPairs
from interactions.patches import PatchGrid
from interactions.segments import PlayerMap

GRID = PatchGrid(5, 6)


@pytest.mark.parametrize(
    "sampler",
    [
        AllPairs(),
        RandomPairs(20),
        NeighbourPairs(GRID, 2, 20),
        NeighbourPairs(GRID, 2, 20, rule="clamped"),
    ],
)
def test_pairs_are_distinct_ordered_and_keyed(sampler):
    pairs = sampler.draw(GRID.n, 0, "a")
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert pairs.min() >= 0
    assert pairs.max() < GRID.n
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    np.testing.assert_array_equal(pairs, sampler.draw(GRID.n, 0, "a"))
    if not isinstance(sampler, AllPairs):
        assert len(pairs) == 20
        assert not np.array_equal(pairs, sampler.draw(GRID.n, 0, "b"))
        assert not np.array_equal(pairs, sampler.draw(GRID.n, 1, "a"))


def test_all_pairs():
    assert len(AllPairs().draw(7, 0, "")) == 21


def test_neighbours_are_all_cells_of_the_window():
    candidates = NeighbourPairs(GRID, radius=2, count=1).candidates()
    expected = {
        (i, j)
        for i in range(30)
        for j in range(i + 1, 30)
        if abs(i // 6 - j // 6) <= 2 and abs(i % 6 - j % 6) <= 2
    }
    assert {tuple(pair) for pair in candidates.tolist()} == expected


def test_published_grid_has_2610_neighbouring_pairs():
    """Known for the 16 x 16 grid and radius 2 of the ICLR'22 protocol."""
    assert len(NeighbourPairs(PatchGrid(16, 16), 2, 1).candidates()) == 2610


def draw_many(sampler, images=3000):
    drawn = np.concatenate([sampler.draw(9, 0, str(k)) for k in range(images)])
    return {tuple(p): c for p, c in zip(*np.unique(drawn, axis=0, return_counts=True), strict=True)}


def test_uniform_law_is_uniform():
    sampler = NeighbourPairs(PatchGrid(3, 3), radius=1, count=1)
    counts = draw_many(sampler)
    assert len(counts) == 20
    expected = 3000 / 20
    chi2 = sum((c - expected) ** 2 / expected for c in counts.values())
    assert chi2 < 50  # 19 degrees of freedom: P(chi2 > 50) is about 1e-4; the draw is fixed


def test_clamped_law_has_the_published_probabilities():
    """One pair per image: P(pair) by enumeration of the rule, given that i != j."""
    sampler = NeighbourPairs(PatchGrid(3, 3), radius=1, count=1, rule="clamped")
    probability: dict[tuple[int, int], float] = {}
    offsets = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]
    for i in range(9):
        for down, right in offsets:
            row, col = min(max(i // 3 + down, 0), 2), min(max(i % 3 + right, 0), 2)
            j = 3 * row + col
            if i != j:
                pair = (min(i, j), max(i, j))
                probability[pair] = probability.get(pair, 0) + 1
    total = sum(probability.values())
    counts = draw_many(sampler)
    assert counts.keys() == probability.keys()
    expected = {pair: 3000 * weight / total for pair, weight in probability.items()}
    chi2 = sum((counts[pair] - e) ** 2 / e for pair, e in expected.items())
    assert chi2 < 50


def test_bad_arguments():
    with pytest.raises(ValueError, match="between 1 and 20 pairs per image, got 21"):
        NeighbourPairs(PatchGrid(3, 3), 1, 21).draw(9, 0, "")
    with pytest.raises(ValueError, match="between 1 and 20 pairs per image, got 21"):
        NeighbourPairs(PatchGrid(3, 3), 1, 21, rule="clamped").draw(9, 0, "")
    with pytest.raises(ValueError, match="between 1 and 3 pairs"):
        RandomPairs(0).draw(3, 0, "")
    with pytest.raises(ValueError, match="grid's 9 players, got 8"):
        NeighbourPairs(PatchGrid(3, 3), 1, 1).draw(8, 0, "")
    with pytest.raises(ValueError, match="at least 1 for radius"):
        NeighbourPairs(GRID, radius=0)
    with pytest.raises(ValueError, match="'uniform' or 'clamped'"):
        NeighbourPairs(GRID, rule="lattice")


def grid_map(rows, cols, p, q):
    """The map that says the same as a grid with cells of p x q pixels."""
    cells = torch.arange(rows * cols).reshape(rows, cols)
    return PlayerMap(cells.repeat_interleave(p, dim=0).repeat_interleave(q, dim=1))


def test_adjacent_pairs_are_keyed_distinct_and_uniform():
    players = grid_map(3, 3, 1, 1)
    sampler = AdjacentPairs({str(k): players for k in range(3000)}, 4)
    drawn = sampler.draw(9, 0, "0")
    assert drawn.shape == (4, 2)
    assert len(np.unique(drawn, axis=0)) == 4
    np.testing.assert_array_equal(sampler.draw(9, 0, "0"), drawn)
    assert not np.array_equal(sampler.draw(9, 1, "0"), drawn)
    single = AdjacentPairs(sampler.maps, 1)
    pairs = np.concatenate([single.draw(9, 0, str(k)) for k in range(3000)])
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    np.testing.assert_array_equal(kinds, players.neighbours())
    chi2 = ((counts - 250) ** 2 / 250).sum()
    assert chi2 < 37  # 11 degrees of freedom: P(chi2 > 37) is about 1e-4; the draw is fixed


def test_bad_pairs_name_the_image():
    sampler = AdjacentPairs({"a": grid_map(3, 3, 1, 1)}, 13)
    with pytest.raises(ValueError, match=r"image a: .* between 1 and 12 pairs per image, got 13"):
        sampler.draw(9, 0, "a")
    with pytest.raises(
        ValueError, match="image a: expected a game over the map's 9 players, got 8"
    ):
        sampler.draw(8, 0, "a")
    with pytest.raises(ValueError, match="image b: expected a map of its players"):
        sampler.draw(9, 0, "b")
