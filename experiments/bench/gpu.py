"""Rows of a GPU: the toolkit against the fastest bare loop on the same work, in images a second.

    interactions/gpu/*   the estimator at 224 px in float16; its ends are in float32
    occlusion/gpu/*      occlude(), ten fractions
    invariance/gpu/*     invariance() of all layers and readouts; images through both networks
    pretrain/gpu/*       the engine's loop as ``a2mim pretrain`` runs a recipe: crops of images on
                         the device, masks, both losses, fused AdamW, clipping, reports

Bare is the network alone: a forward of halves, or forward, backward and AdamW in bfloat16; eager,
with channels last, compiled, in larger batches. Images that it sees are on the device.

Ways run in processes of their own (:mod:`experiments.bench.contest`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from timm import create_model
from torch import Tensor

import interactions as ix
from a2mim.data.arrays import ImageSet
from a2mim.data.augment import CropAndFlip
from a2mim.data.resident import resident
from a2mim.data.sampler import Batches, keyed_generator
from a2mim.data.samples import ArraySamples, RepeatedSamples
from a2mim.recipes.pretrain import RECIPES, PretrainConfig, changed
from a2mim.recipes.pretraining import backbone_of, prepared, settled
from a2mim.recipes.training import engine_arguments
from a2mim.training.arithmetic import float32_products
from a2mim.training.loop import StepReport, pretrain
from experiments.bench.contest import Contest, Turn, Way
from experiments.bench.timing import GRID, IMAGE_SIZE, short
from interactions.features.invariance import invariance, untrained
from interactions.networks.inference import arithmetic
from interactions.occlusion.masks import TENTHS
from interactions.occlusion.predictions import occlude
from interactions.orders.estimator import measure_each

DEVICE = "cuda"

FORWARDS, BATCH = 6144, 512
"""Images of a turn of bare forwards, and of a batch."""

GAMES, PAIRS = 2, 12
"""Images and pairs of a turn of the estimator: of 8,700 forwards 2 % are ends, in float32."""

OCCLUDED, SIMILAR = 512, 256
"""Images of a turn of occlusion and of invariance."""

HELD = 4096
"""Images of a recipe that are on the device, of which its epochs are made again and again."""

MODELS = {
    "vit_small_patch16_224": 30.0,
    "resnet50": 40.0,
    "vit_base_patch16_224": 26.0,
    "convnext_tiny": 36.0,
}
"""Networks of the measuring rows, and the gigabytes that all ways take at once."""

HIDDEN = ("vit_small_patch16_224", "resnet50")
"""Those of which occlusion and invariance are rows too."""


def large(name: str, **changes: Any) -> PretrainConfig:
    """A recipe at 224 px in batches of 256, with ten reports in an epoch of 100 steps."""
    return changed(
        RECIPES[name](), batch_size=256, accumulate=1, epoch_images=25_600, compile=None, **changes
    )


def small(name: str) -> PretrainConfig:
    """A recipe of small images, with its own batches and an epoch of 50,000."""
    return changed(RECIPES[name](), epoch_images=50_000)


VIT_B: dict[str, Any] = {"backbone": "vit_base_patch16_224", "model_kwargs": {}, "position": None}
"""timm's own instead of the official code's, whose relative positions cost time on both sides."""

TRAINED: dict[str, tuple[Callable[[], PretrainConfig], int, float, float]] = {
    "cifar10-vit-gpu": (partial(small, "cifar10-vit-gpu"), 32, 0.85, 21.0),
    "cifar10-resnet-gpu": (partial(small, "cifar10-resnet-gpu"), 32, 0.85, 16.0),
    "tiny-imagenet100-vit": (partial(small, "tiny-imagenet100-vit"), 64, 0.85, 19.0),
    "tiny-imagenet100-resnet": (partial(small, "tiny-imagenet100-resnet"), 64, 0.85, 14.0),
    "vit_base": (partial(large, "a2mim-vit-b-in1k", **VIT_B), 256, 0.95, 50.0),
    "resnet50": (partial(large, "a2mim-r50-in1k"), 256, 0.95, 66.0),
}
"""Rows of training: settings, edge of the images that are cropped, target, and gigabytes."""

READY_TO_MEASURE, READY_TO_TRAIN = 40.0, 55.0
"""Seconds until a pack is ready: processes start, networks are made, compiled and warm."""


def contests() -> list[Contest]:
    """All rows, those first that are missed most if time runs out."""
    training = [_training(name) for name in TRAINED]
    return [*training, *(_measuring(model) for model in MODELS)]


def _training(name: str) -> Contest:
    _, _, target, gigabytes = TRAINED[name]
    eager = {} if target > 0.9 else {"eager": partial(bare_training, name, "eager")}
    larger = {} if target > 0.9 else {"compiled, batches of 2048": "compiled, larger"}
    ways = {"eager, fused AdamW": "fused", "compiled, fused AdamW": "compiled", **larger}
    return Contest(
        bare={**eager, **{way: partial(bare_training, name, how) for way, how in ways.items()}},
        ours={f"pretrain/gpu/{name}": {"fit": partial(our_training, name)}},
        targets={f"pretrain/gpu/{name}": target},
        gigabytes=gigabytes,
        ready=READY_TO_TRAIN,
        turn=0.6 if target < 0.9 else 0.8,
    )


def _measuring(model: str) -> Contest:
    name = short(model)
    ours: dict[str, Mapping[str, Way]] = {
        f"interactions/gpu/{name}": {
            "eager": partial(our_interactions, model, False),
            "compiled": partial(our_interactions, model, True),
        }
    }
    targets = {f"interactions/gpu/{name}": 0.95}
    if model in HIDDEN:
        ours[f"occlusion/gpu/{name}"] = {"occlude": partial(our_occlusion, model)}
        ours[f"invariance/gpu/{name}"] = {"invariance": partial(our_invariance, model)}
        targets |= {f"occlusion/gpu/{name}": 0.85, f"invariance/gpu/{name}": 0.6}
    ways = ("half", "half, channels_last", "half, compiled", "half, channels_last, compiled")
    return Contest(
        bare={way: partial(bare_forwards, model, way) for way in ways},
        ours=ours,
        targets=targets,
        gigabytes=MODELS[model],
        ready=READY_TO_MEASURE,
        turn=0.5,
    )


# --------------------------------------------------------------------------------------------------
# ways


def bare_forwards(model: str, way: str, turn: Turn) -> None:
    """Forwards in float16, of images that are there."""
    last = torch.channels_last if "channels_last" in way else torch.contiguous_format
    network = untrained(partial(create_model, model)).to(DEVICE).half().to(memory_format=last)
    images_BCHW = _images(BATCH).to(DEVICE).half().to(memory_format=last)
    run = torch.compile(network, dynamic=False) if "compiled" in way else network
    with torch.inference_mode(), arithmetic("model", torch.device(DEVICE)):
        while True:
            for _ in range(FORWARDS // BATCH):
                run(images_BCHW)
            _wait()
            turn(FORWARDS)


def our_interactions(model: str, compiled: bool, turn: Turn) -> None:
    """The estimator on some images."""
    network = untrained(partial(create_model, model)).to(DEVICE)
    design = ix.Design(ix.NeighbourPairs(GRID, count=PAIRS))
    names = [str(k) for k in range(GAMES)]
    while True:
        games = ix.PatchGames(
            *(network, _images(GAMES), 0, GRID, names),
            batch_size=BATCH,
            precision="float16",
            compile=compiled,
        )
        turn(sum(record.forwards for record in measure_each(games, design)))


def our_occlusion(model: str, turn: Turn) -> None:
    """Images whole and at nine fractions."""
    network = untrained(partial(create_model, model)).to(DEVICE)
    images_ICHW, labels_I = _images(OCCLUDED), torch.arange(OCCLUDED)
    while True:
        occlude(network, images_ICHW, labels_I, GRID, "random", precision="float16")
        turn(OCCLUDED * len(TENTHS))


def our_invariance(model: str, turn: Turn) -> None:
    """Images whole and at ten fractions, through the network and an untrained one."""
    networks = [untrained(partial(create_model, model), seed).to(DEVICE) for seed in (0, 1)]
    images_ICHW = _images(SIMILAR)
    while True:
        invariance(
            networks[0],
            [images_ICHW],
            GRID,
            untrained=networks[1],
            readouts=["mean"],  # of a ResNet no cell is wholly visible when much is hidden
            repeats=1,
            precision="float16",
        )
        turn(2 * SIMILAR * (1 + len(TENTHS)))


def bare_training(name: str, way: str, turn: Turn) -> None:
    """Steps of the backbone alone: forward, backward, AdamW, in bfloat16."""
    config, device = TRAINED[name][0](), torch.device(DEVICE)
    batch = 4 * config.batch_size if "larger" in way else config.batch_size
    layout = torch.channels_last if device.type == "cuda" else torch.preserve_format
    network: Any = backbone_of(config).to(DEVICE).to(memory_format=layout).train()
    fused = None if way == "eager" else device.type == "cuda"
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, fused=fused)
    images_BCHW = _images(batch, config.image_size).to(DEVICE, memory_format=layout)
    forward = network.forward_features
    if "compiled" in way:
        forward = torch.compile(forward, dynamic=False)
    torch.backends.cudnn.benchmark |= device.type == "cuda"  # as the engine does
    steps = max(1, _per_turn(config) // batch)
    with float32_products("bfloat16", device):
        while True:
            for _ in range(steps):
                with torch.autocast(device.type, torch.bfloat16):
                    loss = forward(images_BCHW).float().square().mean()
                loss.backward()
                optimiser.step()
                optimiser.zero_grad()
            _wait()
            turn(steps * batch)


def our_training(name: str, turn: Turn) -> None:
    """The engine's loop: a turn ends with a report, for which it waits for the device."""
    make, edge, _, _ = TRAINED[name]
    config = settled(make(), DEVICE)
    shape = (HELD, 3, edge, edge)
    pixels_ICHW = torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=keyed_generator("bench", edge)
    )
    names = tuple(map(str, range(HELD)))
    images = ImageSet(pixels_ICHW, torch.zeros(HELD, dtype=torch.int64), names, ("all",))
    augment = CropAndFlip(config.image_size, config.crop, mean=None, std=config.std)
    held = resident(ArraySamples(images, augment, config.seed), augment, config.seed)
    assert held is not None
    samples = RepeatedSamples(held, config.epoch_images or HELD)
    method, optimiser = prepared(config, DEVICE)
    done = 0

    def on_step(report: StepReport) -> None:
        nonlocal done
        images = (report.step - done) * config.batch_size
        if images >= _per_turn(config):
            done = report.step
            turn(images)

    per_epoch = Batches(len(samples), config.batch_size, config.seed).per_epoch
    settings = engine_arguments(replace(config, workers=0), DEVICE, per_epoch)
    pretrain(method, samples, optimiser, **settings, on_step=on_step)


def _per_turn(config: PretrainConfig) -> int:
    """Images of a turn of training: about half a second on a large GPU."""
    return 2_560 if config.image_size == IMAGE_SIZE else 20_000


def _images(count: int, size: int | None = None) -> Tensor:
    size = IMAGE_SIZE if size is None else size
    return torch.randn(count, 3, size, size, generator=keyed_generator("bench", count))


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
