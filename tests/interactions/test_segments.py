import math
import sys
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import ndimage
from timm import create_model

import interactions as ix
from interactions.games.base import REWARDS
from interactions.games.image import PatchGame
from interactions.orders.pairs import AdjacentPairs
from interactions.patches import PatchGrid, hide
from interactions.segments import PlayerMap, _merged, superpixels


def smooth_image(seed=0, size=64, channels=3):
    """Waves and grain, normalised with an arbitrary mean and deviation."""
    noise = np.random.default_rng(seed).standard_normal((channels, size, size + 5))
    waves = ndimage.gaussian_filter(noise, (0, 5, 5), mode="wrap") * 8 + 0.05 * noise
    return torch.from_numpy(waves).float()


def grid_map(rows, cols, p, q):
    """The map that says the same as a grid with cells of p x q pixels."""
    cells = torch.arange(rows * cols).reshape(rows, cols)
    return PlayerMap(cells.repeat_interleave(p, dim=0).repeat_interleave(q, dim=1))


def random_visible(count, n, seed=0):
    return torch.rand(count, n, generator=torch.Generator().manual_seed(seed)) < 0.5


IMAGES = {
    "smooth": smooth_image(0),
    "another": smooth_image(1),
    "grey": smooth_image(2, channels=1),
    "constant": torch.full((3, 64, 69), 7.0),
    "noise": torch.rand(3, 64, 69, generator=torch.Generator().manual_seed(0)),
    "two halves": torch.cat([torch.zeros(3, 64, 30), torch.ones(3, 64, 39)], dim=2),
    "one odd pixel": torch.zeros(3, 64, 69).index_fill(2, torch.tensor([33]), 5.0),
    "narrow": smooth_image(3)[:, :2],
    "half precision": smooth_image(0).bfloat16(),
}


def test_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)  # as if it were not there
    with pytest.raises(ImportError, match=r"pip install 'a2mim\[superpixels\]'"):
        superpixels(torch.rand(3, 8, 8), 4)


@pytest.mark.parametrize("count", [3, 16, 49, 100])
@pytest.mark.parametrize("name", IMAGES)
def test_exactly_as_many_connected_regions_as_asked_for(name, count):
    image = IMAGES[name]
    players = superpixels(image, count)
    assert players.n == count
    assert players.players_HW.shape == image.shape[1:]
    assert players.players_HW.unique().tolist() == list(range(count))
    for player in range(count):
        _, parts = ndimage.label((players.players_HW == player).numpy())
        assert parts == 1


def test_regions_are_numbered_by_their_first_pixel():
    flat = superpixels(IMAGES["smooth"], 30).players_HW.flatten().tolist()
    assert list(dict.fromkeys(flat)) == list(range(30))


def test_every_pixel_can_be_a_player():
    image = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(superpixels(image, 24).players_HW, torch.arange(24).reshape(4, 6))
    assert superpixels(torch.zeros(3, 4, 6), 23).n == 23


@pytest.mark.parametrize("name", ["smooth", "noise", "constant"])
def test_the_same_image_gives_the_same_regions(name):
    first = superpixels(IMAGES[name], 25)
    torch.manual_seed(3)
    assert torch.equal(superpixels(IMAGES[name].clone(), 25).players_HW, first.players_HW)


def test_the_scale_of_the_image_does_not_matter():
    """Values and factors are small powers of two, so that not a bit is lost."""
    image = (IMAGES["smooth"] * 64).round() / 64
    expected = superpixels(image, 25).players_HW
    assert torch.equal(superpixels(image * 4 - 1, 25).players_HW, expected)


def test_grey_is_rgb_with_equal_channels():
    image = IMAGES["grey"]
    expected = superpixels(image.expand(3, -1, -1), 25).players_HW
    assert torch.equal(superpixels(image, 25).players_HW, expected)


def test_regions_follow_an_edge():
    """No region lies on both sides of an edge from black to white, where no grid line lies."""
    players = superpixels(IMAGES["two halves"], 16).players_HW
    assert not set(players[:, :30].unique().tolist()) & set(players[:, 30:].unique().tolist())


