"""Pre-training on one or many devices: the loop, and what makes it stop and go on.

    theta_{s+1} = optimiser(theta_s, lr(s), mean over the batch of step s of d loss / d theta)

accelerate brings the device, DDP, mixed precision and the postponed exchange of gradients; images
and their order are ours (``sampler``), because only then is a resumed run the same run. What is
drawn in step s is keyed by (seed, s): a mask also by the number of its image, what a supervised
method mixes images by for the whole batch at once, so that both are the same for any number of
processes and micro-batches; dropout also by the process. Nothing depends on, or
moves, the global random state, and so a checkpoint (``state``) need not hold any.

With several processes, a loss that is a mean over images gives the gradients of one process. Losses
that mix images of a batch (batch norm, spectra averaged over a batch) see a micro-batch. Every
process holds all weights (DDP), or a part of them (``fsdp``, see ``sharding``).

Images come by index, or from a stream of shards, whose order also depends on the numbers of
processes, micro-batches and workers (``loading``).

Shapes: I images, G in a batch over all processes, M in a micro-batch, N mask blocks, C channels,
H x W pixels, R processes.
"""

from __future__ import annotations

import signal
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
)
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer

from a2mim.data.loader import load, stream_order
from a2mim.data.sampler import Batches, MicroBatches, Samples, keyed_seed
from a2mim.data.stream import ShardStream
from a2mim.training.arithmetic import Precision, check_precision, float32_products
from a2mim.training.sharding import exchange_parameters, gather, sharded, whole
from a2mim.training.state import (
    IMPLEMENTATION,
    CheckpointError,
    latest,
    load_latest,
    prepare_folder,
    restore,
    save_checkpoint,
    whole_tensors,
)

Scalars = dict[str, Tensor]


class Method(Protocol):
    """A training method: an ``nn.Module`` with these two.

    One, supervised or not, with a method ``after_step()`` has it called after every step of the
    optimiser, but not after one that float16 skips: for what follows the weights, as a slow copy
    does.
    """

    def draw(self, images_B: Tensor, seed: int) -> Tensor:
        """Masks bool ``(B, N)`` of images with these numbers, on the device of the numbers.

        The row of an image depends on the seed and on its own number alone.
        """
        ...

    def forward(self, images_BCHW: Tensor, visible_BN: Tensor, /) -> dict[str, Tensor]:
        """At least ``loss`` (a scalar) and ``output``; other scalars are parts of the loss.

        Args:
            images_BCHW: the images.
            visible_BN: their masks.
        """
        ...


class SupervisedMethod(Protocol):
    """A method for images with labels: an ``nn.Module`` with these two."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Random rows for the images of a whole batch, one each, on the generator's device.

        Such as coefficients to mix images by, of any type and shape behind ``count``.
        """
        ...

    def forward(
        self, images_BCHW: Tensor, rows_BN: Tensor, labels_B: Tensor, /
    ) -> dict[str, Tensor]:
        """As that of a :class:`Method`, for images, their rows of what was drawn, and classes."""
        ...


@dataclass(frozen=True)
class Saving:
    """When and where checkpoints are written; the last step always is.

    Attributes:
        folder: of this run only. With several machines all must see it.
        every_steps: after this many steps.
        every_minutes: after this many minutes, by the clock of the first process.
        keep: how many stay.
        settings: what else decides the result (model, data, augmentation): JSON values. Together
            with the engine's own it has to be the same when a run goes on.
        export: called by the first process with the steps that are done and the weights of then,
            ``model/<name>`` and, with averaging, ``ema/<name>``: before the first step, and after
            every ``export_steps``. A run that goes on calls it again with the same.
        export_steps: steps between exports.
    """

    folder: Path
    every_steps: int | None = None
    every_minutes: float | None = 30.0
    keep: int = 2
    settings: Mapping[str, object] = field(default_factory=dict)
    export: Callable[[int, Mapping[str, Tensor]], None] | None = None
    export_steps: int = 1

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"expected to keep at least 1 checkpoint, got {self.keep}")
        for value, name in ((self.every_steps, "steps"), (self.every_minutes, "minutes")):
            if value is not None and value <= 0:
                raise ValueError(f"expected checkpoints every positive {name}, got {value}")
        if self.export_steps < 1:
            raise ValueError(f"expected exports every 1 or more steps, got {self.export_steps}")

    def planned(self, done: int, steps: int) -> bool:
        """Whether the number of steps that are done asks for a checkpoint."""
        return done == steps or bool(self.every_steps and done % self.every_steps == 0)

    def exports(self, done: int) -> bool:
        """Whether the weights of that step are exported."""
        return self.export is not None and done % self.export_steps == 0


