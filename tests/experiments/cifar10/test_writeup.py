from dataclasses import replace

import pandas as pd
import pytest

from experiments.cifar10.claims import claims, judged
from experiments.cifar10.plan import RATES, Plan
from experiments.cifar10.sizes import TINY
from experiments.cifar10.tables import ablations, differences, means
from experiments.cifar10.writeup import networks_table, page, summary

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


@pytest.mark.parametrize(
    ("difference", "verdict"), [(0.5, "holds"), (-0.5, "does not hold"), (0.0, "not decided")]
)
def test_a_claim_from_rows_to_verdict(difference, verdict, table):
    rows = table(difference)
    found = judged(rows, 1)
    row = found[found["claim"].str.startswith("A2MIM pre-training raises middle")].iloc[0]
    assert row["verdict"] == verdict
    assert len(found) == len(claims(1))
    assert (found["verdict"] == "not measured").sum() == len(found) - 1
    assert f"**{verdict}**" in page(made(found, rows), PLAN, "1 of 2 stages")
    told = "\n".join(summary(found))
    assert (f"ViT: {verdict}, {row['difference']:+.3f} [" in told) == (difference != 0)


def test_one_seed_decides_nothing(table):
    rows = table(0.5, seeds=1)
    found = judged(rows, 1)
    row = found[found["difference"].notna()].iloc[0]
    assert row["verdict"] == "not decided"
    assert "no interval from one seed" in page(made(found, rows), PLAN, "1 of 2 stages")


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


def test_ablations_are_told_with_their_intervals(table):
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


def test_what_a_budget_did_not_buy_is_said(table):
    rows = table(0.5)
    plan = replace(PLAN, rates=dict.fromkeys([*RATES, "vit forward", "resnet forward"], 10.0))
    told = page(made(judged(rows, 1), rows), plan, "1 of 2 stages")
    assert "with more seeds than it buys" in told
    assert "minutes of one process planned, budget 3)" in told
    assert "more seeds" not in page(made(judged(rows, 1), rows), PLAN, "").partition("##")[0]


def test_differences_that_nobody_claimed_are_told_and_claims_are_not(table):
    rows = table(0.5)
    other = rows[rows["arm"] == "a2mim"].assign(arm="strong")
    rows = pd.concat([rows, other.assign(value=other["value"] + 1)])
    told = page(made(judged(rows, 1), rows), PLAN, "1 of 2 stages")
    section = told.partition("## What else differs")[2].partition("##")[0]
    assert "- J, middle orders: ViT, strong less scratch +1." in section
    assert "a2mim less scratch" not in section


def test_the_published_strength_stands_beside_ours_with_its_bracket(table):
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
