"""How much of several networks' predictions is left when parts of images are hidden.

    agreement(f) = share of images whose class is that of the whole image, a fraction f being hidden

Three occluders: patches at random, those that matter most, and those that matter least, by an
attribution of captum's for the first network; all networks see the same masks. Where classes are
known, use them as ``labels_I``, and ``correct`` in place of ``agreement``. ``a2mim occlusion``
measures the same with every other quantity, and can be interrupted.

Source: Naseer et al., "Intriguing properties of vision transformers", NeurIPS 2021, figure 3, with
an attribution in place of DINO's attention.
Command: ``python -m experiments.occlusion_robustness CKPT... --images DIR --out FIGURE.png``
Time: half a minute on two cores for two networks of timm's tests and 8 images of 160 pixels.
Expected: of an untrained ``test_resnet`` on cuts of two photographs, 0.54 is left (area under the
curve) where salient patches go first, 0.62 at random and 0.93 where they go last.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import pandas as pd
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
from interactions.occlusion.curves import by_fraction, scores
from interactions.occlusion.masks import OCCLUDERS
from interactions.occlusion.predictions import occlude
from interactions.occlusion.saliency import captum_attribution

SHOWN = ("random", "salient", "non_salient")
FRACTIONS = tuple(k / 10 for k in range(10))

Rows = dict[tuple[str, str], pd.DataFrame]  # of occluder and network


def measured(
    checkpoints: tuple[str, ...], folder: Path, *, count: int, grid: int, method: str, device: str
) -> Rows:
    """One row per image, hidden fraction, occluder and network."""
    files = find_images(folder, count)
    names = [file.relative_to(folder).as_posix() for file in files]
    players = ix.PatchGrid(grid, grid)
    rows, saliency_IN = {}, None
    for checkpoint in checkpoints:
        loaded = load(checkpoint, WeightsConfig())
        transform = create_transform(**loaded.data_config)
        images_ICHW = torch.stack([transform(read_image(file)) for file in files])
        model = loaded.model.to(device)
        if saliency_IN is None:
            saliency_IN = captum_attribution(model, images_ICHW, players, method, names=names)
        labels_I = torch.zeros(len(files), dtype=torch.int64)  # not known: agreement needs none
        for name in SHOWN:
            rows[name, checkpoint] = occlude(
                *(model, images_ICHW, labels_I, players, OCCLUDERS[name]),
                fractions=FRACTIONS,
                names=names,
                saliency_IN=saliency_IN,
            )
    return rows


def draw(rows: Rows) -> Figure:
    """A panel for each occluder, a curve with its 95 % interval for each network."""
    with mpl.rc_context(plots.STYLE):
        figure = Figure(figsize=(10, 3.4), layout="constrained")
        for ax, shown in zip(figure.subplots(1, 3, sharey=True), SHOWN, strict=True):
            of = [(network, table) for (name, network), table in rows.items() if name == shown]
            for k, (network, table) in enumerate(of):
                points = by_fraction(table).query("measure == 'agreement'")
                columns = points[["estimate", "se", "low", "high"]]
                intervals = [ix.Interval(*map(float, row)) for row in columns.to_numpy()]
                colour = plots.COLOURS[k % len(plots.COLOURS)]
                plots.accuracy_curve(ax, points["hidden"], intervals, label=network, colour=colour)
            ax.set(title=shown.replace("_", "-"), ylabel="agreement with the whole image")
            ax.label_outer()
        figure.axes[0].legend()
    return figure


def main(
    checkpoints: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="CKPT...")],
    images: Path,
    out: Path = Path("occlusion_robustness.png"),
    count: int = 50,
    grid: int = 7,
    method: str = "IntegratedGradients",
    device: str = "cpu",
) -> None:
    """Draw the curves, and print the area under each.

    Args:
        checkpoints: files, timm names, or what else ``a2mim models`` takes.
        images: folder of images.
        out: the figure.
        count: at most this many images.
        grid: patches on each side.
        method: attribution of captum's.
        device: cpu or cuda.
    """
    rows = measured(checkpoints, images, count=count, grid=grid, method=method, device=device)
    for (name, network), table in rows.items():
        area = scores(table, "agreement").set_index("score").loc["area"]
        print(f"{name:12} {network}: {area.estimate:.3f} [{area.low:.3f}, {area.high:.3f}]")
    with mpl.rc_context(plots.STYLE):
        draw(rows).savefig(out)


if __name__ == "__main__":
    tyro.cli(main)
