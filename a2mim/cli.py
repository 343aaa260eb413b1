"""The ``a2mim`` command."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO, cast

import tyro

from a2mim.messages import Escaped, EscapedLines, UsageError, did_you_mean, printable
from a2mim.settings.compare import CompareConfig
from a2mim.settings.demo import DemoConfig
from a2mim.settings.interactions import InteractionsConfig
from a2mim.settings.invariance import InvarianceConfig
from a2mim.settings.occlusion import OcclusionConfig
from a2mim.settings.options import parse
from a2mim.settings.pretrain import Pretrain, pretrain_options
from a2mim.settings.probe import FinetuneProbe, ProbeConfig, finetune_options
from a2mim.settings.reconstruct import ReconstructConfig
from a2mim.settings.spectrum import SpectrumConfig
from a2mim.settings.weights import ModelsConfig, check_images


@dataclass(frozen=True)
class Figures:
    """Draw the figures of a finished run of any command again, from its table."""

    run: tyro.conf.Positional[Path] = Path("results/demo/latest")
    """The run folder."""

    scale: Literal["linear", "log", "broken"] = "linear"
    """Of interaction strengths: log or broken where one end is far above the rest."""

    layout: Literal["intervals", "published"] = "intervals"
    """Of interaction strengths over orders: with intervals; or as the papers draw them: the mean of
    |I|, lines without bands, orders as shares of n."""


@dataclass(frozen=True)
class Configs:
    """List the recipes of a2mim pretrain and a2mim probe, or show all of one."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[NAME]")] = ""
    """Of the recipe to show: what is known of it, and its settings."""


COMMANDS: dict[str, tuple[type, str]] = {
    "demo": (DemoConfig, "Pretrain, train, measure and draw, on real images, in minutes."),
    "compare": (CompareConfig, "Several checkpoints: every measure, differences, one page."),
    "interactions": (
        InteractionsConfig,
        "Interaction strength over orders, on your images.",
    ),
    "invariance": (InvarianceConfig, "What is left of features of occluded images, by layer."),
    "occlusion": (OcclusionConfig, "What hiding parts of images does to predictions."),
    "spectrum": (SpectrumConfig, "Frequencies and variance of feature maps, by layer."),
    "pretrain": (Pretrain, "Pre-train a recipe: from images to a backbone that timm loads."),
    "reconstruct": (ReconstructConfig, "What masked models predict of hidden parts of images."),
    "configs": (Configs, "List the recipes of a2mim pretrain and a2mim probe, or show one."),
    "models": (ModelsConfig, "What can be named as a checkpoint; what a file is recognised as."),
    "probe": (ProbeConfig, "Judge checkpoints: linear probe, k-NN, fine-tuning, top-1."),
    "figures": (Figures, "Draw the figures of a finished run again."),
}


ALONE = (DemoConfig, ReconstructConfig, Configs, ModelsConfig, Figures)
"""Settings of commands that share nothing between processes."""

OF_IMAGES = (
    CompareConfig,
    InteractionsConfig,
    InvarianceConfig,
    OcclusionConfig,
    SpectrumConfig,
    ReconstructConfig,
)
"""Settings of commands that look at images."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk without room, or of a user without a share of it that is left."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exit code 0 when done, 2 for bad input, 130 if stopped.

    1 stands for wrong numbers, and for checkpoints that were left out of what is done otherwise.
    """
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(EscapedLines())
    try:
        _run_explained(list(sys.argv[1:] if arguments is None else arguments))
    except BrokenPipeError:  # the reader had enough, of the help too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _overview() -> str:
    """The help of ``a2mim`` alone."""
    width = max(map(len, COMMANDS))
    commands = [f"  {name:{width}}  {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: a2mim [-h] [--version] COMMAND ...",
            "",
            "Masked image modelling, and what networks make of hidden patches.",
            "",
            "commands:",
            *commands,
            "",
            "a2mim COMMAND --help shows the options of a command.",
        ]
    )