@dataclass(frozen=True)
class StepReport:
    """One logged step.

    Attributes:
        step: how many steps are done, this one included.
        epoch: the epoch of its images.
        lr: its learning rate, before the scales of parameter groups.
        losses: ``loss`` and its parts: means over the whole batch.
        grad_norm: norm of the gradient before it was clipped; None without clipping.
        images_per_second: over all processes, since the last report.
        skipped: unreadable images that any process has met since the run began or was resumed;
            None where images cannot be unreadable.
    """

    step: int
    epoch: int
    lr: float
    losses: dict[str, float]
    grad_norm: float | None
    images_per_second: float
    skipped: int | None = None


@dataclass(frozen=True)
class Trained:
    """What training leaves, besides the method's own weights.

    Attributes:
        steps: how many steps were done in all.
        resumed_from: how many of them earlier runs did.
        ema: a copy of the method with averaged weights, in eval mode; None without averaging.
        device: where it ran.
    """

    steps: int
    resumed_from: int
    ema: nn.Module | None
    device: torch.device


class Interrupted(Exception):
    """Training was stopped by a signal, after a whole step and a checkpoint.

    Attributes:
        signal: its name.
        step: how many steps are done.
        checkpoint: where to go on from; None if nothing was to be saved.
    """

    def __init__(self, signal: str, step: int, steps: int, checkpoint: Path | None) -> None:
        saved = (
            f"saved in {checkpoint}; the same call goes on from there"
            if checkpoint
            else "nothing was saved: it had no folder for checkpoints"
        )
        super().__init__(f"stopped by {signal} after step {step} of {steps}, {saved}")
        self.signal = signal
        self.step = step
        self.checkpoint = checkpoint


