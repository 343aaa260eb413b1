"""Interaction strength over orders, of one or several classifiers on the same images.

Source: Deng et al., ICLR 2022, and A2MIM's figures 1 and 5, with the corrected estimator.
Command: ``a2mim interactions MODEL... --images DIR``.
Machine and time: about (pairs x contexts x 44) forwards per image and model.
Expected: the published curves are U-shaped on CNNs; no value is promised for a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class InteractionsConfig:
    """Settings of ``a2mim interactions``."""

    models: tyro.conf.Positional[tuple[str, ...]]
    """timm names, such as resnet50.a1_in1k. Without --weights, timm's own weights are taken (and
    downloaded, if they are not in its cache)."""
    images: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """A folder of images, searched in depth; labels.csv in it (file,class_index) tells classes."""
    weights: tuple[Path, ...] = ()
    """A file of weights for each model, safetensors or PyTorch, with the keys of the timm model."""
    label: str = "prediction"
    """The class that is played for: prediction (of the whole image), truth (from labels.csv), or a
    class index."""
    count: int = 50
    """At most this many images, drawn by seed."""
    grid: int = 14
    """Players per side."""
    orders: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
    """Orders as shares of n-2; the 13 published ones."""
    pairs: int = 12
    """Pairs of neighbouring players per image."""
    radius: int = 2
    """How many rows and columns neighbours may be apart."""
    replicates: int = 4
    """Independent permutations per pair."""
    windows: int = 2
    """Contexts per permutation."""
    bias_tol: float = 0.0
    """Double the replicates of an order while its bias diagnostic is above this share; 0 never."""
    max_contexts: int = 64
    """The most contexts per pair and order that doubling may reach."""
    protocol: Literal["", "iclr22", "a2mim"] = ""
    """Take pairs, contexts, orders and seed of a publication instead of the settings above."""
    reward: Literal["log_odds", "logit", "log_prob", "probability"] = "log_odds"
    """The value of a masked image."""
    fill: Literal["zero", "image_mean", "blur"] = "zero"
    """What a hidden patch becomes, after normalisation."""
    seed: int = 0
    """Names the random draws; the same seed gives the same pairs and contexts to all models."""
    batch_size: int = 64
    """Masked images through the model at once; it changes no draw."""
    out: Path = Path("results/interactions")
    """Where the results go."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda if there is one."""
