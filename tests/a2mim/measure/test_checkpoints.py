import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from a2mim.cli import main
from a2mim.commands import compare as compare_module
from a2mim.data.folders import DataError
from a2mim.measure import occlusion as module
from a2mim.measure.checkpoints import LeftOut, is_of_network, listed, told_apart, with_all
from a2mim.measure.networks import called, load, short
from a2mim.measure.occlusion import occlusion
from a2mim.messages import UsageError
from a2mim.runs.table import read_table
from a2mim.settings.occlusion import OcclusionConfig
from a2mim.settings.weights import WeightsConfig


@pytest.fixture
def runs(tmp_path):
    """Two folders of checkpoints as a training leaves them."""
    for run in ("runA", "runB"):
        (tmp_path / run).mkdir()
        for name in ("checkpoint-799.pth", "checkpoint-99.pth", "log.txt", "._checkpoint-99.pth"):
            (tmp_path / run / name).touch()
    return tmp_path


def test_a_folder_is_all_files_in_it_in_natural_order(runs, monkeypatch):
    monkeypatch.chdir(runs)
    assert listed("runA") == ["runA/checkpoint-99.pth", "runA/checkpoint-799.pth"]
    assert listed("vit_base=runA")[1] == "vit_base=runA/checkpoint-799.pth"
    assert listed("code.py:net=runB")[0] == "code.py:net=runB/checkpoint-99.pth"
    for name in ("runA/checkpoint-99.pth", "resnet18", "hf-hub:timm/x", "untrained:resnet18"):
        assert listed(name) == [name]
    (runs / "resnet18").mkdir()
    (runs / "resnet18" / "a.pth").touch()
    assert listed("resnet18") == ["resnet18"]  # timm's


def test_a_pattern_is_all_that_match(runs, monkeypatch):
    monkeypatch.chdir(runs)
    both = [f"run{run}/checkpoint-{epoch}.pth" for run in "AB" for epoch in (99, 799)]
    assert listed("run*/*") == both
    assert listed("run*") == both
    assert listed("**/checkpoint-7*.pth") == both[1::2]
    assert listed("vit_base=run?/*-99.pth") == [f"vit_base={name}" for name in both[::2]]
    (runs / "latest.pth").symlink_to(runs / "runB" / "checkpoint-799.pth")
    (runs / "last").symlink_to(runs / "runB")
    assert listed("*") == both  # once each
    (runs / "run[1]").mkdir()
    (runs / "run[1]" / "a.pth").touch()
    assert listed("run[1]/a.pth") == ["run[1]/a.pth"]  # a name, not a pattern
    with pytest.raises(UsageError, match=r"weights that match run\*/\*\.safetensors, found none"):
        listed("run*/*.safetensors")


@pytest.mark.parametrize(
    "inside",
    [
        ("backbone.safetensors", "backbone.json", "backbone-ema.safetensors"),
        ("model.safetensors", "config.json", "training_args.bin"),
        ("pytorch_model.bin",),
        ("part-000/seed-0/model.safetensors", "part-000/seed-1/model.safetensors", "rows.csv"),
        ("checkpoints/step-1.safetensors",),
    ],
    ids=["run", "timm", "alone", "seeds", "unfinished"],
)
def test_folders_of_one_network_stay(tmp_path, inside):
    for name in inside:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).touch()
    assert listed(str(tmp_path / "run")) == [str(tmp_path / "run")]
    if inside[0].startswith("checkpoints"):
        with pytest.raises(UsageError, match="found none"):
            listed(str(tmp_path / "r*"))
    else:
        assert listed(str(tmp_path / "r*")) == [str(tmp_path / "run")]


