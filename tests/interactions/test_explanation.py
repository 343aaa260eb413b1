from itertools import combinations
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from timm import create_model
from torch import nn

import interactions as ix
from interactions.explanation import default_players, explained, touching
from interactions.orders.strength import bands_of

GRID = ix.PatchGrid(4, 4)


def make_model(name="test_vit", size=32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model(name, num_classes=5, img_size=size).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 0, 0.1)  # so that patches interact
    return model


class Products(nn.Module):
    """Logits whose first is the product of the means of cells 0, 1 and 2, and 2 x that of 4."""

    def forward(self, images):
        cells = images.mean(dim=1).unfold(1, 4, 4).unfold(2, 4, 4).mean(dim=(3, 4)).flatten(1)
        first = cells[:, 0] * cells[:, 1] * cells[:, 2] + 2 * cells[:, 4]
        return torch.stack([first, torch.zeros_like(first)], dim=1)


def closed_form(orders):
    """I^(m) of pairs of {0, 1, 2} and phi^(m), with 16 players, averaged over orders."""
    pair = np.mean([m / 14 for m in orders])
    team = np.mean([m * (m - 1) / (15 * 14) for m in orders])
    return pair, team


@pytest.fixture(scope="module")
def products():
    return ix.explain(
        Products().eval(),
        torch.ones(1, 16, 16),
        0,
        GRID,
        pairs=ix.AllPairs(),
        contexts=ix.Windows(64, 1),
        permutations=64,
        ratios=(0, 0.2, 0.4, 0.8, 1),
        reward="logit",
    )


def test_pairs_and_patches_are_those_of_the_closed_form(products):
    assert products.bands == ("low", "middle", "high")
    pairs, patches = products.to_frame(), products.patches()
    assert len(pairs) == 3 * 120
    assert len(patches) == 3 * 16
    bands = bands_of(products.record.orders_O, 16)
    for band, inside in bands.items():
        pair, team = closed_form(products.record.orders_O[inside].tolist())
        for row in pairs[pairs["band"] == band].itertuples():
            expected = pair if {row.i, row.j} <= {0, 1, 2} else 0
            assert abs(row.interaction - expected) <= 4 * row.se + 1e-6
        for row in patches[patches["band"] == band].itertuples():
            expected = 2 if row.patch == 4 else team if row.patch < 3 else 0
            assert abs(row.attribution - expected) <= 4 * row.se + 1e-6
    exact = pairs[pairs["band"] == "low"]
    assert (exact["se"] == 0).all()
    np.testing.assert_array_equal(exact["low"], exact["interaction"])


