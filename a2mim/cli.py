"""The ``a2mim`` command."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from a2mim.settings.compare import CompareConfig
from a2mim.settings.demo import DemoConfig
from a2mim.settings.interactions import InteractionsConfig
from a2mim.settings.invariance import InvarianceConfig
from a2mim.settings.occlusion import OcclusionConfig
from a2mim.settings.probe import ProbeConfig
from a2mim.settings.spectrum import SpectrumConfig
from a2mim.settings.weights import ModelsConfig


@dataclass(frozen=True)
class Figures:
    """Draw the figures of a finished run of any command again, from its table."""

    run: tyro.conf.Positional[Path] = Path("results/demo/latest")
    """The run folder."""


@dataclass(frozen=True)
class Pretrain:
    """Pre-train a recipe (a2mim configs lists them): from images to a backbone that timm loads."""

    config: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONFIG")]
    """Name of the recipe."""
    set: tuple[str, ...] = ()
    """Settings to change, as KEY=VALUE; options of the backbone as a Python dict."""
    data: str = ""
    """A set by name (digits, cifar10, ...), folder:PATH (searched in depth: links are followed,
    hidden files and folders left out), tar:PATTERN (local shards) or stream:PATTERN (shards from
    anywhere, with --set images=NUMBER), if not what the recipe says."""
    out: Path | None = None
    """Output folder; results/pretrain/CONFIG-KEY if left out, where the key is a hash of settings
    and images. While it runs, OUT.running leads to it: OUT.running/log.jsonl is the log, a JSON
    line a report."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda if there is one."""
    resume: bool = True
    """Go on where an interrupted run of the same command was, or start anew."""


@dataclass(frozen=True)
class Configs:
    """List the recipes of a2mim pretrain and a2mim probe, or show all of one."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[NAME]")] = ""
    """Of the recipe to show: what is known of it, and its settings."""


Command = (
    Annotated[
        DemoConfig,
        tyro.conf.subcommand(
            "demo", description="Pretrain, train, measure and draw, on real images, in minutes."
        ),
    ]
    | Annotated[
        CompareConfig,
        tyro.conf.subcommand(
            "compare", description="Several checkpoints: every measure, differences, one page."
        ),
    ]
    | Annotated[
        InteractionsConfig,
        tyro.conf.subcommand(
            "interactions",
            description="Interaction strength over orders of timm classifiers, on your images.",
        ),
    ]
    | Annotated[
        InvarianceConfig,
        tyro.conf.subcommand(
            "invariance", description="What is left of features of occluded images, by layer."
        ),
    ]
    | Annotated[
        OcclusionConfig,
        tyro.conf.subcommand(
            "occlusion", description="What hiding parts of images does to predictions."
        ),
    ]
    | Annotated[
        SpectrumConfig,
        tyro.conf.subcommand(
            "spectrum", description="Frequencies and variance of feature maps, by layer."
        ),
    ]
    | Annotated[Pretrain, tyro.conf.subcommand("pretrain")]
    | Annotated[Configs, tyro.conf.subcommand("configs")]
    | Annotated[
        ModelsConfig,
        tyro.conf.subcommand(
            "models", description="What can be named as a checkpoint; what a file is recognised as."
        ),
    ]
    | Annotated[
        ProbeConfig,
        tyro.conf.subcommand(
            "probe", description="Judge checkpoints: linear probe, k-NN, fine-tuning, top-1."
        ),
    ]
    | Annotated[Figures, tyro.conf.subcommand("figures")]
)


FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk without room, or of a user without a share of it that is left."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exit code 0 when done, 1 for wrong numbers, 2 for bad input, 130 if stopped."""
    try:
        _run_explained(tyro.cli(Command, args=arguments, prog="a2mim", description=__doc__))
    except BrokenPipeError:  # the reader had enough, of the help too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _run_explained(command: Any) -> None:
    from a2mim.data.arrays import DataError
    from a2mim.messages import UsageError
    from a2mim.runs.checks import InvariantError

    try:
        _run(command)
    except (DataError, UsageError) as error:
        sys.exit(_say(f"a2mim: {error}", 2))
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = f" {error.filename}" if error.filename else ""
        why = f"cannot write{where}: {error.strerror}; make room and run the same command again"
        sys.exit(_say(f"a2mim: {why}", 2))
    except InvariantError as error:  # wrong numbers, and not what the user asked for
        sys.exit(_say(f"a2mim: {error}", 1))
    except KeyboardInterrupt as stop:
        why = str(stop) or "interrupted; run the same command again to go on"
        sys.exit(_say(f"\na2mim: {why}", 130))


def _run(command: Any) -> None:
    if isinstance(command, DemoConfig):
        from a2mim.commands.demo import demo

        demo(command)
    elif isinstance(command, CompareConfig):
        from a2mim.commands.compare import run

        run(command)
    elif isinstance(command, InteractionsConfig):
        from a2mim.measure.interactions import interaction_curves

        interaction_curves(command)
    elif isinstance(command, InvarianceConfig):
        from a2mim.measure.invariance import invariance

        invariance(command)
    elif isinstance(command, OcclusionConfig):
        from a2mim.measure.occlusion import occlusion

        occlusion(command)
    elif isinstance(command, SpectrumConfig):
        from a2mim.measure.spectrum import spectrum

        spectrum(command)
    elif isinstance(command, Pretrain):
        from a2mim.commands import pretrain

        pretrain.run(
            command.config,
            command.set,
            command.data,
            command.out,
            device=command.device,
            resume=command.resume,
        )
    elif isinstance(command, Configs):
        from a2mim.probes.linear import RECIPES as SGD
        from a2mim.recipes.finetune import RECIPES as FINETUNE
        from a2mim.recipes.pretrain import RECIPES as PRETRAIN
        from a2mim.settings.changes import list_recipes, show_recipe

        commands: dict[str, Mapping[str, Any]] = {
            "a2mim pretrain": PRETRAIN,
            "a2mim probe --method finetune --recipe": FINETUNE,
            "a2mim probe --method sgd --recipe": SGD,
        }
        print(show_recipe(command.name, commands) if command.name else list_recipes(commands))
    elif isinstance(command, ModelsConfig):
        from a2mim.measure.networks import models

        models(command)
    elif isinstance(command, ProbeConfig):
        from a2mim.commands.probe import probe

        probe(command)
    else:
        from a2mim.commands.figures import redraw

        redraw(command.run)


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
