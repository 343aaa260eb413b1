"""Rows of the benchmark, and how two ways to do the same work are timed against each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from tqdm import tqdm

import interactions as ix
from interactions.keys import torch_seeded
from interactions.networks.inference import arithmetic
from interactions.orders.estimator import measure_each, measure_one

CPU_MODELS = ("vit_tiny_patch16_224", "resnet18")
IMAGE_SIZE = 224
GRID = ix.PatchGrid(14, 14)
GPU_MODELS = ("vit_small_patch16_224", "vit_base_patch16_224", "resnet50", "convnext_tiny")
SHORT = {name: name.removesuffix("_patch16_224") for name in (*CPU_MODELS, *GPU_MODELS)}
GPU_BATCH, GPU_IMAGES, GPU_PAIRS = 512, 4, 12
"""Batch, images and pairs of the rows of a GPU: of 17,000 forwards 2 % are ends, in float32."""


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
    """Wall time of the estimator / wall time of the bare model on as many images.

    On a GPU the estimator is in float16, and the baseline the fastest bare forward there is.
    """
    if on_gpu:
        return beside_the_best(row, name, repeats, torch.device("cuda"))
    model, image = _network(name, torch.device("cpu"))
    batch_size = 32
    design = ix.Design(ix.NeighbourPairs(GRID, count=1))
    game = ix.PatchGame(model, image, label=0, players=GRID, batch_size=batch_size)
    forwards = measure_one(game, design).forwards  # also warms up
    bare = Bare(model, image.expand(batch_size, -1, -1, -1).contiguous(), nullcontext)
    bar = tqdm(total=2 * repeats, desc=f"{name}, {forwards} forwards", leave=False)
    ours, baseline = alternate(
        lambda: measure_one(game, design), lambda: bare.run(forwards), repeats, bar.update
    )
    bar.close()
    return Row(row, ours, baseline, target=1.05, unit="s", n=repeats)


def beside_the_best(row: str, name: str, repeats: int, device: torch.device) -> Row:
    """Wall time of the estimator in float16 / of the fastest bare forward on as many images.

    Ours is eager or compiled, whichever is faster in one try; the baseline is the fastest of
    :func:`bare_ways` in one try. Then both take turns.
    """
    model, image = _network(name, device)
    images_BCHW = image.to(device).expand(GPU_BATCH, -1, -1, -1).contiguous()
    design = ix.Design(ix.NeighbourPairs(GRID, count=GPU_PAIRS))
    names = [str(k) for k in range(GPU_IMAGES)]

    def measured(compiled: bool) -> int:
        games = ix.PatchGames(
            *(model, image.expand(GPU_IMAGES, -1, -1, -1), 0, GRID, names),
            batch_size=GPU_BATCH,
            precision="float16",
            compile=compiled,
        )
        return sum(record.forwards for record in measure_each(games, design))

    forwards = measured(False)
    ours = {
        "eager": lambda: measured(False),
        "compiled": lambda: measured(True),
    }
    bare = {way: partial(one.run, forwards) for way, one in bare_ways(model, images_BCHW).items()}
    our_seconds, bare_seconds = (
        {way: _second_try(run) for way, run in ways.items()} for ways in (ours, bare)
    )
    fastest, best = (min(tried, key=tried.__getitem__) for tried in (our_seconds, bare_seconds))
    with tqdm(total=2 * repeats, desc=f"{name}, {forwards} forwards", leave=False) as bar:
        seconds, baseline = alternate(ours[fastest], bare[best], repeats, bar.update)
    tries = ", ".join(f"{way} {forwards / s:.0f}" for way, s in bare_seconds.items())
    our_tries = ", ".join(f"{way} {forwards / s:.0f}" for way, s in our_seconds.items())
    return Row(
        row,
        seconds,
        baseline,
        target=round(1 / 0.95, 3),
        unit="s",
        n=repeats,
        notes=(
            f"{forwards} forwards; baseline: {best}; images/s of one try: {tries}",
            f"ours: {fastest}; images/s of one try: {our_tries}",
        ),
    )


@dataclass(frozen=True)
class Bare:
    """A network and a batch, and nothing around them.

    Attributes:
        model: the network.
        images_BCHW: the batch.
        context: in which it runs.
    """

    model: Callable[[Tensor], Tensor]
    images_BCHW: Tensor
    context: Callable[[], AbstractContextManager[object]]

    def run(self, forwards: int) -> None:
        """So many images, the last batch as large as what is left."""
        size = len(self.images_BCHW)
        with torch.inference_mode(), self.context():
            for start in range(0, forwards, size):
                logits = self.model(self.images_BCHW[: forwards - start])
            logits.cpu()


def bare_ways(model: nn.Module, images_BCHW: Tensor) -> dict[str, Bare]:
    """Bare forwards in half precision, by what they do."""
    half, last = deepcopy(model).half(), deepcopy(model).half()
    last = last.to(memory_format=torch.channels_last)
    images = images_BCHW.half()
    images_last = images.to(memory_format=torch.channels_last)
    autocast = partial(arithmetic, "float16", images.device)
    return {
        "autocast": Bare(model, images_BCHW, autocast),
        "half": Bare(half, images, nullcontext),
        "half, channels_last": Bare(last, images_last, nullcontext),
        "half, compiled": Bare(torch.compile(half), images, nullcontext),
        "half, channels_last, compiled": Bare(torch.compile(last), images_last, nullcontext),
    }


def _network(name: str, device: torch.device) -> tuple[nn.Module, Tensor]:
    # Imported here, so that the processes of the memory row need not wait for it.
    from timm import create_model

    with torch_seeded(0):
        model = create_model(name).to(device).eval()
        return model, torch.randn(3, IMAGE_SIZE, IMAGE_SIZE)


def _second_try(run: Callable[[], object]) -> float:
    """Seconds of a run, after one that warms up and compiles."""
    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


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
