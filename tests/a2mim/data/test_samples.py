import logging
import os
import pickle
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder

from a2mim.data.arrays import ImageSet
from a2mim.data.augment import CentreCrop, CropAndFlip
from a2mim.data.folders import DataError, read_image
from a2mim.data.sampler import keyed_generator
from a2mim.data.samples import (
    ArraySamples,
    Damage,
    DatasetSamples,
    FolderSamples,
    PackedNames,
    RepeatedSamples,
    SomeSamples,
    Tolerance,
    decode,
    few_images,
    find_test_files,
    find_training_files,
)
from a2mim.data.tar import TarSamples, write_shards

AUGMENT = CropAndFlip(16)
COUNT = 24


class InOrder(Dataset):
    """What the engine makes of samples: an order of (epoch, index), from some place on."""

    def __init__(self, samples, order):
        self.samples, self.order = samples, order

    def __len__(self):
        return len(self.order)

    def __getitem__(self, place):
        epoch, index = self.order[place]
        return self.samples.load(index, epoch), index


def in_order(samples, epochs, start=0):
    """(epoch, index) of shuffled epochs."""
    order = []
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(epoch)
        shuffled = torch.randperm(len(samples), generator=generator).tolist()
        order += [(epoch, index) for index in shuffled]
    return InOrder(samples, order[start:])


def batches(samples, epochs=2, start=0, workers=0):
    return list(DataLoader(in_order(samples, epochs, start), batch_size=6, num_workers=workers))


