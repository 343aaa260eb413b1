import numpy as np
import pytest
import torch
from torch import nn

import interactions as ix
from experiments.records import read_record, record_key, shard, weights_hash, write_record

GAME = ix.toy.ParityGame(16, {frozenset(range(4)): 1.0}, image="cats/1.png")
RECORD = ix.measure_one(GAME, ix.Design(ix.RandomPairs(5)))


def test_there_and_back(tmp_path):
    path = tmp_path / "records" / "a.npz"
    write_record(RECORD, path)
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
    record = ix.measure_one(game, ix.Design(ix.RandomPairs(50)))
    noisy = np.random.default_rng(0).normal(size=record.replicates_PRO.shape)
    write_record(ix.Interactions(**{**vars(record), "replicates_PRO": noisy}), tmp_path / "a.npz")
    assert (tmp_path / "a.npz").stat().st_size < 15_000


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_damaged_record_counts_as_none(tmp_path, keep):
    path = tmp_path / "a.npz"
    assert read_record(path) is None
    write_record(RECORD, path)
    path.write_bytes(path.read_bytes()[:keep])
    assert read_record(path) is None


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


def test_the_weights_hash_sees_every_number():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = weights_hash(model)
    assert weights_hash(model) == before
    model[1].running_mean[0] += 1e-6
    assert weights_hash(model) != before


def test_shards_are_all_images_once():
    parts = [list(shard(10, rank, 3)) for rank in range(3)]
    assert sorted(k for part in parts for k in part) == list(range(10))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
