"""Full fine-tuning by a recipe: from pretrained weights to a classifier and its test accuracy.

The work folder gets the log (one JSON line a report), TensorBoard events, the weights, how to make
the network they belong to, and the rows of the results table: top-1 accuracy with its 95 % interval
over images, of the last weights and of the averaged ones if there are; and what the last weights
say of every test image (``predictions.csv``). Over seeds there is also the mean of the
accuracies a_1 ... a_k, with the interval of Student's t, cut at 0 and 1:

    mean +- t_{k-1} s / sqrt(k),     s^2 = sum (a_i - mean)^2 / (k - 1)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from PIL.Image import Image
from PIL.ImageOps import posterize
from timm.data import create_transform
from timm.optim import Lamb
from torch import nn
from torchvision import transforms

from a2mim.checkpoints.save import save_backbone
from a2mim.data.augment import CentreCrop, CropAndFlip, PilTransform
from a2mim.data.folders import DataError
from a2mim.data.resident import MIB, ResidentSamples, resident
from a2mim.data.sampler import Batches, keyed_generator
from a2mim.data.samples import SomeSamples
from a2mim.data.sources import Labelled, labelled_samples, without_folders
from a2mim.files import remove_made, write_whole
from a2mim.messages import UsageError
from a2mim.probes.features import Evaluation, evaluate
from a2mim.probes.results import readable
from a2mim.processes import process_rank
from a2mim.recipes.finetune import FinetuneConfig
from a2mim.recipes.training import announce, engine_arguments, errors_explained, tolerance
from a2mim.recipes.watching import Log
from a2mim.runs.folder import commit
from a2mim.runs.table import COLUMNS, read_table, write_table
from a2mim.settings.numbers import check_numbers
from a2mim.training.arithmetic import fastest
from a2mim.training.loop import Saving, StepReport, pretrain
from a2mim.training.mixing import Mixing
from a2mim.training.optim import RULES, fused_on, parameter_groups
from a2mim.training.state import CHECKPOINT
from a2mim.training.supervised import (
    FineTuning,
    decay_rules,
    final_norm,
    new_classifier,
    set_drop_path,
)
from interactions import stats
from interactions.stats import Interval

EVALUATION_BATCH = 256
TOP1 = "finetune_top1"

WithClasses = Labelled | SomeSamples | ResidentSamples
"""Images with classes."""


@dataclass(frozen=True)
class Pretrained:
    """What the weights are that are fine-tuned.

    Attributes:
        architecture: name of the timm model.
        weights: what its weights are called.
        options: what the model is made with, beyond its name.
    """

    architecture: str
    weights: str
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Judge:
    """Accuracy on test images, at the end and while training goes on.

    Attributes:
        model: in training.
        test: the images.
        config: of the run.
        steps: how many there will be.
        steps_per_epoch: of them.
        device: where the model is.
    """

    model: nn.Module
    test: WithClasses
    config: FinetuneConfig
    steps: int
    steps_per_epoch: int
    device: str

    def __call__(self, model: nn.Module) -> Evaluation:
        """What a model says about the test images, in eval mode and full precision."""
        return evaluate(
            model,
            self.test,
            batch_size=min(self.config.batch_size // self.config.accumulate, EVALUATION_BATCH),
            device=self.device,
            workers=self.config.workers,
        )

    def measure(self, report: StepReport) -> dict[str, float]:
        """``test_top1`` at the end of every ``eval_every`` epochs.

        The last step is left out: what comes of it is judged when training is over.
        """
        if self.config.eval_every is None or report.step == self.steps:
            return {}
        if report.step % (self.config.eval_every * self.steps_per_epoch):
            return {}
        return {"test_top1": self(self.model).accuracy}

    def look(self, report: StepReport) -> None:
        """No pictures."""


def samples_of(config: FinetuneConfig) -> tuple[WithClasses, Labelled]:
    """Training and test images of a configuration.

    Raises:
        UsageError: if it names none.
        DataError: if they cannot be had, or have no classes.
    """
    crop = CropAndFlip(
        config.train_size,
        config.crop,
        mean=config.mean,
        std=config.std,
        interpolation=config.interpolation,
        flip=config.flip,
    )
    centre = CentreCrop(
        config.test_size,
        config.test_size / config.test_resize,
        mean=config.mean,
        std=config.std,
        interpolation=config.interpolation,
    )
    held = config.resident > 0
    train, test = labelled_samples(
        config.data,
        crop if held else training_transform(config),
        config.seed,
        test_augment=centre if held else judging_transform(config),
        tolerance=tolerance(config.unreadable),
    )
    if not held:
        return train, test
    return resident(train, crop, config.seed, config.resident * MIB) or train, test


def training_transform(config: FinetuneConfig) -> PilTransform:
    """timm's transform of training images."""
    transform: Any = create_transform(
        config.train_size,
        is_training=True,
        scale=config.crop,
        hflip=config.flip,
        color_jitter=cast(Any, config.colour_jitter or None),
        auto_augment=config.rand_augment,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
        re_prob=config.erasing,
        re_mode="pixel",
    )
    for one in transform.transforms:
        for operation in getattr(one, "ops", ()):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterized
    return PilTransform(transform)


