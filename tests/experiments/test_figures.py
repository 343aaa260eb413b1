import json
import shutil

import matplotlib as mpl
import numpy as np
import pytest

from experiments.figures import draw_all, interaction_curves, named, networks, of
from experiments.results import read_table, strength_from
from interactions import plots


def test_names_have_a_fallback():
    assert named("vit") == "ViT"
    assert named("my-model") == "my-model"


def test_curves_show_the_table(run_folder):
    rows = read_table(run_folder / "rows.csv")
    assert networks(rows) == {"vit": ["scratch", "a2mim"], "resnet": ["scratch", "a2mim"]}
    with mpl.rc_context(plots.STYLE):
        figure = interaction_curves(rows)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["ViT", "ResNet"]
    line = figure.axes[1].get_lines()[0]
    assert line.get_label() == "from scratch"
    expected = strength_from(of(rows, "resnet", "scratch")).J
    np.testing.assert_allclose(line.get_ydata(), expected)


def test_figures_are_the_same_bytes_when_drawn_again(run_folder, tmp_path):
    copies = []
    for name in ("one", "two"):
        copy = tmp_path / name
        shutil.copytree(run_folder, copy)
        assert draw_all(copy) == ["interaction_curves", "occlusion_curves", "reconstructions"]
        copies.append({p.name: p.read_bytes() for p in copy.glob("*.svg")})
    assert copies[0] == copies[1]
    assert len(copies[0]) == 3


@pytest.mark.parametrize("name", ["interaction_curves", "occlusion_curves", "reconstructions"])
def test_both_formats_are_there(run_folder, name):
    assert (run_folder / f"{name}.png").stat().st_size > 1000
    assert (run_folder / f"{name}.svg").read_text().startswith("<?xml")
    assert json.loads((run_folder / "config.json").read_text())["config"]["seed"] == 0
