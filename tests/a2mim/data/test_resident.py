from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torchvision.datasets import ImageFolder

from a2mim.data.arrays import ImageSet
from a2mim.data.augment import CropAndFlip, Normalise, crop_box
from a2mim.data.folders import DataError
from a2mim.data.loader import load
from a2mim.data.resident import FLIP, TensorSamples, crop_boxes, crops, resident
from a2mim.data.sampler import Batches, MicroBatches, keyed_seed, keyed_uniforms
from a2mim.data.samples import (
    ArraySamples,
    DatasetSamples,
    FolderSamples,
    SomeSamples,
    few_images,
    find_training_files,
)
from a2mim.data.tar import TarSamples, write_shards

CPU = torch.device("cpu")
RAW = CropAndFlip(16, mean=None)


def images_of(count=24, height=20, width=20):
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, height, width)
    pixels_ICHW = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    names = tuple(str(k) for k in range(count))
    return ImageSet(pixels_ICHW, torch.arange(count) % 5, names, tuple("abcde"))


def held(images=None, augment=RAW, seed=3):
    samples = resident(ArraySamples(images or images_of(), augment, seed), augment, seed)
    assert samples is not None
    return samples


@pytest.mark.parametrize(
    ("scale", "ratio"),
    [((0.67, 1.0), (3 / 4, 4 / 3)), ((0.08, 1.0), (3 / 4, 4 / 3)), ((1.0, 1.0), (2.0, 3.0))],
)
def test_boxes_are_those_of_one_image_with_the_same_draws(scale, ratio):
    rng = np.random.default_rng(0)
    sizes_B2 = rng.integers(1, 200, (400, 2))
    drawn = rng.random((400, 40))
    found_B4 = crop_boxes(*sizes_B2.T, scale, ratio, lambda rows, k: drawn[rows[:, None], k])
    for (height, width), numbers, box in zip(sizes_B2.tolist(), drawn, found_B4, strict=True):
        assert tuple(box) == crop_box(height, width, scale, ratio, numbers.tolist())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [7, 16, 40])
def test_a_crop_is_that_of_torch(size, interpolation):
    """In floats it is torch's, rounded; torch's of whole numbers rounds between the axes too."""
    images = images_of(12, 33, 29)
    rng = np.random.default_rng(1)
    rows, floats, whole = [], [], []
    for k in range(12):
        h, w = (int(rng.integers(1, edge + 1)) for edge in (33, 29))
        top, left = int(rng.integers(0, 34 - h)), int(rng.integers(0, 30 - w))
        rows.append([k, top, left, h, w, k % 2])
        part = images.pixels_ICHW[k : k + 1, :, top : top + h, left : left + w]
        for given, results in ((part.float(), floats), (part, whole)):
            one = functional.interpolate(given, (size, size), mode=interpolation, antialias=True)
            results.append(one[0].flip(-1) if k % 2 else one[0])
    pixels_IWHC = images.pixels_ICHW.permute(0, 3, 2, 1).contiguous()
    stretch = max(max(row[3], row[4]) for row in rows) / size
    found = crops(pixels_IWHC, torch.tensor(rows), size, interpolation, max(stretch, 1.0))
    assert found.shape == (12, 3, size, size)
    assert found.is_contiguous()
    expected = torch.stack(floats).clamp(0, 255)
    # Half a level, and what float32 rounds on the way there.
    assert (found - expected).abs().max() <= 0.5 + 1e-3
    if interpolation == "bilinear":
        assert (found.int() - torch.stack(whole).int()).abs().max() <= 1


def test_what_is_drawn_for_an_image_is_its_own():
    samples = held()
    whole = samples.batch(list(range(24)), [1] * 24, CPU)
    backwards = samples.batch(list(range(23, -1, -1)), [1] * 24, CPU)
    assert torch.equal(whole, backwards.flip(0))
    mixed = samples.batch([5, 6, 5], [1, 2, 2], CPU)
    assert torch.equal(mixed[0], whole[5])
    assert torch.equal(mixed[2], samples.load(5, 2))
    for other in (samples.load(5, 2), samples.load(6, 1), held(seed=4).load(5, 1)):
        assert not torch.equal(samples.load(5, 1), other)
    for index in (-1, 24):
        with pytest.raises(IndexError, match=f"index below 24, got {index}"):
            samples.load(index, 0)


def test_the_flip_is_the_mirrored_crop():
    """Also of crops that are shrunk: what a mirrored image gives, to the last bit."""
    samples = held(images_of(40, 50, 50))
    mirrored = images_of(40, 50, 50)
    u_B = keyed_uniforms(keyed_seed("augment", 3), [0] * 40, range(40), [FLIP] * 40)
    assert 8 < (u_B < 0.5).sum() < 32
    pixels_IWHC = mirrored.pixels_ICHW.permute(0, 3, 2, 1).contiguous()
    row = torch.tensor([[0, 3, 5, 41, 37, 0], [0, 3, 5, 41, 37, 1]])
    plain, flipped = crops(pixels_IWHC, row, 16, "bilinear", 41 / 16)
    assert torch.equal(plain.flip(-1), flipped)
    assert samples.load(0, 0).dtype == torch.uint8


