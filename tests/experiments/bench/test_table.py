import re
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from a2mim.messages import UsageError
from experiments.bench import table as module
from experiments.bench.contest import Contest
from experiments.bench.table import bench, choose, cpu_rows, merged, read, with_verdicts
from experiments.bench.timing import Row

COLUMNS = ["row", "ours", "baseline", "ratio", "target", "unit", "n", "commit"]


def row(name, ours=1.0, baseline=2.0):
    return Row(name, ours, baseline, target=1.05, unit="s", n=5)


@pytest.fixture
def two_rows(monkeypatch):
    """Rows that take no time, and a note of which of them were run."""
    run = []

    def make(name):
        def measure():
            run.append(name)
            return Row(name, float(len(run)), 4.0, 1.05, "s", 5, notes=(f"a note on {name}",))

        return measure

    monkeypatch.setattr(
        module, "cpu_rows", lambda repeats: {n: make(n) for n in ("b/one", "a/two")}
    )
    monkeypatch.setattr(module, "commit", lambda: "1234567")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return run


def test_rows_are_written_in_order_of_their_names(tmp_path, two_rows, capsys):
    bench(tmp_path / "bench", repeats=1)
    table = pd.read_csv(tmp_path / "bench" / "cpu.csv", dtype={"commit": str})
    assert list(table) == COLUMNS
    assert table["row"].tolist() == ["a/two", "b/one"]
    assert table["ratio"].tolist() == [0.5, 0.25]
    assert table["commit"].tolist() == ["1234567"] * 2
    assert "a note on b/one" in capsys.readouterr().out


def test_a_row_replaces_its_line_and_leaves_the_others(tmp_path, two_rows):
    bench(tmp_path, repeats=1)
    before = (tmp_path / "cpu.csv").read_text().splitlines()
    bench(tmp_path, repeats=1, rows=["b/"])
    after = (tmp_path / "cpu.csv").read_text().splitlines()
    assert two_rows == ["b/one", "a/two", "b/one"]
    assert after[:2] == before[:2]  # the header and a/two
    assert after[2].startswith("b/one,3,")
    assert len(after) == 3
    assert not list(tmp_path.glob("*.partial"))


def test_what_is_measured_is_kept_when_a_later_row_fails(tmp_path, two_rows, monkeypatch):
    def fail():
        raise KeyboardInterrupt

    monkeypatch.setattr(
        module, "cpu_rows", lambda *_: {"b/one": lambda: row("b/one"), "c/three": fail}
    )
    with pytest.raises(KeyboardInterrupt):
        bench(tmp_path, repeats=1)
    assert read(tmp_path / "cpu.csv")["row"].tolist() == ["b/one"]


def test_a_line_that_is_kept_is_written_as_it_was(tmp_path):
    """Numbers of four digits survive reading and writing; a commit of digits stays text."""
    line = "x,7.243,0.003412,2.123e+04,0.2,forwards/image,5,0012345"
    (tmp_path / "cpu.csv").write_text(",".join(COLUMNS) + f"\n{line}\n")
    table = merged(read(tmp_path / "cpu.csv"), row("y"), "abc")
    assert table.to_csv(index=False, float_format="%.4g").splitlines()[1] == line


def test_bad_arguments(tmp_path, two_rows):
    with pytest.raises(UsageError, match="at least 1 repeat"):
        bench(tmp_path, 0)
    with pytest.raises(UsageError, match=r"got 'c/'; there are: b/one, a/two"):
        bench(tmp_path, 1, ["a/", "c/"])
    (tmp_path / "cpu.csv").write_text("something,else\n1,2\n")
    with pytest.raises(UsageError, match="expected a table of the benchmark"):
        bench(tmp_path, 1)
    assert two_rows == []


def test_rows_are_chosen_by_the_beginnings_of_their_names():
    names = ["i/overhead/a", "i/wall/a", "i/wall/b"]
    assert choose(names, []) == names
    assert choose(names, ["i/wall"]) == names[1:]
    assert choose(names, ["i/wall/b", "i/overhead"]) == ["i/overhead/a", "i/wall/b"]


def test_the_rows_there_are():
    names = list(cpu_rows(repeats=1))
    assert len(set(names)) == len(names)
    assert {
        "interactions/overhead/resnet18",
        "interactions/forwards/vit16",
        "pretrain/step/vit_tiny",
        "features/overhead/extract/vit_tiny",
        "features/overhead/evaluate/resnet18",
        "occlusion/overhead/vit_tiny",
        "invariance/overhead/resnet18",
    } <= set(names)


def test_whether_targets_are_met():
    table = pd.DataFrame(
        [
            ("pretrain/gpu/x", 0.96, 0.95, "images/s"),
            ("loader/folder", 0.9, 1.0, "images/s/core"),
            ("interactions/coverage/x", 1.0, 0.92, "share"),
            ("interactions/false_positives", 1.3, 1.2, "share"),
            ("interactions/overhead/x", 1.01, 1.05, "s"),
        ],
        columns=["row", "ratio", "target", "unit"],
    )
    assert with_verdicts(table)["met"].tolist() == ["yes", "NO", "yes", "NO", "yes"]


def contest(row, turn):
    return Contest({"bare": None}, {row: {"ours": None}}, {row: 0.9}, 60.0, 10.0, turn)


@pytest.fixture
def a_gpu(monkeypatch):
    """A GPU of 80 GB, and rows that take no time."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    about = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)
    monkeypatch.setattr(module, "commit", lambda: "1234567")
    made = [contest("a/gpu/x", 1.0), contest("b/gpu/x", 1.0), contest("c/gpu/x", 9.0)]
    monkeypatch.setattr(module.gpu, "contests", lambda: made)
    asked = []

    def hold(pack, repeats):
        asked.append(repeats)
        for row in (row for one in pack for row in one.ours):
            failed = f"{row}: no memory"
            yield failed if row == "b/gpu/x" else Row(row, 95.0, 100.0, 0.9, "images/s", repeats)

    monkeypatch.setattr(module, "held", hold)
    return asked


def test_rows_of_a_gpu_have_a_table_of_its_name(tmp_path, a_gpu, capsys):
    bench(tmp_path, rows=["a/"])
    assert a_gpu == [3]
    assert read(tmp_path / "nvidia-h100.csv")["ratio"].tolist() == [0.95]
    assert re.search(r"a/gpu/x .*0\.95 +0\.9 .*yes", capsys.readouterr().out)


def test_what_failed_or_would_take_too_long_is_left_out_and_named(tmp_path, a_gpu):
    """The last one would take 10 s to get ready and 10 turns of 9 s."""
    with pytest.raises(UsageError, match=r"b/gpu/x: no memory; c/gpu/x: left out, 100 s might be"):
        bench(tmp_path, minutes=1.5)
    assert read(tmp_path / "nvidia-h100.csv")["row"].tolist() == ["a/gpu/x"]
