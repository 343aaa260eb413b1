import sys

import pytest

from a2mim.data import addresses as module
from a2mim.data.addresses import expand_shards
from a2mim.data.folders import DataError


def test_patterns_and_folders_name_the_same_shards(made):
    folder = made / "tars"
    every = tuple(str(folder / f"shard-{k:06d}.tar") for k in range(8))
    assert expand_shards(folder) == every
    assert expand_shards(str(folder)) == every
    assert expand_shards(f"{folder}/shard-{{000000..000007}}.tar") == every
    assert expand_shards(f"{folder}/*.tar") == every
    assert expand_shards([folder / "shard-000000.tar", f"{folder}/shard-*[1-7].tar"]) == every
    assert expand_shards(f"{every[0]}::{every[1]}") == every[:2]


def test_a_path_is_taken_as_it_is(tmp_path):
    odd = tmp_path / "a{1..2}*.tar"
    odd.write_bytes(b"")
    assert expand_shards(odd) == (str(odd),)


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ("nowhere.tar", "found none at nowhere.tar"),
        ("no-*.tar", "found none at no-"),
        ("s-{0..", "cannot expand"),
        ("${NOT_SET_HERE}/a.tar", "cannot expand"),
        ([], "expected shards, found none"),
        ("x://bucket/a.tar", r"webdataset opens .* or fsspec .*, got 'x://bucket/a.tar'"),
        ("S3://bucket/a.tar", "got 'S3://bucket/a.tar'"),
        ("memory:/etc/passwd", "got 'memory:/etc/passwd'"),  # fsspec would take it for a file
        ("memory://*.tar", r"expected braces, as \{000..127\}, in place of \* in 'memory"),
        ("local:///a.tar", "in a store, as s3://bucket/a.tar, got 'local:///a.tar'"),
        ("reference://a.tar", "in a store"),
        ("zip://a.tar::memory://b.zip", "got 'zip://a.tar'"),
        ("simplecache::memory://b.tar", "found none at simplecache"),
        ("memory://a{:,x}:file:///b.tar", "got 'memory://a::file:///b.tar'"),  # a chain by braces
        ("pipe:cat a.tar", "pass allow_pipe=True"),
        ("PIPE:cat a.tar", "pass allow_pipe=True"),
        ("-", "found none at -"),
    ],
)
def test_addresses_that_cannot_be_opened(shards, message):
    with pytest.raises(DataError, match=message):
        expand_shards(shards)


def test_a_store_without_its_package(monkeypatch):
    """It is told before anything is read, with the name that fsspec knows."""
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not there
    with pytest.raises(DataError) as told:
        expand_shards("s3://bucket/train-{000..003}.tar")
    assert str(told.value) == (
        "expected a package for s3://, got none to read 's3://bucket/train-000.tar': Install s3fs "
        "to access S3 (import of s3fs halted; None in sys.modules)"
    )


@pytest.mark.parametrize(
    ("module", "shards"),
    [
        ("webdataset.shardlists", "a-{0..3}.tar"),
        ("webdataset.gopen", "https://example.org/a.tar"),
        ("fsspec", "s3://bucket/a.tar"),
    ],
)
def test_without_the_packages_of_streams(module, shards, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not there
    with pytest.raises(DataError, match=r"pip install 'a2mim\[stream\]'") as told:
        expand_shards(shards)
    assert f"the package {module.split('.')[0]} " in str(told.value)
    assert "\n" not in str(told.value)


def test_local_shards_need_no_package(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset.gopen", None)
    monkeypatch.setitem(sys.modules, "webdataset.shardlists", None)
    assert len(expand_shards(f"{made}/tars/shard-*.tar")) == 8


def test_a_rewritten_address_is_judged_by_what_it_becomes(made, monkeypatch):
    shard = made / "tars" / "shard-000000.tar"
    monkeypatch.setenv("GOPEN_REWRITE", f"{made}=pipe:cat {made}")
    with pytest.raises(DataError, match="pass allow_pipe=True"):
        expand_shards(shard)


def test_no_shard_twice_and_no_empty_folder(made, tmp_path):
    with pytest.raises(DataError, match=r"shard-000000\.tar twice"):
        expand_shards([made / "tars", made / "tars" / "shard-000000.tar"])
    with pytest.raises(DataError, match=r"expected shards \(\.tar"):
        expand_shards(tmp_path)


def test_http_needs_curl(monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda program: None)
    with pytest.raises(DataError, match="expected the program curl"):
        expand_shards("https://example.org/a.tar")
