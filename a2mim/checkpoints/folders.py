"""Weights in a folder: in a run of ours, or in one that timm reads as ``local-dir:FOLDER``.

    run of a2mim pretrain                     backbone.safetensors, described by backbone.json
    run of a2mim probe --method finetune      part-000/seed-0/model.safetensors, by model.json
    timm's, and exports of a pre-training     model.safetensors, by config.json

Averaged weights lie beside the others as ``backbone-ema.safetensors`` or ``model-ema.safetensors``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import timm

from a2mim.checkpoints.files import INDEX, Variant, WeightsError, first_names, one_line

LOCAL = "local-dir:"
"""What timm puts before a folder of weights."""

SUFFIXES = (".safetensors", ".pth", ".pt", ".th", ".bin", ".tar", ".ckpt", ".pkl")
"""How names of weights end."""

_FILES = (
    *("backbone.safetensors", "model.safetensors"),
    *("pytorch_model.bin", "pytorch_model.pth", "model.pth"),
    *(f"model.safetensors{INDEX}", f"pytorch_model.bin{INDEX}"),
)
"""What weights are called there; the first that is there is taken, as timm does."""
_TELLERS = ("backbone.json", "model.json", "config.json")
_FINETUNED = "part-*/seed-*/model.safetensors"


def weights_in(folder: Path, ema: Variant = "plain") -> Path:
    """The file of weights in a folder.

    Args:
        folder: a run of ``a2mim pretrain`` or of ``a2mim probe --method finetune``, or one with
            weights for timm.
        ema: ``"ema"`` for the averaged weights beside the others.

    Raises:
        WeightsError: one line, if there are none, or those of several networks.
    """
    seeds = sorted(path.parent for path in folder.glob(_FINETUNED))
    if len(seeds) > 1:
        names = [str(seed.relative_to(folder)) for seed in seeds]
        raise WeightsError(
            f"expected one network in {folder}, found {len(seeds)}; add to its name one of "
            + first_names(names)
        )
    inside = seeds[0] if seeds else folder
    end = "-ema" if ema == "ema" else ""
    files = [inside / name.replace(".", f"{end}.") for name in _FILES]
    found = next((file for file in files if file.is_file()), None)
    if found is not None:
        return found
    if end and inside.is_dir():
        raise WeightsError(f"expected averaged weights in {folder}, found none; leave out ema")
    if (inside / "adapter_config.json").is_file():
        raise WeightsError(
            f"expected the weights of a network, {folder} has an adapter of PEFT; merge it into "
            "its network where it was made (merge_and_unload) and save that"
        )
    raise WeightsError(
        f"expected a folder with weights: a run of a2mim pretrain or a2mim probe --method "
        f"finetune, or timm's {LOCAL}PATH; found {_what(folder)}"
    )


def files_in(folder: Path) -> list[Path]:
    """All files of weights in a folder that is not of one network, sorted by the numbers in them.

    A folder is of one network where a file tells its architecture, or is called as those that do,
    and where there is one file of weights, if it is called as those that timm reads. The order is
    natural: checkpoint-99 comes before checkpoint-799.

    Args:
        folder: a folder.

    Returns:
        The files; none where the folder is of one network, or has no weights in it.
    """
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    files = [path for path in inside if path.name.endswith(SUFFIXES) and path.is_file()]
    told = any(path.name in _TELLERS or path.name.endswith(INDEX) for path in inside)
    known = any(path.name in _FILES for path in files)
    runs = any((folder / name).exists() for name in ("checkpoints", "rows.csv"))
    if told or runs or (known and len(files) == 1) or any(folder.glob(_FINETUNED)):
        return []
    return sorted(files, key=natural)


def is_network(folder: Path) -> bool:
    """Whether a folder holds weights that its name stands for, or those of several seeds."""
    try:
        return any(folder.glob(_FINETUNED)) or bool(weights_in(folder))
    except WeightsError:
        return False


def natural(path: Path) -> list[tuple[int, str, int]]:
    """What paths are sorted by: parts of them as text, and the numbers between as numbers."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(0, "", int(part)) if k % 2 else (1, part, 0) for k, part in enumerate(parts)]


def beside(path: Path) -> tuple[str, dict[str, Any], dict[str, Any], tuple[str, ...], Path] | None:
    """What the file beside some weights says of their network.

    Args:
        path: the weights.

    Returns:
        Architecture, arguments, timm's ``pretrained_cfg``, the modules that pre-training gave no
        gradient, and the file that tells; None if none does.

    Raises:
        WeightsError: if the file is there and does not tell all.
    """
    told = path.with_suffix(".json")
    if path.suffix != ".safetensors" or not told.is_file():
        told = path.parent / "config.json"
        if path.name.replace("-ema.", ".") not in _FILES or not told.is_file():
            return None
    try:
        about = json.loads(told.read_text(encoding="utf-8"))
        if not isinstance(about, dict) or not timm.is_model(str(about.get("architecture"))):
            return None  # of another program
        cfg = dict(about["pretrained_cfg"])
        options = dict(about.get("model_args") or {})
        size = cfg.get("input_size")
        if cfg.get("fixed_input_size") and size:
            options.setdefault("img_size", tuple(size[1:]))  # as timm makes it
        idle = tuple(map(str, about.get("without_gradient") or ()))
        return str(about["architecture"]), options, cfg, idle, told
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"expected in {told} what a2mim pretrain or timm writes, got {one_line(error)}; name "
            "architecture="
        ) from error


def _what(folder: Path) -> str:
    """What is there instead of weights, in a few words."""
    if not folder.is_dir():
        return f"no folder {folder}"
    if (folder / "checkpoints").is_dir():
        return f"an unfinished run in {folder}; run its command again to finish it"
    if (folder / "rows.csv").is_file():
        return f"a run without weights in {folder}"
    return f"none in {folder}"
