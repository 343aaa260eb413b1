import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

import interactions as ix
from a2mim.runs.table import strength_rows
from experiments.cifar10 import tables
from experiments.cifar10.sizes import ORDERS
from interactions.orders.estimator import order_of
from interactions.orders.strength import Strength, bands_of
from interactions.stats import two_level

CONSTANT = {"run": "", "model": "", "weights": "", "dataset": "", "commit": ""}


def games(extra):
    """Interactions that grow with the order, the faster the larger ``extra`` is."""
    return [
        ix.toy.SizeGame(64, lambda m, k=k: (k + 1) * (m / 64) ** (2 + extra), image=f"i{k}")
        for k in range(4)
    ]


@pytest.fixture(scope="module")
def rows():
    """Two arms, two seeds: interactions, and accuracies that are known."""
    design = ix.Design(ix.NeighbourPairs(ix.PatchGrid(8, 8), 2, 6))
    found = []
    for arm, extra in (("scratch", 0.5), ("a2mim", 1.0)):
        for seed in range(2):
            own = {"arch": "vit", "arm": arm, "seed": seed}
            records = ix.measure(games(extra + seed / 10), design)
            of = strength_rows(records, "grid=8x8", seed=seed, **CONSTANT)
            found.append(of.assign(setting="fine-tuned", **own)[list(tables.ROWS)])
            right = np.arange(6) < 2 + 2 * (arm == "a2mim") + seed
            for at, value in ((0.0, right), (0.5, right & (np.arange(6) > 0))):
                of = {"measure": "occluded accuracy", "setting": "random zero", "at": at}
                images = [f"x{k}" for k in range(6)]
                table = pd.DataFrame({"image": images, "value": value.astype(float)} | of)
                found.append(table.assign(**own)[list(tables.ROWS)])
    return pd.concat(found, ignore_index=True)


def test_rows_survive_their_file(rows, tmp_path):
    tables.write_rows(rows, tmp_path / "rows.csv.gz")
    first = (tmp_path / "rows.csv.gz").read_bytes()
    again = tables.read_rows(tmp_path / "rows.csv.gz")
    np.testing.assert_allclose(again["value"], rows["value"], rtol=1e-5)
    assert (again["arm"] == rows["arm"]).all()
    tables.write_rows(rows, tmp_path / "rows.csv.gz")
    assert (tmp_path / "rows.csv.gz").read_bytes() == first


def test_values_of_images_have_the_mean_j(rows):
    found = tables.quantities(rows)
    J = found[(found["measure"] == "J") & (found["arm"] == "a2mim") & (found["seed"] == 0)]
    of_orders = J.groupby("at")["value"].mean()
    assert len(of_orders) == 13
    assert of_orders.mean() == pytest.approx(1)
    bands = [found[found["measure"] == f"J {band}"] for band in ("low", "middle", "high")]
    assert all(len(band) for band in bands)


def test_a_bracket_is_around_the_published_band(rows):
    found = tables.means(tables.quantities(rows)).query("arm == 'a2mim'")
    low, middle, high = (
        found.loc[found["measure"] == f"J published middle{end}", "estimate"].item()
        for end in (", from", "", ", to")
    )
    assert low <= middle + 1e-12
    assert high >= middle - 1e-12


def test_means_and_differences_are_those_of_the_estimator(rows):
    found = tables.quantities(rows)
    key = (found["measure"] == "occluded accuracy") & (found["at"] == 0.5)
    arms = tables.values_of(found[key])
    expected = two_level(arms["a2mim"], arms["scratch"])
    table = tables.differences(found)
    assert "J published middle, from" not in set(table["measure"])
    table = table[table["measure"] == "occluded accuracy"]
    assert table["at"].tolist() == [0.5]  # nothing hidden: that is "accuracy"
    row = table.iloc[0]
    assert row["estimate"] == pytest.approx(2 / 6) == pytest.approx(expected.estimate)
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    kept = tables.means(found).query("measure == 'occluded accuracy, mean less clean'")
    assert kept["estimate"].tolist() == pytest.approx([-1 / 6, -1 / 6])  # the first image is lost


def test_means_stay_where_values_can_be():
    """Two seeds that differ by all there is: the interval alone would leave 0 to 1."""
    own = {"arch": "vit", "arm": "mae", "at": 0.0, "setting": "random zero"}
    for measure, bounds in (
        ("accuracy", (0, 1)),
        ("occluded accuracy, mean", (0, 1)),
        ("occluded accuracy, mean less clean", (-1, 1)),
        ("J middle", (0, np.inf)),
    ):
        found = pd.DataFrame(
            [
                own | {"measure": measure, "seed": seed, "image": f"{k}", "value": float(seed)}
                for seed in range(2)
                for k in range(3)
            ]
        )
        row = tables.means(found).iloc[0]
        expected = two_level(np.repeat([[0.0], [1.0]], 3, axis=1), low=bounds[0], high=bounds[1])
        assert (row["low"], row["high"]) == (expected.low, expected.high)


