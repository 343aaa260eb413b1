"""The micro-batches of a training run one after another: of images by index, or of a stream.

    step s  ->  (epoch e, place p) = divmod(s, I // G)
    its micro-batches on rank r are, in a stream, the numbers p A ... (p + 1) A - 1 of epoch e

Images by index are the same in every step, whatever the number of processes, micro-batches and
workers. The order of a stream depends on all three, so a run goes on with those it began with:
:func:`stream_order` tells them for its checkpoints.

Shapes: I images, G in a batch over all processes, M in a micro-batch, A micro-batches per step and
process, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from a2mim.data.folders import DataError
from a2mim.data.sampler import (
    BatchedSamples,
    MicroBatches,
    Samples,
    leave_signals_to_the_parent,
    make_loader,
)
from a2mim.data.stream import ShardStream

CPU = torch.device("cpu")


def load(
    samples: Samples | ShardStream,
    micro_batches: MicroBatches,
    *,
    workers: int = 0,
    device: torch.device = CPU,
) -> Generator[dict[str, Tensor], None, None]:
    """All micro-batches, ``{"image": (M, C, H, W), "index": (M,)}``; nothing is read until asked.

    Close the generator when it is left early: its workers end then. Those of a stream also end with
    every epoch.

    Args:
        samples: the images.
        micro_batches: which steps, and which part of them is this process's.
        workers: processes that load; 0 loads in this one. Batched samples need none.
        device: where images will be needed. Batched samples are made there, others are prepared
            for the copy.

    Raises:
        DataError: while iterating, if too much is unreadable; the same with and without workers.
        ValueError: if a stream has fewer shards than there are processes.
    """
    if isinstance(samples, BatchedSamples):
        return _made(samples, micro_batches, device)
    pin_memory = device.type == "cuda"
    if not isinstance(samples, ShardStream):
        loader = make_loader(samples, micro_batches, workers=workers, pin_memory=pin_memory)
        return each([loader])
    per_epoch, step = micro_batches.batches.per_epoch, micro_batches.start
    epochs = []
    while step < micro_batches.stop:
        epoch, place = divmod(step, per_epoch)
        epochs.append(
            samples.epoch(
                epoch,
                micro_batches.size,
                rank=micro_batches.rank,
                world=micro_batches.ranks,
                batches=per_epoch * micro_batches.accumulate,
                skip=place * micro_batches.accumulate,
            )
        )
        step += per_epoch - place
    return each(
        DataLoader(
            epoch,
            batch_size=None,
            num_workers=workers,
            pin_memory=pin_memory,
            worker_init_fn=leave_signals_to_the_parent,
            generator=torch.Generator(),  # its own, as in make_loader
        )
        for epoch in epochs
    )


def _made(
    samples: BatchedSamples, micro_batches: MicroBatches, device: torch.device
) -> Generator[dict[str, Tensor], None, None]:
    for keys in micro_batches:
        epochs, indices = zip(*keys, strict=True)
        yield {"image": samples.batch(indices, epochs, device), "index": torch.tensor(indices)}


def stream_order(
    stream: ShardStream, micro_batches: MicroBatches, workers: int
) -> dict[str, object]:
    """What the order of a stream depends on, besides its shards, as JSON values."""
    return {
        "seed": stream.seed,
        "shards": len(stream.shards),
        "buffer": stream.settings.buffer,
        "processes": micro_batches.ranks,
        "accumulate": micro_batches.accumulate,
        "workers": max(workers, 1),  # one does what none does
    }


def each(loaders: Iterable[DataLoader[Any]]) -> Generator[dict[str, Tensor], None, None]:
    """What loaders load, one after the other; close it, and no worker outlives it.

    Raises:
        DataError: as a worker raised it: with its own message, of one line.
    """
    for loader in loaders:
        batches = iter(loader)
        try:
            yield from batches
        except DataError as error:
            if not loader.num_workers:
                raise
            raise DataError(own_message(error)) from error
        finally:
            # Left to the garbage collector, they would live as long as an exception's traceback.
            if loader.num_workers:
                cast(Any, batches)._shutdown_workers()


def own_message(error: DataError) -> str:
    """What a worker's error says.

    torch makes the error anew, from the text of its traceback as Python prints it: the causes come
    first, and last the kind of the error and its message.
    """
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    return str(error).rpartition(f"\n{kind}: ")[2].rstrip("\n")
