import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from a2mim.messages import UsageError
from a2mim.runs.folder import (
    commit,
    counted,
    finish_run,
    nothing_left_empty,
    open_run,
    pick_device,
    provenance,
    run_key,
    safe_name,
)


def opened(out, settings, **more):
    return open_run(out, "probe", ["a/b net", "c", "d"], settings, **more)


def test_a_run_appears_when_it_is_complete(tmp_path):
    out = tmp_path / "results" / "run"
    run = opened(out, {"seed": 0})
    (run.work / "rows.csv").write_text("rows")
    assert not out.exists()
    finish_run(run, {"seed": 0}, seconds=1.234)
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "rows.csv"]
    assert [p.name for p in out.parent.iterdir()] == ["run"]
    label = json.loads((out / "config.json").read_text())
    assert label["config"] == {"seed": 0}
    assert label["seconds"] == 1.2
    assert label["commit"] == commit()
    assert label["versions"]["torch"]


def test_the_same_command_finds_its_work_and_another_does_not(tmp_path):
    out = tmp_path / "run"
    run = opened(out, {"seed": 0})
    (run.work / "half").write_text("done")
    assert (opened(out, {"seed": 0}).work / "half").read_text() == "done"
    assert not (opened(out, {"seed": 1}).work / "half").exists()


def test_unfinished_work_that_is_not_gone_on_with_is_named(tmp_path, capsys):
    first = opened(tmp_path / "run[1]", {"seed": 0})
    opened(tmp_path / "run[1]", {"seed": 0})
    assert capsys.readouterr().out == ""
    second = opened(tmp_path / "run[1]", {"seed": 1})
    said = capsys.readouterr().out
    assert first.work.name in said
    assert second.work.name in said


def test_a_key_names_settings(tmp_path):
    key = run_key({"seed": 0, "images": "a"})
    run = opened(tmp_path / "run", {"images": "a", "seed": 0})
    assert run.work.name == f"run.{key}.partial"
    assert run_key({"seed": 1, "images": "a"}) != key


