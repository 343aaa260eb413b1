"""Progress bars for notebooks, and what becomes of a measurement that is interrupted.

With ``progress=True`` an interrupt (the stop button, Ctrl-C) ends the measurement and not the cell:
what was measured until then is returned, with a warning. Without it an interrupt is what it always
is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Interrupted(UserWarning):
    """A measurement was interrupted; it says what is returned."""


class Bar:
    """A progress bar by tqdm, in a notebook or a terminal; or none.

    Args:
        total: how much there is to do, if it is known.
        unit: of what.
        shown: whether there is a bar.

    Attributes:
        done: how much is done.
        interrupted: whether somebody has ended it (:func:`interruptible`).
    """

    def __init__(self, total: int | None, unit: str, *, shown: bool) -> None:
        self.shown, self.done, self.interrupted = shown, 0, False
        self._bar = None
        if shown:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, unit=f" {unit}", dynamic_ncols=True)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            if not (self.interrupted or any(error)):  # all is done, whatever was expected
                self._bar.total = self.done
                self._bar.refresh()
            self._bar.close()

    def advance(self, count: int = 1) -> None:
        """So much more is done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)


@contextmanager
def interruptible(
    bar: Bar, kept: str = "the {} images that are done are returned", needed: int = 1
) -> Iterator[None]:
    """An interrupt ends this block, with a warning, where the bar is shown and there is a result.

    Args:
        bar: tells how much is done.
        kept: what is left of the measurement, for the warning.
        needed: how much has to be done for a result.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not bar.shown or bar.done < needed:
            raise
        bar.interrupted = True
        warnings.warn(f"interrupted: {kept.format(bar.done)}", Interrupted, stacklevel=4)


def until_interrupted(rows: Iterable[T], bar: Bar, size: Callable[[T], int]) -> Iterator[T]:
    """What is measured, one part after the other, until an interrupt; see :func:`interruptible`.

    Args:
        rows: measures the parts.
        bar: is told how much is done.
        size: images of a part.
    """
    parts = iter(rows)
    while True:
        part = None
        with interruptible(bar):
            part = next(parts, None)
        if part is None:
            return
        bar.advance(size(part))
        yield part
