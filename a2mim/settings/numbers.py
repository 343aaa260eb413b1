"""What numbers and words a setting may be: declared where the setting is, checked in one place.

Every number of every setting is finite and fits into 64 bits. A setting that has narrower limits
says so in its type, ``Annotated[float, Within(0, 1)]``; of several numbers each one is meant. A
word that is chosen is a ``Literal``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

from a2mim.messages import UsageError

LARGEST = 2**63 - 1

WITHOUT_PREFIX = tyro.conf.OmitArgPrefixes[int].__metadata__  # type: ignore[attr-defined]
"""What marks settings in a dataclass whose options have not its name in front."""


@dataclass(frozen=True)
class Within:
    """Limits of a number.

    Attributes:
        low: the least that it may be.
        high: the most.
        above: whether it has to be above ``low``.
    """

    low: float = -LARGEST
    high: float = LARGEST
    above: bool = False

    def holds(self, number: float) -> bool:
        """Whether a number is finite and within the limits."""
        inside = self.low < number if self.above else self.low <= number
        return math.isfinite(number) and inside and number <= self.high

    def __str__(self) -> str:
        ends = []
        if self.low > -LARGEST:
            ends.append(f"{'above' if self.above else 'of at least'} {self.low:g}")
        if self.high < LARGEST:
            ends.append(f"at most {self.high:g}")
        return " and ".join(ends) or "finite, in 64 bits"


ABOVE_0 = Within(0, above=True)


def check_numbers(config: Any, prefix: str = "") -> None:
    """See whether numbers and words of a dataclass of settings, and of those in it, can be.

    Args:
        config: the dataclass.
        prefix: of its options.

    Raises:
        UsageError: naming the option and what it was given.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for name in (field.name for field in fields(config)):
        value = getattr(config, name)
        said = getattr(hints[name], "__metadata__", ())
        if is_dataclass(value):
            check_numbers(value, prefix if set(WITHOUT_PREFIX) & set(said) else f"{prefix}{name}.")
            continue
        # The last says more than what the setting is in general.
        limits = [Within(), *(one for one in said if isinstance(one, Within))][-1]
        words = _words(hints[name])
        option = f"--{prefix}{name.replace('_', '-')}"
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, int | float) and not limits.holds(one):
                raise UsageError(f"expected {option} {limits}, got {one}")
            if isinstance(one, str) and words and one not in words:
                told = ", ".join(filter(None, words))
                raise UsageError(f"expected {option} {told}, got {one!r}")


def _words(hint: Any) -> list[str]:
    """The words that a type allows; none where it allows any."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [word for part in get_args(hint) for word in _words(part)]
