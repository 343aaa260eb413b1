import json

import pytest

from experiments.runs import UsageError, commit, finish_run, open_run, provenance


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


def test_a_finished_run_is_replaced_whole(tmp_path):
    out = tmp_path / "run"
    for seed in (0, 1):
        work = open_run(out, {"seed": seed})
        (work / f"seed{seed}").write_text("")
        finish_run(work, out, {"seed": seed}, seconds=0)
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "seed1"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_other_peoples_folders_are_safe(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="found something else; choose another --out"):
        open_run(tmp_path, {})
    with pytest.raises(UsageError, match="cannot write to"):
        open_run(tmp_path / "thesis.tex" / "run", {})


def test_provenance_names_no_path():
    assert "/" not in json.dumps(provenance())
