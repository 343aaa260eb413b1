"""Measures against loops and closed forms; masks, batches and chunks do not change them."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from timm import create_model
from torch import nn

from interactions import fills
from interactions.games.token_drop import TokenDropGame
from interactions.networks.lesion import lesion
from interactions.occlusion import predictions as module
from interactions.occlusion.masks import OCCLUDERS, Scene, patch_shuffle
from interactions.occlusion.predictions import (
    MEASURES,
    Variant,
    WithProbe,
    occlude,
    variant_effects,
)
from interactions.occlusion.presets import PRESETS
from interactions.patches import PatchGrid, hide
from interactions.segments import PlayerMap

GRID = PatchGrid(4, 4)
RANDOM = OCCLUDERS["random"]
NAMES = list("abcdef")


@pytest.fixture(scope="module")
def vit():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model(
            "vit_tiny_patch16_224",
            img_size=32,
            patch_size=8,
            depth=2,
            embed_dim=24,
            num_heads=3,
            num_classes=7,
        )
        # Fresh weights hardly look at the image: classes have to depend on it.
        nn.init.normal_(model.head.weight)
        model.eval()
        with torch.no_grad():
            model.head.bias -= model(torch.randn(64, 3, 32, 32)).mean(dim=0)
            model.head.weight *= 30
            model.head.bias *= 30
    return model.double()


@pytest.fixture(scope="module")
def images():
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()


LABELS = torch.tensor([0, 1, 2, 3, 4, 5])


def same(a, b):
    """The same rows, up to the rounding of float64 networks in batches of other sizes."""
    pd.testing.assert_frame_equal(a, b, rtol=0, atol=1e-12)


def test_measures_found_with_loops(vit, images):
    with torch.inference_mode():
        labels = (vit(images).argmax(dim=1) + torch.tensor([0, 0, 0, 0, 1, 2])) % 7
    rows = occlude(vit, images, labels, GRID, RANDOM, repeats=2, names=NAMES, seed=3)
    assert len(rows) == 6 * 10 * 2
    # No measure is constant.
    assert 0 < rows["correct"].mean() < 1
    assert rows["flipped"].any()
    assert 0 < rows["agreement"].mean() < 1
    for row in rows.to_dict("records"):
        k = NAMES.index(row["image"])
        scene = Scene(GRID, (row["image"],), 3, row["repeat"])
        visible = RANDOM(scene, (row["fraction"],))[:, 0]
        with torch.inference_mode():
            masked = hide(images[[k]], visible, GRID, torch.zeros(()).double())
            logits, clean = vit(masked)[0].numpy(), vit(images[[k]])[0].numpy()
        q, p = (np.exp(x) / np.exp(x).sum() for x in (logits, clean))
        y = int(labels[k])
        top = q.argsort()[::-1]
        expected = {
            "hidden": (~visible).double().mean().item(),
            "label": y,
            "predicted": top[0],
            "clean_predicted": p.argmax(),
            "correct": top[0] == y,
            "clean_correct": p.argmax() == y,
            "top5": y in top[:5],
            "agreement": top[0] == p.argmax(),
            "flipped": p.argmax() == y and top[0] != y,
            "confidence": q.max(),
            "p_true": q[y],
            "p_clean": q[p.argmax()],
            "drop": p[y] - q[y],
            "nll": -np.log(q[y]),
            "brier": sum((q[c] - (c == y)) ** 2 for c in range(7)),
            "kl": entropy(p, q),
            "js": jensenshannon(p, q) ** 2,
            "tv": abs(p - q).sum() / 2,
        }
        assert set(MEASURES) <= set(expected)
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=1e-10), name
    clean = rows[rows["fraction"] == 0]
    assert (clean[["kl", "tv", "drop", "hidden"]] == 0).all(axis=None)
    assert (clean["js"] < 1e-15).all()
    assert clean["agreement"].all()


def test_a_linear_model_loses_what_is_hidden():
    """logits (0, sum of pixels): in closed form 16 pixels of 1, of which f are hidden."""

    def model(images):
        total = images.sum(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(total), total - 7.5], dim=1)

    images = torch.ones(3, 1, 4, 4)
    fractions = tuple(k / 16 for k in range(17))
    labels = torch.ones(3, dtype=torch.int64)
    rows = occlude(model, images, labels, GRID, OCCLUDERS["block"], fractions=fractions)
    margin = 16 - 16 * rows["fraction"] - 7.5
    np.testing.assert_allclose(rows["p_true"], 1 / (1 + np.exp(-margin)), rtol=1e-6)
    np.testing.assert_array_equal(rows["correct"], margin > 0)
    np.testing.assert_allclose(rows["hidden"], rows["fraction"])
    white = occlude(
        model, images, labels, GRID, RANDOM, fractions=fractions, fill=fills.constant([1.0])
    )
    assert (white["kl"] == 0).all()


def test_equal_logits_count_as_argmax_counts_them():
    rows = occlude(
        lambda images: images.new_zeros(len(images), 8),
        torch.zeros(8, 1, 4, 4),
        torch.arange(8),
        GRID,
        RANDOM,
        fractions=(0.5,),
    )
    assert rows["correct"].tolist() == [True] + [False] * 7
    assert rows["top5"].tolist() == [True] * 5 + [False] * 3


NOISE = fills.uniform_noise((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize("fill", [fills.zero, fills.image_mean, fills.blur(2), NOISE, None])
@pytest.mark.parametrize(("batch_size", "at_once"), [(1, 1), (7, 45), (None, 4096)])
def test_batches_chunks_and_order_change_nothing(
    vit, images, fill, batch_size, at_once, monkeypatch
):
    kwargs = {"repeats": 2, "fill": fill, "fractions": (0, 0.3, 0.9)}
    reference = occlude(vit, images, LABELS, GRID, RANDOM, names=NAMES, **kwargs)
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    flipped = occlude(
        vit,
        images.flip(0),
        LABELS.flip(0),
        GRID,
        RANDOM,
        names=NAMES[::-1],
        batch_size=batch_size,
        **kwargs,
    )
    flipped = flipped.sort_values(["image", "fraction", "repeat"], ignore_index=True)
    same(flipped, reference)
    parts = [
        occlude(vit, images[k], LABELS[k], GRID, RANDOM, names=NAMES[k], **kwargs)
        for k in (slice(0, 2), slice(2, 6))
    ]
    same(pd.concat(parts, ignore_index=True), reference)


def test_the_clean_image_runs_once():
    seen = []

    def model(images):
        seen.append(len(images))
        return images.flatten(1)[:, :3]

    images, labels = torch.rand(5, 1, 8, 8), torch.zeros(5, dtype=torch.int64)
    occlude(model, images, labels, GRID, RANDOM, repeats=3, batch_size=8)
    assert sum(seen) == 5 + 5 * 9 * 3
    assert max(seen) == 8


@pytest.mark.parametrize("fill", [fills.blur(2.0), None])
def test_more_batches_move_nothing_more_to_the_device_and_back(vit, images, fill, monkeypatch):
    """Images, masks and fills go there once, and numbers come back once per count of tokens."""
    moves = []
    for name in ("to", "cpu", "item", "tolist", "numpy"):
        way = getattr(torch.Tensor, name)

        def watched(self, *args, way=way, name=name, **kwargs):
            moved = name != "to" or any(isinstance(x, torch.device) for x in args)
            if moved:
                moves.append((name, tuple(self.shape)))
            return way(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, watched)
    seen = []
    for size in (2, 100):
        moves.clear()
        occlude(
            *(vit, images, torch.zeros(6, dtype=torch.int64), GRID, RANDOM),
            fractions=(0.0, 0.25, 0.5),
            fill=fill,
            batch_size=size,
        )
        seen.append(moves.copy())
    # Clean images are moved by the batch, to where they are.
    few, many = ([m for m in of if m[1][1:] != (3, 32, 32)] for of in (seen[1], seen[0]))
    assert few == many
    back = [m for m in few if m[0] == "cpu" and m != ("cpu", (6,))]  # that are the labels
    assert len(back) == 3 + (fill is None)


def test_masks_have_names(vit, images):
    rows = occlude(vit, images, LABELS, GRID, RANDOM, names=NAMES, repeats=2)
    cells = rows.groupby(["image", "fraction", "repeat"])["mask"].first()
    again = occlude(vit, images * 2, LABELS, GRID, RANDOM, names=NAMES, repeats=2)
    assert (again["mask"] == rows["mask"]).all()
    other = occlude(vit, images, LABELS, GRID, RANDOM, names=NAMES, repeats=2, seed=1)
    assert (other["mask"] == rows["mask"]).mean() < 0.2  # whole images are the same
    assert cells.xs(0.5, level="fraction").nunique() == 12
    moved = torch.arange(16).roll(1).reshape(4, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)
    for players in (PatchGrid(2, 2), PatchGrid(2, 8), PlayerMap(moved)):
        others = occlude(vit, images, LABELS, players, RANDOM, names=NAMES, repeats=2)
        assert not set(others["mask"]) & set(rows["mask"])


def test_left_out_tokens(vit, images):
    """The same numbers as a game that leaves tokens out, image by image."""
    rows = occlude(vit, images, LABELS, PatchGrid(2, 2), RANDOM, names=NAMES, fill=None, repeats=2)
    for k in range(6):
        game = TokenDropGame(
            vit,
            images[k],
            0,
            PatchGrid(2, 2),
            reward=lambda logits, _: logits.double().softmax(1),
        )
        mine = rows[rows["image"] == NAMES[k]]
        visible = [
            RANDOM(Scene(game.players, (NAMES[k],), 0, r), (f,))[0, 0]
            for f, r in zip(mine["fraction"], mine["repeat"], strict=True)
        ]
        p = game(torch.stack(visible))[:, LABELS[k]]
        np.testing.assert_allclose(mine["p_true"], p, rtol=1e-10)
    np.testing.assert_allclose(rows["hidden"][::2], np.tile([0, 0, 1, 1, 2, 2, 2, 3, 3, 4], 6) / 4)
    pooled = create_model("vit_tiny_patch16_224", img_size=32, depth=1, global_pool="avg").eval()
    images = images.float()
    kept = occlude(pooled, images, LABELS, PatchGrid(2, 2), RANDOM, fractions=(0.5,), fill=None)
    assert len(kept) == 6
    for bad, players, message in (
        (create_model("test_resnet").eval(), GRID, "a timm VisionTransformer, .* got ResNet"),
        (pooled, GRID, "made of whole patches, a grid that divides 2 x 2"),
        (pooled, PatchGrid(2, 2), "a visible patch in every mask for global_pool='avg'"),
    ):
        with pytest.raises(ValueError, match=message):
            occlude(bad, images, LABELS, players, RANDOM, fractions=(0, 1.0), fill=None)


def test_superpixels_of_each_image(vit, images):
    generator = torch.Generator().manual_seed(0)
    maps = {name: PlayerMap(torch.randint(9, (32, 32), generator=generator)) for name in NAMES}
    rows = occlude(vit, images, LABELS, maps, RANDOM, names=NAMES, repeats=2, batch_size=7)
    for k, name in enumerate(NAMES):
        one = occlude(vit, images[[k]], LABELS[[k]], maps[name], RANDOM, names=[name], repeats=2)
        same(rows[rows["image"] == name].reset_index(drop=True), one)
    assert not np.allclose(rows["hidden"], rows["fraction"])  # pixels, not players
    with pytest.raises(ValueError, match="image a: expected a map of its players, got none among"):
        occlude(vit, images, LABELS, {}, RANDOM, names=NAMES)
    maps["f"] = PlayerMap(torch.arange(32 * 32).reshape(32, 32))
    with pytest.raises(ValueError, match=r"one number of players, got \[9, 1024\]"):
        occlude(vit, images, LABELS, maps, RANDOM, names=NAMES)


def test_saliency_and_presets(vit, images):
    saliency = torch.zeros(6, 16)
    saliency[:, 5] = 1
    rows = occlude(
        vit,
        images,
        LABELS,
        GRID,
        OCCLUDERS["salient_mass"],
        fractions=(0.5,),
        saliency_IN=saliency,
    )
    assert (rows["hidden"] == 1 / 16).all()  # the mass of half is one patch
    preset = PRESETS["ipvit_offset"]
    big = torch.zeros(2, 3, 224, 224)
    rows = occlude(
        lambda images: images.mean(dim=(2, 3)),
        big,
        LABELS[:2],
        preset.players,
        preset.occluder,
        fractions=preset.fractions,
        fill=preset.fill((0.5,) * 3, (0.5,) * 3),
    )
    hidden = rows["hidden"].to_numpy().reshape(2, 10)
    np.testing.assert_array_equal(hidden[0], hidden[1])  # one batch, one mask
    assert (hidden[0, 1:] < np.array([19, 39, 58, 78, 98, 117, 137, 156, 176]) / 196).all()


def test_an_encoder_with_a_probe(images):
    encoder = create_model("test_resnet", num_classes=0).eval().double()
    D = encoder.num_features
    weight, bias = torch.randn(7, D).double(), torch.randn(7).double()
    mean, std = torch.randn(D).double(), torch.rand(D).double() + 0.5
    model = WithProbe(encoder, weight, bias, mean, std)
    assert not model.training
    with torch.inference_mode():
        expected = ((encoder(images) - mean) / std) @ weight.T + bias
        torch.testing.assert_close(model(images), expected)
        plain = WithProbe(encoder, weight, bias)(images)
        torch.testing.assert_close(plain, encoder(images) @ weight.T + bias)
        with pytest.raises(ValueError, match=r"features \(B, 5\) of the encoder, got \(6, "):
            WithProbe(encoder, weight[:, :5], bias)(images)
    assert len(occlude(model, images, LABELS, GRID, RANDOM)) == 60
    with pytest.raises(ValueError, match=r"expected bias \(7,\)"):
        WithProbe(encoder, weight, bias[:6])


def test_variants(vit, images):
    def lesioned(batch, names, repeat):
        with lesion(vit, "blocks.1", 0.5, images=names, repeat=repeat):
            return vit(batch)

    def shuffled(batch, names, repeat):
        return vit(patch_shuffle(batch, GRID, names, repeat=repeat))

    variants = [
        Variant("nothing", 0.0, lambda batch, names, repeat: vit(batch)),
        Variant("lesion", 0.5, lesioned),
        Variant("shuffle", 16, shuffled),
    ]
    kwargs = {"names": NAMES, "repeats": 2}
    rows = variant_effects(vit, images, LABELS, variants, **kwargs)
    same(rows, variant_effects(vit, images, LABELS, variants, batch_size=4, **kwargs))
    assert rows["mask"][:6].tolist() == [f"{v.name} {r}" for v in variants for r in range(2)]
    assert rows["hidden"][:6].tolist() == [0, 0, 0.5, 0.5, 16, 16]
    np.testing.assert_allclose(rows["kl"][rows["fraction"] == 0], 0, atol=1e-12)
    with torch.inference_mode():
        p = shuffled(images, NAMES, 1).softmax(dim=1).gather(1, LABELS[:, None])[:, 0]
    np.testing.assert_allclose(rows["p_true"][5::6], p, rtol=1e-10)
    with pytest.raises(ValueError, match=r"distinct ascending places, got \[0.0, 0.0\]"):
        variant_effects(vit, images, LABELS, variants[:1] * 2)


def test_bad_input(vit, images):
    def fails(message, model=vit, images=images, labels=LABELS, **kwargs):
        with pytest.raises(ValueError, match=message):
            occlude(model, images, labels, GRID, RANDOM, **kwargs)

    fails("eval mode", nn.Linear(1, 1))
    fails("at least one image", images=images[:0], labels=LABELS[:0])
    fails("expected 6 labels, got 5", labels=LABELS[:5])
    fails(r"6 distinct image names, .* got 1 of 6", names=["a"] * 6)
    fails("at least 1 for repeats, got 0", repeats=0)
    fails("at least 1 for batch_size, got 0", batch_size=0)
    fails("got 'float8'", precision="float8")
    fails("distinct ascending fractions", fractions=(0.5, 0.1))
    fails("distinct ascending fractions", fractions=(0.5, 0.5))
    fails("image 2: expected a class from 0 to 6, got 7", labels=torch.tensor([0, 1, 7, 2, 3, 4]))
    fails(r"gives logits \(B, C\), got \(6, 3, 1, 1\)", lambda x: x.mean((2, 3), keepdim=True))
    fails("image 4: the model gave outputs that are not finite", images=_broken(images))
    # What is infinite only for the whole image is found as well.
    peak = images[4, 0, 0, 0].item()

    def infinite(x):
        at_peak = (x[:, 0, 0, 0] == peak)[:, None]
        return torch.where(at_peak, torch.inf, x.mean(dim=(2, 3)).repeat(1, 2))

    hiding = tuple(f for f in (0.9,))
    fails("image 4: the model gave outputs that are not finite", infinite, fractions=hiding)


def _broken(images):
    images = images.clone()
    images[4] = torch.nan
    return images
