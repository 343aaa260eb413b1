import sys
from dataclasses import dataclass, field
from io import BytesIO, TextIOWrapper
from typing import Annotated, Literal

import pytest
import tyro

from a2mim.messages import UsageError
from a2mim.settings.options import flowing, parse


@dataclass(frozen=True)
class Inner:
    """Settings inside.

    Attributes:
        depth: how deep, which is said in a sentence that goes on
            (and on) in a second line of ``code``.
    """

    depth: int = 2


@dataclass(frozen=True)
class Outer:
    """Settings."""

    name: str = "a"
    """What it is called, which is said in a sentence that is long enough
    (and longer) for the next line.

    A second paragraph."""
    inner: tyro.conf.OmitArgPrefixes[Inner] = field(default_factory=Inner)
    """What is inside."""


def test_paragraphs_are_lines():
    assert flowing("one ``two``\n    (three)\n\n    four\n") == "One two (three)\n\nfour"


def test_the_help_has_no_line_breaks_of_docstrings(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as ended:
        parse(Outer, ["--help"], "try", "About it.")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "usage: a2mim try" in text
    words = " ".join(text.replace("│", " ").split())
    for said in (
        "long enough (and longer) for the next line.",
        "goes on (and on) in a second line of code",
    ):
        assert said in words
    assert any("enough (and longer)" in line for line in text.splitlines())


def test_settings_and_defaults():
    assert parse(Outer, ["--depth", "3"], "try", "") == Outer(inner=Inner(3))
    assert parse(Outer, ["--name", "b"], "try", "", Outer("c", Inner(5))) == Outer("b", Inner(5))


@dataclass(frozen=True)
class Named:
    """Settings, one of them without a name."""

    files: tyro.conf.Positional[tuple[str, ...]] = ()
    name: str = "a"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--nmae 3 net.pth", "got --nmae; did you mean --name?"),
        ("net.pth --nmae=3", "got --nmae; did you mean --name?"),
        ("net.pth --zzz", "got --zzz; a2mim probe --help lists them"),
    ],
)
def test_an_unknown_option_is_named_alone(arguments, said, capsys):
    with pytest.raises(UsageError) as error:
        parse(Named, arguments.split(), "probe", "About.")
    assert str(error.value) == f"expected options of a2mim probe, {said}"
    assert capsys.readouterr() == ("", "")


@dataclass(frozen=True)
class Numbers:
    """Lists of numbers, and words."""

    mean: tuple[float, ...] = ()
    """Some numbers."""
    few_shares: tuple[float, ...] | None = None
    """Some more."""
    words: tuple[str, ...] = ()
    """And words."""


@dataclass(frozen=True)
class Holder:
    """Has them inside."""

    inner: tyro.conf.OmitArgPrefixes[Numbers] = field(default_factory=Numbers)
    """What is inside."""


@pytest.mark.parametrize(
    "words", [["--mean", ".5,.25,1e-2"], ["--mean=.5,.25,1e-2"], ["--mean", ".5,", ".25", "1e-2"]]
)
def test_lists_of_numbers_may_have_commas(words):
    more = ["--few-shares", "0,-1", "--words", "a,b", "1,2"]
    found = Numbers((0.5, 0.25, 0.01), (0.0, -1.0), ("a,b", "1,2"))
    assert parse(Holder, words + more, "try", "") == Holder(found)
    assert parse(Numbers, [*more, *words], "try", "") == found


def test_the_help_says_nothing_of_empty_defaults(capsys):
    with pytest.raises(SystemExit):
        parse(Holder, ["--help"], "try", "", Holder(Numbers(mean=(0.5, 0.25))))
    text = capsys.readouterr().out
    assert "(default: )" not in text
    assert "(default: 0.5 0.25)" in text


@dataclass(frozen=True)
class Measure:
    """Files, and options of several values."""

    files: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILE...")] = ()
    """Files."""
    lists: tyro.conf.OmitArgPrefixes[Numbers] = field(default_factory=Numbers)
    """Options inside."""
    kinds: tuple[Literal["one", "two"], ...] = ()
    """Some kinds."""
    pairs: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]], tyro.conf.arg(name="for")
    ] = ()
    """Some of a file."""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--mean .5 0,1 a.pth", "expected numbers behind --mean, got 'a.pth'"),
        ("--few_shares -1 a.pth --mean .5", "expected numbers behind --few-shares, got 'a.pth'"),
        ("a.pth --mean .5 .x", "expected numbers behind --mean, got '.x'"),
        ("--kinds one a.pth", "expected one, two behind --kinds, got 'a.pth'"),
        ("--words b a.pth", "expected at least one FILE, got none: --words took what follows"),
        ("--for b a.pth", "expected at least one FILE, got none: --for took what follows"),
        ("--for b c=d a.pth", "expected NAME=VALUE behind --for, got 'a.pth'"),
        ("b --for b c=d a.pth", "expected NAME=VALUE behind --for, got 'a.pth'"),
    ],
)
def test_options_of_several_values_that_swallow_files_are_named(arguments, said, capsys):
    with pytest.raises(UsageError) as error:
        parse(Measure, arguments.split(), "try", "")
    text, _, advice = str(error.value).partition("; ")
    assert (text, "go before options" in advice) == (said, True)
    assert capsys.readouterr() == ("", "")


def test_files_stand_before_options_of_several_values_or_behind_dashes():
    lists = Numbers(mean=(0.5, -1e-3), words=("b",))
    for words in (
        "a.pth --mean .5 -1e-3 --words b",
        "--mean .5 -1e-3 --words b -- a.pth",
        "--words b --mean .5 -1e-3 -- a.pth",
    ):
        assert parse(Measure, words.split(), "try", "") == Measure(("a.pth",), lists)


@dataclass(frozen=True)
class Needed:
    """Files that have to be there."""

    files: tyro.conf.Positional[tuple[str, ...]]
    """Files."""


def test_no_files_where_some_are_needed():
    with pytest.raises(UsageError, match="expected at least one files, got none; a2mim try --help"):
        parse(Needed, [], "try", "")
    assert parse(Measure, [], "try", "") == Measure()


@dataclass(frozen=True)
class Scalars:
    """One value each."""

    count: int = 1
    """How many, in a sentence that is in the help alone."""
    kind: Literal["one", "two"] = "one"
    """Which."""
    share: float | None = None
    """Of what."""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--count x", "error parsing --count: invalid literal for int() with base 10: 'x'"),
        ("--count", "missing value for argument '--count'. Expected 1 values"),
        ("--kind three", "invalid choice 'three' for argument '--kind'. Expected one of ("),
        ("--share x", "error parsing --share: no type matching"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_values_that_cannot_be_are_a_line(arguments, said, encoding, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(BytesIO(), encoding=encoding))
    with pytest.raises(UsageError) as error:
        parse(Scalars, arguments.split(), "try", "")
    assert str(error.value).startswith(said)
    assert str(error.value).endswith("; see a2mim try --help")
    assert "\n" not in str(error.value)
    assert "sentence" not in str(error.value)
    assert capsys.readouterr().err == ""
