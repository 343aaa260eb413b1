from dataclasses import replace

import numpy as np
import pytest
import torch
from timm import create_model

import interactions as ix
from interactions.games.base import REWARDS
from interactions.orders.estimator import measure_one

GRID = ix.PatchGrid(4, 4)


def make_model(name="vit_tiny_patch16_224", **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {"img_size": 64, "depth": 2, "num_classes": 5} | options
        return create_model(name, **options).eval()


def make_image():
    return torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(1))


def make_coalitions(n=16, count=9):
    some = torch.rand(count, n, generator=torch.Generator().manual_seed(2)) < 0.5
    ends = torch.stack([torch.zeros(n), torch.ones(n)]).bool()
    return torch.cat([ends, some])


def test_values_against_a_transformer_written_out():
    """One coalition at a time: embed, add positions, keep what is visible, run the blocks."""
    model, image = make_model(), make_image()
    game = ix.TokenDropGame(model, image, 3, GRID, reward=REWARDS["logit"])
    coalitions = make_coalitions()
    for coalition, value in zip(coalitions, game(coalitions), strict=True):
        with torch.inference_mode():
            tokens = torch.cat([model.cls_token, model.patch_embed(image[None])], dim=1)
            tokens = tokens + model.pos_embed
            kept = [0] + [1 + k for k in range(16) if coalition[k]]
            x = tokens[:, kept]
            for block in model.blocks:
                x = block(x)
            expected = model.head(model.norm(x)[:, 0])[0, 3]
        torch.testing.assert_close(value, expected.double(), atol=1e-5, rtol=1e-5)


def test_the_whole_image_is_what_the_network_sees_anyway():
    model, image = make_model(), make_image()
    dropped, masked = ix.TokenDropGame(model, image, 0, GRID), ix.PatchGame(model, image, 0, GRID)
    coalitions = make_coalitions()
    torch.testing.assert_close(dropped(coalitions)[1], masked(coalitions)[1], atol=1e-5, rtol=1e-5)
    # and otherwise it is another game
    assert (dropped(coalitions) - masked(coalitions)).abs()[[0, 2, 3]].min() > 1e-3


def test_players_of_several_patches():
    model, image = make_model(), make_image()
    fine = ix.TokenDropGame(model, image, 0, GRID)
    coarse = ix.TokenDropGame(model, image, 0, ix.PatchGrid(2, 2))
    coalitions = make_coalitions(4)
    refined = ix.PatchGrid(2, 2).refine(coalitions, GRID)
    torch.testing.assert_close(coarse(coalitions), fine(refined), atol=1e-5, rtol=1e-5)


def test_batch_size_and_order_do_not_change_values():
    model, image = make_model().double(), make_image().double()
    coalitions = make_coalitions()
    games = [ix.TokenDropGame(model, image, 0, GRID, batch_size=size) for size in (1, 3, 256)]
    first = games[0](coalitions)
    for game in games[1:]:
        torch.testing.assert_close(game(coalitions), first, atol=1e-10, rtol=0)
    shuffled = torch.randperm(len(coalitions), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(games[1](coalitions[shuffled]), first[shuffled], atol=1e-10, rtol=0)
    assert games[0](coalitions[:0]).shape == (0,)


def test_prefix_tokens_stay():
    """Registers and a class token are no players."""
    model = make_model("vit_small_patch14_reg4_dinov2", img_size=56, embed_dim=96, num_heads=3)
    image = torch.randn(3, 56, 56, generator=torch.Generator().manual_seed(1))
    seen = []
    model.norm_pre.register_forward_hook(lambda module, args, out: seen.append(out.shape[1]))
    ix.TokenDropGame(model, image, 0, GRID)(make_coalitions()[:3])
    assert sorted(seen) == sorted({5, 21, 5 + int(make_coalitions()[2].sum())})


def test_it_is_measured_like_any_game():
    model, image = make_model(), make_image()
    game = ix.TokenDropGame(model, image, 0, GRID)
    design = ix.Design(ix.NeighbourPairs(GRID, 2, 3), ratios=(0, 0.5, 1))
    record = measure_one(game, design)
    assert np.isfinite(record.replicates_PRO).all()
    assert 0 < ix.noise_floor(game, design) < 1e-5
    vectors = replace(game, reward=lambda features, label: features.double())
    assert measure_one(vectors, design).replicates_PRO.ndim == 4


def test_bad_input():
    image = make_image()
    with pytest.raises(ValueError, match="timm VisionTransformer, whose tokens can be dropped, g"):
        ix.TokenDropGame(create_model("test_resnet").eval(), image, 0, GRID)
    beit = make_model("beit_base_patch16_224", embed_dim=96, num_heads=3)
    with pytest.raises(ValueError, match="dropped, got Beit"):
        ix.TokenDropGame(beit, image, 0, GRID)
    with pytest.raises(ValueError, match="whole patches, got 8 x 8 players over 4 x 4 patches"):
        ix.TokenDropGame(make_model(), image, 0, ix.PatchGrid(8, 8))
    with pytest.raises(ValueError, match="reads its class token"):
        ix.TokenDropGame(make_model(global_pool="avg"), image, 0, GRID)
    with pytest.raises(ValueError, match="eval mode"):
        ix.TokenDropGame(make_model().train(), image, 0, GRID)
    with pytest.raises(ValueError, match="label 7 is not one of"):
        ix.TokenDropGame(make_model(), image, 7, GRID)(make_coalitions())
