"""``a2mim interactions``: from models and images to a table and a figure with intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import interactions as ix
from a2mim.data.sources import (
    Source,
    folder_has_classes,
    folder_images,
    images_of,
    known_classes,
    only_number,
    set_name,
    some,
)
from a2mim.measure import doubts as doubtful
from a2mim.measure.checkpoints import LeftOut, left_out_of, with_all
from a2mim.measure.explanations import explanations, write_explanations
from a2mim.measure.fitting import Sight, as_setting, coarse, fitting_grid, sight_of, unlike
from a2mim.measure.interaction_summary import contexts_of, spending_of, summarised, write_summary
from a2mim.measure.networks import (
    Subject,
    check_different,
    identity,
    nicknames,
    recorded,
    subject_of,
    without_classifier,
    write_reports,
)
from a2mim.measure.runner import Measured, Share, forwards_of, grid_of, measure, usable
from a2mim.messages import UsageError
from a2mim.processes import first, is_first, together, wait
from a2mim.report.figures import interaction_overlay, save
from a2mim.runs.folder import (
    commit,
    counted,
    finish_run,
    keep_memory,
    nothing_left_empty,
    open_run,
    pick_device,
)
from a2mim.runs.progress import worked_with
from a2mim.runs.records import tidy_records
from a2mim.runs.table import per_image_rows, strength_rows, write_table
from a2mim.settings.interactions import ENCODER_REWARDS, InteractionsConfig
from a2mim.settings.weights import check_given
from interactions.explanation import EXACT
from interactions.orders.adaptive import FEWEST_IMAGES
from interactions.orders.estimator import orders_of
from interactions.orders.planning import REPLICATES
from interactions.orders.published import protocol
from interactions.plots import Layout, Scale

PILOTS = ((24, 4), (16, 4), (12, 3), (8, 3), (6, 3), (4, 2))
"""Images and pairs of the pilot: the first that takes at most a third of the budget, or the last if
that takes at most half."""

LEAST_BUDGET = 2 * 4 * 2 * 4 * (11 * 8 + 2)
"""Forwards for the smallest pilot of the published orders and eight contexts, twice."""

TOO_LITTLE = 0.5
"""Expected relative error of J, over all orders, from which a budget buys nothing."""


@together()
@nothing_left_empty()
def interaction_curves(config: InteractionsConfig) -> dict[str, str]:
    """Measure, write rows and figure, and print the table.

    Under ``torchrun`` the images are shared between the processes (:mod:`a2mim.processes`).

    Returns:
        Which checkpoints were left out: name -> why.

    Raises:
        UsageError: if models, images or settings cannot be used.
        DataError: if an image cannot be read.
    """
    start = time.perf_counter()
    config = replace(with_all(config), device=pick_device(config.device))
    if config.device == "cpu":
        keep_memory()
        if config.precision == "auto":
            config = replace(config, precision="float32")
    one_picture = config.images is not None and config.images.is_file()
    config = _completed(config, one_picture)
    _check(config)
    if config.grid is not None or config.protocol:
        _design(config)  # impossible settings fail before any network is loaded
    dataset = set_name(config.images, config.data)
    left_out = LeftOut(config.checkpoints, config.weights)
    sources, subjects = first(lambda: (_sources(config), _subjects(config, left_out)))
    config = replace(config, checkpoints=left_out.rest())
    if config.reward == "auto":
        config = replace(config, reward=_fitting_reward(subjects))
        if config.reward in ENCODER_REWARDS:
            print(f"a network has no classifier: features are measured, --reward {config.reward}")
    for subject in subjects:
        print(subject.report)
    sights = [_sight(subject) for subject in subjects]
    given = as_setting(grid_of(config)) if config.protocol else config.grid
    grid = fitting_grid(given, sights)
    if one_picture and given is None:
        grid = coarse(grid)
    config = replace(config, grid=as_setting(grid))
    sources = _as_outputs(config, sources, sights)
    if config.label == "auto" and config.reward not in ENCODER_REWARDS:
        config, why = _labelled(config, sources, sights)
        print(f"label: {config.label} ({why})")
    design = _design(config)
    settings = {
        key: value
        for key, value in asdict(config).items()
        if key not in ("out", "images", "data", "resume", "batch_size")
    }
    settings |= {
        "weights": recorded(config.weights),
        "dataset": dataset,
        "checkpoints": [f"{subject.name} {subject.weights}" for subject in subjects],
        "sha256": [subject.report.sha256 for subject in subjects],
    }
    pairs = zip(config.checkpoints, subjects, strict=True)
    identities = [source.identity() for source in sources]
    doubts = doubtful.of_images(identities)
    for subject in subjects:
        doubts += doubtful.of_subject(subject, sources)
        if config.label == "truth":
            doubts += doubtful.of_texts(subject.name, subject.report, config)
    if doubts:
        print("\n".join(doubts))
    everything = settings | {
        "images": identities,
        "models": [identity(name, subject.report) for name, subject in pairs],
        **left_out.decides(),
    }
    names = nicknames([subject.report for subject in subjects])
    run = open_run(config.out, "interactions", names, everything, resume=config.resume)
    if run.finished:
        return left_out_of(run.out)
    work, out = run.work, run.out
    left_out.go_on(work)
    by_name = dict(zip(config.checkpoints, subjects, strict=True))
    share = Share(work / "records")
    if config.budget:
        try:
            design, sources = _planned(config, design, sources, by_name, left_out, share)
        except UsageError:
            if is_first():  # a pilot that nothing can be made of
                tidy_records(share.folder, ())
            raise
    else:
        _announce(config, design, len(sources), subjects)
    measured = left_out.each(lambda name: measure(by_name[name], config, design, sources, share))
    wait()  # nobody reads records any more
    if not is_first():
        return {}
    rows = _rows(config, design, dataset, measured)
    write_table(rows, work / "rows.csv")
    write_summary(summarised(rows, measured, config.target), work)
    write_reports([one.subject.report for one in measured], work / "weights.json")
    left_out.keep(work)
    doubts += left_out.sentences()
    save(figures(rows), work)
    if one_picture:
        write_explanations(config, measured, sources[0], work)
    ran = _ran(measured)
    finish_run(run, settings | {"ran": ran, "doubts": doubts}, time.perf_counter() - start)
    tidy_records(out / "records", share.used)
    _report(config, measured, out, one_picture)
    return left_out.named()


def _completed(config: InteractionsConfig, one_picture: bool) -> InteractionsConfig:
    """With what is not given: of one picture all pairs that touch (``pairs`` stays None).

    Raises:
        UsageError: for what one picture cannot give.
    """
    if one_picture and config.budget:
        raise UsageError("expected a folder of --images for --budget, got one picture")
    if one_picture and config.reward == "features":
        raise UsageError("expected a --reward that is a number for one picture, got features")
    radius = (1 if one_picture else 2) if config.radius is None else config.radius
    pairs = 12 if config.pairs is None and not one_picture else config.pairs
    return replace(config, pairs=pairs, radius=radius)


def figures(
    rows: pd.DataFrame, scale: Scale = "linear", layout: Layout = "intervals"
) -> dict[str, Callable[[], Figure]]:
    """How each figure of a results table is drawn."""
    draw = partial(interaction_overlay, rows, scale=scale, layout=layout)
    return {"interaction_curves": draw}


def _planned(
    config: InteractionsConfig,
    design: ix.Design,
    sources: Sequence[Source],
    subjects: Mapping[str, Subject],
    left_out: LeftOut,
    share: Share,
) -> tuple[ix.Design, list[Source]]:
    """The most precise design within the budget, from a pilot that is part of it."""
    pairs, contexts = design.pairs, design.contexts
    assert isinstance(pairs, ix.NeighbourPairs)
    assert isinstance(contexts, ix.Windows)
    least = replace(contexts, replicates=max(contexts.replicates, 4))  # a plan needs 4
    for images, count in PILOTS:
        few = some(sources, images, config.seed)
        pilot_design = replace(design, pairs=replace(pairs, count=count), contexts=least)
        needed = len(few) * forwards_of(pilot_design)
        if config.budget >= 3 * needed:
            break
    if config.budget < 2 * needed:
        raise UsageError(
            f"expected --budget of at least {2 * needed} forwards, of which a pilot takes half, "
            f"got {config.budget}"
        )
    pilots = left_out.each(
        lambda name: measure(subjects[name], config, pilot_design, few, share, ", pilot").records
    )
    spent = max(sum(record.forwards for record in records) for records in pilots)
    limits: dict[str, Any] = {
        "others": pilots[1:],
        # With these the measurement itself tells what its error comes from.
        "replicates": [R for R in REPLICATES if R >= 4],
        "min_pairs": 2,
        "max_pairs": len(pairs.candidates()),
        "max_images": len(sources),
    }
    left = config.budget - spent
    try:
        chosen = ix.plan(pilots[0], config.target or None, budget=left, **limits)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not chosen.error <= max(TOO_LITTLE, config.target):
        raise _too_little(pilots[0], chosen, spent, limits)
    design = chosen.design(design)
    _announce(config, design, chosen.images, list(subjects.values()))
    print(
        f"expected relative error of J: {chosen.error:.2g} over all orders, at most "
        f"{chosen.relative_O.max():.2g}"
    )
    share.used.clear()
    return design, some(sources, chosen.images, config.seed)


class BudgetError(UsageError):
    """A budget that cannot tell J to within half of itself.

    Attributes:
        found: what it would give.
        enough: a budget that would do; 0 if more images are needed.
    """

    def __init__(self, found: str, enough: int) -> None:
        remedy = f"--budget {enough}" if enough else "more images (--count)"
        super().__init__(f"{found}; give {remedy}")
        self.found, self.enough = found, enough


def _too_little(
    pilot: Sequence[ix.Interactions], chosen: ix.Plan, spent: int, limits: dict[str, Any]
) -> BudgetError:
    """What to ask for instead of a budget that is too small to tell anything."""
    found = (
        f"expected a budget that tells J to within {100 * TOO_LITTLE:g} %, but "
        f"{chosen.images} images x {chosen.pairs} pairs leave {100 * chosen.error:.0f} %"
    )
    try:
        enough = ix.plan(pilot, TOO_LITTLE, **limits).forwards
    except ValueError:
        return BudgetError(found, 0)
    # A larger budget has a larger pilot, of at most a third of it.
    return BudgetError(found, max(3 * enough // 2, chosen.forwards) + 2 * spent)


def _announce(
    config: InteractionsConfig,
    design: ix.Design,
    images: int,
    subjects: Sequence[Subject],
) -> None:
    """What will be done, before it is done."""
    n = grid_of(config).n
    pairs, orders = len(design.pairs.draw(n, design.seed, "0")), orders_of(design.ratios, n)
    per_replicate = design.contexts.count(n, 1) // design.contexts.replicates
    contexts = [per_replicate * R for R in design.replicates_at(n)]
    text = f"{_images(images)} x {pairs} pairs x {_range(contexts)} contexts x {len(orders)} orders"
    forwards = counted(images * forwards_of(design))
    more = ""
    if config.target and images > 1 and not config.budget and not config.protocol:
        more = f", more contexts where the relative error of J is above {config.target:g}"
    parameters = [subject.report.parameters for subject in subjects]
    tools = worked_with(config.device, config.precision, parameters)
    print(f"plan: {text}, at most {forwards} forwards for each network{more}, {tools}")
    if images == 1:
        print("one picture: there will be no interval over images")
    elif images < FEWEST_IMAGES:
        print(f"{images} images are few: intervals over images will be wide, and say little")


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def _range(numbers: Sequence[int]) -> str:
    """One number, or the lowest and the highest."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _ran(measured: Sequence[Measured]) -> dict[str, Any]:
    """What was measured, whatever was asked for: images, pairs, contexts and forwards."""
    first = measured[0].records[0]
    return {
        "images": len(measured[0].records),
        "pairs": len(first.pairs_P2),
        "networks": [
            {
                "model": one.subject.name,
                "weights": one.subject.weights,
                "precision": one.precision,
                "contexts": {
                    str(order): count
                    for order, count in zip(
                        first.orders_O.tolist(), contexts_of(one.records[0]), strict=True
                    )
                },
                "forwards": sum(record.forwards for record in one.records),
            }
            for one in measured
        ],
    }


