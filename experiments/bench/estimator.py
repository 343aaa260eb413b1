"""The estimator against the published design, where the truth is known: error, coverage, wall time.

Small networks are trained on digits with 16 players each. The 2^16 values of an image's game are
tabulated, so that its interactions are exact, and estimators are then run on the tables.

    published    IID contexts K = 50 for each pair and order, plug-in strength (mean of |I|)
    ours         Windows(4, 2), 8 contexts for each pair, the same for all orders; RMS strength
    RMSE of J    root of the mean over repeats and orders of ((J^(m) estimated - true) / true)^2,
                 over one fixed set of images; true is the J of the strength that is estimated

Both sides draw their pairs by the rule "uniform" (the publications draw "clamped"), and the truth
is the mean over all neighbouring pairs: estimators are compared, not rules for pairs. Published
forwards are counted as the published code makes them, every one of 4 P K for each order; ours as
distinct coalitions. Sixteen players have so few coalitions that this removes more of them than in
larger games: a note tells the ratio without it too.

Rows named ``real`` take the stored replicates of a ResNet-20 instead, whose contexts are up to 3.5
times as noisy as interactions are large; see :mod:`experiments.bench.resampling`.

Shapes: I images, R repeats, O orders, B images in a batch, C channels, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from timm import create_model
from timm.models import VisionTransformer
from torch import Tensor, nn
from tqdm import tqdm

import interactions as ix
from a2mim.data.arrays import digits
from a2mim.data.resident import TensorSamples
from a2mim.training.loop import pretrain
from a2mim.training.optim import adamw, cosine_lr
from a2mim.training.supervised import FineTuning
from experiments.bench.published import published_differences, published_J
from experiments.bench.resampling import (
    ORDERS_O,
    WINDOWS,
    Holds,
    Population,
    energies,
    records_of,
    repeated,
    resnet20,
    shares,
    simulated,
)
from experiments.bench.timing import Row, alternate
from interactions.keys import torch_seeded
from interactions.orders.estimator import orders_of

GRID = ix.PatchGrid(4, 4)
CONTEXTS = 50
"""K of the published design."""

OUR_PAIRS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 90)
"""Pairs that are tried until the error is below the published one; 90 are all neighbours."""

ERROR_REPEATS = 200
COVERAGE_REPEATS = 500
REAL_REPEATS = 2000
COVERAGE_IMAGES, COVERAGE_PAIRS = 40, 12

REAL_IMAGES, REAL_PAIRS = 53, 12
REAL_CONTEXTS = (8, 32)
"""Contexts of a pair and order at which intervals are checked on real replicates."""

REAL_PILOT = (200, REAL_PAIRS, 4)
"""Images, pairs and replicates of the planner's pilot."""

REAL_PARTS = (0.05, 0.08, 0.1, 0.11, 0.12, 0.13, 0.15, 0.2, 0.3)
"""Parts of the published forwards that are tried until the error is below the published one."""


@dataclass(frozen=True)
class Case:
    """A network, and what is asked about it.

    Attributes:
        build: makes the network, with random weights.
        size: edge of the images in pixels.
        steps: of training.
        lr: peak learning rate.
        tabulated: test images whose games are tabulated.
        compared: how many of them make up the fixed set that errors are about.
        pairs: P of the published design.
    """

    build: Callable[[], nn.Module]
    size: int
    steps: int
    lr: float
    tabulated: int
    compared: int
    pairs: int


def _cnn16() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def _vit16() -> nn.Module:
    return VisionTransformer(
        img_size=8,
        patch_size=2,  # tokens are players
        embed_dim=32,
        depth=2,
        num_heads=2,
        mlp_ratio=2,
        class_token=False,
        global_pool="avg",
        num_classes=10,
    )


def _vit_tiny() -> nn.Module:
    return create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=10)


CASES = {
    "cnn16": Case(_cnn16, size=8, steps=400, lr=1e-2, tabulated=60, compared=20, pairs=8),
    "vit16": Case(_vit16, size=8, steps=600, lr=1e-2, tabulated=60, compared=20, pairs=8),
    "vit_tiny": Case(_vit_tiny, size=32, steps=300, lr=1e-3, tabulated=3, compared=3, pairs=4),
}


def forwards(row: str, name: str) -> Row:
    """Forwards an image for the RMSE that the published design has on the same images."""
    error = equal_error(name)
    return Row(
        row,
        ours=error.forwards,
        baseline=published_forwards(error.published.pairs),
        target=0.25,
        unit="forwards/image",
        n=ERROR_REPEATS,
        notes=(_trained_note(name), *error.notes()),
    )


