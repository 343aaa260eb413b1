"""The figure of few-image pre-training, from the tables of ``a2mim probe`` beside this file.

python results/siamese/few_images.py
"""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from a2mim.runs.table import read_table
from interactions import plots

HERE = Path(__file__).parent
PANELS = {"linear_top1": "linear probe, 5,000 labels", "finetune_top1": "fine-tuned, 2,500 labels"}


def table():
    """Accuracy by number of images and subset; 50,000 are all images."""
    rows = pd.concat([read_table(HERE / name) for name in ("probe.csv", "finetune.csv")])
    named = rows["weights"].str.extract(r"^few(?P<images>\d+)-(?P<subset>\d)")
    rows = rows.assign(images=named["images"].astype(float), subset=named["subset"])
    return rows[rows["measure"].isin(PANELS)]


def draw(rows):
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
    return figure


if __name__ == "__main__":
    with mpl.rc_context(plots.STYLE):
        figure = draw(table())
        figure.savefig(HERE / "few_images.png")
