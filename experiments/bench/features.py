"""Rows of the benchmark about features and occlusion: what they cost beyond the bare networks.

    features/overhead/extract/*    seconds of extract() / of a loop of forwards over the same images
    features/overhead/evaluate/*   the same of evaluate()
    occlusion/overhead/*           seconds of occlude() / of as many forwards in such batches
    invariance/overhead/*          seconds of invariance(), all layers and statistics / of as many
                                   forwards of both networks in such batches
    occlusion/memory               MiB that invariance() takes for 4 N images / for N

Images are in memory, as the networks want them. The network of an extract row has no classifier, so
that both sides do the same. The features that the memory row would see if they were kept are those
of 12 layers x 10 ratios, of a network that is small, so that it hides nothing; each number is the
peak of a fresh process (see :mod:`experiments.bench.memory`) beyond one that has loaded the same
modules and networks.

    python -m experiments.bench.features IMAGES     prints the peak in MiB; 0 measures nothing
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from timm import create_model
from torch import Tensor, nn
from tqdm import tqdm

from a2mim.data.sampler import keyed_generator
from a2mim.probes.features import evaluate, extract
from experiments.bench.memory import STATUS, _peak
from experiments.bench.timing import Row, alternate
from experiments.bench.training import STEP_MODELS
from interactions.features.invariance import invariance, untrained
from interactions.occlusion.masks import OCCLUDERS, TENTHS
from interactions.occlusion.predictions import occlude
from interactions.patches import PatchGrid

What = Literal["extract", "evaluate"]
WHATS: tuple[What, ...] = ("extract", "evaluate")

SIZE, BATCH, IMAGES = 64, 64, 2048
"""Edge, batch and number of the images of the features rows: enough that what extract() does once,
such as a hash of the weights, counts as little as in use."""

OCCLUDED_SIZE, OCCLUDED = 224, 16
"""Edge and number of the images of the rows about hidden patches; the number is the batch, so all
are full."""

MEMORY_SIZE, MEMORY_BATCH, FEW = 32, 64, 256
"""Edge, batch and number N of the images of the memory row."""

WIDTH = 96
"""Of the network of the memory row."""

STEADY = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
}
"""Environment of the memory row's processes: what is kept is to be measured, and not the holes that
glibc leaves between what was freed, nor what each thread sets aside."""


def features(row: str, what: What, name: str, repeats: int) -> Row:
    """Wall time of :func:`extract` or :func:`evaluate` / of the bare model on the same batches."""
    model, options = STEP_MODELS[name]
    network = _network(model, num_classes=0 if what == "extract" else 1000, **options)
    images_ICHW = _images(IMAGES, SIZE)
    run: Callable[..., object] = extract if what == "extract" else evaluate
    samples = _InMemory(images_ICHW)
    ours = partial(run, network, samples, batch_size=BATCH)
    return _against_bare(row, ours, [network], images_ICHW.split(BATCH), repeats)


def occlusion(row: str, name: str, repeats: int) -> Row:
    """Wall time of :func:`occlude` / of the bare model, as many forwards in such batches."""
    network = _network(STEP_MODELS[name][0])
    images_ICHW = _images(OCCLUDED, OCCLUDED_SIZE)
    ours = partial(
        occlude,
        network,
        images_ICHW,
        torch.arange(OCCLUDED),
        PatchGrid(14, 14),
        OCCLUDERS["random"],
        batch_size=OCCLUDED,
    )
    # Every image once as it is, and once for each fraction but 0.
    return _against_bare(row, ours, [network], [images_ICHW] * len(TENTHS), repeats)


def invariance_row(row: str, name: str, repeats: int) -> Row:
    """Wall time of :func:`invariance` of all layers / of as many forwards in such batches."""
    networks = [untrained(partial(create_model, STEP_MODELS[name][0]), k) for k in (0, 1)]
    fractions = TENTHS[::3]
    images_ICHW = _images(OCCLUDED, OCCLUDED_SIZE)
    ours = partial(
        invariance,
        networks[0],
        [images_ICHW],
        PatchGrid(14, 14),
        untrained=networks[1],
        fractions=fractions,
        readouts=["mean"],  # of a ResNet no cell is wholly visible when much is hidden
        repeats=1,
        batch_size=OCCLUDED,
    )
    batches = [images_ICHW] * (1 + len(fractions))
    return _against_bare(row, ours, networks, batches, repeats, target=1 / 0.6)


def memory(row: str, repeats: int) -> Row:
    """Peak memory of :func:`invariance` for four times the images / for the images."""
    jobs = (0, FEW, 4 * FEW)
    peaks: dict[int, list[float]] = {job: [] for job in jobs}
    for job in tqdm(jobs * repeats, desc=row, leave=False):
        peaks[job].append(_in_a_process(job))
    idle, few, many = (statistics.median(peaks[job]) for job in jobs)
    spread = max(peaks[4 * FEW]) - min(peaks[4 * FEW])
    return Row(
        row,
        ours=many - idle,
        baseline=few - idle,
        target=1.1,
        unit="MiB",
        n=repeats,
        notes=(
            f"idle {idle:.1f} MiB; beyond it {FEW} images {few - idle:.1f}, {4 * FEW} images "
            f"{many - idle:.1f} (range over repeats {spread:.1f})",
        ),
    )


def peak_of(images: int) -> float:
    """Measure invariance for images that come batch by batch; this process's peak so far in MiB."""
    # Imported late by what is measured, and by the idle process as well
    import pandas  # noqa: F401
    from scipy.stats import t  # noqa: F401

    make = partial(
        create_model,
        "vit_tiny_patch16_224",
        img_size=MEMORY_SIZE,
        patch_size=MEMORY_SIZE // 4,
        embed_dim=WIDTH,
        num_classes=0,
    )
    model, fresh = untrained(make, seed=0), untrained(make, seed=1)

    def batches() -> Iterator[Tensor]:
        for start in range(0, images, MEMORY_BATCH):
            yield _images(MEMORY_BATCH, MEMORY_SIZE, start)

    if images:
        invariance(
            model,
            batches(),
            PatchGrid(4, 4),
            untrained=fresh,
            repeats=1,
            layers=[f"blocks.{k}" for k in range(12)],
            readouts=["mean"],
            cka_batch=MEMORY_BATCH,
            count=images,
        )
    return _peak(STATUS.read_text())