def _parsed(arguments: Sequence[str]) -> Any:
    """The settings of the command that is named.

    Raises:
        UsageError: if none is named, or no recipe where one is needed.
        SystemExit: after help, and for options that cannot be; these are explained by then.
    """
    if arguments and arguments[0] in ("-h", "--help"):
        print(_overview())
        sys.exit(0)
    if arguments and arguments[0] == "--version":
        print(f"a2mim {version('a2mim')}")
        sys.exit(0)
    if not arguments:
        raise UsageError("expected a command, got none; a2mim --help lists them")
    name, *rest = arguments
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or "; a2mim --help lists them"
        raise UsageError(f"expected a command, got {name!r}{hint}")
    settings, about = COMMANDS[name]
    if name == "pretrain":
        default = pretrain_options(rest)
        named = name if default is None else f"{name} {default.name}"
        return parse(settings, rest, named, about, default)
    if name == "probe" and (tuning := finetune_options(rest)) is not None:
        return parse(FinetuneProbe, rest, name, about, tuning).config
    parsed: Any = parse(settings, rest, name, about)
    if isinstance(parsed, OF_IMAGES):
        check_images(parsed)
    return parsed


def _run_explained(arguments: Sequence[str]) -> None:
    try:
        command = _parsed(arguments)
    except UsageError as error:
        sys.exit(_say(*error.args))
    from a2mim.data.folders import DataError
    from a2mim.runs.checks import InvariantError

    stdout = sys.stdout or io.StringIO()  # none is left where it was closed
    try:
        with redirect_stdout(cast(TextIO, Escaped(stdout))):
            left_out = _run(command)
        stdout.flush()  # here, where an error of it is explained
    except (DataError, UsageError) as error:
        sys.exit(_say(*(error.args or [error])))
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = f" {error.filename}" if error.filename else ""
        why = f"cannot write{where}: {error.strerror}; make room and run the same command again"
        sys.exit(_say(why))
    except InvariantError as error:  # wrong numbers, and not what the user asked for
        sys.exit(_say(error, code=1))
    except KeyboardInterrupt as stop:
        print(file=sys.stderr)  # behind ^C, or a bar
        sys.exit(_say(str(stop) or "interrupted; run the same command again to go on", code=130))
    if left_out:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        sys.exit(_say(f"done, but {len(left_out)} left out: {reasons}", code=1))


def _run(command: Any) -> Mapping[str, str]:
    """Do what a command asks for; what was left out of it, and why."""
    from a2mim.processes import process_rank

    rank, world = process_rank()
    if world > 1 and isinstance(command, ALONE):
        if isinstance(command, DemoConfig):
            raise UsageError(f"expected one process for a2mim demo, got {world}")
        if rank:
            return {}
    if isinstance(command, DemoConfig):
        from a2mim.commands.demo import demo

        demo(command)
    elif isinstance(command, CompareConfig):
        from a2mim.commands.compare import run

        return run(command).left_out
    elif isinstance(command, InteractionsConfig):
        from a2mim.measure.interactions import interaction_curves

        return interaction_curves(command)
    elif isinstance(command, InvarianceConfig):
        from a2mim.measure.invariance import invariance

        return invariance(command)
    elif isinstance(command, OcclusionConfig):
        from a2mim.measure.occlusion import occlusion

        return occlusion(command)
    elif isinstance(command, SpectrumConfig):
        from a2mim.measure.spectrum import spectrum

        return spectrum(command)
    elif isinstance(command, Pretrain):
        from a2mim.commands import pretrain

        pretrain.run(
            command.name,
            command.config,
            command.out,
            device=command.device,
            resume=command.resume,
        )
    elif isinstance(command, ReconstructConfig):
        from a2mim.commands.reconstruct import reconstruct

        return reconstruct(command)
    elif isinstance(command, Configs):
        from a2mim.probes.linear import RECIPES as SGD
        from a2mim.recipes.finetune import RECIPES as FINETUNE
        from a2mim.recipes.pretrain import RECIPES as PRETRAIN
        from a2mim.settings.recipes import list_recipes, show_recipe

        commands: dict[str, Mapping[str, Any]] = {
            "a2mim pretrain": PRETRAIN,
            "a2mim probe --method finetune --recipe": FINETUNE,
            "a2mim probe --method sgd --recipe": SGD,
        }
        print(show_recipe(command.name, commands) if command.name else list_recipes(commands))
    elif isinstance(command, ModelsConfig):
        from a2mim.measure.checkpoints import with_all
        from a2mim.measure.networks import models

        models(with_all(command))
    elif isinstance(command, ProbeConfig):
        from a2mim.commands.probe import probe

        return probe(command)
    else:
        from a2mim.commands.figures import redraw

        redraw(command.run, command.scale, command.layout)
    return {}


def _say(*messages: object, code: int = 2) -> int:
    """Say what is wrong, a line each; the exit code."""
    for message in messages:
        print(f"a2mim: {printable(str(message))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
