import weakref
from dataclasses import replace
from math import isnan

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr, t
from timm import create_model
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from interactions import fills
from interactions.features.cka import LinearCKA, hsic_terms
from interactions.features.invariance import (
    MEASURES,
    PER_IMAGE,
    RECALLS,
    BatchRows,
    batch_sizes,
    compared,
    default_fractions,
    invariance,
    similarity_rows,
    summarised,
    untrained,
)
from interactions.networks.layers import layer_features
from interactions.occlusion.patch_drop import random_drop
from interactions.patches import PatchGrid, hide
from interactions.stats import correlation, effective_images, share

GRID = PatchGrid(4, 4)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def per_image(x, y):
    return compared(x, y)[0][0][..., : len(PER_IMAGE)]


def recalls(x, y):
    return compared(x, y)[0][0][..., len(PER_IMAGE) :]


def cka(*batches):
    measured = LinearCKA()
    for x, y in batches:
        measured.update(x, y)
    return measured


def test_measures_per_image_one_by_one():
    x, y = normal(7, 9) + 1, normal(7, 9, seed=1)
    got = per_image(x, y)
    for k in range(7):
        centred = F.cosine_similarity(x[k] - x.mean(dim=0), y[k] - y.mean(dim=0), dim=0)
        expected = [
            F.cosine_similarity(x[k], y[k], dim=0),
            centred,
            pearsonr(x[k].numpy(), y[k].numpy()).statistic,
            (x[k] - y[k]).norm() / x[k].norm(),
        ]
        np.testing.assert_allclose(got[k], expected, rtol=1e-12)
    same = per_image(x.float(), x.float())
    assert torch.equal(same, torch.tensor([[1.0, 1, 1, 0]], dtype=torch.float64).expand(7, -1))
    assert per_image(x, 0 * x)[:, [0, 1, 2]].isnan().all()


def test_recall_one_by_one():
    x = normal(40, 6)
    y = x + 1.5 * normal(40, 6, seed=1)
    similar = F.cosine_similarity(y[:, None], x[None], dim=2)
    rank = (similar > similar.diagonal()[:, None]).sum(dim=1)
    expected = torch.stack([rank < 1, rank < 5], dim=1).double()
    assert torch.equal(recalls(x, y), expected)
    assert 0 < expected.mean() < 1


def test_collapsed_and_dead_features_find_their_image_by_chance():
    constant = normal(1, 6).expand(10, -1)
    for x, y in [(constant, constant), (constant, 0 * constant), (0 * constant, constant)]:
        torch.testing.assert_close(recalls(x, y).mean(dim=0), torch.tensor([0.1, 0.5]).double())
    assert (per_image(constant, constant)[:, 0] == 1).all()  # which is why cosines say nothing


def rows_of(x, ys, parts, pairing="value"):
    """Rows as a measurement of these features would give, in these batches."""
    places = tuple((pairing, "l", "mean", 0.5) for pairing in ("value", "permuted"))
    places += (("pixels", "pixels", "mean", 0.5),)
    batches = []
    for part in parts:
        partners, occluded = (torch.stack([z[part] for z in zs]) for zs in ([x] * len(ys), ys))
        others = torch.arange(len(x[part])).roll(1)
        found = compared(partners[None], occluded[None], others)
        (values, terms), (values_of_others, terms_of_others) = found
        batches.append(
            BatchRows(
                tuple(map(str, range(part.start, part.stop))),
                places,
                torch.cat([values, values_of_others, values]).numpy(),
                torch.cat([terms, terms_of_others, terms])[..., :3].numpy(),
            )
        )
    return batches


