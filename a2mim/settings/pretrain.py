"""Settings of ``a2mim pretrain``: those of the recipe that is named, and of its method alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from a2mim.recipes.pretrain import METHODS, RECIPES, PretrainConfig, with_method
from a2mim.settings.recipes import chosen
from a2mim.settings.shared import Device, Resume, value_of


@dataclass(frozen=True)
class Pretrain:
    """Settings of ``a2mim pretrain``."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
    """Name of the recipe; a2mim configs lists them. Its settings, and those of its method, are the
    options; with a recipe named, --help shows their values."""
    config: tyro.conf.OmitArgPrefixes[PretrainConfig]
    """Settings of the recipe."""
    method: Literal["", "a2mim", "mae", "rmae", "cmae", "cmae-tokens"] = ""
    """Another method than the recipe's, with its own settings; those that both have stay."""
    out: Path | None = None
    """Output folder; by default results/pretrain/RECIPE-KEY, with a key of settings and data. While
    the run works, OUT.running leads to it: OUT.running/log.jsonl is the log in JSON lines."""
    device: Device = "auto"
    resume: Resume = True


def pretrain_options(arguments: Sequence[str]) -> Pretrain | None:
    """The defaults of the options: what the recipe that is named says, with the method asked for.

    Returns:
        None where only help is asked for.

    Raises:
        UsageError: if no recipe is named.
    """
    name = next((word for word in arguments if word in RECIPES), None)
    if name is None:
        if {"-h", "--help"} & set(arguments):
            return None
        words = [word for word in arguments if not word.startswith("-")]
        name = words[0] if words else ""
    config = chosen(name, RECIPES)()
    method = value_of("--method", arguments)
    if method in METHODS:  # other words are refused as any other value
        config = with_method(config, method)
    return Pretrain(name, config)
