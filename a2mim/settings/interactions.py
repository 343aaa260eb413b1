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

from a2mim.settings import shared
from a2mim.settings.numbers import Within
from a2mim.settings.weights import WeightsConfig

ENCODER_REWARDS = ("projection", "cosine", "features")
"""Rewards of a network without its classifier."""


@dataclass(frozen=True)
class InteractionsConfig:
    """Settings of ``a2mim interactions``."""

    checkpoints: shared.Checkpoints
    images: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="DIR|FILE",
            help="Folder of images, searched in depth: links are followed, hidden files and "
            "folders left out. labels.csv in it (file,class_index) tells classes. Or one picture, "
            "which is explained: pairs and patches by order, over the picture.",
        ),
    ] = None
    data: shared.Data = ""
    weights: tyro.conf.OmitArgPrefixes[WeightsConfig] = field(default_factory=WeightsConfig)
    """How weights become a network."""
    label: str = "auto"
    """The class that is played for: truth (from labels.csv or the data set), prediction (of the
    whole image), or a class index; auto: truth where it is known and of the classes of all
    networks, otherwise prediction."""
    count: Annotated[shared.Count, Within(2)] = 50
    grid: shared.Grid = None
    orders: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
    """Orders as shares of n-2; the 13 published ones. Those at 0 and 1 are measured in float32
    whatever --precision says."""
    pairs: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Pairs of neighbouring players per image. None: 12, and of one picture all, on a grid of at
    most 8 x 8 unless --grid is given."""
    radius: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many rows and columns neighbours may be apart. None: 2, and 1 in one picture."""
    replicates: int = 4
    """Independent permutations per pair, to begin with."""
    windows: int = 2
    """Contexts per permutation."""
    target: Annotated[float, Within(0)] = 0.1
    """Wanted relative error of J at every order. Orders get more contexts until it is reached, or
    until more images are what is missing; 0: the same contexts at every order."""
    max_contexts: Annotated[int, Within(1)] = 64
    """Most contexts per pair and order."""
    budget: Annotated[int, Within(0)] = 0
    """Forwards that may be spent on each network. A pilot takes up to half of them; from it the
    numbers of images (at most --count), pairs and contexts per order are chosen that reach the
    target at the lowest cost or, if that is more than the budget, make J most precise. 0: images
    and pairs as given."""
    protocol: Literal["", "iclr22", "a2mim"] = ""
    """Take grid, pairs, contexts, orders and their draws from a publication, instead of those
    settings."""
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
    fill: shared.PlainFill = "zero"
    """What a hidden patch becomes: zero is the mean colour, black and white are those before
    normalisation; token_drop leaves its token out of a vision transformer, which is another game
    with other numbers."""
    seed: shared.Seed = 0
    precision: shared.AnyPrecision = "auto"
    compile: bool = False
    """Compile networks: worth a minute's wait on a GPU from some hundred thousand forwards on."""
    batch_size: shared.BatchSize = 0
    out: shared.Out = None
    resume: shared.Resume = True
    device: shared.Device = "auto"
