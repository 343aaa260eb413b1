"""Counts, nesting and keys of every family, and what is published of the tools we imitate."""

import numpy as np
import pytest
import torch
from skimage.measure import label

from interactions import fills
from interactions.occlusion.masks import (
    OCCLUDERS,
    TENTHS,
    BlockWise,
    Complement,
    Ordered,
    Scene,
    ShiftedGrid,
    at_least,
    foreground,
    in_corner,
    mae,
    nearest,
    patch_shuffle,
    random,
    tenths,
)
from interactions.occlusion.presets import PRESETS
from interactions.patches import PatchGrid
from interactions.segments import PlayerMap

GRID = PatchGrid(14, 14)
NAMES = tuple(f"image {k}" for k in range(6))
FRACTIONS = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)
SALIENCY = torch.rand(6, 196, generator=torch.Generator().manual_seed(0)) + 0.01


def scene(images=NAMES, grid=GRID, repeat=0, seed=0):
    rows = [NAMES.index(image) for image in images]
    return Scene(grid, tuple(images), seed, repeat, SALIENCY[rows, : grid.n])


def hidden_counts(visible):
    return (~visible).sum(dim=-1)


@pytest.mark.parametrize("name", OCCLUDERS)
def test_masks_are_keyed_and_nested_where_that_is_said(name):
    occluder = OCCLUDERS[name]
    visible = occluder(scene(), FRACTIONS)
    assert visible.shape == (6, len(FRACTIONS), 196)
    assert visible.dtype == torch.bool
    assert visible[:, 0].all()
    # Neither the other images, nor their order, nor the other fractions change a mask.
    again = occluder(scene((NAMES[4], NAMES[1])), (0.25, 0.9))
    assert torch.equal(again, visible[[4, 1]][:, [2, 5]])
    if occluder.nested:
        assert (visible[:, 1:] <= visible[:, :-1]).all()
    else:
        assert not (visible[:, 1:] <= visible[:, :-1]).all()
    drawn = name not in ("salient", "non_salient", "salient_mass", "non_salient_mass")
    for other in (scene(repeat=1), scene(seed=1)):
        assert torch.equal(occluder(other, FRACTIONS), visible) == (not drawn)
    for bad in ((), (-0.1,), (0.5, 1.1)):
        with pytest.raises(ValueError, match="hidden fractions between 0 and 1"):
            occluder(scene(), bad)


@pytest.mark.parametrize(
    "name",
    ["random", "complement", "salient", "non_salient", "block", "centre", "border", "checkerboard"],
)
def test_hidden_players_are_counted_to_the_nearest(name):
    visible = OCCLUDERS[name](scene(), FRACTIONS)
    assert hidden_counts(visible).tolist() == [[0, 20, 49, 98, 147, 176, 196]] * 6


def test_every_player_is_hidden_as_often_at_random():
    images = tuple(f"{k}" for k in range(4000))
    hidden = ~OCCLUDERS["random"](Scene(PatchGrid(4, 4), images), (0.25,))[:, 0]
    # 16 binomial counts of 4000 with p = 1/4, sd 27: beyond 4.5 sd with probability 1e-4
    np.testing.assert_allclose(hidden.sum(dim=0), 1000, atol=4.5 * 27.4)


def test_blocks_are_in_one_piece():
    images = tuple(f"{k}" for k in range(30))
    for grid in (PatchGrid(14, 14), PatchGrid(4, 8), PatchGrid(1, 9)):
        fractions = tuple(k / grid.n for k in range(grid.n + 1))
        visible = OCCLUDERS["block"](Scene(grid, images), fractions).reshape(-1, *_shape(grid))
        for mask in visible.numpy():
            assert label(~mask, connectivity=1).max() <= 1
    corners = OCCLUDERS["block"](Scene(PatchGrid(2, 2), images), (0.25,))[:, 0]
    assert (~corners).any(dim=0).all()  # blocks lie everywhere


def _shape(grid):
    return grid.rows, grid.cols


def test_centre_and_border_go_ring_by_ring():
    visible = OCCLUDERS["centre"](scene(grid=PatchGrid(8, 8)), (4 / 64, 16 / 64, 36 / 64))
    for f, ring in enumerate((1, 2, 3)):
        square = torch.zeros(8, 8, dtype=torch.bool)
        square[4 - ring : 4 + ring, 4 - ring : 4 + ring] = True
        assert torch.equal(~visible[:, f], square.flatten().expand(6, -1))
    border = OCCLUDERS["border"](scene(grid=PatchGrid(8, 8)), (28 / 64,))
    assert torch.equal(border[:, 0], ~visible[:, 2])