def _rows(
    config: InteractionsConfig, design: ix.Design, dataset: str, measured: list[Measured]
) -> pd.DataFrame:
    """Strengths, rho and noise floor of every network, as rows of the results table."""
    tables = []
    for one in measured:
        setting = _setting(replace(config, precision=one.precision), design, one.records[0])
        common = {
            "run": "interactions",
            "model": one.subject.name,
            "weights": one.subject.weights,
            "dataset": dataset,
            "seed": design.seed,
            "commit": commit(),
        }
        probed = [one.records[0].image]
        tables += [
            strength_rows(one.records, setting, floor=one.floor_of_ends, **common),
            per_image_rows(
                np.array([[one.floor]]),
                probed,
                at=[0.0],
                samples=1,
                measure="noise_floor",
                setting=setting,
                **common,
            ),
        ]
    return pd.concat(tables, ignore_index=True)


def _report(
    config: InteractionsConfig, measured: list[Measured], out: Path, one_picture: bool
) -> None:
    """The tables, in words and numbers, on the screen."""
    strengths = [ix.strength(one.records, floor=one.floor_of_ends) for one in measured]
    for one, strength in zip(measured, strengths, strict=True):
        forwards = sum(record.forwards for record in one.records)
        print(
            f"\n{one.subject.name} ({one.subject.weights}): {_images(len(one.records))}, "
            f"{counted(forwards)} forwards"
        )
        print(f"numerical noise floor of one difference: {one.floor:.1e}")
        table = strength.to_frame().drop(columns="rho_is_bound").assign(rho=strength.rho_said())
        table = table.dropna(axis="columns", how="all")
        spent = spending_of(one.records, config.target)
        table = table.join(spent.drop(columns=["order", "ratio", "forwards"]))
        print(table.to_string(index=False, float_format="%.3f"))
        bands = strength.bands().dropna(axis="columns", how="all")
        print(bands.to_string(index=False, float_format="%.3f"))
        print(_unresolved(spent, ix.strength(one.records, "plug_in")))
    for one, strength in zip(measured[1:], strengths[1:], strict=True):
        first = measured[0].subject
        if strength.images == strengths[0].images and not one_picture:
            print(
                f"\n{one.subject.name} ({one.subject.weights}) minus {first.name} "
                f"({first.weights}), paired:"
            )
            print(strength.compare_bands(strengths[0]).to_string(index=False, float_format="%.3f"))
    print(f"\ntable: {out / 'summary.csv'}")
    print(f"figure: {out / 'interaction_curves.png'}")
    if one_picture:
        print("one picture: no interval over images; pairs.csv and patches.csv have those over")
        print(f"contexts ({EXACT}), drawn in:")
        for name in explanations(out):
            print(f"figure: {out / name}.png")


