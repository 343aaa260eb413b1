"""Rows and text against pandas and numpy, with a network that is a few lines."""

import numpy as np
import pandas as pd
import pytest
import torch

from a2mim.measure.occlusion_tables import (
    PREDICTIONS,
    SUMMARY,
    Measured,
    read_images_table,
    result_rows,
    summarised,
    summary,
    without_truth,
)
from a2mim.runs.table import COLUMNS
from interactions.occlusion.masks import OCCLUDERS
from interactions.occlusion.predictions import occlude
from interactions.patches import PatchGrid

FRACTIONS = (0.0, 0.25, 0.75)
CONSTANT = {"run": "occlusion", "dataset": "noise", "image": "all", "seed": 0, "commit": "-"}
NAMES = ["001", "NA", *(f"{k}.png" for k in range(10))]


def measured(network, labels, repeats=1):
    """12 images of noise under random masks, by one of some linear networks of 6 classes."""
    images_ICHW = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(192, 6, generator=torch.Generator().manual_seed(10 + network)) / 8
    return occlude(
        lambda images_BCHW: images_BCHW.flatten(1) @ weight,
        *(images_ICHW, torch.tensor(labels), PatchGrid(4, 4), OCCLUDERS["random"]),
        fractions=FRACTIONS,
        repeats=repeats,
        names=NAMES,
    )


LABELS = [k % 6 for k in range(12)]


def networks(*tables):
    return [
        Measured("net", f"w{k}", "occluder=random grid=4x4", table)
        for k, table in enumerate(tables)
    ]


@pytest.fixture(scope="module")
def tables():
    return [measured(k, LABELS, repeats=2) for k in (0, 1)]


@pytest.fixture(scope="module")
def rows(tables):
    return result_rows(networks(*tables), **CONSTANT)


@pytest.fixture(scope="module")
def rows_without_truth(tables):
    return result_rows(networks(*map(without_truth, tables)), **CONSTANT)


def values(rows, measure, weights, minus=""):
    setting = "occluder=random grid=4x4" + (f" minus=net {minus}" if minus else "")
    same = (rows["weights"] == weights) & (rows["setting"] == setting)
    return rows[same & (rows["measure"] == f"occlusion_{measure}")].set_index("at")["value"]


def test_the_summary_has_every_number_once(rows, rows_without_truth):
    for of in (rows, rows_without_truth):
        wide = summarised(of)
        assert set(SUMMARY) == set(wide)
        assert wide[["value", "low", "high", "p", "p_holm"]].notna().sum().sum() == (
            of["value"].notna().sum()
        )
    wide = summarised(rows)
    found = wide[(wide["minus"] == "net w1") & (wide["measure"] == "top1")].set_index("hidden")
    for column, measure in (
        ("value", "top1_difference"),
        ("low", "top1_difference_low"),
        ("p", "top1_p"),
        ("p_holm", "top1_p_holm"),
    ):
        pd.testing.assert_series_equal(
            found[column], values(rows, measure, "w0", "w1"), check_names=False
        )
    area = wide[(wide["measure"] == "top1_area") & (wide["weights"] == "w1")]
    assert area["high"].tolist() == values(rows, "top1_area_high", "w1").tolist()


def test_nothing_that_needs_a_class_is_left(tables):
    table = without_truth(tables[0])
    assert set(table.columns) == {
        *("image", "fraction", "repeat", "hidden", "mask", "predicted", "clean_predicted"),
        *PREDICTIONS,
    }
    assert (table["flipped"] == (table["predicted"] != table["clean_predicted"])).all()
    assert table["flipped"].any()
    others = without_truth(measured(0, [0] * 12, repeats=2))  # whatever the classes are
    pd.testing.assert_frame_equal(table, others)


def test_rows_are_means_over_images(tables, rows, rows_without_truth):
    assert list(rows.columns) == list(rows_without_truth.columns) == list(COLUMNS)
    assert set(rows["samples"]) == {12}
    for weights, table in zip(("w0", "w1"), tables, strict=True):
        means = table.assign(gone=~table["agreement"]).groupby("fraction").mean(numeric_only=True)
        for found in (rows, rows_without_truth):
            agreement = values(found, "agreement", weights)
            np.testing.assert_allclose(agreement.index, means["hidden"])
            np.testing.assert_allclose(agreement, means["agreement"])
            np.testing.assert_allclose(values(found, "kl", weights), means["kl"])
            area = np.trapezoid(agreement, agreement.index) / 0.75
            assert values(found, "agreement_area", weights).item() == pytest.approx(area)
        np.testing.assert_allclose(values(rows, "top1", weights), means["correct"])
        np.testing.assert_allclose(values(rows_without_truth, "flipped", weights), means["gone"])
    first, second = (without_truth(table).groupby("fraction")["agreement"] for table in tables)
    difference = values(rows_without_truth, "agreement_difference", "w0", minus="w1")
    np.testing.assert_allclose(difference, first.mean() - second.mean())


