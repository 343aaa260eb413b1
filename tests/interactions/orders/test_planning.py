from dataclasses import replace

import numpy as np
import pytest

import interactions as ix
from experiments.bench.resampling import energies, error_of, records_of, resnet20, simulated
from interactions.orders.estimator import measure_one
from interactions.orders.planning import noise_of, plan


def pilot_of(source, images=400, pairs=12, replicates=8, seed=0):
    """Large, so that a plan is about the network and not about its pilot."""
    return records_of(source.draw(np.random.default_rng(seed), images, pairs, replicates))


@pytest.fixture(scope="module")
def real():
    return pilot_of(resnet20())


@pytest.fixture(scope="module")
def small():
    return pilot_of(resnet20(), images=53, replicates=4)


def total(error_O, J_O):
    return np.sqrt(((error_O / J_O) ** 2).mean())


def gaussian(shape, sds, seed):
    """Interactions far from 0 whose variance between images, pairs and contexts is known."""
    images, pairs, replicates = shape
    rng = np.random.default_rng(seed)
    x = (
        20
        + sds[0] * rng.normal(size=(images, 1, 1))
        + sds[1] * rng.normal(size=(images, pairs, 1))
        + sds[2] * rng.normal(size=(images, pairs, replicates))
    )
    stacked = np.stack([np.full_like(x, 20.0), x], axis=3)
    return [
        ix.Interactions(
            str(k), 10, np.zeros((pairs, 2), dtype=np.int64), np.array([0, 4]), y, 2, forwards=0
        )
        for k, y in enumerate(stacked)
    ]


SDS = (0.3, 0.8, 1.5)


def test_parts_are_found_again():
    """dJ = half of the excess over 20, / 20, at both orders; x^2 is linear so far from 0."""
    parts = noise_of(gaussian((400, 10, 4), SDS, seed=0)).J_parts
    for part, sd, rtol in (
        # image: 400 draws plus the noise of their 10 pairs, 4 standard errors are about 60 %
        (parts.image_O, SDS[0], 0.6),
        (parts.pair_O, SDS[1], 0.1),
        (4 * parts.context_O(np.full(2, 4.0)), SDS[2], 0.1),
    ):
        np.testing.assert_allclose(part, (sd / 40) ** 2, rtol=rtol)


def test_the_variance_of_a_u_statistic():
    """x = a + s z: z1 = a^2 s^2 and z2 = s^4, estimated from 8 replicates of 4,000 pairs."""
    a, s = 1.5, 2.0
    rng = np.random.default_rng(0)
    x = a + s * rng.normal(size=(100, 40, 8))
    pairs_P2, orders_O = np.zeros((40, 2), dtype=np.int64), np.array([0, 4])
    records = [
        ix.Interactions(str(k), 10, pairs_P2, orders_O, np.stack([0 * y + a, y], 2), 1, 0)
        for k, y in enumerate(x)
    ]
    noise = noise_of(records)
    assert noise.J_parts.one_OO[1, 1] == pytest.approx(a**2 * s**2, rel=0.06)
    assert noise.J_parts.both_OO[1, 1] == pytest.approx(s**4, rel=0.06)
    # Of the energy relative to itself; the variance of the U-statistic as it was measured.
    x = a + s * rng.normal(size=(100_000, 6))
    energy = (x.sum(axis=1) ** 2 - (x**2).sum(axis=1)) / 30
    promised = noise.energy_parts.context_O(np.array([6.0, 6.0]))[1]
    assert promised == pytest.approx(energy.var() / a**4, rel=0.1)


def test_orders_share_the_replicates_that_both_have():
    """Covariance of two orders with the same noise, 4 replicates of the one and 8 of the other."""
    rng = np.random.default_rng(1)

    def energy(x, R):
        x = x[:, :R]
        return (x.sum(axis=1) ** 2 - (x**2).sum(axis=1)) / (R * (R - 1))

    x = 1 + rng.normal(size=(200_000, 8))
    found = np.cov(energy(x, 4), energy(x, 8))[0, 1]
    assert pytest.approx(found, rel=0.03) == 4 / 8 + 2 / (8 * 7)
    # and so says the plan, whose influence on J has both energies in it
    both = np.stack([0 * x[:4000] + 1, x[:4000], x[:4000]], axis=2).reshape(100, 40, 8, 3)
    pairs_P2, orders_O = np.zeros((40, 2), dtype=np.int64), np.array([0, 3, 4])
    parts = noise_of(
        [ix.Interactions(str(k), 10, pairs_P2, orders_O, y, 1, 0) for k, y in enumerate(both)]
    ).J_parts
    E_O = np.stack([0 * energy(x, 4), energy(x, 4), energy(x, 8)])
    expected_O = (parts.influence_OO @ E_O).var(axis=1)
    np.testing.assert_allclose(parts.context_O(np.array([8.0, 4, 8])), expected_O, rtol=0.1)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("target", "budget"),
    [
        (0.1, None),
        (None, 50_000),
        (None, 200_000),
    ],
)
def test_the_promise_is_the_error_of_new_measurements(real, target, budget):
    """Designs that are chosen for a real network, measured 400 times each."""
    network = resnet20()
    chosen = plan(real, target, budget=budget, max_pairs=12, max_images=300 if budget else 10**6)
    found_O = error_of(network, chosen.images, chosen.pairs, chosen.replicates_O, repeats=400)
    assert total(found_O, network.J_O) == pytest.approx(chosen.error, rel=0.15)
    # at single orders the error of an error over 400 repeats is 4 to 6 %
    np.testing.assert_allclose(found_O, chosen.error_O, rtol=0.25)


