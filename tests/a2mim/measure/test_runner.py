import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm import create_model
from torch import nn

import interactions as ix
from a2mim.checkpoints.load import LoadReport
from a2mim.data.sources import Source
from a2mim.measure import runner
from a2mim.measure.networks import Subject
from a2mim.measure.runner import Share, forwards_of, grid_of, measure
from a2mim.settings.interactions import InteractionsConfig
from interactions.networks.inference import Fitting
from interactions.orders.estimator import measure_one, orders_of


def test_forwards_are_those_of_the_estimator_before_repeats():
    design = ix.Design(ix.NeighbourPairs(ix.PatchGrid(14, 14), count=12))
    game = ix.toy.SizeGame(196, lambda k: float(k))
    measured = measure_one(game, design).forwards
    assert 0 <= forwards_of(design) - measured < 100  # shared at the ends
    assert forwards_of(design) == 12 * 4 * (11 * 8 + 2)
    orders = len(orders_of(design.ratios, 196))
    more = replace(design, replicates=(4,) * (orders - 3) + (6, 8, 4))
    assert forwards_of(more) == forwards_of(design) + 12 * 4 * (2 + 4) * 2
    assert 0 <= forwards_of(more) - measure_one(game, more).forwards < 100
    # the published 130,000 without the 15 % that repeat the ends
    assert forwards_of(ix.protocol("a2mim")) == 50 * 4 * (11 * 50 + 2)


def test_the_grid_of_a_protocol_is_its_own():
    config = InteractionsConfig(checkpoints=("x",), grid=7)
    assert grid_of(config) == ix.PatchGrid(7, 7)
    assert grid_of(InteractionsConfig(checkpoints=("x",), protocol="iclr22")) == ix.PatchGrid(
        16, 16
    )


class Seen(nn.Module):
    """Remembers how many images it holds on to at once, by what it is given."""

    def __init__(self):
        super().__init__()
        self.count = 0
        self.model = create_model("test_resnet", num_classes=5)

    def forward(self, images):
        self.count += len(images)
        return self.model(images)


@pytest.fixture
def subject():
    def transform(picture):
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return pixels.float() / 255

    report = LoadReport("net", "timm", "net", sha256="0", look={"input_size": (3, 32, 32)})
    return Subject(
        "net", "none", Seen().eval(), transform, report, ((0,) * 3, (1,) * 3), lambda seed: Seen()
    )


@pytest.fixture
def sources():
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(3)]
    return [Source(f"{k}.png", lambda channels, p=p: p, k) for k, p in enumerate(pictures)]


def test_shares_of_the_work_add_up_to_the_whole(subject, sources, tmp_path):
    config = InteractionsConfig(
        checkpoints=("x",), grid=4, label="truth", reward="log_odds", device="cpu"
    )
    design = ix.Design(ix.NeighbourPairs(ix.PatchGrid(4, 4), 2, 2), ratios=(0, 0.5, 1))
    whole = measure(subject, config, design, sources, Share(tmp_path / "one"))
    forwards = sum(record.forwards for record in whole.records)
    assert forwards <= subject.model.count <= forwards + 100  # the noise floor's and the key's
    assert not subject.model._forward_hooks
    # The second process of two finds the records of the first.
    share = Share(tmp_path / "two")
    other = Path(tmp_path / "two")
    for file in (tmp_path / "one").rglob("*.npz"):
        if file.name.startswith("00001"):
            (other / file.parent.name).mkdir(parents=True)
            (other / file.parent.name / file.name).write_bytes(file.read_bytes())
    before = subject.model.count
    half = measure(subject, config, design, sources, share)
    assert subject.model.count - before < forwards
    for one, two in zip(whole.records, half.records, strict=True):
        np.testing.assert_array_equal(one.replicates_PRO, two.replicates_PRO)
    assert len(share.used) == 3


@pytest.mark.integration
def test_the_arithmetic_is_chosen_once_and_kept(subject, sources, tmp_path, monkeypatch, capsys):
    """On a CPU the answer would be float32: the question is replaced."""
    asked = []

    def answer(game, design):
        asked.append(game.precision)
        return Fitting("bfloat16", 0.01, {"float16": math.inf, "bfloat16": 0.001})

    monkeypatch.setattr(runner, "fitting_precision", answer)
    config = InteractionsConfig(checkpoints=("x",), grid=4, label="truth", reward="log_odds")
    design = ix.Design(ix.NeighbourPairs(ix.PatchGrid(4, 4), 2, 2), ratios=(0, 0.5, 1))
    assert config.precision == "auto"
    share = Share(tmp_path / "records")
    first = measure(subject, config, design, sources, share)
    assert first.precision == "bfloat16"
    assert first.floor > 10 * first.floor_of_ends > 0
    assert "net: bfloat16 (noise floors: float16 inf, bfloat16 1.0e-03;" in capsys.readouterr().out
    again = measure(subject, config, design, sources, share)
    other = measure(subject, config, design, sources, Share(tmp_path / "records"))
    assert asked == ["float32"]  # by the first process, of the first run
    assert again.precision == other.precision == "bfloat16"
    stated = measure(subject, replace(config, precision="float32"), design, sources, share)
    assert stated.precision == "float32"
    assert not np.array_equal(stated.records[0].replicates_PRO, first.records[0].replicates_PRO)
