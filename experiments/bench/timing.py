"""Rows of the benchmark, and how two ways to do the same work are timed against each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

import interactions as ix
from interactions.keys import torch_seeded
from interactions.orders.estimator import measure_one

CPU_MODELS = ("vit_tiny_patch16_224", "resnet18")
IMAGE_SIZE = 224
GRID = ix.PatchGrid(14, 14)


def short(model: str) -> str:
    """The name of a timm model in that of a row."""
    return model.removesuffix("_patch16_224")


@dataclass(frozen=True)
class Row:
    """One line of the benchmark's table.

    Attributes:
        row: its name.
        ours: what the toolkit needs.
        baseline: what it is compared with.
        target: what the ratio ``ours / baseline`` should not exceed, unless the row says otherwise.
        unit: of ``ours`` and ``baseline``.
        n: repeats behind the numbers.
        notes: lines to print beside the table.
    """

    row: str
    ours: float
    baseline: float
    target: float
    unit: str
    n: int
    notes: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """``ours / baseline``."""
        return self.ours / self.baseline


def overhead(row: str, name: str, repeats: int) -> Row:
    """Wall time of the estimator / wall time of the bare model on as many images."""
    model, image = _network(name)
    batch_size = 32
    design = ix.Design(ix.NeighbourPairs(GRID, count=1))
    game = ix.PatchGame(model, image, label=0, players=GRID, batch_size=batch_size)
    forwards = measure_one(game, design).forwards  # also warms up
    images_BCHW = image.expand(batch_size, -1, -1, -1).contiguous()
    with tqdm(total=2 * repeats, desc=f"{name}, {forwards} forwards", leave=False) as bar:
        ours, baseline = alternate(
            lambda: measure_one(game, design),
            lambda: _bare(model, images_BCHW, forwards),
            repeats,
            bar.update,
        )
    return Row(row, ours, baseline, target=1.05, unit="s", n=repeats)


def _bare(model: nn.Module, images_BCHW: Tensor, forwards: int) -> None:
    """So many images, the last batch as large as what is left."""
    with torch.inference_mode():
        for start in range(0, forwards, len(images_BCHW)):
            model(images_BCHW[: forwards - start])


def _network(name: str) -> tuple[nn.Module, Tensor]:
    # Imported here, so that the processes of the memory row need not wait for it.
    from timm import create_model

    with torch_seeded(0):
        return create_model(name).eval(), torch.randn(3, IMAGE_SIZE, IMAGE_SIZE)


def alternate(
    ours: Callable[[], object],
    baseline: Callable[[], object],
    repeats: int,
    after_each: Callable[[], object],
) -> tuple[float, float]:
    """Median seconds of two sides that take turns, so that drift of the machine hits both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for side, into in zip((ours, baseline), seconds, strict=True):
            start = time.perf_counter()
            side()
            into.append(time.perf_counter() - start)
            after_each()
    return statistics.median(seconds[0]), statistics.median(seconds[1])