def test_intervals_are_those_of_means_of_replicates_over_the_orders_of_a_band(products):
    from scipy.stats import t

    record = products.record
    inside = np.flatnonzero(bands_of(record.orders_O, 16)["high"])
    x_PR = np.mean([np.broadcast_to(record.replicates(o), (120, 64)) for o in inside], axis=0)
    table = products.to_frame().query("band == 'high'")
    se = x_PR.std(axis=1, ddof=1) / 8
    np.testing.assert_allclose(table["interaction"], x_PR.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(table["se"], se, atol=1e-12)
    varies = se > 1e-9
    assert varies.sum() >= 3
    half = t.ppf(0.975, 63) * se[varies]
    np.testing.assert_allclose((table["high"] - table["interaction"])[varies], half)


def test_the_strongest_pairs_and_partners(products):
    top = products.strongest(3, "high")
    assert {(i, j) for i, j in zip(top["i"], top["j"], strict=True)} == set(
        combinations(range(3), 2)
    )
    assert products.strongest(2)["band"].tolist() == ["low"] * 2 + ["middle"] * 2 + ["high"] * 2
    partners = products.partners(1, "high").set_index("partner")["interaction"]
    assert len(partners) == 15
    assert set(partners.abs().nlargest(2).index) == {0, 2}
    with pytest.raises(ValueError, match="in a pair, got 16"):
        products.partners(16)
    with pytest.raises(ValueError, match="low, middle, high, got 'all'"):
        products.plot_pairs("all")


def test_the_curve_is_the_strength_of_the_record(products):
    np.testing.assert_array_equal(products.strength.J, ix.strength([products.record]).J)
    assert "one image" in ix.strength([products.record]).__repr__()


def test_it_shows_itself(products):
    assert len(repr(products)) < 250
    assert "no interval over images" in repr(products)
    assert products._repr_html_().count("<tr") == 1 + 15


def test_everything_is_drawn(products):
    figure = products.plot()
    bars = [ax.get_ylabel() for ax in figure.axes if "(logit)" in ax.get_ylabel()]
    assert bars == ["interaction (logit)", "attribution (logit)"]
    assert "no interval over images" in figure._suptitle.get_text()
    pairs = [ax for ax in figure.axes if ax.get_title(loc="left").startswith("pairs")]
    assert [len(ax.get_lines()) for ax in pairs] == [12, 12, 12]
    for draw in (
        products.plot_pairs,
        products.plot_patches,
        products.plot_matrix,
        lambda **ax: products.plot_partners(1, **ax),
        products.plot_curve,
    ):
        ax = plt.figure().subplots()
        assert draw(ax=ax) is ax
        plt.close(ax.figure)


@pytest.mark.parametrize("regions", [False, True])
def test_a_file_gives_the_same_explanation(products, regions, tmp_path):
    one = products
    if regions:
        cells_HW = torch.arange(256).reshape(16, 16) // 16
        game = ix.PatchGame(
            Products().eval(), torch.ones(1, 16, 16), 0, ix.PlayerMap(cells_HW), reward="logit"
        )
        one = explained(game, one.record, permutations=2).without_label()
    one.save(tmp_path / "one.npz")
    other = ix.Explanation.load(tmp_path / "one.npz")
    for table in ("to_frame", "patches"):
        assert getattr(one, table)().equals(getattr(other, table)())
    np.testing.assert_array_equal(one.picture_HWC, other.picture_HWC)
    assert (one.label, one.unit, one.image) == (other.label, other.unit, other.image)
    np.testing.assert_array_equal(one._cells_HW, other._cells_HW)
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(ValueError, match=r"Explanation\.save"):
        ix.Explanation.load(tmp_path / "other.npz")


def test_a_picture_goes_through_the_preparation_of_the_model(tmp_path):
    model = make_model(size=64)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = tmp_path / "photo.png"
    Image.fromarray(pixels).save(file)
    settings = {"contexts": ix.Windows(2, 1), "permutations": 2, "ratios": (0, 0.5, 1)}
    one = ix.explain(model, file, **settings)
    assert one.image == "photo.png"
    ready = ix.prepare(pixels, model)[0]
    assert one.label == int(model(ready[None]).argmax())
    game = ix.PatchGame(model, ready, one.label, one.players, "photo.png")
    pairs = touching(one.players, "photo.png")
    (record,) = ix.measure([game], ix.Design(pairs, ix.Windows(2, 1), (0, 0.5, 1)))
    np.testing.assert_array_equal(one.record.replicates_PRO, record.replicates_PRO)


def test_batches_and_the_bar_change_nothing():
    model, image = make_model(), torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    settings = {"contexts": ix.Windows(2, 1), "permutations": 2, "ratios": (0, 0.5, 1)}
    one = ix.explain(model.double(), image.double(), 1, GRID, **settings, batch_size=3)
    other = ix.explain(model, image.double(), 1, GRID, **settings, progress=True)
    np.testing.assert_allclose(
        one.to_frame()["interaction"], other.to_frame()["interaction"], atol=1e-9
    )


def test_default_players():
    image = torch.zeros(3, 224, 160)
    assert default_players(nn.Flatten(), image) == ix.PatchGrid(7, 8)
    with_tokens = create_model("test_vit", img_size=192).eval()  # 12 x 12 tokens
    assert default_players(with_tokens, torch.zeros(3, 192, 192)) == ix.PatchGrid(6, 6)
    with pytest.raises(ValueError, match="got 17 x 19"):
        default_players(nn.Flatten(), torch.zeros(3, 17, 19))


def test_touching_players():
    pairs = touching(ix.PatchGrid(3, 3), "a").draw(9, 0, "a")
    near = [
        (i, j)
        for i, j in combinations(range(9), 2)
        if abs(i // 3 - j // 3) <= 1 and abs(i % 3 - j % 3) <= 1
    ]
    assert sorted(map(tuple, pairs.tolist())) == near
    regions = ix.PlayerMap(torch.tensor([[0, 0, 1], [2, 2, 1]]))
    found = touching(regions, "a").draw(3, 0, "a")
    assert sorted(map(tuple, found.tolist())) == [(0, 1), (0, 2), (1, 2)]
    with pytest.raises(TypeError, match="SimpleNamespace"):
        touching(SimpleNamespace(n=4), "a")


def test_a_torchvision_network_and_its_own_transform():
    from torchvision.models import squeezenet1_1
    from torchvision.transforms.v2.functional import pil_to_tensor

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = squeezenet1_1(num_classes=5).eval()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))

    def transform(picture):
        return pil_to_tensor(picture) / 127.5 - 1

    settings = {"contexts": ix.Windows(2, 1), "permutations": 2, "ratios": (0, 1)}
    with pytest.raises(ValueError, match="SqueezeNet"):
        ix.explain(model, picture, **settings)
    one = ix.explain(model, picture, players=GRID, transform=transform, **settings)
    other = ix.explain(model, transform(picture), players=GRID, **settings)
    values = (found.record.replicates_PRO for found in (one, other))
    np.testing.assert_allclose(*values, atol=1e-6)  # another layout in memory
    # Nobody knows the normalisation: the picture is stretched for the eye.
    assert (one.picture_HWC.min(), one.picture_HWC.max()) == (0, 1)