def test_many_features_at_once_are_those_one_by_one():
    """Each of 6 sets, of which two collapse, and the same with partners of other images."""
    x, y = normal(2, 3, 9, 7).float(), normal(2, 3, 9, 7, seed=1).float()
    y = x + y
    x[0, 1], y[1, 2] = x[0, 1, :1], 0
    others = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    for partners, (values, terms) in zip((x, x[:, :, others]), compared(x, y, others), strict=True):
        assert values.shape == (2, 3, 9, len(MEASURES))
        assert (terms[..., 3] == 1).all()
        for place in np.ndindex(2, 3):
            a, b = partners[place], y[place]
            expected = torch.cat([per_image(a, b), recalls(a, b)], dim=1)
            torch.testing.assert_close(values[place], expected, equal_nan=True)
            torch.testing.assert_close(terms[place][:3], hsic_terms(a, b), atol=1e-9, rtol=1e-9)
    y[1, 0, 3, 2] = torch.nan
    ((_, terms),) = compared(x, y)
    assert terms[..., 3].tolist() == [[1, 1, 1], [0, 1, 1]]


def test_batches_and_repeats_are_put_together():
    x = normal(20, 6)
    ys = [x + normal(20, 6, seed=1), x + normal(20, 6, seed=2)]
    parts = (slice(0, 8), slice(8, 16), slice(16, 20))
    batches = rows_of(x, ys, parts)
    frame = summarised(iter(batches))
    rows = {(row["metric"], row["statistic"]): row for row in frame.to_dict("records")}
    ckas = [cka(*[(x[part], y[part]) for part in parts]) for y in ys]
    values = [c.value for c in ckas]
    assert rows["cka", "mean"]["value"] == pytest.approx(np.mean(values))
    assert rows["cka", "mean"]["mask_sd"] == pytest.approx(np.std(values, ddof=1))
    influence = (ckas[0].influence_B + ckas[1].influence_B) / 2
    images = effective_images(np.array([8, 8, 4]))
    expected = correlation(np.mean(values), influence, units=images)
    assert rows["cka", "mean"]["low"] == pytest.approx(expected.low)
    assert rows["cka", "mean"]["high"] == pytest.approx(expected.high)
    cosines = torch.stack([F.cosine_similarity(x, y) for y in ys])
    assert rows["cosine", "mean"]["value"] == pytest.approx(float(cosines.mean()))
    assert rows["cosine", "mean"]["pixels"] == pytest.approx(float(cosines.mean()))
    assert rows["cosine", "mean"]["mask_sd"] == pytest.approx(float(cosines.mean(dim=1).std()))
    se = float(cosines.mean(dim=0).std() / 20**0.5)
    low = float(cosines.mean()) - t.ppf(0.975, 19) * se
    assert rows["cosine", "mean"]["low"] == pytest.approx(low)
    quantiles = [
        len(c[0]) * c.quantile(0.05, dim=1).mean() for c in cosines.split([8, 8, 4], dim=1)
    ]
    assert rows["cosine", "p05"]["value"] == pytest.approx(float(sum(quantiles)) / 20)
    assert rows["cosine", "p05"]["value"] < rows["cosine", "median"]["value"]
    assert isnan(rows["cosine", "p05"]["low"])
    found = torch.cat([sum(recalls(x[part], y[part]) for y in ys) / 2 for part in parts])[:, 0]
    row = rows["recall@1", "mean"]
    interval = share(found.numpy())
    assert (row["value"], row["low"]) == pytest.approx((interval.estimate, interval.low))
    assert isnan(row["untrained"])
    assert set(frame["images"]) == {20}
    assert set(zip(frame["batch"], frame["batches"], strict=True)) == {(8, 3)}
    raw = pd.concat([batch.to_frame() for batch in batches])
    own = raw[raw["pairing"] == "value"]
    assert len(raw) == 3 * 2 * 20
    means = own.groupby("repeat")["relative l2"].mean()
    assert rows["relative l2", "mean"]["value"] == pytest.approx(means.mean())
    assert rows["relative l2", "mean"]["mask_sd"] == pytest.approx(means.std())
    by_image = own.set_index(["image", "repeat"])["cosine"]
    assert by_image["17", 1] == pytest.approx(float(cosines[1, 17]))
    with pytest.raises(ValueError, match="at least one batch, got none"):
        summarised([])
    other = replace(batches[1], places=batches[1].places[:2])
    with pytest.raises(ValueError, match="got other places or repeats"):
        summarised([batches[0], other])