def test_other_code_goes_on_and_says_so(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    codes = ["one", "two", "two", "one"]
    for code in codes:
        monkeypatch.setattr("a2mim.runs.folder.commit", lambda code=code: code)
        run = opened(out, {})
        (run.work / "rows.csv").touch()
    said = capsys.readouterr().out.splitlines()
    assert ["one -> two" in said[0], "two -> one" in said[1]] == [True, True]
    finish_run(run, {}, seconds=0)
    label = json.loads((out / "config.json").read_text())
    assert label["commits"] == ["one", "two", "one"]
    assert label["commit"] == "one"
    assert not opened(out, {}).finished  # not by this code alone


def test_a_finished_run_is_not_made_again(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    finished(out)
    assert opened(out, {}).finished
    assert os.listdir(tmp_path) == ["run"]
    assert capsys.readouterr().out.splitlines() == [
        f"finished before: {out}; --no-resume measures it again"
    ]
    monkeypatch.setenv("RANK", "1")  # of several processes the first says so
    assert opened(out, {}).finished
    assert capsys.readouterr().out == ""
    monkeypatch.delenv("RANK")
    assert not opened(out, {"seed": 1}).finished
    assert not opened(out, {}, resume=False).finished
    (out / "rows.csv").rename(tmp_path / "rows.csv")
    with pytest.raises(UsageError, match="found something else"):
        opened(out, {})
    (tmp_path / "rows.csv").rename(out / "rows.csv")
    with monkeypatch.context() as patch:
        patch.setattr("a2mim.runs.folder.commit", lambda: "other")
        assert not opened(out, {}).finished
    monkeypatch.setattr("a2mim.runs.folder._version", lambda package: "other")
    assert not opened(out, {}).finished  # as where no commit is known


def test_runs_of_other_settings_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outs = []
    for seed in range(3):
        outs.append(finished(None, seed=seed))
        assert os.readlink("results/probe/latest") == outs[-1].name
    assert opened(None, {"seed": 0}).finished
    assert os.readlink("results/probe/latest") == outs[0].name
    assert outs[0] == Path("results/probe") / f"a-b-net-c-and-1-more-{run_key({'seed': 0})}"
    names = sorted(os.listdir("results/probe"))
    assert names == sorted([*(out.name for out in outs), "latest"])


def test_what_is_called_latest_and_is_no_link_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("results/probe/latest").mkdir(parents=True)
    finished(None)
    assert not Path("results/probe/latest").is_symlink()
    finished(tmp_path / "x" / "run")  # named by the user
    assert os.listdir(tmp_path / "x") == ["run"]


def test_numbers_for_people():
    assert [counted(n) for n in (0, 999, 1000, 1234567)] == ["0", "999", "1 000", "1 234 567"]


def test_starting_anew(tmp_path, capsys):
    out = tmp_path / "run"
    for k in range(3):
        run = opened(out, {"seed": 0}, resume=False)
        assert not (run.work / "half").exists()
        (run.work / "half").write_text(str(k))
    assert [path.read_text() for path in sorted(tmp_path.glob("*.unfinished*/half"))] == ["0", "1"]
    assert capsys.readouterr().out.count("moved unfinished work to") == 2


def test_a_run_that_is_refused_leaves_nothing(tmp_path):
    with pytest.raises(UsageError), nothing_left_empty():
        refused(tmp_path / "deep" / "run")
    assert os.listdir(tmp_path) == []
    with pytest.raises(UsageError), nothing_left_empty():
        refused(tmp_path / "run", "half")
    assert [path.name for path in tmp_path.glob("*/half")] == ["half"]


def refused(out, *files):
    run = opened(out, {})
    (run.work / "parts").mkdir(exist_ok=True)
    for file in files:
        (run.work / file).touch()
    raise UsageError("no")


HOLD = """
import sys
from pathlib import Path
from a2mim.runs.folder import open_run
open_run(Path(sys.argv[1]), "probe", ["a"], {})
print("at work", flush=True)
sys.stdin.read()
"""


@pytest.mark.integration
def test_one_process_at_a_time(tmp_path, monkeypatch):
    """The second is refused and loses nothing of the first; killed, the first is no obstacle."""
    out = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "at work\n"
    (work,) = tmp_path.iterdir()
    (work / "part").touch()
    said = rf"already running \(PID {holder.pid} on "
    for resume in (True, False):
        with pytest.raises(UsageError, match=said):
            opened(out, {}, resume=resume)
    assert (work / "part").exists()
    opened(out, {"seed": 1})  # another run
    monkeypatch.setenv("RANK", "1")
    run = opened(out, {})  # a process of the same group
    assert run.work == work
    monkeypatch.delenv("RANK")
    holder.kill()
    holder.communicate()
    assert opened(out, {}) == opened(out, {}) == run
    (run.work / "rows.csv").touch()
    finish_run(run, {}, seconds=1)
    assert {path.name for path in out.iterdir()} == {"part", "rows.csv", "config.json"}


def test_another_projects_config_does_not_make_a_run(tmp_path):
    model = tmp_path / "deit-small"
    model.mkdir()
    (model / "config.json").write_text('{"architecture": "deit_small"}')
    (model / "model.safetensors").write_text("weights")
    with pytest.raises(UsageError, match="found something else"):
        opened(model, {})
    assert (model / "model.safetensors").read_text() == "weights"


def test_the_folder_one_is_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="found something else"):
        opened(Path("."), {})


def test_code_in_somebody_elses_repository_has_no_commit(tmp_path, monkeypatch):
    from a2mim.runs import folder as runs

    monkeypatch.setattr(runs, "__file__", str(Path(runs.__file__).parent / "deeper" / "x.py"))
    assert commit() == "unknown"


def test_other_peoples_folders_are_safe(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="found something else; choose another --out"):
        opened(tmp_path, {})
    with pytest.raises(UsageError, match="cannot write to"):
        opened(tmp_path / "thesis.tex" / "run", {})


def test_provenance_names_no_path():
    assert "/" not in json.dumps(provenance())


COUNT_FAULTS = """
import resource, torch
from a2mim.runs.folder import keep_memory
{call}
for k in range(40):
    torch.ones(1 << 24)  # 64 MiB
    if k == 9:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.integration
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tunes glibc's allocator")
def test_freed_memory_is_kept():
    """In processes of their own, as the setting cannot be taken back."""
    faults = []
    for call in ("", "keep_memory()"):
        code = COUNT_FAULTS.format(call=call)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        faults.append(int(done.stdout))
    assert faults[1] < faults[0] / 10


def finished(out, name="one", **settings):
    run = opened(out, settings, resume=False)
    (run.work / "rows.csv").write_text(name)
    finish_run(run, settings, 1.0)
    assert not run.work.exists()
    return run.out


def test_an_earlier_run_is_moved_aside_unless_it_is_the_same(tmp_path, capsys):
    out = tmp_path / "run"
    finished(out, "one", seed=0)
    finished(out, "one", seed=0)
    assert os.listdir(tmp_path) == ["run"]
    assert capsys.readouterr().out == ""
    finished(out, "two", seed=0)  # by other code: the same settings
    finished(out, "two", seed=1)
    finished(out, "three", seed=0)
    assert {path.parent.name: path.read_text() for path in tmp_path.glob("*/rows.csv")} == {
        "run": "three",
        "run.previous": "one",
        "run.previous-2": "two",
        "run.previous-3": "two",
    }
    said = capsys.readouterr().out.splitlines()
    ends = [line.rpartition("run.previous")[2] for line in said]
    assert ends == ["", "-2", "-3"]


@pytest.mark.parametrize("name", ["run.previous", "run.replaced"])
def test_folders_of_others_beside_a_run_stay(tmp_path, name):
    mine = tmp_path / name
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    for seed in range(3):
        finished(tmp_path / "run", seed=seed)
    assert (mine / "thesis.txt").read_text() == "precious"
    assert os.listdir(mine) == ["thesis.txt"]
    assert len(list(tmp_path.glob("run*/rows.csv"))) == 3


@pytest.mark.parametrize("seed", [0, 1])
def test_what_somebody_put_into_a_run_is_not_lost(tmp_path, seed):
    out = tmp_path / "run"
    finished(out, seed=0)
    (out / "deep").mkdir()
    (out / "deep" / "notes.txt").write_text("mine")
    finished(out, seed=seed)
    assert (tmp_path / "run.previous" / "deep" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "run.previous" / "rows.csv").read_text() == "one"
    assert (out / "rows.csv").read_text() == "one"


def test_a_note_among_unfinished_work_goes_with_it(tmp_path):
    run = opened(tmp_path / "run", {})
    (run.work / "notes.txt").write_text("mine")
    (run.work / "rows.csv").touch()
    finish_run(opened(tmp_path / "run", {}), {}, 1.0)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_what_appears_in_the_place_of_a_run_is_moved_aside(tmp_path):
    run = opened(tmp_path / "run", {})
    (run.work / "rows.csv").touch()
    (tmp_path / "run").write_text("mine")
    finish_run(run, {}, 1.0)
    assert (tmp_path / "run.previous").read_text() == "mine"
    assert (tmp_path / "run" / "rows.csv").exists()


def test_names_of_folders():
    assert safe_name("hf-hub:org/net w.pth") == "hf-hub-org-net-w.pth"


@pytest.mark.parametrize("there", ["cuda", "mps", ""])
def test_devices_are_those_that_there_are(there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there == "mps")
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") == ("cuda" if there == "cuda" else "cpu")
    for name in ("cuda", "mps"):
        if name == there:
            assert pick_device(name, float64=False) == name
        else:
            with pytest.raises(UsageError, match=f"for --device {name}, found none"):
                pick_device(name, float64=False)
    if there == "mps":
        with pytest.raises(UsageError, match="mps has none: use --device cpu"):
            pick_device("mps")
    with pytest.raises(UsageError, match="cpu, cuda or mps, got 'tpu'"):
        pick_device("tpu")
