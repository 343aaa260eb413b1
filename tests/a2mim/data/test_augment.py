import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chi2
from sklearn.datasets import load_sample_images
from timm.data import create_transform
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as transforms

from a2mim.data.augment import (
    DRAWS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    REDUCED_MARGIN,
    CentreCrop,
    CropAndFlip,
    PilTransform,
    channels_of,
    crop_box,
)
from a2mim.data.samples import FolderSamples, find_training_files

SHAPES = [(64, 64), (32, 200), (200, 32), (5, 7), (1, 1), (1, 30), (333, 500)]
RANGES = [((0.67, 1.0), (3 / 4, 4 / 3)), ((0.08, 1.0), (3 / 4, 4 / 3)), ((1.0, 1.0), (2.0, 3.0))]


def picture(height, width, seed=0):
    """Smooth, so that a wrong crop shows, with noise, so that a wrong filter does."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.linspace(0, 200, height)[:, None]
    columns = torch.linspace(0, 150, width)[None, :]
    plane = torch.stack([rows + 0 * columns, columns + 0 * rows, (rows + columns) / 2])
    noise = torch.randint(0, 50, plane.shape, generator=generator)
    return (plane + noise).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(("scale", "ratio"), RANGES)
def test_boxes_are_torchvisions_when_it_gets_the_same_numbers(scale, ratio, monkeypatch):
    """Its own code, with our numbers in place of its draws; also when no crop fits."""
    numbers = iter(())

    def uniform_(tensor, low, high):
        # float64 keeps the roundings of both apart from float32's last bit
        value = float(low) + (float(high) - float(low)) * next(numbers)
        return torch.full(tensor.shape, value, dtype=torch.float64)

    def randint(low, high, size):
        return torch.tensor([low + int(next(numbers) * (high - low))])

    monkeypatch.setattr(torch.Tensor, "uniform_", uniform_)
    monkeypatch.setattr(torch, "randint", randint)
    # area and aspect of all attempts, places only of the one that fits: ours has them side by side
    fell_back = 0
    for seed, (height, width) in enumerate(SHAPES * 20):
        generator = torch.Generator().manual_seed(seed)
        draws = torch.rand(DRAWS - 1, generator=generator, dtype=torch.float64).tolist()
        ours = crop_box(height, width, scale, ratio, draws)

        def in_turn(draws=draws, height=height, width=width):
            for k in range(0, len(draws), 4):
                yield from draws[k : k + 2]
                area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[k])
                aspect = math.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * draws[k + 1])
                if (
                    0 < round((area * aspect) ** 0.5) <= width
                    and 0 < round((area / aspect) ** 0.5) <= height
                ):
                    yield from draws[k + 2 : k + 4]
                    return

        numbers = in_turn()
        image = torch.empty(3, height, width, dtype=torch.uint8)
        theirs = RandomResizedCrop.get_params(image, list(scale), list(ratio))
        assert ours == tuple(theirs), (height, width)
        fell_back += next(numbers, None) is None and ours[:2] != (0, 0)
    assert fell_back


@pytest.mark.integration
def test_the_law_of_crops_is_torchvisions():
    """Two samples of 20,000 boxes in a 7 x 6 image: chi-squared over the boxes, p > 1e-4."""
    count, scale, ratio = 20_000, (0.3, 1.0), (3 / 4, 4 / 3)
    generator = torch.Generator().manual_seed(1)
    draws = torch.rand(count, DRAWS - 1, generator=generator, dtype=torch.float64).tolist()
    ours = Counter(crop_box(7, 6, scale, ratio, numbers) for numbers in draws)
    image = torch.empty(3, 7, 6, dtype=torch.uint8)
    theirs = Counter(
        tuple(RandomResizedCrop.get_params(image, list(scale), list(ratio))) for _ in range(count)
    )
    often = [box for box in ours | theirs if ours[box] + theirs[box] >= 20]
    assert len(often) > 50
    statistic = sum((ours[b] - theirs[b]) ** 2 / (ours[b] + theirs[b]) for b in often)
    assert chi2.sf(statistic, len(often)) > 1e-4


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crop_and_flip_is_torchvisions_crop_flip_and_normalise(interpolation):
    augment = CropAndFlip(16, interpolation=interpolation)
    flips = 0
    for seed in range(40):
        image = picture(30, 41)
        draws = torch.rand(
            DRAWS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        ).tolist()
        box = crop_box(30, 41, augment.scale, augment.ratio, draws[1:])
        mode = transforms.InterpolationMode(interpolation)
        expected = transforms.resized_crop(image, *box, [16, 16], mode, antialias=True)
        if draws[0] < 0.5:
            expected = transforms.horizontal_flip(expected)
            flips += 1
        expected = transforms.to_dtype(expected, torch.float32, scale=True)
        expected = transforms.normalize(expected, list(IMAGENET_MEAN), list(IMAGENET_STD))
        got = augment(image, torch.Generator().manual_seed(seed))
        # two roundings of float32 around values of up to 3
        torch.testing.assert_close(got, expected, atol=2e-6, rtol=0)
        assert got.is_contiguous()
    assert 10 < flips < 30


@pytest.mark.parametrize(("size", "n"), [(169, 2), (100, 2), (84, 4), (42, 8)])
def test_reduced_jpegs_differ_less_than_filters_do(size, n, tmp_path):
    """Photographs, at the margin: RMS to full decoding against bilinear to bicubic."""
    for k, pixels in enumerate(load_sample_images().images):
        Image.fromarray(pixels[:424]).save(tmp_path / f"{k}.jpg", quality=90)

    def crops(**options):
        crop = CropAndFlip(size, (1.0, 1.0), (640 / 424, 640 / 424), None, **options)
        assert 424 // n >= REDUCED_MARGIN * size > 424 // (2 * n) or n == 8
        samples = FolderSamples(find_training_files(tmp_path), crop, seed=0)
        return torch.stack([samples.load(k, 0) for k in range(2)]).float()

    reduced, exact, bicubic = crops(), crops(exact=True), crops(exact=True, interpolation="bicubic")
    for k in range(2):
        error = (reduced[k] - exact[k]).square().mean().sqrt()
        assert 0.1 < error < (bicubic[k] - exact[k]).square().mean().sqrt()


def test_the_memory_layout_of_the_image_does_not_matter():
    image = picture(33, 29)
    interleaved = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    before = image.clone()
    for seed in range(5):
        a, b = (
            CropAndFlip(24)(x, torch.Generator().manual_seed(seed)) for x in (image, interleaved)
        )
        assert torch.equal(a, b)
    assert torch.equal(image, before)
    # an image of the right size is not changed in place either
    CropAndFlip(33, scale=(1.0, 1.0))(picture(33, 33), torch.Generator())


def test_centre_crop_is_timms_up_to_a_grey_level():
    """timm's evaluation transform works on Pillow images, ours on tensors."""
    image = picture(90, 70)
    transform = create_transform((3, 32, 32), crop_pct=0.875, interpolation="bicubic")
    theirs = transform(Image.fromarray(image.permute(1, 2, 0).numpy()))
    ours = CentreCrop(32)(image)
    levels = (ours - theirs).abs() * torch.tensor(IMAGENET_STD)[:, None, None] * 255
    assert levels.max() < 1.01
    assert levels.mean() < 0.05
    assert CentreCrop(8, share=1.0)(picture(8, 8)).shape == (3, 8, 8)


