"""Settings of ``a2mim probe``.

Source: the linear probes and fine-tuning of A2MIM's configurations (our notes, section 5); k-NN as
in DINO.
Command: ``a2mim probe CKPT... --data NAME``.
Expected: what a checkpoint's own paper says, where its recipe is followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from a2mim.recipes.finetune import RECIPES, FinetuneConfig
from a2mim.settings.numbers import Within
from a2mim.settings.recipes import chosen
from a2mim.settings.shared import BatchSize, Checkpoints, Device, Out, Resume, value_of
from a2mim.settings.weights import WeightsConfig


@dataclass(frozen=True)
class ProbeConfig:
    """Settings of ``a2mim probe``."""

    checkpoints: Checkpoints
    data: str = ""
    """Images with classes: a set by name (digits, cifar10, ...), or folder:PATH with
    train/<class>/ and val/<class>/, searched in depth: links are followed, hidden files and folders
    left out."""
    images: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """For --method clean: a folder of test images, searched in the same way, with labels.csv
    (file,class_index, or names of classes) in it, or in folders by class."""
    method: Literal["linear", "sgd", "knn", "finetune", "clean"] = "linear"
    """linear: logistic regression by L-BFGS on frozen features; sgd: as published, on features of
    one view; knn: 20 nearest neighbours; finetune: the whole network by a recipe; clean: top-1 of
    the classifier that is in the checkpoint."""
    recipe: str = ""
    """Of --method sgd (in1k-vit, ...) or finetune (simmim-vit-b, ...); a2mim configs lists them.
    Settings of a recipe of fine-tuning are options too, such as --finetune.epochs 10: a2mim configs
    RECIPE shows them."""
    finetune: tyro.conf.Suppress[FinetuneConfig | None] = None
    """Settings of fine-tuning, if not as the recipe says."""
    pool: Literal["pooled", "class_token", "mean"] = "pooled"
    """Features: what the network hands to its classifier, its class token, or the mean of its
    patches."""
    block: int | None = None
    """Features after this block, counted from 1, instead of the last (with --pool class_token or
    mean); SimMIM probes block 8 of 12, without the final norm."""
    final_norm: bool = True
    """Whether the network's final norm is applied to the features."""
    normalise: Literal["standardise", "l2", "none"] = "standardise"
    """What is done to features before a linear probe, with statistics of the training images."""
    weight_decays: tuple[float, ...] = ()
    """Weight decays that --method linear chooses from; 1e-6 to 1 in tens if left out."""
    lrs: tuple[float, ...] = ()
    """Learning rates that --method sgd chooses from, instead of the recipe's one."""
    neighbours: Annotated[int, Within(1)] = 20
    """Of --method knn."""
    seeds: Annotated[int, Within(1)] = 1
    """Runs with seeds 0, 1, ...; from two on, their mean and interval are reported too."""
    max_train: Annotated[int | None, Within(1)] = None
    """At most this many training images, drawn by seed 0."""
    max_test: Annotated[int | None, Within(1)] = None
    """At most this many test images, drawn by seed 0."""
    batch_size: BatchSize = 0
    workers: int = 1
    """Processes that read images."""
    precision: Literal["float32", "tf32", "float16", "bfloat16"] = "float32"
    """Arithmetic of the frozen network: as it is, with the products of NVIDIA's GPUs, or mixed."""
    weights: tyro.conf.OmitArgPrefixes[WeightsConfig] = field(default_factory=WeightsConfig)
    """How weights become a network."""
    out: Out = None
    device: Device = "auto"
    resume: Resume = True


@dataclass(frozen=True)
class FinetuneProbe:
    """Settings of ``a2mim probe --method finetune``: those of the recipe are options too."""

    probe: tyro.conf.OmitArgPrefixes[ProbeConfig]
    """Settings of the probe."""
    finetune: FinetuneConfig
    """Settings of the recipe."""

    @property
    def config(self) -> ProbeConfig:
        """Both in one."""
        return replace(self.probe, finetune=self.finetune)


def finetune_options(arguments: Sequence[str]) -> FinetuneProbe | None:
    """The defaults of the options of fine-tuning: what the recipe that is named says.

    Returns:
        None where another method is asked for, or no recipe is named.
    """
    if value_of("--method", arguments) != "finetune":
        return None
    name = value_of("--recipe", arguments)
    if name is None:
        return None
    return FinetuneProbe(ProbeConfig(tyro.MISSING), chosen(name, RECIPES)())
