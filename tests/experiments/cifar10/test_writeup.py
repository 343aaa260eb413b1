from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments.cifar10.plan import RATES, Plan
from experiments.cifar10.sizes import TINY
from experiments.cifar10.tables import ablations, differences, means
from experiments.cifar10.writeup import (
    claims,
    judged,
    networks_table,
    page,
    summary,
    takes_of,
    verdict_of,
)
from interactions.stats import two_level

PLAN = Plan(TINY, {}, "3", 180.0, "cpu", "images")


def made(found, rows):
    """Tables of a page."""
    settings = ["fine-tuned", "fine-tuned", "epoch 0"]
    return {
        "claims": found,
        "means": means(rows),
        "differences": differences(rows),
        "effective": pd.DataFrame({"middle": [1.5, 3.0, 2.0], "setting": settings}),
        "ablations": ablations(rows),
    }


def test_the_interval_decides():
    assert verdict_of(0.1, 0.3, 1) == "holds"
    assert verdict_of(-0.3, -0.1, 1) == "does not hold"
    assert verdict_of(-0.1, 0.3, 1) == "not decided"
    assert verdict_of(-0.3, -0.1, -1) == "holds"
    assert verdict_of(-0.005, 0.3, 1, 0.01) == "holds"
    assert verdict_of(np.nan, np.nan, 1) == "not decided"


def crossed(seed_sd, image_sd, seeds=3, images=100, mean=0.05):
    """Two arms that differ by exactly so much, with spreads that are exactly these."""
    rng = np.random.default_rng(0)
    parts = []
    for sd, count in ((seed_sd, seeds), (image_sd, images)):
        x = rng.normal(size=(2, count))
        x -= x.mean(axis=1, keepdims=True)
        parts.append(sd * x / x.std(axis=1, ddof=1, keepdims=True))
    a, b = (seed[:, None] + image for seed, image in zip(*parts, strict=True))
    return a + mean, b


def test_seeds_that_it_takes_are_those_that_decide():
    """With as many seeds of the same spread the interval leaves 0; with one fewer it does not."""
    a, b = crossed(0.05, 1e-3)
    words = takes_of(two_level(a, b), 0.05, 3, 100)
    count = int(words.split(" ")[0])
    assert count > 3
    for seeds, decided in ((count, True), (count - 1, False)):
        more = two_level(*crossed(0.05, 1e-3, seeds=seeds))
        assert (more.low > 0) == decided, (count, seeds)


def test_seeds_cannot_decide_what_images_leave_open():
    a, b = crossed(1e-3, 0.5)
    words = takes_of(two_level(a, b), 0.05, 3, 100)
    assert words.startswith("about ")
    assert "images and more seeds" in words
    images = int(words.split(" ")[1])
    assert two_level(*crossed(1e-3, 0.5, seeds=20, images=images)).low > 0


def test_of_one_seed_more_are_needed():
    a, b = crossed(0.05, 1e-3)
    assert takes_of(two_level(a[:1], b[:1]), 0.05, 1, 100) == "more than one seed"


def table(difference, seeds=3, images=40):
    rng = np.random.default_rng(0)
    of_images = rng.normal(size=images)
    rows = [
        {
            **{"arch": "vit", "arm": arm, "seed": seed, "measure": "J middle", "at": 0.0},
            **{"setting": "fine-tuned", "image": f"{k}"},
            "value": 1 + (arm == "a2mim") * difference + 0.1 * (of_images[k] + rng.normal()),
        }
        for arm in ("scratch", "a2mim")
        for seed in range(seeds)
        for k in range(images)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("difference", "verdict"), [(0.5, "holds"), (-0.5, "does not hold"), (0.0, "not decided")]
)
def test_a_claim_from_rows_to_verdict(difference, verdict):
    rows = table(difference)
    found = judged(rows, 1)
    row = found[found["claim"].str.startswith("A2MIM pre-training raises middle")].iloc[0]
    assert row["verdict"] == verdict
    assert len(found) == len(claims(1))
    assert (found["verdict"] == "not measured").sum() == len(found) - 1
    assert f"**{verdict}**" in page(made(found, rows), PLAN, "1 of 2 stages")
    told = "\n".join(summary(found))
    assert (f"ViT: {verdict}, {row['difference']:+.3f} [" in told) == (difference != 0)


def test_one_seed_decides_nothing():
    rows = table(0.5, seeds=1)
    found = judged(rows, 1)
    row = found[found["difference"].notna()].iloc[0]
    assert row["verdict"] == "not decided"
    assert "no interval from one seed" in page(made(found, rows), PLAN, "1 of 2 stages")


def test_the_same_networks_at_two_times_are_paired_over_seeds():
    """Seeds that differ, and all rise by the same but for noise of images."""
    first = table(0.0).query("arm == 'a2mim'").assign(setting="epoch 0")
    first["value"] += first["seed"]
    noise = 0.05 * np.random.default_rng(1).normal(size=len(first))
    last = first.assign(setting="epoch 2", value=first["value"] + 0.5 + noise)
    found = judged(pd.concat([first, last]), 2)
    row = found[found["claim"].str.startswith("middle orders rise")].iloc[0]
    assert row["difference"] == pytest.approx(0.5, abs=0.05)
    assert row["verdict"] == "holds"


