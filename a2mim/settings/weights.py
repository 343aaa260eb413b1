"""Settings of ``a2mim models``, and how all commands turn names and files into networks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Annotated, Any, Literal, cast

import tyro

from a2mim.messages import UsageError, did_you_mean
from a2mim.settings.numbers import LARGEST, Within, check_numbers


def model_options(pairs: Sequence[str]) -> dict[str, object]:
    """Options as NAME=VALUE, with values as Python writes them, or words.

    Raises:
        UsageError: for anything else.
    """
    return dict(_options(pairs, "--model-kwargs"))


def _options(pairs: Sequence[str], option: str) -> Iterator[tuple[str, object]]:
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (equals and name.isidentifier()):
            raise UsageError(f"expected {option} NAME=VALUE, got {pair!r}")
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            value = text
        _check_option(name, value, f"{option} {pair}")
        yield name, value


COUNTS = {"num_classes": 0, "in_chans": 1, "img_size": 1, "patch_size": 1, "depth": 1}
COUNTS |= {"embed_dim": 1, "num_heads": 1, "class_token": 0, "reg_tokens": 0}
"""Options of networks that count something, and the least that they can be."""


def _check_option(name: str, value: object, where: str) -> None:
    """See whether the numbers of an option of a network can be.

    Raises:
        UsageError: if not.
    """
    least = COUNTS.get(name)
    numbers = value if isinstance(value, tuple | list) else (value,)
    for number in numbers:
        if not isinstance(number, int | float):
            if least is not None and isinstance(number, str):
                raise UsageError(f"expected a number for {name}, got {where}")
            continue
        if not Within(-LARGEST if least is None else least).holds(number):
            limits = "a finite number" if least is None else f"at least {least}"
            raise UsageError(f"expected {limits} for {name}, got {where}")


def options_as_text(options: dict[str, object]) -> list[str]:
    """What :func:`model_options` reads: NAME=VALUE for each."""
    return [f"{name}={value}".replace(" ", "") for name, value in options.items()]


ModelKwargs = Annotated[
    dict[str, object],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME=VALUE ...]",
        instance_from_str=lambda words: dict(model_options(words)),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=options_as_text,
    ),
]
"""Options that a network is made with, each as NAME=VALUE."""


@dataclass(frozen=True)
class WeightsConfig:
    """How weights become a network, where names and files do not tell."""

    model_kwargs: tuple[str, ...] = ()
    """What the network is made with, as NAME=VALUE, such as pad_type=same."""
    per_network: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]],
        tyro.conf.arg(name="for", metavar="CKPT NAME=VALUE [NAME=VALUE ...]"),
    ] = ()
    """Settings of one checkpoint, named as above or by its file: name=WORDS is what it is called in
    tables and figures, mean=R,G,B, std=R,G,B, crop_pct=SHARE, interpolation=NAME, layout=NAME and
    texts=FILE as below, any other NAME=VALUE what it is made with. Can be given several times, such
    as --for a.pth name=ours std=0.5,0.5,0.5"""
    layout: str = ""
    """Layout of a file that is not recognised; a2mim models lists them."""
    ema: bool = False
    """Of two sets of weights in a file or run, take the averaged ones (OpenMixup: those under
    ema_*)."""
    texts: str = ""
    """Zero-shot classes: a .npz or .safetensors file of class names and text vectors (names,
    vectors), or open_clip:MODEL:PRETRAINED:CLASSES.txt[:TEMPLATES.txt], which open_clip computes.
    The network is then a tower of CLIP's kind, whose outputs are compared with them."""
    image_size: Annotated[int | str | None, tyro.conf.arg(metavar="N|HEIGHTxWIDTH")] = None
    """Size of the images in pixels, if not the network's own: N on each side, or height and width,
    such as 96x160; positions are resampled."""
    mean: tuple[float, ...] = ()
    """Mean colour of the normalisation, instead of the weights' own, such as 0.485 0.456 0.406."""
    std: Annotated[tuple[float, ...], Within(0, above=True)] = ()
    """Standard deviation of the normalisation, instead of the weights' own, such as 0.229 0.224
    0.225."""
    crop_pct: Annotated[float | None, Within(0, 2, above=True)] = None
    """Share of the short side that the central crop covers, instead of the weights' own."""
    interpolation: Literal["", "bilinear", "bicubic"] = ""
    """How images are resized, instead of as the weights' own."""
    apart: tyro.conf.Suppress[tuple[tuple[str, str], ...]] = ()
    """Of checkpoints whose files have one name: what each is called. Commands find it out."""


