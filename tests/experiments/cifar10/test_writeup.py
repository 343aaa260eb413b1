import numpy as np
import pandas as pd
import pytest

from experiments.cifar10.plan import Plan
from experiments.cifar10.sizes import TINY
from experiments.cifar10.tables import means
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


def test_the_interval_decides():
    assert verdict_of(0.1, 0.3, 1) == "holds"
    assert verdict_of(-0.3, -0.1, 1) == "does not hold"
    assert verdict_of(-0.1, 0.3, 1) == "not decided"
    assert verdict_of(-0.3, -0.1, -1) == "holds"
    assert verdict_of(-0.005, 0.3, 1, 0.01) == "holds"
    assert verdict_of(np.nan, np.nan, 1) == "not decided"


def test_what_it_takes():
    # t(0.975, 2 (n - 1)) sqrt(3e-3 / n): 0.0565 for n = 5, 0.0498 for n = 6
    assert takes_of(0.05, 1e-3, 0.0, 3, 100).startswith("6 seeds")
    assert "images" in takes_of(0.01, 1e-3, 1e-2, 3, 100)
    assert takes_of(0.05, np.nan, 1e-3, 1, 100) == "more than one seed"


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
    row = found[found["claim"].str.startswith("a2mim pre-training raises middle")].iloc[0]
    assert row["verdict"] == verdict
    assert len(found) == len(claims(1))
    assert (found["verdict"] == "not measured").sum() == len(found) - 1
    assert f"**{verdict}**" in page(found, means(rows), PLAN, 1, 2)
    assert (f"ViT: {verdict}, {row['difference']:+.3f} [" in summary(found)[0]) == (difference != 0)


def test_one_seed_decides_nothing():
    rows = table(0.5, seeds=1)
    found = judged(rows, 1)
    row = found[found["difference"].notna()].iloc[0]
    assert row["verdict"] == "not decided"
    assert "no interval from one seed" in page(found, means(rows), PLAN, 1, 2)


def test_more_than_the_untrained_network_is_a_claim_about_one_arm():
    rows = table(0.5).assign(measure="similarity gained, mean", setting="encoder", arm="mae")
    rows = rows.assign(seed=rows.index // 40).query("seed < 3")
    found = judged(rows.assign(value=rows["value"] - 2), 1).set_index("claim")
    row = found.loc[next(name for name in found.index if name.startswith("C1, control: mae"))]
    expected = two_level(rows.pivot(index="seed", columns="image", values="value") - 2)
    assert (row["difference"], row["low"]) == pytest.approx((expected.estimate, expected.low))
    assert row["verdict"] == "does not hold"


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
    (told,) = summary(found)
    assert told.count("holds, +0.500 [+0.100, +0.900]") == 2
    assert told.count("(not after Holm)") == 1


def test_the_networks_with_their_intervals():
    one = {"arch": "vit", "arm": "mae", "measure": "accuracy", "setting": ""}
    shown = pd.DataFrame([one | {"estimate": 0.5, "low": 0.25, "high": 0.75}])
    assert networks_table(shown)[2].startswith("| ViT, mae | 0.500 [0.250, 0.750] |")
