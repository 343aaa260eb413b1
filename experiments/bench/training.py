"""Rows of the benchmark about training: a step against a bare one, loaders against timm's.

    pretrain/step/*   images a second of an A2MIM step (mask, fill, token, decoder, both losses,
                      backward, AdamW) / of a bare forward, backward and AdamW of the same backbone
    loader/folder     images a second of ``FolderSamples`` in one process / of timm's loader
    loader/tar        the same of ``TarSamples``, against the same timm loader on the same images
    loader/photographs/*  the same of ``FolderSamples`` and crops of 224 px of larger photographs;
                      the notes have it with full decoding, and torchvision's v2 transforms of
                      tensors from its own decoder

All sides of a loader row decode JPEG, crop at random, flip and normalise (ours whole batches, as
in training). These rows have lower bounds as targets: the ratio is a throughput. Rows of a GPU,
with the engine's loop, are in :mod:`experiments.bench.gpu`.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm import create_model
from timm.data import create_dataset, create_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from a2mim.data.augment import IMAGENET_MEAN, IMAGENET_STD, CropAndFlip, Normalise
from a2mim.data.sampler import Batches, MicroBatches, Samples, make_loader
from a2mim.data.samples import FolderSamples, find_training_files
from a2mim.data.tar import TarSamples, write_shards
from a2mim.methods.masked_image_model import MaskedImageModel
from a2mim.methods.masking import BlockMask
from experiments.bench.timing import Row, alternate
from interactions.keys import torch_seeded

STEP_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_tiny": ("vit_tiny_patch16_224", {"img_size": 64}),
    "resnet18": ("resnet18", {}),
}
STEPS = 8
PICTURE, PICTURES, CROP, LOADED = 160, 256, 64, 32
"""Edge and number of the JPEG files of the loader rows, edge of the crops and size of a batch."""

SIZE, BLOCK, BATCH = 64, 16, 32
"""Edges of the images and of a mask's blocks, and images of a step."""

PHOTOGRAPHS = ((500, 375), (640, 480), (1024, 768), (2048, 1536))
"""Widths and heights of photographs: the first is what ImageNet's have on average."""

LARGE_CROP, QUALITY = 224, 98


def step(row: str, name: str, repeats: int) -> Row:
    """Images a second of A2MIM steps against bare steps of the same backbone."""
    model, options = STEP_MODELS[name]
    with torch_seeded(0):
        bare: Any = create_model(model, num_classes=0, **options)
        backbone = create_model(model, num_classes=0, **options)
        images = torch.randn(BATCH, 3, SIZE, SIZE)
    method = MaskedImageModel(backbone, BlockMask(SIZE, block=BLOCK), loss="official-vit")
    numbers = torch.arange(BATCH)
    ours = _steps(method, lambda: method(images, method.draw(numbers, seed=0))["loss"])
    theirs = _steps(bare, lambda: bare.forward_features(images).square().mean())
    for warm_up in (ours, theirs):
        warm_up()
    with tqdm(total=2 * repeats, desc=row, leave=False) as bar:
        seconds = alternate(ours, theirs, repeats, bar.update)
    rate, bare_rate = (BATCH * STEPS / t for t in seconds)
    return Row(row, rate, bare_rate, target=0.9, unit="images/s", n=repeats)


