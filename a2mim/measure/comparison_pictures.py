"""A few images in ``a2mim compare``: which pairs and patches matter to each network, by order.

As in ``a2mim interactions NET --images photo.jpg``, with fewer forwards: on a coarse grid, pairs of
patches that share an edge, with no other patch visible (m = 0), half of them, and all (m = n-2).
Every network gets the same images, pairs, contexts and permutations. Each explanation is a file
(``pictures/1-2.npz``: of the first image by the second network), which figures are drawn from and
an interrupted run goes on with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import interactions as ix
from a2mim.data.sources import Source, some
from a2mim.files import whole
from a2mim.measure.checkpoints import LeftOut
from a2mim.measure.explanations import explanation_of
from a2mim.measure.fitting import as_setting, coarse
from a2mim.measure.networks import subject_of
from a2mim.measure.runner import game_of, grid_of, usable
from a2mim.processes import is_first, shared, wait
from a2mim.runs.progress import forwards
from a2mim.settings.interactions import ENCODER_REWARDS, InteractionsConfig
from interactions.explanation import beside
from interactions.games.toy import SizeGame
from interactions.orders.attribution import marginals
from interactions.orders.estimator import measure_one

ORDERS = (0.0, 0.5, 1.0)
REPLICATES = 4
"""Contexts of each pair between the ends, where there is one."""

PERMUTATIONS = 4
SHARE = 0.3
"""The most that pictures take of the forwards that interactions would have without them."""

KINDS = ("pairs", "patches")


@dataclass(frozen=True)
class EdgePairs:
    """All pairs of cells of a grid that share an edge.

    Attributes:
        grid: where the players sit.
    """

    grid: ix.PatchGrid

    def draw(self, n: int, seed: int, image: str) -> NDArray[np.int64]:
        """The pairs, ``(P, 2)``, whatever the image."""
        near = ix.NeighbourPairs(self.grid, radius=1).candidates()
        rows, cols = np.divmod(near, self.grid.cols)
        return near[np.abs(np.diff(rows)).ravel() + np.abs(np.diff(cols)).ravel() == 1]


@dataclass(frozen=True)
class Pictured:
    """The images that are explained.

    Attributes:
        sources: the images.
        forwards: for each network, of all of them together.
        asked: what those that were asked for would need.
    """

    sources: list[Source] = field(default_factory=list)
    forwards: int = 0
    asked: int = 0


def pictured(
    sources: Sequence[Source], count: int, grid: ix.PatchGrid, seed: int, left: int, least: int
) -> Pictured:
    """As many of the images that are asked for as can be afforded.

    Args:
        sources: all images.
        count: how many are asked for.
        grid: players of the comparison.
        seed: random seed.
        left: forwards for interactions and pictures.
        least: forwards that interactions need.
    """
    chosen = some(sources, count, seed)
    needs = [_forwards(source.name, coarse(grid), seed) for source in chosen]
    most = min(int(SHARE * left), left - least)
    fits = sum(1 for k in range(len(needs)) if sum(needs[: k + 1]) <= most)
    return Pictured(chosen[:fits], sum(needs[:fits]), sum(needs))


def _design(grid: ix.PatchGrid, seed: int) -> ix.Design:
    return ix.Design(EdgePairs(grid), ix.Windows(REPLICATES, 1), ORDERS, seed)


def _forwards(image: str, grid: ix.PatchGrid, seed: int) -> int:
    """Masked images of one explanation, repeats counted out: those of a game without a network."""
    game = SizeGame(grid.n, float, image)
    record = measure_one(game, _design(grid, seed))
    return record.forwards + marginals(game, record.orders_O.tolist(), PERMUTATIONS, seed).forwards


def explain_images(
    config: InteractionsConfig,
    numbers: Mapping[str, int],
    left_out: LeftOut,
    sources: Sequence[Source],
    folder: Path,
) -> None:
    """Explain images by all networks; what is there already is not measured again.

    Args:
        config: of the comparison's interactions.
        numbers: checkpoint -> its place among the networks of the comparison.
        left_out: of these checkpoints.
        sources: the images.
        folder: where explanations are kept.
    """
    grid = coarse(grid_of(config))
    design = _design(grid, config.seed)
    per_image = sum(_forwards(source.name, grid, config.seed) for source in sources) // len(sources)
    coarser = replace(config, grid=as_setting(grid))

    def of_network(name: str) -> None:
        files = [folder / f"{k}-{numbers[name]}.npz" for k in range(1, len(sources) + 1)]
        missing = shared([k for k, file in enumerate(files) if not file.is_file()])
        if not missing:
            return
        headless = config.reward in ENCODER_REWARDS
        subject = subject_of(name, config.weights, config.device, headless=headless)
        total = per_image * len(missing)
        with forwards(f"{subject.name}, single images", total, [subject.model]):
            for k in missing:
                game = game_of(subject, coarser, sources[k])
                record = usable(partial(measure_one, game, design))
                explanation = explanation_of(config, subject, game, record, PERMUTATIONS)
                with whole(files[k]) as file:
                    explanation.save(file)

    folder.mkdir(exist_ok=True)
    left_out.go_on(folder)
    left_out.each(of_network)
    if is_first():
        left_out.keep(folder)
    wait()


def figures_of_images(
    folder: Path, titles: Sequence[str], count: int
) -> dict[str, Callable[[], Figure]]:
    """How the figures of explained images are drawn, from their files.

    Args:
        folder: of the files.
        titles: of the networks, in their order.
        count: images.
    """
    draw: dict[str, Callable[[], Figure]] = {}
    for k in range(1, count + 1):
        files = {
            title: file
            for number, title in enumerate(titles, start=1)
            if (file := folder / f"{k}-{number}.npz").is_file()
        }
        if files:
            draw |= {f"picture-{k}-{kind}": partial(_figure, files, kind) for kind in KINDS}
    return draw


def _figure(files: Mapping[str, Path], kind: str) -> Figure:
    found = {title: ix.Explanation.load(file) for title, file in files.items()}
    return beside(found, kind)  # type: ignore[arg-type]
