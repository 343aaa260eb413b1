from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import interactions as ix
from a2mim.measure.interaction_summary import (
    COLUMNS,
    contexts_of,
    spending_of,
    summarised,
    write_summary,
)
from a2mim.measure.runner import Measured
from a2mim.runs.checks import InvariantError
from a2mim.runs.table import strength_rows

GRID = ix.PatchGrid(4, 4)
DESIGN = ix.Design(ix.NeighbourPairs(GRID, 2, 4), ix.Windows(4, 2), ratios=(0, 0.3, 0.5, 0.8, 1))
CONSTANT = {"run": "interactions", "dataset": "toy", "seed": 0, "commit": "c"}


def network(name, *, images=8, scale=1.0, prefix="i"):
    """A network whose images are random games of teams of two to four players."""
    games = []
    for k in range(images):
        rng = np.random.default_rng([k, len(name)])
        teams = [frozenset(rng.choice(16, size, False).tolist()) for size in (2, 3, 4) * 40]
        dividends = {team: scale * rng.normal() for team in teams}
        games.append(ix.toy.DividendGame(16, dividends, image=f"{prefix}{k}"))
    records = ix.measure(games, DESIGN, target=None)
    return Measured(
        SimpleNamespace(name=name, weights=f"{name}.pth"), records, "float32", 0.01, 0.01
    )


def rows_of(measured):
    return pd.concat(
        [
            strength_rows(
                one.records,
                "grid=4x4",
                floor=one.floor_of_ends,
                model=one.subject.name,
                weights=one.subject.weights,
                **CONSTANT,
            )
            for one in measured
        ],
        ignore_index=True,
    )


def summary_of(*measured, target=0.1):
    return summarised(rows_of(measured), measured, target)


@pytest.fixture(scope="module")
def networks():
    return [network("a"), network("bb"), network("ccc")]


def lines(summary, kind, **where):
    chosen = summary[summary["kind"] == kind]
    for column, value in where.items():
        chosen = chosen[chosen[column] == value]
    return chosen


def assert_columns(lines, table, names):
    for ours, theirs in names.items():
        expected = table[theirs].to_numpy()
        if expected.dtype.kind in "if":
            np.testing.assert_allclose(lines[ours].to_numpy(float), expected, rtol=1e-9)
        else:
            assert lines[ours].tolist() == expected.tolist()


def test_orders_and_bands_are_those_of_the_library(networks):
    summary = summary_of(*networks)
    for one in networks:
        strength = ix.strength(one.records, floor=0.01)
        published = ix.strength(one.records, "plug_in")
        mine = lines(summary, "order", model=one.subject.name)
        same = {name: name for name in ("order", "ratio", "S", "J", "rho", "rho_is_bound")}
        ends = {"se": "J_se", "low": "J_low", "high": "J_high"}
        assert_columns(mine, strength.to_frame(), same | ends)
        ends = {f"J_published{end}": f"J{end}" for end in ("", "_low", "_high")}
        bracket = {name: name for name in ("J_bracket_low", "J_bracket_high", "unresolved")}
        assert_columns(mine, published.to_frame(), ends | bracket)
        spent = ["contexts", "forwards", "error", "from_images", "from_pairs", "from_contexts"]
        spent = {name: name for name in (*spent, "state")}
        assert_columns(mine, ix.spending(one.records, 0.1), spent)
        bands = lines(summary, "band", model=one.subject.name)
        names = {name: name for name in ("band", "first", "last", "J", "se", "low", "high")}
        assert_columns(bands, strength.bands(), names)


