import json
import subprocess
import sys
import time

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from experiments.configs.pretrain import RECIPES
from experiments.pretrain import configured, method_of, run, samples_of
from experiments.results import read_table
from experiments.runs import UsageError

TINY = (
    "epochs=2",
    "warmup=0.5",
    "batch_size=299",
    "save_every=1",
    "options={'patch_size': 8, 'embed_dim': 24, 'depth': 2, 'num_heads': 2, "
    "'class_token': False, 'global_pool': 'avg', 'fc_norm': False}",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("pretrain") / "run"
    run("digits-vit", TINY, "", out, device="cpu")
    return out


def test_a_run_leaves_a_backbone_a_log_and_pictures(finished):
    assert sorted(p.name for p in finished.iterdir()) == [
        *("backbone.json", "backbone.safetensors", "config.json", "log.jsonl"),
        *("reconstructions.png", "rows.csv", "tensorboard"),
    ]
    reports = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [report["step"] for report in reports] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "spatial", "fourier", "lr", "epoch", "grad_norm"} <= reports[0].keys()
    rows = read_table(finished / "rows.csv")
    assert rows.query("measure == 'pretrain_loss'")["value"].tolist() == pytest.approx(
        [report["loss"] for report in reports]
    )
    assert json.loads((finished / "config.json").read_text())["config"]["recipe"] == "digits-vit"
    assert list((finished / "tensorboard").iterdir())


def test_timm_loads_the_backbone(finished):
    """As any timm checkpoint, by what the file beside it says."""
    about = json.loads((finished / "backbone.json").read_text())
    path = finished / "backbone.safetensors"
    model = timm.create_model(
        about["architecture"], num_classes=0, checkpoint_path=str(path), **about["model_args"]
    )
    for key, tensor in load_file(path).items():
        assert torch.equal(model.state_dict()[key], tensor)


@pytest.mark.parametrize("name", ["a2mim-r50-in1k", "a2mim-convnext-t-in1k"])
def test_timm_loads_cnns(name, tmp_path):
    from a2mim.checkpoint import save_backbone

    options = {
        "a2mim-r50-in1k": {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)},
        "a2mim-convnext-t-in1k": {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)},
    }[name]
    config = configured(name, [f"options={options}"])
    backbone = method_of(config).backbone
    save_backbone(backbone, tmp_path / "backbone.safetensors")
    model = timm.create_model(
        config.backbone,
        num_classes=0,
        checkpoint_path=str(tmp_path / "backbone.safetensors"),
        **options,
    )
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(images), backbone.eval()(images))


