from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from a2mim.runs.checks import (
    InvariantError,
    check_mean_of_J,
    check_rows,
    check_side_by_side,
    range_of,
)
from a2mim.runs.table import COLUMNS, read_table, write_table
from interactions.features.cka import LinearCKA

ROOT = Path(__file__).parents[3]
SETTING = "layer=output readout=output hiding=zero precision=float32"


def table(*measured, **columns):
    """Rows of a measure and a value, at 0.5; columns are those that differ."""
    rows = pd.DataFrame(
        {
            "run": "invariance",
            "measure": [measure for measure, _ in measured],
            "model": "vit",
            "weights": "mae",
            "dataset": "toy",
            "image": "all",
            "setting": SETTING,
            "at": 0.5,
            "value": [float(value) for _, value in measured],
            "samples": 9,
            "seed": 0,
            "commit": "abc",
        }
    )
    return rows.assign(**columns)[list(COLUMNS)]


@pytest.mark.parametrize(
    "path",
    [
        path
        for pattern in ("*/rows.csv", "pretrain/*/rows.csv", "siamese/*.csv")
        for path in sorted((ROOT / "results").glob(pattern))
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_tables_of_the_commands_are_right(path):
    check_rows(read_table(path))


@pytest.mark.parametrize(
    ("measure", "good", "bad"),
    [
        ("invariance_recall@1", 1, 1.193),  # what a scrambled table said
        ("invariance_recall@5_permuted", 0, -0.01),
        ("invariance_cka", -0.02, 1.01),
        ("invariance_cka_permuted", -1, -1.01),
        ("invariance_centred_cosine_p05_untrained", -1, -1.5),
        ("invariance_pearson_median", 1 + 5e-7, 1 + 5e-6),  # rounding is no violation
        ("invariance_cka_mask_sd", 0, -0.001),
        ("invariance_relative_l2", 2.5, -0.1),
        ("interaction_J_se", 0.1, -0.1),
        ("interaction_strength_plug_in", 7, -1e-3),
        ("accuracy", 1, 2),
        ("linear_top1_mean", 0.5, 50),
        ("clean_top5", 0.5, 50),
        ("pretrain_knn_top1", 0.5, 50),
        ("finetune_top1", 0.5, 50),
        ("occlusion_agreement", 0, -0.1),
        ("occlusion_top1_area", 0.4, 1.2),
        ("occlusion_top1_p_holm", 1, 1.1),
        ("occlusion_p_true", 0.9, 1.1),
        ("occlusion_js", np.log(2), 0.7),
        ("occlusion_kl", 9.9, -0.1),
        ("occlusion_drop", -0.4, -1.4),
        ("compare_accuracy_difference", -0.9, -1.1),
        ("compare_similarity", -0.3, 1.3),
        ("spectrum_variance", 3, -1e-3),
    ],
)
def test_values_out_of_range_are_refused(measure, good, bad):
    check_rows(table((measure, good)))
    if "strength" not in measure:
        check_rows(table((measure, np.nan)))  # there is no such number
    with pytest.raises(InvariantError, match=r"expected a value in \[.*in row 1 .*at 0.5"):
        check_rows(table(("x", 0), (measure, bad)))


def test_what_nothing_is_known_of_may_be_anything():
    assert range_of("spectrum_delta_log_amplitude") == (-np.inf, np.inf)
    rows = table(("occlusion_top1_half", np.inf), ("pretrain_loss", -3), ("accuracy_of", 7))
    check_rows(rows)
    check_rows(rows[:0])
    # the ends of a t interval of shares near 1
    check_rows(table(("linear_top1_mean", 0.98), ("linear_top1_mean_high", 1.02)))


@pytest.mark.parametrize("measure", ["invariance_cka", "invariance_cka_pixels"])
def test_nothing_hidden_changes_nothing(measure):
    check_rows(table((measure, 0.9999), at=0.0))
    check_rows(table((measure, 0.9)))
    check_rows(table((measure, np.nan), at=0.0))  # features that are the same for all images
    check_rows(table((measure, 0.9), at=0.0, setting="precision=float16"))
    check_rows(table(("invariance_cka_permuted", 0.01), at=0.0))
    with pytest.raises(InvariantError, match=r"expected 1, because nothing .* got 0\.9 in"):
        check_rows(table((measure, 0.9), at=0.0))


def test_one_key_has_one_row():
    rows = table(("x", 1), ("x", 2))
    for column, value in {
        "image": "b",
        "seed": 1,
        "at": 0.6,
        "setting": "",
        "weights": "w",
    }.items():
        check_rows(rows.assign(**{column: [rows[column][0], value]}))
    for column, value in {"commit": "b", "samples": 1}.items():
        with pytest.raises(InvariantError, match=r"x: expected one row .*got 2 in row 1"):
            check_rows(rows.assign(**{column: [rows[column][0], value]}))
    with pytest.raises(InvariantError, match="in each column of its key"):
        check_rows(table(("x", 1), model=None))


def test_intervals_are_around_their_estimates():
    good = (("x", 0.5), ("x_low", 0.4), ("x_high", 0.6))
    check_rows(table(*good))
    check_rows(table(*reversed(good)))  # found by name, not by place
    check_rows(table(("x", 0.5), ("x_low", np.nan), ("x_high", np.nan)))
    check_rows(table(("x", np.inf), ("x_low", 0.4), ("x_high", np.inf)))
    check_rows(table(("x_low", 0.4)))
    with pytest.raises(InvariantError, match=r"x_low: .* around its estimate, 0.3, got 0.4 in row"):
        check_rows(table(("x", 0.3), *good[1:]))
    with pytest.raises(InvariantError, match=r"x_high: .* around its estimate, 0.7, got 0.6"):
        check_rows(table(("x", 0.7), *good[1:]))
    bootstrap = {"run": "occlusion"}
    check_rows(table(("x", 0.7), *good[1:], **bootstrap))  # percentiles may leave it out
    with pytest.raises(InvariantError, match=r"x_low: .* below the upper one, 0.3, got 0.4"):
        check_rows(table(("x", 0.5), ("x_low", 0.4), ("x_high", 0.3), **bootstrap))
    both = pd.concat([table(*good), table(*((n, v + 1) for n, v in good), image="b")])
    check_rows(both)  # each beside its own


def test_every_order_has_a_strength():
    check_rows(table(("interaction_rho", np.nan), ("interaction_energy", -0.1)))
    for measure in ("interaction_energy", "interaction_strength_plug_in"):
        for value in (np.nan, np.inf):
            with pytest.raises(InvariantError, match=f"{measure}: expected a finite value"):
                check_rows(table((measure, value)))


def test_a_refused_table_is_not_written(tmp_path):
    path = tmp_path / "rows.csv"
    with pytest.raises(InvariantError, match=r"got 1.193 in row 0 .*and 1 more; .*not written"):
        write_table(
            table(*[("invariance_recall@1", 1.193)] * 2, at=[0.2, 0.5]).assign(seed=3), path
        )
    assert not list(tmp_path.iterdir())


def test_the_mean_of_J_is_1():
    check_mean_of_J([0.5, 1.5, 1.0], "vit (mae)")
    for J in ([0.5, 1.5, 1.1], [0.5, np.nan]):
        with pytest.raises(InvariantError, match=r"J of vit \(mae\): expected a mean of 1"):
            check_mean_of_J(J, "vit (mae)")


def test_wide_tables_hold_the_rows():
    rows = pd.DataFrame({"k": list("aabb"), "number": list("xyxy"), "value": [1, 2, np.nan, 4.0]})
    wide = pd.DataFrame({"k": list("ba"), "x": [np.nan, 1], "y": [4.0, 2], "z": np.nan})
    check_side_by_side(wide, rows, ["k"], ["x", "y", "z"])
    with pytest.raises(InvariantError, match=r"expected 1, .* for k a, number x, got 4"):
        check_side_by_side(wide.assign(x=[np.nan, 4]), rows, ["k"], ["x", "y", "z"])
    for bad in (wide[:1], wide.assign(z=1), wide.assign(x=0)):
        with pytest.raises(InvariantError, match="wide table: expected"):
            check_side_by_side(bad, rows, ["k"], ["x", "y", "z"])
    with pytest.raises(InvariantError, match="wide table: expected"):
        check_side_by_side(wide, rows, ["k"], ["x"])  # a number of the rows is left out


@pytest.mark.parametrize("batches", [1, 3])
def test_unbiased_cka_is_an_inner_product(batches):
    """It lies in [-1, 1], however few images a batch has: rows of K are centred, K has no diagonal.

    Of batches of 4 images, where biases are largest; and below 0 for half of unrelated features.
    """
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(100):
        cka = LinearCKA()
        for _ in range(batches):
            x, y = torch.randn(2, 4, 3, generator=generator)
            cka.update(x, y)
        values.append(cka.value)
    assert np.abs(values).max() <= 1
    assert 0.3 < np.mean(np.array(values) < 0) < 0.7