def test_other_channels_need_their_own_statistics():
    augment = CropAndFlip(4, mean=(0.5,), std=(0.25,))
    grey = torch.full((1, 9, 9), 255, dtype=torch.uint8)
    torch.testing.assert_close(augment(grey, torch.Generator()), torch.full((1, 4, 4), 2.0))
    with pytest.raises(ValueError, match=r"expected a uint8 image \(3, H, W\)"):
        CropAndFlip(4)(grey, torch.Generator())
    with pytest.raises(ValueError, match=r"got torch.float32"):
        CentreCrop(4)(torch.zeros(3, 9, 9))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "at least 1 pixel"),
        ({"size": 8, "scale": (0.9, 0.5)}, "for scale"),
        ({"size": 8, "scale": (0.5, 1.1)}, "for scale"),
        ({"size": 8, "ratio": (0.0, 1.0)}, "for ratio"),
        ({"size": 8, "flip": 1.1}, "flip from 0 to 1"),
        ({"size": 8, "std": (0.2, 0.0, 0.2)}, "positive std"),
        ({"size": 8, "mean": (0.5,)}, "per channel"),
        ({"size": 8, "interpolation": "nearest"}, "'bilinear' or 'bicubic'"),
    ],
)
def test_settings_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        CropAndFlip(**arguments)


def test_a_share_out_of_range():
    with pytest.raises(ValueError, match="share in"):
        CentreCrop(8, share=0.0)


