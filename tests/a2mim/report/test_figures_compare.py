from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from a2mim.report.figures import Look
from a2mim.report.figures_compare import looks_of, score_dots


def test_every_score_is_a_panel_with_a_dot_and_an_interval_for_each_network():
    scores = pd.DataFrame(
        [
            ("a", "hit", 0.5, 0.25, 0.75, 10),
            ("b", "hit", 0.6, 0.5, 0.7, 10),
            ("a", "size", 3.0, 2.0, 4.0, 10),
        ],
        columns=["network", "score", "value", "low", "high", "images"],
    )
    figure = score_dots(scores, {"size": "Size", "hit": "Hits", "none": "None"}, shares=("hit",))
    size, hits, empty = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["Size", "Hits, %", ""]
    assert [line.get_xdata()[0] for line in hits.lines] == pytest.approx([50, 60])
    assert [line.get_xdata()[0] for line in size.lines] == [3.0]
    assert [list(c.get_segments()[0][:, 0]) for c in hits.collections] == [[25, 75], [50, 70]]
    assert [label.get_text() for label in size.get_yticklabels()] == ["a", "b"]
    assert not empty.axison


def test_names_of_networks_are_no_formulas():
    scores = pd.DataFrame(
        [("$x$", "hit", 0.5, 0.2, 0.7), (r"$\frac{", "hit", 0.6, 0.5, 0.7)],
        columns=["network", "score", "value", "low", "high"],
    )
    figure = score_dots(scores, {"hit": "Hits"})
    figure.canvas.draw()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [r"\$x\$", r"\$\frac{"]


def test_many_networks_look_different_and_neighbours_in_both_ways():
    titles = [f"net{k}" for k in range(35)]
    looks = looks_of(titles)
    assert list(looks) == titles
    assert len(set(looks.values())) == 35
    for a, b in pairwise(looks.values()):
        assert a.colour != b.colour
        assert a.marker != b.marker


def test_dots_look_as_they_are_told():
    rows = [("b", "hit", 0.5, np.nan, np.nan), ("c", "hit", np.nan, np.nan, np.nan)]
    scores = pd.DataFrame(rows, columns=["network", "score", "value", "low", "high"])
    looks = {"a": Look("red", "o"), "b": Look("green", "s"), "c": Look("blue", "P")}
    figure = score_dots(scores, {"hit": "Hits"}, looks=looks)
    lines = figure.axes[0].lines
    assert [(line.get_color(), line.get_marker()) for line in lines] == [*looks.values()][1:]
