import inspect
from dataclasses import replace

import pytest
import torch
from torch import nn

from a2mim.data.folders import DataError
from a2mim.data.limits import Tolerance
from a2mim.messages import UsageError
from a2mim.recipes.finetune import RECIPES as FINETUNE
from a2mim.recipes.pretrain import RECIPES as PRETRAIN
from a2mim.recipes.pretrain import CmaeTokens, changed
from a2mim.recipes.pretraining import method_of
from a2mim.recipes.training import (
    engine_arguments,
    errors_explained,
    schedule,
    start_of,
    tolerance,
    what_a_cut_changes,
)
from a2mim.training.loop import Interrupted, pretrain
from a2mim.training.state import CheckpointError


@pytest.mark.parametrize("config", [PRETRAIN["digits-vit"](), FINETUNE["digits"]()])
def test_settings_become_arguments_of_the_engine(config):
    arguments = engine_arguments(config, "cpu", 1000)
    assert arguments.keys() <= inspect.signature(pretrain).parameters.keys()
    made = {"cpu", "channels_last", "log_every", "lr", "normalise", "precision", "steps"}
    for key in arguments.keys() - made:
        assert arguments[key] == getattr(config, key)
    assert arguments["steps"] == 1000 * config.epochs
    assert arguments["lr"](5000, 0.5) == schedule(config, 1000 * config.epochs, 1000)(5000, 0.5)
    assert arguments["precision"] == "float32"
    assert engine_arguments(config, "cuda", 1000)["precision"] == "bfloat16"
    said = replace(config, precision="tf32")
    assert engine_arguments(said, "cuda", 1000)["precision"] == "tf32"
    assert arguments["cpu"] is True
    assert arguments["channels_last"] is False
    assert engine_arguments(config, "cuda", 1000)["channels_last"] is True
    said = replace(config, channels_last=False)
    assert engine_arguments(said, "cuda", 1000)["channels_last"] is False


def test_images_of_pre_training_are_normalised_as_the_recipe_says():
    config = PRETRAIN["cifar10-vit"]()
    white = engine_arguments(config, "cpu", 1)["normalise"](torch.full((1, 3, 2, 2), 255).byte())
    expected = (1 - torch.tensor(config.mean)) / torch.tensor(config.std)
    torch.testing.assert_close(white[0, :, 0, 0], expected)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_sharded_parameters_keep_their_layout(device):
    """The engine refuses fsdp with channels_last: what was left open becomes what it takes."""
    config = replace(PRETRAIN["digits-vit"](), fsdp=True)
    arguments = engine_arguments(config, device, 1000)
    assert (arguments["fsdp"], arguments["channels_last"]) == (True, False)
    said = replace(config, channels_last=True)
    assert engine_arguments(said, device, 1000)["channels_last"] is True


def test_a_search_for_unused_parameters_is_passed_on():
    config = replace(PRETRAIN["digits-vit"](), unused_parameters=True)
    assert engine_arguments(config, "cpu", 1000)["unused_parameters"] is True


@pytest.mark.parametrize(("steps", "every"), [(3, 1), (40, 4), (626, 50)])
def test_about_ten_reports_an_epoch(steps, every):
    assert engine_arguments(PRETRAIN["digits-vit"](), "cpu", steps)["log_every"] == every


@pytest.mark.parametrize("error", [CheckpointError, DataError, FloatingPointError, ValueError])
def test_errors_are_said_to_the_user(error):
    with pytest.raises(UsageError, match="what happened"), errors_explained():
        raise error("what happened")


def test_a_signal_is_an_interrupt():
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGTERM"), errors_explained():
        raise Interrupted("SIGTERM", 3, 10, None)


@pytest.mark.parametrize(
    ("name", "changes", "processes", "sees"),
    [
        ("digits-vit", {}, 1, None),
        ("digits-vit", {}, 2, "of the 64 images of a step, {spectrum} sees 32 at once"),
        ("digits-vit", {"accumulate": 2}, 1, "{spectrum} sees 32 at once"),
        ("digits-vit", {"accumulate": 2}, 2, "{spectrum} sees 16 at once"),
        ("digits-vit", {"loss": "paper", "accumulate": 2}, 2, None),
        ("digits-vit", {"fourier_weight": 0, "accumulate": 2}, 2, None),
        ("digits-resnet", {}, 2, "{spectrum} sees 32 and batch norm sees 32 at once"),
        ("digits-resnet", {"loss": "simmim"}, 2, "of a step, batch norm sees 32 at once"),
        ("digits-resnet", {"loss": "simmim", "sync_batchnorm": True}, 2, None),
        (
            "digits-resnet",
            {"sync_batchnorm": True, "accumulate": 2},
            2,
            "{spectrum} sees 16 and batch norm sees 32 at once",
        ),
        (
            "digits-vit",
            {"loss": "paper", "token_init": "mean", "accumulate": 2},
            1,
            "of a step, the mean of token_init=mean sees 32 at once",
        ),
        ("digits-vit", {"loss": "paper", "token_init": "instance_mean", "accumulate": 2}, 1, None),
        ("cifar10-mae", {"accumulate": 2}, 2, None),
        ("cifar10-rmae", {"accumulate": 2}, 2, None),
        ("cifar10-cmae", {}, 2, "the choice of negatives sees 64 at once"),
        ("cifar10-cmae", {"method": CmaeTokens(negatives="positions")}, 2, None),
    ],
)
def test_a_run_says_which_losses_depend_on_how_a_batch_is_cut(name, changes, processes, sees):
    config = changed(PRETRAIN[name](), **changes)
    said = what_a_cut_changes(method_of(config), config, processes)
    if sees is None:
        assert said is None
    else:
        assert said.startswith("losses are not those of one process without accumulate: ")
        assert said.endswith(
            sees.format(
                spectrum=f"the mean spectrum of loss={getattr(config.method, 'loss', None)}"
            )
        )


def test_batch_norm_sees_as_little_in_fine_tuning():
    config = replace(FINETUNE["digits"](), batch_size=64, accumulate=4)
    said = what_a_cut_changes(nn.Sequential(nn.BatchNorm2d(3)), config, 2)
    assert said.endswith("of the 64 images of a step, batch norm sees 8 at once")
    assert what_a_cut_changes(nn.Sequential(nn.LayerNorm(3)), config, 2) is None


def test_a_share_allows_a_few_always_unless_it_is_nothing():
    assert tolerance(0.05) == Tolerance(10, 0.05)
    assert tolerance(0) == Tolerance(0, 0)


def test_the_line_before_the_first_step():
    config = replace(PRETRAIN["digits-vit"](), epochs=2)
    said = start_of(nn.Linear(999, 1000), config, 898, 28, "cpu")
    assert said == (
        "plan: 2 epochs of 898 images, 28 steps of 64, on cpu in float32, 1 M parameters"
    )
