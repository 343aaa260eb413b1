"""What an argument may be, said in one way: what was expected, and what came.

A number that is nearly right (4.0 for 4, True for 1, a level of 95) is refused, not rounded: what
follows from it would be a number too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


def whole(value: Any, what: str, least: int | None = 1) -> None:
    """See whether a value is a whole number, of Python or NumPy, and not below another.

    Raises:
        TypeError: if it is no whole number.
        ValueError: if it is below ``least``.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"expected a whole number for {what}, got {value!r}")
    if least is not None and value < least:
        raise ValueError(f"expected at least {least} for {what}, got {value}")


def level_of_interval(level: Any) -> None:
    """See whether a coverage is above 0 and below 1.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is out of range.
    """
    if not isinstance(level, Real):
        raise TypeError(f"expected a level between 0 and 1, such as 0.95, got {level!r}")
    if not 0 < float(level) < 1:
        raise ValueError(f"expected a level between 0 and 1, such as 0.95, got {level}")


def numbers(values: Any, what: str) -> tuple[float, ...]:
    """Several finite numbers.

    Raises:
        TypeError: for a single one, or what is no number.
        ValueError: for one that is not finite.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"expected several numbers for {what}, such as (0, 0.5), got {values!r}")
    found = tuple(values)
    for value in found:
        if not isinstance(value, Real):
            raise TypeError(f"expected numbers for {what}, got {value!r}")
        if not math.isfinite(value):
            raise ValueError(f"expected finite numbers for {what}, got {value}")
    return found


def instance(value: Any, kind: type, what: str) -> None:
    """See whether a value is of a class.

    Raises:
        TypeError: if it is not.
    """
    if not isinstance(value, kind):
        raise TypeError(f"expected {what} ({kind.__name__}), got {type(value).__name__}")


def players_of(players: Any) -> None:
    """See whether a value divides images into players.

    Raises:
        TypeError: if it does not.
    """
    if not hasattr(players, "check_image"):
        raise TypeError(f"expected players, such as PatchGrid(14, 14), got {players!r}")
