"""The panels of ``a2mim compare``: each is a run of its own command, under ``panels``.

All get the same images, grid and seed. A panel that is there was made by the same plan, to whose
key the work folder belongs, and is not made again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from a2mim.files import write_whole
from a2mim.measure.checkpoints import LeftOut, left_out_of
from a2mim.measure.comparison import PICTURES
from a2mim.measure.comparison_pictures import explain_images
from a2mim.measure.interactions import BudgetError, interaction_curves
from a2mim.measure.invariance import invariance
from a2mim.measure.networks import without_path
from a2mim.measure.occlusion import occlusion
from a2mim.measure.plan import HIDDEN, SIMILAR_AT, Plan, batch_of
from a2mim.measure.spectrum import spectrum
from a2mim.messages import UsageError
from a2mim.processes import is_first
from a2mim.runs.folder import is_run
from a2mim.runs.table import ENERGY, read_table
from a2mim.settings.compare import CompareConfig, Panel
from a2mim.settings.interactions import InteractionsConfig
from a2mim.settings.invariance import InvarianceConfig
from a2mim.settings.occlusion import OcclusionConfig
from a2mim.settings.spectrum import SpectrumConfig
from a2mim.settings.weights import names_of


def measure_panels(plan: Plan, work: Path) -> None:
    """Make every panel that is not there, and explain a few images.

    Raises:
        UsageError: if a network, the images or the budget cannot be used.
        DataError: if an image cannot be read.
    """
    # Interactions first: their pilot may find the budget too small.
    order = sorted(plan.forwards, key=lambda panel: panel != "interactions")
    for k, panel in enumerate(order, start=1):
        there = is_run(work / "panels" / panel)
        print(f"[{k}/{len(order)}] {panel}{', measured before' if there else ''}")
        if there:
            continue
        try:
            run_panel(panel, plan, work)
        except BudgetError as error:
            raise UsageError(_larger_budget(plan, error)) from error
    if plan.pictured.sources:
        explain(plan, work)


def gathered(plan: Plan, work: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of all panels, and what each was measured on."""
    done = [read_table(work / "panels" / panel / "rows.csv") for panel in plan.forwards]
    pairs = zip(plan.forwards, done, strict=True)
    ran: dict[str, Any] = {panel: _ran(rows) for panel, rows in pairs}
    if plan.pictured.sources:
        ran["pictures"] = {"images": len(plan.pictured.sources)}
    return pd.concat(done, ignore_index=True), ran


def without_failed(plan: Plan, work: Path) -> Plan:
    """The plan, and which networks failed in panels: they are apart there, and noted."""
    names = {plan.left_out.called(name): name for name in plan.config.checkpoints}
    titles = dict(zip(names.values(), (one.title for one in plan.networks), strict=True))
    apart = {panel: dict(of) for panel, of in plan.apart.items()}
    notes = list(plan.notes)
    for panel in plan.forwards:
        for called, reason in left_out_of(work / "panels" / panel).items():
            title = titles[names[called]]
            apart.setdefault(panel, {})[title] = reason
            notes.append(f"{title} failed in {panel}, which is without it: {reason}.")
            plan.left_out.reasons[f"{title} in {panel}"] = reason
    for called, reason in left_out_of(work / PICTURES).items():
        title = titles[names[called]]
        notes.append(f"{title} failed in pictures, which are without it: {reason}.")
        plan.left_out.reasons[f"{title} in pictures"] = reason
    return replace(plan, apart=apart, notes=notes)


def _larger_budget(plan: Plan, error: BudgetError) -> str:
    """What to ask for where other panels leave too few forwards for interactions."""
    # With a larger budget there are as many pictures as were asked for.
    panels = sum(plan.forwards.values()) - plan.forwards["interactions"]
    others = panels + plan.pictured.asked
    remedy = f"--budget {error.enough + others}" if error.enough else "more images"
    return f"interactions: {error.found}; give {remedy}, or --skip interactions"