def pretrain(
    method: nn.Module,
    samples: Samples | ShardStream,
    optimiser: Optimizer,
    lr: Callable[[int, float], float],
    *,
    batch_size: int,
    labels_I: Tensor | None = None,
    normalise: Callable[[Tensor], Tensor] | None = None,
    repeats: int = 1,
    steps: int | None = None,
    epochs: int | None = None,
    accumulate: int = 1,
    clip: float | None = None,
    ema: float | None = None,
    seed: int = 0,
    precision: Precision = "float32",
    compile: bool = False,
    channels_last: bool = False,
    sync_batchnorm: bool = False,
    unused_parameters: bool = False,
    fsdp: bool = False,
    cpu: bool = False,
    workers: int = 0,
    log_every: int = 10,
    on_step: Callable[[StepReport], None] = lambda report: None,
    saving: Saving | None = None,
    resume: bool = True,
) -> Trained:
    """Train a method on images, on the devices that this process and its peers were given.

    Started by ``torchrun`` or ``accelerate launch``, every process calls this with the same
    arguments. Only the first one calls ``on_step`` and writes checkpoints.

    SIGTERM and SIGINT (Ctrl-C) end training after the current step - with several processes, after
    the next one that ``log_every`` divides - with a checkpoint and :class:`Interrupted`. A second
    Ctrl-C ends it at once. The handlers from before are put back.

    Losses stay on the device. Their finiteness is noted there in every step, and looked at in
    every step that is logged or saved; the error names the step it happened in, and weights from
    after it are never saved.

    Args:
        method: a :class:`Method`, or with labels a :class:`SupervisedMethod`; moved to the device,
            put in training mode, and in eval mode at the end.
        samples: the images, by index or a stream of shards. A run with a stream goes on with the
            numbers of processes, micro-batches and workers that it began with; after a stop in
            mid-epoch it first reads again what it has seen of that epoch.
        optimiser: over the method's parameters.
        lr: from the step (from 0) and the ``lr_scale`` of a group of parameters (1 if it has none)
            to its learning rate, without a memory. The official schedules scale the peak and end
            at the same rate.
        batch_size: G, images per optimiser step over all processes and micro-batches.
        labels_I: int64 classes of the images, for a supervised method; not for streams. An image in
            the place of an unreadable one has the label of that one.
        normalise: what uint8 images go through on the device, to become float32.
        repeats: how often an image comes in a batch, drawn anew each time (see ``Batches``); not
            for streams.
        steps: optimiser steps in all, those before a resume included.
        epochs: instead of steps.
        accumulate: micro-batches per step and process.
        clip: largest norm of the gradient.
        ema: decay per step of averaged weights.
        seed: names the order of images, the masks and dropout.
        precision: see :mod:`a2mim.training.arithmetic`. ``"float16"`` needs an accelerator,
            and waits for it in every step, to know whether that is skipped.
        compile: whether to use ``torch.compile``.
        channels_last: whether images and kernels have channels last in memory, faster for CNNs.
        sync_batchnorm: with several processes, turn batch norms into those that see the images of
            all of them; the method stays so.
        unused_parameters: with several processes that hold all weights, look for parameters
            without a gradient.
        fsdp: spread weights, gradients and the optimiser's state over several processes. What is
            trained then is a copy: the method stays on its device, and has the new weights when
            all is done or was interrupted. Checkpoints are the same as without. The optimiser is
            one whose state has the shapes of the parameters, as those of SGD and Adam.
        cpu: stay on the CPU even if there is an accelerator.
        workers: processes per process that load images; 0 loads in between steps.
        log_every: steps from report to report.
        on_step: called with the report of every step that ``log_every`` divides, and of the last of
            every epoch.
        saving: when and where to write checkpoints.
        resume: whether to go on from the last checkpoint in the folder. If not, it has to be empty.

    Raises:
        ValueError: for arguments that do not go together.
        CheckpointError: if a checkpoint cannot be written, read, or is another run's.
        DataError: if too many images are unreadable: several processes count together, and end
            together at the next step that is logged or saved.
        FloatingPointError: if a loss is not finite.
        Interrupted: if a signal stopped it.
    """
    if repeats > 1 and isinstance(samples, ShardStream):
        raise ValueError("expected images by index for repeats, got a stream; use TarSamples")
    batches = Batches(len(samples), batch_size, seed, repeats)
    steps = _steps(batches, steps, epochs)
    if log_every < 1:
        raise ValueError(f"expected a report every 1 or more steps, got {log_every}")
    if labels_I is not None:
        labels_I = _labels(labels_I, samples)
    _check_parameters(method, optimiser)
    accelerator = _accelerator(precision, accumulate, cpu, unused_parameters)
    device, rank, ranks = accelerator.device, accelerator.process_index, accelerator.num_processes
    share = partial(MicroBatches, batches, rank=rank, ranks=ranks, accumulate=accumulate)
    load(samples, share(0, steps))  # whether batches can be cut, before anything is changed
    if fsdp:
        _check_fsdp(ranks, precision, channels_last)
    if sync_batchnorm and ranks > 1:
        method = _synchronised(method, device)
    layout = torch.channels_last if channels_last else torch.preserve_format
    method.train()
    if not fsdp:
        method.to(device)
    if channels_last:
        cast(Any, method).to(memory_format=layout)
    learner, average = method, None
    if ema is not None:
        # Operations on many tensors at once refuse a mixture of sharded and whole ones.
        average = ModelEmaV3(method, decay=ema, foreach=not fsdp).requires_grad_(False)
    averaged: Any = None if average is None else average.module
    if fsdp:
        learner = sharded(method, device)
        exchange_parameters(optimiser, method, learner)
        if average is not None:
            average.module = sharded(averaged, device)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    wrapped = _Scalars(learner)
    if compile:
        wrapped.compile()
    # Sharded modules exchange their gradients themselves, in every micro-batch: no DDP around them.
    model = accelerator.prepare_model(wrapped, evaluation_mode=fsdp)
    prepared = accelerator.prepare_optimizer(optimiser)
    after_step: Callable[[], None] | None = getattr(learner, "after_step", None)

    parts = {"model": learner} | ({} if average is None else {"ema": average.module})
    settings = _settings(batches, steps, clip, ema, precision, method, optimiser, lr)
    if labels_I is not None:
        settings["labels"] = zlib.crc32(labels_I.numpy().tobytes())
    if repeats > 1:
        settings["repeats"] = repeats
    if isinstance(samples, ShardStream):
        settings["stream"] = stream_order(samples, share(0, steps), workers)
    start = 0
    if saving:
        settings["run"] = dict(saving.settings)
        start = _resumed(accelerator, saving, settings, parts, optimiser, resume)
        if start == 0:
            _export(accelerator, saving, 0, parts)

    damage = getattr(samples, "damage", None)
    if damage is not None:
        damage.together = ranks > 1
    micro_batches = share(start, steps)
    read = load(samples, micro_batches, workers=workers, device=device)
    loaded = _on_device(read, device, layout, normalise)
    watch = _Watch(None if saving is None else saving.every_minutes)
    bad_step = torch.full((), torch.inf, device=device)
    done = start
    with (
        _stop_signals(alone=ranks == 1) as stop,
        closing(loaded) as images,
        _quiet_strides(),
        _fastest_convolutions(device),
        float32_products(precision, device),
    ):
        for step in range(start, steps):
            for group in optimiser.param_groups:
                group["lr"] = lr(step, group.get("lr_scale", 1.0))
            rate = lr(step, 1.0)
            draws_A = _draws(learner, labels_I, micro_batches, step)
            with _keyed_dropout(device, seed, "dropout", step, rank), _unused_explained():
                losses = _backward(accelerator, model, images, draws_A)
            norm = accelerator.clip_grad_norm_(parameters, clip) if clip is not None else None
            prepared.step()
            prepared.zero_grad()
            if after_step is not None and not prepared.step_was_skipped:
                after_step()
            if average is not None:
                average.update(learner)
            now = torch.full_like(bad_step, step).masked_fill_(losses["loss"].isfinite(), torch.inf)
            bad_step = torch.minimum(bad_step, now)

            done = step + 1
            logged = 0 in (done % log_every, done % batches.per_epoch) or done == steps
            planned = saving is not None and saving.planned(done, steps)
            exported = saving is not None and saving.exports(done)
            alone = ranks == 1 and (stop.received is not None or watch.due())
            if not (logged or planned or exported or alone):
                continue
            # Here, and only here, the loop waits for the device and processes agree on what to do.
            met = _meet(accelerator, bad_step, stop.received is not None, watch.due(), losses)
            skipped = None if damage is None else _unreadable(accelerator, damage)
            clipped = float(whole(norm)) if logged and norm is not None else None
            if logged and accelerator.is_main_process:
                pace = watch.pace((done - start) * batch_size)
                epoch = step // batches.per_epoch
                on_step(StepReport(done, epoch, rate, met.losses, clipped, pace, skipped))
                learner.train()  # whatever mode a look at the model has left
            # One process need not keep to what it knew before its report.
            stopping = met.stop if ranks > 1 else stop.received is not None
            due = met.due if ranks > 1 else watch.due()
            if saving:  # before the checkpoint: a run that goes on from it has them all
                _export(accelerator, saving, done, parts)
            if saving and (planned or stopping or due):
                if accelerator.is_main_process or fsdp:
                    save_checkpoint(
                        saving.folder,
                        done,
                        modules=parts,
                        optimiser=optimiser,
                        settings=settings,
                        scalars={"scaler": accelerator.scaler and accelerator.scaler.state_dict()},
                        keep=saving.keep,
                        write=accelerator.is_main_process,
                    )
                watch.saved()
            if stopping:
                stop.received = stop.received or "a signal to another process"
                break
    accelerator.wait_for_everyone()  # after this the last checkpoint is there for all
    if fsdp:
        gather(learner, method)
        exchange_parameters(optimiser, learner, method)
        if average is not None:
            gather(average.module, averaged)
    method.eval()
    if stop.received:
        raise Interrupted(stop.received, done, steps, latest(saving.folder) if saving else None)
    return Trained(steps, start, averaged, device)


