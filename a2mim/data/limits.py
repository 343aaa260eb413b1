"""Limits of reading images that are settings of a run too: this file needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

BUFFER = 1000
"""Images of a stream that wait in every worker to be shuffled."""


@dataclass(frozen=True)
class Tolerance:
    """How many unreadable images are put up with: at most ``max(least, share * images)``.

    Attributes:
        least: as many always.
        share: of the images read so far.
    """

    least: int = 10
    share: float = 0.01

    def __post_init__(self) -> None:
        if self.least < 0 or not 0 <= self.share <= 1:
            raise ValueError(f"expected least >= 0 and a share in [0, 1], got {self}")

    def allowed(self, images: int) -> int:
        """How many of so many images may be unreadable."""
        return max(self.least, int(self.share * images))

    def advice(self) -> str:
        """What to do at the limit; at the command line the share is ``--unreadable``."""
        return (
            f"repair or remove them, or allow a larger share than --unreadable {self.share:g} "
            "(a2mim.data.limits.Tolerance in Python)"
        )


TOLERANCE = Tolerance()
