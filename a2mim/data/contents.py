"""Hashes of images by what is in them: other images under the same names have another one.

Whatever a folder is called and wherever it lies, the same files have the same hash; times count for
nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

IN_FULL = 2 << 30
"""Bytes that are read of a set of files, at most: of a larger one, the beginning of every file."""

LEAST = 4096
"""Bytes of a file that are read in any case."""

THREADS = 8
BLOCK = 1 << 20


def hash_files(files: Sequence[Path], names: Iterable[str]) -> str:
    """A hash of names, sizes and bytes of files, in their order.

    All bytes count, unless they are more than :data:`IN_FULL`: then those at the beginning of every
    file do, as many as make so much in all.

    A file that cannot be read counts as such: training puts up with a few of them.

    Args:
        files: where they are.
        names: what they are called.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = list(pool.map(_size, files))
        limit = None if sum(sizes) <= IN_FULL else max(IN_FULL // len(sizes), LEAST)
        hashes = list(pool.map(partial(_hash, limit=limit), files))
    return hash_of(*zip(names, sizes, hashes, strict=True))


def hash_of(*parts: object) -> str:
    """A hash of anything that ``repr`` tells apart; of bytes, of all of them."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _hash(file: Path, limit: int | None) -> str:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with file.open("rb") as opened:
            if limit is not None:
                digest.update(opened.read(limit))
            else:
                while block := opened.read(BLOCK):
                    digest.update(block)
    except OSError:
        return "unreadable"
    return digest.hexdigest()
