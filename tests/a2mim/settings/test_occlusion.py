import re
from pathlib import Path
from typing import get_args

from a2mim.measure.fills import FILLS
from a2mim.measure.occlusion import IPVIT_GRIDS
from a2mim.settings import occlusion
from a2mim.settings.occlusion import Fill, OcclusionConfig
from interactions.occlusion.masks import OCCLUDERS, TENTHS
from interactions.occlusion.presets import PRESETS


def test_the_defaults_are_one_random_mask_per_image_and_fraction():
    config = OcclusionConfig(("net.pth",), data="digits")
    assert (config.occluder, config.grid, config.repeats) == (("random",), None, 1)
    assert config.fractions == TENTHS


def test_the_help_names_every_choice():
    text = Path(occlusion.__file__).read_text()
    for name in (*OCCLUDERS, *PRESETS, *(f"{r}x{c}" for r, c in IPVIT_GRIDS)):
        assert re.search(rf"\b{name}\b", text), name
    assert set(get_args(Fill)) == {*FILLS, "token_drop"}
