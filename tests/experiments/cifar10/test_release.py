"""Rows of the committed study, measured again by its committed network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from a2mim.measure.interactions import interaction_curves
from a2mim.measure.occlusion import occlusion
from a2mim.runs.table import ENERGY, read_table
from a2mim.settings.occlusion import OcclusionConfig
from experiments.cifar10 import tables
from experiments.cifar10.plan import Plan
from experiments.cifar10.release import RELEASED
from experiments.cifar10.sizes import ORDERS
from experiments.cifar10.stages import GRID, game

STUDY = Path(__file__).parents[3] / "results/cifar10"
NETWORKS = STUDY / "networks"
VIT = RELEASED[0]
RESNET = f"{STUDY.parent}/networks.py:small_image_resnet="
NAMES = {
    "vit": f"{NETWORKS / VIT.label}.safetensors",
    "resnet": f"{RESNET}{NETWORKS / RELEASED[1].label}.safetensors",
}


@pytest.fixture(scope="module")
def measured():
    """The committed rows of the committed networks and images."""
    rows = tables.read_rows(STUDY / "rows.csv.gz")
    images = {path.relative_to(NETWORKS / "images").as_posix() for path in NETWORKS.rglob("*.jpg")}
    assert len(images) == 10
    own = (rows["arm"] == VIT.name) & (rows["seed"] == VIT.seed)
    return rows[own & rows["image"].isin(images)]


def test_networks_are_small():
    files = list(NETWORKS.glob("*.safetensors"))
    assert {file.stem for file in files} == {arm.label for arm in RELEASED}
    assert sum(file.stat().st_size for file in files) < 12e6


@pytest.mark.parametrize("arch", NAMES)
def test_accuracies_of_occluded_images_are_measured_again(arch, measured, tmp_path):
    """Random patches hidden: right or wrong, the same for every image and fraction."""
    size = Plan.read(STUDY / "plan.json").size
    occlusion(
        OcclusionConfig(
            checkpoints=(NAMES[arch],),
            images=NETWORKS / "images",
            label="truth",
            count=10,
            occluder=("random",),
            fill="zero",
            grid=GRID,
            fractions=size.fractions,
            out=tmp_path / "run",
            device="cpu",
        )
    )
    (file,) = (tmp_path / "run/images").glob("*.csv.gz")
    again = pd.read_csv(file).set_index(["image", "fraction"])["correct"].astype(float)
    told = measured[measured["measure"] == "occluded accuracy"]
    told = told[(told["arch"] == arch) & (told["setting"] == "random zero")]
    told = told.set_index(["image", "at"])["value"]
    assert len(again) == len(told) == 10 * len(size.fractions)
    differ = (again.sort_index().to_numpy() != told.sort_index().to_numpy()).sum()
    # Of one image the two largest classes of the ResNet are 3e-5 apart, less than half precision.
    assert differ <= (arch == "resnet")
    assert 0 < told.mean() < 1


@pytest.mark.integration
def test_energies_are_measured_again(measured, tmp_path):
    """But for the rounding of weights to half precision."""
    plan = Plan.read(STUDY / "plan.json")
    files = {VIT.label: Path(NAMES["vit"])}
    config = game("strength", VIT, files, plan, tmp_path, images=NETWORKS / "images", count=3)
    interaction_curves(replace(config, device="cpu"))
    again = read_table(tmp_path / f"runs/strength-{VIT.label}/rows.csv")
    again = again[again["measure"] == ENERGY].set_index(["image", "at"])["value"]
    told = measured[(measured["measure"] == ENERGY) & (measured["arch"] == VIT.arch)]
    told = told[told["setting"] == "fine-tuned"]
    told = told.set_index(["image", "at"])["value"].loc[again.index.unique("image")]
    assert len(again) == len(told) == 3 * len(ORDERS)
    again, told = again.sort_index(), told.sort_index()
    np.testing.assert_allclose(again, told, rtol=0.01, atol=1e-3 * told.max())