def _posterized(image: Image, bits: int, **_: object) -> Image:
    """Colours of so many bits. Of 0 they are black, as they were until Pillow 13 refused that."""
    if bits >= 8:
        return image
    return posterize(image, bits) if bits > 0 else image.point([0] * 256 * len(image.getbands()))


def judging_transform(config: FinetuneConfig) -> PilTransform:
    """The central crop of a test image."""
    # By torchvision, because timm's share of the short side cannot say 224 of 236 exactly.
    return PilTransform(
        transforms.Compose(
            [
                transforms.Resize(
                    config.test_resize, transforms.InterpolationMode(config.interpolation)
                ),
                transforms.CenterCrop(config.test_size),
                transforms.ToTensor(),
                transforms.Normalize(config.mean, config.std),
            ]
        )
    )


def finetune(
    model: nn.Module,
    pretrained: Pretrained,
    config: FinetuneConfig,
    train: WithClasses,
    test: WithClasses,
    work: Path,
    device: str,
    *,
    recipe: str,
    resume: bool = True,
) -> pd.DataFrame:
    """Fine-tune a model and judge it; an interrupted call goes on where it was.

    With several processes all call this; only the first one judges and writes.

    Args:
        model: of timm, with its pretrained weights; gets a new classifier, and is trained.
        pretrained: what it is.
        config: how.
        train: from :func:`samples_of`, like ``test``.
        test: what it is judged on, at the end and every ``eval_every`` epochs.
        work: folder that gets the files.
        device: cpu or cuda.
        recipe: name of the configuration.
        resume: whether to go on where the same call was interrupted.

    Returns:
        Rows of the results table; none in all processes but the first.

    Raises:
        UsageError: if model, configuration and images do not go together.
        KeyboardInterrupt: if a signal stopped it, after a checkpoint.
    """
    check(config)
    config = replace(config, precision=config.precision or fastest(device))
    try:
        method = method_of(model, config, classes_of(train, test))
        optimiser = optimiser_of(method, config, device)
        steps_per_epoch = Batches(len(train), config.batch_size, config.seed).per_epoch
        micro_batch = config.batch_size // (config.accumulate * process_rank()[1])
        method.draw(micro_batch, keyed_generator(0))  # whether it is whole groups
        _check_sizes(model, config)
    except ValueError as error:
        raise UsageError(str(error)) from error
    steps = config.epochs * steps_per_epoch
    judge = Judge(model, test, config, steps, steps_per_epoch, device)
    settings = {"recipe": recipe, **asdict(config), "data": without_folders(config.data)}
    saving = Saving(
        work / "checkpoints",
        every_steps=config.save_every * steps_per_epoch,
        keep=config.keep,
        settings={
            "config": {k: str(v) for k, v in settings.items()},
            "pretrained": {k: str(v) for k, v in asdict(pretrained).items()},
        },
    )
    announce(method, config, len(train), steps, device)
    work.mkdir(parents=True, exist_ok=True)
    log = Log(work, steps, config.batch_size, judge)
    try:
        with errors_explained():
            trained = pretrain(
                method,
                train,
                optimiser,
                labels_I=train.labels_I,
                on_step=log,
                saving=saving,
                resume=resume,
                **engine_arguments(config, device, steps_per_epoch),
            )
            if process_rank()[0] > 0:
                return pd.DataFrame(columns=list(COLUMNS))
            models = {"last": model}
            if trained.ema is not None:
                models["ema"] = cast(Any, trained.ema).model
            found = {kind: judge(one) for kind, one in models.items()}
    finally:
        log.close()
    about = json.dumps(description(model, pretrained, config), indent=2)
    for kind, one in models.items():
        file = work / ("model.safetensors" if kind == "last" else f"model-{kind}.safetensors")
        save_backbone(one, file)
        write_whole(file.with_suffix(".json"), about + "\n")
    last = found["last"]
    predictions = {"label": last.labels_I.cpu(), "predicted": last.predicted_I.cpu()}
    images = readable(len(last.labels_I), last.setting.get("left_out", ()))
    told = pd.DataFrame({"image": images, **predictions})
    write_whole(work / "predictions.csv", told.to_csv(index=False, lineterminator="\n"))
    rows = _rows(log.reports, found, setting_of(model, config, recipe), judge)
    table = pd.DataFrame(
        {
            **rows,
            "run": "finetune",
            "model": pretrained.architecture,
            "weights": pretrained.weights,
            "dataset": without_folders(config.data),
            "image": "all",
            "seed": config.seed,
            "commit": commit(),
        }
    )[list(COLUMNS)]
    write_table(table, work / "rows.csv")
    remove_made(work / "checkpoints", CHECKPOINT)
    return table