LARGEST_EDGE = 4096


def size_of(config: WeightsConfig) -> int | tuple[int, int] | None:
    """The size of the images that is asked for: an edge, or height and width if they differ.

    Raises:
        UsageError: if it is none.
    """
    asked = config.image_size
    if asked is None:
        return None
    text = "x".join(map(str, asked)) if isinstance(asked, tuple | list) else str(asked)
    found = re.fullmatch(r"([0-9]{1,4})(?:x([0-9]{1,4}))?", text)
    H, W = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not (0 < H <= LARGEST_EDGE and 0 < W <= LARGEST_EDGE):
        raise UsageError(
            f"expected --image-size of N or HEIGHTxWIDTH, 1 to {LARGEST_EDGE} pixels, such as 224 "
            f"or 96x160, got {text}"
        )
    return H if H == W else (H, W)


def names_of(checkpoint: str) -> set[str]:
    """What ``--for`` can call it: as it is given, its file, or the file without folders."""
    places = {checkpoint, checkpoint.partition("=")[2] or checkpoint}
    return places | {PurePath(place).name for place in places}


def weights_of(checkpoint: str, config: WeightsConfig) -> tuple[WeightsConfig, str]:
    """The settings of one checkpoint, and what it is called: empty if nothing says so.

    Raises:
        UsageError: for colours and shares that are no numbers or cannot be, or a word that is no
            setting.
    """
    title = ""
    for name, *words in config.per_network:
        if name not in names_of(checkpoint):
            continue
        for (key, value), word in zip(_options(words, "--for CKPT"), words, strict=True):
            text = word.partition("=")[2]
            if key == "name":
                title = text
            elif key == "layout":
                config = replace(config, layout=text)
            elif key == "texts":
                config = replace(config, texts=text)
            elif key == "interpolation":
                config = replace(config, interpolation=cast(Any, text))
            elif key == "crop_pct":
                if not isinstance(value, int | float):
                    raise UsageError(f"expected crop_pct=SHARE in --for {name}, got {word}")
                config = replace(config, crop_pct=value)
            elif key in ("mean", "std"):
                value = value if isinstance(value, tuple) else (value,)
                if not all(isinstance(number, int | float) for number in value):
                    raise UsageError(f"expected {key}=R,G,B in --for {name}, got {word}")
                if key == "mean":
                    config = replace(config, mean=value)
                else:
                    config = replace(config, std=value)
            else:
                config = replace(config, model_kwargs=(*config.model_kwargs, word))
        check_numbers(config)
    return config, title


def check_given(config: Any) -> None:
    """See whether settings of a measure can be, before networks and images are looked at.

    Args:
        config: with ``checkpoints``, ``weights``, ``images`` and ``data``.

    Raises:
        UsageError: naming the option.
    """
    check_numbers(config)
    check_checkpoints(config.checkpoints, config.weights)
    check_images(config)


def check_images(config: Any) -> None:
    """See whether images are named, and once.

    Raises:
        UsageError: if not.
    """
    if (config.images is None) == (not config.data):
        raise UsageError("expected either --images DIR or --data NAME")


def check_checkpoints(checkpoints: Sequence[str], config: WeightsConfig) -> None:
    """See whether there are checkpoints, the size is one, and every ``--for`` names one of them.

    Raises:
        UsageError: if not.
    """
    if not checkpoints or "" in checkpoints:  # an empty variable of a shell is no folder
        raise UsageError("expected a checkpoint, got none; a2mim models says what is one")
    size_of(config)
    known = {name for one in checkpoints for name in names_of(one)}
    for words in config.per_network:
        if len(words) < 2 or words[0] not in known:
            hint = did_you_mean(words[0], known) if words else ""
            raise UsageError(
                f"expected --for CKPT NAME=VALUE with one of the checkpoints, got "
                f"{' '.join(words)!r}{hint}"
            )


@dataclass(frozen=True)
class ModelsConfig:
    """Settings of ``a2mim models``."""

    checkpoints: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILE...")
    ] = ()
    """Files of weights, or names, to say what they are recognised as; what can be named, if none
    is given."""
    find: str = ""
    """List the timm names with pretrained weights that contain this, such as mae."""
    weights: tyro.conf.OmitArgPrefixes[WeightsConfig] = field(default_factory=WeightsConfig)
    """How weights become a network."""