@pytest.mark.integration
@pytest.mark.parametrize("rho", [0, 2, 5, 10])
def test_the_promise_holds_from_quiet_to_very_noisy_contexts(rho):
    """Images of a CV of 0.25; a single loud image makes what a pilot says of variances chance."""
    network = replace(simulated(rho / 3.5), spread=0.25)
    chosen = plan(pilot_of(network), budget=60_000, max_pairs=12, max_images=60)
    found_O = error_of(network, chosen.images, chosen.pairs, chosen.replicates_O, repeats=300)
    assert total(found_O, network.J_O) == pytest.approx(chosen.error, rel=0.15)


@pytest.mark.integration
def test_many_pairs_in_few_contexts_beat_one_pair_in_many(real):
    """12 pairs x 8 contexts against 1 pair x 96, the same forwards; the plan knows."""
    network, noise = resnet20(), noise_of(real)
    found, promised = [], []
    for pairs, replicates in ((12, 4), (1, 48)):
        R_O = np.full(13, float(replicates))
        promised.append(total(noise.error_O(53, pairs, R_O), network.J_O))
        found.append(total(error_of(network, 53, pairs, R_O, repeats=200), network.J_O))
    assert found[1] > 1.5 * found[0]
    np.testing.assert_allclose(promised, found, rtol=0.15)


def test_a_plan_reaches_its_target_at_the_lowest_cost(small):
    noise = noise_of(small)
    chosen = plan(small, 0.1, max_pairs=12)
    assert chosen.relative_O.max() <= 0.1
    R_O = chosen.replicates_O.astype(float)
    np.testing.assert_allclose(chosen.error_O, noise.error_O(chosen.images, chosen.pairs, R_O))
    per_image = noise.forwards_O(chosen.pairs, chosen.replicates_O).sum()
    assert chosen.forwards == chosen.images * per_image
    fewer = noise.error_O(chosen.images - 1, chosen.pairs, R_O)
    assert (fewer / chosen.J_O).max() > 0.1
    for pairs in (1, 2, 4, 8, 12):
        for replicates in (2, 4, 8, 16):
            R_O = np.full(13, float(replicates))
            images = int(np.floor((chosen.forwards - 1) / noise.forwards_O(pairs, R_O).sum()))
            assert (noise.error_O(images, pairs, R_O) / noise.J_O).max() > 0.1


def test_noisier_orders_get_more_replicates(small):
    """As many as rho asks for, and the fewest where nothing is sampled."""
    chosen = plan(small, 0.05, max_pairs=12)
    rho_O, R_O = ix.strength(small).rho_O, chosen.replicates_O
    assert R_O[0] == R_O[-1] == R_O.min()
    assert R_O[3:9].min() > R_O[[1, 11]].max()
    assert np.corrcoef(rho_O[1:-1], R_O[1:-1])[0, 1] > 0.7


