"""Raw rows of all stages in one table, and what is inferred from it: means and differences of arms.

    rows.csv.gz   a value of a network and an image (and for occlusion, orders, layers: at a place)
    means.csv     of every arm, over images and training seeds
    differences.csv   of two arms of an architecture, paired over images
    ablations.csv     of every change of A2MIM and A2MIM itself, where there are some

Every interval is :func:`interactions.stats.two_level`; of J the value of an image is J of its
network plus the image's influence on it.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from a2mim.files import write_whole
from a2mim.measure.invariance import read_batch
from a2mim.runs.table import ENERGY, LOWER, PUBLISHED, RHO, RHO_BOUND, read_table, strength_from
from experiments.cifar10.arms import ABLATED, ABLATIONS, UNTRAINED, Arm
from experiments.cifar10.plan import Plan
from experiments.cifar10.stages import GRID, stages_of
from interactions.networks.layers import OUTPUT
from interactions.orders.strength import bands_of
from interactions.stats import TwoLevel, effective_images, holm, two_level

ROWS = ("arch", "arm", "seed", "measure", "setting", "at", "image", "value")
KEY = ["measure", "setting", "at", "arch"]
BOUNDS = {
    "J": (0.0, np.inf),
    "accuracy": (0.0, 1.0),
    "linear probe": (0.0, 1.0),
    "occluded accuracy": (0.0, 1.0),
    "similarity": (-1.0, 1.0),
    "variance": (0.0, np.inf),
}
"""What means cannot leave, by the name of a measure or its first word."""

PLAYERS = f"grid={GRID}x{GRID}"
GAME = (ENERGY, PUBLISHED, LOWER, RHO, RHO_BOUND)


def collected(plan: Plan, out: Path) -> pd.DataFrame:
    """The raw rows of all stages that are done."""
    readers: dict[str, Callable[[Path, Arm], pd.DataFrame]] = {
        "strength": _strength,
        "along": _along,
        "features": _features,
        "accuracy": partial(_probed, method="clean"),
        "untrained": _untrained,
    }
    tables = []
    for stage in stages_of(plan.size):
        if stage.arm and stage.kind in readers and (out / f"done/{stage.name}.json").exists():
            table = readers[stage.kind](out / "runs", stage.arm)
            own: dict[str, Any] = {
                "arch": stage.arm.arch,
                "arm": UNTRAINED if stage.kind == "untrained" else stage.arm.name,
                "seed": stage.arm.seed,
            }
            tables.append(table.assign(**own)[list(ROWS)])
    if not tables:
        return pd.DataFrame(columns=list(ROWS))
    return pd.concat(tables, ignore_index=True)


def write_rows(rows: pd.DataFrame, path: Path) -> None:
    """Write them, compressed, the same bytes for the same rows."""
    text = rows.to_csv(None, index=False, float_format="%.6g", lineterminator="\n")
    write_whole(path, gzip.compress(text.encode(), mtime=0))


def read_rows(path: Path) -> pd.DataFrame:
    """Read them."""
    words = ("arch", "arm", "measure", "setting", "image")
    return pd.read_csv(path, dtype=dict.fromkeys(words, str), keep_default_na=False)


def _strength(runs: Path, arm: Arm) -> pd.DataFrame:
    rows = read_table(runs / f"strength-{arm.label}/rows.csv")
    return rows[rows["measure"].isin(GAME)].assign(setting="fine-tuned")


def _along(runs: Path, arm: Arm) -> pd.DataFrame:
    rows = read_table(runs / f"along-{arm.label}/rows.csv")
    rows = rows[rows["measure"].isin(GAME)]
    return rows.assign(setting="epoch " + rows["weights"].str.split("@").str[1])


def _features(runs: Path, arm: Arm) -> pd.DataFrame:
    tables = [_probed(runs, arm, "clean"), *_of_encoders(runs, arm)]
    for folder in sorted(runs.glob(f"occlusion-*-{arm.label}")):
        fill = folder.name.removeprefix("occlusion-").removesuffix(f"-{arm.label}")
        for file in sorted((folder / "images").glob("*.csv.gz")):
            occluder = file.name.removesuffix(".csv.gz").rsplit("-", 1)[1]
            told = pd.read_csv(file).rename(columns={"fraction": "at"})
            told = told.assign(measure="occluded accuracy", setting=f"{occluder} {fill}")
            tables.append(told.assign(value=told["correct"].astype(float)))
    for file, state in _by_state(runs / f"spectrum-{arm.label}/images"):
        told = pd.read_csv(file)
        bands = [name for name in map(str, told) if name.startswith("k") and name[1:].isdigit()]
        high = told[bands].ffill(axis=1).iloc[:, -1]
        own = told.assign(at=told["index"], setting=state)
        tables += [
            own.assign(measure="high frequencies", value=high),
            own.assign(measure="variance", value=told["variance"]),
        ]
    return _together(tables)


def _untrained(runs: Path, arm: Arm) -> pd.DataFrame:
    return _together(_of_encoders(runs, replace(arm, name=UNTRAINED)))


def _of_encoders(runs: Path, arm: Arm) -> list[pd.DataFrame]:
    """What is asked of encoders, also of untrained ones."""
    folders = _by_state(runs / f"invariance-{arm.label}/batches")
    similar = [_similarity(folder).assign(setting=state) for folder, state in folders]
    return [_probed(runs, arm, "linear"), *similar]


def _probed(runs: Path, arm: Arm, method: str) -> pd.DataFrame:
    """Whether images are told right."""
    told = pd.read_csv(runs / f"{method}-{arm.label}/predictions.csv")
    told = told[told["measure"] == f"{method}_top1"]
    right = (told["label"] == told["predicted"]).astype(float)
    measure = {"clean": "accuracy", "linear": "linear probe"}[method]
    rows = pd.DataFrame({"measure": measure, "image": told["image"], "value": right})
    return rows.assign(setting="", at=0.0)


def _together(tables: list[pd.DataFrame]) -> pd.DataFrame:
    columns = ["measure", "setting", "at", "image", "value"]
    return pd.concat([table[columns] for table in tables], ignore_index=True)


def _similarity(folder: Path) -> pd.DataFrame:
    """Centred cosines of whole and occluded images in every layer but the output, over fractions.

    ``at`` is the number of the layer.
    """
    told = pd.concat(read_batch(path).to_frame() for path in sorted(folder.glob("*.npz")))
    layers = {name: at for at, name in enumerate(told["layer"].unique()) if name != OUTPUT}
    told = told[told["layer"].isin(layers) & (told["pairing"] == "value") & (told["ratio"] > 0)]
    told = told.assign(at=told["layer"].map(layers))
    means = told.groupby(["at", "image"], sort=False)["centred cosine"].mean()
    return means.rename("value").reset_index().assign(measure="similarity")


def _by_state(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files of a network and, where it was pre-trained, of the encoder before fine-tuning."""
    for file in sorted(folder.iterdir()):
        yield file, "encoder" if "encoder" in file.name else "fine-tuned"