def test_other_images_are_refused(rows):
    found = rows[(rows["measure"] == "occluded accuracy") & (rows["at"] == 0)]
    with pytest.raises(ValueError, match="images"):
        tables.values_of(found.drop(found.index[0]))


def test_a_change_of_one_training_is_told_by_how_much_others_vary():
    """Trainings of all arms share a spread; a change that is ten times as large as it is told."""
    rng, of_images = np.random.default_rng(0), np.random.default_rng(1).normal(size=40)
    arms = {"a2mim": 3, "simmim": 3, "mae": 3, "fill-zero": 1, "ratio-0.4": 1}
    own = {"arch": "vit", "at": 0.0, "setting": "", "measure": "accuracy"}
    found = pd.DataFrame(
        [
            own | {"arm": arm, "seed": seed, "image": f"{k}", "value": value}
            for arm, seeds in arms.items()
            for seed in range(seeds)
            for k, value in enumerate(of_images + 0.1 * rng.normal() + (arm == "ratio-0.4"))
        ]
    )
    table = tables.ablations(found).set_index("arm")
    assert list(table.index) == ["fill-zero", "ratio-0.4"]
    row, values = table.loc["ratio-0.4"], tables.values_of(found)
    expected = two_level(
        values["ratio-0.4"],
        values["a2mim"],
        alike=[values[name] for name in ("simmim", "mae", "fill-zero")],
    )
    assert (row["low"], row["high"]) == (expected.low, expected.high)
    assert row["df"] == pytest.approx(6)  # three arms of three
    assert row["low"] > 0
    assert table.loc["fill-zero", "p"] > 0.05
    assert tables.ablations(found[found["arm"] != "a2mim"]).empty


J_OF_A_VIT = np.array([6, 2, 1.1, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.2, 0.2, 1.5])
RHO_OF_A_VIT = np.array([0, 0.6, 0.8, 1.1, 1.3, 1.3, 1.3, 1.3, 0.8, 0.6, 0.5, 0.5, 0])
SEED_SD = 0.1
"""Of the logarithm of J, over training seeds."""


def arm_of_a_study(rng, of_images_I, of_places_IO, rho_O, seeds=3, pairs=4, contexts=2):
    """J of middle orders, seeds by images, as the study estimates it; of logarithms of energies."""
    orders_O, images = np.array([order_of(ratio, 64) for ratio in ORDERS]), len(of_images_I)
    inside_O = bands_of(orders_O, 64)["middle"]
    found = []
    for _ in range(seeds):
        J_O = J_OF_A_VIT * np.exp(SEED_SD * rng.normal(size=13))
        own_IO = 0.5 * rng.normal(size=(images, 13))
        sd_IOP1 = J_O[:, None, None] * np.exp(
            (of_images_I[:, None] + of_places_IO + own_IO) / 2
        ).reshape(images, 13, 1, 1)
        mean_IOP1 = sd_IOP1 * rng.normal(size=(images, 13, pairs, 1))
        noise = rng.normal(size=(images, 13, pairs, contexts))
        x_IOPR = mean_IOP1 + sd_IOP1 * rho_O[:, None, None] * noise
        energy_IOP = x_IOPR.mean(axis=-1) ** 2 - x_IOPR.var(axis=-1, ddof=1) / contexts
        names, bound_O = tuple(map(str, range(images))), np.zeros(13, bool)
        J = Strength(names, 64, orders_O, energy_IOP.mean(axis=-1), rho_O, bound_O)
        found.append((J.J + J.influence_IO)[:, inside_O].mean(axis=1))
    return np.array(found)


@pytest.mark.parametrize(("noise", "tail"), [(1.0, 1.5), (3.0, 1.5), (1.0, 2.5)])
def test_intervals_of_middle_orders_cover_at_the_tails_and_noise_of_the_study(noise, tail):
    """6 of 48 images hold most of the energy, or 2 to 3; 4 pairs, 2 contexts, 3 seeds an arm."""
    rng, trials = np.random.default_rng(0), 300
    seeds_SO = J_OF_A_VIT * np.exp(SEED_SD * rng.normal(size=(100_000, 13)))
    inside_O = bands_of(np.array([order_of(ratio, 64) for ratio in ORDERS]), 64)["middle"]
    truth = (seeds_SO / seeds_SO.mean(axis=1, keepdims=True))[:, inside_O].mean()
    apart = mean = 0
    for _ in range(trials):
        images = tail * rng.normal(size=48), tail * rng.normal(size=(48, 13))
        a, b = (arm_of_a_study(rng, *images, noise * RHO_OF_A_VIT) for _ in range(2))
        one, both = two_level(a), two_level(a, b)
        mean += not one.low <= truth <= one.high
        apart += not both.low <= 0 <= both.high
    most = binom.ppf(1 - 1e-4, trials, 0.07)
    assert apart <= most
    assert mean <= most