def test_a_budget_is_spent_for_the_smallest_error(small):
    noise = noise_of(small)
    chosen = plan(small, budget=100_000, max_pairs=12, max_images=60)
    assert chosen.forwards <= 100_000
    assert chosen.images <= 60
    for pairs in (1, 2, 4, 8, 12):
        for replicates in (2, 4, 8, 16):
            R_O = np.full(13, float(replicates))
            images = min(int(100_000 // noise.forwards_O(pairs, R_O).sum()), 60)
            if images >= 2:
                assert total(noise.error_O(images, pairs, R_O), noise.J_O) >= chosen.error
    more = plan(small, budget=200_000, max_pairs=12, max_images=60)
    assert more.error < chosen.error


def test_a_target_and_a_budget(small):
    """The cheapest if that is within the budget, and else the most precise."""
    cheapest = plan(small, 0.1, max_pairs=4)
    within = plan(small, 0.1, budget=2 * cheapest.forwards, max_pairs=4)
    assert (within.forwards, within.error) == (cheapest.forwards, cheapest.error)
    less = cheapest.forwards // 4
    most_precise = plan(small, budget=less, max_pairs=4)
    both = plan(small, 0.1, budget=less, max_pairs=4)
    assert (both.forwards, both.error) == (most_precise.forwards, most_precise.error)


def test_a_limit_on_images_asks_for_more_pairs(small):
    free = plan(small, 0.1, max_pairs=12)
    few = plan(small, 0.1, max_pairs=12, max_images=free.images // 2)
    assert few.images <= free.images // 2
    assert few.pairs > free.pairs
    assert few.forwards >= free.forwards


@pytest.mark.integration
def test_several_networks_are_planned_for_by_the_worst(small):
    loud = pilot_of(simulated(2.0), images=53, replicates=4, seed=1)
    together = plan(small, 0.1, others=[loud], max_pairs=12)
    assert together.forwards >= max(plan(p, 0.1, max_pairs=12).forwards for p in (small, loud))
    R_O = together.replicates_O.astype(float)
    errors = []
    for noise in map(noise_of, (small, loud)):
        relative_O = noise.error_O(together.images, together.pairs, R_O) / noise.J_O
        assert relative_O.max() <= 0.1
        errors.append(np.sqrt((relative_O**2).mean()))
    assert together.error == pytest.approx(max(errors))


def test_a_design_of_a_plan_measures_what_was_planned(small):
    chosen = plan(small, budget=50_000, max_pairs=12, max_images=60)
    grid = ix.PatchGrid(8, 8)
    design = chosen.design(ix.Design(ix.NeighbourPairs(grid, count=99), seed=3))
    record = measure_one(ix.toy.SizeGame(64, float), design)
    assert design.seed == 3
    assert len(record.pairs_P2) == chosen.pairs
    found = [record.replicates(o).shape[1] for o in range(1, 12)]
    assert found == chosen.replicates_O[1:-1].tolist()
    assert record.forwards <= chosen.forwards / chosen.images
    with pytest.raises(ValueError, match="neighbouring or random pairs"):
        chosen.design(ix.Design(ix.AllPairs()))


def test_vectors_have_the_parts_of_numbers_on_a_line():
    pilot = gaussian((20, 10, 4), SDS, seed=1)
    vectors = [
        replace(r, replicates_PRO=r.replicates_PRO[..., None] * np.array([0.6, -0.8]))
        for r in pilot
    ]
    numbers, lines = noise_of(pilot), noise_of(vectors)
    R_O = np.full(2, 4.0)
    np.testing.assert_allclose(lines.error_O(9, 3, R_O), numbers.error_O(9, 3, R_O))


def test_all_contexts_leave_images_and_pairs():
    teams = {frozenset({0, 1, 2}): 0.5, frozenset({2, 3, 7}): 0.25}
    games = [ix.toy.ParityGame(8, teams, image=name) for name in "abcd"]
    design = ix.Design(ix.RandomPairs(5), ix.AllContexts(), ratios=(0.0, 0.5, 1.0))
    noise = noise_of(ix.measure(games, design))
    assert noise.exact_O.all()
    np.testing.assert_allclose(noise.J_parts.context_O(np.full(3, 4.0)), 0, atol=1e-12)
    assert (noise.error_O(4, 5, np.full(3, 4.0)) > 0).any()


def test_orders_with_more_replicates_serve_as_a_pilot(real):
    """Such as measurements with added contexts."""
    full = records_of(resnet20().draw(np.random.default_rng(2), 100, 12, 16))
    some = []
    for record in full:
        x_PRO = record.replicates_PRO.copy()
        x_PRO[:, 4:, [1, 11]] = np.nan
        some.append(replace(record, replicates_PRO=x_PRO))
    one, two = noise_of(full), noise_of(some)
    assert two.replicates_O.tolist() == [4, 4, *[16] * 9, 4, 4]
    R_O = np.full(13, 8.0)
    np.testing.assert_allclose(two.error_O(50, 12, R_O), one.error_O(50, 12, R_O), rtol=0.35)


def test_bad_arguments(small):
    bad = [{"target": 0}, {"budget": -1}, {}, {"target": 0.1, "budget": 0}, {"target": np.nan}]
    for arguments in bad:
        with pytest.raises(ValueError, match="a target or a budget above 0"):
            plan(small, **arguments)
    with pytest.raises(ValueError, match="costs at most 10 forwards, found none; allow more"):
        plan(small, budget=10)
    with pytest.raises(ValueError, match="relative error of 1e-06, found none; allow more"):
        plan(small, 1e-6, max_images=10)
    with pytest.raises(ValueError, match="at least 2 replicates, got 1"):
        plan(small, 0.1, replicates=(1, 2))
    with pytest.raises(ValueError, match="at least 2 images, 2 pairs and 4 replicates, got 1, 12"):
        noise_of(small[:1])


def test_errors_of_what_is_lost_in_noise_are_finite():
    """A pilot of 8 images at three times the worst rho: energies below 0, and still a plan."""
    for seed in range(10):
        pilot = pilot_of(simulated(3.0), images=8, pairs=2, replicates=4, seed=seed)
        assert (energies(np.stack([r.replicates_PRO for r in pilot])).mean(axis=0) < 0).any()
        chosen = plan(pilot, budget=20_000)
        assert np.isfinite(chosen.error_O).all()
        assert (chosen.error_O >= 0).all()
        assert np.isfinite(ix.spending(pilot)[["error", "from_contexts"]]).all(axis=None)
