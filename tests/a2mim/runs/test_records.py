import numpy as np
import pytest
import torch

import interactions as ix
from a2mim.runs.records import (
    read_record,
    read_records,
    record_key,
    tidy_records,
    write_record,
)
from interactions.orders.estimator import measure_one

GAME = ix.toy.ParityGame(16, {frozenset(range(4)): 1.0}, image="cats/1.png")
RECORD = measure_one(GAME, ix.Design(ix.RandomPairs(5)))


def test_there_and_back(tmp_path):
    path = tmp_path / "records" / "a.npz"
    write_record(RECORD, path, label=3)
    back = read_record(path)
    assert (back.image, back.n, back.per_replicate, back.forwards) == (
        *("cats/1.png", 16, 2, RECORD.forwards),
    )
    np.testing.assert_array_equal(back.pairs_P2, RECORD.pairs_P2)
    np.testing.assert_array_equal(back.orders_O, RECORD.orders_O)
    np.testing.assert_allclose(back.replicates_PRO, RECORD.replicates_PRO, rtol=1e-6)
    assert [p.name for p in path.parent.iterdir()] == ["a.npz"]


def test_a_record_is_small(tmp_path):
    """50 pairs, 4 replicates, 13 orders of 196 players: the size of a published image."""
    game = ix.toy.SizeGame(196, lambda k: float(np.sin(k)), image="x")
    record = measure_one(game, ix.Design(ix.RandomPairs(50)))
    noisy = np.random.default_rng(0).normal(size=record.replicates_PRO.shape)
    write_record(
        ix.Interactions(**{**vars(record), "replicates_PRO": noisy}), tmp_path / "a.npz", 3
    )
    assert (tmp_path / "a.npz").stat().st_size < 15_000


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_damaged_record_counts_as_none(tmp_path, keep):
    path = tmp_path / "a.npz"
    assert read_record(path) is None
    write_record(RECORD, path, label=3)
    path.write_bytes(path.read_bytes()[:keep])
    assert read_record(path) is None


def test_the_label_is_kept(tmp_path):
    write_record(RECORD, tmp_path / "a.npz", label=3)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["label"] == 3


def test_the_same_record_has_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_record(RECORD, tmp_path / name, label=3)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_vectors_there_and_back(tmp_path):
    turned = RECORD.replicates_PRO[..., None] * np.array([0.6, 0.8])
    record = ix.Interactions(**{**vars(RECORD), "replicates_PRO": turned})
    write_record(record, tmp_path / "a.npz", label=0)
    np.testing.assert_allclose(
        read_record(tmp_path / "a.npz").replicates_PRO, turned, rtol=1e-6, atol=1e-30
    )


def test_of_a_finished_run_the_last_records_are_kept(tmp_path):
    work, done = tmp_path / "work", tmp_path / "done"
    used = {work / "net" / f"{k:05d}-key-{level}.npz" for k in range(2) for level in (0, 1, 2)}
    others = {work / "net" / "00000-pilot-0.npz", work / "old" / "00000-key-0.npz"}
    for path in sorted(used | others):
        write_record(RECORD, path, label=0)
    (work / "net" / "00001-key-3.npz.12.partial").write_bytes(b"half")
    (work / "net" / "mine.npz").write_bytes(b"mine")
    work.rename(done)
    tidy_records(done, used)
    assert sorted(str(p.relative_to(done)) for p in done.rglob("*.*")) == [
        *("net/00000-key-2.npz", "net/00001-key-2.npz", "net/mine.npz"),
    ]
    (done / "net" / "mine.npz").unlink()
    assert [record.image for record in read_records(done / "net")] == ["cats/1.png"] * 2
    (done / "net" / "00000-key-2.npz").write_bytes(b"half")
    with pytest.raises(ValueError, match="whole records in"):
        read_records(done / "net")
    with pytest.raises(ValueError, match="found 0 files"):
        read_records(tmp_path)


def test_the_key_sees_settings_pixels_and_label():
    image = torch.zeros(3, 4, 4)
    other = image.clone()
    other[0, 0, 0] = 1e-6
    keys = {
        record_key({"seed": 0}, image, 1),
        record_key({"seed": 1}, image, 1),
        record_key({"seed": 0}, other, 1),
        record_key({"seed": 0}, image, 2),
        record_key({"seed": 0}, image.reshape(3, 2, 8), 1),
    }
    assert len(keys) == 5
    assert record_key({"a": 1, "b": 2}, image, 0) == record_key({"b": 2, "a": 1}, image, 0)