class _Scalars(nn.Module):
    """A method without its output: what would be copied, converted and kept is not needed.

    accelerate changes the ``forward`` of what it prepares; so it changes this one.
    """

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(self, images_MCHW: Tensor, *rows_M: Tensor) -> Scalars:
        losses = self.method(images_MCHW, *rows_M)
        return {name: value for name, value in losses.items() if value.ndim == 0}


def _steps(batches: Batches, steps: int | None, epochs: int | None) -> int:
    if (steps is None) == (epochs is None):
        raise ValueError(f"expected either steps or epochs, got {steps} and {epochs}")
    steps = epochs * batches.per_epoch if epochs is not None else cast(int, steps)
    if steps < 1:
        raise ValueError(f"expected at least 1 step, got {steps}")
    return steps


def _labels(labels_I: Tensor, samples: Samples | ShardStream) -> Tensor:
    if isinstance(samples, ShardStream):
        raise ValueError("expected images by index for labels, got a ShardStream; use TarSamples")
    if labels_I.shape != (len(samples),) or labels_I.dtype != torch.int64:
        raise ValueError(
            f"expected int64 labels ({len(samples)},), one per image, "
            f"got {labels_I.dtype} {tuple(labels_I.shape)}"
        )
    return labels_I.cpu()


def _check_parameters(method: nn.Module, optimiser: Optimizer) -> None:
    known = {id(parameter) for parameter in method.parameters()}
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    if not all(id(parameter) in known for parameter in parameters):
        raise ValueError("expected an optimiser over parameters of the method, it has others")


