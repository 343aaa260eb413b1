"""Learning from hidden patches: masked image modelling for any timm backbone, ViT or CNN."""

from a2mim.checkpoint import load_backbone, save_backbone
from a2mim.decoder import PixelDecoder
from a2mim.losses import LOSSES, LossSpec, fourier_loss, masked_l1
from a2mim.mask_tokens import TokenBlend
from a2mim.masking import BlockMask, Mask, PatchMask
from a2mim.model import MaskedImageModel, simmim
from a2mim.sites import Site, site_at, site_of
from a2mim.targets import Hog, Pixels

__all__ = [
    "LOSSES",
    "BlockMask",
    "Hog",
    "LossSpec",
    "Mask",
    "MaskedImageModel",
    "PatchMask",
    "PixelDecoder",
    "Pixels",
    "Site",
    "TokenBlend",
    "fourier_loss",
    "load_backbone",
    "masked_l1",
    "save_backbone",
    "simmim",
    "site_at",
    "site_of",
]
