import numpy as np
import pytest

import interactions as ix
from experiments.bench.resampling import (
    ORDERS_O,
    RESNET20_J,
    RESNET20_RHO,
    Population,
    energies,
    error_of,
    records_of,
    repeated,
    resnet20,
    shares,
    simulated,
    strength_of,
)


def test_the_stored_network_has_the_J_and_the_rho_of_its_measurement():
    network = resnet20()
    assert network.replicates_IPRO.shape == (53, 12, 18, 13)
    np.testing.assert_allclose(network.J_O, RESNET20_J / RESNET20_J.mean(), atol=0.006)
    variance_O = network.replicates_IPRO.var(axis=2).mean(axis=(0, 1))
    rho_O = np.sqrt(2 * variance_O / (network.exact_IPO**2).mean(axis=(0, 1)))
    np.testing.assert_allclose(rho_O, RESNET20_RHO, atol=0.06)


@pytest.mark.parametrize("network", [resnet20(), simulated()], ids=["stored", "simulated"])
def test_draws_are_as_the_truth_says(network):
    """Energies of 20,000 images have the J of the truth; so does the rho of simulated ones."""
    x = network.draw(np.random.default_rng(0), 20_000, 2, 4)
    assert x.shape == (20_000, 2, 4, 13)
    np.testing.assert_allclose(shares(energies(x).mean(axis=0)), network.J_O, rtol=0.06)
    rho_O = np.sqrt(2 * x.var(axis=2, ddof=1).mean(axis=(0, 1)) / energies(x).mean(axis=0))
    np.testing.assert_allclose(rho_O, RESNET20_RHO, rtol=0.08, atol=0.01)


def test_pairs_of_an_image_are_distinct():
    stored = np.arange(12.0)[None, :, None, None] + np.zeros((3, 12, 5, 13))
    x = Population(stored).draw(np.random.default_rng(0), 50, 12, 2)
    np.testing.assert_array_equal(np.sort(x[:, :, 0, 0], axis=1), np.tile(np.arange(12.0), (50, 1)))


def test_the_published_truth_is_the_mean_of_absolute_interactions():
    stored = np.random.default_rng(0).normal(size=(4, 3, 6, 13))
    S_O = np.abs(stored.mean(axis=2)).mean(axis=(0, 1))
    np.testing.assert_allclose(Population(stored).absolute_J_O, S_O / S_O.mean())


def test_energies_are_those_of_strength_at_any_number_of_replicates():
    x = resnet20().draw(np.random.default_rng(0), 5, 3, 8)
    np.testing.assert_allclose(strength_of(x).J, ix.strength(records_of(x)).J)
    counts_O = np.array([2, 3, 8, 4, 4, 4, 4, 4, 4, 4, 4, 4, 2])
    some = x.copy()
    for o, count in enumerate(counts_O):
        if 0 < o < 12:
            some[:, :, count:, o] = np.nan
    expected = ix.strength(records_of(some)).per_image_IO
    np.testing.assert_allclose(energies(x, counts_O), expected, atol=1e-9)
    assert strength_of(x).orders_O.tolist() == ORDERS_O.tolist()


def test_a_measurement_without_chance_is_always_right():
    """Contexts that are all the same, all pairs, and images that are alike."""
    one = Population(np.random.default_rng(0).normal(size=(1, 6, 1, 13)))
    np.testing.assert_allclose(error_of(one, 3, 6, np.full(13, 4), repeats=2), 0, atol=1e-12)


def test_repeats_are_counted():
    """Of two networks as different as these the difference is always found, and covered mostly."""
    other = Population(resnet20().replicates_IPRO * np.linspace(0.3, 3, 13))
    found = repeated(resnet20(), other, 30, 6, 4, repeats=20)
    assert found.found == 1
    assert found.J_RO.shape == (20, 13)
    assert found.J.shape == found.differences.shape == (13,)
    assert found.bands.shape == found.band_differences.shape == (3,)
    assert found.differences.mean() > 0.85
    again = repeated(resnet20(), other, 30, 6, 4, repeats=20)
    np.testing.assert_array_equal(found.J_RO, again.J_RO)
