import contextlib
import errno
import os

import numpy as np
import pytest

from a2mim.files import left_over, remove_made, whole, write_arrays, write_first, write_whole


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "one")
    with contextlib.suppress(KeyboardInterrupt), whole(path) as partial:
        partial.write_text("ha")
        raise KeyboardInterrupt
    assert path.read_text() == "one"
    write_whole(path, b"two", sync=True)
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("a2mim.files.os.replace", full)
        with pytest.raises(OSError, match=r"No space left.*a\.txt"):
            write_whole(tmp_path / "a.txt", "one")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("links", [True, False])
def test_the_first_to_write_decides(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr("a2mim.files.os.link", refused)
    path = tmp_path / "a.txt"
    write_first(path, "one")
    assert path.read_text() == "one"
    if links:  # elsewhere the last one does
        write_first(path, "two")
        assert path.read_text() == "one"
    assert os.listdir(tmp_path) == ["a.txt"]


def refused(*_):
    raise OSError(errno.EPERM, "Operation not permitted")


def test_arrays_there_and_back(tmp_path):
    write_arrays(tmp_path / "a.npz", {"x": np.arange(3)})
    with np.load(tmp_path / "a.npz") as arrays:
        np.testing.assert_array_equal(arrays["x"], np.arange(3))


def test_what_a_killed_process_left_is_found(tmp_path):
    (tmp_path / "deep").mkdir()
    left = tmp_path / "deep" / "rows.csv.12.partial"
    left.touch()
    (tmp_path / "mine.partial").touch()
    assert left_over(tmp_path) == [left]


def test_what_a_run_made_goes_and_what_others_put_there_stays(tmp_path):
    folder = tmp_path / "parts"
    for path in ("a/part-001.csv", "a/part-notes.csv", "b/c/part-002.csv", "part-003.csv.txt"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    (folder / "b" / "part-004.csv").symlink_to(tmp_path)
    remove_made(folder, r"part-\d{3}\.csv")
    left = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert left == {"a", "a/part-notes.csv", "part-003.csv.txt"}
    remove_made(folder, ".*")
    assert os.listdir(tmp_path) == []
    remove_made(folder, ".*")
