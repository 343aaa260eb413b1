"""What pre-training and fine-tuning share: the engine's arguments, and how its errors are said.

A line, too, on what the cut of a batch into micro-batches and processes changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from a2mim.data.augment import Normalise
from a2mim.data.folders import DataError
from a2mim.data.limits import TOLERANCE, Tolerance
from a2mim.messages import UsageError
from a2mim.methods.masked_image_model import MaskedImageModel
from a2mim.processes import process_rank
from a2mim.recipes.finetune import FinetuneConfig
from a2mim.recipes.pretrain import A2mim, Cmae, CmaeTokens, PretrainConfig
from a2mim.runs.progress import worked_with
from a2mim.training.arithmetic import compiles, fastest
from a2mim.training.loop import Interrupted
from a2mim.training.optim import cosine_lr, plain_cosine_lr, step_lr
from a2mim.training.state import CheckpointError


def engine_arguments(
    config: PretrainConfig | FinetuneConfig, device: str, steps_per_epoch: int
) -> dict[str, Any]:
    """The arguments of ``a2mim.training.loop.pretrain`` that a configuration settles.

    Args:
        config: of the run.
        device: cpu or cuda.
        steps_per_epoch: about ten reports are made in an epoch, and one every 50 steps at least.
    """
    only: dict[str, Any]
    if isinstance(config, PretrainConfig):
        only = {
            "normalise": Normalise(config.mean, config.std),
            "fsdp": config.fsdp,
            "unused_parameters": config.unused_parameters,
        }
    else:
        only = {"repeats": config.repeats}
    # Parameters spread over processes have no such layout.
    usual_layout = device == "cuda" and not only.get("fsdp")
    steps = config.epochs * steps_per_epoch
    return {
        **only,
        "lr": schedule(config, steps, steps_per_epoch),
        "steps": steps,
        "batch_size": config.batch_size,
        "accumulate": config.accumulate,
        "clip": config.clip,
        "ema": config.ema,
        "seed": config.seed,
        "precision": config.precision or fastest(device),
        "compile": compiles(device) if config.compile is None else config.compile,
        "channels_last": usual_layout if config.channels_last is None else config.channels_last,
        "sync_batchnorm": config.sync_batchnorm,
        "cpu": device == "cpu",
        "workers": config.workers,
        "log_every": max(min(steps_per_epoch // 10, 50), 1),
    }


def schedule(
    config: PretrainConfig | FinetuneConfig, steps: int, steps_per_epoch: int
) -> Callable[[int, float], float]:
    """From step and a scale of the peak to the learning rate."""
    warmup, final = round(config.warmup * steps_per_epoch), config.final_lr
    if config.schedule == "cosine":
        return lambda step, scale: cosine_lr(step, steps, warmup, config.lr * scale, final)
    if config.schedule == "step":
        drop = round(config.epochs * 7 / 8) * steps_per_epoch
        return lambda step, scale: step_lr(
            step, drop=drop, warmup=warmup, peak=config.lr * scale, warmup_ratio=2e-6
        )
    ratio = config.warmup_ratio if isinstance(config, FinetuneConfig) else 0.0
    return lambda step, scale: plain_cosine_lr(step, steps, warmup, config.lr * scale, final, ratio)


def announce(
    method: nn.Module,
    config: PretrainConfig | FinetuneConfig,
    images: int,
    steps: int,
    device: str,
) -> None:
    """Say what will be done; the arguments are those of :func:`start_of`.

    Of several processes the first one speaks.
    """
    rank, ranks = process_rank()
    if rank > 0:
        return
    print(start_of(method, config, images, steps, device))
    if cut := what_a_cut_changes(method, config, ranks):
        print(cut)


def start_of(
    method: nn.Module,
    config: PretrainConfig | FinetuneConfig,
    images: int,
    steps: int,
    device: str,
) -> str:
    """The line before the first step.

    Args:
        method: what is trained.
        config: of the run.
        images: of an epoch.
        steps: in all.
        device: cpu or cuda.
    """
    parameters = sum(parameter.numel() for parameter in method.parameters())
    return (
        f"plan: {config.epochs} epochs of {images} images, {steps} steps of {config.batch_size}, "
        + worked_with(device, config.precision or fastest(device), [parameters])
    )


def tolerance(unreadable: float) -> Tolerance:
    """What the setting ``unreadable`` allows: a share of images, and a few unless it is 0."""
    return Tolerance(TOLERANCE.least if unreadable else 0, unreadable)


def what_a_cut_changes(
    method: nn.Module, config: PretrainConfig | FinetuneConfig, processes: int
) -> str | None:
    """One line on why losses are not those of one process that sees a batch at once.

    Args:
        method: what is trained.
        config: of the run.
        processes: how many share a batch.

    Returns:
        What sees how many images; None if the batch is not cut, or no loss mixes its images.
    """
    at_once = config.batch_size // (config.accumulate * processes)
    sees: dict[str, int] = {}
    if isinstance(config, PretrainConfig):
        of = config.method
        if isinstance(of, A2mim):
            assert isinstance(method, MaskedImageModel)
            if method.loss.fourier_weight and method.loss.reduce_spectrum == "batch":
                sees[f"the mean spectrum of loss={of.loss}"] = at_once
            if of.token_init == "mean":
                sees["the mean of token_init=mean"] = at_once
        elif isinstance(of, Cmae) or (isinstance(of, CmaeTokens) and of.negatives != "positions"):
            sees["the choice of negatives"] = at_once
    if any(isinstance(module, _BatchNorm) for module in method.modules()):
        sees["batch norm"] = at_once * (processes if config.sync_batchnorm else 1)
    parts = [f"{what} sees {n}" for what, n in sees.items() if n < config.batch_size]
    if not parts:
        return None
    return (
        f"losses are not those of one process without accumulate: of the {config.batch_size} "
        f"images of a step, {' and '.join(parts)} at once"
    )


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
