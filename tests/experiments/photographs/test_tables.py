import gzip

import numpy as np
import pandas as pd
import pytest

import interactions as ix
from a2mim.runs.records import write_record
from experiments.photographs import tables
from interactions.occlusion.curves import scores

FILES = list(tables.NAMES)
NETWORKS = list(tables.NAMES.values())
ORDERS = np.array([0, 9, 19, 97, 174, 194])


def record(k, seed=0, contexts=8, noise=1.0):
    rng = np.random.default_rng([k, seed])
    true_PO = rng.normal(size=(2, 1, 6)) * (3, 1, 1, 0.5, 1, 2)
    noisy = np.array([0, 1, 1, 1, 1, 0]) * noise
    return ix.Interactions(
        image=str(k),
        n=196,
        pairs_P2=np.array([[0, 1], [5, 20]]),
        orders_O=ORDERS,
        replicates_PRO=true_PO + noisy * rng.normal(size=(2, contexts, 6)),
        per_replicate=1,
        forwards=100,
    )


@pytest.fixture(scope="module")
def records():
    return {name: [record(k, s) for k in range(12)] for s, name in enumerate(NETWORKS[:3])}


@pytest.fixture(scope="module")
def found(records):
    return tables.strengths(records)


def test_packed_records_are_those_that_all_networks_have(tmp_path):
    for network, images in ((FILES[0], (0, 1, 2)), (FILES[2], (0, 2))):
        for k in images:
            folder = tmp_path / "records" / network
            write_record(record(k, len(network)), folder / f"{k:05d}-ab-0.npz", label=3)
    tables.main(tmp_path, tmp_path / "out")
    found = tables.read_packed(tmp_path / "out/records.npz")
    assert list(found) == [NETWORKS[0], NETWORKS[2]]
    for name, file in ((NETWORKS[0], FILES[0]), (NETWORKS[2], FILES[2])):
        assert [one.image for one in found[name]] == ["0", "2"]
        expected = record(2, len(file)).replicates_PRO
        np.testing.assert_allclose(found[name][1].replicates_PRO, expected, rtol=1e-6)


def test_contexts_all_together_are_the_published_strength(records, found):
    table = tables.contexts(records, {}, found)
    whole = table[table["contexts"] == 8].set_index(["network", "band"])["published_J"]
    for name, strength in found["plug_in"].items():
        expected = strength.bands()
        np.testing.assert_allclose(whole[name][expected["band"]], expected["J"])
    middle = table[(table["band"] == "middle") & (table["network"] == NETWORKS[0])]
    assert middle["published_J"].is_monotonic_decreasing  # the bias of few contexts


def test_published_contexts_are_told_beside_the_few(records, found):
    many = {NETWORKS[0]: [record(k, contexts=50) for k in range(2)]}
    table = tables.contexts(records, many, found)
    assert table[table["measured"] == "50 contexts"]["contexts"].max() == 50
    assert set(table[table["measured"] == "50 contexts"]["images"]) == {2}


def test_a_few_contexts_are_all_that_stand_in_a_row(records):
    of = records[NETWORKS[0]]
    halves = [
        np.abs([r.replicates_PRO[:, part].mean(axis=1) for r in of]).mean(axis=(0, 1))
        for part in (slice(4), slice(4, 8))
    ]
    np.testing.assert_allclose(tables._published(of, 4), np.mean(halves, axis=0))


def test_noise_has_intervals_about_it(records, found):
    table = tables.orders(records, found)
    known = table[(table["rho"] > 0) & ~table["rho_is_bound"]]
    assert len(known) > 6
    assert ((known["rho_low"] < known["rho"]) & (known["rho"] < known["rho_high"])).all()
    assert table.loc[table["order"].isin([0, 194]), "rho_low"].isna().all()