def test_half_a_checkerboard_has_no_neighbours():
    images = tuple(f"{k}" for k in range(20))
    visible = OCCLUDERS["checkerboard"](Scene(PatchGrid(6, 5), images), (0.3, 0.5))
    hidden = (~visible).reshape(20, 2, 6, 5)
    assert not (hidden[..., 1:, :] & hidden[..., :-1, :]).any()
    assert not (hidden[..., 1:] & hidden[..., :-1]).any()
    assert 0 < hidden[:, 1, 0, 0].sum() < 20  # either colour


def test_the_complement_shows_what_was_hidden():
    base, rest = (OCCLUDERS[name](scene(), (0.25, 0.75)) for name in ("random", "complement"))
    assert torch.equal(rest, ~base.flip(1))


def test_salience_is_sorted():
    top = SALIENCY.argsort(dim=1, descending=True)
    salient, rest = (OCCLUDERS[name](scene(), (0.1,))[:, 0] for name in ("salient", "non_salient"))
    for image in range(6):
        assert set((~salient[image]).nonzero()[:, 0].tolist()) == set(top[image, :20].tolist())
        assert set((~rest[image]).nonzero()[:, 0].tolist()) == set(top[image, -20:].tolist())
    flat = Scene(GRID, NAMES, saliency_IN=torch.zeros(6, 196))
    random_drop = OCCLUDERS["random"](flat, (0.1,))
    assert torch.equal(OCCLUDERS["salient"](flat, (0.1,)), random_drop)  # equals: in random order


def test_superpixels_can_be_hidden():
    players = PlayerMap(torch.arange(12).reshape(3, 4))
    visible = OCCLUDERS["random"](Scene(players, ("a",)), (0.5,))
    assert hidden_counts(visible).tolist() == [[6]]
    with pytest.raises(ValueError, match="players on a grid, got PlayerMap"):
        OCCLUDERS["block"](Scene(players, ("a",)), (0.5,))


def test_bad_saliency():
    for saliency, message in (
        (None, r"shape \(6, 196\), got none"),
        (torch.ones(6, 195), r"got \(6, 195\)"),
        (torch.full((6, 196), torch.nan), "finite saliency"),
    ):
        with pytest.raises(ValueError, match=message):
            OCCLUDERS["salient"](Scene(GRID, NAMES, saliency_IN=saliency), (0.5,))
    for saliency in (torch.zeros(1, 3), -torch.ones(1, 3)):
        with pytest.raises(ValueError, match="at least 0 with a positive sum"):
            foreground(saliency, 0.5)


@pytest.mark.parametrize(
    ("shape", "counts"),
    [
        ((14, 14), [0, 19, 39, 58, 78, 98, 117, 137, 156, 176]),
        ((16, 16), [0, 25, 51, 76, 102, 128, 153, 179, 204, 230]),
        ((8, 8), [0, 6, 12, 19, 25, 32, 38, 44, 51, 57]),
        ((7, 7), [0, 4, 9, 14, 19, 24, 29, 34, 39, 44]),
        ((4, 8), [0, 3, 6, 9, 12, 16, 19, 22, 25, 28]),
        ((4, 4), [0, 1, 3, 4, 6, 8, 9, 11, 12, 14]),
    ],
)
def test_counts_of_ipvit(shape, counts):
    """Section 3.1 of the specification, computed from IPViT's code."""
    assert [tenths(shape[0] * shape[1], f) for f in TENTHS] == counts
    with pytest.raises(ValueError, match=r"in tenths, as in IPViT, got 0.25"):
        tenths(196, 0.25)


def test_counts_of_the_other_tools():
    openmixup = [0, 20, 39, 59, 78, 98, 118, 137, 157, 176, 196]
    assert [nearest(196, k / 10) for k in range(11)] == openmixup
    kept = [196 - mae(196, r) for r in (0.1, 0.25, 0.5, 0.6, 0.75, 0.9)]
    assert kept == [176, 147, 98, 78, 49, 19]
    assert mae(10, 0.9) == 9
    assert at_least(49, 0.6) == 30
    assert at_least(25, 0.6) == 15