def test_differences_are_to_the_first_network(networks):
    summary = summary_of(*networks)
    first = ix.strength(networks[0].records, floor=0.01)
    numbers = {"J": "difference"} | {name: name for name in ("se", "low", "high", "p", "p_holm")}
    for one in networks[1:]:
        strength = ix.strength(one.records, floor=0.01)
        where = {"model": one.subject.name, "minus_model": "a", "minus_weights": "a.pth"}
        mine = lines(summary, "difference", **where)
        assert_columns(mine, strength.compare_bands(first), numbers | {"band": "band"})
        mine = lines(summary, "order_difference", **where)
        assert_columns(mine, strength.compare(first), numbers | {"order": "order"})
    assert summary["kind"].value_counts().to_dict() == {
        **{"order": 3 * 5, "band": 3 * 3},
        **{"difference": 2 * 3, "order_difference": 2 * 5},
    }


def test_the_wanted_error_is_that_of_the_run(networks):
    states = [
        lines(summary_of(networks[0], target=target), "order")["state"].tolist()
        for target in (0.0, 0.1, 100.0)
    ]
    assert states[0] == states[1] == ix.spending(networks[0].records)["state"].tolist()
    assert states[2] == ["reached"] * 5


def test_the_files_have_the_columns_of_the_legend(networks, tmp_path):
    summary = summary_of(*networks)
    write_summary(summary, tmp_path)
    legend = pd.read_csv(tmp_path / "summary_columns.csv")
    back = pd.read_csv(tmp_path / "summary.csv")
    assert list(back) == legend["column"].tolist() == list(summary) == list(COLUMNS)
    assert legend["meaning"].tolist() == list(COLUMNS.values())
    assert back.notna().any().all()  # no column is for nothing
    np.testing.assert_allclose(back["J"], summary["J"].astype(float), rtol=1e-7)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "summary.csv",
        "summary_columns.csv",
    ]


def test_one_network_has_no_differences(networks):
    summary = summary_of(networks[0])
    assert set(summary["kind"]) == {"order", "band"}
    assert summary[["minus_model", "minus_weights", "p", "p_holm"]].isna().all(axis=None)
    assert list(summary) == list(COLUMNS)


def test_networks_of_other_images_are_not_compared(networks):
    other = network("other", prefix="other")
    summary = summary_of(networks[0], other, networks[1])
    assert set(summary.loc[summary["minus_model"].notna(), "model"]) == {"bb"}


def test_few_replicates_tell_no_error_but_what_was_spent():
    """Of two replicates there is an energy, but no telling how noisy it is."""
    games = [ix.toy.SizeGame(16, lambda k: float(k**3), image=f"i{k}") for k in range(3)]
    records = ix.measure(games, ix.Design(DESIGN.pairs, ix.Windows(2, 2), DESIGN.ratios))
    one = Measured(SimpleNamespace(name="a", weights="w"), records, "float32", 0.0, 0.0)
    mine = lines(summary_of(one), "order")
    assert mine["contexts"].tolist() == contexts_of(records[0]) == [1, 4, 4, 4, 1]
    assert mine["forwards"].tolist() == [3 * 4 * 4 * count for count in (1, 4, 4, 4, 1)]
    assert mine[["error", "from_images", "state"]].isna().all(axis=None)
    assert list(spending_of(records, 0.1)) == ["order", "ratio", "contexts", "forwards"]


def test_a_mean_of_J_that_is_not_1_is_not_written(networks, tmp_path):
    summary = summary_of(*networks)
    order = (summary["kind"] == "order") & (summary["model"] == "bb")
    summary.loc[order, "J"] *= 1.001
    with pytest.raises(InvariantError, match=r"J of bb bb\.pth: expected a mean of 1"):
        write_summary(summary, tmp_path)
    assert not list(tmp_path.iterdir())


def test_where_no_pair_interacts_there_is_no_J(tmp_path):
    games = [ix.toy.SizeGame(16, lambda k: 0.0, image=f"i{k}") for k in range(8)]
    records = ix.measure(games, DESIGN, target=None)
    one = Measured(SimpleNamespace(name="a", weights="w"), records, "float32", 0.0, 0.0)
    write_summary(summary_of(one), tmp_path)
    back = pd.read_csv(tmp_path / "summary.csv").query("kind == 'order'")
    assert (back["S"] == 0).all()
    assert back[["J", "low", "high"]].isna().all(axis=None)