def _check_fsdp(ranks: int, precision: Precision, channels_last: bool) -> None:
    if ranks == 1:
        raise ValueError("expected several processes for fsdp, got 1; start more, or leave it off")
    if precision == "float16":
        raise ValueError("expected bfloat16 or float32 with fsdp, got float16")
    if channels_last:
        raise ValueError("expected fsdp or channels_last, got both; torch shards no such kernels")


def _accelerator(
    precision: Precision, accumulate: int, cpu: bool, unused_parameters: bool
) -> Accelerator:
    # accelerate keeps one state per process, and would refuse a second run of another precision.
    alone = not torch.distributed.is_initialized()
    AcceleratorState._reset_state(reset_partial_state=alone)
    accelerator = Accelerator(
        mixed_precision={"float16": "fp16", "bfloat16": "bf16"}.get(precision, "no"),
        cpu=cpu,
        # given as a plugin, because an environment variable outdoes the plain number
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulate),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused_parameters)],
    )
    check_precision(precision, accelerator.device)
    return accelerator


def _synchronised(method: nn.Module, device: torch.device) -> nn.Module:
    if device.type == "cpu":
        raise ValueError("expected accelerators for sync_batchnorm, got CPUs; leave it off")
    return convert_sync_batchnorm(method)  # timm's: torch's loses the activation of timm's norms


Draw = Callable[[Tensor, torch.device], tuple[Tensor, ...]]
"""Indices ``(M,)`` of a micro-batch -> what its method is called with, behind the images."""


def _draws(
    learner: nn.Module, labels_I: Tensor | None, micro_batches: MicroBatches, step: int
) -> list[Draw]:
    """What is drawn in a step for each of this process's micro-batches, when it is there."""
    batches = micro_batches.batches
    key = keyed_seed(batches.seed, "masks", step)

    def masks(copies_M: Tensor, index_M: Tensor, device: torch.device) -> tuple[Tensor, ...]:
        # Copies of an image in one batch have numbers of their own.
        numbers_M = (index_M * batches.repeats + copies_M).to(device, non_blocking=True)
        return (cast(Method, learner).draw(numbers_M, key),)

    def mixing(rows_M: Tensor, index_M: Tensor, device: torch.device) -> tuple[Tensor, ...]:
        labels_M = cast(Tensor, labels_I)[index_M]
        return tuple(row_M.to(device, non_blocking=True) for row_M in (rows_M, labels_M))

    if labels_I is None:
        copies_A = micro_batches.share(batches.draws(step) % batches.repeats)
        return [partial(masks, copies_M) for copies_M in copies_A]
    generator = torch.Generator().manual_seed(key)
    rows_GN = cast(SupervisedMethod, learner).draw(batches.size, generator)
    return [partial(mixing, rows_M) for rows_M in micro_batches.share(rows_GN)]


