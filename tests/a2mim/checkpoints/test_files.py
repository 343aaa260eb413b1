import hashlib
import json
import os
import pickle
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from a2mim.checkpoints.files import (
    WeightsError,
    contents_hash,
    first_names,
    read_state,
    weights_hash,
)

STATE = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(1)}


def saved(contents, tmp_path, **options):
    torch.save(contents, tmp_path / "w.pth", **options)
    return tmp_path / "w.pth"


def equal(found, expected=STATE):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("contents", "wrapper"),
    [
        (STATE, ()),
        (OrderedDict(STATE), ()),
        ({"state_dict": STATE, "epoch": 3}, ("state_dict",)),
        ({"model": STATE, "optimizer": {"state": {}}}, ("model",)),
        ({"model": {"state_dict": STATE}}, ("model", "state_dict")),
        ({"student": {"c": STATE["b"]}, "teacher": STATE}, ("teacher",)),
        ({name: torch.nn.Parameter(t, requires_grad=False) for name, t in STATE.items()}, ()),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_wrappers(contents, wrapper, zipped, tmp_path):
    file = read_state(saved(contents, tmp_path, _use_new_zipfile_serialization=zipped))
    equal(file.tensors)
    assert file.wrapper == wrapper


def test_safetensors_whatever_the_suffix(tmp_path):
    for name in ("w.safetensors", "w.bin"):
        save_file(STATE, tmp_path / name, metadata={"arch": "x"})
        file = read_state(tmp_path / name)
        equal(file.tensors)
        assert file.metadata == {"arch": "x"}


def test_what_else_a_file_holds_is_told(tmp_path):
    contents = {"arch": "vit_small", "epoch": 3, "state_dict": STATE | {"n": None}, "args": [1]}
    file = read_state(saved(contents, tmp_path))
    assert file.arch == "vit_small"
    assert file.others == {"arch": "'vit_small'", "epoch": "3", "args": "list", "n": "NoneType"}


def test_averaged_entries(tmp_path):
    other = {name: tensor + 1 for name, tensor in STATE.items()}
    for plain, averaged in (("model", "model_ema"), ("state_dict", "state_dict_ema")):
        path = saved({plain: STATE, averaged: other}, tmp_path)
        equal(read_state(path).tensors)
        equal(read_state(path, "ema").tensors, other)
    with pytest.raises(WeightsError, match="expected ema 'plain' or 'ema', got 'both'"):
        read_state(path, "both")


class CfgNode(dict):
    """As yacs has it: a dict with attributes."""


CfgNode.__module__ = "yacs.config"


def test_settings_beside_weights_are_not_looked_at(tmp_path, monkeypatch):
    import sys
    import types

    node = CfgNode(lr=0.1, deep=CfgNode(x=1))
    node.__dict__["__immutable__"] = True
    module = types.ModuleType("yacs.config")
    module.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    from pathlib import PosixPath

    contents = {
        "model": STATE,
        "args": Namespace(lr=0.1, out=PosixPath("x")),
        "config": node,
        "best": np.float64(3.5),
    }
    path = saved(contents, tmp_path)
    monkeypatch.undo()
    file = read_state(path)
    equal(file.tensors)
    assert set(file.others) == {"args", "config", "best"}
    assert file.settings == {"lr": 0.1}


class Touch:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(zipped, tmp_path):
    target = tmp_path / "touched"
    contents = {"model": STATE, "x": Touch(target)}
    path = saved(contents, tmp_path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"asks to run posix.system and was not opened"):
        read_state(path)
    path.write_bytes(pickle.dumps(contents))
    with pytest.raises(WeightsError, match=r"^expected weights"):
        read_state(path)
    assert not target.exists()


def test_a_pickled_module_is_refused_by_name(tmp_path):
    path = saved(torch.nn.Linear(1, 1), tmp_path)
    with pytest.raises(WeightsError, match=r"torch.nn.modules.linear.Linear.*save the state_dict"):
        read_state(path)


class History:
    """As mmengine's: an array and functions by name, pickled with its class."""

    def __init__(self):
        self.log_history = np.arange(3.0)
        self.methods = {"mean": np.mean}


def never(*_, **__):
    raise AssertionError("a function of the file was called")


class Calls:
    """Its pickle calls a function of this file, as hostile ones call others."""

    def __reduce__(self):
        return never, (1,)


class Fills(dict):
    """A dict of its own class, whose items torch would not fill."""


@pytest.mark.parametrize("zipped", [True, False])
def test_whatever_else_a_file_holds_is_skipped_and_never_called(zipped, tmp_path):
    import collections
    import functools
    import random

    beside = {
        "array": np.eye(3),
        "numbers": [np.float32(1), np.int64(2)],
        "rng": {"python": random.getstate(), "numpy": np.random.RandomState(0).get_state()},
        "hub": {"history": collections.OrderedDict(loss=History())},
        "partial": functools.partial(never, 1),
        "default": collections.defaultdict(list, {"a": [1]}),
        "called": Calls(),
        "path": PurePosixPath("x"),
        "args": Namespace(lr=0.1, out=[Namespace()]),
    }
    contents = {"state_dict": STATE, **beside}
    file = read_state(saved(contents, tmp_path, _use_new_zipfile_serialization=zipped))
    equal(file.tensors)
    assert set(file.others) == set(beside)
    for value in file.others.values():  # descriptions, and no objects
        assert isinstance(value, str)


class Attributes(dict):
    """As Lightning keeps hyper-parameters: a dict with attributes of its own."""


class Entries(list):
    """A list with a class of its own."""


@pytest.mark.parametrize("zipped", [True, False])
def test_dicts_and_lists_of_their_own_classes_are_skipped(zipped, tmp_path):
    kept, named = Entries([1, Attributes(b=Entries())]), Attributes(a=1, c=Attributes())
    named.told = True
    contents = {"state_dict": STATE, "hyper_parameters": named, "callbacks": kept}
    file = read_state(saved(contents, tmp_path, _use_new_zipfile_serialization=zipped))
    equal(file.tensors)
    assert file.others == {"hyper_parameters": "dict of 2", "callbacks": "list"}
    assert file.settings == {"a": 1}


def test_weights_in_a_class_of_dicts(tmp_path):
    equal(read_state(saved({"state_dict": Attributes(STATE)}, tmp_path)).tensors)


def index(folder, where, name="model.safetensors.index.json"):
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder / name


def test_shards_are_one_set_of_weights(tmp_path):
    """Of either format; what a shard has beyond the index is of no network."""
    save_file({"b": STATE["b"], "c": torch.ones(2)}, tmp_path / "1.safetensors")
    torch.save({"a": STATE["a"]}, tmp_path / "2.bin")
    equal(read_state(index(tmp_path, {"b": "1.safetensors", "a": "2.bin"})).tensors)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"a": "1.safetensors", "x": "1.safetensors"}, r"expected x in .*1\.safetensors, as model"),
        ({"a": "3.safetensors"}, r"3\.safetensors is missing"),
        ({"a": "../1.safetensors"}, r"expected shards beside .*, got \.\./1"),
        ({}, "names no tensors"),
        ([], "expected an index of shards"),
    ],
)
def test_shards_that_are_not_there(where, message, tmp_path):
    save_file({"a": STATE["b"]}, tmp_path / "1.safetensors")
    with pytest.raises(WeightsError, match=message):
        read_state(index(tmp_path, where))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.h5", b"\x89HDF\r\n\x1a\n", "is HDF5, as Keras and TensorFlow write it; read it where"),
        ("w.gguf", b"GGUF\3\0\0\0", "is a GGUF file"),
        ("w.onnx", b"\x08\x08\x12\x07pytorch", "is an ONNX graph"),
        ("w.npy", b"\x93NUMPY\1\0", "is one numpy array"),
        ("w.pth.gz", b"\x1f\x8b\x08", "is compressed by gzip; unpack it"),
        ("w.pth", b"\x89PNG\r\n", "is a picture"),
        ("config.json", b'{"model_type": "vit"}', r"is JSON, and no \*\.index\.json of shards"),
    ],
)
def test_files_of_other_programs_are_called_by_their_kind(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_state(tmp_path / name)


def test_archives_of_other_programs(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "w.keras", "w") as archive:
        archive.writestr("model.weights.h5", b"")
    for name, what in (
        ("w.npz", "an archive of numpy arrays"),
        ("w.keras", r"a zip of model\.wei"),
    ):
        with pytest.raises(WeightsError, match=f"{name} is {what}"):
            read_state(tmp_path / name)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (
            {"m.qkv.weight": STATE["b"], "m.qkv.lora_A.weight": STATE["b"]},
            r"has adapters such as m\.qkv\.lora_A\.weight; merge",
        ),
        (
            {"fc.scale": torch.ones(1), "fc._packed_params.dtype": 3, "fc._packed_params": 3},
            r"quantised modules, such as fc\._packed_params; save",
        ),
        ({"module": {"a": torch.empty(0), "b": torch.empty(0)}}, r"2 empty tensors.*zero_to_fp32"),
    ],
)
def test_what_is_not_all_of_a_network(contents, message, tmp_path):
    with pytest.raises(WeightsError, match=message):
        read_state(saved(contents, tmp_path))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("facebook/vit-mae-base", "is missing; a repository of the hub is hf-hub:facebook/vit-mae"),
        ("https://a.org/w.pth", "is missing; download what is at an address first"),
        ("~/w.pth", "is missing; the shell has not replaced its beginning"),
        ("runs/w.pth", "is missing$"),
    ],
)
def test_what_a_missing_file_may_be(name, hint):
    with pytest.raises(WeightsError, match=hint):
        read_state(Path(name))


