"""From the tensors of a file to tensors by timm names: one of two sets, unwrapped and renamed.

    names of the file --wrappers--> one set (plain or averaged) --layout, dialect--> timm's names

Every tensor of the file is in the result under one name, or dropped for a reason that is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from a2mim.checkpoints.files import AVERAGES, StateFile, Variant, WeightsError, first_names
from a2mim.checkpoints.layouts import DIALECTS, LAYOUTS, PLAIN, Dialect, Layout

_PREFIXES = ("module.", "model.")
_WRAPPED = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_fpw_module|_checkpoint_wrapped_module)\."
)
"""What compiling, sharding and checkpointing put into names, at any depth."""

_ROOTS = (
    *("patch_embed.proj.weight", "patch_embed.projection.weight", "conv_proj.weight"),
    *("layer1.0.conv1.weight", "stem.0.weight", "conv_stem.weight", "_conv_stem.weight"),
    *("features.0.0.weight", "downsample_layers.0.0.weight", "visual.conv1.weight"),
    *("embeddings.patch_embeddings.projection.weight", "embeddings.patch_embeddings.weight"),
)
"""Names that stand at the root of a network."""

_AVERAGED = re.compile(
    r"(?<![a-z])(ema|teacher|momentum|target|averaged?|swa|shadow)(?![a-z])", re.I
)
BESIDE = "beside the network, under other names"
AVERAGED_BESIDE = "averaged weights beside the network, taken with ema='ema'"
_NOT_AVERAGED = (
    "running_mean",
    "running_var",
    "num_batches_tracked",
    "relative_position_index",
)

OTHER_SET = "the other set of weights"

Entries = dict[str, tuple[str, Tensor]]
"""Name in the model -> (name in the file, values)."""


@dataclass(frozen=True)
class Renamed:
    """The tensors of a file by timm names.

    Attributes:
        layout: as which it was read.
        dialect: whose module names it had.
        tensors: timm name -> (name in the file, values).
        dropped: name in the file -> why it is not needed.
        note: what to mind when weights without a classifier are used.
    """

    layout: Layout
    dialect: str
    tensors: Entries
    dropped: dict[str, str]
    note: str | None = None


def rename(file: StateFile, ema: Variant = "plain", layout: str | None = None) -> Renamed:
    """The backbone and classifier of a file, by timm names.

    Args:
        file: what was read.
        ema: which of two sets of weights, where OpenMixup saved both.
        layout: name of a row of ``LAYOUTS``; recognised if None.

    Raises:
        WeightsError: if two tensors would have one name, a set is not complete, or there is no
            backbone or no such layout.
    """
    inside, beside, averaged = _network(without_common_prefix(file.tensors), ema, layout, file)
    entries, dropped = _variant(inside, "plain" if averaged else ema, file)
    dropped |= beside
    chosen = _layout(layout, {key: tensor for key, (_, tensor) in entries.items()}, file.arch)
    tensors, dialect, more = _renamed(entries, chosen, file.path)
    return Renamed(chosen, dialect.name, tensors, dropped | more, dialect.note)


def without_common_prefix(tensors: Mapping[str, Tensor]) -> Entries:
    """Names without what wrappers put into them, or before all of them."""
    entries = {_WRAPPED.sub("", name): (name, tensor) for name, tensor in tensors.items()}
    if len(entries) != len(tensors):
        raise WeightsError("expected other names without the prefixes of wrappers, got one twice")
    while entries and (
        prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in entries)), None)
    ):
        entries = {key.removeprefix(prefix): entry for key, entry in entries.items()}
    return entries


def _network(
    entries: Entries, ema: Variant, layout: str | None, file: StateFile
) -> tuple[Entries, dict[str, str], bool]:
    """The tensors of one network without what stands before them, and what is dropped beside it.

    Lightning, ``AveragedModel`` and one's own trainers keep losses, counters and other networks
    beside it. Files of a known layout stay as they are.

    Returns:
        The tensors, what is dropped, and whether these are averages.
    """
    state = {key: tensor for key, (_, tensor) in entries.items()}
    if layout is not None or not _is_generic(state, file.arch):
        return entries, {}, False
    found = {
        key.removesuffix(root)
        for key in entries
        for root in _ROOTS
        if key == root or key.endswith(f".{root}")
    }
    if not found or "" in found:
        return entries, {}, False
    averages = {prefix for prefix in found if _AVERAGED.search(prefix)}
    wanted = found
    if averages and averages != found:
        wanted = averages if ema == "ema" else found - averages
    if len(wanted) > 1:
        raise WeightsError(
            f"expected one network, {file.path} has {len(wanted)}, whose names begin with "
            f"{first_names(sorted(wanted))}; save the one that is meant alone"
        )
    (whole,) = wanted
    parts = [whole[: k + 1] for k, letter in enumerate(whole) if letter == "."]
    for prefix in parts:  # a layout may begin before the network itself
        inside = {k.removeprefix(prefix): v for k, v in entries.items() if k.startswith(prefix)}
        known = not _is_generic({key: tensor for key, (_, tensor) in inside.items()}, file.arch)
        if known or prefix == whole:
            others = tuple(averages - wanted)
            beside = {
                v[0]: AVERAGED_BESIDE if others and k.startswith(others) else BESIDE
                for k, v in entries.items()
                if not k.startswith(prefix)
            }
            return inside, beside, ema == "ema" and wanted == averages
    raise AssertionError("unreachable")


def _is_generic(state: Mapping[str, Tensor], arch: str | None) -> bool:
    """Whether no layout but the last, timm's own, knows these names."""
    return _layout(None, state, arch).name == LAYOUTS[-1].name


