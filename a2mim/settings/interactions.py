"""Interaction strength over orders, of one or several classifiers on the same images.

Source: Deng et al., ICLR 2022, and A2MIM's figures 1 and 5, with the unbiased estimator.
Command: ``a2mim interactions MODEL... --images DIR``, or ``--data NAME``.
Machine and time: about (pairs x contexts x 44) forwards per image and model, and more where
contexts are noisy; the command prints its plan before it starts.
Expected: the published curves are U-shaped on CNNs; no value is promised for a model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from a2mim.settings.weights import WeightsConfig

ENCODER_REWARDS = ("projection", "cosine", "features")
"""Rewards of a network without its classifier."""


@dataclass(frozen=True)
class InteractionsConfig:
    """Settings of ``a2mim interactions``."""

    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="CKPT...")]
    """Run folders, files, timm names (timm's own weights, downloaded if they are not in its cache),
    hf-hub:USER/NAME, or untrained:NAME; NETWORK=FILE where a file does not tell its network;
    CODE.py:FUNCTION=FILE for one of your own."""
    images: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A folder of images, searched in depth: links are followed, hidden files and folders left out.
    labels.csv in it (file,class_index) tells classes."""
    data: str = ""
    """A data set by name instead of a folder (digits, cifar10, ...): its test images."""
    weights: tyro.conf.OmitArgPrefixes[WeightsConfig] = field(default_factory=WeightsConfig)
    """How weights become a network."""
    label: str = "prediction"
    """The class that is played for: prediction (of the whole image), truth (from labels.csv or the
    data set), or a class index."""
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
    """Independent permutations per pair, to begin with."""
    windows: int = 2
    """Contexts per permutation."""
    target: float = 0.1
    """Wanted relative error of J at every order. Orders get more contexts until it is reached, or
    until more images are what is missing; 0: the same contexts at every order."""
    max_contexts: int = 64
    """Most contexts per pair and order."""
    budget: int = 0
    """Forwards that may be spent on each network. A pilot takes up to half of them; from it the
    numbers of images (at most --count), pairs and contexts per order are chosen that reach the
    target at the lowest cost or, if that is more than the budget, make J most precise. 0: images
    and pairs as given."""
    protocol: Literal["", "iclr22", "a2mim"] = ""
    """Take pairs, contexts, orders and seed of a publication instead of the settings above."""
    reward: Literal[
        "auto",
        "log_odds",
        "logit",
        "log_prob",
        "probability",
        "projection",
        "cosine",
        "features",
    ] = "auto"
    """The value of a masked image; projection, cosine and features need no classifier. auto:
    log_odds, or projection for all networks if one has no classifier."""
    game: Literal["fill", "token_drop"] = "fill"
    """Whether hidden patches are filled or, in a ViT, left out: another game, other numbers."""
    fill: Literal["zero", "black", "white", "image_mean", "blur"] = "zero"
    """What a hidden patch becomes: zero is the mean colour, black and white are those before
    normalisation."""
    seed: int = 0
    """Random seed; the same seed gives the same pairs and contexts to all models."""
    precision: Literal["float32", "tf32", "float16"] = "float32"
    """Arithmetic of the network; the two ends are in float32 in any case."""
    batch_size: int = 0
    """Masked images through the model at once; 0 fills the device. It changes no draw."""
    out: Path | None = None
    """Output folder; by default results/interactions/NAME-KEY, with a key of settings and data."""
    resume: bool = True
    """Go on where an interrupted run of the same command was, or start anew."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda if there is one."""
