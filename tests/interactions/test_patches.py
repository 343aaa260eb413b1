import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interactions.patches import PatchGrid, hide, random_order


def random_visible(count, n, seed=0):
    return torch.rand(count, n, generator=torch.Generator().manual_seed(seed)) < 0.5


@given(
    rows=st.integers(1, 4),
    cols=st.integers(1, 4),
    p=st.integers(1, 3),
    q=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_pixels_against_loops(rows, cols, p, q, seed):
    grid = PatchGrid(rows, cols)
    visible = random_visible(2, grid.n, seed)
    pixels = grid.pixels(visible, rows * p, cols * q)
    assert pixels.shape == (2, 1, rows * p, cols * q)
    for b in range(2):
        for y in range(rows * p):
            for x in range(cols * q):
                assert pixels[b, 0, y, x] == visible[b, (y // p) * cols + x // q]


def test_cut_and_join_are_inverse_and_cut_matches_slices():
    grid = PatchGrid(2, 3)
    images = torch.arange(2 * 3 * 4 * 9.0).reshape(2, 3, 4, 9)
    cells = grid.cut(images)
    assert cells.shape == (2, 6, 3, 2, 3)
    torch.testing.assert_close(cells[1, 4], images[1, :, 2:4, 3:6], rtol=0, atol=0)
    torch.testing.assert_close(grid.join(cells), images, rtol=0, atol=0)


def test_hide_keeps_visible_pixels_and_fills_the_rest():
    grid = PatchGrid(2, 2)
    images = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    visible = torch.tensor([[True, False, False, True], [True, True, True, True]])
    out = hide(images, visible, grid, torch.full((1, 1, 1, 1), 7.0))
    assert out.shape == (2, 3, 4, 4)
    assert torch.equal(out[1], images[0])
    assert torch.equal(out[0, :, :2, :2], images[0, :, :2, :2])
    assert (out[0, :, :2, 2:] == 7).all()
    assert (out[0, :, 2:, :2] == 7).all()


def test_refine_to_a_finer_grid():
    coarse, fine = PatchGrid(2, 2), PatchGrid(4, 6)
    visible = torch.tensor([[True, False, False, True]])
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[:2, :3] = expected[2:, 3:] = True
    assert torch.equal(coarse.refine(visible, fine), expected.reshape(1, -1))
    with pytest.raises(ValueError, match="2 x 2 grid divides"):
        coarse.refine(visible, PatchGrid(3, 4))


def test_bad_input_says_what_was_expected():
    grid = PatchGrid(2, 2)
    with pytest.raises(TypeError, match="expected visible as bool"):
        grid.pixels(torch.ones(1, 4), 4, 4)
    with pytest.raises(ValueError, match=r"expected visible of shape \(B, 4\)"):
        grid.pixels(torch.ones(1, 5, dtype=torch.bool), 4, 4)
    with pytest.raises(ValueError, match="a 2 x 2 grid divides, got 5 x 4 pixels"):
        grid.cell_size(5, 4)
    with pytest.raises(ValueError, match="at least 1 x 1"):
        PatchGrid(0, 3)
    with pytest.raises(ValueError, match="expected 4 cells"):
        grid.join(torch.zeros(1, 3, 3, 2, 2))


def test_random_order_depends_on_the_image_not_on_the_batch():
    names = ["a", "b", "c"]
    together = random_order(10, names, 0)
    assert (together.sort(dim=1).values == torch.arange(10)).all()
    for name, row in zip(names, together, strict=True):
        assert torch.equal(random_order(10, [name], 0)[0], row)
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together, random_order(10, names, 1))
    assert not torch.equal(together, random_order(10, names, 0, "repeat", 1))
