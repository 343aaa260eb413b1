import pandas as pd
import pytest

from experiments.figures_compare import score_dots


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
