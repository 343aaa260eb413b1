import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from a2mim.report.figures import Look, save
from a2mim.report.figures_features import (
    BASELINES,
    ENDS,
    below,
    ends_of_stream,
    hidden,
    invariance_over_layers,
    invariance_over_ratios,
    invariance_table,
    last_layer,
    occlusion_measures,
    spectra,
    spectrum_table,
    stream_over_depth,
)
from a2mim.runs.table import COLUMNS
from interactions import plots

LAYERS = ("blocks.0 mean", "blocks.1 mean", "output output")
RATIOS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8)


def row(model, measure, setting, at, value):
    return ("r", measure, model, "w", "d", "all", setting, at, value, 9, 0, "c")


@pytest.fixture
def invariances():
    """Two networks, each number another one."""
    rows = [
        row(
            model,
            f"invariance_{metric}{end}",
            "layer={} readout={} hiding=zero".format(*layer.split()),
            ratio,
            0.01 * len(ENDS) * k + 0.01 * e,
        )
        for k, (model, layer, ratio, metric) in enumerate(
            (model, layer, ratio, metric)
            for model in ("one", "two")
            for layer in LAYERS
            for ratio in RATIOS
            for metric in ("cka", "cosine", "cosine_p05", "recall@1")
        )
        for e, end in enumerate(ENDS)
        if not (metric == "cosine_p05" and end in ("_low", "_high"))
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


@pytest.fixture
def spectrum_rows():
    """A transformer of 3 maps, and a network whose third map is smaller."""
    rows = []
    networks = {
        "vit": ({"stem": 6, "blocks.0/attention": 6, "blocks.0/mlp": 6}),
        "net": ({"stem": 8, "layer1.0": 8, "layer2.0": 4}),
    }
    for model, maps in networks.items():
        for index, (layer, cells) in enumerate(maps.items()):
            setting = f"layer={layer} index={index} maps=3 cells={cells}"
            numbers = [
                ("delta_log_amplitude", 2 * k / cells, -k - index) for k in range(cells // 2)
            ]
            for measure, at, value in [*numbers, ("variance", index / 2, 2.0 + index)]:
                for end, off in (("", 0), ("_low", -0.1), ("_high", 0.1)):
                    name = f"spectrum_{measure}{end}"
                    rows.append(row(model, name, setting, at, value + off))
    return pd.DataFrame(rows, columns=list(COLUMNS))


@pytest.mark.parametrize("truth", [True, False])
def test_predictions_over_what_is_hidden_show_the_table(truth):
    """A column per measure, a line per occluder; without classes nothing that needs them."""
    titles = {
        "top1": "top-1 accuracy",
        "agreement": "agreement with clean",
        "js": "JS divergence (nats)",
        "confidence": "confidence",
        "ece": "calibration error (ECE)",
    }
    measures = list(titles) if truth else ["agreement", "js", "confidence"]
    table = []
    for o, occluder in enumerate(("random", "block")):
        for k, model in enumerate(("one", "two")):
            setting = f"occluder={occluder} grid=4x4"
            for m, measure in enumerate((*measures, "kl")):
                for end, off in (("", 0), ("_low", -0.01), ("_high", 0.01)):
                    for at in (0.0, 0.5):
                        value = 0.1 * o + 0.05 * k + 0.1 * m + at / 10 + off
                        name = f"occlusion_{measure}{end}"
                        table.append(row(model, name, setting, at, value))
            minus = f"{setting} minus=two w"
            table.append(row(model, "occlusion_agreement_difference", minus, 0.5, 0.9))
    with mpl.rc_context(plots.STYLE):
        figure = occlusion_measures(pd.DataFrame(table, columns=list(COLUMNS)))
    columns = len(measures)
    assert [ax.get_title(loc="left") for ax in figure.axes[:columns]] == [
        titles[measure] for measure in measures
    ]
    assert [ax.get_ylabel() for ax in figure.axes[::columns]] == ["random", "block"]
    for number, ax in enumerate(figure.axes):
        o, m = divmod(number, columns)
        for k, line in enumerate(ax.get_lines()):
            start = 0.1 * o + 0.05 * k + 0.1 * m
            np.testing.assert_allclose(line.get_xydata(), [[0, start], [0.5, start + 0.05]])
            band = ax.collections[k].get_paths()[0].vertices[:, 1]
            np.testing.assert_allclose((band.min(), band.max()), (start - 0.01, start + 0.06))
        low, high = ax.get_ylim()
        assert ax.get_ylim() == figure.axes[m].get_ylim()  # one scale for both occluders
        assert low == pytest.approx(-high / 51)
        if measures[m] in ("top1", "agreement"):
            assert high == 1.02
        else:
            assert 0.1 * m + 0.21 <= high < 1  # all of both bands
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one (w)", "two (w)"]


def test_names_of_files_are_no_formulas(invariances, spectrum_rows):
    renamed = {"one": "$x$_", "two": r"$\frac{", "vit": "$x$_", "net": r"$\frac{"}
    for draw, rows in (
        (invariance_over_ratios, invariance_table(invariances)),
        (spectra, spectrum_table(spectrum_rows)),
        (stream_over_depth, spectrum_table(spectrum_rows)),
    ):
        with mpl.rc_context(plots.STYLE):
            figure = draw(rows.assign(model=rows["model"].replace(renamed)))
        texts = " ".join(text.get_text() for text in figure.findobj(Text))
        assert r"\$\frac{" in texts
        assert r"\$x\$_" in texts


@pytest.mark.parametrize("shuffled", [False, True])
def test_wide_tables_have_the_values_of_the_rows(invariances, spectrum_rows, shuffled):
    """Every value by its key, found by hand, in whatever order the rows are."""
    for rows, make in ((invariances, invariance_table), (spectrum_rows, spectrum_table)):
        if shuffled:
            rows = rows.iloc[np.random.default_rng(0).permutation(len(rows))]
        layers = [setting.split()[0].removeprefix("layer=") for setting in rows["setting"]]
        columns = (rows[name] for name in ("measure", "model", "at", "value"))
        told = {
            (model, layer, at, measure): value
            for layer, measure, model, at, value in zip(layers, *columns, strict=True)
        }
        assert len(told) == len(rows)
        for line in make(rows).to_dict("records"):
            name = line.get("metric") or line["measure"]
            run = "invariance" if "metric" in line else "spectrum"
            key = line["model"], line["layer"], line.get("ratio", line.get("at"))
            for end in ENDS:
                value = line.get(end.removeprefix("_") or "value", np.nan)
                if not np.isnan(value):
                    assert told.pop((*key, f"{run}_{name}{end}")) == value
        assert not told


def test_the_table_of_invariance_is_the_rows_side_by_side(invariances):
    table = invariance_table(invariances)
    assert len(table) == 2 * len(LAYERS) * len(RATIOS) * 4
    assert table["layer"].unique().tolist() == ["blocks.0", "blocks.1", "output"]
    assert table["metric"].tolist()[:5] == ["cka", "cosine", "cosine_p05", "recall@1", "cka"]
    np.testing.assert_allclose(table["value"], 0.01 * len(ENDS) * np.arange(len(table)))
    for e, end in enumerate(ENDS):
        column = end.removeprefix("_") or "value"
        there = table[table["metric"] != "cosine_p05"]
        np.testing.assert_allclose(there[column] - there["value"], 0.01 * e, atol=1e-9)
    assert table.query("metric == 'cosine_p05'")["low"].isna().all()
    assert hidden(table) == "filled (zero)"
    assert hidden(table.assign(hiding="token_drop")) == "dropped as tokens"
    last = last_layer(table[table["model"] == "two"])
    assert set(last["layer"]) == {"output"}


def test_curves_over_ratios_show_the_table(invariances):
    table = invariance_table(invariances)
    with mpl.rc_context(plots.STYLE):
        figure = invariance_over_ratios(table)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["CKA", "cosine", "recall@1"]
    second = table.query("model == 'two' and layer == 'output' and metric == 'cosine'")
    lines = figure.axes[1].get_lines()[4:8]
    for line, name in zip(lines, ("value", *BASELINES), strict=True):
        np.testing.assert_allclose(line.get_ydata(), second[name])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:2] == ["one (w), output", "two (w), output"]
    assert texts[2:] == [
        "the network",
        "same network, untrained",
        "raw pixels",
        "another image, permuted",
    ]


def test_curves_over_layers_show_the_table(invariances):
    table = invariance_table(invariances)
    one = table[table["model"] == "one"]
    with mpl.rc_context(plots.STYLE):
        figure = invariance_over_layers(one)
    assert len(figure.axes) == 3  # one readout beside the output
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["pixels", "0", "1", "output"]
    ratios = [t.get_text() for t in figure.legends[0].get_texts()[:4]]
    assert ratios == [f"{ratio} of the patches" for ratio in (0.2, 0.4, 0.6, 0.8)]
    at = one.query("metric == 'cka' and ratio == 0.2")
    pixels, network, untrained, permuted, output, output_untrained = ax.get_lines()[:6]
    assert figure.get_suptitle() == "one (w): patches filled (zero)"
    assert pixels.get_ydata() == [at["pixels"].iloc[0]]
    np.testing.assert_allclose(network.get_ydata(), at["value"][:2])
    np.testing.assert_allclose(untrained.get_ydata(), at["untrained"][:2])
    np.testing.assert_allclose(permuted.get_ydata(), at["permuted"][:2])
    assert output.get_xydata().tolist() == [[3, at["value"].iloc[2]]]
    assert set(output_untrained.get_ydata()) == {at["untrained"].iloc[2]}


def test_the_table_of_spectra_and_its_ends(spectrum_rows):
    table = spectrum_table(spectrum_rows)
    assert len(table) == 3 * (3 + 1) + 2 * (4 + 1) + 2 + 1
    assert table.query("layer == 'layer2.0'")["depth"].tolist() == [1, 1, 1]
    unknown = table["low"].where(table["at"] < 0.6)  # no interval at the highest frequency
    assert ends_of_stream(table.assign(low=unknown))["high_frequency_low"].isna().sum() == 5
    ends = ends_of_stream(table)
    assert ends["layer"].tolist() == [
        *("stem", "blocks.0/attention", "blocks.0/mlp"),
        *("stem", "layer1.0", "layer2.0"),
    ]
    assert ends["high_frequency"].tolist() == [-2, -3, -4, -3, -4, -3]
    np.testing.assert_allclose(ends["frequency"], [2 / 3] * 3 + [0.75, 0.75, 0.5])
    assert ends["variance"].tolist() == [2, 3, 4] * 2
    np.testing.assert_allclose(ends["variance_high"] - ends["variance_low"], 0.2)


def test_spectra_show_the_table(spectrum_rows):
    with mpl.rc_context(plots.STYLE):
        figure = spectra(spectrum_table(spectrum_rows))
    first, second = figure.axes[:2]
    assert first.get_title(loc="left") == "ViT (w)"
    assert len(first.get_lines()) == 3
    np.testing.assert_allclose(second.get_lines()[2].get_xydata(), [[0, -2], [0.5, -3]])


def test_attention_and_down_samplings_are_marked(spectrum_rows):
    with mpl.rc_context(plots.STYLE):
        figure = stream_over_depth(spectrum_table(spectrum_rows))
    amplitude, variance = figure.axes
    curve, plain, hollow, diamonds = amplitude.get_lines()[:4]
    assert curve.get_ydata().tolist() == [-2, -3, -4]
    assert plain.get_xdata().tolist() == [0, 1]
    assert hollow.get_xdata().tolist() == [0.5]
    assert diamonds.get_xdata().tolist() == []
    lines = variance.get_lines()[4:8]
    assert lines[3].get_xydata().tolist() == [[1, 4]]  # the first map after the down-sampling
    assert lines[2].get_xdata().tolist() == []


def test_networks_look_as_they_are_told(invariances, spectrum_rows):
    """Whichever others there are; marks are on the network's own line, not on its baselines."""
    looks = {"a (w)": Look("red", "o"), "two (w)": Look("green", "s"), "one (w)": Look("blue", "v")}
    figure = invariance_over_ratios(invariance_table(invariances), looks)
    lines_of_both = np.split(np.array(figure.axes[1].get_lines()), 2)
    for lines, title in zip(lines_of_both, ("one", "two"), strict=True):
        assert {line.get_color() for line in lines} == {looks[f"{title} (w)"].colour}
        assert [line.get_marker() for line in lines] == [
            looks[f"{title} (w)"].marker,
            *[""] * 3,
        ]
    looks = {"net (w)": Look("green", "s"), "ViT (w)": Look("blue", "v")}
    _, variance = stream_over_depth(spectrum_table(spectrum_rows), looks).axes
    marks = [(line.get_color(), line.get_marker()) for line in variance.get_lines()]
    blue, green = (
        [(c, m) for m in ("None", mark, mark, "D")] for c, mark in (("blue", "v"), ("green", "s"))
    )
    assert marks == [*blue, *green]


@pytest.mark.integration
def test_files_are_the_same_bytes_when_drawn_again(invariances, tmp_path):
    table = invariance_table(invariances)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        save({"x": lambda: invariance_over_ratios(table)}, tmp_path / folder)
    for name in ("x.png", "x.svg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(("length", "columns"), [(10, 3), (40, 2), (100, 1), (500, 1)])
def test_a_legend_has_as_many_columns_as_its_labels_leave_room_for(length, columns):
    handles = [Line2D([], [], label="x" * n) for n in (3, length)]
    assert below(handles, Figure(figsize=(10.5, 4)))["ncols"] == columns
