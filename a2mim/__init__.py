"""Learning from hidden patches: masked image modelling for any timm backbone, ViT or CNN."""

from a2mim.checkpoint import load_backbone, save_backbone
from a2mim.decoder import PixelDecoder
from a2mim.losses import fourier_loss, masked_l1
from a2mim.mask_tokens import TokenBlend
from a2mim.masking import BlockMask
from a2mim.model import MaskedImageModel
from a2mim.sites import Site, site_of

__all__ = [
    "BlockMask",
    "MaskedImageModel",
    "PixelDecoder",
    "Site",
    "TokenBlend",
    "fourier_loss",
    "load_backbone",
    "masked_l1",
    "save_backbone",
    "site_of",
]
