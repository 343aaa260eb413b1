"""What hiding parts of images does to predictions, of one or several networks on the same masks.

Source: the protocols of IPViT (Naseer et al., NeurIPS 2021), of the missingness study (Jain et al.,
ICLR 2022) and of OpenMixup, with masks per image, intervals and paired comparisons.
Command: ``a2mim occlusion CKPT... --images DIR``, or ``--data NAME``.
Machine and time: about (occluders x repeats x fractions) forwards per image and network; a bar
tells the time that is left.
Expected: near 70 % top-1 for DeiT-S and near 0.1 % for ResNet-50 with half of the patches hidden by
``--preset ipvit`` on the validation images of ImageNet (read in the paper).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from a2mim.settings import shared
from a2mim.settings.numbers import Within
from a2mim.settings.weights import WeightsConfig

Fill = Literal[
    "zero",
    "black",
    "white",
    "image_mean",
    "blur",
    "blur21",
    "noise",
    "random_colour",
    "uniform_noise",
    "token_drop",
]


@dataclass(frozen=True)
class OcclusionConfig:
    """Settings of ``a2mim occlusion``."""

    checkpoints: shared.Checkpoints
    images: shared.Images = None
    data: str = ""
    """Test images of a set by name (digits, cifar10, ...), or of folder:PATH with train/<class>/
    and val/<class>/, searched like --images."""
    label: Literal["auto", "truth", "prediction"] = "auto"
    """What predictions are compared with: the classes of --images or --data (truth), or what the
    same network says of the whole image (prediction), which needs no classes and tells agreement,
    divergences and confidence, but no accuracy or calibration; auto: truth where it is known and of
    the classes of all networks, otherwise prediction."""
    count: Annotated[shared.Count, Within(2)] = 1000
    occluder: tuple[str, ...] = ("random",)
    """What is hidden: random, complement, salient, non_salient, salient_mass, non_salient_mass,
    block, centre, border, checkerboard, mae, simmim, beit; several are several curves."""
    fill: Fill = "zero"
    """What hidden pixels become: zero (after normalisation: the mean colour), black, white,
    image_mean, blur (sigma 10), blur21 (the same in a kernel of 21 pixels, Jain et al.), noise
    (Gaussian), random_colour (one per image), uniform_noise (per pixel); or token_drop, which
    leaves the tokens out of a ViT: another experiment, not another colour."""
    grid: shared.Grid = None
    superpixels: Annotated[int, Within(0)] = 0
    """Hide superpixels instead of patches, this many of each image (at least 3), cut out of the
    pixels that the networks see; 0 for patches. Only random, complement and mae can hide them, and
    no token is left out."""
    fractions: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Hidden fractions, ascending; curves are drawn over what is really hidden."""
    repeats: Annotated[int, Within(1)] = 1
    """Independent masks per image, occluder and fraction."""
    preset: str = ""
    """Occluder, fill, patches and fractions of a publication instead of those above: ipvit (its
    --grid can be 4x4, 4x8, 7x7, 8x8, 14x14 or 16x16, and is 14x14 if left out), ipvit_offset,
    ipvit_salient, ipvit_non_salient or openmixup. How images are resized and cut stays the
    network's own; a note says where IPViT's differs."""
    saliency: str = "vit_small_patch16_224.dino"
    """The network whose class attention is the saliency, for the salient occluders: a timm ViT with
    a class token, named like a checkpoint; the default is IPViT's."""
    saliency_head: Annotated[int, Within(-1)] = 1
    """Which of its heads, from 0; -1 for their mean."""
    saliency_method: str = "attention"
    """attention, or an attribution of captum's to the class that --saliency predicts, which is then
    any network with a classifier: Saliency, InputXGradient, IntegratedGradients, GuidedBackprop,
    Deconvolution, Occlusion or ShapleyValueSampling, with captum's defaults. The last two hide the
    patches of --grid. salient_mass and non_salient_mass need attention or Saliency, the two that
    are never below 0."""
    probe_data: str = ""
    """Clean training images for a linear probe on networks without a classifier: a set by name, or
    folder:PATH; those of --data if left out."""
    probe_max_train: Annotated[int | None, Within(2)] = None
    """At most this many of them, drawn by seed 0."""
    seed: shared.Seed = 0
    batch_size: shared.BatchSize = 0
    precision: shared.AnyPrecision = "auto"
    weights: tyro.conf.OmitArgPrefixes[WeightsConfig] = field(default_factory=WeightsConfig)
    """How weights become a network."""
    out: shared.Out = None
    device: shared.Device = "auto"
    resume: shared.Resume = True
