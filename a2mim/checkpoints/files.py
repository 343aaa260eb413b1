"""Weights from files that others wrote: tensors by name, and nothing of the file is ever run.

Safetensors, or what ``torch.save`` wrote (.pth, .pt, .th, .bin, .tar, ...), read by
``torch.load(weights_only=True)``, which builds tensors and plain containers. Published files carry
more beside their weights (settings, numpy arrays and random states, the history of mmengine):
whatever else a file names is read as an inert placeholder. Its classes and functions are neither
imported nor called. Names that torch blocks (``os.system`` and the like) end the reading.

The content hash of weights is SHA-256 over, for each tensor by sorted name,

    name, NUL, dtype, NUL, shape, NUL, bytes (row-major)

without counters of batch norm, which change no output. It does not depend on the file format.
A second one is over contents alone: SHA-256 over the sorted SHA-256 of each tensor's values as
float32. It is the same where tensors have other names or other shapes of as many values.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from a2mim.messages import in_a_line

Variant = Literal["plain", "ema"]

AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "target_encoder")
"""Entries with an exponential moving average (timm, DeiT, ConvNeXt, mmengine, YOLO, I-JEPA)."""

WRAPPERS = (
    *("state_dict", "model", "model_state_dict", "model_state", "module", "net", "network"),
    *("teacher", "student", "encoder", "backbone", *AVERAGES),
)
"""Entries that hold the weights of a checkpoint; the first that is there is taken."""

SETTINGS = ("args", "config", "cfg", "hparams", "hyper_parameters")
"""Entries that hold the arguments of the program that wrote a checkpoint."""

INDEX = ".index.json"
"""How the names of files end that say which shard has which tensor."""

MOST_NAMES = 200
"""Names of classes and functions that a file may have beside its weights."""


class WeightsError(Exception):
    """Weights that cannot be read or used; one line that says what to do."""


class _Inert:
    """Stands for an object of a file that is not looked at."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _Settings(_Inert):
    """Stands for the arguments of a program, of which numbers and words are kept."""

    plain: dict[str, object]

    def __setstate__(self, state: object) -> None:
        self.plain = _plain(state)


def _empty_dict(*_: object) -> dict[Any, Any]:
    """Stands for a class of dicts: torch fills only its own kinds, and no others."""
    return {}


class _Dict:
    """Stands for a class of dicts: what is made of it is a plain one, of torch's own kinds."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return OrderedDict()


class _List:
    """Stands for a class of lists: what is made of it is a plain one."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return []


_PLACEHOLDERS: dict[str, Any] = {
    "yacs.config.CfgNode": OrderedDict,
    "collections.defaultdict": _empty_dict,
    "omegaconf.dictconfig.DictConfig": _Inert,
    "argparse.Namespace": type("Namespace", (_Settings,), {}),
}
"""Names of classes -> what is built instead; an inert object for every other."""


@dataclass(frozen=True)
class StateFile:
    """The weights of a file.

    Attributes:
        path: the file.
        tensors: by the names of the file.
        wrapper: the entries that led to them, e.g. ``("state_dict",)``.
        others: what else the file holds: entry -> what it is.
        arch: what the file calls its architecture, if it does.
        metadata: text in the header of a safetensors file.
        settings: numbers and words among the arguments of the program that wrote it.
    """

    path: Path
    tensors: dict[str, Tensor]
    wrapper: tuple[str, ...] = ()
    others: dict[str, str] = field(default_factory=dict)
    arch: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)