def coverage(row: str, name: str) -> Row:
    """Share of nominal 95 % intervals of J^(m) that hold the truth; the target is its lower bound.

    The images that are tabulated are the population. In each repeat a sample is drawn from them
    with replacement, and an image that comes twice gets pairs and contexts of its own each time.
    """
    tables = tabulated(name, CASES[name].tabulated)
    design = our_design(GRID, COVERAGE_PAIRS)
    truth_O = exact_J(tables, GRID, "rms")
    inside_RO = covered(
        tqdm(
            (resampled(tables, design, COVERAGE_IMAGES, r) for r in range(COVERAGE_REPEATS)),
            desc=f"coverage {name}",
            total=COVERAGE_REPEATS,
            leave=False,
        ),
        truth_O,
    )
    orders = orders_of(design.ratios, GRID.n)
    per_order = ", ".join(
        f"m={m} {share:.1%}" for m, share in zip(orders, inside_RO.mean(axis=0), strict=True)
    )
    return Row(
        row,
        ours=float(inside_RO.mean()),
        baseline=0.95,
        target=0.92,
        unit="share",
        n=COVERAGE_REPEATS,
        notes=(
            _trained_note(name),
            f"{COVERAGE_IMAGES} images x {COVERAGE_PAIRS} pairs, mean over orders "
            f"{inside_RO.mean():.1%} +- {_standard_error(inside_RO.mean(axis=1)):.1%}; {per_order}",
        ),
    )


def real_coverage(row: str) -> Row:
    """Share of nominal 95 % intervals of J^(m) that hold the truth, at the noise of a real network.

    Images, pairs and contexts of the stored replicates are drawn anew in every repeat. Told is the
    share of the order where it is lowest; the target is a lower bound.
    """
    held = {K: _real_repeats(K) for K in REAL_CONTEXTS}
    return Row(
        row,
        ours=float(min(one.J.min() for one in held.values())),
        baseline=0.95,
        target=0.92,
        unit="share",
        n=REAL_REPEATS,
        notes=tuple(
            f"ResNet-20, {REAL_IMAGES} images x {REAL_PAIRS} pairs x {K} contexts: "
            + ", ".join(f"m={m} {share:.1%}" for m, share in zip(ORDERS_O, one.J, strict=True))
            + f"; bands {_shares(one.bands)}; differences to itself {_shares(one.differences)}; "
            f"bias {100 * np.abs(one.J_RO.mean(axis=0) / resnet20().J_O - 1).max():.1f} % at most"
            for K, one in held.items()
        ),
    )


def false_positives(row: str) -> Row:
    """Share of comparisons of networks with one and the same J that find a difference (Holm, 5 %).

    The larger share of those over all orders and those over bands, of a real network measured twice
    and of a simulated one against its like with half the context noise.
    """
    loud, quiet = simulated(1.0), simulated(0.5)
    compared = {
        f"ResNet-20 measured twice, K = {REAL_CONTEXTS[0]}": _real_repeats(REAL_CONTEXTS[0]),
        "simulated, one with half the noise, K = 8": repeated(
            loud, quiet, REAL_IMAGES, REAL_PAIRS, 4, REAL_REPEATS
        ),
    }
    return Row(
        row,
        ours=max(max(one.found, one.found_in_bands) for one in compared.values()),
        baseline=0.05,
        target=1.2,
        unit="share",
        n=REAL_REPEATS,
        notes=tuple(
            f"{name}: at any order {one.found:.1%}, in any band {one.found_in_bands:.1%}"
            for name, one in compared.items()
        ),
    )


