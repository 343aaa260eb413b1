"""Random numbers that depend on a key and on nothing else.

A draw is named by what it is for, for example ``("context", seed, image, i, j)``, and always gives
the same numbers: on any machine, in any batch, in any order, in any process. Two models measured
with the same seed therefore see the same pairs, contexts and masks, and a resumed or sharded run
cannot differ from an uninterrupted one.

The generator is NumPy's counter-based Philox (Salmon et al., SC 2011), keyed by a BLAKE2 hash of
the name. Only its raw 64-bit words are used, because NumPy guarantees those across versions and
does not guarantee the output of ``Generator.permutation``.

Where numbers are wanted on an accelerator in every step of a training, hashing names on the CPU
takes too long; :func:`hashed_words` names a stream by two integers and runs on any device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Key = str | int

# splitmix64 (Steele, Lea & Flood, OOPSLA 2014): the golden ratio, and the mixing of Stafford's
# variant 13. As signed numbers, because torch has no uint64 arithmetic everywhere.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
MIXING = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


def raw_words(count: int, *key: Key) -> NDArray[np.uint64]:
    """The first ``count`` 64-bit words of the stream named ``key``.

    A longer draw from the same key begins with the shorter one, so asking for more replicates
    keeps those already measured.

    Args:
        count: how many words.
        key: strings and integers; ``("a", 1)`` and ``("a", "1")`` name different streams.

    Returns:
        Shape ``(count,)``.
    """
    # The type is part of the name, and the length of each part prevents ("ab", "c") == ("a", "bc").
    text = "".join(f"{type(k).__name__}:{len(str(k))}:{k};" for k in key)
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(count)


def permutation(n: int, *key: Key) -> NDArray[np.int64]:
    """A uniform permutation of ``range(n)``, the same for the same key."""
    return np.argsort(raw_words(n, *key), kind="stable")


def hashed_words(count: int, seed: int, numbers_B: Tensor) -> Tensor:
    """The first ``count`` 64-bit words of one stream for each number, on the device of the numbers.

    splitmix64, started at a hash of (seed, number):

        start_b = mix(seed + G number_b),     word_bn = mix(start_b + G (n + 1))     modulo 2^64

    It is integer arithmetic alone, so every device has the same words. A word depends on its seed,
    its number and its place: not on what else is drawn with it, nor how much.

    Args:
        count: N, how many words.
        seed: from -2^63 to 2^63 - 1; those of near steps should be hashed.
        numbers_B: int64, such as the indices of images.

    Returns:
        int64 of shape ``(B, N)``: the words as signed numbers.
    """
    start_B1 = mixed(numbers_B * GOLDEN + seed)[:, None]
    places_N = torch.arange(1, count + 1, device=numbers_B.device)
    return mixed(start_B1 + places_N * GOLDEN)


def mixed(words: Tensor) -> Tensor:
    """The mixing of splitmix64, of int64 words."""
    for shift, factor in MIXING:
        words = (words ^ _right(words, shift)) * factor
    return words ^ _right(words, 31)


def _right(words: Tensor, shift: int) -> Tensor:
    """A shift that fills with zeros; torch's own repeats the sign."""
    return (words >> shift) & ((1 << (64 - shift)) - 1)


@contextmanager
def torch_seeded(seed: int) -> Iterator[None]:
    """Let torch draw from this seed on the CPU; afterwards it goes on from where it was.

    For what draws from the global generator, such as initial weights. The generators of other
    devices stay as they are and are not asked, since that would take memory on each of them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
