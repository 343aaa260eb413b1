import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from timm import create_model
from torch import nn

import interactions as ix
from interactions.orders import rounding
from interactions.orders.rounding import fitting_precision, noise_floor

GRID = ix.PatchGrid(4, 4)
DESIGN = ix.Design(ix.NeighbourPairs(GRID, 2, 6))


def make_game(model):
    image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    return ix.PatchGame(model.eval(), image, 0, GRID)


def test_float32_is_near_and_float64_is_exact():
    game = make_game(create_model("test_vit", num_classes=5, img_size=32))
    floor = noise_floor(game, DESIGN)
    assert 0 < floor < 1e-5
    exact = replace(game, model=game.model.double(), image_CHW=game.image_CHW.double())
    assert noise_floor(exact, DESIGN) == 0


class Noisy(nn.Module):
    """Adds rounding of a known size, but only to float32 inputs."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, images):
        logits = images.flatten(1)[:, :2]
        if images.dtype == torch.float64:
            return logits
        generator = torch.Generator().manual_seed(int(logits.sum().item() * 1e4) % 2**31)
        return logits + self.size * torch.randn(logits.shape, generator=generator)


def test_a_known_noise_is_found():
    """Four values with independent errors s: their difference has the error 2 s."""
    game = make_game(Noisy(0.01))
    game = replace(game, reward=ix.REWARDS["logit"])
    design = ix.Design(ix.RandomPairs(100))
    # 300 differences share some values at the ends; their error of an SD is a few percent
    assert noise_floor(game, design, pairs=100) == pytest.approx(0.02, rel=0.25)


def test_the_model_is_left_as_it_was():
    model = create_model("test_resnet", num_classes=5)
    game = make_game(model)
    before = [p.clone() for p in model.parameters()]
    noise_floor(game, DESIGN)
    for old, new in zip(before, model.parameters(), strict=True):
        assert new.dtype == torch.float32
        np.testing.assert_array_equal(old.detach(), new.detach())


@pytest.fixture
def on_a_gpu(monkeypatch):
    """The question is asked as on a GPU; the network runs on the CPU all the same."""
    monkeypatch.setattr(rounding, "device_of", lambda model: torch.device("cuda"))


def test_on_a_cpu_nothing_is_measured():
    chosen = fitting_precision(make_game(create_model("test_vit", img_size=32)), DESIGN)
    assert (chosen.precision, chosen.floors) == ("float32", {})
    assert math.isnan(chosen.allowed)


@pytest.mark.parametrize("share", [1e-9, 0.01, 10.0])
def test_the_fastest_arithmetic_above_the_noise_is_chosen(on_a_gpu, share):
    """By hand: the floor of each, and the smallest strength in between, of float32."""
    design = ix.Design(ix.NeighbourPairs(GRID, 2, 3), ix.Windows(2, 2), ratios=(0, 0.3, 0.6, 1))
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
    torch.manual_seed(0)
    game = make_game(create_model("vit_tiny_patch16_224", num_classes=5, **options))
    chosen = fitting_precision(game, design, share)
    (record,) = ix.measure([game], design, target=None)
    smallest = np.nan_to_num(ix.strength([record]).S[1:-1]).min()
    assert chosen.allowed == pytest.approx(share * smallest, rel=1e-3)
    for precision, floor in chosen.floors.items():
        again = noise_floor(replace(game, precision=precision), design)
        assert floor == pytest.approx(again, rel=1e-3)
    *coarse, last = chosen.floors
    assert all(chosen.floors[one] >= chosen.allowed for one in coarse)
    if share == 10.0:
        assert (chosen.precision, list(chosen.floors)) == ("float16", ["float16"])
    elif share == 1e-9:
        assert (chosen.precision, last) == ("float32", "tf32")
    else:
        assert chosen.precision in (last, "float32")


def test_only_ends_are_measured_in_float32_anyway(on_a_gpu):
    game = make_game(create_model("test_resnet", num_classes=5))
    design = ix.Design(ix.NeighbourPairs(GRID, 2, 2), ratios=(0, 1))
    assert fitting_precision(game, design).precision == "float32"
