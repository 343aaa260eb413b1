"""The page that says what came out, made from the tables alone, never by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd

from experiments.cifar10.arms import ABLATED, ABLATIONS, NAMES, UNTRAINED
from experiments.cifar10.claims import DECIDED, VERDICTS, claims
from experiments.cifar10.plan import Plan
from experiments.cifar10.sizes import Size
from experiments.cifar10.stages import GRID, total

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
"""The titles, by measure and setting."""


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
        named = (f"{arm} {sd:.3f}" for arm, sd in zip(of["arm"], of["seed_sd"], strict=True))
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
    return [f"- {line}" for line in lines]


def _bracket_table(means: pd.DataFrame) -> list[str]:
    """J of middle orders by both estimators, as lines of Markdown."""
    found = {
        (row["arch"], row["arm"], row["measure"]): row
        for row in means[means["setting"] == "fine-tuned"].to_dict("records")
    }
    lines = ["| network | RMS, unbiased | as published | its bracket |", "|---|---|---|---|"]
    for arch, arm, measure in found:
        if measure == "J middle" and arm not in ABLATIONS:
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
