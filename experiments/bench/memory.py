"""What the estimator takes of memory beyond the model, each time in a fresh process.

The model pools and has next to no activations, so that they hide nothing. ``idle`` loads the
modules, the model and the image and evaluates nothing, ``bare`` evaluates one batch of images, and
a number measures that many pairs.

    python -m experiments.bench.memory idle|bare|PAIRS     prints the peak in MiB

The peak is the kernel's VmHWM. ``getrusage`` would not do: on Linux a new process inherits the peak
of the one that started it.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

import interactions as ix
from experiments.bench.timing import Row
from interactions.keys import torch_seeded
from interactions.orders.estimator import measure_one

IMAGE_SIZE = 224
BATCH_SIZE = 32
GRID = ix.PatchGrid(14, 14)
FEW, MANY = 8, 250
"""Pairs. The many fill several of the chunks that the estimator goes through pairs in."""

ALLOWANCE = 50
"""MiB that the estimator may take beyond one batch of images."""

STATUS = Path("/proc/self/status")


def memory(row: str, repeats: int) -> Row:
    """Peak memory of many pairs beyond an idle process / a batch of images and the allowance."""
    jobs = ("idle", "bare", str(FEW), str(MANY))
    peaks: dict[str, list[float]] = {job: [] for job in jobs}
    for job in tqdm(jobs * repeats, desc="memory", leave=False):
        peaks[job].append(_in_a_process(job))
    idle, bare, few, many = (statistics.median(peaks[job]) for job in jobs)
    batch = BATCH_SIZE * 3 * IMAGE_SIZE**2 * 4 / 2**20
    spread = max(peaks[str(MANY)]) - min(peaks[str(MANY)])
    return Row(
        row,
        ours=many - idle,
        baseline=batch + ALLOWANCE,
        target=1.0,
        unit="MiB",
        n=repeats,
        notes=(
            f"idle {idle:.1f} MiB; beyond it: one batch of {batch:.1f} MiB through the bare model "
            f"{bare - idle:.1f}, {FEW} pairs {few - idle:.1f}, {MANY} pairs {many - idle:.1f} "
            f"(range over repeats {spread:.1f})",
        ),
    )


def peak_of(job: str) -> float:
    """Do one job in this process and return the process's peak so far in MiB."""
    with torch_seeded(0):
        model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10)).eval()
        image_CHW = torch.randn(3, IMAGE_SIZE, IMAGE_SIZE)
    if job == "bare":
        with torch.inference_mode():
            model(image_CHW.expand(BATCH_SIZE, -1, -1, -1).contiguous())
    elif job != "idle":
        game = ix.PatchGame(model, image_CHW, label=0, players=GRID, batch_size=BATCH_SIZE)
        measure_one(game, ix.Design(ix.NeighbourPairs(GRID, count=int(job))))
    return _peak(STATUS.read_text())


def _in_a_process(job: str) -> float:
    command = [sys.executable, "-m", "experiments.bench.memory", job]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return float(done.stdout)


def _peak(status: str) -> float:
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    if not found:
        raise ValueError(f"expected VmHWM in {STATUS}, got: {status[:200]}")
    return int(found[1]) / 1024


if __name__ == "__main__":
    print(peak_of(sys.argv[1]))