def test_weights_inside_what_is_skipped_are_not_made_up(tmp_path):
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_state(saved({"state": Namespace(weights=STATE)}, tmp_path))


def test_a_flipped_bit_is_seen(tmp_path):
    path = saved({"a.weight": torch.arange(1000.0)}, tmp_path)
    data = bytearray(path.read_bytes())
    place = data.find(torch.arange(1000.0).numpy().tobytes())
    data[place + 2000] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="damaged: the checksum of"):
        read_state(path)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.bool, torch.uint8])
def test_whole_numbers_are_no_weights(dtype, tmp_path):
    state = {"a.weight": torch.ones(2, 2, dtype=dtype), "a.bias": torch.ones(2)}
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(WeightsError, match=f"{kind} in a.weight"):
        read_state(saved(state, tmp_path))
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=f"{kind} in a.weight"):
        read_state(tmp_path / "w.safetensors")


def test_programs_are_refused(tmp_path):
    path = tmp_path / "w.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1)), path)
    with pytest.raises(WeightsError, match="TorchScript"):
        read_state(path)


@pytest.mark.parametrize(
    "entry", ["ema", "state_dict_ema", "model_ema", "ema_state_dict", "target_encoder"]
)
def test_every_entry_of_averages(entry, tmp_path):
    averages = {name: tensor + 1 for name, tensor in STATE.items()}
    path = saved({"state_dict": STATE, entry: averages}, tmp_path)
    equal(read_state(path).tensors)
    equal(read_state(path, "ema").tensors, averages)
    path = saved({entry: averages}, tmp_path)  # and alone
    equal(read_state(path).tensors, averages)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a git-lfs pointer"),
        (b"not weights at all", "cannot read"),
        (b"PK\x03\x04 and no more", "is cut short"),
        (pickle.dumps([1, 2]), "cannot read"),
        (bytes(64), "cannot read"),
    ],
)
def test_other_files(content, message, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_state(path)
    assert "\n" not in str(caught.value)
    path = path.rename(tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"^expected .*weights"):
        read_state(path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_files_that_are_cut_short(kind, share, tmp_path):
    state = {f"k{i}": torch.randn(50) for i in range(20)}
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError, match=r"^expected .*weights") as caught:
        read_state(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (torch.zeros(3), "holds one Tensor"),
        ([torch.zeros(3)], "holds one list"),
        ({"epoch": 3, "name": "x"}, "holds no tensors but epoch, name"),
        ({}, "holds no tensors but nothing"),
        ({"a": torch.zeros(3, 3).to_sparse()}, "dense real tensors .* others: a"),
        ({"a": torch.zeros(1).expand(10**6, 10**6)}, "dense real tensors .* others: a"),
        ({"a": torch.zeros(2, device="meta")}, "dense real tensors .* others: a"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "dense real tensors .* others: a"),
    ],
)
def test_other_contents(contents, message, tmp_path):
    with pytest.raises(WeightsError, match=message):
        read_state(saved(contents, tmp_path))


