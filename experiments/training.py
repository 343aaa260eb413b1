"""What pre-training and fine-tuning share: the engine's arguments, and how its errors are said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from a2mim.data import DataError
from a2mim.engine import Interrupted
from a2mim.state import CheckpointError
from experiments.configs.finetune import FinetuneConfig
from experiments.configs.pretrain import PretrainConfig
from experiments.runs import UsageError


def engine_arguments(
    config: PretrainConfig | FinetuneConfig, device: str, steps_per_epoch: int
) -> dict[str, Any]:
    """The arguments of ``a2mim.engine.pretrain`` that a configuration settles.

    Args:
        config: of the run.
        device: cpu or cuda.
        steps_per_epoch: about ten reports are made in an epoch, and one every 50 steps at least.
    """
    only: dict[str, Any] = {}
    if isinstance(config, PretrainConfig):
        only = {"fsdp": config.fsdp, "unused_parameters": config.unused_parameters}
    # Parameters spread over processes have no such layout.
    usual_layout = device == "cuda" and not only.get("fsdp")
    return {
        **only,
        "batch_size": config.batch_size,
        "accumulate": config.accumulate,
        "clip": config.clip,
        "ema": config.ema,
        "seed": config.seed,
        "precision": config.precision,
        "compile": config.compile,
        "channels_last": usual_layout if config.channels_last is None else config.channels_last,
        "sync_batchnorm": config.sync_batchnorm,
        "cpu": device == "cpu",
        "workers": config.workers,
        "log_every": max(min(steps_per_epoch // 10, 50), 1),
    }


@contextmanager
def errors_explained() -> Iterator[None]:
    """What ends training, as the command says it.

    Raises:
        UsageError: for what the user can mend.
        KeyboardInterrupt: if a signal stopped it, after a checkpoint.
    """
    try:
        yield
    except (CheckpointError, DataError, FloatingPointError, ValueError) as error:
        raise UsageError(str(error)) from error
    except Interrupted as error:
        raise KeyboardInterrupt(str(error)) from error
