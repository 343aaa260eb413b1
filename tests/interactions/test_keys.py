import hashlib

import numpy as np
import pytest
import torch

from interactions.keys import permutation, raw_words, torch_seeded


def test_same_key_same_words_and_other_key_other_words():
    np.testing.assert_array_equal(raw_words(5, "a", 1), raw_words(5, "a", 1))
    keys = [("a", 1), ("a", "1"), ("a1",), ("a", 1, 0), (1, "a"), ("ab", "c"), ("a", "bc")]
    firsts = {int(raw_words(1, *key)[0]) for key in keys}
    assert len(firsts) == len(keys)


def test_a_longer_draw_begins_with_the_shorter():
    np.testing.assert_array_equal(raw_words(9, "x")[:4], raw_words(4, "x"))


def philox_4x64_10(key: int, counter: int) -> list[int]:
    """Philox written down a second time, from the paper (Salmon et al., SC 2011, table 2)."""
    word = (1 << 64) - 1
    k0, k1 = key & word, key >> 64
    x = [(counter >> (64 * i)) & word for i in range(4)]
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
        x = [(p1 >> 64) ^ x[1] ^ k0, p1 & word, (p0 >> 64) ^ x[3] ^ k1, p0 & word]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & word, (k1 + 0xBB67AE8584CAA73B) & word
    return x


def test_words_are_philox_of_the_hashed_name():
    digest = hashlib.blake2b(b"str:4:seed;int:1:0;", digest_size=16).digest()
    expected = philox_4x64_10(int.from_bytes(digest, "little"), counter=1)
    assert raw_words(4, "seed", 0).tolist() == expected
    # and the first words as numbers, so that no later change of both goes unseen
    assert raw_words(2, "seed", 0).tolist() == [9900330600221758290, 14052220074611099177]


def test_permutations_are_uniform():
    n, draws = 5, 4000
    places = np.array([permutation(n, "uniform", k) for k in range(draws)])
    assert (np.sort(places, axis=1) == np.arange(n)).all()
    counts = np.array([np.bincount(column, minlength=n) for column in places.T])
    chi2 = ((counts - draws / n) ** 2 / (draws / n)).sum()
    assert chi2 < 45  # 16 degrees of freedom: P(chi2 > 45) is about 1e-4; the draw is fixed


@pytest.mark.parametrize("count", [0, 1])
def test_small_counts(count):
    assert raw_words(count, "x").shape == (count,)


def test_torch_draws_from_a_seed_and_then_goes_on(monkeypatch):
    def asked(*_):
        raise AssertionError("another device's generator was asked")

    # On a machine with several accelerators a fork without a list asks all of them.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", asked)
    torch.manual_seed(5)
    first, second = torch.rand(3), torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), first)
    with torch_seeded(5):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.rand(3), second)