def test_what_is_kept_to_a_point_is_tested_against_that_point():
    rng = np.random.default_rng(0)
    same = (rng.random(5000) < 0.5).astype(float)
    rows = pd.DataFrame(
        [
            {
                **{"arch": "vit", "arm": arm, "seed": seed, "measure": "accuracy", "at": 0.0},
                **{"setting": "", "image": f"{k}", "value": value},
            }
            for arm in ("mae", "cmae")
            for seed in range(3)
            for k, value in enumerate(same)
        ]
    )
    rows.loc[(rows["arm"] == "cmae") & (rows["image"] == "0"), "value"] = 1 - same[0]
    row = judged(rows, 1).set_index("claim").filter(like="C2", axis=0).iloc[0]
    assert row["verdict"] == "holds"
    assert row["p"] < 0.01  # of a difference of 0 it is 0.4 or more


def test_a_decided_claim_that_holm_does_not_confirm_is_said():
    found = pd.DataFrame(
        [
            {
                **{"source": "A", "claim": "more", "verdict": "holds", "difference": 0.5},
                **{"low": 0.1, "high": 0.9, "p_holm": p},
            }
            for p in (0.01, 0.2)
        ]
    )
    told = "\n".join(summary(found))
    assert told.count("holds, +0.500 [+0.100, +0.900]") == 2
    assert told.count("(not after Holm)") == 1


def test_the_networks_with_their_intervals():
    one = {"arch": "vit", "arm": "mae", "measure": "linear probe", "setting": ""}
    shown = pd.DataFrame([one | {"estimate": 0.5, "low": 0.25, "high": 0.75}])
    assert networks_table(shown)[2].startswith("| ViT, mae |  |  |  | 0.500 [0.250, 0.750] |")


def test_ablations_are_told_with_their_intervals():
    one = {"measure": "accuracy", "low": 0.1, "high": 0.3, "p": 0.01, "p_holm": 0.02}
    changes = pd.DataFrame(
        [
            one | {"arm": "fill-zero", "estimate": 0.2},
            one | {"arm": "ratio-0.4", "estimate": 0.21, "p_holm": 0.1},
            one | {"arm": "fill-zero", "measure": "J middle", "estimate": 0.1, "p": 0.5},
        ]
    )
    rows = table(0.5)
    tables = made(judged(rows, 1), rows)
    assert "Ablations" not in page(tables, PLAN, "1 of 2 stages")
    size = replace(TINY, ablation_seeds=1)
    told = page(tables | {"ablations": changes}, replace(PLAN, size=size), "1 of 2 stages")
    assert "| fill-zero | +0.200 [+0.100, +0.300] | +0.100 [+0.100, +0.300] |" in told
    assert "| ratio-0.4 | +0.210 [+0.100, +0.300] (not after Holm) |  |" in told
    assert "in accuracy 2 of 2 changes differ from A2MIM: fill-zero +0.200 [" in told
    assert "in J of middle orders none of 1 changes differs from A2MIM." in told
    assert "a2mim 0.0" in told.partition("Standard deviations over seeds: ")[2]


def test_what_a_budget_did_not_buy_is_said():
    rows = table(0.5)
    plan = replace(PLAN, rates=dict.fromkeys([*RATES, "vit forward", "resnet forward"], 10.0))
    told = page(made(judged(rows, 1), rows), plan, "1 of 2 stages")
    assert "with more seeds than it buys" in told
    assert "minutes of one process planned, budget 3)" in told
    assert "more seeds" not in page(made(judged(rows, 1), rows), PLAN, "").partition("##")[0]


def test_differences_that_nobody_claimed_are_told_and_claims_are_not():
    rows = table(0.5)
    other = rows[rows["arm"] == "a2mim"].assign(arm="strong")
    rows = pd.concat([rows, other.assign(value=other["value"] + 1)])
    told = page(made(judged(rows, 1), rows), PLAN, "1 of 2 stages")
    section = told.partition("## What else differs")[2].partition("##")[0]
    assert "- J, middle orders: ViT, strong less scratch +1." in section
    assert "a2mim less scratch" not in section


def test_the_published_strength_stands_beside_ours_with_its_bracket():
    rows = table(0.5)
    published = {"J published middle": 0.1, "J published middle, from": -0.2}
    published["J published middle, to"] = 0.3
    more = [rows.assign(measure=name, value=rows["value"] + d) for name, d in published.items()]
    tables = made(judged(rows, 1), rows) | {"means": means(pd.concat([rows, *more]))}
    told = page(tables, PLAN, "1 of 2 stages")
    (line,) = [line for line in told.splitlines() if line.endswith(" to 1.298 |")]
    assert line.startswith("| ViT, scratch | 0.998 [")
    assert " | 1.098 [" in line
    assert line.endswith(" | 0.798 to 1.298 |")