def read_state(path: Path, ema: Variant = "plain") -> StateFile:
    """The tensors of a weights file, on the CPU; nothing in it is run.

    Args:
        path: a safetensors file or one of ``torch.save``.
        ema: ``"ema"`` takes the entry with averaged weights, where a file has one beside its own.

    Raises:
        WeightsError: if the file is not there, damaged, something else, or holds more than weights.
    """
    if ema not in ("plain", "ema"):
        raise WeightsError(f"expected ema 'plain' or 'ema', got {ema!r}")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except FileNotFoundError as error:
        raise WeightsError(
            f"expected a weights file, {path} is missing{_elsewhere(path)}"
        ) from error
    except (OSError, ValueError) as error:  # the latter: a zero byte in the path
        raise WeightsError(
            f"expected a weights file, cannot open {path}: "
            f"{getattr(error, 'strerror', None) or error}"
        ) from error
    if not start:
        raise WeightsError(f"expected weights, {path} is empty; download or copy it again")
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise WeightsError(f"expected weights, {path} is a web page; download the file itself")
    if text.startswith(b"version https://git-lfs"):
        raise WeightsError(f"expected weights, {path} is a git-lfs pointer; run git lfs pull")
    if path.name.endswith(INDEX):
        return _sharded(path, ema)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return _read_safetensors(path)
    if what := _other_kind(path, start):
        raise WeightsError(f"expected weights (safetensors or torch.save), {path} is {what}")
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise WeightsError(f"expected weights, {path} is cut short; download or copy it again")
    return _unwrapped(path, _unpickled(path), ema)


def _elsewhere(path: Path) -> str:
    """What a path may mean that is no file here; empty if nothing."""
    if path.parts and path.parts[0].endswith(":") and len(path.parts[0]) > 2:
        return "; download what is at an address first"
    if len(path.parts) == 2 and not path.is_absolute() and not path.suffix[1:].isalpha():
        return f"; a repository of the hub is hf-hub:{path}"
    if path.parts and path.parts[0].startswith(("~", "$")):
        return "; the shell has not replaced its beginning"
    return ""


def _other_kind(path: Path, start: bytes) -> str:
    """What a file is that is neither of the formats, and what to do about it; empty if it may be.

    Args:
        path: the file.
        start: its first 512 bytes.
    """
    save = "read it where it was made, and save its tensors by the names of a torch network"
    kinds = {
        b"\x89HDF\r\n": f"HDF5, as Keras and TensorFlow write it; {save}",
        b"GGUF": f"a GGUF file, whose weights are quantised; {save}",
        b"\x93NUMPY": f"one numpy array; {save}",
        b"\x1f\x8b": "compressed by gzip; unpack it",
        b"BZh": "compressed by bzip2; unpack it",
        b"\xfd7zXZ": "compressed by xz; unpack it",
        b"7z\xbc\xaf": "an archive of 7-Zip; unpack it",
        b"Rar!": "a RAR archive; unpack it",
        b"\x89PNG": "a picture",
        b"\xff\xd8\xff": "a picture",
    }
    for mark, what in kinds.items():
        if start.startswith(mark):
            return what
    if path.suffix == ".onnx":
        return f"an ONNX graph; {save}"
    if start.lstrip()[:1] in (b"{", b"["):
        return f"JSON, and no *{INDEX} of shards; name the file of weights"
    if start.startswith(b"PK") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith(".npy") for name in names):
            return f"an archive of numpy arrays; {save}"
        if not any(name.endswith("data.pkl") for name in names):
            return f"a zip of {first_names(names)}; unpack it, or {save}"
    return ""


def _sharded(path: Path, ema: Variant) -> StateFile:
    """The tensors of all files that an index names, as transformers and accelerate write them.

    Raises:
        WeightsError: if a file is missing, or has not the tensors that the index says.
    """
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        wanted = {str(name): str(file) for name, file in parts.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"expected an index of shards in {path}, with a weight_map: {one_line(error)}"
        ) from error
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(wanted.values())):
        if Path(file).name != file:
            raise WeightsError(f"expected shards beside {path}, got {file}")
        shard = read_state(path.with_name(file), ema)
        lacking = [name for name, of in wanted.items() if of == file and name not in shard.tensors]
        if lacking:
            raise WeightsError(
                f"expected {first_names(lacking)} in {shard.path}, as {path.name} says, found none"
            )
        tensors |= {name: of for name, of in shard.tensors.items() if wanted.get(name) == file}
    if not tensors:
        raise WeightsError(f"expected weights, {path} names no tensors")
    return StateFile(path, tensors)


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights by name, as 64 hexadecimal digits; the module's docstring defines it."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if name.endswith("num_batches_tracked"):
            continue
        tensor = tensors[name].detach().cpu().contiguous()
        shape = "x".join(map(str, tensor.shape))
        digest.update(f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{shape}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def contents_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the values of weights whatever their names, as 64 hexadecimal digits."""
    digests = [
        hashlib.sha256(tensor.detach().cpu().float().contiguous().numpy().data).digest()
        for name, tensor in tensors.items()
        if not name.endswith("num_batches_tracked")
    ]
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def first_names(names: list[str], most: int = 3) -> str:
    """A few names and how many more there are, for a message of one line."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def one_line(error: BaseException) -> str:
    """What an exception says, at most 300 characters of it."""
    return in_a_line(error)[:300]


def _read_safetensors(path: Path) -> StateFile:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"expected safetensors weights, {path} is damaged or something else "
            f"({one_line(error)}); download or copy it again"
        ) from error
    if not tensors:
        raise WeightsError(f"expected weights, {path} holds no tensors")
    _check_floating(tensors, path)
    return StateFile(path, tensors, metadata=metadata)


