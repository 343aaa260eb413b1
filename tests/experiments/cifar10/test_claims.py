import numpy as np
import pandas as pd
import pytest

from experiments.cifar10.claims import judged, takes_of, verdict_of
from interactions.stats import two_level


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


def test_the_same_networks_at_two_times_are_paired_over_seeds(table):
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
