import logging
import os
import pickle
import shutil
import tarfile

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from a2mim.data import tar as module
from a2mim.data.augment import CropAndFlip
from a2mim.data.folders import DataError
from a2mim.data.limits import Tolerance
from a2mim.data.samples import FolderSamples, find_training_files
from a2mim.data.tar import TarSamples, write_shards

AUGMENT = CropAndFlip(8)
COUNT = 48
PER_SHARD = 6


def test_shards_hold_the_files_bytes_in_shuffled_order(made):
    shards = sorted((made / "tars").iterdir())
    assert [shard.name for shard in shards] == [f"shard-{k:06d}.tar" for k in range(8)]
    files = find_training_files(made / "images")
    found = {}
    for shard in shards:
        with tarfile.open(shard) as archive:
            found |= {m.name: archive.extractfile(m).read() for m in archive}
    labels = {name: data for name, data in found.items() if name.endswith(".cls")}
    images = {name: data for name, data in found.items() if name not in labels}
    assert images == {name: (made / "images" / name).read_bytes() for name in files.names}
    for name, label in zip(files.names, files.labels_I.tolist(), strict=True):
        assert labels[name.rsplit(".", 1)[0] + ".cls"] == str(label).encode()
    assert list(images) != sorted(images)


def test_the_same_files_make_the_same_bytes(made, tmp_path):
    again = write_shards(made / "images", tmp_path / "deep" / "again", PER_SHARD, seed=1)
    assert all(s.read_bytes() == (made / "tars" / s.name).read_bytes() for s in again)
    other = write_shards(made / "images", tmp_path / "other", 48, seed=2)
    assert len(other) == 1
    counted = []
    write_shards(find_training_files(made / "images"), tmp_path / "c", on_write=counted.append)
    assert counted == [COUNT] * COUNT


def test_all_shards_appear_or_none(made, tmp_path):
    out = tmp_path / "out"
    seen = []

    def interrupt(count):
        seen.append(out.exists())
        if len(seen) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(made / "images", out, PER_SHARD, on_write=interrupt)
    assert not any(seen)
    assert list(tmp_path.iterdir()) == []
    files = find_training_files(made / "images")
    shutil.copytree(made / "images", tmp_path / "images")
    (tmp_path / "images" / files.names[30]).unlink()
    lost = module.ImageFiles(tmp_path / "images", files.names)
    with pytest.raises(DataError, match=r"cannot: .*No such file"):
        write_shards(lost, out, PER_SHARD)
    assert [p.name for p in tmp_path.iterdir()] == ["images"]
    out.mkdir()  # an empty folder is as good as none
    assert len(write_shards(made / "images", out, PER_SHARD)) == 8
    with pytest.raises(DataError, match="new or empty folder"):
        write_shards(made / "images", out, PER_SHARD)
    with pytest.raises(ValueError, match="at least 1 image per shard"):
        write_shards(made / "images", tmp_path / "none", 0)


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # it leaves its files open
def test_webdataset_reads_what_was_written(made):
    wds = pytest.importorskip("webdataset")
    pattern = str(made / "tars" / "shard-{000000..000007}.tar")
    dataset = wds.WebDataset(pattern, shardshuffle=False, empty_check=False)
    samples = list(dataset)
    assert len(samples) == COUNT
    assert all("cls" in sample and {"jpg", "png"} & set(sample) for sample in samples)


class InOrder(Dataset):
    def __init__(self, samples, order):
        self.samples, self.order = samples, order

    def __len__(self):
        return len(self.order)

    def __getitem__(self, place):
        epoch, index = self.order[place]
        return self.samples.load(index, epoch)


def by_index(samples, start=0, workers=0):
    order = []
    for epoch in range(2):
        generator = torch.Generator().manual_seed(epoch)
        order += [(epoch, k) for k in torch.randperm(COUNT, generator=generator).tolist()]
    return list(DataLoader(InOrder(samples, order[start:]), batch_size=8, num_workers=workers))


