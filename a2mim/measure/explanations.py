"""One picture in ``a2mim interactions``: what the networks see in it, by order.

Beside the rows of every run there are ``pairs.csv`` and ``patches.csv``, the interaction map and
the attribution of all networks, and for each network everything in one file and one figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

import interactions as ix
from a2mim.data.sources import Source
from a2mim.files import whole, write_whole
from a2mim.measure.networks import Subject
from a2mim.measure.runner import Measured, game_of
from a2mim.report.figures import save
from a2mim.runs.folder import safe_name
from a2mim.runs.progress import forwards
from a2mim.settings.interactions import ENCODER_REWARDS, InteractionsConfig
from interactions.explanation import explained

PERMUTATIONS = 8
"""For the attribution of patches."""


def write_explanations(
    config: InteractionsConfig, measured: Sequence[Measured], source: Source, folder: Path
) -> None:
    """Measure the attribution of patches, and write tables, files and figures of one picture.

    Args:
        config: of the run.
        measured: its networks, with the record of the picture.
        source: the picture.
        folder: of the run.
    """
    tables: dict[str, list[pd.DataFrame]] = {"pairs": [], "patches": []}
    for one in measured:
        game, (record,) = game_of(one.subject, config, source), one.records
        most = record.n * PERMUTATIONS * 2 * len(record.orders_O)
        with forwards(f"{one.subject.name}, patches", most, [one.subject.model]) as bar:
            explanation = explanation_of(config, one.subject, game, record, PERMUTATIONS)
            bar.total = bar.n
        names = {"model": one.subject.name, "weights": one.subject.weights}
        for key, table in (("pairs", explanation.to_frame()), ("patches", explanation.patches())):
            tables[key].append(table.assign(**names))
        title = safe_name(f"{one.subject.name}-{one.subject.weights}")
        with whole(folder / f"explanation-{title}.npz") as file:
            explanation.save(file)
    for key, found in tables.items():
        table = pd.concat(found, ignore_index=True)
        table = table[["model", "weights", *table.columns.drop(["model", "weights"])]]
        text = table.to_csv(index=False, float_format="%.8g", lineterminator="\n")
        write_whole(folder / f"{key}.csv", text)
    save(explanations(folder), folder)


def explanation_of(
    config: InteractionsConfig,
    subject: Subject,
    game: ix.PatchGame | ix.TokenDropGame,
    record: ix.Interactions,
    permutations: int,
) -> ix.Explanation:
    """What a network sees in an image, by its measured pairs and the attribution of its patches."""
    explanation = explained(
        game,
        record,
        permutations,
        config.seed,
        colours=subject.colours,
        unit=config.reward.replace("_", " "),
    )
    return explanation.without_label() if config.reward in ENCODER_REWARDS else explanation


def explanations(folder: Path) -> dict[str, Callable[[], Figure]]:
    """How the figures of a run with one picture are drawn, by their names; of others none."""
    return {file.stem: partial(_figure, file) for file in sorted(folder.glob("explanation-*.npz"))}


def _figure(file: Path) -> Figure:
    return ix.Explanation.load(file).plot()
