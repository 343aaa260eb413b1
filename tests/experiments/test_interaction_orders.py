import numpy as np
import pytest
import torch
from PIL import Image
from timm import create_model
from timm.data import create_transform, resolve_model_data_config

import interactions as ix
from experiments import interaction_orders as script


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(3):
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    return tmp_path


@pytest.fixture
def small(monkeypatch):
    """Networks for images of 32 pixels are quick."""
    monkeypatch.setattr(script, "WeightsConfig", lambda: WEIGHTS)


WEIGHTS = script.WeightsConfig(image_size=32)


def test_curves_are_those_of_the_library(photos, small):
    found = script.measured("untrained:test_resnet", photos, count=3, grid=4, pairs=1)
    loaded = script.load("untrained:test_resnet", WEIGHTS)
    config = resolve_model_data_config(create_model("test_resnet")) | {"input_size": (3, 32, 32)}
    names = ["0.png", "1.png", "2.png"]
    images = [Image.open(photos / name).convert("RGB") for name in names]
    images_BCHW = torch.stack([create_transform(**config)(image) for image in images])
    players = ix.PatchGrid(4, 4)
    games = ix.PatchGames(loaded.model, images_BCHW, "prediction", players, names)
    design = ix.Design(ix.NeighbourPairs(players, count=1))
    expected = ix.strength([ix.measure([game], design)[0] for game in games])
    np.testing.assert_array_equal(found.per_image_IO, expected.per_image_IO)


def test_a_network_does_not_differ_from_itself(photos, small, monkeypatch, capsys):
    seen = []
    one = script.measured("untrained:test_resnet", photos, count=2, grid=4, pairs=1)
    monkeypatch.setattr(script, "measured", lambda name, *args, **kwargs: seen.append(name) or one)
    script.main(("a", "b"), photos, photos / "figure.png", count=2, grid=4, pairs=1)
    assert seen == ["a", "b"]
    assert (photos / "figure.png").stat().st_size > 1000
    assert "b minus a:" in capsys.readouterr().out
    lines = [line.get_label() for line in script.draw({"a": one, "b": one}).axes[0].lines]
    assert {"a", "b"} <= set(lines)
    assert (one.compare_bands(one)["difference"] == 0).all()
