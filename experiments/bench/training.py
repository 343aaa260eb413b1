"""Rows of the benchmark about training: a step against a bare one, loaders against timm's.

    pretrain/step/*   images a second of an A2MIM step (mask, fill, token, decoder, both losses,
                      backward, AdamW) / of a bare forward, backward and AdamW of the same backbone
                      at the same precision; with a GPU the notes have the floating-point operations
                      a second too, beside those of a large matrix product
    loader/folder     images a second of ``FolderSamples`` in one process / of timm's loader
    loader/tar        the same of ``TarSamples``, against the same timm loader on the same images

Both sides of a loader row decode JPEG, crop at random, flip and normalise. These rows have lower
bounds as targets: the ratio is a throughput.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm import create_model
from timm.data import create_dataset, create_loader
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from a2mim.data.augment import CropAndFlip
from a2mim.data.sampler import Batches, MicroBatches, Samples, keyed_generator, make_loader
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

SIDES = ("A2MIM", "bare")
PRODUCT = 8192
"""Edge of the square matrices whose product says how fast a GPU multiplies at best."""


@dataclass(frozen=True)
class Steps:
    """The steps of one row: both sides do them with these settings.

    Attributes:
        model: a timm model.
        options: arguments for it.
        size: edge of the images.
        block: edge of the mask's blocks.
        batch: images a step.
        a2mim: arguments for :class:`MaskedImageModel`.
        bf16: whether forwards are in bfloat16 where autocast says so; then the row's notes say how
            many operations a second that makes.
        channels_last: whether weights and images have channels last in memory.
        target: of the row.
    """

    model: str
    options: dict[str, Any]
    size: int = 64
    block: int = 16
    batch: int = 32
    a2mim: dict[str, Any] = field(default_factory=lambda: {"loss": "official-vit"})
    bf16: bool = False
    channels_last: bool = False
    target: float = 0.9


CPU_STEPS = {name: Steps(model, options) for name, (model, options) in STEP_MODELS.items()}
_AT_224 = Steps("", {}, size=224, block=32, batch=256, bf16=True, target=0.92)
GPU_STEPS = {
    "vit_base": replace(_AT_224, model="vit_base_patch16_224"),
    "resnet50": replace(
        _AT_224,
        model="resnet50",
        a2mim={"loss": "official-r50", "token": "damped"},
        channels_last=True,
    ),
}


def step(row: str, steps: Steps, repeats: int, device: torch.device) -> Row:
    """Images a second of A2MIM steps against bare steps of the same backbone."""
    layout = torch.channels_last if steps.channels_last else torch.preserve_format
    with torch_seeded(0):
        bare: Any = create_model(steps.model, num_classes=0, **steps.options)
        backbone = create_model(steps.model, num_classes=0, **steps.options)
        images = torch.randn(steps.batch, 3, steps.size, steps.size)
    method = MaskedImageModel(backbone, BlockMask(steps.size, block=steps.block), **steps.a2mim)
    for module in (bare, method):
        module.to(device=device).to(memory_format=layout)
    images = images.to(device=device, memory_format=layout)
    numbers = torch.arange(steps.batch, device=device)

    def a2mim_loss() -> Tensor:
        return method(images, method.draw(numbers, seed=0))["loss"]

    def bare_loss() -> Tensor:
        return bare.forward_features(images).square().mean()

    autocast = torch.autocast(device.type, torch.bfloat16, enabled=steps.bf16)
    ours, theirs = (
        _Training(module, autocast(loss), device)
        for module, loss in ((method, a2mim_loss), (bare, bare_loss))
    )
    for side in (ours, theirs):
        side()  # warms up
    with tqdm(total=2 * repeats, desc=row, leave=False) as bar:
        seconds = alternate(ours, theirs, repeats, bar.update)
    notes: tuple[str, ...] = ()
    if steps.bf16:
        best = product_rate(PRODUCT, device)
        rates = [STEPS * s.operations() / t for s, t in zip((ours, theirs), seconds, strict=True)]
        said = [f"{name} {_tera(r)} ({r / best:.0%})" for name, r in zip(SIDES, rates, strict=True)]
        notes = (f"{', '.join(said)} of the {_tera(best)} of a bf16 product of edge {PRODUCT}",)
    rate, bare_rate = (steps.batch * STEPS / t for t in seconds)
    return Row(row, rate, bare_rate, steps.target, unit="images/s", n=repeats, notes=notes)


def _tera(rate: float) -> str:
    return f"{rate / 1e12:.3g} TFLOP/s"


class _Training:
    """Some steps of an optimiser; called, it returns when they are done."""

    def __init__(self, module: nn.Module, loss: Callable[[], Tensor], device: torch.device) -> None:
        self._loss, self._device = loss, device
        self._optimiser = torch.optim.AdamW(module.parameters(), lr=1e-4)
        module.train()

    def __call__(self) -> None:
        for _ in range(STEPS):
            self._optimiser.zero_grad()
            self._loss().backward()
            self._optimiser.step()
        _wait(self._device)

    def operations(self) -> int:
        """Floating-point operations of one forward and backward, of products and convolutions."""
        with FlopCounterMode(display=False) as counter:
            self._loss().backward()
        return counter.get_total_flops()


def product_rate(edge: int, device: torch.device, repeats: int = 10) -> float:
    """Floating-point operations a second of a bf16 matrix product, median of several."""
    generator = keyed_generator("bench", edge)
    a, b = (torch.randn(edge, edge, generator=generator).to(device).bfloat16() for _ in range(2))
    seconds = []
    for _ in range(3 + repeats):
        _wait(device)
        start = time.perf_counter()
        a @ b
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return 2 * edge**3 / statistics.median(seconds[3:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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
