"""What a budget buys: seconds of every stage, from a short timing, and the size that fits.

    seconds of a stage = images through the network / images a second + start

A rate is of processor time of one process, so that a busy machine does not make a study smaller.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from a2mim.files import write_whole
from a2mim.messages import UsageError
from a2mim.recipes.pretraining import method_of
from experiments.cifar10.arms import Arm, pretraining
from experiments.cifar10.sizes import ORDERS, SIZES, Size

START = 5.0
"""Seconds that a stage takes beside its images."""

MARGIN = 1.15
"""What is not the network: masks, optimiser, files."""

BUDGETS = {"3h-cpu": ("cpu", 2 * 3 * 3600.0), "8min-gpu": ("cuda", 480.0), "full": ("cuda", 1e9)}
"""Device, and seconds over all processes: two cores, or one GPU."""

RATES = {
    "vit a2mim": ("vit", "a2mim"),
    "vit mae": ("vit", "mae"),
    "vit cmae": ("vit", "cmae"),
    "resnet a2mim": ("resnet", "a2mim"),
}


@dataclass(frozen=True)
class Plan:
    """A study that is settled; it is in ``plan.json`` of the output folder.

    Attributes:
        size: of everything.
        rates: images a second and process, in training and (``forward``) without gradients.
        budget: as it was asked for.
        seconds: what it allows, over all processes.
        device: cpu or cuda.
        data: name of the images, without a path.
    """

    size: Size
    rates: dict[str, float]
    budget: str
    seconds: float
    device: str
    data: str

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_whole(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read it.

        Raises:
            UsageError: if it is of another version of this code.
        """
        told = json.loads(path.read_text())
        try:
            size: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in told["size"].items()
            }
            return cls(**told | {"size": Size(**size)})
        except (KeyError, TypeError) as error:
            raise UsageError(f"expected the plan of this version in {path}: {error}") from error


def budget_of(words: str) -> tuple[str, float]:
    """Device and seconds of a budget: one of :data:`BUDGETS`, or minutes of one process.

    Raises:
        UsageError: for anything else.
    """
    if words in BUDGETS:
        return BUDGETS[words]
    try:
        minutes = float(words)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 1e6:
        raise UsageError(f"expected --budget {', '.join(BUDGETS)} or minutes, got {words!r}")
    return ("cuda" if torch.cuda.is_available() else "cpu"), 60 * minutes


def timed(size: Size, device: str) -> dict[str, float]:
    """Images a second of every kind of work, from a few batches of noise."""
    rates = {}
    for name, (arch, arm) in RATES.items():
        _, config = pretraining(Arm(arch, arm, 0), size, "")
        method: Any = method_of(config).to(device)
        images = torch.randn(size.batch, 3, size.image_size, size.image_size, device=device)
        numbers = torch.arange(size.batch, device=device)

        def train(method: Any = method, images: Any = images, numbers: Any = numbers) -> None:
            with torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext():
                loss = method(images, method.draw(numbers, 0))["loss"]
            loss.backward()

        rates[name] = size.batch / _seconds(train, device)
        if arm == "a2mim":
            backbone = method.backbone.eval()
            rates[f"{arch} forward"] = size.batch / _seconds(
                torch.inference_mode()(lambda b=backbone, x=images: b(x)), device
            )
    return {name: float(f"{rate:.3g}") for name, rate in rates.items()}


def _seconds(step: Callable[[], object], device: str, least: float = 0.5) -> float:
    """Seconds of a step: processor time of a thread, or of a GPU."""
    cuda = device == "cuda"
    step()
    if cuda:
        torch.cuda.synchronize()
    clock = time.perf_counter if cuda else time.process_time
    start, count = clock(), 0
    while clock() - start < least or count < 2:
        step()
        count += 1
        if cuda:
            torch.cuda.synchronize()
    return (clock() - start) / count / (1 if cuda else torch.get_num_threads())


