"""``a2mim probe``: what networks know about classes, judged the same way for all of them.

The run folder holds the results table (a number, its ``_low`` and ``_high`` are rows of their own),
what was predicted for every image, and for every number how it came about: the report of the
weights, the features, the hyper-parameters that were tried.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from a2mim.checkpoints.load import Loaded, LoadReport
from a2mim.data.arrays import subset
from a2mim.data.augment import Augment, PilTransform
from a2mim.data.samples import SomeSamples
from a2mim.data.sources import (
    known_classes,
    labelled_samples,
    photographs_with_classes,
    set_name,
    without_folders,
)
from a2mim.files import remove_made, write_whole
from a2mim.measure import doubts
from a2mim.measure.checkpoints import LeftOut, left_out_of, with_all
from a2mim.measure.fitting import unlike
from a2mim.measure.networks import (
    Networks,
    called,
    check_different,
    identity,
    kept,
    load,
    nicknames,
    recorded,
)
from a2mim.messages import UsageError
from a2mim.probes import linear as probes
from a2mim.probes.features import CACHED, Features, Readout, evaluate, extract
from a2mim.probes.knn import knn_probe
from a2mim.probes.linear import WEIGHT_DECAYS
from a2mim.probes.results import ProbeResult
from a2mim.processes import first, is_first, together
from a2mim.recipes import finetuning
from a2mim.recipes.finetune import RECIPES, FinetuneConfig
from a2mim.runs.folder import (
    commit,
    finish_run,
    keep_memory,
    nothing_left_empty,
    open_run,
    pick_device,
)
from a2mim.runs.progress import progress, worked_with
from a2mim.runs.table import COLUMNS, joined, write_table
from a2mim.settings.probe import ProbeConfig
from a2mim.settings.recipes import chosen
from a2mim.settings.weights import check_checkpoints
from a2mim.training.arithmetic import with_float64
from interactions import stats
from interactions.stats import Interval

PARTS = r"rows\.csv|predictions\.csv|details\.json|" + CACHED
"""What lies in the folder of a checkpoint while the run works: its files, by their names."""

AT_ONCE = 256
"""Images through the network at once, where that is automatic."""


@dataclass(frozen=True)
class Number:
    """One number of one checkpoint, and all that explains it.

    Attributes:
        measure: its name.
        value: share of test images that are right.
        interval: 95 %, over test images.
        setting: what decides it, in one line.
        at: training images behind it.
        seed: of its draws.
        predictions_J: int64, the class that was predicted for every test image.
        labels_J: int64, the right ones.
        details: everything else, in JSON.
        left_out: numbers of the test images that could not be read.
    """

    measure: str
    value: float
    interval: tuple[float, float]
    setting: str
    at: int
    seed: int
    predictions_J: Tensor
    labels_J: Tensor
    details: dict[str, Any] = field(default_factory=dict)
    left_out: Sequence[int] = ()


@together()
@nothing_left_empty()
def probe(config: ProbeConfig) -> dict[str, str]:
    """Judge checkpoints, print a table and write the run folder; an interrupted run goes on.

    Returns:
        Which checkpoints were left out: name -> why.

    Raises:
        UsageError: if a checkpoint, the data or a setting cannot be used.
        DataError: if an image cannot be read.
    """
    start = time.perf_counter()
    config = with_all(config)
    _check(config)
    device = pick_device(config.device, float64=False)
    if device == "cpu":
        keep_memory()
    # All are loaded before the first is judged: a wrong one is not found out after hours.
    networks = Networks(config.weights)
    left_out = LeftOut(config.checkpoints, config.weights)
    reports = first(lambda: left_out.each(lambda name: networks(name).report))
    config = replace(config, checkpoints=left_out.rest())
    check_different(reports)
    for report in reports:
        print(report)
    settings = asdict(config)
    for key in ("device", "out", "resume", "batch_size", "workers"):
        settings.pop(key)
    settings["checkpoints"] = [f"{called(report)} {report.sha256}" for report in reports]
    settings["weights"] = recorded(config.weights)
    settings["data"] = without_folders(config.data)
    settings["images"] = config.images and config.images.resolve().name
    pairs = zip(config.checkpoints, reports, strict=True)
    everything = settings | {
        "checkpoints": [identity(name, report) for name, report in pairs],
        "images": first(lambda: [samples.contents() for samples in _samples(config)]),
        **left_out.decides(),
    }
    run = open_run(config.out, "probe", nicknames(reports), everything, resume=config.resume)
    if run.finished:
        return left_out_of(run.out)
    work, out = run.work, run.out
    left_out.go_on(work)
    print(f"plan: {config.method}, {worked_with(device, config.precision, _sizes(reports))}")
    parts = [work / f"part-{number:03d}" for number in range(len(reports))]

    def one(name: str) -> tuple[pd.DataFrame, LoadReport, Path]:
        number = config.checkpoints.index(name)
        part = parts[number]
        try:
            rows = joined(
                [part / "rows.csv"],
                lambda _: _judge(config, name, networks.take(name), part, device),
            )
        except (FloatingPointError, ValueError) as error:
            raise UsageError(str(error)) from error
        return rows, reports[number], part

    said = []
    if config.method != "clean" and is_first():
        said = doubts.of_training(*_samples(config))
        for doubt in said:
            print(doubt)
    judged = left_out.each(one)
    if not is_first():
        return {}
    parts = [part for *_, part in judged]
    rows = pd.concat([rows for rows, *_ in judged], ignore_index=True)
    write_table(rows, work / "rows.csv")
    about = [
        {"weights": kept(report), "numbers": json.loads((part / "details.json").read_text())}
        for _, report, part in judged
    ]
    write_whole(work / "probe.json", json.dumps(about, indent=2) + "\n")
    if config.method != "finetune":
        # As they were written: weights may be called 100, or NA.
        predictions = [
            pd.read_csv(part / "predictions.csv", dtype=str, keep_default_na=False)
            for part in parts
        ]
        write_whole(work / "predictions.csv", pd.concat(predictions).to_csv(index=False))
        for part in parts:
            remove_made(part, PARTS)
    left_out.keep(work)
    readout = Readout(config.pool, config.block, config.final_norm)
    said += [
        doubts.of_pool(called(report), idle)
        for _, report, _ in judged
        if config.method in ("linear", "sgd", "knn")
        and (idle := readout.idle(report.without_gradient))
    ]
    said += left_out.sentences()
    finish_run(run, settings | {"doubts": said}, time.perf_counter() - start)
    print(summary(rows).to_string(index=False))
    print(f"table: {out / 'rows.csv'}   how each number came about: probe.json beside it")
    return left_out.named()


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """The accuracies of a results table in per cent, a line each, with their intervals."""
    key = ["model", "weights", "setting", "at", "seed"]
    value = rows["measure"].str.endswith(("_top1", "_top5", "_mean"))
    table = rows[value]
    for end in ("low", "high"):
        bound = rows[rows["measure"].str.endswith(f"_{end}")]
        bound = bound.assign(measure=bound["measure"].str.removesuffix(f"_{end}"))
        table = table.merge(
            bound[[*key, "measure", "value"]].rename(columns={"value": end}), on=[*key, "measure"]
        )
    per_cent = table[["value", "low", "high"]].mul(100).round(2)
    return table.assign(**per_cent)[
        ["weights", "measure", "seed", "value", "low", "high", "samples", "setting"]
    ]


def _judge(config: ProbeConfig, name: str, loaded: Loaded, part: Path, device: str) -> pd.DataFrame:
    """The rows of one checkpoint; predictions and details go into its own folder."""
    constant = {
        "run": "probe",
        "model": loaded.report.architecture,
        "weights": called(loaded.report),
        "dataset": set_name(config.images, config.data),
        "image": "all",
        "commit": commit(),
    }
    if config.method == "finetune":
        rows, details = _finetuned(config, name, loaded.report, part, device)
        if not is_first():
            return rows
    else:
        judge = _clean if config.method == "clean" else _frozen
        numbers = list(judge(config, loaded, part, device))
        if not is_first():
            return pd.DataFrame(columns=list(COLUMNS))
        said = doubts.of_labels(
            f"{constant['model']} ({constant['weights']})",
            numbers[0].predictions_J.numpy(),
            numbers[0].labels_J.numpy(),
        )
        for doubt in said:
            print(doubt)
        rows = pd.concat([_rows(number) for number in numbers])
        if config.seeds > 1:
            values = np.array([number.value for number in numbers])
            mean, one = stats.mean(values, low=0, high=1), numbers[0]
            setting = f"seeds={config.seeds}"
            means = _mean_rows(one.measure, mean, config.seeds, one.at, setting)
            rows = pd.concat([rows, means])
        details = [
            {"measure": n.measure, "seed": n.seed, "accuracy": n.value, **n.details}
            for n in numbers
        ]
        predictions = [_predictions(number) for number in numbers if len(number.predictions_J)]
        predicted = pd.concat(predictions).assign(weights=constant["weights"])
        write_whole(part / "predictions.csv", predicted.to_csv(index=False))
    write_whole(part / "details.json", json.dumps(details, indent=2) + "\n")
    return rows.assign(**constant)[list(COLUMNS)]


def _rows(number: Number) -> pd.DataFrame:
    low, high = number.interval
    ends = {"": number.value, "_low": low, "_high": high}
    return pd.DataFrame(
        {
            "measure": [number.measure + end for end in ends],
            "value": list(ends.values()),
            "setting": number.setting,
            "at": number.at,
            "samples": len(number.labels_J),
            "seed": number.seed,
        }
    )


def _mean_rows(measure: str, mean: Interval, seeds: int, at: int, setting: str) -> pd.DataFrame:
    """The mean over seeds with its t interval; ``samples`` is the number of seeds."""
    ends = {"": mean.estimate, "_low": mean.low, "_high": mean.high}
    return pd.DataFrame(
        {
            "measure": [f"{measure}_mean{end}" for end in ends],
            "value": list(ends.values()),
            "setting": setting,
            "at": at,
            "samples": seeds,
            "seed": -1,
        }
    )


def _predictions(number: Number) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "measure": number.measure,
            "seed": number.seed,
            "image": np.delete(
                np.arange(len(number.labels_J) + len(number.left_out)), number.left_out
            ),
            "label": number.labels_J.numpy(),
            "predicted": number.predictions_J.numpy(),
        }
    )


def _clean(config: ProbeConfig, loaded: Loaded, part: Path, device: str) -> Iterator[Number]:
    """Top-1 and top-5 of the classifier that came with the weights."""
    if not loaded.report.classes:
        raise UsageError(
            f"expected weights with a classifier for --method clean, {loaded.report.source} has "
            "none; use linear, sgd, knn or finetune"
        )
    transform = PilTransform.of(loaded.data_config)
    outputs = loaded.report.classes
    count = known_classes(config.images, config.data, outputs)
    if why := unlike([outputs], count, None, set_name(config.images, config.data)):
        raise UsageError(f"expected a classifier of the images' classes, but {why}")
    (samples,) = _samples(config, transform, outputs)
    with _progress("evaluating", len(samples)) as on_batch:
        found = evaluate(
            loaded.model,
            samples,
            batch_size=config.batch_size or AT_ONCE,
            device=device,
            workers=config.workers,
            precision=config.precision,
            cache=part / "features-test",
            on_batch=on_batch,
        )
    H, W = loaded.data_config["input_size"][1:]
    size = H if H == W else f"{H}x{W}"
    setting = f"size={size} crop_pct={loaded.data_config['crop_pct']:g}"
    top5 = stats.share(found.top5_I.cpu().numpy())
    details = {"data_config": _plain(loaded.data_config), **found.setting}
    yield Number(
        *("clean_top1", found.accuracy, found.interval, setting, 0, 0),
        *(found.predicted_I, found.labels_I, details, found.setting.get("left_out", ())),
    )
    yield Number(
        *("clean_top5", top5.estimate, (top5.low, top5.high), setting, 0, 0),
        *(found.predicted_I[:0], found.labels_I, details),
    )


def _frozen(config: ProbeConfig, loaded: Loaded, part: Path, device: str) -> Iterator[Number]:
    """Probes of frozen features, for every seed, by the first process."""
    transform = PilTransform.of(loaded.data_config)
    readout = Readout(config.pool, config.block, config.final_norm)
    if idle := readout.idle(loaded.report.without_gradient):
        print(doubts.of_pool(called(loaded.report), idle))
    tables: list[Features] = []
    both = _samples(config, transform)
    for split, some in zip(("training", "test"), both, strict=True):
        with _progress(f"{split} features", len(some)) as on_batch:
            tables.append(
                extract(
                    loaded.model,
                    some,
                    readout=readout,
                    batch_size=config.batch_size or AT_ONCE,
                    device=device,
                    workers=config.workers,
                    precision=config.precision,
                    cache=part / f"features-{split}",
                    on_batch=on_batch,
                )
            )
    fit = _fit_of(config, str(with_float64(device)))
    for seed in range(config.seeds) if is_first() else ():
        result = fit(tables[0], tables[1], seed)
        yield Number(
            f"{config.method}_top1",
            result.accuracy,
            result.interval,
            _setting(config, result, idle),
            len(tables[0].features_ID),
            seed,
            result.predictions_J,
            result.labels_J,
            {
                "data_config": _plain(loaded.data_config),
                **({"without_gradient": list(idle)} if idle else {}),
                "chosen": result.chosen,
                "grid": result.grid,
                **result.settings,
            },
            tables[1].setting.get("left_out", ()),
        )


def _fit_of(config: ProbeConfig, device: str) -> Callable[[Features, Features, int], ProbeResult]:
    """The probe of a configuration: training features, test features, seed -> result."""
    if config.method == "knn":
        k = config.neighbours
        return lambda train, test, seed: knn_probe(train, test, k, device=device)
    if config.method == "linear":
        fit = partial(
            probes.linear_probe,
            weight_decays=config.weight_decays or WEIGHT_DECAYS,
            normalise=config.normalise,
            device=device,
        )
        return lambda train, test, seed: fit(train, test, seed=seed)
    recipe = sgd_recipe(config)
    return lambda train, test, seed: probes.sgd_probe(train, test, recipe, seed=seed, device=device)


def _recipe_of(config: ProbeConfig) -> str:
    if not config.recipe:
        raise UsageError(
            f"expected --recipe NAME for --method {config.method}, got none; a2mim configs lists "
            "them"
        )
    return config.recipe


def sgd_recipe(config: ProbeConfig) -> probes.SgdRecipe:
    """The recipe of ``--method sgd``, with the learning rates to choose from.

    Raises:
        UsageError: if there is none of that name, or no name.
    """
    recipe = chosen(_recipe_of(config), probes.RECIPES)
    return replace(recipe, lrs=config.lrs) if config.lrs else recipe


def finetune_recipe(config: ProbeConfig) -> FinetuneConfig:
    """The recipe of ``--method finetune``, with the settings that were given.

    Raises:
        UsageError: if there is none of that name, or no name.
    """
    recipe = config.finetune or chosen(_recipe_of(config), RECIPES)()
    return replace(recipe, data=config.data)


def _setting(config: ProbeConfig, result: ProbeResult, idle: Sequence[str] = ()) -> str:
    """What decides a probe's number, in one line."""
    readout = result.settings["features"]["readout"]
    words = {
        "pool": readout["pool"],
        "block": config.block,
        "final_norm": "no" if not config.final_norm else None,
        "normalise": result.settings["normalise"],
        "without_gradient": ",".join(idle) or None,
        "k": result.settings.get("k"),
        "recipe": config.recipe or None,
        {"linear": "weight_decay", "sgd": "lr"}.get(config.method, ""): result.chosen,
    }
    return " ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in words.items()
        if value is not None
    )


