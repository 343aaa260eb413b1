"""What networks know about classes: frozen features and a probe, fine-tuning, or their classifier.

One network gives rows of the results table, and in a folder of its own what was predicted and how
every number came about.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from a2mim.checkpoints.load import Loaded, LoadReport
from a2mim.data.arrays import subset
from a2mim.data.augment import Augment, PilTransform
from a2mim.data.samples import SomeSamples
from a2mim.data.sources import (
    known_classes,
    labelled_samples,
    photographs_with_classes,
    set_name,
)
from a2mim.files import write_whole
from a2mim.measure import doubts
from a2mim.measure.fitting import unlike
from a2mim.measure.networks import called, load
from a2mim.measure.probe_tables import Number, mean_rows, predictions_of, rows_of
from a2mim.messages import UsageError
from a2mim.probes import linear as probes
from a2mim.probes.features import CACHED, Features, Readout, evaluate, extract
from a2mim.probes.knn import knn_probe
from a2mim.probes.linear import WEIGHT_DECAYS
from a2mim.probes.results import ProbeResult
from a2mim.processes import is_first
from a2mim.recipes import finetuning
from a2mim.recipes.finetune import RECIPES, FinetuneConfig
from a2mim.runs.folder import commit
from a2mim.runs.progress import progress
from a2mim.runs.table import COLUMNS
from a2mim.settings.numbers import check_numbers
from a2mim.settings.probe import ProbeConfig
from a2mim.settings.recipes import chosen
from a2mim.settings.weights import check_checkpoints
from a2mim.training.arithmetic import with_float64
from interactions import stats

PARTS = r"rows\.csv|predictions\.csv|details\.json|" + CACHED
"""What lies in the folder of a checkpoint while the run works: its files, by their names."""

AT_ONCE = 256
"""Images through the network at once, where that is automatic."""


def check(config: ProbeConfig) -> None:
    """What no single setting shows, before anything is loaded.

    Raises:
        UsageError: if settings do not go together, or nothing is to be judged.
    """
    check_numbers(config)
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
    if config.method == "finetune" and (config.max_train or config.max_test):
        raise UsageError("expected all images for --method finetune, got --max-train or --max-test")
    if config.seeds > 1 and config.method in ("clean", "knn"):
        raise UsageError(f"expected one seed for --method {config.method}, which draws nothing")
    try:
        readout_of(config)
    except ValueError as error:
        raise UsageError(str(error)) from error


def readout_of(config: ProbeConfig) -> Readout:
    """Which features are judged."""
    return Readout(config.pool, config.block, config.final_norm)


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


def samples_of(
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


def judge(config: ProbeConfig, name: str, loaded: Loaded, part: Path, device: str) -> pd.DataFrame:
    """The rows of one checkpoint; predictions and details go into its own folder.

    Args:
        config: checked settings.
        name: of the checkpoint.
        loaded: its network.
        part: the folder; what is done in it is not done again.
        device: where the network goes.

    Returns:
        Rows of the results table; of another process than the first nothing that counts.

    Raises:
        UsageError: if the network and the images do not go together.
        ValueError: if a probe cannot be made.
        DataError: if an image cannot be read.
    """
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
        numbers_of = _clean if config.method == "clean" else _frozen
        numbers = list(numbers_of(config, loaded, part, device))
        if not is_first():
            return pd.DataFrame(columns=list(COLUMNS))
        said = doubts.of_labels(
            f"{constant['model']} ({constant['weights']})",
            numbers[0].predictions_J.numpy(),
            numbers[0].labels_J.numpy(),
        )
        for doubt in said:
            print(doubt)
        rows = pd.concat([rows_of(number) for number in numbers])
        if config.seeds > 1:
            values = np.array([number.value for number in numbers])
            mean, one = stats.mean(values, low=0, high=1), numbers[0]
            setting = f"seeds={config.seeds}"
            means = mean_rows(one.measure, mean, config.seeds, one.at, setting)
            rows = pd.concat([rows, means])
        details = [
            {"measure": n.measure, "seed": n.seed, "accuracy": n.value, **n.details}
            for n in numbers
        ]
        predictions = [predictions_of(number) for number in numbers if len(number.predictions_J)]
        predicted = pd.concat(predictions).assign(weights=constant["weights"])
        write_whole(part / "predictions.csv", predicted.to_csv(index=False))
    write_whole(part / "details.json", json.dumps(details, indent=2) + "\n")
    return rows.assign(**constant)[list(COLUMNS)]


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
    (samples,) = samples_of(config, transform, outputs)
    highest = int(samples.labels_I.max())
    if why := unlike([outputs], None, highest):
        raise UsageError(f"expected classes from 0 to {outputs - 1}, but {why}")
    for doubt in doubts.of_texts(called(loaded.report), loaded.report, config):
        print(doubt)
    with _progress("evaluating", len(samples)) as on_batch:
        found = evaluate(
            loaded.model,
            samples,
            **_reading(config, device),
            cache=part / "features-test",
            on_batch=on_batch,
        )
    H, W = loaded.data_config["input_size"][1:]
    size = H if H == W else f"{H}x{W}"
    setting = f"size={size} crop_pct={loaded.data_config['crop_pct']:g}"
    top5 = stats.share(found.top5_I.cpu().numpy())
    details = {"data_config": loaded.data_config, **found.setting}
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
    readout = readout_of(config)
    if idle := readout.idle(loaded.report.without_gradient):
        print(doubts.of_pool(called(loaded.report), idle))
    tables: list[Features] = []
    both = samples_of(config, transform)
    for split, some in zip(("training", "test"), both, strict=True):
        with _progress(f"{split} features", len(some)) as on_batch:
            tables.append(
                extract(
                    loaded.model,
                    some,
                    readout=readout,
                    **_reading(config, device),
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
                "data_config": loaded.data_config,
                **({"without_gradient": list(idle)} if idle else {}),
                "chosen": result.chosen,
                "grid": result.grid,
                **result.settings,
            },
            tables[1].setting.get("left_out", ()),
        )


def _reading(config: ProbeConfig, device: str) -> dict[str, Any]:
    """How images go through a network."""
    return {
        "batch_size": config.batch_size or AT_ONCE,
        "device": device,
        "workers": config.workers,
        "precision": config.precision,
    }


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
        tables.append(mean_rows(finetuning.TOP1, mean, config.seeds, recipe.epochs, setting))
    details = [{"recipe": config.recipe, **asdict(recipe)}]
    return pd.concat(tables, ignore_index=True), details


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """A bar of images, with the time left."""
    with progress(what, total, "images", delay=1, leave=False) as bar:
        yield lambda done, total: bar.update(done - bar.n) and None
