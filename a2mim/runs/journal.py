"""What was measured of one network so far, kept on the disk: to go on from, and to spare memory.

Two files: rows of images, a line appended to the other, and the state behind the last batch. The
state knows how long the file of rows was, so that a batch is in both or in none.
"""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from a2mim.files import write_arrays
from interactions.features.invariance import State

_LENGTH = "length of the rows"


class Journal:
    """A journal, with what an interrupted run has left in it.

    Args:
        folder: where its files lie.
        name: what they are called.

    Attributes:
        state: behind the last batch that is in it; None before the first.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._file, self._rows = folder / f"{name}.npz", folder / f"{name}.images"
        self.state: State | None = None
        self._length = 0
        if self._file.exists():
            with np.load(self._file, allow_pickle=False) as arrays:
                state = dict(arrays)
            length = int(state.pop(_LENGTH))
            if self._rows.exists() and self._rows.stat().st_size >= length:
                self.state, self._length = state, length
        with self._rows.open("ab") as rows:
            rows.truncate(self._length)

    def add(self, state: State, of_images: pd.DataFrame) -> None:
        """Note a batch.

        Args:
            state: behind it.
            of_images: the rows of its images; written image by image.
        """
        in_order = np.argsort(pd.factorize(of_images["image"])[0], kind="stable")
        text = of_images.iloc[in_order].to_csv(
            index=False, header=not self._length, float_format="%.8g", lineterminator="\n"
        )
        with self._rows.open("ab") as rows:
            rows.write(text.encode())
        self._length += len(text.encode())
        write_arrays(self._file, {**state, _LENGTH: np.array(self._length)})

    def finish(self, path: Path) -> None:
        """Put the rows, images by name and compressed, where they belong; remove the journal."""
        partial = path.with_name(path.name + ".partial")
        with (
            self._rows.open("rb") as rows,
            partial.open("wb") as file,
            # without a name and a time the same rows are the same bytes
            gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
        ):
            blocks = _blocks(rows)
            header = next(blocks)
            for _, start, end in [header, *sorted(blocks, key=itemgetter(0))]:
                rows.seek(start)
                packed.write(rows.read(end - start))
        os.replace(partial, path)
        self._rows.unlink()
        self._file.unlink()


def _blocks(rows: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """The header, then neighbouring rows of one image: its name, and where they begin and end."""
    end = 0

    def lines() -> Iterator[str]:
        nonlocal end
        for line in rows:
            end += len(line)
            yield line.decode()

    # Not every line is a row: a name may have a line break in it.
    reader = csv.reader(lines())
    yield next(reader)[0], 0, end
    name, start, done = None, end, end
    for row in reader:
        if row[0] != name:
            if name is not None:
                yield name, start, done
            name, start = row[0], done
        done = end
    if name is not None:
        yield name, start, done
