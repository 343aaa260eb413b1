"""Measured images together: a list of records with names, tables, files and strengths.

Shapes: P pairs, R replicates, O orders.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np

from interactions import plots
from interactions.orders.estimator import COLUMNS, Interactions
from interactions.orders.strength import Normalisation, Strength, strength

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FORMAT = 1
"""Of files, told by what they hold."""


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed ``.npz`` file; one that is there stays whole until the new one is."""
    partial = f"{os.fspath(path)}.{os.getpid()}.part"
    with open(partial, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    os.replace(partial, path)


class Measurements(list[Interactions]):
    """Records of :func:`interactions.measure`, one per image: a list that knows their names.

    Indexed by a number or by the name of an image; a slice gives measurements again.
    """

    @overload
    def __getitem__(self, key: SupportsIndex | str, /) -> Interactions: ...
    @overload
    def __getitem__(self, key: slice, /) -> Measurements: ...
    def __getitem__(self, key: Any, /) -> Any:
        """A record by its number or the name of its image, or several by a slice."""
        if isinstance(key, str):
            for record in self:
                if record.image == key:
                    return record
            raise KeyError(f"no image {key!r} among {len(self)}: {_some(self.images)}")
        found = super().__getitem__(key)
        return Measurements(found) if isinstance(key, slice) else found

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the images."""
        return tuple(record.image for record in self)

    @property
    def forwards(self) -> int:
        """Distinct coalitions that were evaluated, over all images."""
        return sum(record.forwards for record in self)

    def strength(
        self, estimator: str = "rms", normalise: Normalisation = "ratios", *, floor: float = 0.0
    ) -> Strength:
        """Strengths over orders; see :func:`interactions.strength`."""
        return strength(self, estimator, normalise, floor=floor)

    def plot(self, ax: Axes | None = None, *, label: str | None = None) -> Axes:
        """The curve of :meth:`strength`; see :meth:`interactions.Strength.plot`."""
        return self.strength().plot(ax, label=label)

    def to_frame(self) -> pd.DataFrame:
        """One row per image, pair and order: image, i, j, order, ratio, interaction, se.

        ``se`` is the standard error over contexts: 0 where nothing was sampled, NaN where a single
        replicate tells nothing.

        Raises:
            ValueError: for games of vectors.
        """
        import pandas as pd

        tables = [record.to_frame() for record in self]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)

    def pair(self, i: int, j: int) -> pd.DataFrame:
        """The rows of :meth:`to_frame` of one pair of players, in all images that have it.

        Raises:
            ValueError: if no image has it, or for games of vectors.
        """
        i, j = sorted((i, j))
        table = self.to_frame()
        table = table[(table["i"] == i) & (table["j"] == j)].reset_index(drop=True)
        if table.empty:
            raise ValueError(
                f"expected a pair that was measured, got {i} and {j}; see partners({i})"
            )
        return table

    def partners(self, player: int) -> pd.DataFrame:
        """The rows of all pairs of one player, strongest first: image, partner, order, ...

        Raises:
            ValueError: for games of vectors.
        """
        table = self.to_frame()
        table = table[(table["i"] == player) | (table["j"] == player)]
        table.insert(1, "partner", table["i"] + table["j"] - player)
        table = table.drop(columns=["i", "j"])
        by_size = table["interaction"].abs().sort_values(ascending=False, kind="stable").index
        return table.loc[by_size].reset_index(drop=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything into one ``.npz`` file, exactly; :meth:`load` reads it.

        Raises:
            ValueError: for a path without that ending.
        """
        if not os.fspath(path).endswith(".npz"):
            raise ValueError(f"expected a file .npz, got {os.fspath(path)!r}")
        arrays = {
            f"{k} {field.name}": np.asarray(getattr(record, field.name))
            for k, record in enumerate(self)
            for field in fields(record)
        }
        write_arrays(path, arrays | {"measurements": np.array(FORMAT)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Measurements:
        """Read a file of :meth:`save`; nothing in it is ever executed.

        Raises:
            ValueError: for another file.
        """
        with np.load(path, allow_pickle=False) as file:
            if "measurements" not in file or int(file["measurements"]) != FORMAT:
                raise ValueError(f"expected a file of Measurements.save, got {os.fspath(path)!r}")
            names = [field.name for field in fields(Interactions)]
            count = (len(file.files) - 1) // len(names)
            return cls(
                Interactions(**{name: _value(file[f"{k} {name}"]) for name in names})
                for k in range(count)
            )

    def __repr__(self) -> str:
        return f"Measurements({self._said()})"

    def _repr_html_(self) -> str:
        import pandas as pd

        table = pd.DataFrame(
            {
                "image": self.images,
                "pairs": [len(record.pairs_P2) for record in self],
                "orders": [len(record.orders_O) for record in self],
                "forwards": [record.forwards for record in self],
            }
        )
        return plots.as_html(f"Measurements: {self._said()}", table)

    def _said(self) -> str:
        if not self:
            return "no images"
        images = f"{len(self)} image{'s' if len(self) > 1 else ''}"
        first = self[0]
        return (
            f"{images}, {len(first.pairs_P2)} pairs of {first.n} players, "
            f"{len(first.orders_O)} orders, {self.forwards} forwards"
        )


def _value(array: np.ndarray) -> Any:
    return array if array.ndim else array.item()


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