def _on_device(
    batches: Generator[dict[str, Tensor], None, None],
    device: torch.device,
    layout: torch.memory_format,
    normalise: Callable[[Tensor], Tensor] | None,
) -> Generator[dict[str, Tensor], None, None]:
    """Micro-batches whose images are on the device, float32; close it and it closes them."""
    with closing(batches):
        for batch in batches:
            images = batch["image"].to(device, non_blocking=True, memory_format=layout)
            if images.dtype == torch.uint8:
                if normalise is None:
                    raise ValueError("expected float32 images, or normalise for uint8 ones")
                images = normalise(images)
            yield batch | {"image": images}


def _backward(
    accelerator: Accelerator,
    model: nn.Module,
    images: Iterator[dict[str, Tensor]],
    draws_A: Sequence[Draw],
) -> Scalars:
    """Gradients of one step; its losses, still on the device, over this process's images."""
    sums: Scalars = {}
    for k, draw in enumerate(draws_A):
        batch = next(images)
        rows = draw(batch["index"], accelerator.device)
        last = k == len(draws_A) - 1
        with nullcontext() if last else accelerator.no_sync(model):
            losses = model(batch["image"], *rows)
            accelerator.backward(losses["loss"])  # divided by the number of micro-batches there
        for name, value in losses.items():
            part = value.detach().float() / len(draws_A)
            sums[name] = sums[name] + part if name in sums else part
    return sums


@dataclass(frozen=True)
class _Meeting:
    """What all processes know after they met."""

    losses: dict[str, float]
    stop: bool
    due: bool


def _meet(
    accelerator: Accelerator, bad_step: Tensor, stop: bool, due: bool, losses: Scalars
) -> _Meeting:
    flags = torch.tensor([stop, due], dtype=torch.float32, device=accelerator.device)
    row = torch.cat([bad_step[None], flags, torch.stack(list(losses.values()))])
    table = cast(Tensor, accelerator.gather(row[None])).cpu()
    bad, stops, dues = table[:, :3].T
    if bad.min().isfinite():
        raise FloatingPointError(
            f"the loss is not finite at step {int(bad.min())}; lower the learning rate, clip the "
            "gradient, or use bfloat16 or float32 instead of float16"
        )
    return _Meeting(
        losses=dict(zip(losses, table[:, 3:].mean(dim=0).tolist(), strict=True)),
        stop=bool(stops.any()),
        due=bool(dues[0]),  # one clock decides
    )


def _unreadable(accelerator: Accelerator, damage: Any) -> int:
    """How many images could not be read in any process; all know of all of them afterwards.

    Raises:
        DataError: in all processes, if there are too many.
    """
    if accelerator.num_processes > 1:
        marks = damage.marks().to(accelerator.device)
        torch.distributed.all_reduce(marks, torch.distributed.ReduceOp.MAX)
        damage.learn(marks.cpu())
        damage.check()
    count: int = damage.count()
    return count


