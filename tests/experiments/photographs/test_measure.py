import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

import interactions as ix
from a2mim.runs.records import read_records
from experiments.photographs import measure as script
from interactions.orders.published import protocol


@pytest.fixture
def photos(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(4):
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(folder / f"{k}.png")
    (folder / "labels.csv").write_text("file,class_index\n0.png,3\n1.png,5\n2.png,7\n3.png,9\n")
    weights = script.WeightsConfig(image_size=32)
    monkeypatch.setattr(script, "WeightsConfig", lambda: weights)
    monkeypatch.setattr(script, "GRID", ix.PatchGrid(4, 4))
    return folder


def run(photos, **settings):
    names = ("untrained:test_resnet", "untrained:test_efficientnet")
    script.main(names, photos, photos.parent / "out", pairs=1, contexts=2, size=2, **settings)
    return sorted((photos.parent / "out").iterdir())


def test_the_whole_protocol_is_the_published_one():
    assert script.design_of(50, 50) == protocol("a2mim")


def test_records_are_those_of_the_library(photos):
    folder, other = run(photos, count=3)
    found = read_records(next(f for f in (folder, other) if "resnet" in f.name))
    assert [record.image for record in found] == ["0", "1", "2"]
    loaded = script.load("untrained:test_resnet", script.WeightsConfig())
    image_CHW = create_transform(**loaded.data_config)(Image.open(photos / "1.png").convert("RGB"))
    games = ix.PatchGames(loaded.model, image_CHW[None], [5], script.GRID, ["1"])
    (expected,) = ix.measure(games, script.design_of(1, 2), target=None)
    assert np.array_equal(found[1].pairs_P2, expected.pairs_P2)
    np.testing.assert_allclose(found[1].replicates_PRO, expected.replicates_PRO, atol=1e-6)


def test_a_run_goes_on_after_its_time_and_measures_nothing_twice(photos, monkeypatch, capsys):
    monkeypatch.setattr(script.time, "strftime", lambda form: "12:01")
    script.main(("untrained:test_resnet",), photos, photos.parent / "late", until="12:00")
    assert "12:00: 0 images of 4" in capsys.readouterr().out
    folders = run(photos, count=2)
    first = {path: path.read_bytes() for folder in folders for path in folder.iterdir()}
    monkeypatch.setattr(script.ix, "measure", lambda *a, **k: pytest.fail("measured again"))
    folders = run(photos, count=2)
    assert {path: path.read_bytes() for folder in folders for path in folder.iterdir()} == first
    assert len(first) == 4
    assert torch.is_grad_enabled()
