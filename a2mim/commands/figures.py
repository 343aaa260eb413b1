"""``a2mim figures``: the figures of a finished run again, from its table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from a2mim.measure import interactions, invariance, occlusion, spectrum
from a2mim.measure.comparison import redraw_comparison
from a2mim.measure.explanations import explanations
from a2mim.messages import UsageError
from a2mim.report import demo
from a2mim.report.figures import figures_of_pictures, save
from a2mim.runs.folder import is_run
from a2mim.runs.table import read_table
from interactions.plots import Layout, Scale

FIGURES: dict[str, Callable[[pd.DataFrame], dict[str, Callable[[], Figure]]]] = {
    "invariance": invariance.figures,
    "occlusion": occlusion.figures,
    "spectrum": spectrum.figures,
}
"""How each figure of a command is drawn, by the ``run`` column of its table."""


def redraw(run: Path, scale: Scale = "linear", layout: Layout = "intervals") -> None:
    """Draw the figures of a finished run again; of a demo or a comparison, its page too.

    Each is replaced by a complete one, and no other file is touched.

    Args:
        run: the run folder of any command.
        scale: of interaction strengths.
        layout: of their curves over orders; see :data:`interactions.plots.Layout`.

    Raises:
        UsageError: if it is no finished run, or its figures are not drawn from its table.
    """
    if not is_run(run):
        raise UsageError(f"expected a finished run, with rows.csv and config.json, in {run}")
    if (run / "compare.json").is_file():
        redraw_comparison(run, scale, layout)
        return
    rows = read_table(run / "rows.csv")
    command = "".join(rows["run"].unique()[:1])
    if command == "demo":
        demo.redraw(run)
        return
    if command == "interactions":
        figures = interactions.figures(rows, scale, layout) | explanations(run)
    elif command in FIGURES:
        figures = FIGURES[command](rows)
    else:
        figures = figures_of_pictures(run)
    if not figures:
        raise UsageError(
            f"figures of a2mim {command} are not drawn from a table; nothing was changed in {run}"
        )
    save(figures, run)
    for name in figures:
        print(run / f"{name}.png")
