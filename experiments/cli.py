"""The ``a2mim`` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.configs.demo import DemoConfig
from experiments.configs.interactions import InteractionsConfig


@dataclass(frozen=True)
class Figures:
    """Draw the figures and the report of a finished run again, from its tables."""

    run: tyro.conf.Positional[Path] = Path("results/demo")
    """The run folder."""


@dataclass(frozen=True)
class Bench:
    """Compare the toolkit with bare models and with the published design; writes results/bench/."""

    out: Path = Path("results/bench")
    """Where the table goes."""
    repeats: int = 5
    """Runs of each side where time or memory is measured; medians are reported."""
    rows: tuple[str, ...] = ()
    """Beginnings of names of rows to run, such as interactions/forwards; all rows if left out."""


Command = (
    Annotated[
        DemoConfig,
        tyro.conf.subcommand(
            "demo", description="Pretrain, train, measure and draw, on real images, in minutes."
        ),
    ]
    | Annotated[
        InteractionsConfig,
        tyro.conf.subcommand(
            "interactions",
            description="Interaction strength over orders of timm classifiers, on your images.",
        ),
    ]
    | Annotated[Figures, tyro.conf.subcommand("figures")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exit code 0 when done, 2 for bad input, 130 when interrupted."""
    command = tyro.cli(Command, args=arguments, prog="a2mim", description=__doc__)
    from a2mim.data import DataError
    from experiments.runs import UsageError

    try:
        _run(command)
    except (DataError, UsageError) as error:
        sys.exit(_say(f"a2mim: {error}", 2))
    except KeyboardInterrupt:
        sys.exit(_say("\na2mim: interrupted; run the same command again to go on", 130))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _run(command: DemoConfig | InteractionsConfig | Figures | Bench) -> None:
    if isinstance(command, DemoConfig):
        from experiments.demo import demo

        demo(command)
    elif isinstance(command, InteractionsConfig):
        from experiments.interaction_curves import interaction_curves

        interaction_curves(command)
    elif isinstance(command, Figures):
        from experiments.report import redraw

        redraw(command.run)
    else:
        from experiments.bench import bench

        bench(command.out, command.repeats, command.rows)


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
