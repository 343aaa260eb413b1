import pandas as pd
from matplotlib.colors import to_hex

from experiments.photographs import figures

NETWORKS = list(figures.COLOURS)


def accuracies():
    return pd.DataFrame(
        [
            {
                **{"fill": fill, "occluder": occluder, "network": network, "score": "accuracy"},
                **{"hidden": hidden, "estimate": 0.9 - hidden, "low": 0.0, "high": 1.0},
            }
            for fill in ("zero", "blur")
            for occluder in figures.TITLES
            for network in NETWORKS
            for hidden in (0.0, 0.5)
        ]
    )


def test_networks_are_named_where_their_curves_end():
    figure = figures.occlusion(accuracies(), "two photographs")
    assert [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes][:2] == [
        "random, zero",
        "salient, zero",
    ]
    said = {text.get_text(): to_hex(text.get_color()) for text in figure.axes[2].texts}
    assert said == figures.COLOURS
    assert figure._supxlabel.get_text() == "two photographs"


def test_a_lower_bound_is_an_arrow():
    table = pd.DataFrame(
        {
            **{"network": NETWORKS[0], "ratio": [0.0, 0.1, 0.5], "rho": [0.0, 2.0, 9.0]},
            **{"rho_low": [None, 1.0, None], "rho_high": [None, 3.0, None]},
            "rho_is_bound": [False, False, True],
        }
    ).astype({"rho_low": float, "rho_high": float})
    (ax, *_) = figures.noise(table, "").axes
    marked = {line.get_marker(): line.get_xdata().tolist() for line in ax.get_lines()}
    assert marked[r"$\uparrow$"] == [0.5]
    assert marked[figures.MARKERS[NETWORKS[0]]] == [0.1]


def test_verdicts_have_their_colours():
    row = {"network": "a", "minus": "b", "low": -1.0, "high": 1.0, "difference": 0.2}
    table = pd.DataFrame(
        [
            row | {"band": "low", "published": 0.3, "outcome": "the same"},
            row | {"band": "high", "published": -0.3, "outcome": "not decided"},
        ]
    )
    ax = figures.verdicts(table, "").axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a − b, high", "a − b, low"]
    dots = [to_hex(line.get_color()) for line in ax.get_lines() if line.get_marker() == "o"]
    assert dots == ["#9ca3af", "#0f62b4"]