def _ran(rows: pd.DataFrame) -> dict[str, Any]:
    """What a panel was measured on: images, and for interactions pairs of each and contexts."""
    single = rows.loc[rows["measure"] == ENERGY, ["image", "setting"]]
    if single.empty:
        return {"images": int(rows["samples"].max())}
    told = dict(part.split("=", 1) for part in single["setting"].iloc[0].split() if "=" in part)
    return {
        "images": single["image"].nunique(),
        **{key: told[key] for key in ("pairs", "contexts") if key in told},
    }


def run_panel(panel: Panel, plan: Plan, work: Path) -> None:
    """Run a panel; what it prints is kept beside it."""
    out = work / "panels" / panel
    out.parent.mkdir(exist_ok=True)
    with redirect_stdout(StringIO()) as said:
        _COMMANDS[panel](plan, _of_panel(plan, panel), out)
    if not is_first():
        return
    text = said.getvalue().replace(f"{out.parent}/", "")
    for source in sorted((n.report.source for n in plan.networks), key=len, reverse=True):
        text = text.replace(source, without_path(source))
    write_whole(out.with_name(f"{panel}.txt"), text)


def explain(plan: Plan, work: Path) -> None:
    """Explain a few images by the networks whose interactions could be measured."""
    failed = left_out_of(work / "panels" / "interactions")
    of_panel = _of_panel(plan, "interactions")
    rest = [name for name in of_panel.checkpoints if plan.left_out.called(name) not in failed]
    config = _interactions_config(plan, replace(of_panel, checkpoints=tuple(rest)), work)
    places = {name: k for k, name in enumerate(plan.config.checkpoints, start=1)}
    print(f"pictures: {len(plan.pictured.sources)} images")
    left_out = LeftOut(rest, plan.config.weights)
    explain_images(config, places, left_out, plan.pictured.sources, work / PICTURES)


def _of_panel(plan: Plan, panel: Panel) -> CompareConfig:
    """The settings, with the checkpoints of a panel and what is said of them."""
    checkpoints, weights = plan.checkpoints(panel), plan.config.weights
    names = {name for one in checkpoints for name in names_of(one)}
    own = tuple(words for words in weights.per_network if words[0] in names)
    weights = replace(weights, per_network=own)
    return replace(plan.config, checkpoints=checkpoints, weights=weights)


def _predictions(plan: Plan, config: CompareConfig, out: Path) -> None:
    occlusion(
        OcclusionConfig(
            config.checkpoints,
            **_masked(config, out),
            label="truth" if config.label == "truth" else "prediction",
            fill=config.fill,
            fractions=HIDDEN,
            probe_data=config.probe_data,
            probe_max_train=config.probe_max_train,
        )
    )


def _interactions(plan: Plan, config: CompareConfig, out: Path) -> None:
    interaction_curves(_interactions_config(plan, config, out))


def _interactions_config(plan: Plan, config: CompareConfig, out: Path) -> InteractionsConfig:
    return InteractionsConfig(
        config.checkpoints,
        **_masked(config, out),
        label="prediction" if plan.projection else config.label,
        reward="projection" if plan.projection else "log_odds",
        fill=config.fill,
        budget=plan.forwards["interactions"],
    )


def _similarity(plan: Plan, config: CompareConfig, out: Path) -> None:
    invariance(
        InvarianceConfig(
            config.checkpoints,
            **_masked(config, out),
            fill=config.fill,
            fractions=SIMILAR_AT,
            repeats=1,
            layers=("output",),
            cka_batch=batch_of(config.count),
        )
    )


def _spectrum(plan: Plan, config: CompareConfig, out: Path) -> None:
    spectrum(SpectrumConfig(config.checkpoints, **_shared(config, out)))


_COMMANDS: dict[Panel, Callable[[Plan, CompareConfig, Path], None]] = {
    "predictions": _predictions,
    "interactions": _interactions,
    "similarity": _similarity,
    "spectrum": _spectrum,
}


def _masked(config: CompareConfig, out: Path) -> dict[str, Any]:
    """Settings of the panels that hide patches."""
    return {**_shared(config, out), "grid": config.grid}


def _shared(config: CompareConfig, out: Path) -> dict[str, Any]:
    """Settings that all panels have."""
    return {
        "images": config.images,
        "data": config.data,
        "count": config.count,
        "seed": config.seed,
        "precision": config.precision,
        "weights": config.weights,
        "device": config.device,
        "out": out,
    }
