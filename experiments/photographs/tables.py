"""What runs have left, in small files, and what is inferred from those: strengths, noise, verdicts.

    records.npz       replicate means of every network, image, pair and order
    records-50.npz    the same with the published number of contexts, of fewer networks and images
    occlusion.csv.gz  correct or not, of every network, photograph and mask

Command: ``python -m experiments.photographs.tables RUNS``, where RUNS holds ``records`` and
``records-50`` of :mod:`experiments.photographs.measure` and the runs ``occlusion-FILL`` of
``a2mim occlusion``.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro

import interactions as ix
from a2mim.files import write_arrays, write_whole
from a2mim.runs.records import read_records
from interactions.occlusion.curves import area
from interactions.stats import (
    degrees_of_freedom,
    holm,
    mean,
    mean_difference,
    paired,
    positive_interval,
    share,
    t_interval,
)

NAMES = {
    "mobilenetv1_025_imagenet_fp32": "MobileNetV1-0.25",
    "squeezenet1_1_imagenet_mxnet": "SqueezeNet 1.1",
    "mobilenetv2_100_imagenet_slim_qat": "MobileNetV2",
    "efficientnet-lite0-57934424": "EfficientNet-Lite0",
}
"""Networks by what their files are called, in the order of tables and figures."""

FILLS = ("zero", "blur")
OCCLUDERS = ("random", "salient", "non_salient")

Records = dict[str, list[ix.Interactions]]
"""Of every network, by its name."""

Strengths = dict[str, dict[str, ix.Strength]]
"""By estimator, then by network."""


# --------------------------------------------------------------------------------------------------
# files


def collect_records(folder: Path, path: Path) -> None:
    """Pack the records of the images that all networks of a folder have."""
    found = {
        name: read_records(folder / of) for of, name in NAMES.items() if (folder / of).is_dir()
    }
    images = set.intersection(*({r.image for r in records} for records in found.values()))
    kept = {name: [r for r in of if r.image in images] for name, of in found.items()}
    (first, *_), *_ = kept.values()
    write_arrays(
        path,
        {
            "networks": np.array(list(kept)),
            "images": np.array([r.image for r in next(iter(kept.values()))]),
            "orders_O": first.orders_O.astype(np.int32),
            "n": np.array(first.n),
            "pairs_IP2": np.stack([r.pairs_P2 for r in next(iter(kept.values()))]).astype(np.int32),
            "replicates_NIPRO": np.stack(
                [[r.replicates_PRO for r in of] for of in kept.values()]
            ).astype(np.float32),
            "forwards_NI": np.array([[r.forwards for r in of] for of in kept.values()], np.int32),
        },
    )


def read_packed(path: Path) -> Records:
    """The records of every network, as they were measured."""
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
        of = {name: file[name] for name in file.files}
    return {
        str(network): [
            ix.Interactions(
                image=str(image),
                n=int(of["n"]),
                pairs_P2=of["pairs_IP2"][k].astype(np.int64),
                orders_O=of["orders_O"].astype(np.int64),
                replicates_PRO=of["replicates_NIPRO"][j, k].astype(np.float64),
                per_replicate=1,
                forwards=int(of["forwards_NI"][j, k]),
            )
            for k, image in enumerate(of["images"])
        ]
        for j, network in enumerate(of["networks"])
    }


def collect_occlusion(runs: Mapping[str, Path], path: Path) -> None:
    """One row for each fill, occluder, photograph and share: what each network said, 1 for right.

    Args:
        runs: of ``a2mim occlusion``, by their fills.
        path: the table, compressed.

    Raises:
        ValueError: if networks did not see the same masks.
    """
    key = ["fill", "occluder", "image", "fraction", "hidden"]
    parts = []
    for fill, run in runs.items():
        files = sorted((run / "images").glob("*.csv.gz"))
        for occluder in OCCLUDERS:
            joined: pd.DataFrame | None = None
            for of, name in NAMES.items():
                (file,) = [f for f in files if _is_of(f, of, occluder)]
                table = pd.read_csv(file, dtype={"image": str, "mask": str})
                table[name] = table["correct"].astype(int)
                table = table[["image", "fraction", "hidden", "mask", name]]
                rows = len(table)
                joined = table if joined is None else joined.merge(table)
                if len(joined) != rows:
                    raise ValueError(f"expected the masks of the other networks in {file}")
            assert joined is not None
            parts.append(joined.assign(fill=fill, occluder=occluder)[[*key, *NAMES.values()]])
    text = pd.concat(parts).to_csv(None, index=False, float_format="%.5g", lineterminator="\n")
    write_whole(path, gzip.compress(text.encode(), mtime=0))


def _is_of(file: Path, network: str, occluder: str) -> bool:
    stem = file.name.removesuffix(".csv.gz")
    return network in stem and stem.endswith(f"-{occluder}")


def read_occlusion(path: Path) -> pd.DataFrame:
    """Read it."""
    return pd.read_csv(path, dtype={"image": str})


# --------------------------------------------------------------------------------------------------
# interactions


def strengths(records: Records) -> Strengths:
    """The three estimates of every network: unbiased, debiased, as published."""
    return {
        estimator: {network: ix.strength(of, estimator) for network, of in records.items()}
        for estimator in ("rms", "two_level", "plug_in")
    }


def orders(records: Records, found: Strengths) -> pd.DataFrame:
    """Every network at every order: noise, unbiased and debiased J with intervals, published J.

    The interval of rho is that of :func:`noise_of`.
    """
    parts = []
    for network, of in records.items():
        rms, published = found["rms"][network], found["plug_in"][network]
        each_OO = np.eye(len(rms.orders_O), dtype=bool)
        ends_2O = np.array([noise_of(of, rms, inside_O)[1:] for inside_O in each_OO]).T
        frame = rms.to_frame()
        debiased = found["two_level"][network].to_frame()
        share_IO = rms.per_image_IO.max(axis=0) / rms.per_image_IO.clip(0).sum(axis=0)
        parts.append(
            pd.DataFrame(
                {
                    "network": network,
                    "order": frame["order"],
                    "ratio": frame["ratio"].round(2),
                    "rho": frame["rho"],
                    "rho_low": ends_2O[0],
                    "rho_high": ends_2O[1],
                    "rho_is_bound": frame["rho_is_bound"],
                    "largest_image": share_IO,
                    "J": frame["J"],
                    "J_low": frame["J_low"],
                    "J_high": frame["J_high"],
                    "published_J": published.J,
                    "debiased_J": debiased["J"],
                    "debiased_low": debiased["J_low"],
                    "debiased_high": debiased["J_high"],
                    "bracket_low": debiased["J_bracket_low"],
                    "bracket_high": debiased["J_bracket_high"],
                    "unresolved": debiased["unresolved"],
                    "published_S": published.S,
                    "debiased_S": debiased["S"],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def noise_of(
    records: Sequence[ix.Interactions], rms: ix.Strength, inside_O: np.ndarray
) -> tuple[float, float, float]:
    """rho over some orders, with the 95 % interval over images; NaN where nothing is noisy.

    With E the energy and V the variance over contexts, sums over these orders, E / V = 1 / rho^2 is
    a ratio that the noise can hide: the upper end of rho is infinite where the lower one of E / V
    is 0.
    """
    variance_IO = np.array([r.replicates_PRO.var(axis=1, ddof=1).mean(axis=0) for r in records])
    # Values are kept as float32: a variance of rounding is none.
    noisy_O = inside_O & (rms.rho_O > 0)
    if not noisy_O.any():
        return np.nan, np.nan, np.nan
    energy_I = rms.per_image_IO[:, noisy_O].sum(axis=1)
    variance_I = variance_IO[:, noisy_O].sum(axis=1)
    ratio = energy_I.mean() / variance_I.mean()
    influence_I = (energy_I - ratio * variance_I) / variance_I.mean()
    se = influence_I.std(ddof=1) / np.sqrt(len(records))
    df = degrees_of_freedom(influence_I, rms.effective_images - 1)
    with np.errstate(divide="ignore"):
        low, high = np.array(positive_interval(ratio, se, df)[::-1]) ** -0.5
        return float(np.maximum(ratio, 0) ** -0.5), float(low), float(high)


def bands(records: Records, found: Strengths) -> pd.DataFrame:
    """Low, middle and high orders: noise, J unbiased, debiased with its bracket, as published."""
    parts = []
    for network, published in found["plug_in"].items():
        for name, estimator in (("rms", "rms"), ("mean", "two_level")):
            strength = found[estimator][network]
            own: dict[str, Any] = {
                "network": network,
                "norm": name,
                "published": published.bands()["J"],
            }
            own |= {"effective_images": strength.effective_images}
            table, rms = strength.bands(), found["rms"][network]
            noise = [
                noise_of(records[network], rms, _inside(records[network][0], table, band))
                for band in table["band"]
            ]
            own |= dict(zip(("rho", "rho_low", "rho_high"), np.array(noise).T, strict=True))
            parts.append(table.assign(**own))
    columns = ["network", "norm", "band", "J", "low", "high", "published", "effective_images"]
    columns += ["rho", "rho_low", "rho_high"]
    return pd.concat(parts, ignore_index=True)[columns]


def contexts(records: Records, many: Records, found: Strengths) -> pd.DataFrame:
    """The published J of every band by how many contexts it is computed from.

    Of k contexts it is the mean over all runs of k that the measured ones can be cut into. The
    networks of ``many`` are told on their own images with all numbers of contexts.
    """
    rows = []
    for source, measured in (("8 contexts", records), ("50 contexts", many)):
        for network, of in measured.items():
            R = of[0].replicates_PRO.shape[1]
            whole = found["two_level"][network] if measured is records else _debiased(of)
            debiased = whole.bands()
            for k in [c for c in (1, 2, 4, 8, 25, 50) if c <= R]:
                S_O = _published(of, k)
                J_O = S_O / S_O.mean()
                for row in debiased.to_dict("records"):
                    inside_O = _inside(of[0], debiased, str(row["band"]))
                    rows.append(
                        {
                            **{"measured": source, "network": network, "images": len(of)},
                            **{"band": row["band"], "contexts": k},
                            "published_J": J_O[inside_O].mean(),
                            **{f"debiased_{end}": row[end] for end in ("J", "low", "high")},
                        }
                    )
    return pd.DataFrame(rows)


def _debiased(records: Sequence[ix.Interactions]) -> ix.Strength:
    """From as many contexts as can be cut into quarters."""
    R = records[0].replicates_PRO.shape[1]
    part = slice(R - R % 4)
    return ix.strength(
        [replace(r, replicates_PRO=r.replicates_PRO[:, part]) for r in records], "two_level"
    )


def _published(records: Sequence[ix.Interactions], k: int) -> np.ndarray:
    """The published strength ``(O,)`` of k contexts: the mean over all k in a row."""
    x_IPRO = np.stack([record.replicates_PRO for record in records])
    R = x_IPRO.shape[2] // k * k
    x_IPGkO = x_IPRO[:, :, :R].reshape(*x_IPRO.shape[:2], -1, k, x_IPRO.shape[3])
    return np.asarray(np.abs(x_IPGkO.mean(axis=3)).mean(axis=(0, 1, 2)))


def _inside(record: ix.Interactions, table: pd.DataFrame, band: str) -> np.ndarray:
    row = table[table["band"] == band].iloc[0]
    return (record.orders_O >= row["first"]) & (record.orders_O <= row["last"])


def verdicts(found: Strengths) -> pd.DataFrame:
    """Every two networks in every band: who is higher by published numbers, and by intervals.

    ``outcome`` compares the two: *the same* side, *the other* side, or *not decided*, where the
    interval of the unbiased strength holds 0. ``outcome_mean`` does so for the interval of the
    debiased mean of |I|, which includes its bracket. Holm's p is over all rows.
    ``takes``: photographs that would decide, were the unbiased difference as it was found.
    """
    rows: list[dict[str, Any]] = []
    for a, b in combinations(found["rms"], 2):
        published = (found["plug_in"][a].bands(), found["plug_in"][b].bands())
        tests = [found[of][a].compare_bands(found[of][b]) for of in ("rms", "two_level")]
        for k, band in enumerate(published[0]["band"]):
            said = float(published[0]["J"][k] - published[1]["J"][k])
            row: dict[str, Any] = {"network": a, "minus": b, "band": band, "published": said}
            for name, table in zip(("", "_mean"), tests, strict=True):
                ends = {end: float(table[end][k]) for end in ("difference", "low", "high", "p")}
                row |= {end + name: value for end, value in ends.items()}
                row["outcome" + name] = outcome(said, ends["low"], ends["high"])
            rows.append(row)
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p"].tolist())
    # The width of an interval falls like one over the root of the number of photographs.
    images = len(found["rms"][next(iter(found["rms"]))].images)
    wide = (table["high"] - table["low"]) / 2 / table["difference"].abs()
    undecided = table["outcome"] == "not decided"
    table["takes"] = np.where(undecided, np.ceil(images * wide**2), images)
    return table


def outcome(said: float, low: float, high: float) -> str:
    """What an interval says of the sign of a published difference."""
    if not (low > 0 or high < 0):
        return "not decided"
    return "the same" if (low > 0) == (said > 0) else "the other"


# --------------------------------------------------------------------------------------------------
# occlusion


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of every network at every share, and two scores of its curve.

    ``area`` is its mean over shares, ``kept`` the same over the accuracy with nothing hidden.
    """
    found = []
    for (fill, occluder), of in rows.groupby(["fill", "occluder"], sort=False):
        hidden_F, correct = _by_share(of)
        for network, correct_IF in correct.items():
            where = {"fill": fill, "occluder": occluder, "network": network}
            for hidden, correct_I in zip(hidden_F, correct_IF.T, strict=True):
                found.append(_row(share(correct_I), **where, score="accuracy", hidden=hidden))
            area_I = area(hidden_F, correct_IF)
            kept, kept_I = _kept(area_I, correct_IF[:, 0])
            scores = {"area": mean(area_I, low=0, high=1), "kept": t_interval(kept, kept_I)}
            for name, one in scores.items():
                found.append(_row(one, **where, score=name, hidden=hidden_F[-1]))
    return pd.DataFrame(found)


