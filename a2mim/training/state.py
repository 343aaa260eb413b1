"""Checkpoints to go on from: everything a run needs after it was killed.

One safetensors file per checkpoint, ``step-000000120.safetensors``: tensors under
``<part>/<name>``, and in its header, as JSON, everything that is not a tensor. Nothing is pickled.
A file is complete or not there (:mod:`a2mim.files`); older ones are removed only after that.

Tensors that are spread over processes (:mod:`a2mim.training.sharding`) are gathered to be written,
and dealt out when they are read: a checkpoint does not tell how many processes wrote it.

(The weights for other programs are those of :mod:`a2mim.checkpoints.save`.)
"""

from __future__ import annotations

import json
import re
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from a2mim.files import left_over, whole
from a2mim.training import sharding
from a2mim.training.sharding import placed

VERSION = 1
CHECKPOINT = r"step-(\d+)\.safetensors"
"""Names of checkpoints."""
_OPTIMISER = "optimiser"
IMPLEMENTATION = ("foreach", "fused", "capturable")
"""Options of an optimiser that say how it computes, not what: a run may go on with others."""


class CheckpointError(Exception):
    """A checkpoint that cannot be written or used; the message says what to do."""


class DamagedCheckpoint(CheckpointError):
    """A file that is not a complete checkpoint."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        path: its file.
        step: how many steps were done.
        settings: what decides the result of the run, as JSON gives it back.
        scalars: what else was saved with it.
        tensors: ``<part>/<name>`` -> tensor on the CPU.
        optimiser: the part of the optimiser's state that is not tensors.
    """

    path: Path
    step: int
    settings: dict[str, Any]
    scalars: dict[str, Any]
    tensors: dict[str, Tensor]
    optimiser: dict[str, Any]


def prepare_folder(folder: Path) -> None:
    """Make a folder for checkpoints and try whether it can be written.

    Raises:
        CheckpointError: if not: at the start of a run, and not when the first hour is lost.
    """
    try:
        _sweep(folder)
        with whole(folder / "test") as test:
            test.touch()
        (folder / "test").unlink()
    except OSError as error:
        raise CheckpointError(
            f"expected a folder that can be written, got {folder}: {_reason(error)}; choose another"
        ) from error


def whole_tensors(modules: Mapping[str, nn.Module], keep: bool = True) -> dict[str, Tensor]:
    """Copies of all parameters and buffers on the CPU, named as in a checkpoint.

    If tensors are sharded, all processes call this.

    Args:
        modules: part name -> module.
        keep: whether this process keeps them, or only takes part in gathering what is sharded.

    Returns:
        ``<part>/<name>`` -> tensor.
    """
    return _copies(_named(modules), keep)


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    modules: Mapping[str, nn.Module],
    optimiser: Optimizer,
    settings: Mapping[str, object],
    scalars: Mapping[str, object] | None = None,
    keep: int = 2,
    write: bool = True,
) -> Path:
    """Write a checkpoint, whole or not at all; then remove all but the last ones.

    If tensors are sharded, all processes call this, and one of them writes.

    Args:
        folder: of the checkpoints of one run; made if it is not there.
        step: how many steps are done.
        modules: part name -> module, all of whose parameters and buffers are saved.
        optimiser: its state tensors are saved by parameter index, the rest as JSON.
        settings: everything that decides the result; what JSON does not know becomes text.
        scalars: more to save, in JSON.
        keep: checkpoints that stay, this one among them. Those of later steps never do: a run that
            is at this step again has found them unusable.
        write: whether this process writes, or only takes part in gathering what is sharded.

    Returns:
        The new file.

    Raises:
        CheckpointError: if it cannot be written. Earlier checkpoints are left as they are.
        TypeError: if the optimiser keeps something that is neither tensor nor JSON.
        ValueError: if ``keep`` is not positive.
    """
    if keep < 1:
        raise ValueError(f"expected to keep at least 1 checkpoint, got {keep}")
    tensors, rest = _pack(optimiser)
    copies = _copies(tensors | _named(modules), write)
    path = folder / f"step-{step:09d}.safetensors"
    if not write:
        return path
    header = {
        "version": VERSION,
        "step": step,
        "settings": _as_json(settings),
        "scalars": dict(scalars or {}),
        "optimiser": rest,
    }
    text = json.dumps(header)
    metadata = {"a2mim": text, "crc32": f"{_checksum(text, copies)}"}
    try:
        _sweep(folder)
        _write(copies, metadata, path)
    except (OSError, SafetensorError) as error:
        last = latest(folder)
        raise CheckpointError(
            f"cannot save step {step} to {folder}: {_reason(error)}; "
            + (f"the last good checkpoint is {last.name}" if last else "there is no earlier one")
            + "; make room or rights and start again"
            + (" to go on from there" if last else "")
        ) from error
    older = [other for other in _files(folder) if other.name < path.name]
    later = [other for other in _files(folder) if other.name > path.name]
    for file in older[: max(0, len(older) - keep + 1)] + later:
        file.unlink(missing_ok=True)
    return path