def quantities(rows: pd.DataFrame) -> pd.DataFrame:
    """Everything that is compared, a value per network and image."""
    game = rows["measure"].isin(GAME)
    found = [rows[~game]]
    for (arch, arm, seed, setting), of in rows[game].groupby(
        ["arch", "arm", "seed", "setting"], sort=False
    ):
        network: dict[str, Any] = {"arch": arch, "arm": arm, "seed": seed, "setting": setting}
        found += [table.assign(**network) for table in _orders(of)]
    found += _areas(rows)
    return pd.concat(found, ignore_index=True)[list(ROWS)]


def _orders(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """J of one network at every order and in every band, as values of its images."""
    rows = rows.assign(setting=PLAYERS)
    for estimator, name in (("rms", "J"), ("plug_in", "J published")):
        strength = strength_from(rows, estimator)  # type: ignore[arg-type]
        values_IO = strength.J + strength.influence_IO
        images = np.array(strength.images, dtype=object)
        for o, ratio in enumerate(strength.ratios_O):
            yield pd.DataFrame(
                {"measure": name, "at": ratio, "image": images, "value": values_IO[:, o]}
            )
        ends = (
            {}
            if strength.bracket is None
            else dict(zip(("from", "to"), strength.bracket, strict=True))
        )
        for band, inside_O in bands_of(strength.orders_O, strength.n).items():
            value_I = values_IO[:, inside_O].mean(axis=1)
            yield pd.DataFrame(
                {"measure": f"{name} {band}", "at": 0.0, "image": images, "value": value_I}
            )
            for end, J_O in ends.items():  # what noise of contexts leaves open
                moved_I = value_I + (J_O - strength.J)[inside_O].mean()
                of = f"{name} {band}, {end}"
                yield pd.DataFrame({"measure": of, "at": 0.0, "image": images, "value": moved_I})


def effective(rows: pd.DataFrame) -> pd.DataFrame:
    """How many images the energy of every network hangs on, in all and at middle orders.

    ``bounds`` counts the noisy orders where rho is a lower bound, because noise hides interactions.
    """
    found, key = [], ["arch", "arm", "seed", "setting"]
    for of_network, of in rows[rows["measure"].isin(GAME)].groupby(key, sort=False):
        strength = strength_from(of.assign(setting=PLAYERS))
        inside_O = bands_of(strength.orders_O, strength.n)["middle"]
        counts = {
            "images": len(strength.images),
            "all": strength.effective_images,
            "middle": effective_images(strength.per_image_IO[:, inside_O].sum(axis=1)),
            "bounds": int(strength.rho_is_bound_O.sum()),
        }
        found.append(dict(zip(key, of_network, strict=True)) | counts)
    return pd.DataFrame(found, columns=[*key, "images", "all", "middle", "bounds"])


def _areas(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Means over hidden fractions; and of similarities, over layers."""
    network = ["arch", "arm", "seed"]
    hidden = rows[(rows["measure"] == "occluded accuracy") & (rows["at"] > 0)]
    whole = rows[(rows["measure"] == "occluded accuracy") & (rows["at"] == 0)]
    key = [*network, "setting", "image"]
    area = hidden.groupby(key, sort=False)["value"].mean()
    kept = (area - whole.groupby(key, sort=False)["value"].mean()).reset_index()
    similar = rows[rows["measure"] == "similarity"].groupby(key, sort=False)["value"].mean()
    tables = [
        area.reset_index().assign(measure="occluded accuracy, mean"),
        kept.assign(measure="occluded accuracy, mean less clean"),
        similar.reset_index().assign(measure="similarity, mean"),
    ]
    return [table.assign(at=0.0)[list(ROWS)] for table in tables]


def values_of(found: pd.DataFrame) -> dict[str, np.ndarray]:
    """Values ``(seeds, images)`` of every arm, of one quantity and architecture."""
    arms = {}
    images = None
    for arm, of in found.groupby("arm", sort=False):
        wide = of.pivot(index="seed", columns="image", values="value")
        if images is not None and list(wide.columns) != images:
            raise ValueError(f"expected the same images in all arms, got others in {arm}")
        images = list(wide.columns)
        if wide.size != len(of):
            raise ValueError(f"expected all images of all seeds in {arm}")
        arms[str(arm)] = wide.to_numpy(dtype=float)
    return arms


def row_of(found: TwoLevel, a_SI: np.ndarray, b_TI: np.ndarray | None = None) -> dict[str, float]:
    """An interval as columns of a table."""
    seeds = len(a_SI) if b_TI is None else min(len(a_SI), len(b_TI))
    return {
        "estimate": found.estimate,
        "low": found.low,
        "high": found.high,
        "se": found.se,
        "p": found.p,
        "df": found.df,
        "seeds": seeds,
        "images": a_SI.shape[1],
        "seed_variance": found.seed_variance,
        "image_variance": found.image_variance,
    }


def means(found: pd.DataFrame) -> pd.DataFrame:
    """Means of arms with their intervals; ``seed_sd`` is the spread of the trainings' own means."""
    rows = []
    for key, of in found.groupby(KEY, sort=False):
        for arm, values_SI in values_of(of).items():
            low, high = _bounds(str(key[0]))
            one = row_of(two_level(values_SI, low=low, high=high), values_SI)
            spread = values_SI.mean(axis=1).std(ddof=1) if len(values_SI) > 1 else np.nan
            own = {"arm": arm, **one, "seed_sd": spread}
            rows.append(dict(zip(KEY, key, strict=True)) | own)
    return pd.DataFrame(rows)


def _bounds(measure: str) -> tuple[float, float]:
    if measure.endswith("less clean"):
        return -1.0, 1.0
    name = measure.removesuffix(", mean")
    return BOUNDS.get(name, BOUNDS.get(name.split(" ")[0], (-np.inf, np.inf)))


def differences(found: pd.DataFrame) -> pd.DataFrame:
    """Differences of all pairs of arms, each once, with Holm's correction within a quantity.

    Left out are accuracies with nothing hidden, where all curves begin (``accuracy`` is of more
    images), ends of brackets, whose differences are no bracket, and :func:`ablations`.
    """
    begin = (found["measure"] == "occluded accuracy") & (found["at"] == 0)
    ends = found["measure"].str.endswith((", from", ", to"))
    found = found[~begin & ~ends & ~found["arm"].isin(ABLATIONS)]
    rows = []
    for key, of in found.groupby(KEY, sort=False):
        arms = values_of(of)
        for minus, arm in combinations(arms, 2):
            one = row_of(two_level(arms[arm], arms[minus]), arms[arm], arms[minus])
            own = {"arm": arm, "minus": minus}
            rows.append(dict(zip(KEY, key, strict=True)) | own | one)
    table = pd.DataFrame(rows)
    if len(table):
        table["p_holm"] = table.groupby(["measure", "arch"])["p"].transform(_holm)
    return table


def ablations(found: pd.DataFrame) -> pd.DataFrame:
    """Differences of the changes of the ViT's A2MIM from A2MIM, Holm's correction over the changes.

    A change has one training or few, so trainings are supposed to vary alike in all arms of the
    ViT.
    """
    rows = []
    for measure, setting in ABLATED:
        own = (found["measure"] == measure) & (found["setting"] == setting)
        arms = values_of(found[own & (found["arch"] == "vit")])
        for arm in ABLATIONS:
            if arm in arms and "a2mim" in arms:
                alike = [values for name, values in arms.items() if name not in (arm, "a2mim")]
                of = two_level(arms[arm], arms["a2mim"], alike=alike)
                rows.append({"measure": measure, "arm": arm} | row_of(of, arms[arm]))
    table = pd.DataFrame(rows)
    if len(table):
        table["p_holm"] = table.groupby("measure")["p"].transform(_holm)
    return table


def _holm(p: pd.Series) -> np.ndarray:
    adjusted = p.to_numpy(dtype=float).copy()
    known = ~np.isnan(adjusted)
    adjusted[known] = holm(adjusted[known].tolist())
    return adjusted
