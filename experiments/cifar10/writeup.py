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
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm, t

from experiments.cifar10.arms import NAMES, UNTRAINED
from experiments.cifar10.plan import Plan
from experiments.cifar10.sizes import Size
from experiments.cifar10.stages import GRID, total
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


SHOWN = (
    ("accuracy", "accuracy", ""),
    ("patches hidden", "occluded accuracy, mean", "random zero"),
    ("less clean", "occluded accuracy, mean less clean", "random zero"),
    ("linear probe", "linear probe", ""),
    ("J, middle orders", "J middle", "fine-tuned"),
    ("similarity, encoder", "similarity, mean", "encoder"),
    ("similarity, fine-tuned", "similarity, mean", "fine-tuned"),
)
"""Columns of the networks' table: title, measure and setting."""


SETTINGS = {(measure, setting): title for title, measure, setting in SHOWN}

ABLATED = {("accuracy", ""): "accuracy", ("J middle", "fine-tuned"): "J of middle orders"}
"""What is asked of ablations: measure and setting, and what they are called."""


def networks_table(means: pd.DataFrame) -> list[str]:
    """The means of every arm with their intervals, as lines of Markdown."""
    found = {
        (row["arch"], row["arm"], row["measure"], row["setting"]): _said(row)
        for row in means.to_dict("records")
    }
    arms = means[means["measure"] == "linear probe"][["arch", "arm"]].drop_duplicates()
    titles = ["network", *(title for title, *_ in SHOWN)]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for arch, arm in arms.itertuples(index=False):
        cells = [found.get((arch, arm, *key), "") for _, *key in SHOWN]
        lines.append("| " + " | ".join([f"{NAMES[arch]}, {arm}", *cells]) + " |")
    return lines


def _said(row: dict[Any, Any]) -> str:
    ends = "" if pd.isna(row["low"]) else " [{low:.3f}, {high:.3f}]"
    return ("{estimate:.3f}" + ends).format(**row)


def summary(table: pd.DataFrame) -> list[str]:
    """A line for each group of claims: how many hold, and which are decided."""
    lines = []
    for source, of in table.groupby("source", sort=False):
        found = {verdict: int((of["verdict"] == verdict).sum()) for verdict in VERDICTS}
        decided = of[of["verdict"].isin(DECIDED)].to_dict("records")
        unsure = {v: sum(_unsure(row) for row in decided if row["verdict"] == v) for v in DECIDED}
        counts = ", ".join(
            f"{count} {VERDICTS[verdict][count > 1]}"
            + (f" ({unsure[verdict]} not after Holm)" if unsure.get(verdict) else "")
            for verdict, count in found.items()
            if count
        )
        told = [f"{row['claim']}: {row['verdict']}, {_difference(row)}" for row in decided]
        lines += [f"- **{source}**: of {len(of)} claims {counts}.", *(f"  - {x}" for x in told)]
    return lines


def _difference(row: dict[Any, Any]) -> str:
    if pd.isna(row["low"]):
        return f"{row['difference']:+.3f}, no interval from one seed"
    ends = f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
    return ends + (" (not after Holm)" if _unsure(row) else "")


def _unsure(row: dict[Any, Any]) -> bool:
    """Whether a claim is decided by its own interval alone."""
    return row["verdict"] in DECIDED and row["p_holm"] >= 0.05


def _spreads(means: pd.DataFrame) -> str:
    """How much trainings of each arm of the ViT vary, in what ablations are about."""
    told = []
    for (measure, setting), what in ABLATED.items():
        own = (means["measure"] == measure) & (means["setting"] == setting)
        of = means[own & (means["arch"] == "vit") & (means["seeds"] > 1)]
        sds = (of["seed_variance"] * of["seeds"]) ** 0.5
        named = (f"{arm} {sd:.3f}" for arm, sd in zip(of["arm"], sds, strict=True))
        told.append(f"{what} {', '.join(named)}")
    return "; ".join(told)