def seconds_of(kind: str, arm: Arm | None, size: Size, rates: dict[str, float]) -> float:
    """Seconds of one stage on one process."""
    if arm is None:
        return START
    forward = rates[f"{arm.arch} forward"]
    game = size.pairs * 4 * (2 + (len(ORDERS) - 2) * size.replicates)
    occluded = len(size.fills) * size.occlusion * (1 + 3 * (len(size.fractions) - 1))
    looked = size.features * 2 * (len(size.fractions) + 1)
    passes = {
        "pretrain": size.pretrain_epochs * size.train / _rate(arm, rates),
        "finetune": size.finetune_epochs * size.train / rates[f"{arm.arch} a2mim"]
        + size.test / forward,
        "strength": size.strength * game / forward,
        "along": size.points * size.along * game / forward,
        "accuracy": size.test / forward,
        "untrained": (looked / 2 + size.test + size.probe) / forward + START,
        "features": (occluded + looked + size.test + size.probe + size.test) / forward + 3 * START,
    }
    return START + MARGIN * passes[kind]


def _rate(arm: Arm, rates: dict[str, float]) -> float:
    if arm.arch == "vit" and arm.name in ("mae", "mae-10-images", "cmae"):
        return rates["vit cmae" if arm.name == "cmae" else "vit mae"]
    return rates[f"{arm.arch} a2mim"]


def fitted(
    sizes: tuple[Size, ...],
    rates: Callable[[Size], dict[str, float]],
    total: Callable[[Size, dict[str, float]], float],
    seconds: float,
    *,
    most: int = 200,
) -> tuple[Size, dict[str, float]]:
    """The largest size that fits, with as many epochs as fit.

    Args:
        sizes: the largest first.
        rates: from a size to its rates.
        total: seconds of all stages.
        seconds: of the budget.
        most: epochs beyond the least ones.

    Raises:
        UsageError: if none fits.
    """
    for size in sizes:
        of = rates(size)
        if total(size, of) > seconds:
            continue
        times = next(t for t in range(most, -1, -1) if total(size.stretched(t), of) <= seconds)
        return size.stretched(times), of
    least = total(sizes[-1], rates(sizes[-1]))
    raise UsageError(
        f"expected a budget of at least {least / 60:.0f} minutes of one process for the smallest "
        f"size, got {seconds / 60:.0f}"
    )


def plan_for(
    budget: str,
    data: str,
    look: dict[str, Any],
    available: tuple[int, int],
    total: Callable[[Size, dict[str, float]], float],
) -> Plan:
    """Settle a study.

    Args:
        budget: see :func:`budget_of`.
        data: name of the images.
        look: ``image_size``, ``mean`` and ``std``.
        available: training and test images that there are.
        total: seconds of all stages of a size.

    Raises:
        UsageError: if nothing fits, or there is no such device.
    """
    device, seconds = budget_of(budget)
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"expected a GPU for --budget {budget}, found none; 3h-cpu needs none")
    train, test = available
    sizes = tuple(
        replace(
            size,
            **look,
            train=min(size.train, train),
            test=min(size.test, test),
            probe=min(size.probe, train),
            **{k: min(getattr(size, k), test) for k in ("strength", "along", "occlusion")},
            features=min(size.features, test),
            workers=8 if device == "cuda" else 0,
        )
        for size in (SIZES[:1] if budget == "full" else SIZES)
    )
    known: dict[tuple[Any, ...], dict[str, float]] = {}

    def rates(size: Size) -> dict[str, float]:
        # On a CPU images a second hardly depend on how many are in a batch.
        size = size if device == "cuda" else replace(size, batch=16)
        key = (size.batch, size.vit_width)
        if key not in known:
            known[key] = timed(size, device)
        return known[key]

    size, of = fitted(sizes, rates, total, seconds)
    return Plan(size, of, budget, seconds, device, data)
