import os
import re
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch

from a2mim.recipes.pretrain import RECIPES, changed
from experiments.bench import gpu as module
from experiments.bench.contest import NoMoreTurnsError, packs, seconds
from experiments.bench.gpu import contests
from experiments.bench.table import MEMORY_USED, MINUTES
from interactions.patches import PatchGrid

SCRIPT = Path(module.__file__).with_name("gpu.sh")


@pytest.fixture
def shrunk(monkeypatch):
    """The same ways on the CPU, of tiny networks, images and turns; nothing is compiled."""
    vit = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": 32}
    make = module.create_model
    tiny = {
        "vit": partial(make, "vit_tiny_patch16_224", **vit),
        "cnn": partial(make, "test_resnet"),
    }
    values = {
        "DEVICE": "cpu",
        "IMAGE_SIZE": 32,
        "GRID": PatchGrid(4, 4),
        "FORWARDS": 2,
        "BATCH": 2,
        "GAMES": 1,
        "PAIRS": 1,
        "OCCLUDED": 4,
        "SIMILAR": 4,
        "HELD": 8,
        "create_model": lambda name: tiny[name](),
    }
    for name, value in values.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "_per_turn", lambda config: 4)
    monkeypatch.setattr(torch, "compile", lambda made, **_: made)
    options = {key: value for key, value in vit.items() if key != "img_size"}
    small = {"batch_size": 2, "epoch_images": 8, "precision": "float32"}
    trained = {}
    for name, (_, _, target, gigabytes) in module.TRAINED.items():
        recipe = name if name in RECIPES else "cifar10-vit"
        kind = {"model_kwargs": options, "image_size": 32}
        if "vit" not in name:
            kind = {"backbone": "test_resnet", "model_kwargs": {}, "image_size": 64}
        config = partial(changed, RECIPES[recipe](), **small, **kind, block=16)
        trained[name] = (config, 40, target, gigabytes)
    monkeypatch.setattr(module, "TRAINED", trained)
    monkeypatch.setattr(module, "MODELS", {"vit": 1.0, "cnn": 1.0})
    monkeypatch.setattr(module, "HIDDEN", ("vit",))


def turns_of(way, count=2):
    """Images of the first turns of a way."""
    found = []

    def turn(images):
        found.append(images)
        if len(found) == count:
            raise NoMoreTurnsError

    with pytest.raises(NoMoreTurnsError):
        way(turn)
    return found


@pytest.mark.integration
def test_every_way_of_training_does_as_many_images(shrunk):
    for contest in [module._training("cifar10-vit-gpu"), module._training("resnet50")]:
        (ours,) = contest.ours.values()
        for name, way in {**contest.bare, **ours}.items():
            assert turns_of(way) == [8 if "2048" in name else 4] * 2, name


@pytest.mark.integration
def test_every_way_of_measuring_does_as_many_images(shrunk):
    contest = module._measuring("vit")
    for way in contest.bare.values():
        assert turns_of(way) == [2, 2]
    images = {row: turns_of(way) for row, (way, *_) in of_rows(contest)}
    assert images["occlusion/gpu/vit"] == [4 * 10] * 2
    assert images["invariance/gpu/vit"] == [2 * 4 * 11] * 2
    first, second = images["interactions/gpu/vit"]
    assert first == second > 100


def of_rows(contest):
    return ((row, list(ways.values())) for row, ways in contest.ours.items())


def test_every_target_is_a_row():
    targets = {row: target for contest in contests() for row, target in contest.targets.items()}
    assert targets == {
        "pretrain/gpu/cifar10-vit-gpu": 0.85,
        "pretrain/gpu/cifar10-resnet-gpu": 0.85,
        "pretrain/gpu/tiny-imagenet100-vit": 0.85,
        "pretrain/gpu/tiny-imagenet100-resnet": 0.85,
        "pretrain/gpu/vit_base": 0.95,
        "pretrain/gpu/resnet50": 0.95,
        "interactions/gpu/vit_small": 0.95,
        "occlusion/gpu/vit_small": 0.85,
        "invariance/gpu/vit_small": 0.6,
        "interactions/gpu/resnet50": 0.95,
        "occlusion/gpu/resnet50": 0.85,
        "invariance/gpu/resnet50": 0.6,
        "interactions/gpu/vit_base": 0.95,
        "interactions/gpu/convnext_tiny": 0.95,
    }
    assert all(contest.targets.keys() == contest.ours.keys() for contest in contests())


def test_recipes_of_a_gpu_are_compiled_there(monkeypatch):
    """In the rows as in the command."""
    monkeypatch.setattr("a2mim.recipes.pretraining.compiles", lambda device: device == "cuda")
    for make, *_ in module.TRAINED.values():
        config = make()
        assert module.settled(config, "cuda").compile is True
        assert module.settled(config, "cuda").precision == "bfloat16"
        assert module.settled(config, "cpu").compile is False


def test_all_rows_take_at_most_six_minutes_on_a_gpu_of_80_gigabytes():
    made = packs(contests(), MEMORY_USED * 79)
    assert sum(seconds(pack, 3) for pack in made) <= 60 * MINUTES == 360


def test_the_script_takes_at_most_eight_minutes():
    text = SCRIPT.read_text()
    limits = [int(limit) for limit in re.findall(r'^ *part "?\$?\w+"? (\d+) ', text, re.M)]
    assert len(limits) == 4
    assert sum(limits) + limits[2] <= 480  # the third is run twice


@pytest.mark.integration
def test_the_script_goes_on_where_a_part_fails(tmp_path):
    """With a stand-in for python, which notes what it is asked for."""
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/bin/sh\necho "$@" >> $0.asked\n[ "$2" != pytest ]\n')
    stand_in.chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPT), str(tmp_path / "out"), str(tmp_path)],
        env=os.environ | {"PYTHON": str(stand_in)},
        capture_output=True,
        text=True,
    )
    asked = (tmp_path / "python.asked").read_text().splitlines()
    assert [line.split()[1] for line in asked] == [
        "experiments.bench",
        "pytest",
        "a2mim",
        "a2mim",
        "a2mim",
    ]
    assert done.returncode == 1
    assert "failed or cut after 60 s" in done.stdout
    assert f"--data folder:{tmp_path}/train" in asked[2]


@pytest.mark.gpu
def test_a_row_of_each_kind_on_a_gpu():
    for contest in (
        module._training("cifar10-vit-gpu"),
        module._measuring("vit_small_patch16_224"),
    ):
        for row, (way, *_) in of_rows(contest):
            assert min(turns_of(way)) > 0, row
