"""How far a run is: a bar in a terminal, and a line now and then where there is none.

A line, too, of what a run works with, printed before it starts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from a2mim.messages import printable
from a2mim.processes import is_first

if TYPE_CHECKING:
    from torch import Tensor, nn

EVERY = 30.0
"""Seconds between lines, and before the first."""


class Lines(tqdm):
    """A line every :data:`EVERY` seconds, and one at the end if there was any."""

    disable: bool

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.last = time.monotonic()
        self.lines = 0
        super().__init__(*arguments, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Called whenever a bar would be drawn again."""
        if time.monotonic() - self.last >= EVERY:
            self._write()

    def close(self) -> None:
        """End it; what is done by then is said."""
        if self.disable:
            return
        if self.lines:
            self._write()
        self.disable = True
        self._decr_instances(self)

    def _write(self) -> None:
        self.last = time.monotonic()
        self.lines += 1
        of = self.format_dict
        size = self.format_sizeof if of["unit_scale"] else str
        text = f"{self.desc.removesuffix(': ')}: {size(self.n)}"
        if self.total:
            text += f" of {size(self.total)}{of['unit']} ({100 * self.n / self.total:.0f} %)"
        done = self.n - self.initial
        if done and self.total and self.n < self.total:
            left = of["elapsed"] / done * (self.total - self.n)
            text += f", {self.format_interval(left)} left"
        text += f", {of['postfix']}" if of["postfix"] else ""
        print(text, file=self.fp, flush=True)


def progress(title: str, total: int | None, unit: str, **options: Any) -> tqdm:
    """A bar, or lines; of several processes the first one shows its own.

    Args:
        title: of what.
        total: how many there will be, if that is known.
        unit: what is counted.
        options: of ``tqdm``, such as ``initial`` or ``delay``.
    """
    silent = sys.stderr is None or not is_first()
    shape = tqdm if not silent and sys.stderr.isatty() else Lines
    return shape(desc=printable(title), total=total, unit=f" {unit}", disable=silent, **options)


@contextmanager
def forwards(title: str, total: int, modules: Sequence[nn.Module]) -> Iterator[tqdm]:
    """Images through modules, counted as they go.

    Args:
        title: of what.
        total: how many there will be.
        modules: networks, or parts of them that every forward goes through once.
    """

    def count(_module: nn.Module, inputs: tuple[Tensor, ...], _outputs: object) -> None:
        bar.update(len(inputs[0]))

    with progress(title, total, "forwards", unit_scale=True) as bar:
        handles = [module.register_forward_hook(count) for module in modules]
        try:
            yield bar
        finally:
            for handle in handles:
                handle.remove()


def worked_with(device: str, precision: str, parameters: Iterable[int]) -> str:
    """The end of a line on what a run works with: device, arithmetic, parameters of networks.

    Args:
        device: cpu or cuda.
        precision: of the networks.
        parameters: of each network.
    """
    name = device
    if device == "cuda":
        import torch

        name = f"cuda ({torch.cuda.get_device_name()})"
    sizes = ", ".join(f"{count / 1e6:.3g} M" for count in parameters)
    return f"on {name} in {precision}, {sizes} parameters"
