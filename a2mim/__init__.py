"""Learning from hidden patches: masked image modelling for any timm backbone, ViT or CNN."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from a2mim.checkpoints.save import load_backbone, save_backbone
    from a2mim.methods.decoder import PixelDecoder
    from a2mim.methods.losses import LOSSES, LossSpec, fourier_loss, masked_l1
    from a2mim.methods.mask_token import TokenBlend
    from a2mim.methods.masked_image_model import MaskedImageModel, simmim
    from a2mim.methods.masking import BlockMask, Mask, PatchMask
    from a2mim.methods.sites import Site, site_at, site_of
    from a2mim.methods.targets import Hog, Pixels

# The command's help needs neither torch nor timm: names are imported when they are first used.
_MODULES = {
    "checkpoints.save": ("load_backbone", "save_backbone"),
    "methods.decoder": ("PixelDecoder",),
    "methods.losses": ("LOSSES", "LossSpec", "fourier_loss", "masked_l1"),
    "methods.mask_token": ("TokenBlend",),
    "methods.masked_image_model": ("MaskedImageModel", "simmim"),
    "methods.masking": ("BlockMask", "Mask", "PatchMask"),
    "methods.sites": ("Site", "site_at", "site_of"),
    "methods.targets": ("Hog", "Pixels"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"a2mim.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


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