def _kept(area_I: np.ndarray, clean_I: np.ndarray) -> tuple[float, np.ndarray]:
    """Area over clean accuracy, and each photograph's influence on it."""
    kept = float(area_I.mean() / clean_I.mean())
    return kept, (area_I - kept * clean_I) / clean_I.mean()


def occlusion_differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Differences of scores, on the same photographs: of networks, of occluders and of fills.

    Holm's p is over all rows of one kind and score.
    """
    areas = {
        (fill, occluder, network): (area(hidden_F, correct_IF), correct_IF[:, 0])
        for (fill, occluder), of in rows.groupby(["fill", "occluder"], sort=False)
        for hidden_F, correct in [_by_share(of)]
        for network, correct_IF in correct.items()
    }
    found = []
    for (a, (area_a, clean_a)), (b, (area_b, clean_b)) in combinations(areas.items(), 2):
        apart = [k for k in range(3) if a[k] != b[k]]
        if len(apart) == 1:
            kind = ("fill", "occluder", "network")[apart[0]]
            where = {"fill": a[0], "occluder": a[1], "network": a[2], "minus": b[apart[0]]}
            (kept_a, influence_a), (kept_b, influence_b) = (
                _kept(area_a, clean_a),
                _kept(area_b, clean_b),
            )
            scores = {
                "area": mean_difference(area_a, area_b, bound=1),
                "kept": paired(kept_a - kept_b, influence_a - influence_b, 1),
            }
            for name, one in scores.items():
                found.append(_row(one, kind=kind, **where, score=name) | {"p": one.p})
    table = pd.DataFrame(found)
    families = table.groupby(["kind", "score"])["p"]
    table["p_holm"] = families.transform(lambda p: holm(p.tolist()))
    return table


def _by_share(rows: pd.DataFrame) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Hidden shares ``(F,)``, and right or wrong ``(I, F)`` of every network."""
    images, shares = sorted(rows["image"].unique()), sorted(rows["fraction"].unique())
    rows = rows.sort_values(["image", "fraction"])
    size = (len(images), len(shares))
    hidden_F = rows["hidden"].to_numpy(dtype=float).reshape(size).mean(axis=0)
    networks = [name for name in NAMES.values() if name in rows]
    return hidden_F, {name: rows[name].to_numpy(dtype=float).reshape(size) for name in networks}


def _row(interval: ix.Interval, **where: Any) -> dict[str, Any]:
    of = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    return where | of


def main(runs: tyro.conf.Positional[Path], out: Path = Path("results/photographs")) -> None:
    """Pack what runs have left."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("records", "records-50"):
        if (runs / name).is_dir():
            collect_records(runs / name, out / f"{name}.npz")
    occluded = {fill: run for fill in FILLS if (run := runs / f"occlusion-{fill}").is_dir()}
    if occluded:
        collect_occlusion(occluded, out / "occlusion.csv.gz")


if __name__ == "__main__":
    tyro.cli(main)
