"""The main job in miniature: pretrain, train, measure and draw, for a ViT and a ResNet.

Each backbone is trained twice with the same supervised budget: from its random initialisation
("scratch") and from weights that A2MIM pre-training made of the same initialisation ("a2mim").
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

import interactions as ix
from a2mim import BlockMask, MaskedImageModel, load_backbone, save_backbone
from a2mim.data.arrays import ImageSet, cifar10, digits, image_folders
from a2mim.data.folders import DataError
from a2mim.data.resident import TensorSamples
from a2mim.files import remove_made, write_arrays
from a2mim.messages import UsageError
from a2mim.report.demo import findings, summary_table, write_report
from a2mim.report.figures import draw_all
from a2mim.runs.folder import commit, finish_run, nothing_left_empty, open_run, pick_device
from a2mim.runs.progress import progress
from a2mim.runs.table import COLUMNS, per_image_rows, read_table, strength_rows, write_table
from a2mim.settings.demo import GRID, IMAGE_SIZE, MASK_BLOCK, DemoConfig, backbone
from a2mim.training.loop import Interrupted, StepReport
from a2mim.training.loop import pretrain as train
from a2mim.training.optim import adamw, cosine_lr, fused_on
from a2mim.training.supervised import FineTuning
from interactions.keys import torch_seeded

BACKBONES = ("vit", "resnet")
ARMS = ("scratch", "a2mim")
WEIGHT_DECAY = 0.05
PICTURES = 6
"""Test images in the figure of reconstructions."""


@dataclass(frozen=True)
class Material:
    """The data of a run, ready for the networks."""

    name: str
    train: ImageSet
    test: ImageSet
    train_images_ICHW: Tensor
    test_images_ICHW: Tensor
    mean_C: Tensor
    std_C: Tensor

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.train.classes)


@nothing_left_empty()
def demo(config: DemoConfig) -> None:
    """Run the demo, or go on with an interrupted one.

    Raises:
        UsageError: if a setting or the output folder cannot be used.
        DataError: if the data cannot be used.
    """
    _check(config)
    start = time.perf_counter()
    config = replace(config, device=pick_device(config.device))
    material = load(config)
    settings = {key: value for key, value in asdict(config).items() if key not in ("out", "resume")}
    settings["data"] = material.name
    images = {"train": material.train.fingerprint(), "test": material.test.fingerprint()}
    everything = settings | images
    names = [material.name.removeprefix("folder:")]
    opened = open_run(config.out, "demo", names, everything, resume=config.resume)
    if opened.finished:
        return
    work, out = opened.work, opened.out
    print(
        f"{material.name}: {len(material.train)} training and {len(material.test)} test images, "
        f"{material.classes} classes; seed {config.seed}; {config.device}"
    )
    stages = list(_stages(config, material, work))
    for k, (what, files, run) in enumerate(stages, start=1):
        label = f"[{k:2d}/{len(stages)}] {what}"
        if all((work / file).exists() for file in files):
            print(f"{label}: done before")
        else:
            try:
                run(label)
            except FloatingPointError as error:
                raise UsageError(f"{what}: {error}") from error
            except Interrupted as error:
                raise KeyboardInterrupt(f"{what}: stopped by {error.signal}") from error
    parts = [work / f"parts/{name}-{arm}.csv" for name in BACKBONES for arm in ARMS]
    rows = pd.concat([read_table(part) for part in parts], ignore_index=True)
    write_table(rows, work / "rows.csv")
    draw_all(work)
    write_report(work, config=settings)
    remove_made(work / "parts", r"\w+-\w+\.csv")
    finish_run(opened, settings, time.perf_counter() - start)
    print()
    print(summary_table(rows))
    print()
    for sentence in findings(rows):
        print("-", sentence)
    print(f"\nreport: {out / 'report.html'}   ({time.perf_counter() - start:.0f} s)")


def load(config: DemoConfig) -> Material:
    """The data set that ``config.data`` names, normalised with its training statistics."""
    limits = (config.max_train, config.max_test)
    kind, _, path = config.data.partition(":")
    if config.data == "digits":
        train_set, test_set = digits(IMAGE_SIZE)
        sets = (
            train_set.take(train_set.draw(config.max_train, config.seed)),
            test_set.take(test_set.draw(config.max_test, config.seed)),
        )
    elif config.data == "cifar10":
        sets = cifar10(Path("data"), IMAGE_SIZE, limits, config.seed)
    elif kind == "folder" and path:
        with progress("reading images", None, "images", leave=False, delay=1) as bar:
            sets = image_folders(
                Path(path), IMAGE_SIZE, limits, config.seed, on_read=lambda count: bar.update()
            )
    else:
        raise UsageError(f"expected --data digits, cifar10 or folder:PATH, got {config.data!r}")
    train_set, test_set = sets
    if len(train_set) < config.batch_size:
        raise DataError(
            f"expected at least {config.batch_size} training images (one batch), "
            f"got {len(train_set)} from {config.data}"
        )
    if len(train_set.classes) < 2:
        raise DataError(f"expected at least 2 classes, got 1 from {config.data}")
    if len(test_set) < 2:
        raise DataError(f"expected at least 2 test images, got {len(test_set)} from {config.data}")
    mean_C, std_C = train_set.statistics()
    if (std_C == 0).any():
        raise DataError(f"expected images with some contrast, got constant ones from {config.data}")
    return Material(
        # The name goes into published tables: no path of the machine.
        name=config.data if kind != "folder" else f"folder:{Path(path).resolve().name}",
        train=train_set,
        test=test_set,
        train_images_ICHW=train_set.normalised(mean_C, std_C).to(config.device),
        test_images_ICHW=test_set.normalised(mean_C, std_C),
        mean_C=mean_C,
        std_C=std_C,
    )


Stage = tuple[str, list[str], Callable[[str], None]]
"""What it does, the files that show that it is done, and the work."""


def _stages(config: DemoConfig, material: Material, work: Path) -> Iterator[Stage]:
    for folder in ("weights", "parts"):
        (work / folder).mkdir(exist_ok=True)
    for name in BACKBONES:
        pretrained = f"weights/{name}-pretrained.safetensors"
        yield (
            f"{name}: A2MIM pre-training",
            [pretrained],
            partial(pretrain, name, config, material, work),
        )
        for arm in ARMS:
            yield (
                f"{name}: training from {arm}",
                [f"weights/{name}-{arm}.safetensors"],
                partial(finetune, name, arm, config, material, work),
            )
            yield (
                f"{name}: measuring {arm}",
                [f"parts/{name}-{arm}.csv"],
                partial(measure, name, arm, config, material, work),
            )


def pretrain(name: str, config: DemoConfig, material: Material, work: Path, label: str) -> None:
    """Pretrain a backbone; keep its weights and a few reconstructions."""
    with torch_seeded(config.seed):
        model = MaskedImageModel(
            backbone(name, material.classes), BlockMask(IMAGE_SIZE, MASK_BLOCK, config.mask_ratio)
        ).to(config.device)
    _train(model, material, config, config.pretrain_steps, label)
    _keep_reconstructions(model, config, material, work / f"reconstructions-{name}.npz")
    save_backbone(model.backbone, work / f"weights/{name}-pretrained.safetensors")


def finetune(
    name: str, arm: str, config: DemoConfig, material: Material, work: Path, label: str
) -> None:
    """Train a classifier from random or pretrained weights, with the same budget."""
    model = _initialised(name, config, material)
    if arm == "a2mim":
        load_backbone(model, work / f"weights/{name}-pretrained.safetensors")
    labels_I = material.train.labels_I
    _train(FineTuning(model), material, config, config.finetune_steps, label, labels_I)
    save_backbone(model, work / f"weights/{name}-{arm}.safetensors")


def measure(
    name: str, arm: str, config: DemoConfig, material: Material, work: Path, label: str
) -> None:
    """Test accuracy, interaction strength over orders, and accuracy under random patch drop."""
    model = _initialised(name, config, material).eval()
    load_backbone(model, work / f"weights/{name}-{arm}.safetensors")
    grid = ix.PatchGrid(GRID, GRID)
    images, names = material.test_images_ICHW, material.test.names
    labels = material.test.labels_I
    common: dict[str, Any] = {
        "run": "demo",
        "model": name,
        "weights": arm,
        "dataset": material.name,
        "seed": config.seed,
        "commit": commit(),
    }

    clean = ix.occlusion_curve(model, images, labels, grid, fractions=(0.0,), names=names)
    rows = [
        per_image_rows(
            clean.correct_IF, names, [0.0], measure="accuracy", setting="top-1", samples=1, **common
        )
    ]

    chosen = material.test.draw(config.occlusion_images, config.seed)
    occlusion = ix.occlusion_curve(
        model,
        images[chosen],
        labels[chosen],
        grid,
        names=[names[k] for k in chosen],
        seed=config.seed,
    )
    rows.append(
        per_image_rows(
            occlusion.correct_IF,
            occlusion.images,
            occlusion.fractions_F,
            measure="occlusion_accuracy",
            setting=f"grid={GRID}x{GRID} drop=random fill=zero",
            samples=1,
            **common,
        )
    )

    chosen = material.test.draw(config.count, config.seed)
    games = ix.PatchGames(
        model, images[chosen], labels[chosen], grid, names=[names[k] for k in chosen]
    )
    design = ix.Design(
        pairs=ix.NeighbourPairs(grid, radius=2, count=config.pairs),
        contexts=ix.Windows(config.replicates, config.windows),
        seed=config.seed,
    )
    # No contexts are added: of so few forwards, more are worth in more images.
    with progress(label, len(games), "images") as bar:
        records = ix.measure(_counted(games, bar), design, target=None)
    setting = (
        f"grid={GRID}x{GRID} reward=log_odds label=truth fill=zero pairs={config.pairs} radius=2 "
        f"contexts={config.replicates}x{config.windows}"
    )
    rows.append(strength_rows(records, setting, **common))
    write_table(pd.concat(rows, ignore_index=True)[list(COLUMNS)], work / f"parts/{name}-{arm}.csv")


def _counted(games: Iterable[ix.PatchGame], bar: tqdm) -> Iterator[ix.PatchGame]:
    for game in games:
        yield game
        bar.update()


def _keep_reconstructions(
    model: MaskedImageModel, config: DemoConfig, material: Material, path: Path
) -> None:
    """A few test images as they are, as the network saw them, and as it completed them."""
    chosen = material.test.draw(PICTURES, config.seed)
    images = material.test_images_ICHW[chosen].to(config.device)
    visible_BN = model.mask.draw(torch.arange(len(images), device=images.device), config.seed)
    with torch.inference_mode():
        predicted = model(images, visible_BN)["output"]
    grid = model.mask.grid
    pictures = {
        "original": images,
        "masked": ix.hide(images, visible_BN, grid, model.fill(images)),
        "completed": ix.hide(images, visible_BN, grid, predicted),
    }
    mean, std = (x[:, None, None] for x in (material.mean_C, material.std_C))
    levels = {
        what: ((x.cpu() * std + mean) * 255).round().clamp(0, 255).byte().numpy()
        for what, x in pictures.items()
    }
    write_arrays(path, levels)


def _initialised(name: str, config: DemoConfig, material: Material) -> nn.Module:
    """A backbone with the initial weights that both arms share."""
    with torch_seeded(config.seed):
        return backbone(name, material.classes).to(config.device)


def _train(
    method: nn.Module,
    material: Material,
    config: DemoConfig,
    steps: int,
    label: str,
    labels_I: Tensor | None = None,
) -> None:
    """Train on whole images, by AdamW with a tenth of the steps for warm-up."""
    with progress(label, steps, "steps") as bar:

        def on_step(report: StepReport) -> None:
            bar.set_postfix(loss=f"{report.losses['loss']:.3f}", refresh=False)
            bar.update(report.step - bar.n)

        train(
            method,
            TensorSamples(material.train_images_ICHW),
            adamw(method, config.lr, WEIGHT_DECAY, fused_on(config.device, "float32")),
            lambda step, scale: cosine_lr(step, steps, steps // 10, config.lr * scale),
            batch_size=config.batch_size,
            labels_I=labels_I,
            steps=steps,
            seed=config.seed,
            cpu=config.device == "cpu",
            on_step=on_step,
        )


def _check(config: DemoConfig) -> None:
    """Refuse settings that cannot run, before anything is read or written."""
    for field, least in (
        ("seed", 0),
        ("pretrain_steps", 1),
        ("finetune_steps", 1),
        ("batch_size", 2),
        ("count", 2),
        ("pairs", 1),
        ("replicates", 2),
        ("windows", 1),
        ("occlusion_images", 2),
        ("max_train", 2),
        ("max_test", 2),
    ):
        value = getattr(config, field)
        if value < least:
            raise UsageError(
                f"expected --{field.replace('_', '-')} of at least {least}, got {value}"
            )
    neighbours = len(ix.NeighbourPairs(ix.PatchGrid(GRID, GRID), radius=2).candidates())
    if config.pairs > neighbours:
        raise UsageError(
            f"expected --pairs of at most {neighbours}, the neighbouring pairs of a "
            f"{GRID} x {GRID} grid, got {config.pairs}"
        )
    if config.replicates % 2:
        raise UsageError(f"expected an even number of --replicates, got {config.replicates}")
    if not 0 < config.mask_ratio < 1:
        raise UsageError(f"expected --mask-ratio between 0 and 1, got {config.mask_ratio}")
    if not 0 < config.lr < math.inf:
        raise UsageError(f"expected a finite --lr above 0, got {config.lr}")
