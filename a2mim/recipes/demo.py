"""What ``a2mim demo`` trains: a small ViT and a small ResNet, from scratch and pre-trained.

A network is drawn by its training seed; both ways to train it begin with the same weights, see the
same few labels and the same images in the same order.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from a2mim import load_backbone
from a2mim.data.arrays import digits
from a2mim.data.sampler import keyed_generator, keyed_seed
from a2mim.data.samples import SomeSamples
from a2mim.recipes import finetune as finetuning
from a2mim.recipes import pretrain as pretraining
from a2mim.recipes.finetuning import Pretrained, finetune, samples_of
from a2mim.recipes.pretraining import backbone_of, description
from a2mim.settings.demo import DemoConfig
from interactions.keys import torch_seeded

DATA = "digits"
NETWORKS = ("resnet", "vit")
ALL = ("scratch", "a2mim")
FEW = tuple(f"{arm}-few" for arm in ALL)
PASSES = {"resnet": 5, "vit": 2}
"""Epochs with few labels, for each with all of them."""
SIZE = 32
"""Pixels a side: each measured value of a digit is a square of four."""


def write_digits(folder: Path) -> None:
    """scikit-learn's digits as files, ``train/<class>/`` and ``val/<class>/``; every other tests.

    So both halves are by the same writers. (scikit-learn's example tests on the second half, by
    others, which is harder.)
    """
    if folder.exists():
        return
    made = folder.with_name(f"{folder.name}.partial")
    for images in digits(SIZE):
        for name, label, pixels_CHW in zip(
            images.names, images.labels_I.tolist(), images.pixels_ICHW, strict=True
        ):
            number = int(name.rsplit("/", 1)[1])
            file = made / ("val" if number % 2 else "train") / str(label) / f"{number:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels_CHW[0].numpy()).save(file)
    made.rename(folder)


def recipes(
    name: str, seed: int, config: DemoConfig, data: str = DATA
) -> tuple[pretraining.PretrainConfig, finetuning.FinetuneConfig]:
    """How a network is pre-trained and fine-tuned."""
    before = pretraining.RECIPES[f"digits-demo-{name}"]()
    after = finetuning.RECIPES[f"digits-demo-{name}"]()
    return (
        replace(before, data=data, seed=seed, **_shortened(before, config.effort)),
        replace(after, data=data, seed=seed, **_shortened(after, config.effort)),
    )


def _shortened(recipe: Any, effort: float) -> dict[str, Any]:
    epochs = max(round(recipe.epochs * effort), 1)
    return {"epochs": epochs, "warmup": recipe.warmup * epochs / recipe.epochs}


def train(name: str, seed: int, arm: str, config: DemoConfig, runs: Path, data: str) -> None:
    """Train a network with labels, in ``runs/<arm>-<name>-<seed>``; once."""
    work = runs / f"{arm}-{name}-{seed}"
    if (work / "rows.csv").exists():  # which is written last
        return
    before, recipe = recipes(name, seed, config, data)
    images, test = samples_of(recipe)
    if arm in FEW:
        assert images.labels_I is not None
        images = SomeSamples(images, some_of_each(images.labels_I, config.labels, seed))
        recipe = replace(
            recipe,
            epochs=PASSES[name] * recipe.epochs,
            warmup=PASSES[name] * recipe.warmup,
            batch_size=min(recipe.batch_size, len(images) // 2),
        )
    with torch_seeded(keyed_seed(seed, "weights")):
        model = backbone_of(before)
    if arm.startswith("a2mim"):
        load_backbone(model, runs / f"pretrain-{name}-{seed}/backbone.safetensors")
    options: Any = description(model, before)["model_args"]
    about = Pretrained(before.backbone, arm, options)
    finetune(model, about, recipe, images, test, work, config.device, recipe=f"digits-demo-{name}")


def some_of_each(labels_I: torch.Tensor, count: int, seed: int) -> list[int]:
    """Indices of ``count`` images of each class, in order, drawn by ``seed``."""
    order_I = torch.randperm(len(labels_I), generator=keyed_generator("labels", seed))
    chosen = [order_I[labels_I[order_I] == label][:count] for label in labels_I.unique()]
    return sorted(torch.cat(chosen).tolist())