@pytest.fixture
def folder(tmp_path):
    """24 JPEG and PNG files in two classes, of several sizes."""
    rng = np.random.default_rng(0)
    for k in range(COUNT):
        place = tmp_path / "set" / "train" / ("cat" if k % 3 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20 + k % 5, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{k:02d}.{'jpg' if k % 2 else 'png'}")
    return tmp_path / "set"


def damage_files(folder, count):
    """The first files, in turn cut short, empty, and text."""
    files = find_training_files(folder)
    names = [name for name in files.names if name.endswith("jpg")][:count]
    for k, name in enumerate(names):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes([data[: len(data) // 2], b"", b"not an image"][k % 3])
    return [list(files.names).index(name) for name in names]


def make(kind, folder):
    if kind == "folder":
        return FolderSamples(find_training_files(folder), AUGMENT, seed=3)
    if kind == "array":
        generator = torch.Generator().manual_seed(0)
        shape = (COUNT, 3, 20, 20)
        pixels_ICHW = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        labels_I = torch.zeros(COUNT, dtype=torch.int64)
        names = tuple(str(k) for k in range(COUNT))
        return ArraySamples(ImageSet(pixels_ICHW, labels_I, names, ("all",)), AUGMENT, seed=3)
    return DatasetSamples(ImageFolder(folder / "train"), AUGMENT, seed=3)


@pytest.mark.parametrize("kind", ["folder", "array", "dataset"])
def test_pixels_do_not_depend_on_workers_or_on_resuming(kind, folder):
    alone = batches(make(kind, folder))
    assert len(alone) == 8
    for images, indices in batches(make(kind, folder), workers=2)[:1]:
        assert torch.equal(images, alone[0][0])
        assert torch.equal(indices, alone[0][1])
    resumed = batches(make(kind, folder), start=18, workers=2)  # in the middle of an epoch
    for (images, indices), (expected, numbers) in zip(resumed, alone[3:], strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(indices, numbers)
    assert alone[0][0].dtype == torch.float32
    assert alone[0][0].shape == (6, 3, 16, 16)


@pytest.mark.parametrize("kind", ["folder", "array", "dataset"])
def test_draws_change_with_epoch_index_and_seed_only(kind, folder):
    samples = make(kind, folder)
    again = pickle.loads(pickle.dumps(samples))
    assert len(samples) == len(again) == COUNT
    assert torch.equal(samples.load(5, 1), again.load(5, 1))
    assert not torch.equal(samples.load(5, 1), samples.load(5, 2))
    assert not torch.equal(samples.load(5, 1), samples.load(6, 1))
    for index in (-1, COUNT):
        with pytest.raises(IndexError, match=f"index below {COUNT}, got {index}"):
            samples.load(index, 0)


@pytest.mark.parametrize("kind", ["array", "folder", "dataset"])
def test_contents_are_those_of_the_images(kind, folder):
    samples = make(kind, folder)
    known = samples.contents()
    assert make(kind, folder).contents() == known
    some = SomeSamples(samples, [0, 3])
    assert some.contents() == samples.contents([0, 3]) != known
    assert some.contents([1]) == samples.contents([3])
    assert RepeatedSamples(some, 5).contents() != RepeatedSamples(some, 6).contents()
    if samples.labels_I is not None:
        samples.labels_I = 1 - samples.labels_I
        assert samples.contents() != known
    if kind != "array":
        file = next(file for file in sorted(folder.rglob("*")) if file.is_file())
        file.write_bytes(file.read_bytes()[::-1])
        assert make(kind, folder).contents() != known


def test_another_seed_crops_otherwise(folder):
    files = find_training_files(folder)
    a, b = (FolderSamples(files, AUGMENT, seed=s).load(0, 0) for s in (0, 1))
    assert not torch.equal(a, b)


def test_pixels_are_those_of_the_file(folder):
    files = find_training_files(folder)
    augment = CentreCrop(20, share=1.0)
    samples = FolderSamples(files, augment, seed=0)
    for index, name in enumerate(files.names):
        pixels = torch.from_numpy(np.array(read_image(folder / name))).permute(2, 0, 1)
        assert torch.equal(samples.load(index, 0), augment(pixels))
    paths = [folder / name for name in files.names]
    listed = FolderSamples(paths, augment, seed=0)
    assert torch.equal(listed.load(3, 0), samples.load(3, 0))
    with pytest.raises(DataError, match="expected image files, got none"):
        FolderSamples([], augment, seed=0)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_other_modes_become_rgb(mode, tmp_path):
    file = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new("RGB", (5, 4), (200, 30, 90)).convert(mode).save(file)
    pixels = decode(file.read_bytes(), "image")
    assert pixels.shape == (3, 4, 5)
    assert torch.equal(pixels, torch.from_numpy(np.array(read_image(file))).permute(2, 0, 1))


def test_only_exact_crops_are_those_of_the_pixels(tmp_path):
    """Large JPEGs are reduced, the same in folders and shards, for grey networks too."""
    pixels = np.random.default_rng(0).integers(0, 255, (20, 25, 3), np.uint8)
    for k in range(2):
        large = Image.fromarray(pixels).resize((500, 400))
        large.save(tmp_path / f"{k}.jpg")
        large.save(tmp_path / f"{k}.png")
    files = find_training_files(tmp_path)
    shards = write_shards(tmp_path, tmp_path / "shards")
    for mean in ((0.5, 0.5, 0.5), (0.5,)):
        exact = CropAndFlip(48, mean=mean, std=mean, exact=True)
        reduced = replace(exact, exact=False)
        for k, name in enumerate(files.names):
            samples = FolderSamples(files, exact, seed=3)
            generator = keyed_generator("augment", 3, 1, k)
            expected = exact(samples.pixels(k, 1), generator)
            assert torch.equal(samples.load(k, 1), expected)
            found = FolderSamples(files, reduced, seed=3).load(k, 1)
            assert torch.equal(found, expected) == name.endswith(".png")
            assert (found - expected).abs().mean() < 0.05
        in_shards = TarSamples(shards, reduced, seed=3)
        place = list(in_shards.names).index("0.jpg")
        in_folder = FolderSamples([tmp_path / "0.jpg"] * 4, reduced, seed=3)
        assert torch.equal(in_shards.load(place, 1), in_folder.load(place, 1))


def test_an_unreadable_image_is_replaced_and_told_once(folder, caplog):
    samples = make("folder", folder)
    before = [samples.load(k, 0) for k in range(COUNT)]
    bad = damage_files(folder, 3)
    samples = make("folder", folder)
    with caplog.at_level(logging.WARNING, "a2mim.data.samples"):
        after = [samples.load(k, 0) for k in range(COUNT)]
        for k in bad:
            assert torch.equal(samples.load(k, 0), after[k])
            assert not torch.equal(samples.load(k, 1), after[k])
    for k in range(COUNT):
        assert torch.equal(before[k], after[k]) == (k not in bad)
    assert samples.damage.indices() == bad
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    for k in bad:
        assert sum(samples.names[k] in message for message in told) == 1
    assert any("0 bytes" in message for message in told)
    assert ["(3 so far)" in message for message in told] == [False, False, True]
    assert not any("0x" in message for message in told)  # where Pillow had the file in memory


def test_replacements_do_not_depend_on_workers(folder):
    bad = damage_files(folder, 3)
    alone = batches(make("folder", folder), epochs=1)
    samples = make("folder", folder)
    for (images, _), (expected, _) in zip(batches(samples, 1, workers=2), alone, strict=True):
        assert torch.equal(images, expected)
    assert samples.damage.indices() == bad  # workers wrote it where this process sees it


def test_too_many_unreadable_images_end_the_run(folder):
    bad = damage_files(folder, 9)
    files = find_training_files(folder)
    samples = FolderSamples(files, AUGMENT, 0, Tolerance(least=8, share=0.0))
    with pytest.raises(DataError, match=r"at most 8 unreadable images among \d+, got 9") as caught:
        batches(samples)
    assert files.names[bad[0]] in str(caught.value)
    samples = FolderSamples(files, AUGMENT, 0, Tolerance(least=8, share=0.0))
    loader = iter(DataLoader(in_order(samples, 1), batch_size=COUNT, num_workers=1))
    with pytest.raises(DataError, match="at most 8 unreadable"):
        next(loader)
    loader._shutdown_workers()  # or torch waits 5 s for its worker when the garbage is collected
    batches(FolderSamples(files, AUGMENT, 0, Tolerance(least=0, share=0.9)))
    with pytest.raises(DataError, match="at most 0 unreadable"):
        FolderSamples(files, AUGMENT, 0, Tolerance(0, 0.0)).load(bad[0], 0)


def test_one_in_a_hundred_is_put_up_with():
    damage = Damage(10_000, Tolerance())
    for k in range(2000):
        damage.good(k)
    error = DataError("cut")
    for k in range(5000, 5020):
        damage.bad(k, str, error)
        damage.bad(k, str, error)
    with pytest.raises(DataError) as told:
        damage.bad(9000, str, error)
    assert str(told.value) == (
        "expected at most 20 unreadable images among 2021, got 21: 5000, 5001, 5002, 5003, 5004, "
        "...; repair or remove them, or allow a larger share than --unreadable 0.01 "
        "(a2mim.data.limits.Tolerance in Python). The last: cut"
    )


def test_a_storage_that_is_gone(folder):
    samples = make("folder", folder)
    (folder / "train").rename(folder / "elsewhere")
    with pytest.raises(DataError, match=r"at most 10 unreadable.*No such file"):
        samples.load(0, 0)
    few = FolderSamples([folder / "a.jpg", folder / "b.jpg"], AUGMENT, 0)
    with pytest.raises(DataError, match=r"20 others could not be read"):
        few.load(0, 0)


@pytest.mark.parametrize(("least", "share"), [(-1, 0.1), (0, 1.5), (0, -0.1)])
def test_a_tolerance_out_of_range(least, share):
    with pytest.raises(ValueError, match="expected least >= 0"):
        Tolerance(least, share)


def test_files_of_a_training_folder(folder):
    (folder / "val" / "dog").mkdir(parents=True)
    (folder / "val" / "dog" / "v.png").write_bytes(b"")
    (folder / "train" / "dog" / "._00.png").write_bytes(b"")
    (folder / "train" / "dog" / "notes.txt").write_bytes(b"")
    files = find_training_files(folder)
    assert len(files) == COUNT
    assert list(files.names) == sorted(files.names)
    assert files.classes == ("cat", "dog")
    assert [name.split("/")[1] for name in files.names] == [
        files.classes[k] for k in files.labels_I
    ]
    inner = find_training_files(folder / "train" / "cat")  # images without classes
    assert inner.labels_I is None
    assert inner.classes == ()
    everything = find_training_files(folder.parent)
    assert everything.classes == ("set",)
    assert len(everything) == COUNT + 1


def test_links_are_followed_but_not_in_circles(folder):
    (folder / "linked").mkdir()
    (folder / "linked" / "cat").symlink_to(folder / "train" / "cat")
    (folder / "train" / "cat" / "circle").symlink_to(folder / "train")
    assert len(find_training_files(folder / "linked")) > 10
    assert len(find_training_files(folder)) == COUNT


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="found none at"):
        find_training_files(tmp_path / "nowhere")
    with pytest.raises(DataError, match="expected images in"):
        find_training_files(tmp_path)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0)
    if os.geteuid():
        with pytest.raises(DataError, match="cannot read it"):
            find_training_files(tmp_path)
    (tmp_path / "closed").chmod(0o755)


def test_packed_names():
    texts = ["a/b.jpg", "", "Müller/ü.png", "\udcff.jpg"]  # the last: bytes that are no UTF-8
    names = PackedNames(texts)
    assert list(names) == texts == names[:]
    assert names[-1] == texts[-1]
    assert names[1:3] == texts[1:3]
    assert "a/b.jpg" in names
    with pytest.raises(IndexError, match="index below 4"):
        names[4]
    assert list(PackedNames([])) == []


class Items(Dataset):
    """A data set with the given items; errors among them are raised."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


def test_items_of_any_data_set():
    grey = Image.new("L", (9, 9), 7)
    tensor = torch.full((3, 9, 9), 7, dtype=torch.uint8)
    samples = DatasetSamples(Items([(grey, 1), tensor, OSError("gone")]), AUGMENT, 0)
    assert torch.equal(samples.load(0, 0), samples.load(1, 0))
    assert torch.equal(samples.load(2, 0), samples.load(1, 0))
    assert samples.damage.indices() == [2]
    with pytest.raises(ValueError, match="without a transform"):
        DatasetSamples(Items([torch.zeros(3, 9, 9)]), AUGMENT, 0).load(0, 0)


def test_test_files_keep_the_classes_of_training(tmp_path):
    for name in ("train/cat/0.png", "train/dog/1.png", "train/eel/2.png", "val/dog/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(DataError, match="expected a folder val or test of images"):
        find_test_files(tmp_path / "train", ("cat",))
    classes = find_training_files(tmp_path).classes
    files = find_test_files(tmp_path, classes)
    assert list(files.names) == ["val/dog/3.png"]
    assert files.labels_I.tolist() == [1]
    with pytest.raises(DataError, match=r"of the classes cat, eel, ... in .*val, found dog"):
        find_test_files(tmp_path, ("cat", "eel"))
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "4.png")
    with pytest.raises(DataError, match="one folder per class"):
        find_test_files(tmp_path, classes)


def test_some_of_the_images(tmp_path):
    for k in range(4):
        Image.new("RGB", (8, 8), (k, 0, 0)).save(tmp_path / f"{k}.png")
    (tmp_path / "3.png").write_bytes(b"damaged")
    whole = FolderSamples(find_training_files(tmp_path), AUGMENT, seed=3)
    some = SomeSamples(whole, [3, 1])
    assert list(some.names) == ["3.png", "1.png"]
    assert torch.equal(some.load(1, 0), whole.load(1, 0))
    assert some.damage.count() == 0
    some.load(0, 0)
    assert some.damage.indices() == [0]  # its own number, not that among all
    assert SomeSamples(whole, [1, 2]).damage.count() == 0
    with pytest.raises(IndexError, match="below 2"):
        some.load(2, 0)


class Told:
    """Images that tell their own index and epoch."""

    def __len__(self):
        return COUNT

    def load(self, index, epoch):
        return torch.tensor([index, epoch])


def loaded(samples, epochs):
    """(index, epoch) of the images underneath, in the order of the numbers."""
    return [tuple(samples.load(k, e).tolist()) for e in range(epochs) for k in range(len(samples))]


@pytest.mark.parametrize("length", [1, 5, COUNT, 3 * COUNT, 3 * COUNT + 5])
def test_epochs_of_any_length_are_pieces_of_whole_passes(length):
    repeated = RepeatedSamples(Told(), length)
    assert len(repeated) == length
    seen = loaded(repeated, 60)
    passes = [(index, epoch) for epoch in range(60 * length) for index in range(COUNT)]
    assert seen == passes[: 60 * length]
    counts = Counter(index for index, _ in seen)
    assert max(counts.values()) - min(counts[k] for k in range(COUNT)) <= 1
    for index in (-1, length):
        with pytest.raises(IndexError, match=f"index below {length}, got {index}"):
            repeated.load(index, 0)


def test_a_few_images_fill_an_epoch():
    found = {}
    for count in (1, 3, COUNT):
        seen = loaded(few_images(Told(), count, 50, seed=0), 2)
        assert len(set(seen)) == len(seen) == 100  # no draw twice
        found[count] = {index for index, _ in seen}
        assert len(found[count]) == count
    assert all(found[a] < found[b] for a, b in pairwise((1, 3, COUNT)))
    choices = {few_images(Told(), 1, 1, seed).load(0, 0)[0].item() for seed in range(8)}
    assert len(choices) > 3
    for count in (0, COUNT + 1):
        with pytest.raises(ValueError, match=f"choose 1 to all {COUNT} images, got {count}"):
            few_images(Told(), count, 100, seed=0)
    with pytest.raises(ValueError, match="an epoch of at least 1 image, got 0"):
        few_images(Told(), 1, 0, seed=0)


def test_a_few_images_do_not_depend_on_workers_or_on_resuming(folder):
    alone = batches(few_images(make("folder", folder), 5, COUNT, seed=0))
    resumed = batches(few_images(make("folder", folder), 5, COUNT, seed=0), start=18, workers=2)
    for (images, _), (expected, _) in zip(resumed, alone[3:], strict=True):
        assert torch.equal(images, expected)


def test_unreadable_images_among_a_few_count_once(folder):
    files = find_training_files(folder)
    chosen = few_images(Told(), 3, 1, seed=0).load(0, 0)[0].item()
    (folder / files.names[chosen]).write_bytes(b"damaged")
    few = few_images(make("folder", folder), 3, 30, seed=0)
    assert few.damage.count() == 0
    for k in range(30):
        few.load(k, 0)
    assert few.damage.count() == 1