def _unresolved(spent: pd.DataFrame, published: ix.Strength) -> str:
    """What is still uncertain, and what the published estimate is worth."""
    said = []
    for state, remedy in MISSING.items():
        if "state" in spent and len(orders := spent.loc[spent["state"] == state, "order"]):
            said.append(f"J is less precise than wanted at m = {_listed(orders)}: {remedy}")
    wide_O = published.orders_O[published.unresolved_O]
    if len(wide_O):
        said.append(
            f"the published estimate (mean |I|) has a bracket wider than 10 % at m = "
            f"{_listed(wide_O)}; see summary.csv"
        )
    return "\n".join(said)


MISSING = {
    "more images": "measure more images (--count, or a larger --budget)",
    "more pairs": "measure more pairs (--pairs) or images (--count), or give a larger --budget",
    "more contexts": "allow more contexts (--max-contexts), or a larger --budget",
}
"""What to do about orders in a state of :func:`interactions.orders.adaptive.spending`."""


def _listed(orders: Iterable[object]) -> str:
    return ", ".join(map(str, orders))


def _sight(subject: Subject) -> Sight:
    report = subject.report
    return sight_of(subject.name, subject.model, report.look["input_size"], report.classes)


def _as_outputs(
    config: InteractionsConfig, sources: list[Source], sights: Sequence[Sight]
) -> list[Source]:
    """Images whose classes are numbered as the outputs of the networks, where they have names.

    Raises:
        UsageError: if classes are wanted that the networks do not have.
    """
    if config.images is None or config.reward in ENCODER_REWARDS or sources[0].truth is None:
        return sources
    classifiers = [sight.classes for sight in sights]
    outputs = only_number(classifiers)
    count = known_classes(config.images, "", outputs)
    if config.label == "truth" and (why := unlike(classifiers, count, None, config.images.name)):
        raise UsageError(f"expected classes of the networks for --label truth, but {why}")
    return folder_images(config.images, config.count, config.seed, truth=True, outputs=outputs)


