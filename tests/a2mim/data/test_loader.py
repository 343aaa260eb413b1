import gzip
import shutil
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from torch._utils import ExceptionWrapper

from a2mim.data.augment import CropAndFlip
from a2mim.data.folders import DataError
from a2mim.data.limits import Tolerance
from a2mim.data.loader import load, own_message, stream_order
from a2mim.data.sampler import Batches, MicroBatches, make_loader
from a2mim.data.samples import FolderSamples
from a2mim.data.stream import ShardStream, StreamSettings
from a2mim.data.tar import write_shards

COUNT = 24


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """24 images in 6 shards of 4."""
    root = tmp_path_factory.mktemp("loading")
    folder = root / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).save(folder / f"{k:02d}.png")
    write_shards(folder, root / "tars", per_shard=4)
    return root


def stream_of(shards, images=COUNT, **options):
    return ShardStream(shards, CropAndFlip(8), 0, StreamSettings(images, buffer=6), **options)


def plan(start=0, stop=8, size=10, **options):
    """Of 2 steps in an epoch."""
    return MicroBatches(Batches(COUNT, size), start, stop, **options)


def same(some, others):
    return all(
        torch.equal(one["index"], two["index"]) and torch.equal(one["image"], two["image"])
        for one, two in zip(some, others, strict=True)
    )


def test_images_by_index_are_those_of_the_plain_loader(made):
    samples = FolderSamples(sorted((made / "images").iterdir()), CropAndFlip(8), seed=0)
    steps = plan(1, 6, accumulate=2)
    assert same(load(samples, steps), make_loader(samples, steps))
    assert same(load(samples, steps, workers=1), make_loader(samples, steps))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.integration)])
def test_a_stream_goes_on_anywhere(made, workers):
    """Micro-batches of 5; 2 steps in an epoch, of 2 micro-batches."""
    stream = stream_of(made / "tars")
    assert len(stream) == COUNT
    whole = list(load(stream, plan(accumulate=2), workers=workers))
    assert len(whole) == 16
    assert {tuple(batch["image"].shape) for batch in whole} == {(5, 3, 8, 8)}
    for start in (2, 3, 7):
        rest = load(stream, plan(start, accumulate=2), workers=workers)
        assert same(rest, whole[2 * start :])
    assert list(load(stream, plan(8, 8), workers=workers)) == []
    # The plan's epochs are those of the stream.
    alone = list(stream.epoch(3, 5, batches=4))
    assert same(alone, whole[12:]) == (workers == 0)
    orders = [torch.cat([b["index"] for b in whole[k : k + 4]]) for k in (0, 4)]
    assert not torch.equal(*orders)
    assert set(orders[0].tolist()) != set(orders[1].tolist())  # 20 of 24, others each time


def test_processes_share_a_stream(made):
    stream = stream_of(made / "tars")
    parts = [list(load(stream, plan(0, 2, size=12, rank=r, ranks=2))) for r in (0, 1)]
    assert [len(part) for part in parts] == [2, 2]
    seen = torch.cat([batch["index"] for part in parts for batch in part])
    assert len(seen.unique()) == COUNT
    with pytest.raises(ValueError, match="a shard for each of 8 ranks, got 6; write smaller"):
        load(stream, plan(size=8, ranks=8))


def test_compressed_shards_and_pipes(made, tmp_path):
    for shard in (made / "tars").iterdir():
        (tmp_path / f"{shard.name}.gz").write_bytes(gzip.compress(shard.read_bytes()))
    plain = list(load(stream_of(made / "tars"), plan()))
    packed = list(load(stream_of(f"{tmp_path}/shard-{{000000..000005}}.tar.gz"), plan()))
    piped = stream_of(f"pipe:cat {made}/tars/shard-{{000000..000005}}.tar", allow_pipe=True)
    assert same(load(piped, plan()), plain)
    # An image's draws are named by its shard, too: here those have other names.
    assert [b["image"].shape for b in packed] == [b["image"].shape for b in plain]


def test_nothing_is_read_before_and_no_worker_lives_after(made, monkeypatch):
    import multiprocessing

    stream = stream_of(made / "tars")
    monkeypatch.setattr(stream, "shards", ("/nowhere.tar",))
    load(stream, plan(), workers=2)
    batches = load(stream_of(made / "tars"), plan(), workers=2)
    assert len(list(islice(batches, 3))) == 3
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []


def test_what_decides_the_order(made):
    stream = stream_of(made / "tars")
    assert stream_order(stream, plan(ranks=2, accumulate=5), workers=3) == {
        "seed": 0,
        "shards": 6,
        "buffer": 6,
        "processes": 2,
        "accumulate": 5,
        "workers": 3,
    }
    assert stream_order(stream, plan(), 0) == stream_order(stream, plan(), 1)
    assert same(load(stream, plan(), workers=0), load(stream, plan(), workers=1))


@pytest.mark.parametrize("kind", ["folder", "stream"])
def test_workers_say_what_no_workers_say(made, tmp_path, kind):
    """At the limit: torch would put a whole traceback into the message."""
    folder = shutil.copytree(made / "images", tmp_path / "images")
    for k in range(0, COUNT, 2):
        (folder / f"{k:02d}.png").write_bytes(b"not an image")
    write_shards(folder, tmp_path / "tars", per_shard=4)

    def said(workers):
        if kind == "folder":
            files = sorted(folder.iterdir())
            samples = FolderSamples(files, CropAndFlip(8), 0, Tolerance(3, 0.1))
        else:
            samples = stream_of(tmp_path / "tars", tolerance=Tolerance(3, 0.1))
        with pytest.raises(DataError) as told:
            list(load(samples, plan(), workers=workers))
        return told.value

    alone, worker = said(0), said(1)
    assert str(worker) == str(alone)
    assert "\n" not in str(worker)
    assert str(worker).startswith("expected at most 3 unreadable images")
    assert "Original Traceback" in str(worker.__cause__)  # not lost for who looks for it


def test_the_own_message_of_an_error():
    try:
        try:
            raise DataError("the cause")
        except DataError as error:
            raise DataError("expected a: b, got\nc") from error
    except DataError:
        wrapper = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(DataError, match="Original Traceback") as told:
        wrapper.reraise()
    assert own_message(told.value) == "expected a: b, got\nc"
    assert own_message(DataError("plain: this")) == "plain: this"
