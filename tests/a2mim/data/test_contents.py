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


def test_of_many_bytes_the_beginnings_and_sizes_count(files, monkeypatch):
    paths, names = files
    monkeypatch.setattr(contents, "IN_FULL", 20_000)
    known = hash_files(paths, names)
    paths[2].write_bytes(b"c" * 9_999 + b"d")
    assert hash_files(paths, names) == known
    paths[2].write_bytes(b"c" * 9_999)
    assert hash_files(paths, names) != known
    paths[2].write_bytes(b"d" + b"c" * 9_999)
    assert hash_files(paths, names) != known


def test_a_file_that_cannot_be_read_counts_as_such(files):
    paths, names = files
    paths[1].write_bytes(b"")
    empty = hash_files(paths, names)
    paths[1].unlink()
    assert hash_files(paths, names) == hash_files(paths, names) != empty


def test_parts_do_not_run_together():
    assert hash_of(b"ab", b"c") != hash_of(b"a", b"bc")
    assert hash_of(1, "1") != hash_of("1", 1)
