import functools
import http.server
import logging
import pickle
import shutil
import sys
import tarfile
import threading
from collections import Counter

import fsspec
import pytest
import torch
from torch.utils.data import DataLoader

from a2mim.data import stream
from a2mim.data import tar as module
from a2mim.data.addresses import expand_shards
from a2mim.data.augment import CropAndFlip
from a2mim.data.folders import DataError
from a2mim.data.samples import Tolerance, find_training_files
from a2mim.data.stream import ShardStream, StreamSettings, batch_turns, deal, shuffle_buffer
from a2mim.data.tar import write_shards

AUGMENT = CropAndFlip(8)
COUNT = 48
PER_SHARD = 6


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


def test_contents_are_those_of_the_shards(tars, rewrite):
    known = stream_of(str(tars)).contents()
    assert stream_of(str(tars)).contents() == known
    rewrite(sorted(tars.iterdir())[1], lambda place, data: data[:-1] + b"x")
    assert stream_of(str(tars)).contents() != known


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


def damage(place, data):
    return [data[: len(data) // 2], b"", b"not an image"][place % 3] if place < 6 else data


@pytest.mark.parametrize(
    ("world", "workers"),
    [(1, 0), (2, 0), (2, 2), pytest.param(4, 2, marks=pytest.mark.integration)],
)
def test_an_epoch_is_every_image_once(made, world, workers):
    """8 shards of 6 images on up to 8 readers, in batches that divide them."""
    stream = stream_of(made / "tars")
    parts = [batches(stream, 3, rank=rank, world=world, workers=workers) for rank in range(world)]
    assert {len(part) for part in parts} == {16 // world}
    assert len({k for part in parts for k in indices(part)}) == COUNT


def test_pixels_depend_on_seed_epoch_and_name(made):
    def pixels(**options):
        some = batches(
            stream_of(made / "tars", seed=options.pop("seed", 0), buffer=5), 3, **options
        )
        return {
            int(k): image
            for batch in some
            for k, image in zip(batch["index"], batch["image"], strict=True)
        }

    alone = pixels()
    shared = pixels(rank=0, world=2, workers=2) | pixels(rank=1, world=2)
    assert shared.keys() == alone.keys()
    assert all(torch.equal(shared[k], alone[k]) for k in alone)
    for other in (pixels(epoch=1), pixels(seed=1)):
        assert other.keys() == alone.keys()
        # few crops exist in 12 x 12 pixels, so that some are met again
        assert sum(torch.equal(other[k], alone[k]) for k in alone) < COUNT / 4
    image = next(iter(alone.values()))
    assert image.shape == (3, 8, 8)
    assert image.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
@pytest.mark.parametrize("workers", [0, 2, pytest.param(3, marks=pytest.mark.integration)])
def test_order_is_repeated_and_resumed(made, workers):
    stream = stream_of(made / "tars")
    first = [indices(batches(stream, 5, epoch, workers)) for epoch in (0, 1)]
    assert len(first[0]) == 45  # 9 batches of 48 images; 3 wait for another epoch
    again = pickle.loads(pickle.dumps(stream))
    assert indices(batches(again, 5, 1, workers)) == first[1]
    assert first[0] != first[1] != sorted(first[1])
    assert len(stream.epoch(0, 5)) == 9
    assert len(stream.epoch(0, 5, batches=8, skip=2)) == 6


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
@pytest.mark.parametrize(
    ("workers", "skips"),
    [(0, (1, 8)), pytest.param(2, (1, 2, 5), marks=pytest.mark.integration), (3, (1, 5, 8))],
)
def test_the_rest_of_an_epoch_is_its_end(tars, workers, skips, monkeypatch, rewrite):
    """8 shards on 3 workers: 3, 3 and 2, so that their batches do not come in equal turns."""
    rewrite(tars / "shard-000002.tar", damage)  # unreadable images among the seen ones
    stream = stream_of(tars, images=45)
    whole = batches(stream, 5, workers=workers)
    for skip in skips:
        rest = batches(stream, 5, workers=workers, skip=skip)
        assert len(rest) == 9 - skip
        for one, two in zip(whole[skip:], rest, strict=True):
            assert torch.equal(one["index"], two["index"])
            assert torch.equal(one["image"], two["image"])
    made_again = []
    monkeypatch.setattr(stream, "augment", lambda x, g: made_again.append(1) or AUGMENT(x, g))
    batches(stream, 5, skip=8)
    assert len(made_again) == 5  # what was seen is not augmented again


def test_ranks_stay_in_step_on_unequal_shards(made, tmp_path):
    """Two readers with 36 and 12 images: the smaller one comes round again."""
    folder = tmp_path / "uneven"
    files = find_training_files(made / "images")
    for name, part in (("a", files.names[:36]), ("b", files.names[36:])):
        some = module.ImageFiles(files.root, part)
        shutil.move(write_shards(some, tmp_path / name, 100)[0], tmp_path / f"{name}.tar")
    folder.mkdir()
    for name in "ab":
        shutil.move(tmp_path / f"{name}.tar", folder)
    stream = stream_of(folder)
    parts = [batches(stream, rank=rank, world=2) for rank in range(2)]
    assert [len(part) for part in parts] == [6, 6]
    seen = sorted(max(Counter(indices(part)).values()) for part in parts)
    assert seen == [1, 2]
    small = max(parts, key=lambda part: max(Counter(indices(part)).values()))
    assert Counter(Counter(indices(small)).values()) == {2: 12}


def test_unreadable_members_of_a_stream(tars, caplog, rewrite):
    rewrite(tars / "shard-000002.tar", damage)
    stream = stream_of(tars, images=45)
    with caplog.at_level(logging.WARNING, "a2mim.data.tar"):
        some = batches(stream, 5) + batches(stream, 5, epoch=1)
    assert all(len(batch["image"]) == 5 for batch in some)
    assert len(set(indices(some))) == 45
    assert len(caplog.records) == 3  # once each, not in every epoch
    assert stream.damage.count() == 3
    assert ["(3 so far)" in record.getMessage() for record in caplog.records] == [0, 0, 1]
    strict = stream_of(tars, images=45, tolerance=Tolerance(2, 0.01))
    with pytest.raises(DataError) as told:
        batches(strict)
    assert str(told.value).startswith(
        "expected at most 2 unreadable images of 45 (a shard counts 5), got 3; repair or remove "
        "them, or allow a larger share than --unreadable 0.01 (a2mim.data.limits.Tolerance in "
        "Python). The last: expected an image, cannot read "
    )
    assert "000002.tar/train/" in str(told.value)
    assert "\n" not in str(told.value)


def test_damage_is_counted_over_workers(tars, rewrite):
    rewrite(tars / "shard-000002.tar", damage)
    stream = stream_of(tars, images=45)
    batches(stream, 5, workers=2)
    assert stream.damage.count() == 3


def test_a_cut_shard_counts_as_its_images(tars, caplog):
    shard = tars / "shard-000004.tar"
    with tarfile.open(shard) as archive:
        cut = archive.getmembers()[4].offset  # two images and their labels
    shard.write_bytes(shard.read_bytes()[:cut])
    stream = stream_of(tars, images=COUNT)
    with caplog.at_level(logging.WARNING, "a2mim.data.tar"):
        found = indices(batches(stream, 3))
    assert len(found) == COUNT
    assert len(set(found)) == COUNT - 4  # filled up with others
    assert stream.damage.count() == PER_SHARD
    assert len(caplog.records) == 1
    (tars / "shard-000005.tar").write_bytes(b"text")
    with pytest.raises(
        DataError, match=r"a shard counts 6\), got 12; .*00000[45].tar.*00000[45].tar"
    ):
        batches(stream_of(tars, images=COUNT))


def test_shards_without_images(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("notes.txt"))
    with pytest.raises(DataError, match="expected images"):
        batches(stream_of(tmp_path / "a.tar"))


def test_compressed_shards(made, tmp_path):
    import gzip

    for shard in (made / "tars").iterdir():
        (tmp_path / f"{shard.name}.gz").write_bytes(gzip.compress(shard.read_bytes()))
    assert len(set(indices(batches(stream_of(tmp_path))))) == COUNT


def test_a_pipe_that_was_allowed(made):
    folder = made / "tars"
    pattern = f"pipe:cat {folder}/shard-{{000000..000007}}.tar"
    stream = stream_of(pattern, allow_pipe=True)
    assert len(set(indices(batches(stream, 3)))) == COUNT
    iterator = iter(stream.epoch(0, 3))  # left before its end: the program is stopped, no damage
    next(iterator)
    del iterator
    assert stream.damage.count() == 0
    failing = stream_of("pipe:exit 3", allow_pipe=True, images=20)
    with pytest.raises(DataError, match="pipe:exit 3"):
        batches(failing)


@pytest.fixture
def stored(made):
    """The shards in fsspec's file system in memory, which workers get by forking."""
    store = fsspec.filesystem("memory")
    for shard in (made / "tars").iterdir():
        store.pipe_file(f"/bucket/{shard.name}", shard.read_bytes())
    yield "memory://bucket/shard-{000000..000007}.tar"
    store.rm("/bucket", recursive=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_in_an_object_store(made, stored, workers):
    local = batches(stream_of(made / "tars"), 3, workers=workers)
    stream = stream_of(stored)
    assert stream.shards[1] == "memory://bucket/shard-000001.tar"
    for one, two in zip(batches(stream, 3, workers=workers), local, strict=True):
        assert torch.equal(one["index"], two["index"])
        assert torch.equal(one["image"], two["image"])
    assert stream.damage.count() == 0
    fsspec.filesystem("memory").rm("/bucket/shard-000004.tar")
    stream = stream_of(stored)
    found = indices(batches(stream, 3, workers=workers))
    assert len(set(found)) == COUNT - PER_SHARD  # as with a cut shard
    assert stream.damage.count() == PER_SHARD
    strict = stream_of(stored, tolerance=Tolerance(5, 0.0))
    with pytest.raises(DataError, match=r"all of memory://bucket/shard-000004\.tar: FileNotFound"):
        batches(strict)


def test_an_address_rewritten_to_a_store(stored, monkeypatch):
    monkeypatch.setenv("GOPEN_REWRITE", "https://mirror=memory://bucket")
    shards = stored.replace("memory://bucket", "https://mirror")
    assert len(set(indices(batches(stream_of(shards), 3)))) == COUNT


class Requests(fsspec.AbstractFileSystem):
    """A store that remembers which bytes it was asked for."""

    protocol = "requests"
    data = b""
    asked: list[tuple[int, int]] = []  # noqa: RUF012

    def info(self, path, **options):
        return {"name": path, "size": len(self.data), "type": "file"}

    def _open(self, path, mode="rb", **options):
        return Asked(self, path, mode, **options)


class Asked(fsspec.spec.AbstractBufferedFile):
    def _fetch_range(self, start, end):
        self.fs.asked.append((start, end))
        return self.fs.data[start:end]


def test_a_stored_shard_is_read_in_parts(made, monkeypatch):
    """Before its first image only the first part, and every byte once."""
    fsspec.register_implementation("requests", Requests, clobber=True)
    monkeypatch.setattr(Requests, "data", (made / "tars" / "shard-000000.tar").read_bytes())
    monkeypatch.setattr(Requests, "asked", [])
    monkeypatch.setattr(stream, "READ_BYTES", 512)
    monkeypatch.setattr(stream, "STORE_BYTES", 1024)
    (shard,) = expand_shards("requests://bucket/shard-000000.tar")
    members = stream._members(shard, stream.IMAGE_ENDINGS)
    next(members)
    assert Requests.asked[-1][1] < len(Requests.data) / 4
    assert len(list(members)) == PER_SHARD - 1
    assert len(Requests.asked) > 5
    assert max(end - start for start, end in Requests.asked) <= 512 + 1024
    assert b"".join(Requests.data[a:b] for a, b in Requests.asked) == Requests.data


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads http by curl")
def test_shards_over_http(made, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(Quiet, directory=str(made / "tars"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        try:
            stream = stream_of(f"{address}/shard-{{000000..000007}}.tar")
            assert len(set(indices(batches(stream, 3)))) == COUNT
            missing = stream_of(f"{address}/none.tar", images=20)
            with pytest.raises(DataError, match=r"cannot read all of http://127.*none\.tar"):
                batches(missing)
        finally:
            server.shutdown()
            thread.join()
