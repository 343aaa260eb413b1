import hashlib
from itertools import islice

import numpy as np
import pytest
import torch

from interactions.keys import hashed_words, permutation, raw_words, torch_seeded


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


def splitmix64(state):
    """Written down a second time, from the paper (Steele, Lea & Flood, OOPSLA 2014)."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        yield z ^ (z >> 31)


NUMBERS = [0, 1, 2, 12345, 2**40 + 7, 2**63 - 1, -1, -(2**63)]


@pytest.mark.parametrize("seed", [0, 1, 987654321, 2**63 - 1, -(2**63)])
def test_hashed_words_are_splitmix64_of_a_hashed_start(seed):
    words = hashed_words(5, seed, torch.tensor(NUMBERS))
    assert words.dtype == torch.int64
    for row, number in zip(words.tolist(), NUMBERS, strict=True):
        start = next(splitmix64(seed + (number - 1) * 0x9E3779B97F4A7C15))
        assert [word % 2**64 for word in row] == list(islice(splitmix64(start), 5))


def test_the_second_splitmix64_is_the_published_one():
    """The stream of state 1234567, as the test vectors of its implementations have it."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert list(islice(splitmix64(1234567), 3)) == expected


def test_a_hashed_word_depends_on_its_seed_number_and_place_alone():
    numbers = torch.arange(100)
    words = hashed_words(7, 3, numbers)
    some = torch.tensor([70, 3, 3, 99])
    assert torch.equal(hashed_words(4, 3, some), words[some, :4])
    assert hashed_words(0, 3, numbers).shape == (100, 0)
    everything = torch.cat([hashed_words(7, seed, numbers) for seed in range(20)])
    assert len(everything.unique()) == everything.numel()


def test_every_bit_of_hashed_words_is_fair():
    """Over images and steps that follow each other; of all 64 bits, the worst by Bonferroni."""
    for words in (
        hashed_words(4, 5, torch.arange(2_000)),
        torch.cat([hashed_words(4, seed, torch.tensor([5])) for seed in range(2_000)]),
    ):
        bits = (words[..., None] >> torch.arange(64)) & 1
        deviation = (bits.double().mean(dim=0) - 0.5) / (0.5 / 2_000**0.5)
        # 256 normal numbers: P(|z| > 5.1) is 3.4e-7 for one, 1e-4 for any
        assert deviation.abs().max() < 5.1


@pytest.mark.gpu
def test_hashed_words_are_the_same_on_an_accelerator():
    numbers = torch.tensor(NUMBERS)
    for seed in (0, 2**63 - 1, -(2**63)):
        there = hashed_words(50, seed, numbers.cuda())
        assert torch.equal(there.cpu(), hashed_words(50, seed, numbers))


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
