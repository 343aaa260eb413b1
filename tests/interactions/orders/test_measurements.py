import numpy as np
import pytest

import interactions as ix

NAMES = ("a.png", "b.png", "c.png")


@pytest.fixture(scope="module")
def records():
    teams = {frozenset({0, 1, k}): 1.0 for k in range(2, 9)}
    games = [ix.toy.DividendGame(9, teams, image=name) for name in NAMES]
    return ix.measure(games, ix.Design(ix.RandomPairs(5), ratios=(0, 0.5, 1)))


def test_it_is_a_list_that_knows_names(records):
    assert isinstance(records, list)
    assert len(records) == 3
    assert records.images == NAMES
    assert records["b.png"] is records[1] is list(records)[1]
    assert isinstance(records[1:], ix.Measurements)
    assert records[1:].images == NAMES[1:]
    assert records.forwards == sum(record.forwards for record in records)
    with pytest.raises(KeyError, match=r"d\.png.*3: a\.png"):
        records["d.png"]


def test_the_table_holds_every_pair_and_order(records):
    table = records.to_frame()
    assert len(table) == 3 * 5 * 3
    for record in records:
        mine = table[table["image"] == record.image]
        np.testing.assert_array_equal(mine["interaction"].to_numpy().reshape(5, 3), record.mean_PO)
        for p, (i, j) in enumerate(np.sort(record.pairs_P2, axis=1)):
            row = mine[(mine["i"] == i) & (mine["j"] == j) & (mine["ratio"] > 0.3)].iloc[0]
            x_R = record.replicates(1)[p]
            assert row["order"] == 3
            assert row["se"] == pytest.approx(x_R.std(ddof=1) / np.sqrt(len(x_R)))
    assert (table.loc[table["order"].isin([0, 7]), "se"] == 0).all()
    assert ix.Measurements().to_frame().empty


def test_one_pair_and_the_partners_of_a_player(records):
    i, j = records[0].pairs_P2[0].tolist()
    table = records.to_frame()
    mine = table[(table["i"] == min(i, j)) & (table["j"] == max(i, j))]
    for found in (records.pair(i, j), records.pair(j, i)):
        np.testing.assert_array_equal(found, mine)
    partners = records.partners(i)
    assert j in set(partners["partner"])
    sizes = partners["interaction"].abs()
    assert (sizes.diff().dropna() <= 0).all()
    assert len(partners) == ((table["i"] == i) | (table["j"] == i)).sum()
    with pytest.raises(ValueError, match="got 3 and 3"):
        records.pair(3, 3)


def test_a_file_gives_the_same_numbers(records, tmp_path):
    records.save(tmp_path / "one.npz")
    other = ix.Measurements.load(tmp_path / "one.npz")
    assert other.images == records.images
    for one, two in zip(records, other, strict=True):
        assert (one.n, one.per_replicate, one.forwards) == (two.n, two.per_replicate, two.forwards)
        np.testing.assert_array_equal(one.replicates_PRO, two.replicates_PRO)
        np.testing.assert_array_equal(one.pairs_P2, two.pairs_P2)
        np.testing.assert_array_equal(one.orders_O, two.orders_O)
    np.testing.assert_array_equal(other.strength().J, ix.strength(records).J)
    assert [file.name for file in tmp_path.iterdir()] == ["one.npz"]
    with pytest.raises(ValueError, match=r"one\.pkl"):
        records.save(tmp_path / "one.pkl")
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    with pytest.raises(ValueError, match=r"other\.npz"):
        ix.Measurements.load(tmp_path / "other.npz")


def test_strength_takes_what_the_function_takes(records):
    assert records.strength("plug_in", "uniform").estimator == "plug_in"
    np.testing.assert_array_equal(records.strength().J, ix.strength(list(records)).J)


def test_it_shows_itself_shortly(records):
    assert repr(records).startswith("Measurements(3 images, 5 pairs of 9 players, 3 orders")
    assert repr(ix.Measurements()) == "Measurements(no images)"
    assert records._repr_html_().count("<tr") == 4
    assert len(repr(records[0])) < 120


def test_vectors_have_no_table():
    record = ix.Interactions(
        "a", 9, np.array([[0, 1]]), np.array([0, 3]), np.zeros((1, 2, 2, 2)), 1, 0
    )
    with pytest.raises(ValueError, match="got vectors"):
        ix.Measurements([record]).to_frame()
