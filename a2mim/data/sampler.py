"""Which images a training step sees, in which order, and on which process.

    step s  ->  (epoch e, place p) = divmod(s, I // G),    batch_s = order_e[p G : (p + 1) G]

The order of epoch e is a permutation keyed by (seed, e); what is left at its end is dropped. Where
images are repeated, copies are moved apart within the batch.
Process r of R takes the r-th of R equal slices of every batch, and micro-batch a the a-th of A
slices of that. So the images of a step depend neither on R nor on A, and every step can be reached
without the steps before it: resuming in mid-epoch is starting at that step.

Shapes: I images, G in a batch over all processes, M in a micro-batch, C channels, H x W pixels.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from interactions.keys import GOLDEN, mixed

Sample = tuple[int, Tensor]
"""The index of an image, and the image."""


class Samples(Protocol):
    """Images for training, by index.

    All randomness inside ``load`` (crop, flip) is keyed by (a seed of its own, epoch, index): then
    pixels depend neither on the number of workers nor on where a run was resumed.
    """

    def __len__(self) -> int:
        """How many images there are."""
        ...

    def load(self, index: int, epoch: int) -> Tensor:
        """One image ``(C, H, W)``: float32 as the network wants it, or uint8 to be normalised."""
        ...


@runtime_checkable
class BatchedSamples(Samples, Protocol):
    """Images that are made by whole batches where they are needed; no worker loads them."""

    def batch(self, indices: Sequence[int], epochs: Sequence[int], device: torch.device) -> Tensor:
        """Images ``(B, C, H, W)`` on a device, each the one that ``load`` gives."""
        ...


@dataclass(frozen=True)
class Batches:
    """The batches of all steps.

    Attributes:
        images: I, how many images there are.
        size: G, images per optimiser step over all processes.
        seed: names the order of the images.
        repeats: how often an image comes in a batch, drawn anew each time; an epoch has as many
            images as without, so it sees 1 / repeats of them (repeated augmentation: Hoffer et al.,
            CVPR 2020). A batch has first copies first, then second ones, and so on: the copies of
            an image are on different processes where there are ``repeats`` or more, and in
            different groups of images that are mixed (of at most G / repeats).

    DeiT's sampler of repeated images (timm's ``RepeatAugSampler``) deals copies out to processes in
    turn. A step has the same images there; with as many processes as repeats, which divide G, every
    process has the same ones. With fewer processes DeiT leaves copies side by side.

    Raises:
        ValueError: if there are fewer images than one batch takes, or they come less than once.
    """

    images: int
    size: int
    seed: int = 0
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"expected every image at least once, got {self.repeats} repeats")
        if self.size < 1:
            raise ValueError(f"expected a batch of at least 1 image, got {self.size}")
        if self.images < self.size:
            raise ValueError(
                f"expected at least {self.size} images for a batch, got {self.images}; "
                "use a smaller batch"
            )

    @property
    def per_epoch(self) -> int:
        """Steps per epoch; an incomplete last batch is no step."""
        return self.images // self.size

    def order(self, epoch: int) -> Tensor:
        """The images of an epoch in order, copies side by side, int64 ``(I,)``."""
        order_I = torch.randperm(self.images, generator=keyed_generator(self.seed, "order", epoch))
        return order_I.repeat_interleave(self.repeats)[: self.images]

    def draws(self, step: int) -> Tensor:
        """What stands for the epoch in the draws of a step's images, int64 ``(G,)``.

        The k-th time that an image comes in epoch e it has the number e R + k, R the repeats.
        """
        epoch, place = divmod(step, self.per_epoch)
        places_G = torch.arange(place * self.size, (place + 1) * self.size)
        return self._apart(epoch * self.repeats + places_G % self.repeats)

    def at(self, step: int, order_I: Tensor | None = None) -> Tensor:
        """The images of a step, int64 ``(G,)``.

        Args:
            step: the step.
            order_I: :meth:`order` of its epoch, if it is known.
        """
        epoch, place = divmod(step, self.per_epoch)
        order_I = self.order(epoch) if order_I is None else order_I
        return self._apart(order_I[place * self.size : (place + 1) * self.size])

    def _apart(self, rows_G: Tensor) -> Tensor:
        """Rows of images of which copies stand side by side, with copies far from one another."""
        return torch.cat([rows_G[k :: self.repeats] for k in range(self.repeats)])


class MicroBatches(Sampler[list[tuple[int, int]]]):
    """The (epoch, index) of every image that one process loads, micro-batch by micro-batch.

    Only their number and :meth:`share` matter to a stream, which has an order of its own.

    Args:
        batches: the batches of all processes.
        start: the first step.
        stop: the step after the last one.
        rank: which process this is.
        ranks: R, how many there are.
        accumulate: A, micro-batches per step and process.

    Raises:
        ValueError: if a batch cannot be cut into R x A equal parts.
    """

    def __init__(
        self,
        batches: Batches,
        start: int,
        stop: int,
        *,
        rank: int = 0,
        ranks: int = 1,
        accumulate: int = 1,
    ) -> None:
        if not 0 <= rank < ranks:
            raise ValueError(f"expected a rank below {ranks}, got {rank}")
        if accumulate < 1:
            raise ValueError(f"expected at least 1 micro-batch per step, got {accumulate}")
        if batches.size % (ranks * accumulate):
            raise ValueError(
                f"expected a batch that {ranks} processes x {accumulate} micro-batches divide, "
                f"got {batches.size}; use a multiple of {ranks * accumulate}"
            )
        self.batches = batches
        self.start = start
        self.stop = max(start, stop)
        self.rank = rank
        self.ranks = ranks
        self.accumulate = accumulate

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulate

    @property
    def size(self) -> int:
        """M, images per micro-batch."""
        return self.batches.size // (self.ranks * self.accumulate)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        known = -1
        for step in range(self.start, self.stop):
            epoch = step // self.batches.per_epoch
            if epoch != known:  # a permutation of all images is made once per epoch
                known, order_I = epoch, self.batches.order(epoch)
            draws_A = self.share(self.batches.draws(step))
            images_A = self.share(self.batches.at(step, order_I))
            for draws_M, part_M in zip(draws_A, images_A, strict=True):
                yield list(zip(draws_M.tolist(), part_M.tolist(), strict=True))

    def share(self, rows_G: Tensor) -> tuple[Tensor, ...]:
        """This process's micro-batches of something that has one row per image of a batch.

        Args:
            rows_G: ``(G, ...)``: indices, masks.

        Returns:
            A tensors ``(M, ...)``.

        Raises:
            ValueError: if there are not G rows.
        """
        if len(rows_G) != self.batches.size:
            raise ValueError(
                f"expected a row for each of the {self.batches.size} images of a batch, "
                f"got {len(rows_G)}"
            )
        parts = rows_G.chunk(self.ranks * self.accumulate)
        return parts[self.rank * self.accumulate : (self.rank + 1) * self.accumulate]


def make_loader(
    samples: Samples,
    micro_batches: Iterable[list[tuple[int, int]]],
    *,
    workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Sample]:
    """A plain loader of ``{"image": (M, C, H, W), "index": (M,)}``, one micro-batch after another.

    One pass goes over all steps and all epochs: workers start once, and none waits at the end of an
    epoch.

    Args:
        samples: the images.
        micro_batches: (epoch, index) of their images, in order.
        workers: processes that load; 0 loads in this one.
        pin_memory: whether to prepare the copy to a CUDA device.
    """
    return DataLoader(
        _Keyed(samples),
        batch_sampler=micro_batches,
        num_workers=workers,
        pin_memory=pin_memory,
        collate_fn=_collate,
        worker_init_fn=leave_signals_to_the_parent,
        # The loader draws a base seed for its workers. Without a generator of its own that
        # would move the global one, and a resumed run would see other dropout.
        generator=torch.Generator(),
    )


def keyed_generator(*key: int | str) -> torch.Generator:
    """A generator of its own for every key, on the CPU."""
    return torch.Generator().manual_seed(keyed_seed(*key))


def keyed_seed(*key: int | str) -> int:
    """A seed below 2^63 from the BLAKE2b hash of a key: near keys have unrelated seeds."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest()) >> 1