@pytest.mark.parametrize("flip", [0.0, 0.3, 1.0])
def test_so_many_are_flipped_as_are_asked_for(flip):
    """Of the same crops, which are drawn whatever the flip."""
    whole = replace(RAW, scale=(1.0, 1.0), ratio=(1.0, 1.0), size=20)
    images = images_of(200)
    drawn_BCSS = held(images, replace(whole, flip=flip)).batch(range(200), [0] * 200, CPU)
    pairs = list(zip(drawn_BCSS, images.pixels_ICHW, strict=True))
    mirrored = [torch.equal(drawn, pixels.flip(-1)) for drawn, pixels in pairs]
    assert [torch.equal(drawn, pixels) for drawn, pixels in pairs] == [not m for m in mirrored]
    assert np.mean(mirrored) == pytest.approx(flip, abs=0.1)
    one = ArraySamples(images, replace(whole, flip=flip), 3)
    kept = [torch.equal(one.load(k, 0), images.pixels_ICHW[k]) for k in range(60)]
    assert np.mean(kept) == pytest.approx(1 - flip, abs=0.15)


def test_normalising_is_the_last_step():
    floats = held(augment=CropAndFlip(16)).batch([1, 2], [0, 0], CPU)
    assert torch.equal(floats, Normalise()(held().batch([1, 2], [0, 0], CPU)))


def test_the_loader_makes_batches_whatever_the_workers_and_processes():
    samples = held()
    batches = Batches(24, 8, seed=2)

    def loaded(start=0, **options):
        return list(load(samples, MicroBatches(batches, start, 6), **options))

    alone = [MicroBatches(batches, 0, 6, rank=rank, ranks=2, accumulate=2) for rank in (0, 1)]
    whole = loaded()
    assert len(whole) == 6
    assert torch.equal(whole[4]["index"], batches.at(4))
    for one, other in zip(loaded(start=4, workers=2), whole[4:], strict=True):
        assert torch.equal(one["image"], other["image"])
    parts = [list(load(samples, share)) for share in alone]
    for step in range(6):
        own = [part["image"] for rank in parts for part in rank[2 * step : 2 * step + 2]]
        assert torch.equal(torch.cat(own), whole[step]["image"])


@pytest.fixture
def folder(tmp_path):
    """12 images of 5 sizes in two classes."""
    rng = np.random.default_rng(0)
    for k in range(12):
        place = tmp_path / "set" / "train" / ("cat" if k % 3 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20 + k % 5, 30 - k % 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{k:02d}.png")
    return tmp_path / "set"


def read_from(kind, folder):
    if kind == "folder":
        return FolderSamples(find_training_files(folder), RAW, seed=3)
    if kind == "tar":
        return TarSamples(write_shards(folder, folder.parent / "tars"), RAW, seed=3)
    return DatasetSamples(ImageFolder(folder / "train"), RAW, seed=3)


@pytest.mark.parametrize("kind", ["folder", "tar", "dataset"])
def test_images_of_several_sizes_are_cropped_each_within_itself(kind, folder):
    samples = read_from(kind, folder)
    together = resident(samples, RAW, 3)
    assert len(together) == 12
    assert together.contents() == samples.contents()
    assert together.contents([1, 2]) == samples.contents([1, 2])
    for k in range(12):
        own = samples.pixels(k, 0)
        alone = held(ImageSet(own[None], torch.zeros(1).long(), ("one",), ("a",)))
        # Draws are by index: the k-th image of a set of its own copies.
        same = held(
            ImageSet(own.expand(12, -1, -1, -1), torch.zeros(12).long(), tuple("abcdefghijkl"), ())
        )
        assert torch.equal(together.load(k, 1), same.load(k, 1))
        assert len(alone) == 1


def test_a_set_that_is_too_large_is_left_where_it_is(folder):
    samples = read_from("folder", folder)
    needed = 12 * 24 * 30 * 3
    assert resident(samples, RAW, 3, needed) is not None
    assert resident(samples, RAW, 3, needed - 1) is None


def test_an_unreadable_image_has_the_same_place_taker_in_every_epoch(folder, caplog):
    files = sorted(folder.rglob("*.png"))
    files[4].write_bytes(b"no image")
    samples = read_from("folder", folder)
    together = resident(samples, CropAndFlip(16, (1.0, 1.0), (1.0, 1.0), mean=None), 3)
    assert together.damage.count() == 1
    assert len(caplog.records) == 1
    centre = [together.load(4, epoch) for epoch in range(6)]
    distinct = {tuple(x.flatten().tolist()) for x in centre}
    assert 1 < len(distinct) <= 2 * 11 * 11  # places of the crop and flips of one image
    for file in files:
        file.write_bytes(b"no image")
    with pytest.raises(DataError):
        resident(read_from("folder", folder), RAW, 3)


def test_other_channels_are_refused():
    class Mixed:
        def __len__(self):
            return 2

        def pixels(self, index, epoch):
            return torch.zeros(1 + 2 * index, 4, 4, dtype=torch.uint8)

    with pytest.raises(ValueError, match="1 channels, got one of 3"):
        resident(Mixed(), RAW, 0)


def test_some_of_them_and_a_few_again_and_again():
    samples = held()
    some = SomeSamples(samples, [7, 3, 3])
    assert torch.equal(some.batch([0, 2], [1, 5], CPU)[1], samples.load(3, 5))
    few = few_images(samples, 5, length=9, seed=0)
    found = few.batch([0, 8, 3], [0, 0, 2], CPU)
    for image, (index, epoch) in zip(found, ((0, 0), (8, 0), (3, 2)), strict=True):
        assert torch.equal(image, few.load(index, epoch))
    assert not hasattr(SomeSamples(ArraySamples(images_of(), RAW, 0), [1]), "batch")


def test_images_that_are_made_are_given_as_they_are():
    images = torch.rand(5, 3, 4, 4)
    samples = TensorSamples(images)
    assert len(samples) == 5
    assert torch.equal(samples.load(2, 9), images[2])
    assert torch.equal(samples.batch([4, 0, 4], [1, 2, 3], CPU), images[[4, 0, 4]])
