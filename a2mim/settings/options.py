"""From a dataclass of settings to the options of a command, with help that flows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import MISSING, fields, is_dataclass
from io import StringIO
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import tyro

from a2mim.messages import UsageError, did_you_mean
from a2mim.settings.numbers import check_numbers

T = TypeVar("T")

POSITIONAL = tyro.conf.Positional[int].__metadata__[0]  # type: ignore[attr-defined]
"""What marks a setting that is given without the name of an option."""


def parse(
    settings: type[T],
    arguments: Sequence[str],
    command: str,
    about: str,
    default: T | None = None,
) -> T:
    """Settings as a command line gives them.

    Args:
        settings: a dataclass whose docstrings are the help.
        arguments: behind the name of the command.
        command: its name.
        about: what it does, for the help.
        default: what is not given; as the dataclass says if left out.

    Raises:
        UsageError: for an option that there is not, or a value that cannot be.
        SystemExit: with code 0 after help.
    """
    _describe(settings)
    lists = _lists(settings)
    arguments = _apart(arguments, {option for option, one in lists.items() if one is float})
    _check_lists(arguments, lists)
    given: dict[str, Any] = {"prog": f"a2mim {command}", "description": about}
    if default is not None:
        given["default"] = default
    said = StringIO()
    try:
        with redirect_stderr(said):
            parsed, unknown = tyro.cli(settings, args=arguments, return_unknown_args=True, **given)
    except SystemExit as ended:
        if ended.code != 2:  # help
            raise
        raise UsageError(f"{_in_a_line(said.getvalue())}; see {given['prog']} --help") from None
    if unknown:  # what follows an unknown option may be known: one is named
        word = next((word for word in unknown if word.startswith("-")), unknown[0])
        name = word.partition("=")[0]
        hint = did_you_mean(name, _options(settings, given), most=3)
        hint = hint or f"; {given['prog']} --help lists them"
        raise UsageError(f"expected options of a2mim {command}, got {name}{hint}")
    given_options = {word.replace("_", "-") for word in arguments if word.startswith("--")}
    greedy = [option for option in lists if option in given_options]
    needed = {field.name for field in fields(cast(Any, settings)) if field.default is MISSING}
    for name, metavar in _several(settings).items():
        if (greedy or name in needed) and not getattr(parsed, name):
            why = f"{' and '.join(greedy)} took what follows; {FIRST}"
            why = f": {why}" if greedy else f"; {given['prog']} --help says what it is"
            raise UsageError(f"expected at least one {metavar}, got none{why}")
    check_numbers(parsed)
    return parsed


def _in_a_line(said: str) -> str:
    """What tyro says in a box, below its title and without the help of the option."""
    plain = said.translate(dict.fromkeys(map(ord, "│╭╮╰╯"), " ") | {ord("─"): "-"})
    below = re.split(r"[^\n]*-{9,}[^\n]*\n", plain)[1:2] or [plain]
    line = " ".join(below[0].partition("Got errors:")[0].split()).rstrip(".")
    return line[:1].lower() + line[1:]


FIRST = "files and names of networks go before options that take several values"


def _several(settings: type) -> dict[str, str]:
    """The settings that are several words without an option, and what the help calls them."""
    found = {}
    for name, hint in get_type_hints(settings, include_extras=True).items():
        said = getattr(hint, "__metadata__", ())
        if POSITIONAL in said and get_args(hint)[0] == tuple[str, ...]:
            found[name] = next(
                (one.metavar for one in said if getattr(one, "metavar", None)), name
            ).strip(".")
    return found


def _lists(settings: type) -> dict[str, Any]:
    """The options of a dataclass, and of those in it, that take several values; their type."""
    found = dict[str, Any]()
    annotated = get_type_hints(settings, include_extras=True)
    for name, hint in get_type_hints(settings).items():
        said = getattr(annotated[name], "__metadata__", ())
        for nested in _dataclasses(hint):
            found |= _lists(nested)
        for one in (hint, *get_args(hint)):
            if get_origin(one) is tuple and get_args(one)[1:] == (...,) and POSITIONAL not in said:
                called = next((arg.name for arg in said if getattr(arg, "name", None)), name)
                found[f"--{called.replace('_', '-')}"] = get_args(one)[0]
    return found


def _check_lists(arguments: Sequence[str], lists: dict[str, Any]) -> None:
    """See whether what stands behind an option can be one of its values.

    Raises:
        UsageError: naming the option and the word.
    """
    option = ""
    for before, word in pairwise(["", *arguments]):
        kind = lists.get(option)
        if word.startswith("--"):
            option = word.replace("_", "-")
        elif kind is str and "=" in before and "=" not in word:
            raise UsageError(f"expected NAME=VALUE behind {option}, got {word!r}; {FIRST}")
        elif kind is float and not _is_number(word):
            raise UsageError(f"expected numbers behind {option}, got {word!r}; {FIRST}")
        elif get_origin(kind) is Literal and word not in get_args(kind):
            words = ", ".join(get_args(kind))
            raise UsageError(f"expected {words} behind {option}, got {word!r}; {FIRST}")


def _is_number(word: str) -> bool:
    with suppress(ValueError):
        float(word)
        return True
    return False


def _apart(arguments: Sequence[str], options: set[str]) -> list[str]:
    """Arguments in which ``--std .5,.5,.5``, as ``--for`` has it, is ``--std .5 .5 .5``."""
    words, option = list[str](), ""
    for word in arguments:
        if word.startswith("--"):
            option = word.partition("=")[0].replace("_", "-")
        if option in options and "," in word:
            word = word.replace("=", ",", 1) if word.startswith("--") else word
            words += [part for part in word.split(",") if part]
        else:
            words.append(word)
    return words


def _options(settings: type, given: dict[str, Any]) -> list[str]:
    """The names of all options, as the help has them."""
    with redirect_stdout(StringIO()) as said, suppress(SystemExit):
        tyro.cli(settings, args=["--help"], **given)
    return sorted(set(re.findall(r"--[a-z][a-z0-9.-]*[a-z0-9]", said.getvalue())))


def flowing(text: str) -> str:
    """A sentence whose paragraphs are one line each, without marks of code."""
    paragraphs = re.split(r"\n\s*\n", text.replace("``", ""))
    flat = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    return flat[:1].upper() + flat[1:]


def _unless_empty(default: str) -> str:
    """What the help says of a default: nothing if it is empty, because a sentence says it then."""
    return "" if default in ("", "''") else f"(default: {default})"


def _describe(settings: type) -> None:
    """Say in the hints of a dataclass what its docstrings say: tyro would keep their lines."""
    from docstring_parser import parse_from_object

    said = {one.arg_name: one.description for one in parse_from_object(settings).params}
    hints = get_type_hints(settings, include_extras=True)
    for field in fields(settings):
        for nested in _dataclasses(hints[field.name]):
            _describe(nested)
        if said.get(field.name):
            default = _unless_empty if field.default in ((), "") else None
            help_text = tyro.conf.arg(
                help=flowing(said[field.name] or ""), help_behavior_hint=default
            )
            settings.__annotations__[field.name] = Annotated[hints[field.name], help_text]


def _dataclasses(hint: Any) -> Iterator[type]:
    """Those that a hint is made of."""
    if isinstance(hint, type) and is_dataclass(hint):
        yield hint
    for part in get_args(hint):
        yield from _dataclasses(part)
