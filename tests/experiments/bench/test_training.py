import re
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from experiments.bench import training as module
from experiments.bench.training import (
    CPU_STEPS,
    GPU_STEPS,
    _Training,
    loader,
    product_rate,
    step,
    write_pictures,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(module, "PICTURES", 32)
    monkeypatch.setattr(module, "LOADED", 16)
    monkeypatch.setattr(module, "STEPS", 1)
    monkeypatch.setattr(module, "PRODUCT", 64)


@pytest.mark.parametrize("name", CPU_STEPS)
def test_a_step_row(name):
    row = step(f"pretrain/step/{name}", replace(CPU_STEPS[name], batch=16), 1, CPU)
    assert row.row == f"pretrain/step/{name}"
    assert 0.1 < row.ratio < 2
    assert (row.unit, row.target, row.notes) == ("images/s", 0.9, ())


@pytest.mark.parametrize(("name", "small"), [("vit_base", "test_vit"), ("resnet50", "test_resnet")])
def test_a_step_row_of_a_gpu_shrunk(name, small):
    options = {"img_size": 64} if name == "vit_base" else {}
    steps = replace(GPU_STEPS[name], model=small, options=options, size=64, batch=2)
    row = step(f"pretrain/step/gpu/{name}", steps, 1, CPU)
    assert 0.01 < row.ratio < 10
    assert (row.unit, row.target) == ("images/s", 0.92)
    shares = r"A2MIM \S+ TFLOP/s \(\d+%\), bare \S+ TFLOP/s \(\d+%\) of the \S+ TFLOP/s"
    assert re.match(shares, row.notes[0])


@pytest.mark.gpu
@pytest.mark.parametrize("name", GPU_STEPS)
def test_a_step_row_on_a_gpu(name):
    row = step(f"pretrain/step/gpu/{name}", replace(GPU_STEPS[name], batch=8), 1, CUDA)
    assert row.ratio > 0.1


def test_operations_of_a_step_are_those_of_its_products():
    """A linear layer has 2 B in out in the forward, as much for the weights, as for the input."""
    linear = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7))
    x_BC = torch.ones(4, 3)
    training = _Training(linear, lambda: linear(x_BC).sum(), CPU)
    first, second = 2 * 4 * 3 * 5, 2 * 4 * 5 * 7
    assert training.operations() == 2 * first + 3 * second  # the first one's input needs none


def test_a_product_is_timed():
    assert 1e3 < product_rate(8, CPU, repeats=2) < 1e13


# timm's reader leaves files open
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:Exception ignored")
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_loader_row(kind):
    row = loader(f"loader/{kind}", kind, repeats=1)
    assert row.ratio == pytest.approx(row.ours / row.baseline)
    assert row.ours > 10


def test_pictures(tmp_path):
    write_pictures(tmp_path)
    files = sorted((tmp_path / "train").rglob("*.jpg"))
    assert len(files) == 32
    assert len({file.read_bytes() for file in files}) == 32
    with Image.open(files[0]) as image:
        assert image.size == (160, 160)
