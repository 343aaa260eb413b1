import runpy
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
from matplotlib.figure import Figure

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
KINDS = {".png", ".svg", ".pdf"}


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
    for file in (tmp_path / "run").glob("reconstructions-*.npz"):
        file.unlink()
    with pytest.raises(UsageError, match="pretrain are not drawn from a table"):
        redraw(tmp_path / "run")


def test_pictures_of_pretraining_are_drawn_again(monkeypatch):
    names = []
    monkeypatch.setattr(module, "save", lambda figures, folder: names.extend(figures))
    redraw(Path("results/pretrain/cifar10-vit"))
    assert names == ["reconstructions"]


def committed_figures():
    """As git tells: somebody's own runs lie in results, too."""
    told = subprocess.run(
        ["git", "ls-files", "results"], capture_output=True, text=True, check=False
    ).stdout
    return {Path(line) for line in told.splitlines() if Path(line).suffix in KINDS}


def lines_of_make(target):
    """The words of its lines, without the folder of the environment."""
    rest = Path("Makefile").read_text().partition(f"\n{target}:")[2]
    lines = rest.partition("\n\n")[0].splitlines()[1:]
    return [line.strip().removeprefix("$(BIN)/").split() for line in lines]


@pytest.mark.integration
def test_make_figures_draws_every_committed_figure(tmp_path, monkeypatch):
    """From tables alone: the figures are taken away before. Drawing goes all the way to a file."""
    figures = committed_figures()
    if not figures:
        pytest.skip("expected a clone of the repository")
    for file in Path("results").rglob("*"):
        if file.is_file() and file not in figures:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / file)
    lines = lines_of_make("figures")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: Path(file).write_text("drawn"))
    for program, *words in lines:
        if program == "a2mim":
            main(words)
            continue
        assert program == "python"
        if words[0] == "-m":
            import_module(words[1]).main()
        else:
            runpy.run_path(words[0], run_name="__main__")
    assert [str(file) for file in sorted(figures) if not file.exists()] == []
