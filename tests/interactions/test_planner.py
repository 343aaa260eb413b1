from dataclasses import replace

import numpy as np
import pytest

import interactions as ix
from interactions.planner import VarianceParts, plan, variance_parts

LOUD = np.array([1.0, 1.5])  # makes the second order vary more
SDS = {"image": 0.3, "pair": 0.8, "context": 1.5}


def simulate(images, pairs, replicates, seed):
    """Positive interactions at two orders, with known variance parts of the first one's excess.

    x = 5 + image + pair + context at order 0.5, and 5 at the ends: far from 0, so |I| is linear.
    """
    rng = np.random.default_rng(seed)
    x = (
        20
        + SDS["image"] * rng.normal(size=(images, 1, 1))
        + SDS["pair"] * rng.normal(size=(images, pairs, 1))
        + SDS["context"] * rng.normal(size=(images, pairs, replicates))
    )
    stacked = np.stack([np.full_like(x, 20.0), x], axis=3)
    return [
        ix.Interactions(
            image=str(k),
            n=10,
            pairs_P2=np.zeros((pairs, 2), dtype=np.int64),
            orders_O=np.array([0, 4]),
            replicates_PRO=y,
            per_replicate=2,
            forwards=0,
        )
        for k, y in enumerate(stacked)
    ]


def test_parts_are_found_again():
    """dJ = (x - mean over the two orders) / 20 = half of the excess / 20, at both orders."""
    parts = variance_parts(simulate(400, 10, 4, seed=0))
    for name, part in (
        ("image", parts.image_O),
        ("pair", parts.pair_O),
        ("context", parts.context_O),
    ):
        expected = (SDS[name] / 40) ** 2
        # image: 400 draws plus the noise of their 10 pairs, 4 standard errors are about 60 %
        np.testing.assert_allclose(part, expected, rtol=0.6 if name == "image" else 0.1)


@pytest.mark.parametrize("design", [(50, 5, 4), (20, 20, 8)])
def test_predicted_errors_are_the_errors_of_new_measurements(design):
    images, pairs, replicates = design
    parts = VarianceParts(
        *(np.full(2, (SDS[name] / 40) ** 2) for name in ("image", "pair", "context"))
    )
    predicted = parts.se(images, pairs, replicates)
    J = [ix.strength(simulate(*design, seed=s), "plug_in").J[1] for s in range(400)]
    # the standard error of a standard deviation over 400 repeats is 3.5 %
    assert np.std(J) == pytest.approx(predicted[1], rel=0.12)


def test_a_plan_reaches_its_precision_at_the_lowest_cost():
    pilot = simulate(100, 10, 4, seed=1)
    chosen = plan(pilot, se=0.002)
    parts = variance_parts(pilot)
    assert chosen.se_O.max() <= 0.002
    # m = 0 costs one context, order 4 costs R replicates of 2
    assert chosen.forwards == chosen.images * chosen.pairs * 4 * (1 + 2 * chosen.replicates)
    for pairs in (1, 5, 20, 100):
        for replicates in (4, 8, 16):
            needed = int(np.ceil((parts.se(1, pairs, replicates).max() / 0.002) ** 2))
            assert max(needed, 2) * pairs * 4 * (1 + 2 * replicates) >= chosen.forwards


def test_a_limit_on_images_asks_for_more_pairs():
    pilot = simulate(100, 10, 4, seed=1)
    free = plan(pilot, se=0.005)
    few = plan(pilot, se=0.005, max_images=max(free.images // 2, 2))
    assert few.images < free.images
    assert few.pairs * few.replicates > free.pairs * free.replicates
    assert few.forwards >= free.forwards


def test_a_budget_is_spent_for_the_smallest_error():
    pilot = simulate(100, 10, 4, seed=1)
    parts = variance_parts(pilot)
    chosen = plan(pilot, budget=20_000, max_images=30)
    assert chosen.forwards <= 20_000
    assert chosen.images <= 30
    for pairs in (1, 5, 20, 100):
        for replicates in (4, 8, 16):
            images = min(20_000 // (pairs * 4 * (1 + 2 * replicates)), 30)
            if images >= 2:
                assert parts.se(images, pairs, replicates).max() >= chosen.se_O.max()
    # there and back: what the budget bought costs no more than the budget
    assert plan(pilot, se=chosen.se_O.max() * 1.0001, max_images=30).forwards <= 20_000


def test_several_networks_are_planned_for_by_the_worst():
    quiet, loud = simulate(100, 10, 4, seed=1), simulate(100, 10, 4, seed=2)
    loud = [replace(r, replicates_PRO=r.replicates_PRO * LOUD) for r in loud]
    together = plan(quiet, se=0.005, others=[loud])
    assert together.forwards >= max(plan(p, se=0.005).forwards for p in (quiet, loud))
    np.testing.assert_allclose(
        together.se_O,
        np.maximum(
            *(
                variance_parts(p).se(together.images, together.pairs, together.replicates)
                for p in (quiet, loud)
            )
        ),
    )


def test_vectors_have_the_parts_of_numbers_on_a_line():
    pilot = simulate(20, 10, 4, seed=1)
    vectors = [
        replace(r, replicates_PRO=r.replicates_PRO[..., None] * np.array([0.6, -0.8]))
        for r in pilot
    ]
    numbers, lines = variance_parts(pilot), variance_parts(vectors)
    for part in ("image_O", "pair_O", "context_O"):
        np.testing.assert_allclose(getattr(lines, part), getattr(numbers, part), rtol=1e-9)


def test_bad_arguments():
    pilot = simulate(5, 3, 4, seed=0)
    for arguments in ({"se": 0}, {"budget": -1}, {}, {"se": 0.1, "budget": 100}):
        with pytest.raises(ValueError, match="a standard error or a budget above 0"):
            plan(pilot, **arguments)
    with pytest.raises(ValueError, match="costs at most 10 forwards, found none; allow more"):
        plan(pilot, budget=10)
    with pytest.raises(ValueError, match="standard error of 1e-06, found none; allow more"):
        plan(pilot, se=1e-6, max_images=10)
    with pytest.raises(ValueError, match="at least 2 images, 2 pairs and 2 replicates, got 1, 3"):
        variance_parts(pilot[:1])