def _steps(module: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Some steps of an optimiser."""
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-4)
    module.train()

    def run() -> None:
        for _ in range(STEPS):
            optimiser.zero_grad()
            loss().backward()
            optimiser.step()

    return run


def loader(row: str, kind: str, repeats: int) -> Row:
    """Images a second and process, of our loader against timm's on the same JPEG files."""
    with TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        write_pictures(root)
        augment = CropAndFlip(CROP, mean=None)
        if kind == "tar":
            shards = write_shards(root, Path(folder) / "shards", per_shard=PICTURES // 2)
            samples: Samples = TarSamples(shards, augment, seed=0)
        else:
            samples = FolderSamples(find_training_files(root), augment, seed=0)
        sides = {"ours": _batches(samples, PICTURES), "timm": _of_timm(root, CROP)}
        return _loaders(row, sides, PICTURES, 1.0, repeats)


def photographs(row: str, size: tuple[int, int], repeats: int) -> Row:
    """The same of crops of 224 px of photographs of a size, (width, height)."""
    count = 2 * LOADED
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write_photographs(root, size, count)
        files = find_training_files(root)
        reduced, exact = (
            FolderSamples(files, CropAndFlip(LARGE_CROP, mean=None, exact=full), seed=0)
            for full in (False, True)
        )
        tensors = _OfTorchvision([str(root / name) for name in files.names])
        sides: dict[str, Callable[[], Iterable[Tensor]]] = {
            "ours": _batches(reduced, count),
            "timm": _of_timm(root, LARGE_CROP),
            "ours, decoded in full": _batches(exact, count),
            "torchvision v2 on tensors": lambda: DataLoader(tensors, LOADED, shuffle=True),
        }
        return _loaders(row, sides, count, 1.5, repeats)


def _loaders(
    row: str,
    sides: Mapping[str, Callable[[], Iterable[Tensor]]],
    count: int,
    target: float,
    repeats: int,
) -> Row:
    """A row of the first two loaders, in turn; rates of the others are notes."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in tqdm(range(repeats), desc=row, leave=False):
        for name, batches in sides.items():
            start = time.perf_counter()
            loaded = sum(len(batch) for batch in batches())
            seconds[name].append(time.perf_counter() - start)
            if loaded != count:
                raise ValueError(f"expected {count} images from {name}, got {loaded}")
    ours, baseline, *others = (count / statistics.median(seconds[name]) for name in sides)
    told = (f"{name}: {rate:.4g}" for name, rate in zip(list(sides)[2:], others, strict=True))
    notes = (", ".join(told),) if others else ()
    return Row(row, ours, baseline, target, unit="images/s/core", n=repeats, notes=notes)


def _batches(samples: Samples, count: int) -> Callable[[], Iterable[Tensor]]:
    batches = MicroBatches(Batches(len(samples), LOADED), 0, count // LOADED)
    normalise = Normalise()
    return lambda: (normalise(batch["image"]) for batch in make_loader(samples, batches))


def _of_timm(root: Path, size: int) -> Callable[[], Iterable[Tensor]]:
    loader = create_loader(
        create_dataset("", root=str(root / "train")),
        input_size=(3, size, size),
        batch_size=LOADED,
        is_training=True,
        use_prefetcher=False,
        no_aug=False,
        scale=(0.67, 1.0),
        ratio=(3 / 4, 4 / 3),
        hflip=0.5,
        color_jitter=0.0,
        interpolation="bilinear",
        num_workers=0,
        persistent_workers=False,
    )
    return lambda: (batch[0] for batch in loader)


class _OfTorchvision(Dataset[Tensor]):
    """The same by torchvision's decoder and its transforms of tensors."""

    def __init__(self, files: Sequence[str]) -> None:
        from torchvision.transforms import v2

        self._files = files
        self._transform = v2.Compose(
            [
                v2.RandomResizedCrop(LARGE_CROP, scale=(0.67, 1.0), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Tensor:
        from torchvision.io import ImageReadMode, decode_jpeg, read_file

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pixels_CHW = decode_jpeg(read_file(self._files[index]), ImageReadMode.RGB)
        return cast(Tensor, self._transform(pixels_CHW))


def write_photographs(root: Path, size: tuple[int, int], count: int) -> None:
    """JPEG files cut from mirrored copies of the photographs of scikit-learn, side by side.

    Of 500 x 375 px they have about 110 kB, as those of ImageNet.
    """
    width, height = size
    for label, pixels in enumerate(load_sample_images().images):
        folder = root / "train" / str(label)
        folder.mkdir(parents=True)
        right = np.concatenate([pixels, pixels[:, ::-1]], axis=1)
        tile = np.concatenate([right, right[::-1]])
        times = (-(-height // len(pixels)), -(-width // pixels.shape[1]), 1)
        wall = np.tile(tile, times)
        for k in range(count // 2):
            top, left = 7 * k, 13 * k
            cut = wall[top : top + height, left : left + width]
            Image.fromarray(cut).save(folder / f"{k:04d}.jpg", quality=QUALITY)


def write_pictures(root: Path) -> None:
    """JPEG files cut from the two photographs that come with scikit-learn, in two classes."""
    for label, pixels in enumerate(load_sample_images().images):
        folder = root / "train" / str(label)
        folder.mkdir(parents=True)
        height, width = pixels.shape[:2]
        for k in range(PICTURES // 2):
            top = 7 * k % (height - PICTURE)
            left = 13 * k % (width - PICTURE)
            cut = pixels[top : top + PICTURE, left : left + PICTURE]
            Image.fromarray(cut).save(folder / f"{k:04d}.jpg", quality=90)
