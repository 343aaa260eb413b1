"""``a2mim pretrain``: one recipe, from images to a backbone that timm loads.

The run folder holds the backbone, the log (one JSON line a report), TensorBoard events, and what
the network made of hidden patches.
"""

from __future__ import annotations

import ast
import difflib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import matplotlib as mpl
import numpy as np
import pandas as pd
import timm
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from a2mim.augment import CropAndFlip
from a2mim.checkpoint import save_backbone
from a2mim.data import DataError
from a2mim.engine import Interrupted, Saving, StepReport, pretrain
from a2mim.losses import LOSSES
from a2mim.mae import MaskedAutoencoder
from a2mim.masking import BlockMask
from a2mim.model import MaskedImageModel
from a2mim.optim import (
    OFFICIAL_CNN,
    OFFICIAL_CNN_GAMMA,
    OFFICIAL_VIT,
    cosine_lr,
    parameter_groups,
    step_lr,
)
from a2mim.sampler import Batches, Samples, keyed_generator, keyed_seed
from a2mim.samples import ArraySamples, FolderSamples, find_training_files, named_set
from a2mim.shards import TarSamples
from a2mim.sites import site_at
from a2mim.state import CheckpointError
from experiments.configs.pretrain import RECIPES, PretrainConfig
from experiments.figures import reconstructions
from experiments.results import COLUMNS, write_atomic, write_table
from experiments.runs import (
    UsageError,
    commit,
    finish_run,
    keep_memory,
    open_run,
    pick_device,
    process_rank,
)
from interactions import plots
from interactions.fills import image_mean
from interactions.patches import PatchGrid, hide

RULES = {"vit": OFFICIAL_VIT, "cnn": OFFICIAL_CNN, "cnn-gamma": OFFICIAL_CNN_GAMMA}
PICTURES = 8
"""Images in the picture of reconstructions."""


