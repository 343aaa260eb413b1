"""``python -m experiments.bench``: the toolkit against bare models and the published design."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from a2mim.messages import UsageError
from experiments.bench.table import MINUTES, bench


@dataclass(frozen=True)
class Bench:
    """Compare the toolkit with bare models and with the published design; writes results/bench/."""

    out: Path = Path("results/bench")
    """Folder of the table."""
    repeats: int | None = None
    """Runs of each side where time or memory is measured; medians are reported. None: 5, and 3 on a
    GPU."""
    rows: tuple[str, ...] = ()
    """Beginnings of names of rows to run, such as interactions/forwards; all rows if left out."""
    minutes: float = MINUTES
    """What may be spent on a GPU; rows that might take longer are left out, and named."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; exit code 2 for bad input."""
    command = tyro.cli(Bench, args=arguments, prog="python -m experiments.bench")
    try:
        bench(command.out, command.repeats, command.rows, command.minutes)
    except UsageError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
