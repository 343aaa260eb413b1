"""Which claims of the two papers hold here: each by an interval, never by hand.

    holds          the 95 % interval over images and seeds is on the claimed side
    does not hold  it is on the other side
    not decided    it holds 0 (or there is one seed); then how many seeds or images would decide, if
                   the difference were as large as it was found

A claim that something is kept (C2, C3) is one of being less than :data:`POINT` worse. Seeds of two
arms are taken as independent, though arms of a seed begin with the same weights: if that makes them
alike, intervals are too wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm, t

from experiments.cifar10.arms import NAMES, UNTRAINED
from interactions.stats import TwoLevel, holm, two_level

POINT = 0.01
"""Accuracy that may be lost where a claim says that none is."""

METHODS = {"a2mim": "A2MIM", "simmim": "SimMIM", "mae": "MAE"}
"""What arms are called in claims."""

VERDICTS = {
    "holds": ("holds", "hold"),
    "does not hold": ("does not hold", "do not hold"),
    "not decided": ("is not decided", "are not decided"),
    "not measured": ("was not measured", "were not measured"),
}
"""Of one claim, and of several."""

DECIDED = ("holds", "does not hold")


@dataclass(frozen=True)
class Claim:
    """A claim, and the difference of two arms that it is about.

    Attributes:
        source: paper, and our short name.
        text: what it says.
        arch: of the networks.
        arm: of which more (or less) is claimed.
        minus: than of this arm.
        measure: a quantity of :mod:`experiments.cifar10.tables`.
        setting: of it; of two settings with ``/`` between them, those of arm and minus.
        sign: 1 for more, -1 for less.
        margin: what may be missing.
    """

    source: str
    text: str
    arch: str
    arm: str
    minus: str
    measure: str
    setting: str = ""
    sign: int = 1
    margin: float = 0.0


def claims(epochs: int) -> list[Claim]:
    """All claims, of a study with so many epochs of pre-training."""
    found: list[Claim] = []

    def add(source: str, text: str, *of: str, sign: int = 1, margin: float = 0.0) -> None:
        arch, arm, minus, measure, setting = of
        found.append(Claim(source, text, arch, arm, minus, measure, setting, sign, margin))

    for arch, name in NAMES.items():
        for method in ("a2mim", "simmim", *(("mae",) if arch == "vit" else ())):
            text = f"{METHODS[method]} pre-training raises middle orders after fine-tuning, {name}"
            add("A2MIM, middle orders", text, arch, method, "scratch", "J middle", "fine-tuned")
    for arch, name in NAMES.items():
        for occluder in ("random", "salient"):
            for minus in ("scratch", "strong"):
                text = f"A2MIM above {minus} in accuracy with {occluder} patches hidden, {name}"
                measure, setting = "occluded accuracy, mean", f"{occluder} zero"
                add("A2MIM, robustness", text, arch, "a2mim", minus, measure, setting)
        for minus in ("scratch", "strong"):
            text = f"A2MIM loses less accuracy than {minus} by random patches hidden, {name}"
            measure, setting = "occluded accuracy, mean less clean", "random zero"
            add("A2MIM, robustness", text, arch, "a2mim", minus, measure, setting)
    for arch, name in NAMES.items():
        text = f"A2MIM above SimMIM in fine-tuned accuracy, {name}"
        add("A2MIM, over SimMIM", text, arch, "a2mim", "simmim", "accuracy", "")
        text = f"A2MIM above SimMIM in middle orders, {name}"
        add("A2MIM, over SimMIM", text, arch, "a2mim", "simmim", "J middle", "fine-tuned")
    for arch, name in NAMES.items():
        text = f"middle orders rise from the untrained network to the end of pre-training, {name}"
        setting = f"epoch {epochs}/epoch 0"
        add("A2MIM, along pre-training", text, arch, "a2mim", "a2mim", "J middle", setting)
    for method in ("mae", "simmim"):
        text = "encoder keeps more of occluded images' features than a supervised one"
        text = f"C1: {METHODS[method]} {text}"
        measure, setting = "similarity, mean", "encoder/fine-tuned"
        add("Kong & Zhang", text, "vit", method, "scratch", measure, setting)
        text = "encoder keeps more of them than the untrained network"
        text = f"C1, control: {METHODS[method]} {text}"
        add("Kong & Zhang", text, "vit", method, UNTRAINED, "similarity, mean", "encoder")
    text = "C2: contrastive MAE fine-tunes as well as MAE (to a point of accuracy)"
    add("Kong & Zhang", text, "vit", "cmae", "mae", "accuracy", "", margin=POINT)
    text = "C3: pre-training on 10 images beats none after fine-tuning"
    add("Kong & Zhang", text, "vit", "mae-10-images", "scratch", "accuracy", "")
    text = "C3: it is as good as on all images (to a point of accuracy)"
    add("Kong & Zhang", text, "vit", "mae-10-images", "mae", "accuracy", "", margin=POINT)
    text = "C4: a linear probe of the MAE encoder is below that of supervised features"
    add("Kong & Zhang", text, "vit", "mae", "scratch", "linear probe", "", sign=-1)
    text = "C4, control: a linear probe of the MAE encoder is above that of the untrained network"
    add("Kong & Zhang", text, "vit", "mae", UNTRAINED, "linear probe", "")
    return found


def judged(found: pd.DataFrame, epochs: int) -> pd.DataFrame:
    """Every claim with its difference, interval and verdict.

    Args:
        found: of :func:`experiments.cifar10.tables.quantities`.
        epochs: of pre-training.
    """
    rows = []
    for claim in claims(epochs):
        settings = claim.setting.split("/")
        a_SI = _values(found, claim, claim.arm, settings[0])
        b_TI = _values(found, claim, claim.minus, settings[-1])
        row: dict[str, object] = {"source": claim.source, "claim": claim.text}
        row["measure"] = f"{claim.measure} ({claim.setting})" if claim.setting else claim.measure
        if not len(a_SI) or not len(b_TI):
            rows.append(
                row | {"verdict": "not measured", "takes": "stages that are left, or --extra-seeds"}
            )
            continue
        common = a_SI.columns.intersection(b_TI.columns)
        a, b = a_SI[common].to_numpy(dtype=float), b_TI[common].to_numpy(dtype=float)
        # The same networks at two times are paired over seeds too.
        arms = (a - b,) if claim.arm == claim.minus else (a, b)
        of, seeds = two_level(*arms), min(len(a), len(b))
        verdict = verdict_of(of.low, of.high, claim.sign, claim.margin)
        missing = claim.sign * of.estimate + claim.margin
        takes = takes_of(of, missing, seeds, len(common)) if verdict == "not decided" else ""
        rows.append(
            row
            | {
                "difference": of.estimate,
                "low": of.low,
                "high": of.high,
                "p": two_level(arms[0] + claim.sign * claim.margin, *arms[1:]).p,
                "seeds": seeds,
                "images": len(common),
                "verdict": verdict,
                "takes": takes,
            }
        )
    table = pd.DataFrame(rows).reindex(
        columns=[
            *("source", "claim", "measure", "difference", "low", "high", "p", "p_holm"),
            *("seeds", "images", "verdict", "takes"),
        ]
    )
    known = table["p"].notna()
    if known.any():
        table.loc[known, "p_holm"] = holm(table.loc[known, "p"].astype(float).tolist())
    return table


def _values(found: pd.DataFrame, claim: Claim, arm: str, setting: str) -> pd.DataFrame:
    of = found[
        (found["arch"] == claim.arch)
        & (found["arm"] == arm)
        & (found["measure"] == claim.measure)
        & (found["setting"] == setting)
    ]
    return of.pivot(index="seed", columns="image", values="value")


def verdict_of(low: float, high: float, sign: int, margin: float = 0.0) -> str:
    """What an interval says about a claimed direction."""
    low, high = (low, high) if sign > 0 else (-high, -low)
    if low > -margin:
        return "holds"
    return "does not hold" if high < -margin else "not decided"


def takes_of(found: TwoLevel, difference: float, seeds: int, images: int) -> str:
    """Seeds or images that would decide, if the difference were as large as it was found.

    Args:
        found: what was not decided.
        difference: from where the verdict turns.
        seeds: of each arm.
        images: that were measured.
    """
    if np.isnan(found.p):
        return "more than one seed"
    if difference == 0:
        return "no number would decide a difference of 0"
    image = found.image_variance
    seed = max(found.se**2 - image, 0.0)
    of_images = image**2 / found.image_df
    of_seeds = max(found.se**4 / found.df - of_images, 0.0) * (seeds - 1)
    for n in range(seeds + 1, 1001):
        variance = image + seed * seeds / n
        df = variance**2 / (of_seeds * (seeds / n) ** 2 / (n - 1) + of_images)
        if t.ppf(0.975, df) * np.sqrt(variance) < abs(difference):
            return f"{n} seeds"
    needed = images * 2 * norm.ppf(0.975) ** 2 * image / difference**2
    return f"about {float(f'{needed:.2g}'):.0f} images and more seeds"