def make_model(seed=0, **options):
    options = {"num_classes": 5, "img_size": 64, "depth": 2} | options
    return untrained(lambda: create_model("test_vit", **options), seed)


def make_images(count=12, seed=3):
    """Smooth images, so that patches tell of one another."""
    return F.interpolate(normal(count, 3, 5, 5, seed=seed), 64, mode="bicubic")


def test_untrained_weights_are_keyed():
    state = torch.random.get_rng_state()
    a, b, c = make_model(), make_model(), make_model(seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not a.training
    x = make_images(2).float()
    with torch.inference_mode():
        assert torch.equal(a(x), b(x))
        assert not torch.allclose(a(x), c(x))


@pytest.fixture(scope="module")
def twins():
    return make_model().double(), make_model(seed=1).double()


SETTINGS = {
    "fractions": (0, 0.5, 0.8),
    "repeats": 2,
    "cka_batch": 6,
    "layers": ["blocks.0", "blocks.1"],
}


NUMBERS = ["value", "low", "high", "untrained", "pixels", "permuted"]
PLACE = ["layer", "readout", "ratio", "metric", "statistic"]


@pytest.fixture(scope="module", params=["fill", "token_drop"])
def table(request, twins):
    model, fresh = twins
    hiding = fills.image_mean if request.param == "fill" else None
    frame = invariance(
        model, [make_images()], GRID, untrained=fresh, fill=hiding, seed=7, **SETTINGS
    )
    return request.param, hiding, frame


def test_controls(table):
    kind, _, frame = table
    assert (frame["hiding"] == kind).all()
    assert not frame.duplicated(PLACE).any()
    assert sorted(set(frame["readout"])) == ["class", "mean"] + ["visible"] * (kind == "fill")
    whole = frame[frame.ratio == 0]
    for column in ("value", "untrained", "pixels"):
        exact = whole[whole.metric != "relative l2"][column]
        assert (exact == 1).all()
        assert (whole[whole.metric == "relative l2"][column] == 0).all()
    means = whole[whole.statistic == "mean"]
    known = ~means.metric.isin(list(RECALLS))  # of images that could be twice in a batch
    assert (means.low == means.value)[known].all()
    assert (means.high == means.value)[known].all()
    assert (means.low < means.value)[~known].all()
    some = frame[(frame.ratio > 0) & (frame.statistic == "mean")]
    assert sorted(set(some.ratio)) == [8 / 16, 13 / 16]
    other = some[some.metric.isin(["cka", "centred cosine"])]
    assert (other.value > other.permuted + 0.2).all()
    assert (other.permuted.abs() < 0.5).all()  # batches of 6 images
    assert (some[some.metric == "recall@1"].permuted < 0.2).all()
    assert some.mask_sd.gt(0).any()
    assert (
        np.isfinite(some[["value", "low", "high", "untrained", "pixels", "permuted"]]).all().all()
    )


@pytest.mark.parametrize("hiding", [fills.zero, None])
def test_nothing_hidden_is_exactly_nothing_in_single_precision_too(hiding):
    """9 patches: their mean is no sum of binary fractions."""
    frame = invariance(
        make_model(img_size=48),
        [make_images()[:8, :, :48, :48].float()],
        PatchGrid(3, 3),
        untrained=make_model(1, img_size=48),
        fill=hiding,
        fractions=[0],
        repeats=1,
        readouts=["class", "mean", "visible"],
    )
    expected = (frame.metric != "relative l2").astype(float)
    for column in ("value", "untrained", "pixels"):
        np.testing.assert_array_equal(frame[column], expected)


def test_a_row_by_hand(table, twins):
    kind, _, frame = table
    images, names = make_images(), [str(k) for k in range(12)]
    ckas, pixel_ckas, cosines = [], [], []
    for repeat in range(2):
        visible = random_drop(16, (0.5,), names, 7, repeat)[:, 0]
        drop = {"players": GRID, "visible_BN": visible, "token_drop": True}
        hidden = hide(images, visible, GRID, images.mean(dim=(2, 3), keepdim=True))
        occluded = (
            layer_features(twins[0], hidden)
            if kind == "fill"
            else layer_features(twins[0], images, **drop)
        )
        x, y = layer_features(twins[0], images)["blocks.1", "mean"], occluded["blocks.1", "mean"]
        ckas.append(cka((x[:6], y[:6]), (x[6:], y[6:])).value)
        cosines.append(F.cosine_similarity(x, y).mean())
        patches = GRID.cut(images).flatten(2)
        if kind == "fill":
            given = GRID.cut(hidden).flatten(2).mean(dim=1)
        else:
            given = torch.stack([p[v].mean(dim=0) for p, v in zip(patches, visible, strict=True)])
        x = patches.mean(dim=1)
        pixel_ckas.append(cka((x[:6], given[:6]), (x[6:], given[6:])).value)
    at = frame[(frame.layer == "blocks.1") & (frame.readout == "mean") & (frame.ratio == 0.5)]
    row = at[at.metric == "cka"].iloc[0]
    assert row.value == pytest.approx(np.mean(ckas), abs=1e-10)
    assert row.pixels == pytest.approx(np.mean(pixel_ckas), abs=1e-10)
    row = at[(at.metric == "cosine") & (at.statistic == "mean")].iloc[0]
    assert row.value == pytest.approx(np.mean(cosines), abs=1e-10)
    assert (row.images, row.batch, row.batches) == (12, 6, 2)


def test_the_pixels_of_visible_patches(twins):
    frame = invariance(
        twins[0],
        [make_images()],
        GRID,
        untrained=None,
        fractions=[0.5],
        repeats=1,
        layers=["blocks.0"],
    )
    assert frame.untrained.isna().all()
    assert frame.mask_sd.isna().all()
    images = make_images()
    visible = random_drop(16, (0.5,), [str(k) for k in range(12)], 0, 0)[:, 0]
    patches = GRID.cut(images).flatten(2)
    given = torch.stack([p[v].mean(dim=0) for p, v in zip(patches, visible, strict=True)])
    row = frame[(frame.readout == "visible") & (frame.metric == "cka")].iloc[0]
    assert row.pixels == pytest.approx(cka((patches.mean(dim=1), given)).value, abs=1e-10)


def test_untrained_and_permuted_are_measurements_of_their_own(table, twins):
    _, hiding, frame = table
    fresh = invariance(
        twins[1], [make_images()], GRID, untrained=twins[0], fill=hiding, seed=7, **SETTINGS
    )
    np.testing.assert_array_equal(fresh.untrained, frame.value)
    np.testing.assert_array_equal(fresh.value, frame.untrained)
    np.testing.assert_array_equal(fresh.pixels, frame.pixels)
    # With the same images everywhere another image's features are the image's own.
    same = make_images(1).expand(6, -1, -1, -1)
    frame = invariance(twins[0], [same], GRID, untrained=None, names=["a"] * 6, **SETTINGS)
    cosine = frame[(frame.metric == "cosine") & (frame.statistic == "mean")]
    np.testing.assert_allclose(cosine.permuted, cosine.value, rtol=1e-12)
    assert frame[frame.metric == "cka"].value.isna().all()


@pytest.mark.parametrize(("forward", "sizes"), [(4, [5, 7]), (100, [1] * 12)])
def test_batches_that_came_and_went_do_not_matter(table, twins, forward, sizes):
    _, hiding, frame = table
    again = invariance(
        twins[0],
        make_images().split(sizes),
        GRID,
        untrained=twins[1],
        fill=hiding,
        names=(str(k) for k in range(12)),
        seed=7,
        batch_size=forward,
        **SETTINGS,
    )
    assert again[PLACE].equals(frame[PLACE])
    np.testing.assert_allclose(again[NUMBERS], frame[NUMBERS], atol=1e-9)


@pytest.mark.parametrize(("against", "forward"), [("whole", 100), ("complement", 5)])
def test_rows_of_every_image_and_the_table_from_them(twins, against, forward):
    """Of 13 images, in batches of 7 and 6."""
    names = [f"i{k}" for k in range(13)]
    given = twins[0], [make_images(13)], GRID
    options = SETTINGS | {"fractions": (0.5, 0.8), "cka_batch": 8, "untrained": twins[1]}
    options |= {"against": against, "names": names, "batch_size": forward}
    batches = list(similarity_rows(*given, **options))
    frame = invariance(*given, **options)
    assert [len(batch.images) for batch in batches] == [7, 6]
    raw = pd.concat([batch.to_frame() for batch in batches])
    place = ["pairing", "layer", "readout", "ratio"]
    # 2 ratios, and 2 layers of 3 readouts but for pixels, which have 2.
    assert len(raw[place].drop_duplicates()) == 2 * (3 * 2 * 3 + 2)
    for _, rows in raw.groupby([*place, "repeat"]):
        assert rows["image"].tolist() == names
    means = raw.groupby(place)[list(MEASURES)].mean()
    for row in frame[(frame.statistic == "mean") & (frame.metric != "cka")].itertuples():
        at = (row.layer, row.readout, row.ratio)
        pixels = ("pixels", "visible" if row.readout == "visible" else "mean", row.ratio)
        for pairing in ("value", "untrained", "pixels", "permuted"):
            key = (pairing, *(pixels if pairing == "pixels" else at))
            expected = means.loc[key, row.metric]
            assert getattr(row, pairing) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("only", [[], [2], [1, 2], [0, 2]])
def test_some_of_the_batches_have_the_bits_of_all(twins, only):
    images, names = make_images(20), [f"i{k}" for k in range(20)]
    settings = SETTINGS | {"untrained": twins[1], "cka_batch": 8}  # 7, 7 and 6 images
    whole = list(similarity_rows(twins[0], [images], GRID, names=names, **settings))
    assert len(whole) == 3
    which = [k for b in only for k in range(20)[7 * b : 7 * b + 7]]
    left, settings["only"] = [names[k] for k in which], only
    some = list(similarity_rows(twins[0], [images[which]], GRID, names=left, count=20, **settings))
    assert len(some) == len(only)
    for found, b in zip(some, only, strict=True):
        expected = whole[b]
        pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame(), check_exact=True)
        np.testing.assert_array_equal(found.terms_PR3, expected.terms_PR3)


