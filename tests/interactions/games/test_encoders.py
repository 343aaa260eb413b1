from dataclasses import replace

import numpy as np
import pytest
import torch
from timm import create_model
from torch import nn

import interactions as ix
from interactions.games.encoders import cosine, encoder_games, projection

GRID = ix.PatchGrid(4, 4)


class Linear(nn.Module):
    """Features that are linear in the pixels."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 5)

    def forward(self, images):
        return self.layer(images.flatten(1))


def images(size=8, count=3):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def coalitions(count=6):
    return torch.rand(count, 16, generator=torch.Generator().manual_seed(1)) < 0.5


def test_projection_and_cosine_against_their_definitions():
    encoder = create_model("test_vit", num_classes=0, img_size=32).eval()
    image = images(32, 1)
    (projected,) = encoder_games(encoder, image, GRID)
    (angle,) = encoder_games(encoder, image, GRID, kind="cosine")
    visible = coalitions()
    with torch.inference_mode():
        g = encoder(ix.hide(image, visible, GRID, torch.zeros(1, 1, 1, 1))).double()
        whole, empty = encoder(torch.cat([image, torch.zeros_like(image)])).double()
    u = (whole - empty) / (whole - empty).norm()
    torch.testing.assert_close(projected(visible), (g - empty) @ u, atol=1e-5, rtol=1e-5)
    expected = (g @ whole) / (g.norm(dim=1) * whole.norm())
    torch.testing.assert_close(angle(visible), expected, atol=1e-6, rtol=1e-5)


def test_the_ends():
    encoder = create_model("test_resnet", num_classes=0).eval()
    ends = torch.stack([torch.ones(16), torch.zeros(16)]).bool()
    (projected,) = encoder_games(encoder, images(64, 1), GRID)
    (angle,) = encoder_games(encoder, images(64, 1), GRID, kind="cosine")
    assert projected(ends)[1].abs() < 1e-5  # nothing visible is worth 0
    assert angle(ends)[0] == pytest.approx(1, abs=1e-6)


def test_a_linear_encoder_has_no_interactions():
    """The projection is linear in the features, so linear features make an additive game."""
    games = encoder_games(Linear().eval().double(), images().double(), GRID)
    records = ix.measure(games, ix.Design(ix.RandomPairs(10)))
    assert max(np.abs(record.replicates_PRO).max() for record in records) < 1e-12


def test_names_and_fills_are_passed_on():
    games = encoder_games(
        Linear().eval(), images(), GRID, names=["a", "b", "c"], fill=ix.fills.image_mean
    )
    assert [game.image for game in games] == ["a", "b", "c"]
    assert all(game.fill is ix.fills.image_mean for game in games)


def test_bad_input():
    with pytest.raises(ValueError, match="'projection', 'cosine' or 'features', got 'euclid'"):
        encoder_games(Linear().eval(), images(), GRID, kind="euclid")
    with pytest.raises(ValueError, match=r"features \(B, D\), got \(2, 3, 8, 8\); pool"):
        encoder_games(nn.Identity().eval(), images(), GRID)
    with pytest.raises(ValueError, match="image 0: expected features that change"):
        encoder_games(Linear().eval(), images() * 0, GRID)
    with pytest.raises(ValueError, match="only zeros"):
        cosine(torch.zeros(3))
    with pytest.raises(ValueError, match="features that change"):
        projection(torch.ones(3), torch.ones(3))


def test_features_make_a_game_of_vectors():
    encoder = create_model("test_resnet", num_classes=0).eval().double()
    image = images(64, 1).double()
    (game,) = encoder_games(encoder, image, GRID, kind="features")
    visible = coalitions()
    with torch.inference_mode():
        expected = encoder(ix.hide(image, visible, GRID, torch.zeros(1, 1, 1, 1)))
    torch.testing.assert_close(game(visible), expected)


def test_the_squares_of_feature_interactions_add_up_over_features():
    """E ||I||^2 is the sum over features of E I^2, each an exact U-statistic on its own."""
    encoder = Linear().eval().double()
    squared = nn.Sequential(encoder, Square()).eval()
    games = encoder_games(squared, images(count=2).double(), GRID, kind="features")
    design = ix.Design(ix.RandomPairs(5), ix.Windows(4, 2))
    vectors = ix.strength(ix.measure(games, design), "rms")
    total = 0
    for k in range(5):
        one = [replace(game, reward=lambda out, label, k=k: out[:, k].double()) for game in games]
        total = total + ix.strength(ix.measure(one, design), "rms").per_image_IO
    np.testing.assert_allclose(vectors.per_image_IO, total, rtol=1e-9)


class Square(nn.Module):
    def forward(self, features):
        return features**3