def _labelled(
    config: InteractionsConfig, sources: Sequence[Source], sights: Sequence[Sight]
) -> tuple[InteractionsConfig, str]:
    """With the true classes as labels where they can be, else predictions; and why."""
    truths = [source.truth for source in sources]
    known = [truth for truth in truths if truth is not None]
    if len(known) < len(truths):
        return replace(config, label="prediction"), "no classes of images are known"
    classifiers = [sight.classes for sight in sights]
    of_data = known_classes(config.images, config.data, only_number(classifiers))
    why = unlike(classifiers, of_data, max(known), set_name(config.images, config.data))
    if why:
        return replace(config, label="prediction"), why
    return replace(config, label="truth"), config.data or "the classes of the folder"


def _check(config: InteractionsConfig) -> None:
    """What needs neither networks nor images."""
    check_given(config)
    if config.label not in ("auto", "prediction", "truth") and not config.label.isdecimal():
        raise UsageError(
            f"expected --label auto, prediction, truth or a class index, got {config.label!r}"
        )
    if config.budget and config.protocol:
        raise UsageError("expected --budget without --protocol, whose design is fixed")
    default = InteractionsConfig(())
    for name in ("grid", "orders", "pairs", "radius", "replicates", "windows"):
        if config.protocol and getattr(config, name) != getattr(default, name):
            raise UsageError(
                f"expected --protocol or --{name}, got both; the protocol decides about it"
            )
    if config.fill == "token_drop" and config.reward in ENCODER_REWARDS:
        raise UsageError(
            "expected --fill token_drop with a --reward of the classifier, got "
            f"--reward {config.reward}"
        )
    if config.replicates % 2:
        raise UsageError(f"expected an even number of --replicates, got {config.replicates}")