def test_compactness_and_smoothing_change_the_regions():
    plain = superpixels(IMAGES["smooth"], 25).players_HW
    assert not torch.equal(superpixels(IMAGES["smooth"], 25, compactness=100).players_HW, plain)
    assert not torch.equal(superpixels(IMAGES["smooth"], 25, sigma=2).players_HW, plain)


def merge_by_definition(labels, count):
    """Recount all sizes and borders before every step."""
    labels = labels.copy()
    while len(np.unique(labels)) > count:
        sizes = {k: (labels == k).sum() for k in np.unique(labels)}
        small = min(sizes, key=lambda k: (sizes[k], k))
        border = dict.fromkeys(sizes, 0)
        height, width = labels.shape
        for y, x in zip(*np.nonzero(labels == small), strict=True):
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= v < height and 0 <= u < width and labels[v, u] != small:
                    border[labels[v, u]] += 1
        labels[labels == small] = max(border, key=lambda k: (border[k], -k))
    return labels


@pytest.mark.parametrize("name", ["smooth", "noise", "two halves"])
def test_merging_against_its_definition(name):
    """Sixty regions merged on, in two ways."""
    image = IMAGES[name][:, :32, :32]
    whole = superpixels(image, 60).players_HW.numpy()
    for count in (59, 30, 3):
        expected = merge_by_definition(whole, count)
        merged = _merged(whole, count)
        # The same regions under other numbers: each number of one goes with one of the other.
        together = {*zip(expected.ravel().tolist(), merged.ravel().tolist(), strict=True)}
        assert len(together) == count
        assert merged.max() + 1 == count


def test_pixels_against_a_loop():
    players = superpixels(IMAGES["smooth"], 12)
    visible = random_visible(3, 12)
    pixels = players.pixels(visible, 64, 69)
    assert pixels.shape == (3, 1, 64, 69)
    assert pixels.dtype == torch.bool
    for b in range(3):
        for y in range(0, 64, 3):
            for x in range(69):
                assert pixels[b, 0, y, x] == visible[b, players.players_HW[y, x]]
    assert players.pixels(visible[:0], 64, 69).shape == (0, 1, 64, 69)


def test_pixels_lie_on_the_device_of_visible():
    visible = random_visible(3, 12).to("meta")
    pixels = superpixels(IMAGES["smooth"], 12).pixels(visible, 64, 69)
    assert pixels.device.type == "meta"
    assert pixels.shape == (3, 1, 64, 69)


def test_hide_keeps_visible_pixels_to_the_bit():
    players, images = superpixels(IMAGES["smooth"], 12), IMAGES["smooth"][None]
    visible = random_visible(4, 12)
    out = hide(images, visible, players, torch.full((1, 1, 1, 1), 7.0))
    shown = players.pixels(visible, 64, 69).expand(-1, 3, -1, -1)
    assert torch.equal(out[shown], images.expand(4, -1, -1, -1)[shown])
    assert (out[~shown] == 7).all()


def make_resnet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_model("test_resnet", num_classes=5).eval()


def test_the_map_of_a_grid_plays_the_game_of_the_grid():
    image, coalitions = IMAGES["smooth"][:, :64, :64], random_visible(9, 32)
    by_grid = PatchGame(make_resnet(), image, 2, PatchGrid(4, 8))
    by_map = PatchGame(make_resnet(), image, 2, grid_map(4, 8, 16, 8))
    assert torch.equal(by_grid(coalitions), by_map(coalitions))


def test_neighbours_against_a_loop():
    players = superpixels(IMAGES["another"], 20)
    labels = players.players_HW.tolist()
    expected = set()
    for y, x in np.ndindex(64, 69):
        for v, u in ((y + 1, x), (y, x + 1)):
            if v < 64 and u < 69 and labels[y][x] != labels[v][u]:
                expected.add(tuple(sorted((labels[y][x], labels[v][u]))))
    assert [tuple(pair) for pair in players.neighbours().tolist()] == sorted(expected)


def test_corners_do_not_touch():
    checkers = PlayerMap(torch.tensor([[0, 1], [2, 3]]))
    assert checkers.neighbours().tolist() == [[0, 1], [0, 2], [1, 3], [2, 3]]
    assert PlayerMap(torch.zeros(2, 2, dtype=torch.int64)).neighbours().shape == (0, 2)