def test_a_file_that_holds_itself(tmp_path):
    contents = {"epoch": 1}
    contents["model"] = contents
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_state(saved(contents, tmp_path))


def test_no_file(tmp_path):
    with pytest.raises(WeightsError, match=r"expected a weights file, .*w\.pth is missing"):
        read_state(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"cannot open .*directory"):
        read_state(tmp_path)


def test_the_hash_as_it_is_defined():
    text = b"a\0int64\0\0" + np.int64(1).tobytes()
    text += b"b\0float32\0" + b"2x3\0" + np.arange(6, dtype=np.float32).tobytes()
    assert weights_hash(STATE) == hashlib.sha256(text).hexdigest()


def test_what_the_hash_depends_on():
    one = weights_hash(STATE)
    turned = {"a": STATE["a"], "b": STATE["b"].T.contiguous().T}
    assert weights_hash(turned) == one
    assert weights_hash(STATE | {"x.num_batches_tracked": torch.tensor(7)}) == one
    for other in (
        {"b": STATE["b"].double()},
        {"b": STATE["b"].reshape(3, 2)},
        {"b": STATE["b"] + 1e-6},
        {"c": STATE["a"]},
    ):
        assert weights_hash(STATE | other) != one
    assert len(weights_hash({"h": torch.zeros(3, dtype=torch.bfloat16)})) == 64


def test_contents_have_one_hash_under_any_names():
    values = [tensor.float().numpy().tobytes() for tensor in STATE.values()]
    sorted_digests = sorted(hashlib.sha256(value).digest() for value in values)
    one = contents_hash(STATE)
    assert one == hashlib.sha256(b"".join(sorted_digests)).hexdigest()
    for same in (
        {"x": STATE["a"], "y": STATE["b"]},  # other names, in another order
        {"a": STATE["a"].double(), "b": STATE["b"].reshape(3, 2).half()},  # exact in half
        {"a": STATE["a"], "b": STATE["b"].T.contiguous().T},
        STATE | {"x.num_batches_tracked": torch.tensor(7)},
    ):
        assert contents_hash(same) == one
    for other in ({"b": STATE["b"] + 1e-6}, {"b": STATE["b"].T}, {"again": STATE["a"]}):
        assert contents_hash(STATE | other) != one


def test_names_for_messages():
    assert first_names(["a", "b"]) == "a, b"
    assert first_names(list("abcde")) == "a, b, c and 2 more"
