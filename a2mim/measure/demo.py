"""What ``a2mim demo`` measures of the networks it trains: interactions, occlusion, accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from a2mim.measure.interactions import interaction_curves
from a2mim.measure.occlusion import occlusion
from a2mim.recipes.demo import ALL, DATA, FEW
from a2mim.runs.table import ENERGY, RHO, RHO_BOUND, per_image_rows, read_table
from a2mim.settings.demo import DemoConfig
from a2mim.settings.interactions import InteractionsConfig
from a2mim.settings.occlusion import OcclusionConfig
from a2mim.settings.weights import WeightsConfig
from interactions.orders.pairs import NeighbourPairs
from interactions.patches import PatchGrid

FRACTIONS = (0.0, 0.2, 0.4, 0.6, 0.8)
GRID = 8
"""Players a side: one for each measured value of a digit."""
RADIUS = 2
MAX_PAIRS = len(NeighbourPairs(PatchGrid(GRID, GRID), radius=RADIUS).candidates())


def measure(name: str, seed: int, config: DemoConfig, runs: Path, data: str) -> None:
    """Interactions and occlusion of both networks with all labels, of a training seed."""
    label = f"{name}-{seed}"
    files = {arm: str(runs / f"{arm}-{label}/model.safetensors") for arm in ALL}
    named = tuple((file, f"name={arm}") for arm, file in files.items())
    same: dict[str, Any] = {
        "checkpoints": tuple(files.values()),
        "weights": WeightsConfig(per_network=named),
        "data": data,
        "label": "truth",
        "grid": GRID,
        "precision": "float32",
        "device": config.device,
    }
    interaction_curves(
        InteractionsConfig(
            **same,
            count=config.count,
            pairs=config.pairs,
            radius=RADIUS,
            replicates=config.replicates,
            windows=1,
            target=0,
            out=runs / f"interactions-{label}",
        )
    )
    occlusion(
        OcclusionConfig(
            **same,
            count=config.occlusion_images,
            fractions=FRACTIONS,
            out=runs / f"occlusion-{label}",
        )
    )


def rows_of(name: str, seed: int, runs: Path) -> pd.DataFrame:
    """What was measured of a network and training seed: a value an image, and rho."""
    label = f"{name}-{seed}"
    game = read_table(runs / f"interactions-{label}/rows.csv")
    of: dict[str, Any] = {"run": "demo", "model": name, "dataset": DATA, "seed": seed}
    tables = [game[game["measure"].isin([ENERGY, RHO, RHO_BOUND])].assign(**of)]
    of |= {"commit": game["commit"].iloc[0]}
    for arm in (*ALL, *FEW):
        told = pd.read_csv(runs / f"{arm}-{label}/predictions.csv")
        right = (told["label"] == told["predicted"]).to_numpy()[:, None]
        images = told["image"].astype(str)
        of |= {"weights": arm, "measure": "accuracy", "setting": ""}
        tables.append(per_image_rows(right, images, [0.0], 1, **of))
    for arm in ALL:
        (file,) = (runs / f"occlusion-{label}/images").glob(f"*-{arm}-random.csv.gz")
        told = pd.read_csv(file).pivot(index="image", columns="fraction", values="correct")
        setting = f"grid={GRID}x{GRID} drop=random fill=zero"
        of |= {"weights": arm, "measure": "occlusion_accuracy", "setting": setting}
        tables.append(
            per_image_rows(told.to_numpy(), told.index, told.columns.astype(float), 1, **of)
        )
    return pd.concat(tables, ignore_index=True)