def finetune_seeds(
    make_model: Callable[[], nn.Module],
    pretrained: Pretrained,
    config: FinetuneConfig,
    seeds: Sequence[int],
    work: Path,
    device: str,
    *,
    recipe: str,
    resume: bool = True,
) -> pd.DataFrame:
    """Fine-tune the same weights once per seed: other classifier, order, augmentation and mixing.

    Args:
        make_model: a new copy of the model, with its pretrained weights.
        pretrained: what it is.
        config: how; its seed is replaced.
        seeds: different ones.
        work: folder that gets a folder per seed; those that are complete are not done again.
        device: cpu or cuda.
        recipe: name of the configuration.
        resume: whether to go on where the same call was interrupted.

    Returns:
        The rows of all seeds; :func:`over_seeds` sums them up.

    Raises:
        UsageError: as :func:`finetune`, or if a seed comes twice.
    """
    if len(set(seeds)) < len(seeds) or not seeds:
        raise UsageError(f"expected different seeds, got {list(seeds)}")
    tables = []
    for seed in seeds:
        folder = work / f"seed-{seed}"
        if resume and (folder / "rows.csv").exists():
            tables.append(read_table(folder / "rows.csv"))
            continue
        own = replace(config, seed=seed)
        try:
            train, test = samples_of(own)
        except DataError as error:
            raise UsageError(str(error)) from error
        tables.append(
            finetune(
                *(make_model(), pretrained, own, train, test, folder, device),
                recipe=recipe,
                resume=resume,
            )
        )
    return pd.concat(tables, ignore_index=True)


def over_seeds(rows: pd.DataFrame, weights: str = "last") -> Interval:
    """Mean accuracy over the seeds in a table, with its 95 % interval.

    Args:
        rows: of one model and recipe, from :func:`finetune_seeds`.
        weights: ``last`` or ``ema``.

    Raises:
        ValueError: if there are fewer than two seeds, or more than one accuracy of a seed.
    """
    found = rows[(rows["measure"] == TOP1) & rows["setting"].str.endswith(f"weights={weights}")]
    final = found[found["at"] == found["at"].max()]
    if len(final) < 2 or final["seed"].duplicated().any():
        raise ValueError(
            f"expected one accuracy of weights={weights} for each of 2 or more seeds, got those of "
            f"seeds {final['seed'].tolist()}"
        )
    values = final["value"].to_numpy(dtype=float)
    return stats.mean(values, low=0, high=1)


def method_of(model: nn.Module, config: FinetuneConfig, classes: int) -> FineTuning:
    """The model, changed in place into what the configuration trains.

    Raises:
        ValueError: for choices that do not go together.
    """
    new_classifier(model, classes, keyed_generator(config.seed, "classifier"), config.pooling)
    if config.drop_path is not None:
        set_drop_path(model, config.drop_path)
    mixing = None
    if config.mixup or config.cutmix:
        mixing = Mixing(config.mixup, config.cutmix, config.mix_group)
    return FineTuning(model, mixing, config.smoothing, config.loss)


def optimiser_of(
    method: FineTuning, config: FinetuneConfig, device: str = "cpu"
) -> torch.optim.Optimizer:
    """The optimiser of a configuration, over all parameters of the model, for cpu or cuda.

    Raises:
        ValueError: if there is no layer decay for the model.
    """
    rules = (*RULES[config.rules], *decay_rules(method.model, config.layer_decay))
    groups = parameter_groups(method.model, config.lr, config.weight_decay, rules)
    if config.optimiser == "lamb":
        return Lamb(groups, lr=config.lr)
    fused = fused_on(device, config.precision or fastest(device))
    return torch.optim.AdamW(groups, lr=config.lr, fused=fused)