class Operations(TorchDispatchMode):
    """Counts operations, and those that wait for the device."""

    def __init__(self):
        super().__init__()
        self.operations, self.waits = 0, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.operations += 1
        self.waits += operation in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
            torch.ops.aten.equal.default,
        )
        return operation(*args, **(kwargs or {}))


def test_statistics_of_all_layers_take_one_pass_and_wait_for_nothing(monkeypatch):
    """One set of features took 561 operations and about 20 waits when they came one by one."""
    moved = []
    for name in ("cpu", "tolist", "item", "numpy"):
        way = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, *_, way=way, name=name: moved.append(name) or way(self)
        )
    counts = []
    for places in (1, 12):
        x, y = normal(places, 3, 8, 5), normal(places, 3, 8, 5, seed=1)
        with Operations() as seen:
            compared(x, y, torch.arange(8).roll(1))
        assert seen.waits == 0
        counts.append(seen.operations)
    assert moved == []
    assert counts[0] == counts[1] <= 300  # with partners of other images


def test_a_batch_waits_once_for_its_numbers(monkeypatch):
    """And its images are moved to the device once, whatever the masks and networks."""
    moved, to, cpu = [], torch.Tensor.to, torch.Tensor.cpu

    def watched(self, *args, **kwargs):
        if self.ndim == 4 and args and isinstance(args[0], torch.device) and len(args) == 1:
            moved.append(tuple(self.shape))
        return to(self, *args, **kwargs)

    waits = []
    monkeypatch.setattr(torch.Tensor, "to", watched)
    monkeypatch.setattr(
        torch.Tensor, "cpu", lambda self: waits.append(tuple(self.shape)) or cpu(self)
    )
    model, fresh = make_model(), make_model(seed=1)
    rows = similarity_rows(
        *(model, [make_images(8).float()], GRID),
        untrained=fresh,
        fractions=(0.5, 0.8),
        repeats=2,
        batch_size=8,
        readouts=["class", "mean"],
    )
    with Operations() as seen:
        (batch,) = rows
    assert moved.count((8, 3, 64, 64)) == 1
    assert len(waits) == 2  # measures and terms
    assert seen.waits <= 2  # how many images are in the batch is known, but for a check of the end
    assert len(batch.places) == 2 * (3 * 2 * 3 + 3 + 2)


