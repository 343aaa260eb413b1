import pytest
from PIL import Image

from experiments.bench import training as module
from experiments.bench.training import (
    STEP_MODELS,
    loader,
    photographs,
    step,
    write_photographs,
    write_pictures,
)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(module, "PICTURES", 32)
    monkeypatch.setattr(module, "LOADED", 16)
    monkeypatch.setattr(module, "STEPS", 1)
    monkeypatch.setattr(module, "BATCH", 16)


@pytest.mark.parametrize("name", STEP_MODELS)
def test_a_step_row(name, monkeypatch):
    small = ("test_vit", {"img_size": 64}) if name == "vit_tiny" else ("test_resnet", {})
    monkeypatch.setitem(STEP_MODELS, name, small)
    row = step(f"pretrain/step/{name}", name, 1)
    assert row.row == f"pretrain/step/{name}"
    assert 0.1 < row.ratio < 2
    assert (row.unit, row.target) == ("images/s", 0.9)


# timm's reader leaves files open
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:Exception ignored")
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_loader_row(kind):
    row = loader(f"loader/{kind}", kind, repeats=1)
    assert row.ratio == pytest.approx(row.ours / row.baseline)
    assert row.ours > 10


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:Exception ignored")
def test_a_row_of_photographs(monkeypatch):
    monkeypatch.setattr(module, "LARGE_CROP", 32)
    row = photographs("loader/photographs/160x120", (160, 120), repeats=1)
    assert row.ratio == pytest.approx(row.ours / row.baseline)
    assert row.target == 1.5
    assert "decoded in full: " in row.notes[0]
    assert "torchvision v2 on tensors: " in row.notes[0]


def test_photographs_of_any_size(tmp_path):
    write_photographs(tmp_path, (1400, 1000), 4)
    files = sorted((tmp_path / "train").rglob("*.jpg"))
    assert len({file.read_bytes() for file in files}) == 4
    for file in files:
        with Image.open(file) as image:
            assert image.size == (1400, 1000)


def test_pictures(tmp_path):
    write_pictures(tmp_path)
    files = sorted((tmp_path / "train").rglob("*.jpg"))
    assert len(files) == 32
    assert len({file.read_bytes() for file in files}) == 32
    with Image.open(files[0]) as image:
        assert image.size == (160, 160)
