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