class Pooling(nn.Module):
    """Says the mean of what it sees."""

    def forward(self, images_BCHW):
        return images_BCHW.mean(dim=(2, 3))


def pooled(images, ratios, **options):
    """The frame of images whose 16 pixels are the players, black where hidden."""
    settings = {"untrained": None, "repeats": 1} | options
    return invariance(Pooling().eval(), [images], GRID, fractions=ratios, **settings)


def mean_of(frame, metric, ratio, column="value"):
    at = frame[(frame.metric == metric) & (frame.statistic == "mean") & (frame.ratio == ratio)]
    return at[column].item()


@pytest.mark.parametrize("against", ["whole", "complement"])
def test_cka_of_a_theory(against):
    """Pixels are s + e, with variance 1 of the image and 4 of the pixel.

    The sum of a pixels has the variance a^2 + 4 a, and with that of b others the covariance a b;
    with that of all 16 it is 16 a + 4 a. CKA of independent dimensions is the squared correlation:
    for complements the same at 1/4 and at 3/4.
    """
    images = normal(4000, 8, 1, 1) + 2 * normal(4000, 8, 4, 4, seed=1)
    frame = pooled(images, [0.25, 0.75], against=against, cka_batch=500, batch_size=1000)
    assert (frame.against == against).all()
    for hidden in (4, 12):
        a, b = 16 - hidden, 16 if against == "whole" else hidden
        covariance = a * b + (4 * a if against == "whole" else 0)
        theory = covariance**2 / ((a * a + 4 * a) * (b * b + 4 * b))
        # Both within 5 standard deviations: of a correlation, and of 8 batches of unrelated ones.
        assert mean_of(frame, "cka", hidden / 16) == pytest.approx(theory, abs=0.022)
        assert mean_of(frame, "cka", hidden / 16, "pixels") == pytest.approx(theory, abs=0.022)
        assert abs(mean_of(frame, "cka", hidden / 16, "permuted")) < 0.005
        assert abs(mean_of(frame, "centred cosine", hidden / 16, "permuted")) < 0.03


