"""What every public object has in common: it shows itself in a few words."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from timm import create_model

import interactions as ix

GRID = ix.PatchGrid(4, 4)
TEAMS = {frozenset({0, 1, k}): 1.0 for k in range(2, 9)}


def made():
    """One object of every public class, by its name."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model("test_vit", num_classes=5, img_size=64).eval()
    images = torch.randn(9, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    game = ix.toy.DividendGame(9, TEAMS)
    regions = ix.PlayerMap(torch.arange(64 * 64).reshape(64, 64) // 256)
    design = ix.Design(ix.NeighbourPairs(GRID, count=3))
    games = [ix.toy.DividendGame(16, TEAMS, image=str(k)) for k in range(9)]
    records = ix.measure(games, design, target=None)
    settings = {"contexts": ix.Windows(2, 1), "permutations": 2, "ratios": (0, 1)}
    objects = [
        *(ix.AdjacentPairs({"0": regions}, 3), ix.AllContexts(), ix.AllPairs(), ix.IID(3)),
        *(ix.NeighbourPairs(GRID), ix.RandomPairs(3), ix.Windows(), GRID, regions, design),
        *(ix.exact(game), ix.marginals(game, [0, 3], 4), ix.shapley(game, 4), records, records[0]),
        *(records.strength(), ix.plan(records, target=0.3), ix.Interval(1.0, 0.1, 0.8, 1.2)),
        ix.PatchGame(model, images[0], 0, GRID),
        ix.PatchGames(model, images, 0, GRID),
        ix.TokenDropGame(model, images[0], 0, GRID),
        ix.OcclusionCurve(("a", "b"), np.array([0, 0.5]), np.array([[1.0, 0], [1, 1]])),
        ix.explain(model, images[0], 0, GRID, **settings),
    ]
    objects.append(ix.Explorer(objects[-1:]))
    return {type(one).__name__: one for one in objects}


@pytest.fixture(scope="module")
def objects():
    return made()


def test_there_is_one_of_each(objects):
    classes = {
        name
        for name in ix.__all__
        if isinstance(getattr(ix, name), type) and name not in ("Game", "Players")
    }
    assert classes <= objects.keys() | {"Measurements"}


def test_all_show_themselves_in_a_few_words(objects):
    for name, one in objects.items():
        shown = repr(one)
        if name == "Strength":  # a table
            assert len(shown.splitlines()) == 2 + len(one.orders_O)
            continue
        assert len(shown) < 300, name
        assert "\n" not in shown, name
    for team in (ix.toy.DividendGame(9, TEAMS), ix.toy.ParityGame(9, TEAMS)):
        assert len(repr(team)) < 60


def test_what_has_a_table_shows_it_in_a_notebook(objects):
    shown = {name for name, one in objects.items() if hasattr(one, "to_frame")}
    assert shown == {
        *("Explanation", "Interactions", "Marginals", "Measurements", "OcclusionCurve", "Plan"),
        *("ShapleyValues", "Strength"),
    }
    for name in shown:
        html = objects[name]._repr_html_()
        assert "<table" in html, name
        assert "&lt;" not in html, name
        assert len(objects[name].to_frame()) > 0, name


def test_what_can_be_drawn_is_drawn_into_axes_that_are_given(objects):
    for name in ("Interactions", "Marginals", "Measurements", "OcclusionCurve", "ShapleyValues"):
        ax = Figure().subplots()
        assert objects[name].plot(ax) is ax
        assert ax.lines, name
    values = objects["ShapleyValues"]
    ax = values.plot(Figure().subplots())
    np.testing.assert_allclose(ax.lines[0].get_ydata(), values.to_frame()["value"])
    with pytest.raises(ValueError, match=r"expected an order of \[0, 3\], got 2"):
        objects["Marginals"].plot(order=2)