def latest(folder: Path) -> Path | None:
    """The checkpoint of the latest step, unread; None if there is none."""
    files = _files(folder)
    return files[-1] if files else None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and compare its checksum.

    Raises:
        DamagedCheckpoint: if it is not a complete checkpoint.
        CheckpointError: if another version of this code wrote it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            header = json.loads(metadata["a2mim"])
            if header["version"] != VERSION:
                raise CheckpointError(
                    f"expected a checkpoint of version {VERSION}, {path} has {header['version']}; "
                    "use the code that wrote it, or start again in another folder"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = Checkpoint(
            path,
            header["step"],
            header["settings"],
            header["scalars"],
            tensors,
            header["optimiser"],
        )
        complete = f"{_checksum(metadata['a2mim'], tensors)}" == metadata["crc32"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error) or type(error).__name__
        raise DamagedCheckpoint(f"expected a checkpoint, cannot read {path}: {reason}") from error
    if not complete:
        raise DamagedCheckpoint(f"expected a checkpoint, the checksum of {path} does not match")
    return found


def load_latest(folder: Path, settings: Mapping[str, object]) -> Checkpoint | None:
    """The latest checkpoint that can be read; None if there is none.

    Args:
        folder: of the checkpoints of one run.
        settings: those of the run that wants to go on.

    Warns:
        RuntimeWarning: for every damaged file that is passed over.

    Raises:
        CheckpointError: if all are damaged, or the run that wrote them had other settings.
    """
    files = _files(folder)
    for path in reversed(files):
        try:
            found = load_checkpoint(path)
        except DamagedCheckpoint as error:
            warnings.warn(f"{error}; going on from the one before", RuntimeWarning, stacklevel=2)
            continue
        different = _differences(found.settings, _as_json(settings))
        if different:
            raise CheckpointError(
                f"expected a run with the settings of {path}, got another one: "
                f"{'; '.join(different)}; use the same settings or another folder"
            )
        return found
    if files:
        raise CheckpointError(
            f"expected a checkpoint that can be read in {folder}, all {len(files)} are damaged; "
            "remove them to start again"
        )
    return None


def restore(checkpoint: Checkpoint, modules: Mapping[str, nn.Module], optimiser: Optimizer) -> None:
    """Put a checkpoint into modules and the optimiser, in place, on whatever device they are.

    Args:
        checkpoint: what was loaded.
        modules: as they were saved: the same parts, names and shapes.
        optimiser: as it was saved: the same parameters in the same order.

    Raises:
        CheckpointError: if anything is missing, left over or of another shape; then nothing is
            changed.
    """
    saved = {part: _part(checkpoint.tensors, part) for part in modules}
    for part, module in modules.items():
        own = module.state_dict()
        for name in sorted(own.keys() | saved[part].keys()):
            here, there = (_shape(state.get(name)) for state in (own, saved[part]))
            if here != there:
                raise CheckpointError(
                    f"expected the {part} of {checkpoint.path}, got another one: "
                    f"{name} is {there} there and {here} here"
                )
    try:
        optimiser.load_state_dict(_unpack(checkpoint, optimiser))
    except (ValueError, KeyError, IndexError) as error:
        raise CheckpointError(
            f"expected the optimiser of {checkpoint.path}, got another one: {error}"
        ) from error
    for part, module in modules.items():
        own = module.state_dict()
        module.load_state_dict({name: placed(saved[part][name], own[name]) for name in own})


def _files(folder: Path) -> list[Path]:
    """Checkpoints by step."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if re.fullmatch(CHECKPOINT, path.name)]
    return sorted(found, key=lambda path: path.name)


def _sweep(folder: Path) -> None:
    """A folder without what killed processes left there, which is of no use and fills the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (*left_over(folder), *folder.glob(".tmp*")):  # save_file's own begin with .tmp
        path.unlink(missing_ok=True)


def _write(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    with whole(path, sync=True) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(tensors, partial, metadata)
        partial.chmod(mode)  # save_file shuts out everybody else


def _named(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{part}/{name}": value
        for part, module in modules.items()
        for name, value in module.state_dict().items()
    }


def _copies(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    copies = {}
    for name, tensor in tensors.items():
        gathered = _whole(tensor)
        if keep:
            copies[name] = _copied(gathered)
    return copies


def _whole(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"expected only tensors in a module's state, got {type(tensor).__name__}")
    return sharding.whole(tensor.detach())


def _copied(tensor: Tensor) -> Tensor:
    """On the CPU and contiguous, with memory of its own: tied weights are two tensors here."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype)
    return copy.copy_(tensor)


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> int:
    checksum = zlib.crc32(text.encode())
    for name in sorted(tensors):
        checksum = zlib.crc32(name.encode(), checksum)
        flat = tensors[name].reshape(-1).view(torch.uint8)
        checksum = zlib.crc32(flat.numpy().data, checksum)
    return checksum


def _pack(optimiser: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state: tensors by name, and the rest for JSON."""
    state = optimiser.state_dict()
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    entries = {f"state/{index}": values for index, values in state["state"].items()}
    entries |= {f"group/{index}": values for index, values in enumerate(state["param_groups"])}
    for owner, values in entries.items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMISER}/{owner}/{name}"] = value
            elif _is_json(value):
                rest[f"{owner}/{name}"] = value
            else:
                raise TypeError(
                    f"expected tensors, numbers and text in the state of an optimiser, "
                    f"{type(optimiser).__name__} keeps a {type(value).__name__} as {name}"
                )
    return tensors, rest


def _unpack(checkpoint: Checkpoint, optimiser: Optimizer) -> dict[str, Any]:
    """The inverse of :func:`_pack`, for an optimiser of the same kind."""
    own = optimiser.state_dict()
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    saved: dict[str, Any] = {**checkpoint.optimiser, **_part(checkpoint.tensors, _OPTIMISER)}
    groups = [dict(group) for group in own["param_groups"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in saved.items():
        owner, index, name = key.split("/", 2)
        if owner == "group":
            if name in IMPLEMENTATION:
                continue
            before = groups[int(index)].get(name)
            groups[int(index)][name] = tuple(value) if isinstance(before, tuple) else value
        else:
            state.setdefault(int(index), {})[name] = _laid_out(value, parameters[int(index)])
    return {"state": state, "param_groups": groups}


def _laid_out(value: Any, parameter: Tensor) -> Any:
    """A moment in the memory order of its parameter: others take a slow path from then on."""
    if isinstance(parameter, DTensor):
        return placed(value, parameter)
    if isinstance(value, Tensor) and value.ndim == 4 and value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    return value


def _part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    prefix = f"{part}/"
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _shape(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{tuple(tensor.shape)}"


def _is_json(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_json(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _as_json(settings: Mapping[str, object]) -> dict[str, Any]:
    """Settings as a file gives them back: tuples are lists there, and paths text."""
    return json.loads(json.dumps(dict(settings), default=str))


def _differences(there: object, here: object, name: str = "") -> list[str]:
    """What differs between two settings, each as ``name: value there, value here``."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = list(dict.fromkeys([*there, *here]))
        pairs = [(there.get(k, "nothing"), here.get(k, "nothing"), k) for k in keys]
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = [(a, b, str(k)) for k, (a, b) in enumerate(zip(there, here, strict=True))]
    elif there == here:
        return []
    else:
        return [f"{name}: {there} there, {here} here"]
    dot = f"{name}." if name else ""
    return [line for a, b, k in pairs for line in _differences(a, b, f"{dot}{k}")]


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