def measure_on_superpixels(model, reward):
    """Every order of four adjacent pairs, exactly, in games of 7 players on two images."""
    images = torch.stack([IMAGES["smooth"], IMAGES["another"]]).double()
    maps = {name: superpixels(x, 7) for name, x in zip("ab", images, strict=True)}
    games = ix.PatchGames(
        model, images, [0, 1], list(maps.values()), names=list(maps), reward=reward
    )
    ratios = tuple(m / 5 for m in range(6))
    design = ix.Design(AdjacentPairs(maps, 4), contexts=ix.AllContexts(), ratios=ratios)
    return games, maps, ix.measure(games, design)


@pytest.mark.integration
def test_interactions_of_superpixels_against_the_table_of_all_values():
    games, maps, records = measure_on_superpixels(make_resnet().double(), REWARDS["log_odds"])
    for game, record in zip(games, records, strict=True):
        pairs = [tuple(pair) for pair in record.pairs_P2.tolist()]
        assert set(pairs) <= {tuple(pair) for pair in maps[record.image].neighbours().tolist()}
        exact = dict(zip(combinations(range(7), 2), ix.exact(game).interactions(), strict=True))
        expected = np.stack([exact[pair] for pair in pairs])
        assert np.abs(expected).max() > 1e-5  # far above the tolerance below
        np.testing.assert_allclose(record.mean_PO, expected, atol=1e-10)


def test_bad_maps_say_what_was_expected():
    with pytest.raises(TypeError, match=r"players as int64, got torch.float32; call \.long\(\)"):
        PlayerMap(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"players of shape \(H, W\), got \(1, 2, 2\)"):
        PlayerMap(torch.zeros(1, 2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"players of shape \(H, W\), got \(0, 2\)"):
        PlayerMap(torch.zeros(0, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="0 to n-1 without gaps, got 2 players from 0 to 2"):
        PlayerMap(torch.tensor([[0, 2]]))
    with pytest.raises(ValueError, match="0 to n-1 without gaps, got 2 players from 1 to 2"):
        PlayerMap(torch.tensor([[1, 2]]))
    players = grid_map(2, 2, 2, 2)
    with pytest.raises(TypeError, match="expected visible as bool"):
        players.pixels(torch.ones(1, 4), 4, 4)
    with pytest.raises(ValueError, match=r"expected visible of shape \(B, 4\)"):
        players.pixels(torch.ones(1, 5, dtype=torch.bool), 4, 4)
    with pytest.raises(ValueError, match=r"an image of 4 x 4 pixels.*got 4 x 8"):
        players.pixels(torch.ones(1, 4, dtype=torch.bool), 4, 8)
    with pytest.raises(ValueError, match=r"an image of 4 x 4 pixels.*got 64 x 69"):
        PatchGame(make_resnet(), IMAGES["smooth"], 0, players)


def test_bad_images_say_what_was_expected():
    image = IMAGES["smooth"][:, :8, :8]
    for count in (2, 65):
        with pytest.raises(ValueError, match=f"between 3 and 64 superpixels.*8 x 8.*got {count}"):
            superpixels(image, count)
    for shape in ((8, 8), (1, 3, 8, 8), (2, 8, 8), (3, 0, 8)):
        with pytest.raises(ValueError, match=r"one image \(C, H, W\) with 1 or 3 channels, got"):
            superpixels(torch.zeros(shape), 4)
    with pytest.raises(ValueError, match="finite values"):
        superpixels(torch.full_like(image, math.inf), 4)
    for compactness, sigma in ((0, 0), (math.nan, 0), (1, -1)):
        with pytest.raises(ValueError, match="expected compactness > 0 and sigma >= 0, got"):
            superpixels(image, 4, compactness, sigma)


def test_a_compactness_that_overflows_is_an_error():
    with pytest.raises(ValueError, match=r"expected 9 regions.*at compactness 1e-200; choose a l"):
        superpixels(IMAGES["smooth"][:, :8, :8], 9, compactness=1e-200)


@pytest.mark.parametrize("picture", ["photo.jpg", np.zeros((8, 8, 3), np.uint8)])
def test_pictures_have_not_the_size_that_networks_see(picture):
    with pytest.raises(TypeError, match=r"such as ix.prepare\(image, model\)\[0\], got "):
        superpixels(picture, 4)
