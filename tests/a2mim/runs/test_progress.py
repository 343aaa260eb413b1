import io
import sys

import pytest
import torch
from torch import nn
from tqdm import tqdm

from a2mim.runs import progress as module
from a2mim.runs.progress import Lines, forwards, progress, worked_with


@pytest.fixture
def clock(monkeypatch):
    """Time that the test tells."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def lines_of(capsys):
    return capsys.readouterr().err.splitlines()


def test_batch_jobs_have_a_line_now_and_then(clock, capsys):
    with progress("reading", 100, "images", mininterval=0, miniters=1) as bar:
        assert isinstance(bar, Lines)
        for step in range(100):
            clock[0] = step
            bar.update()
    lines = lines_of(capsys)
    assert [line.split(" (")[0] for line in lines] == [
        f"reading: {n} of 100 images" for n in (31, 61, 91, 100)
    ]
    assert "left" in lines[0]
    assert lines[-1] == "reading: 100 of 100 images (100 %)"
    assert not any("\r" in line for line in lines)


def test_what_is_quick_says_nothing(clock, capsys):
    with progress("reading", 100, "images", mininterval=0, miniters=1) as bar:
        bar.update(100)
        bar.refresh()
    assert lines_of(capsys) == []


def test_a_terminal_has_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress("reading", 3, "images") as bar:
        bar.update(3)
    assert type(bar) is tqdm
    assert "3/3" in sys.stderr.getvalue()


def test_images_through_networks_are_counted(monkeypatch):
    network, other = nn.Linear(2, 2), nn.Linear(2, 2)
    with forwards("both", 12, [network, other]) as bar:
        network(torch.zeros(3, 2))
        other(torch.zeros(4, 2))
        assert bar.n == 7
    network(torch.zeros(3, 2))
    assert bar.n == 7
    monkeypatch.setenv("RANK", "1")  # of several processes the first one shows its own
    with forwards("quiet", 12, [network]) as bar:
        assert bar.disable


def test_what_a_run_works_with():
    said = worked_with("cpu", "float32", [25_557_032, 5_000])
    assert said == "on cpu in float32, 25.6 M, 0.005 M parameters"
