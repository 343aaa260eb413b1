"""The command as its users meet it: a process with an exit code and words."""

import errno
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import timm
from safetensors.torch import save_file

from a2mim.cli import main
from a2mim.runs.checks import InvariantError


def a2mim(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "a2mim.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
    )


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """The command in this process, which is faster: arguments -> what a process would leave."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=ended.value.code, stdout=out, stderr=err)

    return run


def test_help_names_the_commands(tmp_path):
    done = a2mim("--help", cwd=tmp_path)
    assert done.returncode == 0
    for command in ("demo", "interactions", "pretrain", "configs", "models", "probe", "figures"):
        assert command in done.stdout


def test_a_table_that_cannot_be_right_is_one_line(here, monkeypatch):
    def broken(config):
        raise InvariantError("recall@1: expected a value in [0, 1], got 1.193 in row 3")

    monkeypatch.setattr("a2mim.measure.networks.models", broken)
    done = here("models")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "a2mim: recall@1: expected a value in [0, 1], got 1.193 in row 3\n"


def test_demo_help_names_the_options(here):
    done = here("demo", "--help")
    assert done.returncode == 0
    for option in ("--seeds", "--labels", "--out", "--device"):
        assert option in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--seeds", "1"], "expected --seeds of at least 2, got 1"),
        (["figures", "missing"], "expected a finished run"),
        (["demo", "--effort", "inf"], "expected --effort above 0 and at most 1, got inf"),
        (["interactions", "resnet18", "--images", "missing"], "found none at missing"),
        (["pretrain", "digits-vti"], "did you mean digits-vit"),
        (["models", "missing.pth"], "missing.pth"),
        (["probe", "missing.pth", "--data", "digits"], "missing.pth"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, here, arguments, message):
    done = here(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("a2mim: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


DIGITS = ("--data", "digits", "--device", "cpu")


@pytest.mark.parametrize(
    "arguments",
    [
        ["probe", "untrained:test_vit", *DIGITS, "--pool", "mean", "--block", "99"],
        ["interactions", "untrained:test_resnet", *DIGITS, "--grid", "4", "--label", "5000"],
        ["pretrain", "digits-vit", "--batch-size", "100000"],
    ],
)
def test_what_is_refused_late_leaves_nothing(tmp_path, here, arguments):
    done = here(*arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("a2mim: ")
    assert list(tmp_path.iterdir()) == []


ONE_ORDER = ("--orders", "0.5", "--replicates", "2", "--windows", "1", "--target", "0")
MEASURED = ("untrained:test_resnet", *DIGITS, "--count", "2")


@pytest.mark.parametrize(
    "arguments",
    [
        ["interactions", *MEASURED, "--grid", "4", "--pairs", "1", *ONE_ORDER],
        ["spectrum", *MEASURED],
        ["occlusion", *MEASURED, "--label", "prediction", "--grid", "4", "--fractions", "0", "0.5"],
    ],
)
def test_a_full_disk_is_one_line(tmp_path, here, monkeypatch, arguments):
    """With room again, the same command goes on."""
    for name in ("interactions", "invariance", "occlusion", "spectrum"):  # figures take longest
        monkeypatch.setattr(f"a2mim.measure.{name}.save", lambda figures, folder: None)
    replace, written = os.replace, []

    def full(source, to):
        written.append(to)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(to))
        replace(source, to)

    with monkeypatch.context() as patch:
        patch.setattr("a2mim.files.os.replace", full)
        done = here(*arguments)
    assert done.returncode == 2
    assert "No space left" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    (work,) = tmp_path.glob("results/*/*.partial")
    main(arguments)
    assert not work.exists()
    assert (work.with_suffix("") / "rows.csv").is_file()


def test_a_corrupt_image_is_named(tmp_path, here):
    for split in ("train", "val"):
        (tmp_path / "set" / split / "cat").mkdir(parents=True)
        (tmp_path / "set" / split / "cat" / "0.jpg").write_bytes(b"\xff\xd8 no image")
    done = here("probe", "untrained:test_vit", "--method", "knn", "--data", "folder:set")
    assert done.returncode == 2
    assert "cannot read set/train/cat/0.jpg" in done.stderr.splitlines()[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    "arguments",
    [["dmeo"], ["demo", "--sede", "1"], ["demo", "--seed", "x"], ["pretrain"], []],
)
def test_unknown_words_are_exit_code_2(tmp_path, here, arguments):
    done = here(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "command", "setting"),
    [
        (
            "a2mim-r50-in1k",
            "a2mim pretrain a2mim-r50-in1k --data folder:DIR",
            "--loss official-r50",
        ),
        ("digits-vit", "a2mim pretrain digits-vit", "--data digits"),
        ("in1k-vit", "a2mim probe --method sgd --recipe in1k-vit", "lrs=(12.0,)"),
    ],
)
def test_a_recipe_is_shown(name, command, setting, capsys):
    main(["configs", name])
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == command
    assert f"  {setting}" in lines
    assert name == "in1k-vit" or any(line.startswith("Expected: ") for line in lines)


def test_a_recipe_that_is_not_there(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["configs", "a2mim-r50"])
    assert caught.value.code == 2
    assert "did you mean a2mim-r50-in1k" in capsys.readouterr().err


def test_recipes_are_listed(capsys):
    main(["configs"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "a2mim pretrain:",
        "a2mim probe --method finetune --recipe:",
        "a2mim probe --method sgd --recipe:",
    ]
    for name in ("a2mim-r50-in1k", "rsb-a3", "in1k-vit"):
        assert any(line.split()[0] == name for line in lines)


def test_the_version_and_a_misspelt_command(here):
    done = here("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "a2mim")
    done = here("interactons", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean interactions?" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["pretrain", "digits-vti"],
        ["probe", "x", "--recip", "y"],
        ["occlusion", "x"],
        ["reconstruct", "x", "--images", "y", "--data", "digits"],
    ],
)
def test_what_is_wrong_with_options_is_said_before_torch_is_there(arguments, tmp_path):
    code = (
        "import sys\nfrom a2mim.cli import main\n"
        f"try:\n    main({arguments})\n"
        "except SystemExit as done:\n    print(done.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["2", "False"]


def test_settings_of_a_folder_are_those_of_its_files_for_models_too(tmp_path, capsys):
    for name in ("a", "b"):
        network = timm.create_model("test_resnet", num_classes=10)
        save_file(network.state_dict(), tmp_path / f"{name}.safetensors")
    main(["models", f"test_resnet={tmp_path}", "--for", f"test_resnet={tmp_path}", "mean=.1,.2,.3"])
    assert capsys.readouterr().out.count("mean 0.1 0.2 0.3") == 2