def test_noise_intervals_cover_the_true_ratio():
    """True interactions of 1 at all pairs but for their sign, contexts with sd 2: rho is 2."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(30):
        of = []
        for k in range(12):
            sign_P = rng.choice([-1.0, 1.0], (2, 1, 1))
            x_PRO = sign_P + 2 * rng.normal(size=(2, 8, 1))
            orders_O = np.array([97])
            of.append(
                ix.Interactions(str(k), 196, np.array([[0, 1], [2, 3]]), orders_O, x_PRO, 1, 64)
            )
        rho, low, high = tables.noise_of(of, ix.strength(of), np.array([True]))
        assert low <= rho <= high
        inside += low <= 2 <= high
    assert inside >= 24  # of 30 at 95 %: fewer have a chance below 1e-3


@pytest.mark.parametrize(
    ("said", "low", "high", "expected"),
    [
        (0.1, -0.1, 0.4, "not decided"),
        (0.1, 0.05, 0.4, "the same"),
        (0.1, -0.4, -0.05, "the other"),
        (-0.1, -0.4, -0.05, "the same"),
        (-0.1, float("nan"), float("nan"), "not decided"),
    ],
)
def test_outcomes(said, low, high, expected):
    assert tables.outcome(said, low, high) == expected


def test_verdicts_are_those_of_compare_bands(found):
    table = tables.verdicts(found)
    assert len(table) == 3 * 3
    a, b = NETWORKS[:2]
    expected = found["rms"][a].compare_bands(found["rms"][b])
    row = table[(table["network"] == a) & (table["minus"] == b)].set_index("band")
    for name in ("difference", "low", "high", "p"):
        np.testing.assert_allclose(row.loc[expected["band"], name], expected[name])
    assert (table["p_holm"] >= table["p"]).all()
    undecided = table["outcome"] == "not decided"
    assert (table.loc[undecided, "takes"] >= 12).all()


def occluded(folder, network, mask="m", right=(1, 1, 0, 0, 1, 0)):
    folder.mkdir(parents=True, exist_ok=True)
    rows = pd.DataFrame({"image": ["a", "a", "b", "b", "c", "c"], "fraction": [0, 0.9] * 3})
    rows = rows.assign(hidden=rows["fraction"], correct=np.array(right, bool))
    for occluder in tables.OCCLUDERS:
        name = f"00-net-{network}.safetensors-{occluder}.csv.gz"
        rows.assign(mask=mask + occluder).to_csv(folder / name, index=False)


def test_occlusion_is_packed_and_compared_on_the_same_photographs(tmp_path):
    for k, network in enumerate(FILES):
        for fill in tables.FILLS:
            right = (1, 1, 0, 0, 1, 0) if k else (1, 0, 0, 0, 1, 0)
            occluded(tmp_path / f"occlusion-{fill}/images", network, right=right)
    tables.main(tmp_path, tmp_path / "out")
    rows = tables.read_occlusion(tmp_path / "out/occlusion.csv.gz")
    assert len(rows) == 2 * 3 * 6
    found = tables.accuracies(rows)
    one = found[(found["network"] == NETWORKS[1]) & (found["fill"] == "zero")]
    one = one[one["occluder"] == "salient"]
    assert one["estimate"].tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 2, 3 / 4])
    differences = tables.occlusion_differences(rows)
    of = differences[(differences["kind"] == "network") & (differences["score"] == "area")]
    assert len(of) == 6 * 2 * 3
    first = of[(of["network"] == NETWORKS[0]) & (of["minus"] == NETWORKS[1])]
    assert first["estimate"].tolist() == pytest.approx([-1 / 6] * 6)
    assert (differences[differences["kind"] == "fill"]["estimate"] == 0).all()


def test_what_is_kept_is_as_the_library_scores_it():
    rng = np.random.default_rng(0)
    correct_IF = rng.random((40, 3)) < [0.8, 0.5, 0.1]
    rows = pd.DataFrame(
        {
            "image": np.repeat([f"{k:02d}" for k in range(40)], 3),
            "fraction": np.tile([0.0, 0.4, 0.9], 40),
            "fill": "zero",
            "occluder": "random",
        }
    )
    rows = rows.assign(hidden=rows["fraction"], repeat=0, mask="m")
    rows[NETWORKS[0]] = correct_IF.ravel().astype(int)
    found = tables.accuracies(rows).set_index("score").loc["kept"]
    of = rows.assign(correct=correct_IF.ravel(), clean_correct=np.repeat(correct_IF[:, 0], 3))
    expected = scores(of, draws=1).set_index("score").loc["relative"]
    for name in ("estimate", "low", "high"):
        assert found[name] == pytest.approx(expected[name])


def test_other_masks_are_refused(tmp_path):
    for k, network in enumerate(FILES):
        occluded(tmp_path / "run/images", network, mask="other" if k == 2 else "m")
    with pytest.raises(ValueError, match="the masks of the other networks"):
        tables.collect_occlusion({"zero": tmp_path / "run"}, tmp_path / "occlusion.csv.gz")
    assert not (tmp_path / "occlusion.csv.gz").exists()


def test_the_same_rows_are_the_same_bytes(tmp_path):
    for network in FILES:
        occluded(tmp_path / "run/images", network)
    for name in ("a", "b"):
        tables.collect_occlusion({"zero": tmp_path / "run"}, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert gzip.decompress((tmp_path / "a").read_bytes()).startswith(b"fill,occluder,image")
