import pytest
from PIL import Image

from experiments import bench_training as module
from experiments.bench_training import loader, step, write_pictures


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(module, "PICTURES", 32)
    monkeypatch.setattr(module, "STEP_BATCH", 16)
    monkeypatch.setattr(module, "STEPS", 1)


@pytest.mark.parametrize("name", module.STEP_MODELS)
def test_a_step_row(name):
    row = step(f"pretrain/step/{name}", name, repeats=1)
    assert row.row == f"pretrain/step/{name}"
    assert 0.1 < row.ratio < 2
    assert row.unit == "images/s"


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
