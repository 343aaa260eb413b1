import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from a2mim.data import contents
from a2mim.data.contents import hash_files, hash_of


@pytest.fixture
def files(tmp_path):
    names = ["a", "b", "c"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 10_000)
    return [tmp_path / name for name in names], names


def test_names_and_bytes_decide_and_not_where_or_when(files, tmp_path):
    paths, names = files
    known = hash_files(paths, names)
    assert hash_files(paths, ["a", "b", "d"]) != known
    assert hash_files(paths[::-1], names[::-1]) != known
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in paths:
        (moved / path.name).write_bytes(path.read_bytes())
    assert hash_files([moved / name for name in names], names) == known
    (moved / "c").write_bytes(b"c" * 9_999 + b"d")
    assert hash_files([moved / name for name in names], names) != known
    assert hash_files([], []) == hash_files([], [])


@pytest.fixture
def large(files, tmp_path, monkeypatch):
    """Files of a set that counts as large, not changed lately; and what is read of them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "REMEMBERED", 20_000)
    monkeypatch.setattr(contents, "AT_ONCE", 15_000)  # two parts
    monkeypatch.setattr(contents, "RACY", -(10**12))
    read, real = [], contents._hash

    def counting(file):
        read.append(file.name)
        return real(file)

    monkeypatch.setattr(contents, "_hash", counting)
    return *files, read


def test_of_many_bytes_all_count_and_are_read_once(large, monkeypatch):
    paths, names, read = large
    known = hash_files(paths, names)
    assert sorted(read) == names
    assert hash_files(paths, names) == known
    assert len(read) == 3  # remembered
    monkeypatch.setattr(contents, "REMEMBERED", 10**9)
    assert hash_files(paths, names) == known  # as of few bytes


def test_a_change_in_the_middle_of_a_large_file_counts(large):
    """Of the same size, and dated back."""
    paths, names, read = large
    known = hash_files(paths, names)
    before = paths[1].stat()
    with paths[1].open("r+b") as file:
        file.seek(5_000)
        file.write(b"x")
    os.utime(paths[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    read.clear()
    assert hash_files(paths, names) != known
    assert read == ["b"]
    with paths[1].open("r+b") as file:
        file.seek(5_000)
        file.write(b"b")
    assert hash_files(paths, names) == known


def test_files_that_changed_lately_are_not_remembered(large, monkeypatch):
    paths, names, read = large
    monkeypatch.setattr(contents, "RACY", 10**15)
    assert hash_files(paths, names) == hash_files(paths, names)
    assert sorted(read) == sorted(names * 2)


def test_where_nothing_can_be_remembered_all_is_read(large, tmp_path):
    paths, names, read = large
    known = hash_files(paths, names)
    (tmp_path / "cache" / "a2mim" / "contents.sqlite").write_bytes(b"no database" * 1000)
    read.clear()
    assert hash_files(paths, names) == known
    assert sorted(read) == names


def test_what_another_process_has_read_is_not_read_again(large):
    """While one reads, others wait."""
    paths, names, read = large
    with ThreadPoolExecutor(3) as pool:
        found = set(pool.map(lambda _: hash_files(paths, names), range(3)))
    assert len(found) == 1
    assert sorted(read) == names


def test_a_file_that_cannot_be_read_counts_as_such(files):
    paths, names = files
    paths[1].write_bytes(b"")
    empty = hash_files(paths, names)
    paths[1].unlink()
    assert hash_files(paths, names) == hash_files(paths, names) != empty


def test_parts_do_not_run_together():
    assert hash_of(b"ab", b"c") != hash_of(b"a", b"bc")
    assert hash_of(1, "1") != hash_of("1", 1)