def _finetuned(
    config: ProbeConfig, name: str, report: LoadReport, part: Path, device: str
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Fine-tuning by a recipe, for every seed; its rows, and its settings."""
    recipe = finetune_recipe(config)
    tables = [
        finetuning.finetune_seeds(
            lambda: load(name, config.weights).model,
            finetuning.Pretrained(report.architecture, called(report), report.options),
            recipe,
            range(config.seeds),
            part,
            device,
            recipe=config.recipe,
            resume=config.resume,
        )
    ]
    averaged = config.seeds > 1 and is_first()
    for kind in ("last", "ema")[: 2 if recipe.ema else 1] if averaged else ():
        mean = finetuning.over_seeds(tables[0], kind)
        setting = f"seeds={config.seeds} weights={kind}"
        tables.append(_mean_rows(finetuning.TOP1, mean, config.seeds, recipe.epochs, setting))
    details = [{"recipe": config.recipe, **asdict(recipe)}]
    return pd.concat(tables, ignore_index=True), details


def _sizes(reports: Sequence[LoadReport]) -> list[int]:
    return [report.parameters for report in reports]


def _samples(
    config: ProbeConfig,
    transform: Augment = lambda image, _: image,
    outputs: int | None = None,
) -> list[Any]:
    """The images of the run: for training and testing, or with ``--method clean`` for testing."""
    if config.images is not None:
        photographs = photographs_with_classes(config.images, transform, outputs=outputs)
        return [_some(photographs, config.max_test)]
    train, test = labelled_samples(config.data, transform)
    samples = [_some(train, config.max_train), _some(test, config.max_test)]
    return samples[1:] if config.method == "clean" else samples


def _some(samples: Any, limit: int | None) -> Any:
    """At most ``limit`` of the images, drawn by seed 0."""
    if limit is None or limit >= len(samples):
        return samples
    return SomeSamples(samples, subset(len(samples), limit, 0))


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """A data config as JSON takes it."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in data.items()}


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """A bar of images, with the time left."""
    with progress(what, total, "images", delay=1, leave=False) as bar:
        yield lambda done, total: bar.update(done - bar.n) and None


def _check(config: ProbeConfig) -> None:
    """What no single setting shows, before anything is loaded."""
    check_checkpoints(config.checkpoints, config.weights)
    if config.method == "clean":
        if (config.images is None) == (not config.data):
            raise UsageError("expected either --images DIR or --data for --method clean")
    elif config.images is not None or not config.data:
        raise UsageError(
            f"expected --data NAME or folder:PATH with training and test images for --method "
            f"{config.method}" + (", got --images" if config.images else ", got none")
        )
    if config.method == "finetune":
        finetuning.check(finetune_recipe(config))
    if config.method == "sgd":
        sgd_recipe(config)
    if config.batch_size < 0:
        raise UsageError(f"expected --batch-size of at least 0, got {config.batch_size}")
    for key in ("seeds", "neighbours", "max_train", "max_test"):
        value = getattr(config, key)
        if value is not None and value < 1:
            raise UsageError(f"expected --{key.replace('_', '-')} above 0, got {value}")
    if config.method == "finetune" and (config.max_train or config.max_test):
        raise UsageError("expected all images for --method finetune, got --max-train or --max-test")
    if config.seeds > 1 and config.method in ("clean", "knn"):
        raise UsageError(f"expected one seed for --method {config.method}, which draws nothing")
    try:
        Readout(config.pool, config.block, config.final_norm)
    except ValueError as error:
        raise UsageError(str(error)) from error
