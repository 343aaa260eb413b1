import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from a2mim.messages import UsageError
from a2mim.runs.folder import commit, counted, finish_run, open_run, provenance, run_key


def test_a_run_appears_when_it_is_complete(tmp_path):
    out = tmp_path / "results" / "run"
    work = open_run(out, {"seed": 0})
    (work / "rows.csv").write_text("rows")
    assert not out.exists()
    finish_run(work, out, {"seed": 0}, seconds=1.234)
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "rows.csv"]
    assert [p.name for p in out.parent.iterdir()] == ["run"]
    label = json.loads((out / "config.json").read_text())
    assert label["config"] == {"seed": 0}
    assert label["seconds"] == 1.2
    assert label["commit"] == commit()
    assert label["versions"]["torch"]


def test_the_same_command_finds_its_work_and_another_does_not(tmp_path):
    out = tmp_path / "run"
    work = open_run(out, {"seed": 0})
    (work / "half").write_text("done")
    assert (open_run(out, {"seed": 0}) / "half").read_text() == "done"
    assert not (open_run(out, {"seed": 1}) / "half").exists()


def test_unfinished_work_that_is_not_gone_on_with_is_named(tmp_path, capsys):
    first = open_run(tmp_path / "run[1]", {"seed": 0})
    open_run(tmp_path / "run[1]", {"seed": 0})
    assert capsys.readouterr().out == ""
    second = open_run(tmp_path / "run[1]", {"seed": 1})
    assert capsys.readouterr().out == (
        f"beginning anew in {second.name}: {first.name} is unfinished work of other settings or "
        "other code\n"
    )


def test_a_key_names_settings_and_code(tmp_path, monkeypatch):
    key = run_key({"seed": 0, "images": "a"})
    assert open_run(tmp_path / "run", {"images": "a", "seed": 0}).name == f"run.{key}.partial"
    assert run_key({"seed": 1, "images": "a"}) != key
    monkeypatch.setattr("a2mim.runs.folder.commit", lambda: "other")
    assert run_key({"seed": 0, "images": "a"}) != key


def test_numbers_for_people():
    assert [counted(n) for n in (0, 999, 1000, 1234567)] == ["0", "999", "1 000", "1 234 567"]


def test_starting_anew(tmp_path):
    out = tmp_path / "run"
    (open_run(out, {"seed": 0}) / "half").write_text("done")
    assert not (open_run(out, {"seed": 0}, resume=False) / "half").exists()


HOLD = """
import sys
from pathlib import Path
from a2mim.runs.folder import open_run
open_run(Path(sys.argv[1]), {})
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
    said = rf"nobody at work on this run, found process {holder.pid} on .*; let it finish"
    for resume in (True, False):
        with pytest.raises(UsageError, match=said):
            open_run(out, {}, resume=resume)
    assert (work / "part").exists()
    open_run(out, {"seed": 1})  # another run
    monkeypatch.setenv("RANK", "1")
    assert open_run(out, {}) == work  # a process of the same group
    monkeypatch.delenv("RANK")
    holder.kill()
    holder.communicate()
    assert open_run(out, {}) == open_run(out, {}) == work
    (work / "rows.csv").touch()
    finish_run(work, out, {}, seconds=1)
    assert {path.name for path in out.iterdir()} == {"part", "rows.csv", "config.json"}


def test_a_finished_run_is_replaced_whole(tmp_path):
    out = tmp_path / "run"
    for seed in (0, 1):
        work = open_run(out, {"seed": seed})
        (work / "rows.csv").write_text("rows")
        (work / f"seed{seed}").write_text("")
        finish_run(work, out, {"seed": seed}, seconds=0)
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "rows.csv", "seed1"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "run.previous"]


def test_another_projects_config_does_not_make_a_run(tmp_path):
    model = tmp_path / "deit-small"
    model.mkdir()
    (model / "config.json").write_text('{"architecture": "deit_small"}')
    (model / "model.safetensors").write_text("weights")
    with pytest.raises(UsageError, match="found something else"):
        open_run(model, {})
    assert (model / "model.safetensors").read_text() == "weights"


def test_the_folder_one_is_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="found something else"):
        open_run(Path("."), {})


def test_code_in_somebody_elses_repository_has_no_commit(tmp_path, monkeypatch):
    from a2mim.runs import folder as runs

    monkeypatch.setattr(runs, "__file__", str(Path(runs.__file__).parent / "deeper" / "x.py"))
    assert commit() == "unknown"


def test_other_peoples_folders_are_safe(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="found something else; choose another --out"):
        open_run(tmp_path, {})
    with pytest.raises(UsageError, match="cannot write to"):
        open_run(tmp_path / "thesis.tex" / "run", {})


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


def finished(tmp_path, name, out, **settings):
    work = open_run(out, settings)
    (work / "rows.csv").write_text(name)
    finish_run(work, out, settings, 1.0)


def test_a_run_of_other_settings_is_kept_beside_and_one_of_the_same_is_replaced(tmp_path, capsys):
    out, previous = tmp_path / "run", tmp_path / "run.previous"
    finished(tmp_path, "one", out, seed=0)
    finished(tmp_path, "two", out, seed=0)
    assert (out / "rows.csv").read_text() == "two"
    assert not previous.exists()
    assert capsys.readouterr().out == ""
    finished(tmp_path, "three", out, seed=1)
    assert (previous / "rows.csv").read_text() == "two"
    assert capsys.readouterr().out == "what was in run before is in run.previous now\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.previous"]


def test_what_somebody_put_into_a_run_is_not_lost(tmp_path):
    out = tmp_path / "run"
    finished(tmp_path, "one", out, seed=0)
    (out / "notes.txt").write_text("mine")
    finished(tmp_path, "two", out, seed=0)
    assert (tmp_path / "run.previous" / "notes.txt").read_text() == "mine"
    assert (out / "rows.csv").read_text() == "two"
