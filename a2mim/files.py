"""Files that are written whole or not at all."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

WORK_MARK = ".a2mim.json"
"""In a folder that a run works in. Its images are nobody's input."""


@contextmanager
def whole(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """The place of a file that becomes ``path`` when the context ends without an error.

    The process is part of its name, so that two that write the same file do not mix.

    Args:
        path: an earlier file there is replaced.
        sync: whether it has to be on the disk by then, so that it survives a power failure.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        if sync:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.filename is None:  # as where the disk is full
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes, *, sync: bool = False) -> None:
    """Write a file; see :func:`whole`."""
    with whole(path, sync=sync) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_first(path: Path, content: str) -> None:
    """Write a file unless it is there: of several processes, the first decides what it holds."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(content)
        os.link(partial, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        write_whole(path, content)
    finally:
        partial.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed ``.npz`` file; see :func:`whole`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_whole(path, buffer.getvalue())


def left_over(folder: Path) -> list[Path]:
    """What killed processes have left of :func:`whole` below a folder."""
    ends = (path for path in folder.rglob("*.partial") if path.is_file())
    return [path for path in ends if path.name.split(".")[-2].isdigit()]


def remove_made(folder: Path, names: str) -> None:
    """Remove the files of a folder that a run made, in depth, and the folders that it leaves empty.

    Anything else in it, somebody has put there: it stays where it is.

    Args:
        folder: one that need not be there.
        names: pattern of the whole names of files that the run made.
    """
    paths = sorted(folder.rglob("*"), reverse=True)  # what is in a folder comes before it
    for path in (*paths, folder):
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                path.rmdir()
        elif re.fullmatch(names, path.name):
            path.unlink(missing_ok=True)