def test_complements_of_plain_images_and_of_one_image():
    """Halves of a plain colour v are r v and (1 - r) v; halves of one image are opposites."""
    plain = pooled(normal(8, 3, 1, 1).expand(-1, -1, 4, 4), [0.25, 0.5], against="complement")
    for ratio in (0.25, 0.5):
        for metric in ("cka", "cosine", "centred cosine", "pearson", "recall@1"):
            assert mean_of(plain, metric, ratio) == pytest.approx(1, abs=1e-12)
        expected = abs(1 - 2 * ratio) / ratio
        assert mean_of(plain, "relative l2", ratio) == pytest.approx(expected, abs=1e-12)
    one = pooled(normal(1, 3, 4, 4).expand(8, -1, -1, -1), [0.5], against="complement")
    assert mean_of(one, "cka", 0.5) == pytest.approx(1, abs=1e-12)
    assert mean_of(one, "centred cosine", 0.5) == pytest.approx(-1, abs=1e-12)


@pytest.mark.parametrize("hiding", [fills.image_mean, None])
def test_complements_by_hand(twins, hiding):
    images = make_images()
    frame = invariance(
        twins[0],
        [images],
        GRID,
        untrained=twins[1],
        fill=hiding,
        against="complement",
        fractions=[0.75],
        repeats=1,
        layers=["blocks.1"],
    )
    visible = random_drop(16, (0.75,), [str(k) for k in range(12)], 0, 0)[:, 0]
    patches = GRID.cut(images).flatten(2)
    features, pixels = [], []
    for seen in (~visible, visible):
        if hiding is None:
            given, drop = images, {"token_drop": True}
        else:
            given, drop = hide(images, seen, GRID, images.mean(dim=(2, 3), keepdim=True)), {}
        features.append(
            [layer_features(m, given, players=GRID, visible_BN=seen, **drop) for m in twins]
        )
        pixels.append(torch.stack([p[v].mean(dim=0) for p, v in zip(patches, seen, strict=True)]))
    readout = "mean" if hiding is None else "visible"
    row = frame[(frame.metric == "cka") & (frame.readout == readout)].iloc[0]
    for k, column in enumerate(("value", "untrained")):
        x, y = (of[k]["blocks.1", readout] for of in features)
        assert row[column] == pytest.approx(cka((x, y)).value, abs=1e-10)
    assert row.pixels == pytest.approx(cka(pixels).value, abs=1e-10)
    assert row.ratio == 0.75
    again = invariance(
        twins[0],
        images.split(5),
        GRID,
        untrained=twins[1],
        fill=hiding,
        against="complement",
        fractions=[0.75],
        repeats=1,
        layers=["blocks.1"],
        batch_size=5,
    )
    np.testing.assert_allclose(again[NUMBERS], frame[NUMBERS], atol=1e-9)


