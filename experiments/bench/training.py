"""Rows of the benchmark about training: a step against a bare one, loaders against timm's.

    pretrain/step/*   images a second of an A2MIM step (mask, fill, token, decoder, both losses,
                      backward, AdamW) / of a bare forward, backward and AdamW of the same backbone
    loader/folder     images a second of ``FolderSamples`` in one process / of timm's loader
    loader/tar        the same of ``TarSamples``, against the same timm loader on the same images

Both sides of a loader row decode JPEG, crop at random, flip and normalise. These rows have lower
bounds as targets: the ratio is a throughput. Rows of a GPU, with the engine's loop, are in
:mod:`experiments.bench.gpu`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm import create_model
from timm.data import create_dataset, create_loader
from torch import Tensor, nn
from tqdm import tqdm

from a2mim.data.augment import CropAndFlip
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
    augment = CropAndFlip(CROP)
    with TemporaryDirectory() as folder, tqdm(total=2 * repeats, desc=row, leave=False) as bar:
        root = Path(folder) / "images"
        write_pictures(root)
        if kind == "tar":
            shards = write_shards(root, Path(folder) / "shards", per_shard=PICTURES // 2)
            samples: Samples = TarSamples(shards, augment, seed=0)
        else:
            samples = FolderSamples(find_training_files(root), augment, seed=0)
        batches = MicroBatches(Batches(len(samples), LOADED), 0, PICTURES // LOADED)
        theirs = create_loader(
            create_dataset("", root=str(root / "train")),
            input_size=(3, CROP, CROP),
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
        counts: list[int] = []

        def through(images: Callable[[], Iterable[Tensor]]) -> Callable[[], None]:
            return lambda: counts.append(sum(len(batch) for batch in images()))

        ours, baseline = alternate(
            through(lambda: (batch["image"] for batch in make_loader(samples, batches))),
            through(lambda: (batch[0] for batch in theirs)),
            repeats,
            bar.update,
        )
    if set(counts) != {PICTURES}:
        raise ValueError(f"expected {PICTURES} images from both loaders, got {sorted(set(counts))}")
    return Row(
        row, PICTURES / ours, PICTURES / baseline, target=1.0, unit="images/s/core", n=repeats
    )


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
