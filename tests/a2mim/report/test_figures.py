import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from a2mim.report.figures import (
    Look,
    caption_of,
    interaction_overlay,
    interactions_caption,
    named,
    networks,
    occlusion_effects,
    of,
    titled,
)
from a2mim.runs.table import ENERGY, strength_from
from interactions import plots


def test_names_have_a_fallback():
    assert named("vit") == "ViT"
    assert named("my-model") == "my-model"
    assert titled("vit", "scratch") == "ViT (from scratch)"
    assert titled("scratch", "") == "scratch"  # a title of its own


def test_names_of_files_are_no_formulas(one_seed, tmp_path):
    """And no name is left out of the legend."""
    names = {"scratch": "_a$b$", "a2mim": "$\\frac{"}
    rows = one_seed.assign(weights=one_seed["weights"].replace(names))
    with mpl.rc_context(plots.STYLE):
        figure = interaction_overlay(rows)
        figure.savefig(tmp_path / "drawn.svg")
    texts = " ".join(text.get_text() for text in figure.findobj(Text))
    assert "_a\\$b\\$" in texts
    assert "\\$\\frac{" in texts


def test_curves_say_what_they_were_measured_on(one_seed):
    single = one_seed[one_seed["measure"] == ENERGY]
    said = interactions_caption(one_seed)
    pairs, contexts = re.fullmatch(
        rf"{single['image'].nunique()} images, (\d+) pairs each, (\d+) contexts, 8x8 patches, "
        r"random seed 0; RMS strength \(root of the unbiased mean of I²\); "
        "bands: 95 % intervals over images",
        said,
    ).groups()
    assert set(single[single["at"].between(0.1, 0.9)]["samples"]) == {int(pairs) * int(contexts)}
    figure = interaction_overlay(one_seed, scale="log")
    assert figure.get_suptitle().replace("\n", " ") == said
    assert figure.axes[0].get_yscale() == "log"


def test_the_layout_of_the_papers(one_seed):
    rows = one_seed[one_seed["model"] == "vit"]
    (ax,) = interaction_overlay(rows, layout="published").axes
    for line, arm in zip(ax.get_lines(), ("scratch", "a2mim"), strict=True):
        expected = strength_from(of(rows, "vit", arm), "plug_in").J
        np.testing.assert_allclose(line.get_ydata(), expected)
    assert not ax.collections  # no bands
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] > max(line.get_ydata().max() for line in ax.get_lines())
    assert [text.get_text() for text in ax.get_xticklabels()][1] == "0.2n"
    assert [text.get_text() for text in ax.texts] == [
        "ViT (from scratch)",
        "ViT (A2MIM-pretrained)",
    ]
    assert "mean of |I| as published" in ax.figure.get_suptitle()


def test_a_caption_says_images_masks_and_seed():
    setting = "occluder=random grid=4x4 fill=zero repeats=2"
    rows = pd.DataFrame({"samples": [7, 7], "seed": [3, 3], "setting": [setting] * 2})
    said = "7 images, 2 masks of each at every share, 4x4 patches, fill zero, random seed 3"
    assert caption_of(rows) == f"{said}; bands: 95 % intervals over images"
    assert caption_of(rows, band="") == said


def test_occlusion_effects_show_the_table():
    """A line of panels per occluder, a curve with its band per network; nothing of differences."""
    lines = []
    for occluder in ("random", "block"):
        for k, weights in enumerate("ab"):
            setting = f"occluder={occluder} grid=4x4"
            for measure in ("top1", "agreement", "kl"):
                for end, shift in (("", 0.0), ("_low", -0.1), ("_high", 0.1)):
                    name = f"occlusion_{measure}{end}"
                    for at in (0.0, 0.5):
                        value = 0.9 - at / 2 - k / 10 + shift
                        lines.append((name, "net", weights, setting, at, value))
        lines.append(("occlusion_top1_difference", "net", "a", f"{setting} minus=net b", 0.5, 0.1))
    columns = ["measure", "model", "weights", "setting", "at", "value"]
    figure = occlusion_effects(pd.DataFrame(lines, columns=columns))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [
        *(
            "random: top-1 accuracy",
            "random: agreement",
            "block: top-1 accuracy",
            "block: agreement",
        )
    ]
    for ax in figure.axes:
        first, second = ax.get_lines()
        np.testing.assert_allclose(first.get_xdata(), [0, 0.5])
        np.testing.assert_allclose(first.get_ydata(), [0.9, 0.65])
        np.testing.assert_allclose(second.get_ydata(), [0.8, 0.55])
        band = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert (band.min(), band.max()) == pytest.approx((0.55, 1.0))
    for ax in figure.axes[1::2]:  # the last panel of a line
        assert [text.get_text() for text in ax.texts] == ["net (a)", "net (b)"]


def test_networks_look_as_they_are_told(one_seed):
    rows = one_seed.assign(model=one_seed["model"] + " " + one_seed["weights"], weights="")
    titles = list(networks(rows))
    looks = {title: Look(f"#{k}{k}{k}", "os^vP"[k]) for k, title in enumerate(["apart", *titles])}
    ax = interaction_overlay(rows, looks).axes[0]
    lines = [line for line in ax.get_lines() if line.get_label() in looks]
    assert len(lines) == 4
    for line in lines:
        assert (line.get_color(), line.get_marker()) == looks[line.get_label()]
    measures = ["occlusion_agreement" + end for end in ("", "_low", "_high")]
    table = pd.DataFrame({"measure": measures, "value": [0.5, 0.4, 0.6], "at": 0.5, "weights": ""})
    table = table.assign(model=titles[1], setting="occluder=random")
    (line,) = occlusion_effects(table, looks).axes[0].get_lines()
    assert (line.get_color(), line.get_marker()) == looks[titles[1]]


def test_occlusion_effects_without_accuracy_are_one_panel():
    measures = ["occlusion_agreement" + end for end in ("", "_low", "_high")]
    rows = pd.DataFrame({"measure": measures, "value": [0.5, 0.4, 0.6], "at": 0.5})
    figure = occlusion_effects(rows.assign(model="net", weights="a", setting="occluder=random"))
    (ax,) = figure.axes
    assert ax.get_title() == "agreement"
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), [0.5])