def test_ratios_by_default():
    images = normal(4, 3, 4, 4)
    for against, ratios in (("whole", range(10)), ("complement", range(1, 10))):
        frame = pooled(images, None, against=against)
        assert sorted(set(frame.ratio)) == sorted({round(16 * k / 10) / 16 for k in ratios})
        assert default_fractions(against) == tuple(k / 10 for k in ratios)


def test_images_are_let_go():
    """Memory does not grow: of 20 batches, 2 are alive at most when the next one is asked for."""
    alive, most = weakref.WeakSet(), []

    def images():
        for k in range(20):
            batch = make_images(4, seed=k).float()
            alive.add(batch.untyped_storage())
            yield batch
            del batch
            most.append(len(alive))

    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 8)).eval()
    frame = invariance(
        *(model, images(), GRID),
        untrained=None,
        fractions=[0.5],
        repeats=1,
        cka_batch=8,
        batch_size=8,
        count=80,
    )
    assert set(frame.layer) == {"output"}
    assert frame.images.iloc[0] == 80
    assert max(most) <= 2


def test_a_network_of_maps(twins):
    model, fresh = (
        untrained(lambda: create_model("test_resnet", num_classes=5), seed) for seed in (0, 1)
    )
    frame = invariance(
        model, [make_images(8).float()], GRID, untrained=fresh, fractions=[0, 0.5], repeats=1
    )
    assert set(zip(frame.layer, frame.readout, strict=True)) == {
        *((layer, "mean") for layer in ("act1", "layer1", "layer2", "layer3", "layer4")),
        ("output", "output"),
    }
    assert (frame[(frame.ratio == 0) & (frame.metric == "cka")].value == 1).all()


def test_half_precision_is_that_of_the_network_only():
    model, images = make_model(), make_images(8).float()
    settings = {"untrained": None, "fractions": [0.5], "repeats": 1}
    single, half = (
        invariance(model, [images], GRID, precision=precision, **settings)
        for precision in ("float32", "float16")
    )
    np.testing.assert_array_equal(single.pixels, half.pixels)
    assert not np.array_equal(single.value, half.value)
    continuous = single.metric.isin(["cka", "cosine", "pearson"])
    np.testing.assert_allclose(single.value[continuous], half.value[continuous], atol=0.01)


def test_batches_are_of_equal_sizes_and_no_image_is_left_out(twins):
    for images in range(4, 60):
        for batch in range(4, 20):
            sizes = batch_sizes(images, batch)
            assert sum(sizes) == images
            assert sizes[0] - sizes[-1] in (0, 1)
            assert sizes == sorted(sizes, reverse=True)
            assert sizes[-1] >= 4
            assert sizes[0] <= batch or len(sizes) == images // 4
    assert batch_sizes(260, 256) == [130, 130]
    frame = invariance(twins[0], [make_images(15)], GRID, untrained=None, **SETTINGS)
    assert set(frame.images) == {15}
    assert set(zip(frame.batch, frame.batches, strict=True)) == {(5, 3)}