def _variant(entries: Entries, ema: Variant, file: StateFile) -> tuple[Entries, dict[str, str]]:
    """One of the two sets of weights that OpenMixup saves; what is dropped of the other.

    Its averages are called ``ema_`` + name with dots replaced by underscores.
    """
    twins = {f"ema_{key.replace('.', '_')}": key for key in entries if not _is_twin(key)}
    found = [key for key in entries if _is_twin(key)]
    unknown = [entries[key][0] for key in found if key not in twins]
    if unknown or (found and len(twins) + len(found) != len(entries)):
        raise WeightsError(
            f"expected every ema_* tensor to belong to one other, {file.path} has "
            f"{first_names(unknown) or 'names that do not tell which'}"
        )
    if ema == "plain":
        reason = f"{OTHER_SET}, taken with ema='ema'"
        kept = {key: entry for key, entry in entries.items() if not _is_twin(key)}
        return kept, {entries[key][0]: reason for key in found}
    if not found and not set(file.wrapper) & set(AVERAGES):
        raise WeightsError(f"expected averaged weights beside the others, {file.path} has none")
    kept, dropped = {}, {}
    for twin, key in twins.items():
        if twin in entries:
            kept[key] = entries[twin]
            dropped[entries[key][0]] = f"{OTHER_SET}, taken with ema='plain'"
        elif not found or key.endswith(_NOT_AVERAGED):
            kept[key] = entries[key]
        else:
            raise WeightsError(f"expected an average of {key}, {file.path} has none")
    return kept, dropped


def _is_twin(key: str) -> bool:
    return key.startswith("ema_")


def _layout(name: str | None, state: Mapping[str, Tensor], arch: str | None) -> Layout:
    if name is None:
        return next(row for row in LAYOUTS if row.tell(state, arch))
    for row in LAYOUTS:
        if row.name == name:
            return row
    names = ", ".join(row.name for row in LAYOUTS)
    raise WeightsError(f"expected a layout out of {names}, got {name!r}")


def _renamed(
    entries: Entries, layout: Layout, path: Path
) -> tuple[Entries, Dialect, dict[str, str]]:
    """Tensors by timm names, the dialect that they were in, and what is dropped."""
    dropped: dict[str, str] = {}
    bare: Entries = {}
    for key, entry in entries.items():
        reason = _first(layout.drops, key)
        if reason is None:
            _put(bare, re.sub(f"^(?:{layout.prefix})", "", key), entry, path)
        else:
            dropped[entry[0]] = reason
    if not bare:
        raise WeightsError(f"expected weights of a backbone, {path} ({layout.name}) has none")
    dialect = next((row for row in DIALECTS if any(re.fullmatch(row.tell, k) for k in bare)), PLAIN)
    renamed: Entries = {}
    for key, (origin, tensor) in bare.items():
        reason = _first(dialect.drops, key)
        if reason is not None:
            dropped[origin] = reason
            continue
        row = next((row for row in dialect.renames if re.match(row.pattern, key)), None)
        if row is not None:
            key = re.sub(f"^(?:{row.pattern})", row.becomes, key)
            if row.change is not None:
                tensor = _changed(row.change, origin, tensor, path)
        _put(renamed, key, (origin, tensor), path)
    renamed = _merged(renamed, path)
    if dialect.settle is not None:
        renamed = _settled(dialect.settle, renamed, path)
    return renamed, dialect, dropped


def _merged(entries: Entries, path: Path) -> Entries:
    """Queries, keys and values as one tensor each."""
    merged: Entries = {}
    parts: dict[str, dict[int, tuple[str, Tensor]]] = {}
    for key, entry in entries.items():
        name, mark, number = key.partition("#")
        if mark:
            parts.setdefault(name, {})[int(number)] = entry
        else:
            merged[key] = entry
    for name, of in parts.items():
        tensors = [of[k][1] for k in sorted(of)]
        if sorted(of) != [0, 1, 2] or len({tensor.shape for tensor in tensors}) > 1:
            shapes = ", ".join(f"{origin} {tuple(tensor.shape)}" for origin, tensor in of.values())
            raise WeightsError(
                f"expected queries, keys and values of one shape for {name}, {path} has {shapes}"
            )
        _put(merged, name, (", ".join(of[k][0] for k in range(3)), torch.cat(tensors)), path)
    return merged


def _settled(
    settle: Callable[[dict[str, Tensor]], dict[str, Tensor]], entries: Entries, path: Path
) -> Entries:
    origins = {key: origin for key, (origin, _) in entries.items()}
    renamed = {id(tensor): origin for origin, tensor in entries.values()}
    try:
        state = settle({key: tensor for key, (_, tensor) in entries.items()})
    except (RuntimeError, ValueError, IndexError) as error:
        raise WeightsError(f"expected other shapes in {path}: {error}") from error
    lost = sorted(origins.keys() - state.keys())  # each of them has become others
    return {
        key: (renamed.get(id(value)) or origins.get(key) or first_names(lost), value)
        for key, value in state.items()
    }


def _changed(change: Callable[[Tensor], Tensor], origin: str, tensor: Tensor, path: Path) -> Tensor:
    try:
        return change(tensor)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(
            f"expected another shape of {origin} in {path}, got {tuple(tensor.shape)}"
        ) from error


def _first(reasons: Mapping[str, str], key: str) -> str | None:
    return next((reason for pattern, reason in reasons.items() if re.match(pattern, key)), None)


def _put(entries: Entries, key: str, entry: tuple[str, Tensor], path: Path) -> None:
    if key in entries:
        raise WeightsError(
            f"expected one tensor for {key}, {path} has {entries[key][0]} and {entry[0]}"
        )
    entries[key] = entry