def _changes(table: pd.DataFrame, means: pd.DataFrame, size: Size) -> list[str]:
    """The ablations, as lines of Markdown."""
    if table.empty:
        return []
    trainings = "one training" if size.ablation_seeds == 1 else f"{size.ablation_seeds} trainings"
    lines = [
        "## Ablations",
        "",
        "Differences from the ViT's A2MIM (fill with the mean colour, a token added before the "
        "first block, official Fourier loss, 60 % hidden in blocks of 2 x 2 patches) by one change "
        f"each, of {trainings}. Intervals suppose that trainings vary alike in all arms of the ViT "
        "(`interactions.stats.two_level`, `alike`); Holm's correction is over the changes of a "
        f"column. Standard deviations over seeds: {_spreads(means)}.",
        "",
        "| change | accuracy | J, middle orders |",
        "|---|---|---|",
    ]
    for arm, of in table.groupby("arm", sort=False):
        cells = {row["measure"]: _change(row) for row in of.to_dict("records")}
        lines.append(f"| {arm} | {cells.get('accuracy', '')} | {cells.get('J middle', '')} |")
    return [*lines, "", "![Ablations](ablations.svg)", ""]


def _change(row: dict[Any, Any]) -> str:
    """A difference with its interval, and whether Holm's correction leaves it."""
    if pd.isna(row["low"]):
        return f"{row['estimate']:+.3f}"
    words = "{estimate:+.3f} [{low:+.3f}, {high:+.3f}]".format(**row)
    return words + (" (not after Holm)" if row["p"] < 0.05 <= row["p_holm"] else "")


def _changed(table: pd.DataFrame) -> list[str]:
    """Which ablations differ from A2MIM, in a line for each measure."""
    lines = []
    for (measure, _), what in ABLATED.items():
        of = table[table["measure"] == measure] if len(table) else table
        told = [f"{row['arm']} {_change(row)}" for row in of.to_dict("records") if row["p"] < 0.05]
        if len(of):
            names = f": {', '.join(told)}" if told else ""
            few = f"{len(told) or 'none'} of {len(of)} changes differ{'s' * (len(told) < 2)}"
            lines.append(f"- **Ablations**: in {what} {few} from A2MIM{names}.")
    return lines


def _also(made: dict[str, pd.DataFrame], epochs: int) -> list[str]:
    """Differences that nobody claimed and Holm's correction over all pairs of arms leaves."""
    claimed = {(c.arch, frozenset((c.arm, c.minus)), c.measure) for c in claims(epochs)}
    lines = []
    for row in made["differences"].to_dict("records"):
        key = (row["arch"], frozenset((row["arm"], row["minus"])), row["measure"])
        what = SETTINGS.get((row["measure"], row["setting"]))
        if what and row["p_holm"] < 0.05 and key not in claimed:
            arms = f"{NAMES[row['arch']]}, {row['arm']} less {row['minus']}"
            lines.append(f"- {what}: {arms} {_change(row)}")
    if not lines:
        return []
    head = "Nobody claimed these differences, of all pairs of arms, that Holm's correction within "
    head += "a measure and an architecture leaves."
    return ["## What else differs", "", head, "", *lines, ""]


def _levels(means: pd.DataFrame) -> list[str]:
    """What claims are measured against: the accuracy of *strong*, similarity of the untrained."""

    def known(arch: str, arm: str, measure: str, setting: str) -> float:
        own = (means["arch"] == arch) & (means["arm"] == arm) & (means["measure"] == measure)
        return float(means[own & (means["setting"] == setting)]["estimate"].mean())

    lines, below = [], []
    for arch, name in NAMES.items():
        strong, scratch = (known(arch, arm, "accuracy", "") for arm in ("strong", "scratch"))
        if strong < scratch:
            below.append(f"{name} {strong:.3f} and {scratch:.3f}")
    if below:
        lines.append(
            f"*Strong* has less accuracy than *scratch* ({'; '.join(below)}), so that being above "
            "it with patches hidden need not be robustness: what accuracy is lost says that."
        )
    whole = known("vit", UNTRAINED, "similarity, mean", "encoder")
    labels = known("vit", "scratch", "similarity, mean", "fine-tuned")
    if labels < whole:
        lines.append(
            f"C1: the ViT keeps {whole:.3f} of its features untrained and {labels:.3f} after "
            "training from scratch: its controls say what pre-training adds."
        )
    return [f"  - {line}" for line in lines]


