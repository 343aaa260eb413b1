from itertools import permutations
from math import isnan

import pytest
import torch

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
