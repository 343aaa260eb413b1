"""Shards that the tests of tar files share."""

import io
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from a2mim.data.tar import write_shards

COUNT = 48
PER_SHARD = 6


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """48 images in two classes, and the same in 8 shards of 6."""
    root = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    for k in range(COUNT):
        place = root / "images" / "train" / ("cat" if k % 3 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{k:02d}.{'jpg' if k % 2 else 'png'}")
    write_shards(root / "images", root / "tars", PER_SHARD, seed=1)
    return root


@pytest.fixture
def tars(made, tmp_path):
    """A copy of the shards that a test may damage."""
    return shutil.copytree(made / "tars", tmp_path / "tars")


@pytest.fixture
def rewrite():
    """``rewrite(shard, change)``: images of a shard become ``change(place, bytes)``."""

    def rewrite(shard, change):
        with tarfile.open(shard) as archive:
            members = [(m, archive.extractfile(m).read()) for m in archive]
        with tarfile.open(shard, "w") as archive:
            for place, (member, data) in enumerate(members):
                if not member.name.endswith(".cls"):
                    data = change(place, data)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))

    return rewrite