def test_some_images_more_do_not_make_cka_noisy():
    """256 images, and 260: with 4 in a batch that weighed as much CKA had 14 times the SD."""
    generator = torch.Generator().manual_seed(0)
    values = {256: [], 260: []}
    short = []
    for _ in range(60):
        x = torch.randn(260, 8, generator=generator, dtype=torch.float64)
        y = x + 0.5 * torch.randn(260, 8, generator=generator, dtype=torch.float64)
        for images, found in values.items():
            sizes = batch_sizes(images, 256)
            parts = zip(x[:images].split(sizes), y[:images].split(sizes), strict=True)
            found.append(cka(*parts).value)
        # Batches that a reader gives weigh by their images.
        weighed = cka((x[:256], y[:256]), (x[256:], y[256:]))
        assert isnan(weighed.interval().low)  # two batches, of which one is nearly all
        short.append(weighed.value)
    whole, more = (np.std(found, ddof=1) for found in values.values())
    # The ratio of two SDs of 60 values of nearly the same images.
    assert more < 1.3 * whole
    assert np.std(short, ddof=1) < 1.3 * whole


def test_an_interval_of_cka_ends_below_one():
    x, noise = normal(3, 12, 6), normal(12, 6, seed=1)
    batches = [(part, part + s * noise) for part, s in zip(x, (0, 0.3, 0.01), strict=True)]
    interval = cka(*batches).interval()
    assert interval.low < interval.estimate < interval.high < 1
    assert interval.estimate + t.ppf(0.975, 2) * interval.se > 1


def test_bad_input(twins):
    model, fresh = twins
    images = make_images()

    def run(model=model, given=(images,), **options):
        return invariance(model, given, GRID, **{"untrained": fresh} | SETTINGS | options)

    with pytest.raises(ValueError, match="eval mode"):
        run(make_model().train(), untrained=None)
    with pytest.raises(ValueError, match=r"same architecture: .* in the untrained one"):
        run(untrained=make_model(depth=3))
    with pytest.raises(ValueError, match="hidden fractions that leave a patch, got"):
        run(fractions=(0.5, 1))
    with pytest.raises(ValueError, match="hidden fractions that leave a patch, got"):
        run(fractions=())
    for ratios in ((0, 0.5), (0.01, 0.5)):
        with pytest.raises(ValueError, match=r"that hide a patch, .*; leave out those at 0"):
            run(fractions=ratios, against="complement")
    with pytest.raises(ValueError, match="against whole or complement, got 'half'"):
        run(against="half")
    with pytest.raises(ValueError, match="different numbers of the 16 patches, got"):
        run(fractions=(0.5, 0.51))
    with pytest.raises(ValueError, match="4 in a batch of CKA, got 2, None and 3"):
        run(cka_batch=3)
    with pytest.raises(ValueError, match="as many names as images, got 2 and 12"):
        run(names=["a", "b"])
    with pytest.raises(ValueError, match="fewer names than images"):
        run(names=iter("ab"))
    with pytest.raises(ValueError, match="more names than images"):
        run(names=(str(k) for k in range(13)))
    with pytest.raises(ValueError, match="at least 4 images, got 0"):
        run(given=())
    with pytest.raises(ValueError, match="a count of the images, because"):
        run(given=iter([images]))
    for count in (10, 13):
        with pytest.raises(ValueError, match=f"expected {count} images, got 12"):
            run(given=iter([images]), count=count)
    with pytest.raises(ValueError, match=r"images \(B, C, H, W\), got \(3, 64, 64\)"):
        run(given=iter([images[0]]), count=12)
    with pytest.raises(ValueError, match=r"layer blocks\.0, class: expected finite features"):
        run(given=[images * torch.nan])
    with pytest.raises(ValueError, match="precision"):
        run(precision="float8")
