import io
import logging

import pytest

from a2mim.messages import Escaped, EscapedLines, did_you_mean, in_a_line, printable


def test_an_error_of_several_lines_is_one():
    assert in_a_line(ValueError("two\nlines")) == "ValueError: two lines"


def test_near_names_are_the_end_of_a_message():
    known = ("resnet50", "resnet18", "vit_tiny")
    assert did_you_mean("resnet5", known) == "; did you mean resnet50?"
    assert did_you_mean("resnet5", known, most=2) == "; did you mean resnet50, resnet18?"
    assert did_you_mean("moganet", known, cutoff=0.9) == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Δ π/4 → 日本", "plain Δ π/4 → 日本"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("back\x08\x7f", r"back\x08\x7f"),
        ("turned \u202e round", r"turned \u202e round"),
        ("not utf-8 \udcff", r"not utf-8 \udcff"),
    ],
)
def test_control_characters_are_written_out(text, shown):
    assert printable(text) == shown
    stream = io.StringIO()
    print(f"a table\n\t{text}", file=Escaped(stream))
    assert stream.getvalue() == f"a table\n\t{shown}\n"


def test_a_log_record_is_one_line():
    record = logging.LogRecord("a2mim", 30, "", 0, "cannot read %s", ("a\n\rb\x1bc",), None)
    assert EscapedLines().format(record) == r"cannot read a\n\rb\x1bc"
