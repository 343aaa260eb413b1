"""How large a study is: everything that decides its time, from minutes to a day of a GPU.

A budget gets the largest of the :data:`SIZES` that fits with the fewest epochs of that size, and
then as many epochs as fit. Nothing else is changed by a budget.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from a2mim.recipes.pretrain import CIFAR

ORDERS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""The published orders, as shares of n-2: what J is normalised by depends on them."""


@dataclass(frozen=True)
class Size:
    """Everything that decides time, and what numbers mean.

    Attributes:
        name: of the size.
        seeds: training seeds of every arm.
        extra_seeds: of the arms that only Kong & Zhang's claims need.
        ablation_seeds: of the ablations.
        train: training images, drawn once for all arms, as many of each class.
        test: test images that accuracy is measured on.
        pretrain_epochs: passes over the training images; a multiple of ``points`` - 1.
        finetune_epochs: passes over them with classes.
        batch: images a step.
        lr: peak learning rate of both.
        workers: processes that read images.
        strength: test images whose interactions are measured, of a fine-tuned network.
        pairs: pairs of neighbouring patches an image.
        replicates: independent contexts of a pair at an order.
        along: test images whose interactions are measured along pre-training.
        points: networks along pre-training, the untrained and the last one among them.
        occlusion: test images that are occluded.
        fractions: hidden fractions.
        fills: what hidden pixels become.
        features: test images of invariance and spectra.
        probe: training images of the linear probe.
        vit_width: of the ViT; the rest describes networks as well.
    """

    name: str
    seeds: int = 3
    extra_seeds: int = 0
    ablation_seeds: int = 0
    train: int = 4000
    test: int = 1000
    pretrain_epochs: int = 2
    finetune_epochs: int = 2
    batch: int = 32
    lr: float = 5e-4
    workers: int = 0
    strength: int = 60
    pairs: int = 4
    replicates: int = 2
    along: int = 16
    points: int = 3
    occlusion: int = 200
    fractions: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)
    fills: tuple[str, ...] = ("zero", "blur")
    features: int = 128
    probe: int = 2000
    image_size: int = 32
    mean: tuple[float, ...] = CIFAR["mean"]
    std: tuple[float, ...] = CIFAR["std"]
    vit_width: int = 192
    vit_depth: int = 6
    resnet_channels: tuple[int, ...] = (32, 64, 128, 256)
    resnet_blocks: int = 2

    @property
    def export_every(self) -> int:
        """Epochs between backbones that are kept."""
        return max(self.pretrain_epochs // (self.points - 1), 1)

    def stretched(self, epochs: int) -> Size:
        """The same with so many more epochs of fine-tuning, and as many of pre-training, or fewer.

        Those of pre-training stay a multiple of what is between two of its ``points``.
        """
        between = self.points - 1
        return replace(
            self,
            pretrain_epochs=self.pretrain_epochs + epochs // between * between,
            finetune_epochs=self.finetune_epochs + epochs,
        )


TINY = Size(
    "tiny",
    seeds=1,
    train=64,
    test=32,
    batch=16,
    strength=4,
    pairs=2,
    along=2,
    points=2,
    pretrain_epochs=1,
    finetune_epochs=1,
    occlusion=8,
    fractions=(0.0, 0.5),
    fills=("zero",),
    features=8,
    probe=64,
    vit_width=24,
    vit_depth=4,
    resnet_channels=(8, 8, 16, 16),
    resnet_blocks=1,
)
"""A run through everything, whose numbers say nothing."""

SMALL = Size("small", along=12, strength=48)
"""Hours of one core."""

MEDIUM = replace(SMALL, name="medium", ablation_seeds=1, extra_seeds=3)
LARGE = replace(
    SMALL,
    name="large",
    ablation_seeds=1,
    extra_seeds=3,
    train=20_000,
    test=4000,
    batch=128,
    lr=1e-3,
    strength=150,
    pairs=8,
    replicates=4,
    along=50,
    occlusion=1000,
    fractions=tuple(k / 10 for k in range(10)),
    fills=("zero", "blur", "image_mean"),
    features=512,
    probe=10_000,
)
FULL = replace(
    LARGE,
    name="full",
    seeds=5,
    extra_seeds=5,
    ablation_seeds=3,
    train=50_000,
    test=10_000,
    strength=300,
    points=5,
    pretrain_epochs=4,
    finetune_epochs=4,
)

SIZES = (FULL, LARGE, MEDIUM, SMALL, replace(SMALL, name="small, 2 seeds", seeds=2), TINY)
"""From the largest one to the smallest."""