def _design(config: InteractionsConfig) -> ix.Design:
    """Pairs, contexts and orders on the grid of a configuration."""
    if config.protocol:
        return protocol(config.protocol)

    def build() -> ix.Design:
        grid = grid_of(config)
        assert config.radius is not None
        pairs = ix.NeighbourPairs(grid, config.radius)
        count = len(pairs.candidates()) if config.pairs is None else config.pairs
        pairs = replace(pairs, count=count)
        design = ix.Design(
            pairs, ix.Windows(config.replicates, config.windows), config.orders, config.seed
        )
        # Drawn once here, so that impossible settings fail before any model is loaded.
        pairs.draw(grid.n, design.seed, "")
        orders_of(design.ratios, grid.n)
        return design

    return usable(build)


def _setting(config: InteractionsConfig, design: ix.Design, record: ix.Interactions) -> str:
    grid = grid_of(config)
    game = "token_drop" if config.fill == "token_drop" else f"fill fill={config.fill}"
    label = "none" if config.reward in ENCODER_REWARDS else config.label
    start = (
        f"grid={grid.rows}x{grid.cols} reward={config.reward} label={label} game={game} "
        f"precision={config.precision}"
    )
    if config.protocol:
        return f"{start} protocol={config.protocol}"
    contexts = _range([count for count in contexts_of(record) if count > 1] or [1])
    return (
        f"{start} pairs={len(record.pairs_P2)} radius={config.radius} "
        f"contexts={contexts.replace(' to ', '-')}"
    )


def _sources(config: InteractionsConfig) -> list[Source]:
    """The images of the run."""
    truth, images = config.label == "truth", config.images
    if images is not None and config.label == "auto" and config.reward not in ENCODER_REWARDS:
        truth = not images.is_file() and folder_has_classes(images)
    return images_of(images, config.data, config.count, config.seed, truth=truth)


def _subjects(config: InteractionsConfig, left_out: LeftOut) -> list[Subject]:
    headless: bool | None = config.reward in ENCODER_REWARDS
    if (
        config.reward == "auto"
        and config.label in ("auto", "prediction")
        and config.fill != "token_drop"
    ):
        headless = None  # nothing else asks for a classifier
    subjects = left_out.each(
        lambda name: subject_of(name, config.weights, config.device, headless=headless)
    )
    check_different([subject.report for subject in subjects])
    return subjects


def _fitting_reward(subjects: Sequence[Subject]) -> Literal["log_odds", "projection"]:
    """The log odds of classifiers; of features, taken from all networks, if one is none."""
    if all(subject.report.classes for subject in subjects):
        return "log_odds"
    for subject in subjects:
        without_classifier(subject.model)
    return "projection"
