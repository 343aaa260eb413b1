"""All figures of this folder, from the tables beside this file.

python results/siamese/figures.py    (make figures does it too)
"""

from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from a2mim.report.figures import captioned, save
from a2mim.report.figures_compare import looks_of
from a2mim.report.figures_features import (
    invariance_over_layers,
    invariance_over_ratios,
    invariance_table,
)
from a2mim.runs.table import read_table
from interactions import plots

HERE = Path(__file__).parent
PANELS = {"linear_top1": "linear probe, 5,000 labels", "finetune_top1": "fine-tuned, 2,500 labels"}
NAMES = {
    "mae.safetensors": "MAE",
    "rmae.safetensors": "R-MAE",
    "cmae.safetensors": "C-MAE",
    "supervised.safetensors": "supervised",
    "untrained": "untrained",
}
"""Weights in the tables, and what the networks are called in figures."""


def invariance(name):
    """The rows of one table of ``a2mim invariance``, by the names of the figures."""
    rows = read_table(HERE / f"{name}.csv")
    return rows.assign(model=rows["weights"].map(NAMES), weights="")


def accuracies():
    """Accuracy by number of images and subset; 50,000 are all images."""
    rows = pd.concat([read_table(HERE / name) for name in ("probe.csv", "finetune.csv")])
    named = rows["weights"].str.extract(r"^few(?P<images>\d+)-(?P<subset>\d)")
    rows = rows.assign(images=named["images"].astype(float), subset=named["subset"])
    return rows[rows["measure"].isin(PANELS)]


def few_images(rows):
    """A panel per measure: subsets, their mean, and the untrained network."""
    figure = Figure(figsize=(8.4, 3.7), layout="constrained")
    for ax, (measure, title) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        of = rows[rows["measure"] == measure]
        few = of.dropna(subset="images")
        mean = few.groupby("images")["value"].mean()
        ax.plot(few["images"], 100 * few["value"], "o", color=plots.COLOURS[1], alpha=0.5)
        ax.plot(mean.index, 100 * mean, color=plots.COLOURS[1], label="MAE, mean of subsets")
        control = 100 * of.loc[of["weights"] == "untrained", "value"].iloc[0]
        ax.axhline(control, color=plots.COLOURS[0], ls=(0, (5, 2)), label="untrained")
        ax.set(xscale="log", title=title, xlabel="images of pre-training", ylabel="accuracy, %")
        ax.set_xticks(mean.index, [f"{int(images):,}" for images in mean.index])
        ax.minorticks_off()
    handles = ax.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2)
    tested = ", ".join(f"{int(count):,}" for count in sorted(rows["samples"].unique()))
    said = "one training for each mark: three subsets of 1 to 1,000 images, one of all 50,000"
    plots.caption(ax, f"{tested} test images; {said}; no intervals")
    return figure


def main():
    """Draw them."""
    save({"few_images": partial(few_images, accuracies())}, HERE)
    for name in ("invariance-tokens", "invariance-pixels", "invariance-complement"):
        rows = invariance(name)
        looks = looks_of(list(NAMES.values()))
        draw = {name: partial(invariance_over_ratios, invariance_table(rows), looks)}
        save(captioned(draw, rows), HERE)
        if name != "invariance-tokens":
            continue
        for title, of in rows.groupby("model", sort=False):
            layers = partial(invariance_over_layers, invariance_table(of))
            file = f"layers-{title.lower().replace('-', '')}"
            save(captioned({file: layers}, of), HERE)


if __name__ == "__main__":
    main()
