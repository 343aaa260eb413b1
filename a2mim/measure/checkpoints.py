"""The checkpoints of a run: what folders and patterns stand for, how files are told apart.

Those that cannot be used are left out while the others are measured. They are named where it
happens, in the run (``doubts`` of ``config.json``, and ``left_out.json``, name -> reason), on the
page of ``compare``, and by the exit code. A run that goes on tries them once more, and says so.
"""

from __future__ import annotations

import glob
import json
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import timm

from a2mim.checkpoints.custom import IN_MEMORY
from a2mim.checkpoints.files import one_line
from a2mim.checkpoints.folders import SUFFIXES, files_in, is_network, natural
from a2mim.checkpoints.load import HUB
from a2mim.data.folders import DataError
from a2mim.files import write_whole
from a2mim.measure.networks import name_of, parts_of, without_path
from a2mim.messages import UsageError, printable
from a2mim.processes import is_sharing, process_rank
from a2mim.settings.weights import WeightsConfig

C = TypeVar("C", bound=Any)
T = TypeVar("T")

FILE = "left_out.json"
"""Which checkpoints a run left out: name -> reason."""

KNOWN = (UsageError, ValueError, RuntimeError, ArithmeticError)
"""Errors of a network that is measured; others count if they are raised in somebody else's code."""

NETWORKS = ("/torch/nn/", "/timm/", "/torchvision/models/")
"""Where the code of networks is."""


def with_all(config: C) -> C:
    """Settings with every checkpoint that folders and patterns stand for.

    A folder that is not of one network stands for the files in it, a pattern (``runs/*/*.pth``)
    for the files and runs that match, both in natural order, and ``NETWORK=FOLDER`` for each of
    them as that network. Settings of a folder or a pattern are those of all its files. Files of one
    name are called by the shortest end of their path that tells them apart.

    Args:
        config: settings of a command, with ``checkpoints`` and ``weights``.

    Raises:
        UsageError: if nothing matches a pattern.
    """
    meant = {name: listed(name) for name in config.checkpoints}
    checkpoints = tuple(one for name in config.checkpoints for one in meant[name])
    weights = config.weights
    per_network = tuple(
        (name, *words)
        for first, *words in filter(None, weights.per_network)
        for name in meant.get(first, [first])
    )
    apart = weights.apart or tuple(told_apart(checkpoints).items())
    weights = replace(weights, per_network=per_network, apart=apart)
    return replace(config, checkpoints=checkpoints, weights=weights)


def listed(name: str) -> list[str]:
    """The checkpoints that a name stands for: itself, or those of a folder or pattern.

    Raises:
        UsageError: if nothing matches a pattern.
    """
    where = parts_of(name)[1]
    start = name.removesuffix(where)
    path = Path(where)
    if timm.is_model(where) or where.startswith((HUB, IN_MEMORY)):
        return [name]
    if path.is_dir():
        return [f"{start}{file}" for file in files_in(path)] or [name]
    if path.exists() or not glob.has_magic(where):
        return [name]
    matches = sorted(map(Path, glob.glob(where, recursive=True)), key=Path.is_symlink)
    found: dict[Path, Path] = {}  # what links lead to is there once
    for match in matches:
        inside = files_in(match) if match.is_dir() else []
        if inside or (match.is_file() and match.name.endswith(SUFFIXES)) or is_network(match):
            for file in inside or [match]:
                found.setdefault(file.resolve(), file)
    if not found:
        raise UsageError(f"expected files of weights that match {where}, found none")
    return [f"{start}{file}" for file in sorted(found.values(), key=natural)]


def told_apart(checkpoints: Sequence[str]) -> dict[str, str]:
    """What files are called that have one name: checkpoint -> the shortest end of its path.

    Each end is that of no other of the files. Files of names that no other has are not in it.
    """
    paths: dict[str, Path] = {}
    for name in checkpoints:
        where = parts_of(name)[1]
        if not timm.is_model(where) and Path(where).exists():
            paths[name] = Path(where)
    called = {name: name_of(path) for name, path in paths.items()}
    ends = {
        name: [
            "/".join(end)
            for end in accumulate(
                ((part,) for part in reversed(Path(os.path.abspath(path)).parts)),
                lambda behind, part: part + behind,
            )
        ]
        for name, path in paths.items()
    }
    apart = {}
    for name, path in paths.items():
        others = [
            other
            for other in paths
            if called[other] == called[name] and paths[other].resolve() != path.resolve()
        ]
        if others:
            taken = {end for other in others for end in ends[other]}
            apart[name] = next(end for end in ends[name] if end not in taken)
    return apart


