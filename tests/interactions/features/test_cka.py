from itertools import permutations
from math import isnan

import numpy as np
import pytest
import torch
from scipy.stats import binom

import interactions as ix
from interactions.features.cka import LinearCKA, hsic_terms


def vectors():
    """X and Y of the specification, section 3.3; indices from 1."""
    i, a, b = torch.arange(1, 9).double()[:, None], torch.arange(1, 4), torch.arange(1, 6)
    return torch.sin(0.7 * i * a) + torch.cos(0.3 * i + a), torch.sin(1.3 * i * b) + torch.cos(
        0.9 * i + b
    )


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cka(*batches):
    measured = LinearCKA()
    for x, y in batches:
        measured.update(x, y)
    return measured


def test_terms_against_the_u_statistic_by_enumeration():
    """Unbiased HSIC is the mean over distinct a, b, c, d of k_ab l_ab + k_ab l_cd - 2 k_ab l_ac."""
    x, y = (z[:6] for z in vectors())
    k, m = x @ x.T, y @ y.T
    values = [
        k[a, b] * m[a, b] + k[a, b] * m[c, d] - 2 * k[a, b] * m[a, c]
        for a, b, c, d in permutations(range(6), 4)
    ]
    assert hsic_terms(x, y)[0] == pytest.approx(float(torch.stack(values).mean()), abs=1e-14)


@pytest.mark.parametrize(("n", "widths"), [(6, (50, 70)), (60, (3, 5)), (60, (3, 400))])
def test_both_forms_of_the_terms_against_the_formula(n, widths):
    x, y = normal(n, widths[0]) + 3, normal(n, widths[1], seed=1)
    got = hsic_terms(x, y)
    for value, (a, b) in zip(got, [(x, y), (x, x), (y, y)], strict=True):
        k, m = ((z @ z.T).fill_diagonal_(0) for z in (a, b))
        one = torch.ones(n, dtype=torch.float64)
        formula = (
            (k @ m).trace()
            + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
            - 2 * (one @ k @ m @ one) / (n - 2)
        ) / (n * (n - 3))
        torch.testing.assert_close(value, formula, rtol=1e-9, atol=1e-9)


def test_cka_that_does_not_exist():
    x = normal(8, 5)
    assert isnan(cka((x, x[:1].expand(8, -1))).value)
    assert isnan(cka((x, x[:1].expand(8, -1)), (x, x[:1].expand(8, -1))).interval().low)
    with pytest.raises(ValueError, match="at least one batch of at least 4 images, got none"):
        _ = LinearCKA().value
    measured = cka((x, x))
    with pytest.warns(RuntimeWarning, match="left out a last batch of 3 images"):
        measured.update(x[:3], x[:3])
    assert len(measured.terms_B3) == 1
    with pytest.raises(ValueError, match="finite features, got NaN"):
        measured.update(x, x * torch.nan)
    with pytest.raises(ValueError, match=r"paired features .* got \(8, 5\) and \(7, 5\)"):
        measured.update(x, x[:7])
    with pytest.raises(ValueError, match="paired features"):
        measured.update(x[:0], x[:0])


def test_cka_of_all_images_is_that_of_their_equal_batches():
    generator = torch.Generator().manual_seed(3)
    x, noise = torch.randn(2, 50, 6, generator=generator)
    streamed = LinearCKA()
    for batch in (slice(0, 17), slice(17, 34), slice(34, 50)):
        streamed.update(x[batch], (x + noise)[batch])
    assert ix.cka(x, x + noise, batch=20) == streamed.interval()
    assert ix.cka(x, x).estimate == pytest.approx(1)
    with pytest.raises(ValueError, match="at least 4 images"):
        ix.cka(x[:3], noise[:3])


def test_vectors_of_the_specification():
    x, y = vectors()
    whole = cka((x, y))
    expected = [[0.49774632463904955, 3.2880532523026718, 7.3145546661890695]]
    np.testing.assert_allclose(whole.terms_B3, expected, rtol=1e-13)
    assert whole.value == pytest.approx(0.1014950111372773, abs=1e-14)
    halves = cka((x[:4], y[:4]), (x[4:], y[4:]))
    assert halves.value == pytest.approx(0.556582960442023, abs=1e-14)


def test_cka_does_not_see_rotations_scales_and_shifts():
    x, y = normal(30, 7), normal(30, 4, seed=1)
    y[:, :4] += x[:, :4]
    turn = torch.linalg.qr(normal(7, 7, seed=2))[0]
    value = cka((x, y)).value
    for other in (x @ turn, 1e-3 * x, x + 5, x.flip(1)):
        assert cka((other, y)).value == pytest.approx(value, abs=1e-13)
    assert cka((y, x)).value == pytest.approx(value, abs=1e-13)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert cka((x[order], y[order])).value == pytest.approx(value, abs=1e-13)
    assert cka((x, x)).value == 1.0


@pytest.mark.parametrize(("n", "biased", "sd"), [(64, 0.923, 0.017), (256, 0.750, 0.005)])
def test_unrelated_features_have_none(n, biased, sd):
    """The table of the specification; its standard deviations give the tolerance (4.5 of them)."""
    x, y = normal(n, 768), normal(n, 768, seed=1)
    assert abs(cka((x, y)).value) < 4.5 * sd
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    published = (x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert float(published) == pytest.approx(biased, abs=0.01)


@pytest.mark.parametrize("size", [32, 256])
def test_related_features_whatever_the_batch(size):
    """x normal, y = sqrt(0.8) x + sqrt(0.2) e: CKA 0.8 of the population."""
    x, noise = normal(2048, 64), normal(2048, 64, seed=1)
    y = 0.8**0.5 * x + 0.2**0.5 * noise
    assert cka(*zip(x.split(size), y.split(size), strict=True)).value == pytest.approx(
        0.8, abs=0.01
    )


@pytest.mark.integration
def test_intervals_cover_the_truth():
    """Of 200 intervals at 0.9 over 12 batches; the bounds fail once in 1000 runs."""
    x, noise = normal(200 * 12, 16, 8), normal(200 * 12, 16, 8, seed=1)
    y = 0.6**0.5 * x + 0.4**0.5 * noise
    covered = 0
    for run in range(200):
        batches = [(x[12 * run + b], y[12 * run + b]) for b in range(12)]
        interval = cka(*batches).interval(0.9)
        covered += interval.low < 0.6 < interval.high
    low, high = binom.ppf([0.0005, 0.9995], 200, 0.9)
    assert low <= covered <= high


def test_interval_is_the_jackknife_of_many_batches():
    x, noise = normal(200, 16, 8), normal(200, 16, 8, seed=1)
    batches = list(zip(x, x + noise, strict=True))
    measured = cka(*batches)
    leave_one_out = []
    for b in range(200):
        means = np.delete(measured.terms_B3, b, axis=0).mean(axis=0)
        leave_one_out.append(means[0] / np.sqrt(means[1] * means[2]))
    se = np.sqrt(199 / 200 * np.square(leave_one_out - np.mean(leave_one_out)).sum())
    assert measured.interval().se == pytest.approx(se, rel=0.01)
    assert abs(measured.influence_B.sum()) < 1e-10
    one = cka(batches[0]).interval()
    assert isnan(one.low)
    assert one.estimate == cka(batches[0]).value