def test_files_of_one_name_are_told_apart_by_the_shortest_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["a/lr/c-1.pth", "b/lr/c-1.pth", "b/wd/c-1.pth", "b/wd/c-2.pth"]
    for name in (*names, "a/best.pth", "b/checkpoint.pth", "x/b/checkpoint.pth"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert told_apart(names) == {
        name: end
        for name, end in zip(names[:3], ("a/lr/c-1.pth", "b/lr/c-1.pth", "wd/c-1.pth"), strict=True)
    }
    named = ["vit_tiny=b/checkpoint.pth", "x/b/checkpoint.pth", "resnet18", "a/best.pth"]
    assert told_apart(named) == {
        "vit_tiny=b/checkpoint.pth": f"{tmp_path.name}/b/checkpoint.pth",
        "x/b/checkpoint.pth": "x/b/checkpoint.pth",
    }
    assert told_apart(["a/best.pth", str(tmp_path / "a/best.pth"), "vit_tiny=a/best.pth"]) == {}


def test_they_are_called_so_and_settings_of_a_folder_are_of_its_files(tmp_path, save_vit):
    for run in ("runA", "runB"):
        (tmp_path / run).mkdir()
        save_vit(tmp_path / run / "checkpoint-9.safetensors")
    weights = WeightsConfig(per_network=((str(tmp_path / "runB"), "std=0.5,0.5,0.5"),))
    folders = tuple(str(tmp_path / run) for run in ("runA", "runB"))
    config = with_all(OcclusionConfig(folders, weights=weights))
    assert with_all(config) == config
    reports = [load(name, config.weights).report for name in config.checkpoints]
    assert [called(report) for report in reports] == [
        f"{run}/checkpoint-9.safetensors" for run in ("runA", "runB")
    ]
    assert [short(report) for report in reports] == ["runA/checkpoint-9", "runB/checkpoint-9"]
    assert [report.look["std"][0] for report in reports] == [0.25, 0.5]
    panel = with_all(replace(config, checkpoints=config.checkpoints[:1]))
    assert panel.weights.apart == config.weights.apart  # the same name where one is alone


def settings(compared, checkpoints, out):
    return OcclusionConfig(
        tuple(map(str, checkpoints)),
        images=compared["photos"],
        grid=4,
        fractions=(0.0, 0.5),
        device="cpu",
        out=out,
    )


def test_a_bad_file_is_left_out_and_named_and_the_others_are_measured(
    compared, tmp_path, hastened, capsys
):
    bad = tmp_path / "bad.pth"
    bad.write_text("<html>")
    missing = tmp_path / "missing.pth"
    words = ["occlusion", compared["one"], str(bad), str(missing), "--fractions", "0", "0.5"]
    words += ["--images", str(compared["photos"]), "--grid", "4", "--device", "cpu"]
    words += ["--out", str(tmp_path / "out")]
    for again in (False, True):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 1
        said = capsys.readouterr()
        assert ("finished before" in said.out) == again
        (line,) = said.err.strip().splitlines()
        assert line == (
            "a2mim: done, but 2 left out: bad.pth: expected weights, bad.pth is a web page; "
            "download the file itself; missing.pth: expected a weights file, missing.pth is missing"
        )
    rows = read_table(tmp_path / "out" / "rows.csv")
    assert set(rows["weights"]) == {"one.safetensors"}
    label = json.loads((tmp_path / "out" / "config.json").read_text())["config"]
    assert [doubt.partition(" expected")[0] for doubt in label["doubts"]] == [
        *("Left out: bad.pth:", "Left out: missing.pth:")
    ]
    alone = occlusion(settings(compared, [compared["one"]], tmp_path / "alone"))
    assert alone == {}
    assert (tmp_path / "alone" / "rows.csv").read_text() == (
        tmp_path / "out" / "rows.csv"
    ).read_text()
    with pytest.raises(SystemExit) as stopped:
        main([*words[:1], *words[2:]])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("a2mim: expected a checkpoint that can be used, got 2 that cannot: ")
    with pytest.raises(UsageError, match=r"missing\.pth is missing$"):
        occlusion(settings(compared, [missing], tmp_path / "none"))


def failing(monkeypatch, times):
    """The second network of the fixture fails once it is measured, so many times."""
    real, calls = module.occlude, []

    def occlude(model, images_BCHW, *arguments, **options):
        if len(images_BCHW) > 1 and model.pretrained_cfg["mean"][0] == 0.4 and len(calls) < times:
            calls.append(1)
            raise RuntimeError("no kernel image")
        return real(model, images_BCHW, *arguments, **options)

    monkeypatch.setattr(module, "occlude", occlude)


def test_a_network_that_fails_is_tried_once_more_by_a_run_that_goes_on(
    compared, tmp_path, hastened, monkeypatch, capsys
):
    config = settings(compared, [compared["other"], compared["one"]], tmp_path / "out")
    failing(monkeypatch, times=1)
    real = module._joined
    with monkeypatch.context() as patch:
        patch.setattr(module, "_joined", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            occlusion(config)
    assert module._joined is real
    said = capsys.readouterr().out
    assert f"left out: {compared['other']}: RuntimeError: no kernel image" in said
    assert occlusion(config) == {}
    assert (
        "other.safetensors failed before (RuntimeError: no kernel image): it is tried once more"
        in capsys.readouterr().out
    )
    rows = read_table(tmp_path / "out" / "rows.csv")
    assert set(rows["weights"]) == {"one.safetensors", "other.safetensors"}


@pytest.mark.integration
def test_a_comparison_goes_on_without_a_network_in_a_panel(
    compared, tmp_path, hastened, monkeypatch, capsys
):
    """And without a file that cannot be read at all."""
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    third = tmp_path / "third.safetensors"
    for end in (".safetensors", ".json"):
        shutil.copy(compared["one"].replace(".safetensors", end), third.with_suffix(end))
    failing(monkeypatch, times=9)
    words = ["compare", compared["one"], compared["other"], str(third), str(broken)]
    words += ["--images", str(compared["photos"]), "--grid", "4", "--device", "cpu"]
    words += ["--skip", "interactions", "spectrum", "--out", str(tmp_path / "out")]
    words += ["--for", "other.safetensors", "name=Other"]
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 1
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith("a2mim: done, but 2 left out: broken.safetensors: ")
        assert line.endswith("Other in predictions: RuntimeError: no kernel image")
    found = compare_module.Comparison(tmp_path / "out")
    assert found.titles == ["one", "Other", "third"]
    scores = found.scores()
    assert set(scores.query("score == 'accuracy'")["network"]) == {"one", "third"}
    assert set(scores.query("score == 'similarity'")["network"]) == set(found.titles)
    assert found.plan["apart"]["predictions"] == {"Other": "RuntimeError: no kernel image"}
    notes = " ".join(found.plan["notes"])
    assert "Left out: broken.safetensors: " in notes
    assert "Other failed in predictions, which is without it: RuntimeError: no kernel" in notes
    assert str(tmp_path) not in (tmp_path / "out" / "compare.json").read_text()


def test_two_that_can_be_measured_are_needed_for_a_comparison(compared, tmp_path):
    with pytest.raises(UsageError, match=r"two or more .* measured, got 1; Left out: b\.pth: "):
        compare_module.compare(
            [compared["one"], tmp_path / "b.pth"], images=compared["photos"], out=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


class Wrong(nn.Module):
    def forward(self, x):
        return x.no_such_thing


def test_which_errors_are_those_of_a_network():
    def caught(work):
        try:
            work()
        except Exception as error:
            return error

    in_network = caught(lambda: nn.Sequential(Wrong())(torch.zeros(1)))
    assert isinstance(in_network, AttributeError)
    assert is_of_network(in_network)
    assert not is_of_network(caught(lambda: {}["key"]))  # ours
    assert is_of_network(caught(lambda: nn.Linear(2, 2)(torch.zeros(3))))
    assert not is_of_network(DataError("an image"))
    assert not is_of_network(OSError("disk full"))


def test_several_processes_end_together(tmp_path, monkeypatch):
    left_out = LeftOut(["a", "b"], WeightsConfig())
    monkeypatch.setenv("WORLD_SIZE", "2")
    left_out.go_on(tmp_path)
    with pytest.raises(ZeroDivisionError):
        left_out.each(lambda name: 1 / 0)