class LeftOut:
    """The checkpoints of a run, and which of them cannot be used.

    Args:
        checkpoints: their names. What is wrong with a single one is raised.
        weights: how weights become a network, with what files of one name are called.

    Attributes:
        reasons: of those that are left out: name -> why.
    """

    def __init__(self, checkpoints: Sequence[str], weights: WeightsConfig) -> None:
        self.reasons: dict[str, str] = {}
        self._all = list(checkpoints)
        self._apart = dict(weights.apart)
        self._raises = len(self._all) < 2
        self._before: dict[str, str] = {}
        self._first = ""
        self._work: Path | None = None

    def each(self, work: Callable[[str], T]) -> list[T]:
        """What a function gives for the checkpoints that are left, in order.

        Those that it fails for are left out, with a line of why.

        Raises:
            UsageError: if none is left.
        """
        results = []
        for name in self.rest():
            with self._if_it_fails(name):
                results.append(work(name))
        self.rest()
        return results

    def rest(self) -> tuple[str, ...]:
        """Those that are left.

        Raises:
            UsageError: if none is.
        """
        left = tuple(name for name in self._all if name not in self.reasons)
        if not left and self._all:
            if len(set(self.reasons.values())) == 1:
                raise UsageError(self._first)
            raise UsageError(
                f"expected a checkpoint that can be used, got {len(self._all)} that cannot: "
                + "; ".join(f"{printable(name)}: {self.reasons[name]}" for name in self._all[:3])
            )
        return left

    def go_on(self, work: Path) -> None:
        """From here on things are measured in a work folder; what failed there is tried once more.

        Where several processes share the work, all end with the first that fails.
        """
        self._raises = self._raises or process_rank()[1] > 1
        self._work, self._before = work, left_out_of(work)

    def keep(self, work: Path) -> None:
        """Note in the folder of a run who was left out of it."""
        if self.reasons:
            write_whole(work / FILE, json.dumps(self.named(), indent=2) + "\n")
        else:
            (work / FILE).unlink(missing_ok=True)

    def sentences(self) -> list[str]:
        """Who was left out and why, without paths of this machine."""
        return [f"Left out: {name}: {reason}." for name, reason in self.named().items()]

    def named(self) -> dict[str, str]:
        """The reasons, without paths of this machine."""
        reasons = {}
        for name, reason in self.reasons.items():
            where = parts_of(name)[1]
            reasons[self.called(name)] = reason.replace(where, without_path(where))
        return reasons

    def decides(self) -> dict[str, Any]:
        """What of it is part of the settings that a run is named by."""
        return {"left_out": self.named()} if self.reasons else {}

    def called(self, name: str) -> str:
        """What a checkpoint is called where its path is not."""
        return self._apart.get(name) or without_path(name).removeprefix(IN_MEMORY)

    @contextmanager
    def _if_it_fails(self, name: str) -> Iterator[None]:
        own = self.called(name)
        if own in self._before:
            print(f"{own} failed before ({self._before[own]}): it is tried once more")
        try:
            yield
        except Exception as error:
            # Another process may have measured the same network: all end, with this error.
            if self._raises or is_sharing() or not is_of_network(error):
                raise
            reason = str(error) if isinstance(error, UsageError) else one_line(error)
            self._first = self._first or reason
            self.reasons[name] = printable(reason.removeprefix(f"{name}: "))
            if self._work is not None:
                self.keep(self._work)
            print(f"left out: {printable(name)}: {self.reasons[name]}")


def is_of_network(error: Exception) -> bool:
    """Whether an error is one of the network that was measured, and not of images or of ours."""
    if isinstance(error, DataError):
        return False
    if isinstance(error, KNOWN):
        return True
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    root = Path(__file__).parents[2]
    ours = "".join(files[-1:]).startswith((f"{root / 'a2mim'}/", f"{root / 'interactions'}/"))
    return not ours and any(part in file for file in files for part in NETWORKS)


def left_out_of(folder: Path) -> dict[str, str]:
    """Who was left out of a run: name -> why."""
    path = folder / FILE
    return json.loads(path.read_text()) if path.is_file() else {}
