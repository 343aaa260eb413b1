"""``a2mim compare``: every measure of several checkpoints, one table and one page.

Each panel is a run of its own command (``a2mim occlusion``, ``interactions``, ``invariance``,
``spectrum``) on the same images, kept whole under ``panels``. From their tables come the scores,
one number with an interval for each network, and their paired differences
(:mod:`a2mim.measure.comparison`); from these the figures and the page
(:mod:`a2mim.report.comparison_page`).

All networks look at the same pixels: where they want different crops or resizing, all get one; what
is hidden becomes the mean colour of the image, which no normalisation changes. What is decided
before the first forward is in :mod:`a2mim.measure.plan`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
from torch import nn

from a2mim.checkpoints.custom import kept_in_memory
from a2mim.data.sources import set_name
from a2mim.files import write_whole
from a2mim.measure.checkpoints import LeftOut, left_out_of, with_all
from a2mim.measure.comparison import PICTURES, Comparison
from a2mim.measure.comparison_pictures import explain_images
from a2mim.measure.interactions import BudgetError, interaction_curves
from a2mim.measure.invariance import invariance
from a2mim.measure.networks import nicknames, without_path, write_reports
from a2mim.measure.occlusion import occlusion
from a2mim.measure.plan import HIDDEN, SIMILAR_AT, Plan, batch_of, planned
from a2mim.measure.scores import scores_and_differences
from a2mim.measure.spectrum import spectrum
from a2mim.messages import UsageError
from a2mim.processes import first, is_first, together, wait
from a2mim.runs.folder import (
    commit,
    is_run,
    label_run,
    nothing_left_empty,
    open_run,
    place_run,
)
from a2mim.runs.table import COLUMNS, ENERGY, read_table, write_table
from a2mim.settings.compare import CompareConfig, Panel
from a2mim.settings.interactions import InteractionsConfig
from a2mim.settings.invariance import InvarianceConfig
from a2mim.settings.occlusion import OcclusionConfig
from a2mim.settings.spectrum import SpectrumConfig
from a2mim.settings.weights import WeightsConfig


def compare(
    checkpoints: Sequence[str | Path | nn.Module] | Mapping[str, nn.Module],
    *,
    images: str | Path | None = None,
    data: str = "",
    out: str | Path | None = None,
    **settings: Any,
) -> Comparison:
    """Measure checkpoints on the same images, pairs, contexts and masks; ``a2mim compare``.

    An interrupted comparison goes on when it is called again; a finished one is read.

    Args:
        checkpoints: two or more files, timm names and so on, as on the command line; also modules,
            which say in ``pretrained_cfg`` how they want their images (those of timm do), in a list
            or by what they are to be called.
        images: a folder of images.
        data: a data set by name instead.
        out: output folder; ``results/compare/<names>-<key>`` if left out.
        settings: any other of :class:`~a2mim.settings.compare.CompareConfig`, and of
            :class:`~a2mim.settings.weights.WeightsConfig`.

    Returns:
        The finished comparison: ``.to_frame()``, ``.scores()``, ``.differences()``,
        ``.plot(panel)``, ``.to_html(path)``.

    Raises:
        UsageError: if a checkpoint, the images or a setting cannot be used.
        DataError: if an image cannot be read.
    """
    of_weights = {field.name for field in fields(WeightsConfig)}
    weights = WeightsConfig(**{k: v for k, v in settings.items() if k in of_weights})
    rest = {k: v for k, v in settings.items() if k not in of_weights}
    known = {field.name for field in fields(CompareConfig)} - {"weights"}  # given one by one
    if unknown := rest.keys() - known:
        raise UsageError(f"expected settings of a2mim compare, got {', '.join(sorted(unknown))}")
    if isinstance(checkpoints, str | Path | nn.Module):
        checkpoints = [checkpoints]
    config = CompareConfig(
        _names_of(checkpoints),
        images=None if images is None else Path(images),
        data=data,
        out=None if out is None else Path(out),
        weights=weights,
        **rest,
    )
    return run(config)


def _names_of(
    checkpoints: Sequence[str | Path | nn.Module] | Mapping[str, nn.Module],
) -> tuple[str, ...]:
    """Checkpoints by name; a module by its class, with a number if several are of one."""
    if isinstance(checkpoints, Mapping):
        return tuple(kept_in_memory(module, title) for title, module in checkpoints.items())
    classes = Counter(type(one).__name__ for one in checkpoints)
    seen: Counter[str] = Counter()
    names = []
    for one in checkpoints:
        name = str(one) if isinstance(one, str | Path) else type(one).__name__
        if isinstance(one, nn.Module):
            seen[name] += 1
            several = classes[name] > 1
            name = kept_in_memory(one, f"{name}-{seen[name]}" if several else name)
        names.append(name)
    return tuple(names)


@together()
@nothing_left_empty()
def run(config: CompareConfig) -> Comparison:
    """Plan, say so, measure every panel, and write table, figures and page.

    Raises:
        UsageError: if a checkpoint, the images or a setting cannot be used.
        DataError: if an image cannot be read.
    """
    start = time.perf_counter()
    plan = first(lambda: planned(with_all(config)))
    print(plan)
    config = plan.config
    everything = {**plan.settings, **plan.decides}
    names = nicknames([network.report for network in plan.networks])
    opened = open_run(config.out, "compare", names, everything, resume=config.resume)
    if opened.finished:
        return Comparison(opened.out)
    work, out = opened.work, opened.out
    # Interactions first: their pilot may find the budget too small.
    order = sorted(plan.forwards, key=lambda panel: panel != "interactions")
    # The folder belongs to the plan's key, so that a finished panel in it is one of this plan.
    for k, panel in enumerate(order):
        there = is_run(work / "panels" / panel)
        print(f"[{k + 1}/{len(order)}] {panel}{', measured before' if there else ''}")
        if there:
            continue
        try:
            _run_panel(panel, plan, work)
        except BudgetError as error:
            raise UsageError(_larger_budget(plan, error)) from error
    if plan.pictured.sources:
        _explain(plan, work)
    if not is_first():
        wait()
        return Comparison(out)
    plan = _without_failed(plan, work)
    done = [read_table(work / "panels" / panel / "rows.csv") for panel in plan.forwards]
    ran: dict[str, Any] = {
        panel: _ran(rows) for panel, rows in zip(plan.forwards, done, strict=True)
    }
    measured = pd.concat(done, ignore_index=True)
    if plan.pictured.sources:
        ran["pictures"] = {"images": len(plan.pictured.sources)}
    own = scores_and_differences(measured, work / "panels", plan.networks)
    own = own.assign(
        dataset=set_name(config.images, config.data), seed=config.seed, commit=commit()
    )
    write_table(pd.concat([measured, own[list(COLUMNS)]], ignore_index=True), work / "rows.csv")
    write_reports([network.report for network in plan.networks], work / "weights.json")
    plan.left_out.keep(work)
    write_whole(work / "compare.json", json.dumps({**plan.to_dict(), "ran": ran}, indent=2) + "\n")
    label_run(work, plan.settings | {"ran": ran}, time.perf_counter() - start)
    comparison = Comparison(work)
    comparison.save_figures()
    comparison.to_html(work / "compare.html")
    place_run(opened)
    wait()
    comparison = Comparison(out)
    print(comparison)
    print(f"\npage: {out / 'compare.html'}   table: {out / 'rows.csv'}")
    return comparison


def _without_failed(plan: Plan, work: Path) -> Plan:
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


# --------------------------------------------------------------------------------------------------
# measuring


def _run_panel(panel: Panel, plan: Plan, work: Path) -> None:
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


def _explain(plan: Plan, work: Path) -> None:
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
    names = {name for one in checkpoints for name in (one, PurePath(one).name)}
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
