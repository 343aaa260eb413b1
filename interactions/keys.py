"""Random numbers that depend on a key and on nothing else.

A draw is named by what it is for, for example ``("context", seed, image, i, j)``, and always gives
the same numbers: on any machine, in any batch, in any order, in any process. Two models measured
with the same seed therefore see the same pairs, contexts and masks, and a resumed or sharded run
cannot differ from an uninterrupted one.

The generator is NumPy's counter-based Philox (Salmon et al., SC 2011), keyed by a BLAKE2 hash of
the name. Only its raw 64-bit words are used, because NumPy guarantees those across versions and
does not guarantee the output of ``Generator.permutation``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

Key = str | int


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


@contextmanager
def torch_seeded(seed: int) -> Iterator[None]:
    """Let torch draw from this seed on the CPU; afterwards it goes on from where it was.

    For what draws from the global generator, such as initial weights. The generators of other
    devices stay as they are and are not asked, since that would take memory on each of them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
