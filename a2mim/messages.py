"""Messages of one line: what an error says, which names are near, and what a terminal is sent.

Names of files, classes and tensors come from others, and may hold what moves the cursor of a
terminal, or empties it. What commands print goes through :class:`Escaped`, what they log through
:class:`EscapedLines`, and errors through :func:`printable`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, TextIO


class UsageError(Exception):
    """Something the user asked for cannot be done; the message says what to do instead.

    Of several arguments each is a message of its own.
    """


class Escaped:
    """A stream to which control characters go as text, but for ends of lines and tabs.

    Args:
        stream: where it goes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        self._stream.write(printable(text, keep="\n\t"))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class EscapedLines(logging.Formatter):
    """One line for each record, whatever is in it."""

    def format(self, record: logging.LogRecord) -> str:
        """The message."""
        return printable(record.getMessage())


def in_a_line(error: BaseException) -> str:
    """Kind and message of an error that a library made."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def printable(text: str, keep: str = "") -> str:
    """A text whose control characters, as in names of files, are written out.

    Args:
        text: the text.
        keep: those of them that stay.
    """
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


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