def test_pillow_agrees_on_a_crop():
    """Up to one grey level, which is what the two roundings allow."""
    image = picture(60, 60)
    augment = CropAndFlip(24, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    draws = torch.rand(DRAWS, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    top, left, h, w = crop_box(60, 60, augment.scale, augment.ratio, draws[1:].tolist())
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).crop((left, top, left + w, top + h))
    expected = np.array(pillow.resize((24, 24), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    if draws[0] < 0.5:
        expected = expected[:, :, ::-1].copy()
    got = augment(image, torch.Generator().manual_seed(3))
    assert (got - torch.from_numpy(expected)).abs().max() <= 1.01


def drawn(image):
    """A transform that draws from all three global states, and shows what it drew."""
    pixels = torch.from_numpy(np.array(image)).float()
    draws = [random.random(), np.random.rand(), torch.rand(()).item()]  # noqa: NPY002
    return torch.tensor([*draws, pixels.mean()], dtype=torch.float32)


def test_a_pillow_transform_draws_from_the_generator_only():
    augment = PilTransform(drawn)
    image = picture(9, 8)
    before = [random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()]  # noqa: NPY002
    first = augment(image, torch.Generator().manual_seed(1))
    after = [random.getstate(), np.random.get_state()[1], torch.get_rng_state()]  # noqa: NPY002
    assert before[0] == after[0]
    assert np.array_equal(before[1], after[1])
    assert torch.equal(before[2], after[2])
    for _ in range(3):  # moves the global states
        random.random(), np.random.rand(), torch.rand(())  # noqa: NPY002
    again = augment(image, torch.Generator().manual_seed(1))
    other = augment(image, torch.Generator().manual_seed(2))
    assert torch.equal(first, again)
    assert (first[:3] != other[:3]).all()
    assert len(set(first[:3].tolist())) == 3
    assert first[3] == image.float().mean()


def test_global_states_are_put_back_after_an_error():
    def fails(image):
        random.random()
        raise OSError("cut")

    state = random.getstate()
    with pytest.raises(OSError, match="cut"):
        PilTransform(fails)(picture(4, 4), torch.Generator())
    assert random.getstate() == state


@pytest.mark.parametrize("training", [False, True])
def test_timms_transforms(training):
    """With RandAugment, erasing and a crop: the same image for the same key."""
    options = {"auto_augment": "rand-m9-mstd0.5", "re_prob": 1.0} if training else {}
    transform = create_transform((3, 16, 16), is_training=training, **options)
    image = picture(30, 40)
    augment = PilTransform(transform)
    got = augment(image, torch.Generator().manual_seed(5))
    assert got.shape == (3, 16, 16)
    assert torch.equal(got, augment(image, torch.Generator().manual_seed(5)))
    assert torch.equal(got, augment(image, torch.Generator().manual_seed(6))) != training
    if not training:
        assert torch.equal(got, transform(Image.fromarray(image.permute(1, 2, 0).numpy())))


def test_pillow_transforms_of_something_else():
    augment = PilTransform(np.array)
    with pytest.raises(ValueError, match=r"uint8 image \(1, H, W\) or .*, got torch.float"):
        augment(torch.zeros(3, 4, 4), torch.Generator())
    with pytest.raises(ValueError, match="float32 tensor, got a uint8; end it with ToTensor"):
        augment(picture(4, 4), torch.Generator())
    grey = PilTransform(lambda image: torch.tensor([len(image.getbands()), *image.size]).float())
    one = torch.zeros(1, 4, 5, dtype=torch.uint8)
    assert grey(one, torch.Generator()).tolist() == [1, 5, 4]


def test_arrays_of_many_channels_go_the_way_of_pictures():
    """Each channel as a picture of its own does, rounding aside."""
    levels = picture(50, 70).float().div(255)
    four = torch.cat([levels, levels[:1].flip(-1)])
    generator = torch.Generator()
    config = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3, "crop_pct": 0.9}
    expected = PilTransform.of(config)((255 * levels).to(torch.uint8), generator)
    wide = config | {"input_size": (4, 32, 32), "mean": (0.5,) * 4, "std": (0.25,) * 4}
    found = PilTransform.of(wide)(four, generator)
    assert found.shape == (4, 32, 32)
    torch.testing.assert_close(found[:3].clamp(-2, 2), expected, rtol=0, atol=4 / 255 * 1.5)
    for augment in (CropAndFlip(16, mean=(0.5,) * 4, std=(0.25,) * 4),):
        assert channels_of(augment) == 4
        whole = augment(four, generator.manual_seed(3))
        part = CropAndFlip(16, mean=(0.5,) * 3, std=(0.25,) * 3)(
            (255 * levels).to(torch.uint8), generator.manual_seed(3)
        )
        torch.testing.assert_close(whole[:3], part, rtol=0, atol=4 / 255 * 1.5)
    assert channels_of(lambda image, generator: image) == 3
    assert channels_of(PilTransform.of(config | {"input_size": (1, 32, 32)})) == 1