def real_forwards(row: str) -> Row:
    """Forwards for the error of J that the published design has on real replicates.

    One fixed set of images and pairs, all of those that are stored; contexts are drawn anew in
    every repeat. Published are 50 contexts of every pair and order; ours is what the planner
    chooses within more and more forwards. Its pilot is not counted.
    """
    network = resnet20()
    I, P, _, O = network.replicates_IPRO.shape
    published_R = CONTEXTS // WINDOWS
    cost = 4 * I * P * published_R * WINDOWS * O
    rng = np.random.default_rng(0)
    published_J = []
    for _ in tqdm(range(ERROR_REPEATS), desc="published on real replicates", leave=False):
        S_O = np.abs(_fixed(network, rng, I, P, published_R).mean(axis=2)).mean(axis=(0, 1))
        published_J.append(S_O / S_O.mean())
    published, published_se = relative_rmse(np.stack(published_J), network.absolute_J_O)
    bias_O = np.mean(published_J, axis=0) / network.absolute_J_O - 1
    pilot = records_of(network.draw(np.random.default_rng(1), *REAL_PILOT))
    costs, errors, notes = [], [], []
    for part in REAL_PARTS:
        chosen = ix.plan(pilot, budget=int(part * cost), max_images=I, max_pairs=P)
        J = []
        for _ in tqdm(range(ERROR_REPEATS), desc=f"ours, {part:.0%}", leave=False):
            most = int(chosen.replicates_O.max())
            x_IPRO = _fixed(network, rng, chosen.images, chosen.pairs, most)
            J.append(shares(energies(x_IPRO, chosen.replicates_O).mean(axis=0)))
        costs.append(chosen.forwards)
        errors.append(relative_rmse(np.stack(J), network.J_O)[0])
        contexts = " ".join(str(WINDOWS * k) for k in chosen.replicates_O[1:-1])
        notes.append(
            f"{errors[-1]:.2%} with {chosen.forwards / cost:.3f} of the forwards "
            f"({chosen.images} images x {chosen.pairs} pairs, contexts {contexts})"
        )
        if errors[-1] < published:
            break
    return Row(
        row,
        ours=crossing(costs, errors, published),
        baseline=cost,
        target=0.1,
        unit="forwards",
        n=ERROR_REPEATS,
        notes=(
            f"RMSE of J: published {published:.2%} +- {published_se:.2%}, of which bias "
            f"{np.sqrt((bias_O**2).mean()):.2%} (up to {np.abs(bias_O).max():.1%}); "
            f"ours {', '.join(notes)}",
        ),
    )


@cache
def _real_repeats(contexts: int) -> Holds:
    """A real network measured twice, again and again."""
    network, replicates = resnet20(), contexts // WINDOWS
    return repeated(network, network, REAL_IMAGES, REAL_PAIRS, replicates, REAL_REPEATS)


def _fixed(
    network: Population, rng: np.random.Generator, images: int, pairs: int, replicates: int
) -> NDArray[np.float64]:
    """Contexts of distinct images and pairs: of all of them, nothing but contexts is random."""
    I, P, R, _ = network.replicates_IPRO.shape
    image_I11 = rng.permutation(I)[:images, None, None]
    pair_IP1 = rng.random((images, P)).argsort(axis=1)[:, :pairs, None]
    context_IPR = rng.integers(R, size=(images, pairs, replicates))
    return network.replicates_IPRO[image_I11, pair_IP1, context_IPR]


def _shares(shares_X: NDArray[np.float64]) -> str:
    return f"{shares_X.min():.1%} to {shares_X.max():.1%}"


def wall(row: str, name: str, repeats: int) -> Row:
    """Seconds from images to J, with the pairs that give ours the published RMSE, rounded up."""
    case, network, error = CASES[name], trained(name), equal_error(name)
    pairs = math.ceil(error.pairs)
    published = ix.NeighbourPairs(GRID, count=case.pairs)
    orders = orders_of(ix.PUBLISHED_RATIOS, GRID.n)
    images = range(case.compared)

    def ours() -> None:
        games = [network.game(k) for k in images]
        _ = ix.strength(ix.measure(games, our_design(GRID, pairs), target=None)).J

    def baseline() -> None:
        _ = published_J(
            [
                published_differences(
                    network.model,
                    network.images_ICHW[k],
                    int(network.labels_I[k]),
                    GRID,
                    published.draw(GRID.n, 0, network.names[k]),
                    orders,
                    CONTEXTS,
                    index=k,
                )
                for k in images
            ]
        )

    with tqdm(total=2 * repeats, desc=f"wall {name}", leave=False) as bar:
        seconds, published_seconds = alternate(ours, baseline, repeats, bar.update)
    return Row(
        row,
        ours=seconds,
        baseline=published_seconds,
        target=0.2,
        unit="s",
        n=repeats,
        notes=(
            _trained_note(name),
            *error.notes(),
            f"{case.compared} images; published {case.pairs} pairs, ours {pairs}",
        ),
    )


@dataclass(frozen=True)
class Network:
    """A trained network and test images, some of them.

    Attributes:
        model: in eval mode.
        images_ICHW: normalised.
        labels_I: their classes.
        names: their names.
        accuracy: on all test images.
    """

    model: nn.Module
    images_ICHW: Tensor
    labels_I: Tensor
    names: tuple[str, ...]
    accuracy: float

    def game(self, k: int) -> ix.PatchGame:
        """The game of the k-th image: log-odds of its label, hidden patches 0."""
        image_CHW, label = self.images_ICHW[k], int(self.labels_I[k])
        return ix.PatchGame(self.model, image_CHW, label, GRID, image=self.names[k])