def test_images_by_index_are_those_of_the_folder(made):
    tar = TarSamples(made / "tars", AUGMENT, seed=0)
    files = find_training_files(made / "images")
    assert sorted(tar.names) == list(files.names)
    # the same index has the same draws: in the shards' order both give the same pixels
    order = [made / "images" / name for name in tar.names]
    folder = FolderSamples(order, AUGMENT, seed=0)
    for index in range(COUNT):
        assert torch.equal(tar.load(index, 1), folder.load(index, 1))


def test_images_by_index_do_not_depend_on_workers_or_on_resuming(made, monkeypatch):
    monkeypatch.setattr(module, "OPEN_SHARDS", 3)  # fewer than there are
    samples = TarSamples(made / "tars", AUGMENT, seed=0)
    alone = by_index(samples)
    descriptors = len(samples._open._descriptors)
    assert descriptors == 3
    for start, workers in ((0, 2), (16, 2), (24, 0)):
        other = pickle.loads(pickle.dumps(samples))
        for got, expected in zip(by_index(other, start, workers), alone[start // 8 :], strict=True):
            assert torch.equal(got, expected)


def test_contents_are_those_of_the_shards(tars, rewrite):
    known = TarSamples(tars, AUGMENT, 0).contents()
    assert TarSamples(tars, AUGMENT, 0).contents() == known
    rewrite(sorted(tars.iterdir())[1], lambda place, data: data[:-1] + b"x")
    assert TarSamples(tars, AUGMENT, 0).contents() != known


def test_files_are_closed(made):
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    if before is None:
        pytest.skip("needs /proc")
    samples = TarSamples(made / "tars", AUGMENT, seed=0)
    for k in range(COUNT):
        samples.load(k, 0)
    assert len(os.listdir("/proc/self/fd")) > before
    del samples
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_shard_has_to_be_complete(tars, tmp_path):
    shard = tars / "shard-000003.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as archive:
        third = archive.getmembers()[3]
    header = third.offset
    broken = bytearray(whole)
    broken[header : header + 100] = b"x" * 100
    for damaged in (
        whole[: third.offset_data + 10],  # in an image
        whole[: header + 100],  # in a header
        whole[:header],  # between two members: tarfile takes this for the end
        bytes(broken),
        b"",
        b"text",
    ):
        shard.write_bytes(damaged)
        with pytest.raises(DataError, match=r"complete tar file, cannot read .*000003\.tar"):
            TarSamples(tars, AUGMENT, seed=0)
    shard.unlink()
    with tarfile.open(tars / "shard-000009.tar.gz", "w:gz"):
        pass
    with pytest.raises(DataError, match=r"read compressed ones as a stream \(stream:PATTERN"):
        TarSamples(tars, AUGMENT, seed=0)
    for address in ("file:/a.tar", "s3://bucket/a.tar", "pipe:cat a.tar"):
        with pytest.raises(DataError, match=r"expected local shards, .*as a stream \(stream:PATT"):
            TarSamples(address, AUGMENT, seed=0)
    with pytest.raises(DataError, match=r"expected images \(.webp\)"):
        TarSamples(tars / "shard-000001.tar", AUGMENT, 0, endings=(".webp",))


def damage(place, data):
    return [data[: len(data) // 2], b"", b"not an image"][place % 3] if place < 6 else data


def test_unreadable_members_by_index(tars, caplog, rewrite):
    whole = TarSamples(tars, AUGMENT, seed=0)
    before = [whole.load(k, 0) for k in range(COUNT)]
    rewrite(tars / "shard-000002.tar", damage)  # places 0, 2, 4: images with their labels between
    samples = TarSamples(tars, AUGMENT, seed=0)
    with caplog.at_level(logging.WARNING, "a2mim.data.samples"):
        after = [samples.load(k, epoch) for epoch in (0, 1) for k in range(COUNT)]
    assert samples.damage.indices() == [12, 13, 14]
    for k in range(COUNT):
        assert torch.equal(before[k], after[k]) == (k not in (12, 13, 14))
    assert len(caplog.records) == 3
    assert "shard-000002.tar/train/" in caplog.text
    with pytest.raises(DataError, match="at most 2 unreadable"):
        by_index(TarSamples(tars, AUGMENT, 0, Tolerance(2, 0.0)))
