import numpy as np
import pandas as pd
import pytest

import interactions as ix
from a2mim.runs.checks import InvariantError
from a2mim.runs.table import (
    COLUMNS,
    joined,
    per_image_rows,
    read_table,
    side_by_side,
    strength_from,
    strength_rows,
    write_table,
)

CONSTANT = {
    "run": "test",
    "model": "vit",
    "weights": "scratch",
    "dataset": "toy",
    "seed": 0,
    "commit": "abc1234",
}


def measured_rows():
    """Rows of five games, and their records."""
    games = [
        ix.toy.ParityGame(16, {frozenset({0, 1, 2, k}): 1.0 for k in range(3, 9)}, image=f"i{s}")
        for s in range(5)
    ]
    records = ix.measure(games, ix.Design(ix.NeighbourPairs(ix.PatchGrid(4, 4), 2, 9)))
    return strength_rows(records, "grid=4x4 reward=toy", floor=0.01, **CONSTANT), records


@pytest.mark.parametrize("estimator", ["rms", "plug_in"])
def test_strength_survives_the_table(tmp_path, estimator):
    rows, records = measured_rows()
    write_table(rows, tmp_path / "rows.csv")
    back = strength_from(read_table(tmp_path / "rows.csv"), estimator)
    strength = ix.strength(records, estimator, floor=0.01)
    assert back.images == strength.images
    assert back.n == 16
    np.testing.assert_array_equal(back.orders_O, strength.orders_O)
    np.testing.assert_allclose(back.J, strength.J, rtol=1e-6)
    np.testing.assert_allclose(back.J_se, strength.J_se, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(back.rho_O, strength.rho_O, rtol=1e-6)
    np.testing.assert_array_equal(back.rho_is_bound_O, strength.rho_is_bound_O)
    if estimator == "plug_in":
        np.testing.assert_allclose(back.bracket, strength.bracket, rtol=1e-6)


def test_samples_are_pairs_times_contexts_and_one_context_at_the_ends():
    rows, records = measured_rows()
    energies = rows[rows["measure"] == "interaction_energy"]
    ends = energies["at"].isin([0.0, 1.0])
    assert set(energies.loc[ends, "samples"]) == {9}
    assert set(energies.loc[~ends, "samples"]) == {9 * 8}
    assert len(energies) == 5 * len(records[0].orders_O)


def test_rows_are_image_by_image():
    rows = per_image_rows(
        np.arange(6).reshape(2, 3),
        ["a", "b"],
        [0, 1, 2],
        measure="x",
        setting="",
        samples=1,
        **CONSTANT,
    )
    assert tuple(rows.columns) == COLUMNS
    assert rows["image"].tolist() == ["a"] * 3 + ["b"] * 3
    assert rows["at"].tolist() == [0, 1, 2, 0, 1, 2]
    assert rows["value"].tolist() == [0, 1, 2, 3, 4, 5]


def test_other_tables_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected the columns"):
        write_table(pd.DataFrame({"a": [1]}), tmp_path / "rows.csv")
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="expected a results table"):
        read_table(tmp_path / "rows.csv")
    rows, _ = measured_rows()
    with pytest.raises(ValueError, match="a value for every image"):
        strength_from(rows.drop(index=3))
    with pytest.raises(ValueError, match="grid=RxC"):
        strength_from(rows.assign(setting="none"))


def test_wide_tables_keep_the_order_of_the_rows():
    """Neither keys nor columns are sorted, and a value goes by its names."""
    rows = pd.DataFrame(
        [("b", 2, "y", 1), ("a", 1, "x", 2), ("b", 2, "x", 3), ("b", 1, "y", 4)],
        columns=["word", "size", "number", "value"],
    )
    wide = side_by_side(rows, ["word", "size"], ["y", "x", "z"])
    expected = {"word": list("bab"), "size": [2, 1, 1], "y": [1, np.nan, 4], "x": [3, 2, np.nan]}
    pd.testing.assert_frame_equal(wide, pd.DataFrame({**expected, "z": np.nan}))
    for bad in (pd.concat([rows, rows[:1]]), rows.assign(number="other")):
        with pytest.raises(InvariantError, match="wide table: expected"):
            side_by_side(bad, ["word", "size"], ["y", "x", "z"])
    assert side_by_side(rows[:0], ["word"], ["y"]).empty


def test_words_are_kept_as_they_are(tmp_path):
    """Weights called 100, an image called NA, no setting; only a value may be missing."""
    words = {"model": "1e3", "weights": "100", "dataset": "nan", "commit": "1234567", "run": "test"}
    rows = per_image_rows(
        np.array([[1.0], [np.nan]]),
        ["NA", "007"],
        [0.5],
        measure="x",
        setting="",
        samples=1,
        seed=0,
        **words,
    )
    write_table(rows, tmp_path / "rows.csv")
    back = read_table(tmp_path / "rows.csv")
    pd.testing.assert_frame_equal(back, rows, check_dtype=False)
    for name, word in words.items():
        assert back[name].tolist() == [word, word]


def test_parts_of_a_run_are_made_once_and_joined(tmp_path):
    parts, made = [tmp_path / name / "rows.csv" for name in ("a", "b")], []
    rows, _ = measured_rows()

    def one(number):
        assert parts[number].parent.is_dir()
        made.append(number)
        return rows.assign(seed=number)

    first = joined(parts, one)
    assert first["seed"].tolist() == [0] * len(rows) + [1] * len(rows)
    parts[1].unlink()  # as of an interrupted run
    pd.testing.assert_frame_equal(joined(parts, one), first)
    assert made == [0, 1, 1]