@pytest.mark.parametrize(
    "players",
    [GRID, PatchGrid(7, 7), PatchGrid(4, 8), PlayerMap(torch.arange(50).reshape(5, 10))],
    ids=["14x14", "7x7", "4x8", "superpixels"],
)
def test_masks_of_mae_show_what_mae_keeps(players):
    """floor((1 - f) N) players, in whole numbers: N (10 - d) // 10 for d tenths."""
    visible = OCCLUDERS["mae"](Scene(players, NAMES), (*TENTHS, 1.0))
    kept = [players.n * (10 - d) // 10 for d in range(11)]
    assert visible.sum(dim=-1).tolist() == [kept] * len(NAMES)
    quarters = OCCLUDERS["mae"](Scene(players, NAMES), (0.25, 0.75))
    kept = [3 * players.n // 4, players.n // 4]
    assert quarters.sum(dim=-1).tolist() == [kept] * len(NAMES)


def test_simmim_hides_squares_of_32_pixels():
    visible = OCCLUDERS["simmim"](scene(), (0.6,)).reshape(6, 7, 2, 7, 2)
    assert (visible == visible[:, :, :1, :, :1]).all()
    assert hidden_counts(visible[:, :, 0, :, 0].flatten(1)).tolist() == [30] * 6
    with pytest.raises(ValueError, match="units of 2 x 2 cells, got 7 x 7"):
        OCCLUDERS["simmim"](scene(grid=PatchGrid(7, 7)), (0.6,))
    with pytest.raises(ValueError, match="a unit and a share of at least 1"):
        Ordered(random, unit=0)


def test_beit_hides_rectangles_of_at_least_16_and_no_more_than_asked():
    images = tuple(f"{k}" for k in range(200))
    hidden = ~BlockWise()(Scene(GRID, images), (0.1, 0.4))
    counts = hidden.sum(dim=2)
    assert counts[:, 1].max() == 78
    # Ten refused rectangles in a row are rare, so nearly all masks come close to the 78 asked for.
    assert counts[:, 1].double().mean() > 70
    one = hidden[:, 0].reshape(-1, 14, 14)
    for mask in one[counts[:, 0] == 16][:50].numpy():  # too few are left for a second rectangle
        rows, columns = mask.any(axis=1).sum(), mask.any(axis=0).sum()
        assert label(mask, connectivity=1).max() >= 1
        assert min(rows, columns) / max(rows, columns) > 0.2
    largest = np.array([_largest_rectangle(mask) for mask in hidden[:20, 1].reshape(-1, 14, 14)])
    assert (largest >= 14).all()  # areas of at least 16 before their sides are rounded
    for bad in ({"smallest": 0}, {"aspect": 2.0}):
        with pytest.raises(ValueError, match="blocks of at least 1 patch"):
            BlockWise(**bad)


def test_masks_of_beit_come_close_to_what_is_asked_for_and_never_exceed_it():
    images = tuple(f"{k}" for k in range(200))
    hidden = hidden_counts(OCCLUDERS["beit"](Scene(GRID, images), TENTHS[1:]))
    asked = torch.tensor([20, 39, 59, 78, 98, 118, 137, 157, 176])  # of 196, to the nearest
    assert (hidden <= asked).all()
    assert (hidden.amax(dim=0) == asked).all()
    # A mask that is not full ends after ten refused rectangles: most are full, none is far from it.
    assert ((hidden == asked).double().mean(dim=0) > 0.35).all()
    assert ((asked - hidden).double().mean(dim=0) < 4).all()
    assert (hidden >= 14).all()  # one rectangle, of an area of 16 before its sides are rounded
    assert (hidden[:, 1:] >= hidden[:, :-1]).double().mean() > 0.99


def _largest_rectangle(mask):
    """Area of the largest rectangle of hidden cells."""
    best = 0
    for top in range(14):
        for bottom in range(top + 1, 15):
            width = longest = 0
            for full in mask[top:bottom].all(dim=0).tolist():
                width = width + 1 if full else 0
                longest = max(longest, width)
            best = max(best, longest * (bottom - top))
    return best


def test_the_mass_rule_of_ipvit():
    """The toy check of section 3.1 of the specification."""
    attention = torch.tensor([[0.05, 0.40, 0.10, 0.25, 0.20]])
    expected = {0: [], 0.1: [1], 0.5: [1, 3], 0.8: [1, 3, 4], 0.9: [1, 2, 3, 4], 1: [0, 1, 2, 3, 4]}
    for mass, players in expected.items():
        assert foreground(attention, mass)[0].nonzero()[:, 0].tolist() == players
        assert torch.equal(foreground(7 * attention, mass), foreground(attention, mass))
    toy = Scene(PatchGrid(1, 5), ("a",), saliency_IN=attention)
    salient = PRESETS["ipvit_salient"].occluder(toy, (0.1, 0.8, 1))
    assert (~salient[0]).int().tolist() == [[0, 1, 0, 0, 0], [0, 1, 0, 1, 1], [1] * 5]
    rest = PRESETS["ipvit_non_salient"].occluder(toy, (0, 0.2, 0.9))  # lambda = 1, 0.8, 0.1
    assert rest[0].int().tolist() == [[1] * 5, [0, 1, 0, 1, 1], [0, 1, 0, 0, 0]]
    zeros = torch.tensor([[0.0, 1.0, 0.0]])
    assert foreground(zeros, 1).all()
    assert foreground(zeros, 0.99)[0].tolist() == [False, True, False]


@pytest.mark.parametrize("name", ["ipvit", "openmixup"])
def test_published_masks_are_shared_by_a_batch_and_drawn_for_each_fraction(name):
    preset = PRESETS[name]
    images = tuple(f"{k}" for k in range(600))
    visible = preset.occluder(Scene(preset.players, images), preset.fractions)
    assert (visible[:256] == visible[0]).all()
    assert (visible[256:512] == visible[256]).all()
    assert not torch.equal(visible[0], visible[256])
    assert not torch.equal(visible[256], visible[512])
    assert not (visible[0, 2:] <= visible[0, 1:-1]).all()
    counts = [tenths, nearest][name == "openmixup"]
    assert hidden_counts(visible[0]).tolist() == [counts(196, f) for f in preset.fractions]
    # A loader's batch by itself has the same masks.
    batch = preset.occluder(Scene(preset.players, images[256:512]), preset.fractions)
    assert torch.equal(batch, visible[256:512])


def test_the_offset_grid_leaves_a_strip():
    shifted = ShiftedGrid(PatchGrid(2, 2), 3)
    pixels = shifted.pixels(torch.tensor([[False, True, True, False]]), 8, 8)[0, 0]
    expected = torch.ones(8, 8, dtype=torch.bool)
    expected[3:7, 3:7] = False
    expected[7:, 7:] = False
    assert torch.equal(pixels, expected)
    assert shifted.n == 4
    for offset in (0, 4):
        with pytest.raises(ValueError, match=r"offset of 1 to 3 pixels"):
            ShiftedGrid(PatchGrid(2, 2), offset).check_image(8, 8)
    preset = PRESETS["ipvit_offset"]
    visible = OCCLUDERS["random"](Scene(preset.players, ("a",)), (0.5,))[:, 0]
    assert not preset.players.pixels(visible, 224, 224)[..., 8:, 8:].all()
    with pytest.raises(ValueError, match="divides"):
        preset.players.check_image(225, 224)
    assert OCCLUDERS["block"](Scene(preset.players, ("a",)), (0.5,)).shape == (1, 1, 196)


def test_shuffling_moves_whole_cells():
    images = torch.arange(4 * 2 * 6 * 8).reshape(4, 2, 6, 8).float()
    grid, names = PatchGrid(3, 2), ["a", "b", "c", "d"]
    shuffled = patch_shuffle(images, grid, names)
    for before, after in zip(grid.cut(images), grid.cut(shuffled), strict=True):
        places = [next(k for k in range(6) if torch.equal(before[k], cell)) for cell in after]
        assert sorted(places) == list(range(6))
    assert torch.equal(patch_shuffle(images[[2]], grid, ["c"]), shuffled[[2]])
    assert not torch.equal(patch_shuffle(images, grid, names, repeat=1), shuffled)
    assert torch.equal(patch_shuffle(images, PatchGrid(1, 1), names), images)
    shared = grid.cut(patch_shuffle(images, grid, names, share=3))
    moves = shared - grid.cut(images)  # equal for images that are moved alike
    assert torch.equal(moves[0], moves[1])
    assert torch.equal(moves[0], moves[2])
    assert not torch.equal(moves[0], moves[3])
    with pytest.raises(ValueError, match="expected 4 names, got 1"):
        patch_shuffle(images, grid, ["a"])


def test_corners():
    images = torch.full((2, 3, 8, 8), 5.0)
    for corner, place in {
        "top left": (slice(0, 3), slice(0, 3)),
        "top right": (slice(0, 3), slice(5, 8)),
        "bottom left": (slice(5, 8), slice(0, 3)),
        "bottom right": (slice(5, 8), slice(5, 8)),
    }.items():
        expected = torch.full((2, 3, 8, 8), -1.0)
        expected[..., place[0], place[1]] = 5
        torch.testing.assert_close(in_corner(images, corner, 3, fills.constant([-1] * 3)), expected)
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    # Halved with anti-aliasing a ramp keeps its middle values.
    small = in_corner(ramp, "top left", 4)[0, 0, 0, 1:3]
    torch.testing.assert_close(small, torch.tensor([2.5, 4.5]))
    with pytest.raises(ValueError, match="a corner of top left"):
        in_corner(images, "middle", 3)
    with pytest.raises(ValueError, match="an edge of 1 to 7 pixels, got 8"):
        in_corner(images, "top left", 8)


def test_complements_of_anything():
    complement = Complement(BlockWise())
    assert not complement.nested
    visible = complement(scene(), (0.6,))
    assert torch.equal(visible, ~BlockWise()(scene(), (0.4,)))
