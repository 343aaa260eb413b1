import inspect
from dataclasses import replace

import pytest

from a2mim.data import DataError
from a2mim.engine import Interrupted, pretrain
from a2mim.state import CheckpointError
from experiments.configs.finetune import RECIPES as FINETUNE
from experiments.configs.pretrain import RECIPES as PRETRAIN
from experiments.runs import UsageError
from experiments.training import engine_arguments, errors_explained


@pytest.mark.parametrize("config", [PRETRAIN["digits-vit"](), FINETUNE["digits"]()])
def test_settings_become_arguments_of_the_engine(config):
    arguments = engine_arguments(config, "cpu", 1000)
    assert arguments.keys() <= inspect.signature(pretrain).parameters.keys()
    for key in arguments.keys() - {"cpu", "channels_last", "log_every"}:
        assert arguments[key] == getattr(config, key)
    assert arguments["cpu"] is True
    assert arguments["channels_last"] is False
    assert engine_arguments(config, "cuda", 1000)["channels_last"] is True
    said = replace(config, channels_last=False)
    assert engine_arguments(said, "cuda", 1000)["channels_last"] is False


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