def _bracket_table(means: pd.DataFrame) -> list[str]:
    """J of middle orders by both estimators, as lines of Markdown."""
    found = {
        (row["arch"], row["arm"], row["measure"]): row
        for row in means[means["setting"] == "fine-tuned"].to_dict("records")
    }
    lines = ["| network | RMS, unbiased | as published | its bracket |", "|---|---|---|---|"]
    for arch, arm, measure in found:
        if measure == "J middle":
            plug_in = "J published middle"
            ends = [found.get((arch, arm, f"{plug_in}, {end}")) for end in ("from", "to")]
            told = " to ".join(f"{end['estimate']:.3f}" for end in ends if end)
            both = [found.get((arch, arm, name)) for name in (measure, plug_in)]
            cells = " | ".join(_said(row) if row else "" for row in both)
            lines.append(f"| {NAMES[arch]}, {arm} | {cells} | {told} |")
    return lines


def _left_out(size: Size) -> list[str]:
    """What a study does without."""
    arms = (
        []
        if size.extra_seeds
        else ["contrastive MAE and MAE on 10 images (C2, C3; `--extra-seeds`)"]
    )
    arms += [] if size.ablation_seeds else ["ablations of A2MIM (`--ablation-seeds`)"]
    if not arms:
        return []
    return ["", f"Left out: {' and '.join(arms)}."]