@cache
def trained(name: str) -> Network:
    """The network of a case, trained on the first half of the digits."""
    case = CASES[name]
    train_set, test_set = digits(case.size)
    statistics = train_set.statistics()
    images_ICHW, test_ICHW = train_set.normalised(*statistics), test_set.normalised(*statistics)
    with torch_seeded(0):
        model = case.build()
    method = FineTuning(model)
    pretrain(
        method,
        TensorSamples(images_ICHW),
        adamw(method, case.lr, weight_decay=0.05),
        lambda step, scale: cosine_lr(step, case.steps, case.steps // 10, case.lr * scale),
        batch_size=64,
        labels_I=train_set.labels_I,
        steps=case.steps,
        cpu=True,
    )
    with torch.inference_mode():
        predicted_I = torch.cat([model(batch).argmax(dim=1) for batch in test_ICHW.split(100)])
    chosen = test_set.draw(case.tabulated, seed=0)
    return Network(
        model,
        test_ICHW[chosen],
        test_set.labels_I[chosen],
        test_set.take(chosen).names,
        accuracy=(predicted_I == test_set.labels_I).double().mean().item(),
    )


def tabulated(name: str, count: int) -> list[ix.ExactGame]:
    """Tables of the first games of a case: 65,536 forwards each."""
    return [
        _table(name, k) for k in tqdm(range(count), desc=f"tables of {name}", leave=False, delay=1)
    ]


@cache
def _table(name: str, k: int) -> ix.ExactGame:
    return ix.exact(trained(name).game(k))


def exact_J(
    tables: Sequence[ix.ExactGame], grid: ix.PatchGrid, estimator: str
) -> NDArray[np.float64]:
    """J^(m) of the published orders over these images and all neighbouring pairs, ``(O,)``.

    Of RMS strength for ``"rms"``, of the mean of |I| for other estimators.
    """
    orders = orders_of(ix.PUBLISHED_RATIOS, grid.n)
    place = {tuple(pair): k for k, pair in enumerate(ix.AllPairs().draw(grid.n, 0, "").tolist())}
    near = [place[tuple(pair)] for pair in ix.NeighbourPairs(grid).candidates().tolist()]
    interactions_IPO = np.stack([table.interactions()[np.ix_(near, orders)] for table in tables])
    if estimator == "rms":
        return shares((interactions_IPO**2).mean(axis=(0, 1)))
    strength_O = np.abs(interactions_IPO).mean(axis=(0, 1))
    return strength_O / strength_O.mean()


def our_design(grid: ix.PatchGrid, pairs: int, seed: int = 0) -> ix.Design:
    """Uniform neighbouring pairs in 4 x 2 windows."""
    return ix.Design(ix.NeighbourPairs(grid, count=pairs), ix.Windows(4, 2), seed=seed)


def published_design(grid: ix.PatchGrid, pairs: int, seed: int = 0) -> ix.Design:
    """Uniform neighbouring pairs in :data:`CONTEXTS` independent contexts."""
    return ix.Design(ix.NeighbourPairs(grid, count=pairs), ix.IID(CONTEXTS), seed=seed)


@dataclass(frozen=True)
class Measured:
    """The error of a design.

    Attributes:
        pairs: P.
        forwards: distinct coalitions of an image, on average.
        rmse: of J, relative.
        se: standard error of ``rmse``, over repeats.
    """

    pairs: int
    forwards: float
    rmse: float
    se: float


def measured(
    tables: Sequence[ix.ExactGame],
    design: ix.Design,
    estimator: str,
    truth_O: NDArray[np.float64],
    seeds: Iterable[int],
) -> Measured:
    """The error of a design on these images, from one measurement of all of them for each seed."""
    J, counts = [], []
    for seed in seeds:
        records = ix.measure(tables, replace(design, seed=seed), target=None)
        J.append(ix.strength(records, estimator).J)
        counts += [record.forwards for record in records]
    rmse, se = relative_rmse(np.stack(J), truth_O)
    return Measured(len(records[0].pairs_P2), float(np.mean(counts)), rmse, se)


def relative_rmse(J_RO: NDArray[np.float64], truth_O: NDArray[np.float64]) -> tuple[float, float]:
    """Root of the mean square of (J - true) / true over repeats and orders, and its error."""
    square_R = ((J_RO / truth_O - 1) ** 2).mean(axis=1)
    rmse = float(np.sqrt(square_R.mean()))
    return rmse, _standard_error(square_R) / (2 * rmse) if rmse else 0.0


@dataclass(frozen=True)
class EqualError:
    """Where ours has the error of the published design.

    Attributes:
        published: the published design.
        ours: our design with more and more pairs, up to the first with less error.
    """

    published: Measured
    ours: tuple[Measured, ...]

    @property
    def forwards(self) -> float:
        """Our forwards for an image at the published error, interpolated."""
        return self._at([m.forwards for m in self.ours])

    @property
    def pairs(self) -> float:
        """Our pairs for an image at the published error, interpolated."""
        return self._at([m.pairs for m in self.ours])

    def notes(self) -> tuple[str, ...]:
        """What was found, in words."""
        curve = ", ".join(f"P={m.pairs} {m.rmse:.2%} ({m.forwards:.0f})" for m in self.ours)
        p, orders = self.published, len(orders_of(ix.PUBLISHED_RATIOS, GRID.n))
        # One context for a pair at each end, all those of the windows in between.
        repeating = 4 * self.pairs * (2 + 8 * (orders - 2)) / published_forwards(p.pairs)
        return (
            f"RMSE of J (distinct forwards): published P={p.pairs} {p.rmse:.2%} +- {p.se:.2%} "
            f"({p.forwards:.0f} of {published_forwards(p.pairs)}); ours {curve} "
            f"+- {self.ours[-1].se:.2%}",
            f"equal error at {self.pairs:.1f} of our pairs; the ratio of forwards were "
            f"{repeating:.3f} if ours evaluated coalitions again that it has seen",
        )

    def _at(self, costs: Sequence[float]) -> float:
        return crossing(costs, [m.rmse for m in self.ours], self.published.rmse)


@cache
def equal_error(name: str) -> EqualError:
    """How many pairs, and forwards, give ours the published error on the fixed images."""
    case = CASES[name]
    tables = tabulated(name, case.compared)
    truth_O, published_truth_O = (exact_J(tables, GRID, of) for of in ("rms", "plug_in"))

    def seeds(what: str) -> Iterable[int]:
        return tqdm(range(ERROR_REPEATS), desc=f"RMSE {name}, {what}", leave=False)

    design = published_design(GRID, case.pairs)
    published = measured(tables, design, "plug_in", published_truth_O, seeds("published"))
    ours: list[Measured] = []
    for pairs in OUR_PAIRS:
        at = seeds(f"our {pairs} pairs")
        ours.append(measured(tables, our_design(GRID, pairs), "rms", truth_O, at))
        if ours[-1].rmse < published.rmse:
            break
    return EqualError(published, tuple(ours))


def published_forwards(pairs: int) -> int:
    """Forwards of the published code for an image: 4 P K for each order."""
    return 4 * pairs * CONTEXTS * len(orders_of(ix.PUBLISHED_RATIOS, GRID.n))


def crossing(costs: Sequence[float], errors: Sequence[float], target: float) -> float:
    """The cost at which the error falls to ``target``: log error is linear in log cost in between.

    Args:
        costs: growing.
        errors: of each cost.
        target: an error between the first and the last.

    Raises:
        ValueError: if the errors do not begin above the target and come down to it.
    """
    for k in range(1, len(errors)):
        if errors[k - 1] > target >= errors[k]:
            before, after, at = (math.log(e) for e in (errors[k - 1], errors[k], target))
            step = math.log(costs[k] / costs[k - 1])
            return costs[k - 1] * math.exp(step * (before - at) / (before - after))
    raise ValueError(
        f"expected errors that begin above {target:.4g} and come down to it, got "
        + ", ".join(f"{error:.4g}" for error in errors)
    )


def resampled(
    tables: Sequence[ix.ExactGame], design: ix.Design, images: int, repeat: int
) -> ix.Strength:
    """Strengths of images drawn with replacement, each with pairs and contexts of its own."""
    chosen = np.random.default_rng(repeat).integers(len(tables), size=images)
    games = [replace(tables[k], image=f"{tables[k].image}/{slot}") for slot, k in enumerate(chosen)]
    return ix.strength(ix.measure(games, replace(design, seed=repeat), target=None))


def covered(strengths: Iterable[ix.Strength], truth_O: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether the 95 % interval of each repeat and order holds the truth, ``(R, O)``."""
    return np.array(
        [
            [i.low <= J <= i.high for i, J in zip(strength.intervals(), truth_O, strict=True)]
            for strength in strengths
        ]
    )


def _standard_error(values_R: NDArray[np.float64]) -> float:
    return float(values_R.std(ddof=1) / np.sqrt(len(values_R)))


def _trained_note(name: str) -> str:
    network = trained(name)
    parameters = sum(p.numel() for p in network.model.parameters())
    return f"{name}: {parameters} parameters, test accuracy {network.accuracy:.1%}"
