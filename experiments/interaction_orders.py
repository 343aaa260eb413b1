"""Interaction strength over orders of several checkpoints, in one figure.

    I(i, j | S) = v(S + ij) - v(S + i) - v(S + j) + v(S),    J^(m) = S^(m) / mean over orders

A copy of this file is a good beginning for a figure of your own: other pairs, rewards or fills are
a line each. ``a2mim interactions`` measures the same, and can be interrupted.

Source: Deng et al., "Discovering and explaining the representation bottleneck of DNNs", ICLR 2022,
figure 2; the estimator is that of ``interactions.orders``.
Command: ``python -m experiments.interaction_orders CKPT... --images DIR --out FIGURE.png``
Time: about 350 forwards per network, image and pair; half a minute on two cores for two networks of
timm's tests, 4 images of 160 pixels, 5 x 5 patches and one pair.
Expected: of an untrained ``test_resnet`` on cuts of two photographs, with these settings, J is
1.23, 1.07 and 0.87 at low, middle and high orders. Of an untrained ``test_efficientnet`` one image
is nearly all of the strength: its intervals are as wide as they can be, and differences are NaN.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import torch
import tyro
from matplotlib.figure import Figure
from timm.data import create_transform

import interactions as ix
from a2mim.data.arrays import find_images
from a2mim.data.folders import read_image
from a2mim.measure.networks import load
from a2mim.settings.weights import WeightsConfig
from interactions import plots


def measured(
    checkpoint: str, folder: Path, *, count: int, grid: int, pairs: int, device: str = "cpu"
) -> ix.Strength:
    """Interaction strength of one network, for the class that it predicts.

    Args:
        checkpoint: a file, a timm name, or what else ``a2mim models`` takes.
        folder: of images, searched in depth.
        count: at most this many of them.
        grid: patches on each side.
        pairs: neighbouring patches whose interaction is measured, of each image.
        device: where the network runs.
    """
    loaded = load(checkpoint, WeightsConfig())
    transform = create_transform(**loaded.data_config)
    files = find_images(folder, count)
    images_BCHW = torch.stack([transform(read_image(file)) for file in files])
    names = [file.relative_to(folder).as_posix() for file in files]
    players = ix.PatchGrid(grid, grid)
    games = ix.PatchGames(loaded.model.to(device), images_BCHW, "prediction", players, names)
    design = ix.Design(ix.NeighbourPairs(players, count=pairs))
    records = ix.measure(games, design, target=None)
    return ix.strength(records)


def draw(strengths: dict[str, ix.Strength]) -> Figure:
    """A curve with its 95 % interval for each network."""
    with mpl.rc_context(plots.STYLE):
        figure = Figure(figsize=(6, 3.8), layout="constrained")
        ax = figure.subplots()
        for k, (name, strength) in enumerate(strengths.items()):
            strength.plot(ax, label=name, colour=plots.COLOURS[k % len(plots.COLOURS)])
        ax.legend()
    return figure


def main(
    checkpoints: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="CKPT...")],
    images: Path,
    out: Path = Path("interaction_orders.png"),
    count: int = 8,
    grid: int = 7,
    pairs: int = 4,
    device: str = "cpu",
) -> None:
    """Draw the curves, and print how each network differs from the first.

    Args:
        checkpoints: files, timm names, or what else ``a2mim models`` takes.
        images: folder of images.
        out: the figure.
        count: at most this many images.
        grid: patches on each side.
        pairs: pairs of neighbouring patches of each image.
        device: cpu or cuda.
    """
    strengths = {
        name: measured(name, images, count=count, grid=grid, pairs=pairs, device=device)
        for name in checkpoints
    }
    first, *others = strengths
    print(strengths[first].bands().round(3).to_string(index=False))
    for name in others:
        print(f"\n{name} minus {first}:")
        table = strengths[name].compare_bands(strengths[first])
        print(table.round(3).to_string(index=False))
    with mpl.rc_context(plots.STYLE):
        draw(strengths).savefig(out)


if __name__ == "__main__":
    tyro.cli(main)