def _unpickled(path: Path) -> Any:
    """The contents of a file of ``torch.save``; big ones stay on the disk until they are used."""
    zipped = zipfile.is_zipfile(path)
    if zipped:
        _check_zip(path)
    inert: dict[str, Any] = {}
    while True:
        try:
            with (
                warnings.catch_warnings(),
                torch.serialization.safe_globals([(of, name) for name, of in inert.items()]),
            ):
                warnings.simplefilter("ignore")  # remarks on old formats, which can be read
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except Exception as error:  # damaged files make the unpickler raise nearly anything
            filled = re.search(r"(append|extend|SETITEM).* <class 'inert\.(.+?)'>", str(error))
            if filled and issubclass(inert[filled[2]], _Inert):
                kind = _Dict if filled[1] == "SETITEM" else _List
                inert[filled[2]] = _named(filled[2], kind)
                continue
            found = re.search(r"GLOBAL\s+([\w.]+)", str(error))
            asked = found[1] if found else ""
            name = asked if "." in asked else f"builtins.{asked}"
            blocked = re.search(r"whose module [\w.]+ is blocked", str(error))
            if not asked or blocked or name in inert or len(inert) >= MOST_NAMES:
                raise _unreadable(path, error, asked) from error
            inert[name] = _PLACEHOLDERS.get(name) or _named(name, _Inert)


def _named(name: str, kind: type) -> type:
    """A class of a kind, by whose name errors say which one it stands for."""
    return type(name, (kind,), {"__module__": "inert"})


