"""Options that several commands have: one name, type, default and help text for the same thing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import tyro

from a2mim.settings.numbers import Within

CHECKPOINT = (
    "a run folder, a file, a timm name (timm's own weights), hf-hub:USER/NAME, or untrained:NAME "
    "for random weights; NETWORK=FILE where a file does not tell its network; "
    "torchvision:NETWORK=FILE for one of torchvision; CODE.py:FUNCTION=FILE for a network of your "
    "own"
)
SEVERAL = (
    "A folder of files, or a pattern in quotes ('runs/*/*.pth'), stands for all of them; those "
    "that cannot be used are left out and named, and the exit code is 1"
)

Checkpoints = Annotated[
    tyro.conf.Positional[tuple[str, ...]],
    tyro.conf.arg(metavar="CKPT...", help=f"Checkpoints, each of them {CHECKPOINT}. {SEVERAL}."),
]
Images = Annotated[
    Path | None,
    tyro.conf.arg(
        metavar="DIR",
        help="Folder of images, searched in depth: links are followed, hidden files and folders "
        "left out. Pictures stand upright, as their EXIF says; of several frames it is the first. "
        "Those that cannot be read are left out and named, too many are refused. Classes are those "
        "of labels.csv in it (file,class_index, or names of classes), else the outermost folders. "
        "Names are numbered by classes.txt, one a line; else by ImageNet's table, if they are its "
        "WordNet numbers and networks have 1,000 outputs; else in alphabetical order.",
    ),
]
Data = Annotated[
    str,
    tyro.conf.arg(
        metavar="NAME",
        help="Data set by name instead of a folder (digits, cifar10, ...): its test images.",
    ),
]
Count = Annotated[
    int,
    Within(1),
    tyro.conf.arg(
        metavar="N",
        help="At most this many images, drawn by the random seed. The default is what a command "
        "can afford: interactions take thousands of forwards an image, spectra take one.",
    ),
]
Seed = Annotated[
    int,
    tyro.conf.arg(
        metavar="N",
        help="Random seed; the same seed gives the same images and masks to all checkpoints.",
    ),
]
BatchSize = Annotated[
    int,
    Within(0),
    tyro.conf.arg(
        metavar="N",
        help="Images through the network at once; 0: automatic. Results do not depend on it, "
        "rounding aside.",
    ),
]
Grid = Annotated[
    int | str | None,
    tyro.conf.arg(
        metavar="N|ROWSxCOLS",
        help="Patches, hidden as a whole: N on each side, or rows and columns, such as 4x8. None: "
        "those of the vision transformers, if all have the same; else the most up to 14 x 14 that "
        "divide the images of all networks.",
    ),
]
AnyPrecision = Annotated[
    Literal["auto", "float32", "tf32", "float16", "bfloat16", "model"],
    tyro.conf.arg(
        help="Arithmetic of the network; model: in the number format of its own weights; auto: on "
        "a GPU the fastest whose noise floor is below 1 % of the smallest reported quantity, of "
        "the first images, chosen once per network; float32 on a CPU."
    ),
]
Out = Annotated[
    Path | None,
    tyro.conf.arg(
        metavar="DIR",
        help="Output folder; by default results/COMMAND/NAME-KEY, with a key of settings and data.",
    ),
]
Device = Annotated[
    str,
    tyro.conf.arg(
        help="Device: cpu, cuda, mps (Apple; pretrain, probe and reconstruct: no float64), "
        "or auto (cuda if there is one)."
    ),
]
Resume = Annotated[
    bool,
    tyro.conf.arg(
        help="Go on where an interrupted run of the same command was, and leave a finished one as "
        "it is; --no-resume starts anew."
    ),
]
PlainFill = Literal["zero", "black", "white", "image_mean", "blur", "token_drop"]
"""What hidden patches become where masks alone are drawn; ``token_drop`` leaves tokens out."""


def value_of(option: str, arguments: Sequence[str]) -> str | None:
    """What an option is given on a command line that is not parsed yet; None if it is not there."""
    values = [after for word, after in pairwise(arguments) if word == option]
    values += [word.partition("=")[2] for word in arguments if word.startswith(f"{option}=")]
    return values[-1] if values else None