class _InMemory:
    """Samples that need no decoding."""

    def __init__(self, images_ICHW: Tensor) -> None:
        self.images_ICHW = images_ICHW
        self.labels_I = torch.arange(len(images_ICHW)) % 1000

    def __len__(self) -> int:
        return len(self.images_ICHW)

    def load(self, index: int, epoch: int) -> Tensor:
        return self.images_ICHW[index]


def _images(count: int, size: int, key: int = 0) -> Tensor:
    return torch.randn(count, 3, size, size, generator=keyed_generator("bench", key))


def _network(name: str, **options: Any) -> nn.Module:
    return untrained(partial(create_model, name, **options))


def _against_bare(
    row: str,
    ours: Callable[[], object],
    networks: Sequence[nn.Module],
    batches: Sequence[Tensor],
    repeats: int,
    target: float = 1.05,
) -> Row:
    """A row of wall times: ours against networks alone on these batches."""

    def bare() -> None:
        with torch.inference_mode():
            for network in networks:
                for images_BCHW in batches:
                    network(images_BCHW)

    for warm_up in (ours, bare):
        warm_up()
    with tqdm(total=2 * repeats, desc=row, leave=False) as bar:
        seconds, baseline = alternate(ours, bare, repeats, bar.update)
    return Row(row, seconds, baseline, target=target, unit="s", n=repeats)


def _in_a_process(images: int) -> float:
    command = [sys.executable, "-m", "experiments.bench.features", str(images)]
    done = subprocess.run(
        command, capture_output=True, check=True, text=True, env=os.environ | STEADY
    )
    return float(done.stdout)


if __name__ == "__main__":
    print(peak_of(int(sys.argv[1])))