def page(made: dict[str, pd.DataFrame], plan: Plan, progress: str) -> str:
    """The write-up, in Markdown.

    Args:
        made: ``claims`` of :func:`judged`; ``means``, ``differences``, ``effective`` and
            ``ablations`` of :mod:`experiments.cifar10.tables`.
        plan: of the study.
        progress: what is done of it, in words.
    """
    size, changes, means = plan.size, made["ablations"], made["means"]
    final = made["effective"]["setting"] == "fine-tuned"
    effective, early = (made["effective"][of]["middle"] for of in (final, ~final))
    spent = total(size, plan.rates) if plan.rates else 0.0
    grown = f", with more seeds than it buys ({spent / 60:.0f} minutes of one process planned, "
    grown += f"budget {plan.seconds / 60:.0f})"
    lines = [
        "# What masked pre-training changes, in small",
        "",
        f"Images: {plan.data}, {size.train} for training and {size.test} for testing, at "
        f"{size.image_size} px. {size.seeds} training seeds an arm. Fine-tuning: "
        f"{size.finetune_epochs} epochs in batches of {size.batch} for all; before it, "
        f"{size.pretrain_epochs} epochs of pre-training for all but *scratch* and *strong* "
        "(CutMix, random erasing), which so have seen fewer steps. Arms of a seed begin with the "
        f"same weights. Budget: {plan.budget} ({plan.device})"
        f"{grown if spent > plan.seconds else ''}. Done: {progress}. "
        "All of this is made from `rows.csv.gz` by "
        "`python -m experiments.cifar10.report`.",
        "",
        "Intervals: 95 %, over images and training seeds (`interactions.stats.two_level`). A claim "
        "*holds* if its interval is on the claimed side of 0 (of -0.01, where something is kept "
        "*to a point*), *does not hold* if on the other, and is else *not decided*. Holm's p is "
        "over all claims.",
        "",
        "## What came out",
        "",
        *summary(made["claims"]),
        *_levels(means),
        *_changed(changes),
        "",
        "*Not decided* is not *no difference*; and networks that were trained as little as these "
        "say nothing about hundreds of epochs of ImageNet: their accuracy (below) is that of "
        "unfinished training.",
        *_left_out(size),
        "",
        "![Differences of all claims](claims.svg)",
        "",
        "## Every claim",
        "",
        "What it would take is for a difference as large as it was found; images may be more than "
        "there are for testing.",
        "",
        "| claim | difference [95 %] | Holm's p | seeds | images | verdict | would take |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    for row in made["claims"].to_dict("records"):
        cells = ["", "", "", ""]
        if not pd.isna(row["difference"]):
            p = "" if pd.isna(row["p_holm"]) else f"{row['p_holm']:.2g}"
            cells = [_difference(row), p, f"{row['seeds']:.0f}", f"{row['images']:.0f}"]
        words = [f"{row['source']}: {row['claim']}", *cells, f"**{row['verdict']}**", row["takes"]]
        lines.append("| " + " | ".join(words) + " |")
    hidden = ", ".join(f"{100 * fraction:g}" for fraction in size.fractions if fraction)
    lines += [
        "",
        "## The networks",
        "",
        f"Patches hidden: mean accuracy with {hidden} % of the patches hidden at random, of "
        f"{size.occlusion} test images; less clean: that less their accuracy with nothing hidden. "
        "The linear probe is of the encoder where there is pre-training, else of the fine-tuned "
        "network without its classifier. Similarity: centred cosine of features of whole and "
        f"occluded images ({size.features}), mean over layers and fractions; an encoder is "
        "pre-trained, or untrained, and not fine-tuned.",
        "",
        *networks_table(means),
        "",
        *_also(made, size.pretrain_epochs),
        "## Interactions",
        "",
        f"{size.strength} test images, {size.pairs} pairs of neighbours each, {size.replicates} "
        "contexts a pair and order, 13 orders, 8 x 8 players, log-odds of the true class, hidden "
        "patches of the mean colour; J of the RMS strength, from unbiased energies. Middle orders: "
        "0.1 to 0.5 of n-2. A handful of images holds most of the energy: by network, that of "
        f"middle orders hangs on {effective.min():.1f} to {effective.max():.1f} of them "
        "(`effective.csv`), which is why intervals of J are wide. Simulated at such tails, they "
        "held the mean of an arm in 98 % where 6 of 48 images hold the energy, in 94 % where 2 to "
        "3 do, in 87 % where 1 to 2 do, and differences of arms in 95 % or more (LOG.md).",
        "",
        "![J over orders](orders.svg)",
        "",
        "As published, the mean of |I|, which is too large where contexts vary:",
        "",
        "![Published J over orders](orders-published.svg)",
        "",
        "J of middle orders by both; the bracket of the published one is what noise of contexts "
        "leaves open, without images and seeds:",
        "",
        *_bracket_table(means),
        "",
        "Along pre-training there is no classifier: the value is the projection onto the features "
        f"of the whole image, of {size.along} images, {early.min():.1f} to {early.max():.1f} of "
        "which hold the energy of middle orders.",
        "",
        "![J of middle orders along pre-training](along.svg)",
        "",
        *_changes(changes, means, size),
        "## Occlusion, invariance, spectra",
        "",
        *(
            line
            for fill in size.fills
            for line in (f"![Accuracy over hidden fractions, {fill}](occlusion-{fill}.svg)", "")
        ),
        "![Similarity over layers](invariance.svg)",
        "",
        "![Spectra over depth](depth.svg)",
        "",
        "## The files",
        "",
        "`rows.csv.gz` has a row for a network and an image, which the tables are made of "
        "(`means.csv`, `differences.csv` of all pairs of arms, `claims.csv`, `effective.csv`, "
        "`ablations.csv` if there are some). `networks` has one "
        "fine-tuned network of each architecture in half precision and an image a class, to "
        "measure rows again (the ResNet of CIFAR-10 as "
        "`results/networks.py:small_image_resnet=FILE`):",
        "",
        "    a2mim occlusion networks/vit-a2mim-0.safetensors --images networks/images \\",
        f"        --label truth --grid {GRID} --fractions {' '.join(map(str, size.fractions))}",
        "",
    ]
    return "\n".join(lines)
