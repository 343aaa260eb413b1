"""Rows of the benchmark, and how two ways to do the same work are timed against each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from tqdm import tqdm

import interactions as ix
from interactions.keys import torch_seeded
from interactions.orders.estimator import measure_one

CPU_MODELS = ("vit_tiny_patch16_224", "resnet18")
IMAGE_SIZE = 224
GPU_MODELS = ("vit_small_patch16_224", "resnet50")
SHORT = {"vit_tiny_patch16_224": "vit_tiny", "vit_small_patch16_224": "vit_small"}


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


def overhead_names(on_gpu: bool) -> dict[str, str]:
    """Names of the rows of :func:`overhead`, and their timm models."""
    prefix = "interactions/overhead/gpu/" if on_gpu else "interactions/overhead/"
    return {prefix + SHORT.get(m, m): m for m in (GPU_MODELS if on_gpu else CPU_MODELS)}


def overhead(row: str, name: str, repeats: int, on_gpu: bool) -> Row:
    """Wall time of the estimator / wall time of the bare model on as many images."""
    # Imported here, so that the processes of the memory row need not wait for it.
    from timm import create_model

    device = torch.device("cuda" if on_gpu else "cpu")
    batch_size, pairs = (256, 50) if on_gpu else (32, 1)
    with torch_seeded(0):
        model: nn.Module = create_model(name).to(device).eval()
        image = torch.randn(3, IMAGE_SIZE, IMAGE_SIZE)
    grid = ix.PatchGrid(14, 14)
    design = ix.Design(ix.NeighbourPairs(grid, count=pairs))
    game = ix.PatchGame(model, image, label=0, players=grid, batch_size=batch_size)
    forwards = measure_one(game, design).forwards  # also warms up
    batches = [batch_size] * (forwards // batch_size) + [forwards % batch_size] * bool(
        forwards % batch_size
    )
    images = image.to(device).expand(batch_size, -1, -1, -1).contiguous()

    def bare() -> None:
        with torch.inference_mode():
            for size in batches:
                logits = model(images[:size])
            logits.cpu()

    bar = tqdm(total=2 * repeats, desc=f"{name}, {forwards} forwards", leave=False)
    ours, baseline = alternate(lambda: measure_one(game, design), bare, repeats, bar.update)
    bar.close()
    return Row(row, ours, baseline, target=1.05, unit="s", n=repeats)


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
