import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import interactions as ix
from interactions import pictures, plots

GRID = ix.PatchGrid(2, 3)
CELLS = pictures.cells_of(GRID, 20, 30)
PICTURE = np.random.default_rng(0).random((20, 30, 3))


@pytest.fixture
def ax():
    with mpl.rc_context(plots.STYLE):
        yield Figure().subplots()


def test_cells_and_their_centres():
    expected = [[3 * (y // 10) + x // 10 for x in range(30)] for y in range(20)]
    np.testing.assert_array_equal(CELLS, expected)
    centres = [[10 * (k % 3) + 4.5, 10 * (k // 3) + 4.5] for k in range(6)]
    np.testing.assert_allclose(pictures.centres_of(CELLS), centres)
    regions_HW = torch.tensor([[0, 0, 1], [0, 1, 1]])
    assert pictures.cells_of(ix.PlayerMap(regions_HW), 2, 3).tolist() == regions_HW.tolist()


def test_limits():
    assert pictures.limit_of([1, -3], [2]) == 3
    assert pictures.limit_of([0, 0]) == 1
    assert pictures.limit_of([np.nan, -2]) == 2


def test_pairs_are_lines_between_their_patches(ax):
    values = np.array([1.0, -2.0, 0.5])
    pairs = np.array([[0, 1], [1, 4], [2, 5]])
    certain = np.array([True, True, False])
    scale = pictures.pairs_over_image(ax, PICTURE, CELLS, pairs, values, certain_P=certain)
    assert (scale.norm.vmin, scale.norm.vmax) == (-2, 2)
    lines = ax.get_lines()
    drawn = [np.transpose(line.get_data()).tolist() for line in lines]
    assert drawn[-1] == [[14.5, 4.5], [14.5, 14.5]]  # the strongest on top
    widths = [line.get_linewidth() for line in lines]
    assert widths == sorted(widths)
    assert [line.get_linestyle() for line in lines] == ["--", "-", "-"]
    blue, orange = (np.array(lines[k].get_color()) for k in (2, 1))
    assert blue[2] > blue[0]
    assert orange[0] > orange[2]


def test_heat_is_the_value_of_each_patch(ax):
    values = np.array([1.0, -1, 0, 2, np.nan, 0])
    heat = pictures.heat_over_image(ax, PICTURE, CELLS, values, limit=4)
    shown = heat.get_array()
    assert shown[15, 25] == 0
    assert shown[15, 5] == 2
    assert shown.mask[15, 15]
    assert (heat.norm.vmin, heat.norm.vmax) == (-4, 4)


def test_partners_of_a_patch(ax):
    heat = pictures.partners_over_image(
        ax, PICTURE, CELLS, 4, np.array([1, 5]), np.array([0.5, -1])
    )
    shown = heat.get_array()
    assert (shown[5, 15], shown[15, 25]) == (0.5, -1)
    assert shown.mask[15, 15]
    assert shown.mask[5, 5]
    box = ax.collections[-1].get_paths()[0].get_extents()  # the outline of patch 4
    np.testing.assert_allclose([box.x0, box.x1, box.y0, box.y1], [9.5, 19.5, 9.5, 19.5], atol=0.6)


def test_the_matrix_is_symmetric_and_leaves_out_what_was_not_measured(ax):
    image = pictures.pair_matrix(ax, 3, np.array([[0, 1], [2, 1]]), np.array([1.0, -2]))
    shown = np.ma.filled(image.get_array(), np.nan)
    np.testing.assert_array_equal(
        shown, [[np.nan, 1, np.nan], [1, np.nan, -2], [np.nan, -2, np.nan]]
    )


def test_colour_bars_have_a_label(ax):
    scale = pictures.heat_over_image(ax, PICTURE, CELLS, np.arange(6.0))
    pictures.colour_bar(scale, ax, "attribution (log odds)")
    assert ax.figure.axes[-1].get_ylabel() == "attribution (log odds)"