def keyed_uniforms(
    seed: int, *counters: NDArray[np.int64] | Sequence[int] | int
) -> NDArray[np.float64]:
    """Numbers in [0, 1) with 53 random bits, each a hash of a seed and of its own counters.

        x_0 = mix(seed),   x_k = mix(x_{k-1} + (c_k + 1) g),   u = floor(x / 2^11) / 2^53

    mix and g = 2^64 / golden ratio are those of SplitMix64 (Steele et al., OOPSLA 2014): what is
    drawn for one image does not depend on which others are drawn with it.

    Args:
        seed: such as :func:`keyed_seed` gives.
        counters: c_1, c_2, ..., arrays that are broadcast.
    """
    hashed = _mix(np.array([seed], np.uint64))
    for counter in counters:
        steps = np.atleast_1d(counter).astype(np.uint64) + np.uint64(1)
        hashed = _mix(hashed + steps * np.uint64(GOLDEN % 2**64))
    return (hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return mixed(torch.from_numpy(x.view(np.int64))).numpy().view(np.uint64)


class _Keyed(Dataset[Sample]):
    """Samples by (epoch, index)."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        image = self.samples.load(index, epoch)
        if image.ndim != 3 or image.dtype not in (torch.float32, torch.uint8):
            raise TypeError(
                f"expected a float32 or uint8 image (C, H, W) from load({index}, {epoch}), "
                f"got {image.dtype} {tuple(image.shape)}"
            )
        return index, image


def _collate(samples: list[Sample]) -> dict[str, Tensor]:
    indices, images = zip(*samples, strict=True)
    return {"image": torch.stack(images), "index": torch.tensor(indices)}


def leave_signals_to_the_parent(worker: int) -> None:
    """Start a worker of a loader.

    Ctrl-C and batch systems signal whole groups of processes. Training finishes its step and saves,
    for which it still needs its workers; it ends them itself.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