def run(
    name: str,
    changes: Sequence[str],
    data: str,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = True,
) -> None:
    """Pre-train a recipe, or go on with an interrupted run of it.

    Args:
        name: of the recipe.
        changes: settings to change, as KEY=VALUE.
        data: where the images are, if not where the recipe says.
        out: the run folder.
        device: auto, cpu or cuda.
        resume: whether to go on where the same command was interrupted.

    Raises:
        UsageError: if the recipe, a setting, the data or the folder cannot be used.
    """
    start = time.perf_counter()
    config = changed(recipe(name), [*changes, *([f"data={data}"] if data else [])])
    device = pick_device(device)
    if device == "cpu":
        keep_memory()
    try:
        samples = samples_of(config)
        method = method_of(config)
        steps_per_epoch = Batches(len(samples), config.batch_size, config.seed).per_epoch
    except (DataError, TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    settings = {"recipe": name, **asdict(config)}
    settings["data"] = _without_folders(config.data)
    work = open_run(
        out, settings | {"images": len(samples)}, resume=resume or process_rank()[0] > 0
    )
    groups = parameter_groups(method, config.lr, config.weight_decay, RULES[config.rules])
    steps = config.epochs * steps_per_epoch
    log = Log(work, steps, config, steps_per_epoch)
    try:
        trained = pretrain(
            method,
            samples,
            torch.optim.AdamW(groups, lr=config.lr, betas=config.betas),
            schedule(config, steps, steps_per_epoch),
            batch_size=config.batch_size,
            steps=steps,
            accumulate=config.accumulate,
            clip=config.clip,
            seed=config.seed,
            precision=config.precision,
            channels_last=device == "cuda",
            cpu=device == "cpu",
            workers=config.workers,
            log_every=max(min(steps_per_epoch // 10, 50), 1),
            on_step=log,
            saving=Saving(
                work / "checkpoints",
                every_steps=config.save_every * steps_per_epoch,
                keep=config.keep,
                settings={"config": {k: str(v) for k, v in settings.items()}},
            ),
        )
    except (CheckpointError, DataError, FloatingPointError, ValueError) as error:
        raise UsageError(str(error)) from error
    except Interrupted as error:
        raise KeyboardInterrupt(str(error)) from error
    finally:
        log.close()
    if torch.distributed.is_initialized():
        first = torch.distributed.get_rank() == 0
        torch.distributed.destroy_process_group()
        if not first:
            return
    save_backbone(method.backbone, work / "backbone.safetensors")
    write_atomic(work / "backbone.json", json.dumps(description(config), indent=2) + "\n")
    stacks = pictures(method.to(trained.device), samples, config, trained.device)
    with mpl.rc_context(plots.STYLE):
        figure = reconstructions({config.backbone: stacks})
        figure.savefig(work / "reconstructions.png")
    write_table(log.rows(name, config), work / "rows.csv")
    shutil.rmtree(work / "checkpoints", ignore_errors=True)
    finish_run(work, out, settings, time.perf_counter() - start)
    last = log.reports[-1]
    print(f"{name}: {steps} steps, loss {last['loss']:.4f}")
    print(f"backbone: {out / 'backbone.safetensors'}   pictures: {out / 'reconstructions.png'}")


def recipe(name: str) -> PretrainConfig:
    """The settings of a recipe.

    Raises:
        UsageError: if there is none of that name.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise UsageError(f"expected a recipe (a2mim configs lists them), got {name!r}{hint}")
    return RECIPES[name]()


def changed(config: PretrainConfig, changes: Sequence[str]) -> PretrainConfig:
    """A configuration with settings changed, each as KEY=VALUE.

    Raises:
        UsageError: for an unknown key, with the nearest one, or a value of another type.
    """
    hints = get_type_hints(PretrainConfig)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; settings: {', '.join(hints)}"
            raise UsageError(f"expected --set KEY=VALUE of a setting, got {change!r}{hint}")
        try:
            value: object = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = text
        config = replace(config, **{key: _fitting(key, value, hints[key])})
    _check(config)
    return config


def _fitting(key: str, value: object, hint: Any) -> Any:
    """The value, if it is of the type of the setting."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        fits, wanted = value in parts, " or ".join(map(str, parts))
    elif origin is tuple:
        fits, wanted = isinstance(value, tuple | list), "several values, as (1, 2)"
        value = tuple(value) if isinstance(value, tuple | list) else value
    elif origin is dict:
        fits, wanted = isinstance(value, dict), "options, as {'depth': 2}"
    elif parts:  # a type or None
        fits = value is None or isinstance(value, parts) or (float in parts and _number(value))
        wanted = " or ".join(getattr(part, "__name__", str(part)) for part in parts)
    elif hint is float:
        fits, wanted = _number(value), "a number"
    else:
        fits = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
        wanted = {int: "a whole number", str: "text"}.get(hint, hint.__name__)
    if not fits:
        raise UsageError(f"expected {key} as {wanted}, got {value!r}")
    return value


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check(config: PretrainConfig) -> None:
    """What no single setting shows."""
    if config.method == "a2mim" and config.loss not in LOSSES:
        raise UsageError(f"expected a loss of {', '.join(LOSSES)}, got {config.loss!r}")
    if not 0 <= config.warmup < config.epochs:
        raise UsageError(
            f"expected a warm-up of less than the {config.epochs} epochs, got {config.warmup}"
        )
    for key in ("epochs", "batch_size", "accumulate", "lr", "save_every", "keep"):
        if not getattr(config, key) > 0:
            raise UsageError(f"expected {key} above 0, got {getattr(config, key)}")


def samples_of(config: PretrainConfig) -> Samples:
    """The training images of a configuration.

    Raises:
        UsageError: if it names none.
        DataError: if they cannot be had.
    """
    augment = CropAndFlip(config.image_size, config.crop, mean=config.mean, std=config.std)
    kind, _, where = config.data.partition(":")
    if kind in ("digits", "cifar10") and not where:
        images = named_set(kind, Path("data"), 32)
        return ArraySamples(images, augment, config.seed)
    if kind == "folder" and where:
        return FolderSamples(find_training_files(Path(where)), augment, config.seed)
    if kind == "tar" and where:
        return TarSamples(where, augment, config.seed)
    raise UsageError(
        f"expected --data digits, cifar10, folder:PATH or tar:PATTERN, got {config.data!r}"
    )


def method_of(config: PretrainConfig) -> MaskedImageModel | MaskedAutoencoder:
    """The method of a configuration, with weights drawn by its seed.

    Raises:
        ValueError: for choices that do not go together.
    """
    with torch.random.fork_rng():
        torch.manual_seed(keyed_seed(config.seed, "weights"))
        backbone = backbone_of(config)
        if config.method == "mae":
            width, depth, heads = config.decoder
            return MaskedAutoencoder(
                backbone,
                config.mask_ratio,
                decoder_width=width,
                decoder_depth=depth,
                decoder_heads=heads,
            )
        size, position = config.image_size, config.position
        return MaskedImageModel(
            backbone,
            BlockMask(size, config.block, config.mask_ratio),
            site=None if position is None else site_at(backbone, position, size),
            token=config.token,
            token_init=config.token_init,
            fill=image_mean if config.fill == "image_mean" else None,
            loss=config.loss,
            fourier_weight=config.fourier_weight,
            decoder_depth=config.depthwise,
            target=config.target,
        )


def backbone_of(config: PretrainConfig) -> nn.Module:
    """The timm model of a configuration, without a classifier."""
    options: dict[str, Any] = {"num_classes": 0, **config.options}
    try:
        return timm.create_model(config.backbone, img_size=config.image_size, **options)
    except TypeError:  # a network for images of any size
        return timm.create_model(config.backbone, **options)
    except RuntimeError as error:
        raise ValueError(f"expected the name of a timm model: {error}") from error


def description(config: PretrainConfig) -> dict[str, object]:
    """How to make the network that the saved weights belong to, for people and for timm."""
    return {
        "architecture": config.backbone,
        "model_args": {"img_size": config.image_size, **config.options},
        "pretrained_cfg": {
            "input_size": [3, config.image_size, config.image_size],
            "mean": list(config.mean),
            "std": list(config.std),
            "interpolation": "bilinear",
            "num_classes": 0,
        },
    }


def schedule(
    config: PretrainConfig, steps: int, steps_per_epoch: int
) -> Callable[[int, float], float]:
    """From step and a scale of the peak to the learning rate."""
    warmup = round(config.warmup * steps_per_epoch)
    if config.schedule == "step":
        drop = round(config.epochs * 7 / 8) * steps_per_epoch
        return lambda step, scale: step_lr(
            step, drop=drop, warmup=warmup, peak=config.lr * scale, warmup_ratio=2e-6
        )
    return lambda step, scale: cosine_lr(step, steps, warmup, config.lr * scale, config.final_lr)


class Log:
    """What is seen of a run while it runs: a bar, JSON lines, TensorBoard.

    Reports of steps that a resumed run does again replace those of the interrupted one.
    """

    def __init__(
        self, work: Path, steps: int, config: PretrainConfig, steps_per_epoch: int
    ) -> None:
        self.path = work / "log.jsonl"
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = config.batch_size
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.reports: list[dict[str, float]] = [json.loads(x) for x in lines if x.endswith("}")]
        self.writer: SummaryWriter | None = None
        self.work = work
        self.bar = tqdm(
            total=steps * config.batch_size,
            unit=" images",
            unit_scale=True,
            delay=1,
            disable=process_rank()[0] > 0,
        )

    def __call__(self, report: StepReport) -> None:
        """Note a report."""
        if self.writer is None:  # the first report of this process
            self.reports = [r for r in self.reports if r["step"] < report.step]
            write_atomic(self.path, "".join(json.dumps(r) + "\n" for r in self.reports))
            self.bar.initial = self.bar.n = max(report.step - 1, 0) * self.batch_size
            self.bar.start_t = time.time()
            self.writer = SummaryWriter(self.work / "tensorboard", purge_step=report.step)
        entry = {
            "step": report.step,
            "epoch": report.epoch,
            "lr": report.lr,
            **report.losses,
            "images_per_second": round(report.images_per_second, 1),
        }
        if report.grad_norm is not None:
            entry["grad_norm"] = report.grad_norm
        self.reports.append(entry)
        with self.path.open("a") as lines:
            lines.write(json.dumps(entry) + "\n")
        for key, value in entry.items():
            if key not in ("step", "epoch"):
                self.writer.add_scalar(key, value, report.step)
        self.bar.set_postfix({k: f"{v:.4f}" for k, v in report.losses.items()}, refresh=False)
        self.bar.update(report.step * self.batch_size - self.bar.n)

    def rows(self, name: str, config: PretrainConfig) -> pd.DataFrame:
        """The losses as rows of the results table."""
        losses = [
            {
                "run": "pretrain",
                "measure": f"pretrain_{key}",
                "model": config.backbone,
                "weights": name,
                "dataset": _without_folders(config.data),
                "image": "all",
                "setting": f"method={config.method} size={config.image_size}",
                "at": report["step"],
                "value": report[key],
                "samples": config.batch_size,
                "seed": config.seed,
                "commit": commit(),
            }
            for report in self.reports
            for key in ("loss", "spatial", "fourier")
            if key in report
        ]
        return pd.DataFrame(losses, columns=list(COLUMNS))

    def close(self) -> None:
        """End the bar and the TensorBoard file."""
        self.bar.close()
        if self.writer is not None:
            self.writer.close()


@torch.no_grad()
def pictures(
    method: MaskedImageModel | MaskedAutoencoder,
    samples: Samples,
    config: PretrainConfig,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """Images as they are, as the network sees them, and with their hidden parts completed.

    Returns:
        ``original``, ``masked`` and ``completed``, uint8 ``(I, H, W, 3)``.
    """
    count = min(PICTURES, len(samples))
    images = torch.stack([samples.load(k, 0) for k in range(count)]).to(device)
    visible = method.draw(count, keyed_generator(config.seed, "pictures")).to(device)
    grid: PatchGrid = method.grid if isinstance(method, MaskedAutoencoder) else method.mask.grid
    filled = image_mean(images)
    output = method.eval()(images, visible)["output"]
    stacks = {"original": images, "masked": hide(images, visible, grid, filled)}
    if output.shape == images.shape:  # other targets are no pictures
        stacks["completed"] = hide(images, visible, grid, output.float())
    else:
        stacks["completed"] = stacks["masked"]
    return {key: _levels(stack, config) for key, stack in stacks.items()}


def _levels(images: Tensor, config: PretrainConfig) -> np.ndarray:
    mean, std = (
        torch.tensor(v, device=images.device)[:, None, None] for v in (config.mean, config.std)
    )
    levels = ((images * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.cpu().numpy()


def _without_folders(data: str) -> str:
    """Data without the path of this machine."""
    kind, colon, where = data.partition(":")
    return f"{kind}:{Path(where).resolve().name}" if colon else data


def list_recipes() -> None:
    """Print every recipe with its first line."""
    width = max(map(len, RECIPES))
    for name, function in RECIPES.items():
        print(f"{name:{width}}  {(function.__doc__ or '').splitlines()[0]}")