def _settings(
    batches: Batches,
    steps: int,
    clip: float | None,
    ema: float | None,
    precision: Precision,
    method: nn.Module,
    optimiser: Optimizer,
    lr: Callable[[int, float], float],
) -> dict[str, object]:
    """What decides the result, for a checkpoint; not processes, micro-batches or workers.

    These matter to the order of a stream, which is added.
    """
    passing = ("params", "param_names", "lr", "initial_lr", *IMPLEMENTATION)
    groups = [
        {"parameters": len(group["params"])}
        | {k: v for k, v in group.items() if k not in passing and not isinstance(v, Tensor)}
        for group in optimiser.param_groups
    ]
    return {
        "images": batches.images,
        "batch_size": batches.size,
        "seed": batches.seed,
        "steps": steps,
        # a function cannot be compared, its values can
        "lr": {str(step): lr(step, 1.0) for step in sorted({0, steps // 2, steps - 1})},
        "clip": clip,
        "ema": ema,
        "precision": precision,
        "method": type(method).__name__,
        "optimiser": {"kind": type(optimiser).__name__, "groups": groups},
    }


def _export(
    accelerator: Accelerator, saving: Saving, done: int, parts: Mapping[str, nn.Module]
) -> None:
    """Hand on the weights of a step, if it is their turn; sharded ones need all processes."""
    if saving.export is None or not saving.exports(done):
        return
    weights = whole_tensors(parts, accelerator.is_main_process)
    if accelerator.is_main_process:
        saving.export(done, weights)


def _resumed(
    accelerator: Accelerator,
    saving: Saving,
    settings: Mapping[str, object],
    parts: Mapping[str, nn.Module],
    optimiser: Optimizer,
    resume: bool,
) -> int:
    """How many steps are done; weights and optimiser are then those of the checkpoint."""
    if accelerator.is_main_process:
        prepare_folder(saving.folder)
    accelerator.wait_for_everyone()
    last = latest(saving.folder)
    if last and not resume:
        raise CheckpointError(
            f"expected an empty folder for a new run, found {last}; "
            "resume it, remove it, or use another folder"
        )
    found = load_latest(saving.folder, settings)
    step = found.step if found else 0
    own = torch.tensor([step], device=accelerator.device)
    all_steps = cast(Tensor, accelerator.gather(own)).tolist()
    if len(set(all_steps)) > 1:
        raise CheckpointError(
            f"expected all processes to see the same checkpoint, they see steps {all_steps}; "
            f"put {saving.folder} where all machines can read it"
        )
    if found:
        restore(found, parts, optimiser)
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(found.scalars["scaler"])
    return step


@contextmanager
def _keyed_dropout(device: torch.device, *key: int | str) -> Iterator[None]:
    """The global generators, which dropout takes, at a keyed place; afterwards where they were."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        seed = keyed_seed(*key)
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        yield


@contextmanager
def _fastest_convolutions(device: torch.device) -> Iterator[None]:
    """On CUDA, cuDNN tries its algorithms for every shape: here all batches have the same."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def _quiet_strides() -> Iterator[None]:
    """Without DDP's warning of gradients laid out in another way.

    It compares strides of axes of length 1 too, which mean nothing: those of 1 x 1 kernels.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        yield


@contextmanager
def _unused_explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "find_unused_parameters" not in str(error):  # DDP's name for it, in a long message
            raise
        raise ValueError(
            "expected a gradient for every parameter, some have none; "
            "freeze them, leave out the classifier, or use unused_parameters=True"
        ) from error


class _Stop:
    """Whether a signal has asked to stop, and which."""

    received: str | None = None


@contextmanager
def _stop_signals(alone: bool) -> Iterator[_Stop]:
    """Note SIGTERM and SIGINT; only the main thread of a process can."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:
        stop.received = stop.received or signal.Signals(number).name
        # Launchers pass on what their terminal has sent already: two there are not two wishes.
        if alone and number == signal.SIGINT:
            signal.signal(number, before[number])

    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:  # ignored, as in a background job
                # None is a handler that Python did not set
                before[number] = signal.signal(number, note) or signal.SIG_DFL
        yield stop
    finally:
        for earlier, handler in before.items():
            signal.signal(earlier, handler)


class _Watch:
    """Time since the last report and since the last checkpoint."""

    def __init__(self, minutes: float | None) -> None:
        self._minutes = minutes
        self._saved = self._reported = time.monotonic()
        self._images = 0

    def due(self) -> bool:
        passed = time.monotonic() - self._saved
        return self._minutes is not None and passed >= 60 * self._minutes

    def saved(self) -> None:
        self._saved = time.monotonic()

    def pace(self, images: int) -> float:
        """Images per second since the last call; ``images`` counts all of this run."""
        now = time.monotonic()
        pace = (images - self._images) / max(now - self._reported, 1e-9)
        self._images, self._reported = images, now
        return pace
