import shutil
from importlib import import_module

import pytest

from a2mim.cli import main
from a2mim.commands import figures as module
from a2mim.commands.figures import redraw
from a2mim.messages import UsageError

SOME = ("untrained:test_vit", "--data", "digits", "--image-size", "64", "--device", "cpu")
GRID = ("--grid", "2")
COMMANDS = {
    "interactions": [*GRID, "--count", "2", "--pairs", "1", "--orders", "0.5", "--target", "0"],
    "invariance": [
        *GRID,
        "--count",
        "6",
        "--cka-batch",
        "4",
        "--fractions",
        "0",
        "0.5",
        "--repeats",
        "1",
    ],
    "occlusion": [*GRID, "--count", "2", "--fractions", "0", "0.5", "--label", "prediction"],
    "spectrum": ["--count", "2"],
}


@pytest.fixture
def drawn(monkeypatch):
    """Names of the figures that a command draws, and that they are drawn again with."""
    names = []

    def save(figures, folder):
        names.append(list(figures))

    for name in COMMANDS:
        monkeypatch.setattr(import_module(f"a2mim.measure.{name}"), "save", save)
    monkeypatch.setattr(module, "save", save)
    return names


@pytest.mark.parametrize("command", COMMANDS)
def test_the_figures_of_a_command_are_drawn_again(command, drawn, tmp_path):
    main([command, *SOME, *COMMANDS[command], "--out", str(tmp_path / "run")])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    main(["figures", str(tmp_path / "run")])
    first, again = drawn
    assert first == again
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before


def test_runs_without_figures_stay_as_they_are(tmp_path):
    with pytest.raises(UsageError, match="expected a finished run"):
        redraw(tmp_path)
    shutil.copytree("results/pretrain/cifar10-vit", tmp_path / "run")
    with pytest.raises(UsageError, match="pretrain are not drawn from a table"):
        redraw(tmp_path / "run")