def test_without_truth_rows_are_the_same_ones_and_fewer(tables, rows, rows_without_truth):
    key = ["measure", "model", "weights", "setting", "at"]
    # ``flipped`` is another question, and with classes the spread is that of top-1.
    mine = rows_without_truth[
        ~rows_without_truth["measure"].str.contains("flipped|agreement_variance")
    ]
    both = mine.merge(rows, on=key, suffixes=("", "_truth"), how="left")
    np.testing.assert_array_equal(both["value"], both["value_truth"])
    stems = rows_without_truth["measure"].str.replace("_(low|high)$", "", regex=True)
    scores = ("clean", "area", "relative", "half")
    assert set(stems.str.removeprefix("occlusion_")) == {
        *(*PREDICTIONS, "class_entropy"),
        *("agreement_variance_images", "agreement_variance_masks"),
        *(f"agreement_{score}" for score in scores),
        *("agreement_difference", "agreement_p", "agreement_p_holm"),
        *(f"agreement_{score}_difference" for score in scores),
    }
    spread = tables[0].groupby(["fraction", "image"])["agreement"].var().groupby("fraction").mean()
    found = values(rows_without_truth, "agreement_variance_masks", "w0")
    np.testing.assert_allclose(found, spread)


def test_one_repeat_tells_no_variance():
    found = result_rows(networks(measured(0, LABELS)), **CONSTANT)
    assert not found["measure"].str.contains("variance|difference").any()


def test_networks_on_other_masks_are_refused(tables):
    moved = tables[1].assign(mask=tables[1]["mask"].to_numpy()[::-1])
    with pytest.raises(ValueError, match="the same masks"):
        result_rows(networks(tables[0], moved), **CONSTANT)


def test_names_of_images_survive_the_file(tables, tmp_path):
    for table in (tables[0], without_truth(tables[0])):
        table.to_csv(tmp_path / "images.csv.gz", index=False)
        pd.testing.assert_frame_equal(read_images_table(tmp_path / "images.csv.gz"), table)


def test_the_text_says_what_the_rows_say(rows, rows_without_truth):
    text = summary(rows)
    assert text.startswith("\nrandom: 12 images; in %, KL in nats\n")
    columns = ["hidden", "top-1", "[95", "%]", "top-5", "agreement", "KL", "ECE"]
    assert text.splitlines()[2].split() == ["model", "weights", *columns]
    text = summary(rows_without_truth)
    curves, areas, differences, legend = text.strip("\n").split("\n\n")
    for name in ("agreement", "confidence", "KL", "class entropy", "area", "half at", "p (Holm)"):
        assert f"{name}: " in legend.replace("\n", " ")
    assert curves.splitlines()[0] == (
        "random: 12 images, compared with each network's own prediction of the whole image; "
        "in %, KL and entropy in nats"
    )
    for word in ("top", "ECE", "nan", "-0.0 ", "-0.000"):
        assert word not in text
    low, high = (
        values(rows_without_truth, f"agreement_{end}", "w1")[0.75] for end in ("low", "high")
    )
    numbers = [
        f"{100 * values(rows_without_truth, 'agreement', 'w1')[0.75]:.1f}",
        *(f"[{100 * low:.1f},", f"{100 * high:.1f}]"),
        f"{100 * values(rows_without_truth, 'confidence', 'w1')[0.75]:.1f}",
        f"{values(rows_without_truth, 'kl', 'w1')[0.75]:.3f}",
        f"{values(rows_without_truth, 'class_entropy', 'w1')[0.75]:.3f}",
    ]
    assert curves.splitlines()[-1].split() == ["net", "w1", "75.0", *numbers]
    area = values(rows_without_truth, "agreement_area", "w1").item()
    assert areas.splitlines()[-1].split()[:3] == ["net", "w1", f"{100 * area:.1f}"]
    p = values(rows_without_truth, "agreement_p_holm", "w0", minus="w1")[0.75]
    assert differences.splitlines()[-1].split()[-1] == f"{p:.2g}"
