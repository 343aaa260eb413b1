"""What is trained how: recipes of ``a2mim`` on small images, one line of difference an arm.

Source: A2MIM's configurations (tokens, fills, losses by family; see ``a2mim configs``), SimMIM's,
MAE's. Rates and lengths are those of our small recipes and were not tuned on any of these numbers.
All arms of an architecture begin with the same weights for the same seed, and are fine-tuned by the
same recipe for as many steps; the two that are not pre-trained differ in augmentation alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from a2mim.recipes.finetune import RECIPES as FINETUNE
from a2mim.recipes.finetune import FinetuneConfig
from a2mim.recipes.pretrain import RECIPES as PRETRAIN
from a2mim.recipes.pretrain import PretrainConfig, changed
from experiments.cifar10 import networks
from experiments.cifar10.sizes import Size

Arch = Literal["vit", "resnet"]
SCRATCH, STRONG, UNTRAINED = "scratch", "strong", "untrained"
NAMES: dict[str, str] = {"vit": "ViT", "resnet": "ResNet"}
"""What architectures are called in sentences and figures."""

ARMS: dict[str, tuple[str, ...]] = {
    "vit": (SCRATCH, "a2mim", "simmim", STRONG, "mae"),
    "resnet": (SCRATCH, "a2mim", "simmim", STRONG),
}
"""Arms of each architecture, the most informative first."""

EXTRAS = ("cmae", "mae-10-images")
"""More arms of the ViT, for two claims of Kong & Zhang."""

ABLATIONS: dict[str, dict[str, Any]] = {
    "fill-zero": {"fill": "zero"},
    "token-position-3": {"position": 3},
    "token-replace": {"token": "replace"},
    "fourier-none": {"fourier_weight": 0.0},
    "fourier-paper": {"loss": "paper"},
    "ratio-0.4": {"mask_ratio": 0.4},
    "ratio-0.75": {"mask_ratio": 0.75},
    "block-1-patch": {"block": 1},
    "block-4-patches": {"block": 4},
}
"""One change each of the ViT's A2MIM, which fills with the image's mean, adds a token before the
first block, has the official Fourier loss and hides 60 % in blocks of 2 x 2 patches; blocks are in
patches here. No fill at all is none of them: its token has to replace what is hidden, and a token
that does so before the first block leaves nothing to see of any fill."""

ABLATED = {("accuracy", ""): "accuracy", ("J middle", "fine-tuned"): "J of middle orders"}
"""What is asked of them, by measure and setting (:mod:`experiments.cifar10.tables`), and what it is
called."""


@dataclass(frozen=True)
class Arm:
    """One training: an architecture, how it is trained, and a training seed."""

    arch: str
    name: str
    seed: int

    @property
    def label(self) -> str:
        """Name of stages and tables."""
        return f"{self.arch}-{self.name}-{self.seed}"

    @property
    def pretrained(self) -> bool:
        """Whether pre-training comes first."""
        return self.name not in (SCRATCH, STRONG)


def backbone(arm: Arm, size: Size) -> tuple[str, dict[str, Any]]:
    """Name and options of the timm model."""
    if arm.arch == "vit":
        options = networks.vit(size.image_size, size.vit_width, size.vit_depth)
        return "vit_tiny_patch16_224", options
    options = networks.resnet(size.image_size, size.resnet_channels, size.resnet_blocks)
    return networks.small_image_resnet.__name__, options


def pretraining(arm: Arm, size: Size, data: str) -> tuple[str, PretrainConfig]:
    """The recipe of an arm's pre-training, by its name, and its settings."""
    name = "cifar10-resnet" if arm.arch == "resnet" else "cifar10-vit"
    method = {"mae": "cifar10-mae", "mae-10-images": "cifar10-mae", "cmae": "cifar10-cmae"}
    name = method.get(arm.name, name)
    patch = size.image_size // 8
    config = PRETRAIN[name]()
    architecture, options = backbone(arm, size)
    changes: dict[str, Any] = {}
    if name == "cifar10-vit":
        changes |= {"position": 0}
    if name == "cifar10-resnet":
        changes |= {"position": 3}
    if arm.name == "simmim":
        changes |= {"fill": "none", "token": "replace", "position": 0, "loss": "simmim"}
    changes |= ABLATIONS.get(arm.name, {})
    blocks = changes.pop("block", 1 if name in method.values() else 2)
    if arm.name == "mae-10-images":
        changes |= {"few": 10, "epoch_images": size.train}
    return name, changed(
        config,
        backbone=architecture,
        model_kwargs=options,
        image_size=size.image_size,
        block=blocks * patch,
        data=data,
        mean=size.mean,
        std=size.std,
        seed=arm.seed,
        epochs=size.pretrain_epochs,
        warmup=size.pretrain_epochs / 10,
        batch_size=size.batch,
        lr=size.lr,
        workers=size.workers,
        save_every=max(size.pretrain_epochs // 6, 1),
        export_every=size.export_every,
        trackers=(),
        compile=False,  # a minute at first, of every stage
        **changes,
    )


def finetuning(arm: Arm, size: Size, data: str) -> FinetuneConfig:
    """The supervised recipe: the same for all arms, but for the strong augmentation of one."""
    config = replace(
        FINETUNE["cifar10"](),
        data=data,
        mean=size.mean,
        std=size.std,
        train_size=size.image_size,
        test_size=size.image_size,
        test_resize=size.image_size,
        mixup=0.0,
        epochs=size.finetune_epochs,
        warmup=size.finetune_epochs / 10,
        batch_size=size.batch,
        mix_group=size.batch,
        lr=size.lr,
        workers=size.workers,
        seed=arm.seed,
        compile=False,
        rules="vit" if arm.arch == "vit" else "cnn",
        save_every=max(size.finetune_epochs // 6, 1),
    )
    return replace(config, cutmix=1.0, erasing=0.25) if arm.name == STRONG else config
