import sys

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from a2mim.data.arrays import DataError
from a2mim.data.augment import CropAndFlip
from a2mim.data.stream import ShardStream, StreamSettings, batch_turns, deal, shuffle_buffer
from a2mim.data.tar import write_shards

AUGMENT = CropAndFlip(8)


COUNT = 48


PER_SHARD = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """48 images in two classes, and the same in 8 shards of 6."""
    root = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    for k in range(COUNT):
        place = root / "images" / "train" / ("cat" if k % 3 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{k:02d}.{'jpg' if k % 2 else 'png'}")
    write_shards(root / "images", root / "tars", PER_SHARD, seed=1)
    return root


def stream_of(shards, images=COUNT, buffer=10, seed=0, **options):
    return ShardStream(shards, AUGMENT, seed, StreamSettings(images, buffer), **options)


def batches(stream, size=4, epoch=0, workers=0, **options):
    dataset = stream.epoch(epoch, size, **options)
    return list(DataLoader(dataset, batch_size=None, num_workers=workers))


def test_without_webdataset(tmp_path, monkeypatch):
    """It is said before any shard is opened."""
    (tmp_path / "a.tar").touch()
    monkeypatch.setitem(sys.modules, "webdataset.gopen", None)  # as if it were not there
    with pytest.raises(DataError, match=r"pip install 'a2mim\[stream\]'"):
        ShardStream(tmp_path / "a.tar", CropAndFlip(8), 0, StreamSettings(1))


def indices(some):
    return [int(k) for batch in some for k in batch["index"]]


def test_every_shard_has_one_reader():
    for count in (1, 5, 8, 13):
        for world in (1, 2, 3):
            for workers in (1, 2, 4):
                dealt = [
                    k
                    for rank in range(world)
                    for worker in range(workers)
                    for k in deal(count, rank, world, worker, workers)
                ]
                assert sorted(dealt) == list(range(count))


def test_turns_of_workers():
    assert batch_turns([1], 3) == [0, 0, 0]
    assert batch_turns([2, 2, 1], 5) == [0, 1, 2, 0, 1]
    assert batch_turns([1, 0, 3], 4) == [0, 2, 2, 2]
    for shards in ([3, 3, 2], [1, 1], [4, 1, 1]):
        for count in range(1, 20):
            turns = batch_turns(shards, count)
            assert len(turns) == count
            for worker, own in enumerate(shards):
                assert abs(turns.count(worker) - count * own / sum(shards)) < 1


def test_more_workers_than_shards(made):
    stream = stream_of(made / "tars" / "shard-000000.tar", images=6)
    assert sorted(indices(batches(stream, 2, workers=2))) == sorted(indices(batches(stream, 2)))
    with pytest.raises(ValueError, match="a shard for each of 2 ranks, got 1"):
        stream.epoch(0, 2, rank=0, world=2)
    with pytest.raises(ValueError, match="a rank below 1, got 1"):
        stream.epoch(0, 2, rank=1)
    with pytest.raises(ValueError, match="at least 7 images for one batch"):
        stream.epoch(0, 7)
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"1 to 3 batches in an epoch, got {count}"):
            stream.epoch(0, 2, batches=count)
    with pytest.raises(ValueError, match="skip fewer than 3 batches, got 3"):
        stream.epoch(0, 2, skip=3)
    with pytest.raises(ValueError, match="at least 1, got"):
        StreamSettings(1, 0)


def test_a_shuffle_buffer_loses_nothing():
    for size in (1, 7, 100, 1000):
        shuffled = list(shuffle_buffer(range(100), size, seed=1))
        assert sorted(shuffled) == list(range(100))
        assert shuffled == list(shuffle_buffer(range(100), size, seed=1))
        assert (shuffled == list(range(100))) == (size == 1)
        # an item leaves no earlier than the buffer has come to it
        assert all(item < place + size for place, item in enumerate(shuffled))