def test_a_killed_run_goes_on_to_the_same_bytes(finished, tmp_path):
    out = tmp_path / "again"
    command = [
        *(sys.executable, "-m", "experiments.cli", "pretrain", "digits-vit", "--device", "cpu"),
        *("--out", str(out), "--set", *TINY),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begin = time.monotonic()
    while not list(tmp_path.glob("again.*.partial/checkpoints/*.safetensors")):
        assert process.poll() is None, "finished before it could be killed"
        assert time.monotonic() - begin < 100
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not out.exists()
    run("digits-vit", TINY, "", out, device="cpu")
    for name in ("backbone.safetensors", "rows.csv", "reconstructions.png"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()
    steps = [json.loads(x)["step"] for x in (out / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_folders_and_shards(tmp_path):
    from a2mim.shards import write_shards

    rng = np.random.default_rng(0)
    folder = tmp_path / "images" / "train" / "a"
    folder.mkdir(parents=True)
    for k in range(4):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{k}.png")
    write_shards(tmp_path / "images", tmp_path / "shards", per_shard=2)
    config = configured("tiny-imagenet100-vit", [f"data=folder:{tmp_path / 'images'}"])
    assert samples_of(config).load(0, 0).shape == (3, 64, 64)
    config = configured("tiny-imagenet100-vit", [f"data=tar:{tmp_path / 'shards'}/*.tar"])
    assert len(samples_of(config)) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["epoch=3"], "did you mean epochs?"),
        (["epochs=ten"], "expected epochs as a whole number, got 'ten'"),
        (["token=swap"], "expected token as add or replace or damped, got 'swap'"),
        (["loss=l2"], "expected a loss of paper"),
        (["warmup=60"], "warm-up of less than the 60 epochs"),
        (["batch_size=0"], "batch_size above 0"),
        (["knn_every=0"], "knn_every above 0"),
        (["ema=1.5"], "expected ema between 0 and 1"),
        (["fsdp=True", "knn_every=1"], "expected no k-NN probes with fsdp"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UsageError) as caught:
        configured("digits-vit", changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "data", "message"),
    [
        ("digit-vit", (), "", "did you mean digits-vit"),
        ("a2mim-r50-in1k", (), "", "expected --data NAME (digits, cifar10, cifar100, ...), folder"),
        ("digits-vit", (), "cifar11", "got 'cifar11'; did you mean cifar10?"),
        ("digits-vit", (), "stream:a.tar", "expected the number of images in stream:a.tar"),
        (
            "digits-vit",
            ("images=9",),
            "stream:gone.tar",
            "expected a shard, found none at gone.tar",
        ),
        ("digits-vit", (), "folder:/nowhere", "found none at /nowhere"),
        ("digits-vit", ("batch_size=1000",), "", "1000"),
        ("digits-vit", ("options={'flavour': 1}",), "", "flavour"),
        ("digits-vit", ("backbone=vitt",), "", "expected the name of a timm model"),
        ("digits-vit", ("block=6",), "", "blocks that divide an image of 32 px"),
    ],
)
def test_bad_runs(name, changes, data, message, tmp_path):
    with pytest.raises(UsageError) as caught:
        run(name, changes, data, tmp_path / "out", device="cpu")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_every_recipe_is_listed(capsys):
    from experiments.pretrain import list_recipes

    list_recipes()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(RECIPES)


def test_what_is_seen_of_a_run(tmp_path):
    """Averaged weights, a probe every other epoch and at the end, pictures, all by settings."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = [*TINY, "epochs=3", "ema=0.9", "knn_every=2", "channels_last=True"]
    run("digits-vit", settings, "", tmp_path / "run", device="cpu")
    reports = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    probed = {report["step"]: report["knn_top1"] for report in reports if "knn_top1" in report}
    assert list(probed) == [6, 9]
    assert all(0.2 < accuracy <= 1 for accuracy in probed.values())  # 0.1 is chance
    rows = read_table(tmp_path / "run" / "rows.csv").query("measure == 'pretrain_knn_top1'")
    assert dict(zip(rows["at"], rows["value"], strict=True)) == pytest.approx(probed)
    last, averaged = (
        load_file(tmp_path / "run" / f"{name}.safetensors") for name in ("backbone", "backbone-ema")
    )
    assert last.keys() == averaged.keys()
    assert any(not torch.equal(last[key], averaged[key]) for key in last)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Images("reconstructions")] == [3, 6, 9]
    assert events.Images("reconstructions")[0].width == 8 * 32


def test_unreadable_images_are_counted(tmp_path, capsys):
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(16):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{k}.png")
    (folder / "7.png").write_bytes(b"damaged")
    settings = [*TINY, "epochs=1", "warmup=0", "batch_size=8"]
    run("digits-vit", settings, f"folder:{folder}", tmp_path / "run", device="cpu")
    assert "1 unreadable images were replaced" in capsys.readouterr().out
    rows = read_table(tmp_path / "run" / "rows.csv")
    assert rows.query("measure == 'pretrain_skipped'")["value"].iloc[-1] == 1


def test_a_stream_of_shards(tmp_path):
    from a2mim.shards import write_shards

    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(24):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{k}.png")
    write_shards(folder, tmp_path / "shards", per_shard=6)
    settings = [*TINY, "batch_size=8", "images=24"]
    run(
        "digits-vit",
        settings,
        f"stream:pipe:cat {tmp_path}/shards/shard-{{000000..000003}}.tar",
        tmp_path / "run",
        device="cpu",
    )
    reports = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [report["step"] for report in reports] == [1, 2, 3, 4, 5, 6]
    assert reports[-1]["skipped"] == 0
