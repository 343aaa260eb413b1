"""What the toolkit costs on top of the bare model: both sides in one run, medians of several.

A row compares two ways to do the same work on the same machine within the same minutes; absolute
times belong to that machine only. Speed never gates a test.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from timm import create_model
from torch import nn
from tqdm import tqdm

import interactions as ix
from experiments.results import write_atomic
from experiments.runs import UsageError, commit

CPU_MODELS = ("vit_tiny_patch16_224", "resnet18")
IMAGE_SIZE = 224
GPU_MODELS = ("vit_small_patch16_224", "resnet50")
SHORT = {"vit_tiny_patch16_224": "vit_tiny", "vit_small_patch16_224": "vit_small"}


def bench(out: Path, repeats: int) -> None:
    """Run all rows, print them, and write ``<out>/cpu.csv`` or ``<out>/<gpu name>.csv``.

    Raises:
        UsageError: with less than one repeat.
    """
    if repeats < 1:
        raise UsageError(f"expected at least 1 repeat, got {repeats}")
    on_gpu = torch.cuda.is_available()
    models = GPU_MODELS if on_gpu else CPU_MODELS
    rows = pd.DataFrame([overhead(name, repeats, on_gpu) for name in models])
    machine = torch.cuda.get_device_name().lower().replace(" ", "-") if on_gpu else "cpu"
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / f"{machine}.csv", rows.to_csv(index=False, float_format="%.4g"))
    print(rows.to_string(index=False))


def overhead(name: str, repeats: int, on_gpu: bool) -> dict[str, object]:
    """Wall time of the estimator / wall time of the bare model on as many images."""
    device = torch.device("cuda" if on_gpu else "cpu")
    batch_size, pairs = (256, 50) if on_gpu else (32, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = create_model(name).to(device).eval()
        image = torch.randn(3, IMAGE_SIZE, IMAGE_SIZE)
    grid = ix.PatchGrid(14, 14)
    design = ix.Design(ix.NeighbourPairs(grid, count=pairs))
    game = ix.PatchGame(model, image, label=0, players=grid, batch_size=batch_size)
    forwards = ix.measure_one(game, design).forwards  # also warms up
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
    ours, baseline = alternate(lambda: ix.measure_one(game, design), bare, repeats, bar.update)
    bar.close()
    prefix = "interactions/overhead/gpu/" if on_gpu else "interactions/overhead/"
    return {
        "row": prefix + SHORT.get(name, name),
        "ours": ours,
        "baseline": baseline,
        "ratio": ours / baseline,
        "target": 1.05,
        "unit": "s",
        "n": repeats,
        "commit": commit(),
    }


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