def _check_zip(path: Path) -> None:
    """Whether all bytes of a zip are those that were written, and whether it is no program."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError) as error:
        raise WeightsError(
            f"expected weights, {path} is damaged ({one_line(error)}); download or copy it again"
        ) from error
    if damaged is not None:
        raise WeightsError(
            f"expected weights, {path} is damaged: the checksum of {damaged} is another than when "
            "it was written; download or copy it again"
        )
    if any(name.endswith("/constants.pkl") for name in names):
        raise WeightsError(
            f"expected weights, {path} is a TorchScript program, which would have to be run; where "
            "you trust it, torch.save(torch.jit.load(FILE).state_dict(), OTHER) makes weights of it"
        )


def _unreadable(path: Path, error: Exception, asked: str) -> WeightsError:
    if asked:
        return WeightsError(
            f"expected weights only, {path} also asks to run {asked} and was not opened; if "
            "you trust it, load it where it was made and save the state_dict alone"
        )
    # What surrounds the reason is torch's advice to unpickle the file all the same.
    said = re.search(r"WeightsUnpickler error:(.*?)(Check the doc|Please file|$)", str(error), re.S)
    what = " ".join((said[1] if said else type(error).__name__).split())[:200]
    return WeightsError(
        f"expected weights (safetensors or torch.save), cannot read {path}: it is damaged, cut "
        f"short, something else, or more than weights ({what})"
    )


def _unwrapped(path: Path, contents: Any, ema: Variant) -> StateFile:
    """From what a checkpoint holds to its tensors by name."""
    wrapper: list[str] = []
    others: dict[str, str] = {}
    arch, settings = None, dict[str, object]()
    for _ in range(5):  # a damaged or hostile file may hold itself
        if isinstance(contents, _Inert):
            raise WeightsError(
                f"expected weights by name, {path} holds a whole {type(contents).__name__}, whose "
                "code would have to be run; if you trust it, load it where it was made and save "
                "the state_dict alone"
            )
        if isinstance(contents, Tensor) or not isinstance(contents, Mapping):
            raise WeightsError(
                f"expected weights by name, {path} holds one {type(contents).__name__}"
            )
        known = contents.get("arch")
        arch = known if isinstance(known, str) else arch
        for name in SETTINGS:
            settings |= _plain(contents.get(name))
        inner = next((name for name in WRAPPERS if isinstance(contents.get(name), Mapping)), None)
        if inner is None:
            break
        if ema == "ema":
            held = (name for name in AVERAGES if isinstance(contents.get(name), Mapping))
            inner = next(held, inner)
        others |= {f"{k}": _what(v) for k, v in contents.items() if k != inner}
        wrapper.append(str(inner))
        contents = contents[inner]
    packed = sorted(str(name) for name in contents if str(name).endswith("._packed_params"))
    if packed:
        raise WeightsError(
            f"expected weights as floating-point numbers, {path} has those of quantised modules, "
            f"such as {packed[0]}; save the state_dict from before"
        )
    tensors = {str(k): v.detach() for k, v in contents.items() if isinstance(v, Tensor)}
    others |= {f"{k}": _what(v) for k, v in contents.items() if not isinstance(v, Tensor)}
    if not tensors:
        raise WeightsError(
            f"expected weights by name, {path} holds no tensors but "
            + (first_names(sorted(others), 5) or "nothing")
        )
    _check_floating(tensors, path)
    empty = sorted(name for name, tensor in tensors.items() if not tensor.numel())
    if 2 * len(empty) > len(tensors):
        raise WeightsError(
            f"expected weights, {path} has {len(empty)} empty tensors, as DeepSpeed leaves them "
            "whose parts are in other files; its zero_to_fp32.py makes one file of them"
        )
    odd = sorted(name for name, tensor in tensors.items() if not _is_ordinary(tensor))
    if odd:
        raise WeightsError(
            f"expected dense real tensors with all their values, {path} has others: "
            + first_names(odd)
        )
    return StateFile(path, tensors, tuple(wrapper), others, arch, settings=settings)


def _plain(values: object) -> dict[str, object]:
    """Numbers and words by name, of a dict or of the arguments of a program."""
    values = getattr(values, "plain", values)
    items = values.items() if isinstance(values, Mapping) else ()
    return {str(key): value for key, value in items if isinstance(value, str | int | float)}


def _check_floating(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Weights and biases are floating-point numbers; only counters and indices are not.

    Adapters are no weights of a network either, until they are merged into it.
    """
    adapters = sorted(name for name in tensors if ".lora_" in name)
    if adapters:
        raise WeightsError(
            f"expected the weights of a network, {path} has adapters such as {adapters[0]}; merge "
            "them into it where they were made (PEFT: merge_and_unload) and save that"
        )
    whole = sorted(
        name
        for name, tensor in tensors.items()
        if name.rpartition(".")[2] in ("weight", "bias")
        and not (tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized)
    )
    if whole:
        kind = str(tensors[whole[0]].dtype).removeprefix("torch.")
        raise WeightsError(
            f"expected weights as floating-point numbers, {path} has {kind} in "
            f"{first_names(whole)}; scales of quantised weights are not read"
        )


def _is_ordinary(tensor: Tensor) -> bool:
    """Dense, real, and not more values than the file holds: views can be far bigger than that."""
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_complex()
        and tensor.nbytes <= tensor.untyped_storage().nbytes()
    )


def _what(value: object) -> str:
    """An entry that is not read, in a few words."""
    if isinstance(value, Mapping):
        return f"dict of {len(value)}"
    if isinstance(value, str | int | float | bool):
        return repr(value)[:80]
    return type(value).__name__.lstrip("_")
