"""Hashes of images by what is in them: other images under the same names have another one.

Whatever a folder is called and wherever it lies, the same files have the same hash; times count for
nothing. All bytes of all files count.

The files of a large set are read once: their hashes are remembered in ``contents.sqlite``, in the
folder ``a2mim`` of ``$XDG_CACHE_HOME`` (``~/.cache``). A file is read again if its size, its inode
or one of its times of change is another; the time of the last change of the inode is one of them,
which no program sets back. Where nothing can be remembered, all is read each time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

REMEMBERED = 256 << 20
"""Bytes of a set of files from which on their hashes are remembered."""

AT_ONCE = 1 << 30
"""Bytes that are read between two looks at what is remembered: what another process, one of the
same run, has read meanwhile is not read again."""

PATIENCE = 3600
"""Seconds that a process waits for another that reads."""

RACY = 2_000_000_000
"""Nanoseconds: a file that changed so lately may change again at a time that looks the same."""

UNREADABLE = "unreadable"
"""Instead of the hash of a file that cannot be read."""

LOG = logging.getLogger(__name__)
THREADS = 8
BLOCK = 1 << 20

State = tuple[int, int, int, int]
"""Of a file: size, inode, and the times of change of bytes and inode, in nanoseconds."""


def hash_files(files: Sequence[Path], names: Iterable[str]) -> str:
    """A hash of names, sizes and bytes of files, in their order.

    A file that cannot be read counts as such: training puts up with a few of them.

    Args:
        files: where they are.
        names: what they are called.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        states = list(pool.map(_state, files))
        sizes = [0 if state is None else state[0] for state in states]
        if sum(sizes) < REMEMBERED:
            hashes = list(pool.map(_hash, files))
        else:
            hashes = _remembered(files, states, pool)
    return hash_of(*zip(names, sizes, hashes, strict=True))


def file_hashes(files: Sequence[Path]) -> list[str]:
    """A hash of the bytes of each file; :data:`UNREADABLE` for one that cannot be read."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(_hash, files))


def file_sizes(files: Sequence[Path]) -> list[int]:
    """The bytes of each file; 0 for one that is not there."""
    with ThreadPoolExecutor(THREADS) as pool:
        return [0 if state is None else state[0] for state in pool.map(_state, files)]


def hash_of(*parts: object) -> str:
    """A hash of anything that ``repr`` tells apart; of bytes, of all of them."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()


def memory() -> Path:
    """The file of remembered hashes."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "a2mim" / "contents.sqlite"


def _remembered(
    files: Sequence[Path], states: Sequence[State | None], pool: ThreadPoolExecutor
) -> list[str]:
    """Hashes of files, read where they are not remembered."""
    try:
        memory().parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(memory(), PATIENCE, isolation_level=None)) as known:
            known.execute(
                "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, state TEXT, hash TEXT)"
            )
            hashes = []
            for part in _parts(states):
                known.execute("BEGIN IMMEDIATE")  # one process reads, the others wait
                hashes += _of_part(files[part], states[part], known, pool)
                known.execute("COMMIT")
            return hashes
    except (OSError, sqlite3.Error):  # a home that cannot be written, or whose files have no locks
        return list(pool.map(_hash, files))


def _parts(states: Sequence[State | None]) -> Iterator[slice]:
    """Neighbouring files of about :data:`AT_ONCE` bytes."""
    start = size = 0
    for k, state in enumerate(states):
        size += 0 if state is None else state[0]
        if size >= AT_ONCE:
            yield slice(start, k + 1)
            start, size = k + 1, 0
    yield slice(start, len(states))


def _of_part(
    files: Sequence[Path],
    states: Sequence[State | None],
    known: sqlite3.Connection,
    pool: ThreadPoolExecutor,
) -> list[str]:
    paths = [os.fsencode(os.path.abspath(file)).hex() for file in files]  # names need not be text
    found = [
        known.execute("SELECT state, hash FROM files WHERE path = ?", (path,)).fetchone()
        for path in paths
    ]
    hashes = [
        row[1] if row is not None and row[0] == repr(state) else None
        for row, state in zip(found, states, strict=True)
    ]
    missing = [k for k, one in enumerate(hashes) if one is None]
    size = sum(state[0] for k in missing if (state := states[k]) is not None)
    if size >= REMEMBERED:
        LOG.warning(f"reading {size / 1e9:.1f} GB of files, once, to know their contents by")
    now = time.time_ns()
    for k, one in zip(missing, pool.map(_hash, [files[k] for k in missing]), strict=True):
        hashes[k], state = one, states[k]
        # Nothing is remembered of a file that changes while it is read, or that might.
        still = state is not None and max(state[2:]) < now - RACY and _state(files[k]) == state
        if still and one != UNREADABLE:
            known.execute("REPLACE INTO files VALUES (?, ?, ?)", (paths[k], repr(state), one))
    return [one for one in hashes if one is not None]


def _state(file: Path) -> State | None:
    """What tells that a file is as it was; None if it cannot be said."""
    try:
        found = file.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _hash(file: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with file.open("rb") as opened:
            while block := opened.read(BLOCK):
                digest.update(block)
    except OSError:
        return UNREADABLE
    return digest.hexdigest()
