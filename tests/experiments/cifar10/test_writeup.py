import numpy as np
import pandas as pd
import pytest

from experiments.cifar10.plan import Plan
from experiments.cifar10.sizes import TINY
from experiments.cifar10.writeup import claims, judged, page, takes_of, verdict_of

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
    found = judged(table(difference), 1)
    row = found[found["claim"].str.startswith("a2mim pre-training raises middle")].iloc[0]
    assert row["verdict"] == verdict
    assert len(found) == len(claims(1))
    assert (found["verdict"] == "not measured").sum() == len(found) - 1
    assert f"**{verdict}**" in page(found, PLAN, 1, 2)


def test_one_seed_decides_nothing():
    found = judged(table(0.5, seeds=1), 1)
    row = found[found["difference"].notna()].iloc[0]
    assert row["verdict"] == "not decided"
    assert "none from one seed" in page(found, PLAN, 1, 2)
