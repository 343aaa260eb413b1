from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import interactions as ix
from experiments import bench_estimator as module
from experiments.bench_estimator import (
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
    yield case
    for cached in (module.trained, module._table, module.equal_error):
        cached.cache_clear()


def test_the_exact_J_is_that_of_all_contexts(tables):
    """The truth from the tables, and the estimator where nothing is random."""
    everything = ix.Design(ix.NeighbourPairs(GRID, count=36), ix.AllContexts())
    records = ix.measure(tables, everything)
    for estimator, rms in (("plug_in", False), ("rms", True)):
        expected = ix.strength(records, estimator).J
        np.testing.assert_allclose(exact_J(tables, GRID, rms=rms), expected, rtol=1e-12)


def test_a_design_without_chance_has_no_error(tables):
    everything = ix.Design(ix.NeighbourPairs(GRID, count=36), ix.AllContexts())
    found = measured(tables, everything, "plug_in", exact_J(tables, GRID), range(2))
    assert found.rmse < 1e-12
    assert found.pairs == 36
    assert found.forwards == 2**9  # every coalition, once


def test_more_pairs_have_less_error_and_need_more_forwards(tables):
    truth_O = exact_J(tables, GRID)
    few, many = (
        measured(tables, our_design(GRID, pairs), "jackknife", truth_O, range(20))
        for pairs in (2, 30)
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


def test_an_interval_covers_what_lies_between_its_ends(tables):
    strengths = [resampled(tables, our_design(GRID, 3), images=8, repeat=k) for k in range(3)]
    assert covered(strengths, np.ones(len(strengths[0].J))).shape == (3, len(strengths[0].J))
    for strength in strengths:
        low_O, high_O = np.array([(i.low, i.high) for i in strength.intervals()]).T
        for ends_O, sign in ((low_O, -1), (high_O, 1)):
            assert covered([strength], ends_O).all()
            assert not covered([strength], ends_O + sign * 1e-9).any()


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
    """Estimators are compared, not laws of pairs."""
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
