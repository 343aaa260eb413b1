"""What is published of the networks: one of each architecture, in half precision.

With them and an image of each class, a row of ``rows.csv.gz`` can be measured again by anybody.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file, save

from a2mim.files import write_whole
from a2mim.runs.table import ENERGY
from experiments.cifar10.arms import Arm
from experiments.cifar10.stages import network

RELEASED = (Arm("vit", "a2mim", 0), Arm("resnet", "a2mim", 0))


def release(rows: pd.DataFrame, out: Path, folder: Path) -> None:
    """Write networks, and of each class the first image that was measured everywhere.

    Args:
        rows: of all stages.
        out: output folder of the study.
        folder: to write to; what is not done yet is left out.
    """
    folder.mkdir(exist_ok=True)
    for arm in RELEASED:
        file = network(arm, out)
        if file.exists():
            state = {
                name: x.half() if x.is_floating_point() else x
                for name, x in load_file(file).items()
            }
            write_whole(folder / f"{arm.label}.safetensors", save(state))
            about = file.with_suffix(".json").read_text()
            write_whole(folder / f"{arm.label}.json", about)
    images = rows[rows["measure"] == ENERGY]["image"].drop_duplicates().sort_values()
    for name in images.groupby(images.str.split("/").str[0]).first():
        to = folder / "images" / name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(out / "data/val" / name, to)