def classes_of(train: WithClasses, test: WithClasses) -> int:
    """How many classes there are.

    Raises:
        ValueError: if images have no classes.
    """
    if train.labels_I is None or test.labels_I is None:
        raise ValueError("expected images with classes to fine-tune and to judge on, got none")
    return int(max(train.labels_I.max(), test.labels_I.max())) + 1


def setting_of(model: nn.Module, config: FinetuneConfig, recipe: str) -> str:
    """What decides the number, in words: to stand beside it."""
    return (
        f"recipe={recipe} epochs={config.epochs} optimiser={config.optimiser} lr={config.lr:g} "
        f"layer_decay={config.layer_decay:g} pool={_pooling(model)} norm={final_norm(model)} "
        f"batchnorm=running train={config.train_size} "
        f"test={config.test_resize}->{config.test_size}"
    )


def description(
    model: nn.Module, pretrained: Pretrained, config: FinetuneConfig
) -> dict[str, object]:
    """How to make and to judge the network that saved weights belong to, for people and for timm.

    ``a2mim.checkpoints.load.load_model`` reads it from the file beside the weights.
    """
    classes = cast(Any, model).num_classes
    options = {**pretrained.options, "num_classes": classes}
    if config.pooling != "own":
        for key in ("fc_norm", "use_fc_norm"):  # left to timm, which puts the norm where we do
            options.pop(key, None)
        options["global_pool"] = {"mean": "avg", "token": "token"}[config.pooling]
    return {
        "architecture": pretrained.architecture,
        "model_args": options,
        "pretrained_cfg": {
            "input_size": [len(config.mean), config.test_size, config.test_size],
            "crop_pct": config.test_size / config.test_resize,
            "mean": list(config.mean),
            "std": list(config.std),
            "interpolation": config.interpolation,
            "num_classes": classes,
        },
    }


def _pooling(model: nn.Module) -> str:
    """timm's word for how a model pools."""
    of_head = getattr(getattr(model, "head", None), "global_pool", None)
    pool = getattr(model, "global_pool", None) or of_head
    return pool if isinstance(pool, str) else getattr(pool, "pool_type", "unknown")


def _rows(
    reports: Sequence[Mapping[str, float]],
    found: Mapping[str, Evaluation],
    setting: str,
    judge: Judge,
) -> pd.DataFrame:
    """Losses and accuracies by epoch, and at the end the accuracies with their intervals."""
    rows: list[tuple[str, str, float, float, int]] = []
    last = f"{setting} weights=last"
    for report in reports:
        epoch = report["step"] / judge.steps_per_epoch
        rows.append(("finetune_loss", last, epoch, report["loss"], judge.config.batch_size))
        if "test_top1" in report:
            rows.append((TOP1, last, epoch, report["test_top1"], len(judge.test)))
    for kind, evaluation in found.items():
        low, high = evaluation.interval
        values = {TOP1: evaluation.accuracy, f"{TOP1}_low": low, f"{TOP1}_high": high}
        rows += [
            (measure, f"{setting} weights={kind}", judge.config.epochs, value, len(judge.test))
            for measure, value in values.items()
        ]
    return pd.DataFrame(rows, columns=["measure", "setting", "at", "value", "samples"])


@torch.no_grad()
def _check_sizes(model: nn.Module, config: FinetuneConfig) -> None:
    """Whether the model takes the images, found out before the first epoch is over."""
    training, device = model.training, next(model.parameters()).device
    for size in (config.train_size, config.test_size):
        try:
            model.eval()(torch.zeros(1, len(config.mean), size, size, device=device))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"expected a model for images of {size} px: {error}; make it with that img_size, "
                "or set train_size, test_size and test_resize"
            ) from error
        finally:
            model.train(training)


def check(config: FinetuneConfig) -> None:
    """See whether settings go together.

    Raises:
        UsageError: for what cannot be.
    """
    check_numbers(config)
    if not 0 <= config.warmup < config.epochs:
        raise UsageError(f"warmup ({config.warmup:g}) must be below epochs ({config.epochs})")
    if config.test_resize < config.test_size:
        raise UsageError(
            f"expected a crop of {config.test_size} px out of at least as many, "
            f"got test_resize={config.test_resize}"
        )
    for key in ("rand_augment", "colour_jitter", "erasing") if config.resident else ():
        if getattr(config, key):
            raise UsageError(
                f"expected resident=0 with {key}={getattr(config, key)}: images that are held in "
                "memory are cropped and flipped alone"
            )
    if config.ema is not None and not 0 < config.ema < 1:
        raise UsageError(f"expected ema between 0 and 1, as 0.9999, got {config.ema}")
