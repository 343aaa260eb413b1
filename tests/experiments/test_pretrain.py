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

from experiments.configs.pretrain import RECIPES, PretrainConfig
from experiments.pretrain import changed, method_of, pictures, recipe, run, samples_of
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
    config = changed(recipe(name), [f"options={options}"])
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
    config = changed(recipe("tiny-imagenet100-vit"), [f"data=folder:{tmp_path / 'images'}"])
    assert samples_of(config).load(0, 0).shape == (3, 64, 64)
    config = changed(config, [f"data=tar:{tmp_path / 'shards'}/*.tar"])
    assert len(samples_of(config)) == 4


def test_pictures_of_all_methods():
    for name in ("digits-vit", "digits-resnet"):
        config = recipe(name)
        stacks = pictures(method_of(config), samples_of(config), config, torch.device("cpu"))
        assert stacks["completed"].shape == (8, 3, config.image_size, config.image_size)
        # What was visible is shown as it is, in every picture: 6 of 16 blocks.
        shown = (stacks["masked"] == stacks["original"]) & (
            stacks["completed"] == stacks["original"]
        )
        assert shown.all(axis=1).mean(axis=(1, 2)).min() >= 6 / 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["epoch=3"], "did you mean epochs?"),
        (["epochs"], "expected --set KEY=VALUE"),
        (["epochs=ten"], "expected epochs as a whole number, got 'ten'"),
        (["lr=fast"], "expected lr as a number, got 'fast'"),
        (["token=swap"], "expected token as add or replace or damped, got 'swap'"),
        (["options=3"], "expected options as options"),
        (["crop=1"], "expected crop as several values"),
        (["clip=soft"], "expected clip as float or NoneType, got 'soft'"),
        (["loss=l2"], "expected a loss of paper"),
        (["warmup=60"], "warm-up of less than the 60 epochs"),
        (["batch_size=0"], "batch_size above 0"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UsageError) as caught:
        changed(recipe("digits-vit"), changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_good_settings():
    config = changed(
        recipe("digits-vit"), ["epochs=3", "warmup=0.5", "lr=1", "clip=None", "crop=0.5,1"]
    )
    assert (config.epochs, config.lr, config.clip, config.crop) == (3, 1, None, (0.5, 1))
    assert isinstance(config, PretrainConfig)


@pytest.mark.parametrize(
    ("name", "changes", "data", "message"),
    [
        ("digit-vit", (), "", "did you mean digits-vit"),
        ("a2mim-r50-in1k", (), "", "expected --data digits, cifar10, folder:PATH"),
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
