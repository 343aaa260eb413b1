"""Pieces of messages of one line: what an error says, and which names are near."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(Exception):
    """Something the user asked for cannot be done; the message says what to do instead."""


def in_a_line(error: BaseException) -> str:
    """Kind and message of an error that a library made."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def printable(text: str) -> str:
    """A text whose control characters, as in names of files, are written out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def did_you_mean(name: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> str:
    """The end of a message about an unknown name.

    Args:
        name: the unknown one.
        known: those that there are.
        most: how many of them are named.
        cutoff: how near they have to be, from 0 to 1 (see ``difflib``).

    Returns:
        ``"; did you mean ...?"``, or nothing if no name is near.
    """
    near = get_close_matches(name, list(known), most, cutoff)
    return f"; did you mean {', '.join(near)}?" if near else ""
