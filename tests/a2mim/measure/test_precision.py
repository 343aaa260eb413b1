import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from a2mim.measure import invariance, occlusion, spectrum
from a2mim.measure.precision import (
    ends,
    floor_of_effects,
    floor_of_features,
    floor_of_spectra,
    on_device,
    ran_in,
    settled,
)
from a2mim.messages import UsageError
from a2mim.runs.table import read_table
from a2mim.settings.invariance import InvarianceConfig
from a2mim.settings.occlusion import OcclusionConfig
from a2mim.settings.spectrum import SpectrumConfig
from a2mim.settings.weights import WeightsConfig
from interactions.features.invariance import MEASURES, BatchRows
from interactions.networks import rounding
from interactions.networks.inference import Fitting
from interactions.occlusion.predictions import CLASSES, SIZES


def test_on_a_cpu_nothing_is_to_be_chosen():
    assert on_device("auto", "cpu") == "float32"
    assert on_device("auto", "cuda") == "auto"
    assert on_device("bfloat16", "cpu") == "bfloat16"


def test_the_fractions_that_are_probed():
    assert ends([0, 0.1, 0.2, 0.5, 0.9]) == (0.1, 0.5, 0.9)
    assert ends([0, 0.5]) == (0.5,)
    assert ends([0]) == ()


def test_what_is_written_first_holds_for_all_processes(tmp_path, capsys):
    """Nobody waits: one that fails ends by itself, and one that is late takes what is there."""
    path = tmp_path / "run" / "precision.json"

    def fails():
        raise UsageError("expected finite outputs")

    for _ in range(2):
        with pytest.raises(UsageError, match="expected finite outputs"):
            settled("auto", path, "net", fails)
    assert not path.exists()

    def late():
        first = Fitting("bfloat16", 0.01, {"float16": math.inf, "bfloat16": 0.001})
        assert settled("auto", path, "net", lambda: first) == "bfloat16"
        return Fitting("float16", 0.01, {"float16": 0.002})

    assert settled("auto", path, "net", late) == "bfloat16"
    assert settled("auto", path, "net", fails) == "bfloat16"
    assert ran_in("auto", path) == "bfloat16"
    assert [file.name for file in path.parent.iterdir()] == ["precision.json"]
    said = "net: bfloat16 (noise floors: float16 inf, bfloat16 1.0e-03; wanted below 1.0e-02)"
    assert said in capsys.readouterr().out
    assert settled("float32", path, "net", fails) == ran_in("float32", path) == "float32"


def test_the_floor_of_effects():
    """The mean of each measure at each fraction; classes apart; what hides nothing not at all."""
    exact = pd.DataFrame(
        {
            "image": ["a", "a", "a", "b", "b", "b"],
            "fraction": [0.0, 0.5, 0.9] * 2,
            **{name: [0.0, 2.0, 4.0] * 2 for name in SIZES},
            **{name: [1, 2, 3] * 2 for name in CLASSES},
        }
    )
    found = exact.copy()
    found["kl"] += [9.0, 0.02, 0.02, 9.0, 0.02, 0.02]
    assert floor_of_effects(found, exact) == pytest.approx(0.01)
    found["predicted"] = [1, 2, 3, 1, 2, 4]
    assert floor_of_effects(found, exact) == pytest.approx(1 / 6)


def test_the_floor_of_features_is_one_of_what_hiding_changes():
    """A cosine of 0.99 that is off by 0.0001 is off by 1 % of what was lost."""
    places = (
        ("value", "norm", "mean", 0.0),
        ("value", "norm", "mean", 0.5),
        ("pixels", "pixels", "mean", 0.5),
        ("permuted", "norm", "mean", 0.5),
    )
    values_PRNM = np.full((4, 1, 2, len(MEASURES)), 0.99)
    terms_PR3 = np.tile([0.9, 1.0, 1.0], (4, 1, 1))
    exact = BatchRows(("a", "b"), places, values_PRNM, terms_PR3)
    off = values_PRNM.copy()
    off[[0, 2, 3]] = 0.5
    off[1, ..., MEASURES.index("cosine")] += [1e-4, -1e-4]
    found = replace(exact, values_PRNM=off)
    assert floor_of_features(found, exact) == pytest.approx(0.01)
    found = replace(exact, terms_PR3=terms_PR3 + np.array([0.003, 0, 0]))
    assert floor_of_features(found, exact) == pytest.approx(0.03)


def test_the_floor_of_spectra():
    exact = pd.DataFrame(
        {
            "image": ["a", "a", "b", "b"],
            "cells": [4, 8, 4, 8],
            "variance": 10.0,
            "k1": [-1.0, -2.0, -1.0, -2.0],
            "k2": [np.nan, -4.0, np.nan, -4.0],
        }
    )
    found = exact.assign(k1=exact["k1"] + 0.02, k2=exact["k2"] + 0.02, cells=0)
    assert floor_of_spectra(found, exact) == pytest.approx(0.02)


CONFIGS = {
    "occlusion": (OcclusionConfig, {"fractions": (0.0, 0.5), "grid": 2, "label": "prediction"}),
    "invariance": (InvarianceConfig, {"fractions": (0.5,), "grid": 2, "layers": ("output",)}),
    "spectrum": (SpectrumConfig, {"layers": ("blocks.0/mlp",)}),
}


@pytest.fixture
def photographs(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for k in range(4):
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{k}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_command_chooses_once_records_it_and_keeps_it(name, photographs, tmp_path, monkeypatch):
    """As on a GPU; the network runs on the CPU all the same, in float16 too."""
    module = {"occlusion": occlusion, "invariance": invariance, "spectrum": spectrum}[name]
    for one in {module, invariance}:
        monkeypatch.setattr(one, "on_device", lambda asked, device: asked)
    monkeypatch.setattr(rounding, "device_of", lambda model: torch.device("cuda"))
    make, options = CONFIGS[name]
    options |= {"images": photographs, "device": "cpu", "out": tmp_path / "out"}
    config = make(("untrained:test_vit",), weights=WeightsConfig(image_size=64), **options)
    assert config.precision == "auto"
    command, asked = getattr(module, name), []
    fitting = module.fitting

    def counted(*arguments):
        asked.append(fitting(*arguments))
        return asked[-1]

    monkeypatch.setattr(module, "fitting", counted)
    monkeypatch.setattr(module, "save", lambda *_: None)  # figures
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_table", stop)
        with pytest.raises(KeyboardInterrupt):
            command(config)
    command(config)
    (chosen,) = asked  # the run that went on had it
    label = json.loads((tmp_path / "out" / "config.json").read_text())["config"]
    assert (label["precision"], label["ran"]["precision"]) == ("auto", [chosen.precision])
    setting = read_table(tmp_path / "out" / "rows.csv")["setting"][0]
    assert f"precision={chosen.precision}" in setting
    assert 0 < chosen.floors["float16"] < 1
    for arithmetic, floor in chosen.floors.items():
        assert (floor < 0.01) == (arithmetic == chosen.precision)
    (kept,) = (tmp_path / "out").glob("precision*.json")
    assert json.loads(kept.read_text())["precision"] == chosen.precision


def stop(*_):
    raise KeyboardInterrupt
