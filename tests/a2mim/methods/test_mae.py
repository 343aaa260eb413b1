"""MAE against loops, hand-computed values and a transformer run image by image."""

from itertools import pairwise
from math import cos, sin

import pytest
import torch
from timm import create_model

from a2mim.checkpoints.save import load_backbone, save_backbone
from a2mim.methods.mae import (
    MaskedAutoencoder,
    patchify,
    pixel_statistics,
    unpatchify,
    visible_places,
)
from a2mim.methods.masking import random_squares
from interactions.patches import PatchGrid

SIZE = 64  # 4 x 4 patches of 16 px
VITS = {
    "class token": {},
    "class token and registers": {"reg_tokens": 2},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "registers without position, dynamic size": {
        "class_token": False,
        "global_pool": "",
        "reg_tokens": 3,
        "no_embed_class": True,
        "dynamic_img_size": True,
    },
    "norm before the blocks": {"pre_norm": True},
}


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def make_backbone(img_size=SIZE, **kwargs):
    options = {"num_classes": 0, "depth": 2, "dynamic_img_size": False} | kwargs
    return create_model("test_vit", img_size=img_size, **options)


def make_model(ratio=0.75, norm_pix=True, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = make_backbone(**kwargs)
        for token in (backbone.cls_token, backbone.reg_token):
            if token is not None:  # timm starts them near 0, where mistakes hide
                torch.nn.init.normal_(token)
        return MaskedAutoencoder(
            backbone, ratio, decoder_width=32, decoder_depth=1, decoder_heads=2, norm_pix=norm_pix
        )


def batch(model, count=3):
    images = torch.randn(count, 3, SIZE, SIZE, generator=generator())
    return images, model.draw(torch.arange(count), 1)


def other_hidden_pixels(model, images, visible):
    return torch.where(model.grid.pixels(visible, SIZE, SIZE), images, 5 - 2 * images)


@pytest.mark.parametrize(
    ("ratio", "kept"), [(0.1, 176), (0.25, 147), (0.5, 98), (0.6, 78), (0.75, 49), (0.9, 19)]
)
def test_published_counts(ratio, kept):
    """int(196 (1 - ratio)) of the official code at 224 px."""
    model = MaskedAutoencoder(
        make_backbone(224, depth=1), ratio, decoder_width=8, decoder_depth=1, decoder_heads=1
    )
    assert model.kept == kept


def test_whole_numbers_are_not_rounded_down():
    assert int(100 * (1 - 0.9)) == 9  # why the official formula is not taken literally
    assert make_model(0.9, img_size=160).kept == 10


def test_masks_are_random_squares():
    numbers = torch.tensor([5, 0, 2**40, 5])
    assert torch.equal(make_model().draw(numbers, 3), random_squares(numbers, 16, 4, 3))


def test_patchify_by_loops_and_back():
    images = torch.randn(2, 3, 4, 9, generator=generator())
    grid, p, q = PatchGrid(2, 3), 2, 3
    patches = patchify(images, grid)
    assert patches.shape == (2, 6, 18)
    for k in range(6):
        top, left = p * (k // 3), q * (k % 3)
        for r in range(p):
            for s in range(q):
                for c in range(3):
                    number = patches[:, k, (r * q + s) * 3 + c]
                    assert torch.equal(number, images[:, c, top + r, left + s])
    assert torch.equal(unpatchify(patches, grid, 4, 9), images)


def transparent(block):
    """Every token plus the mean of all: no norms, even attention to the tokens themselves."""
    block.norm1 = block.attn.norm = torch.nn.Identity()
    width = block.attn.qkv.in_features
    zero, one = torch.zeros(width, width), torch.eye(width)
    block.attn.qkv.weight.copy_(torch.cat([zero, zero, one]))
    block.attn.proj.weight.copy_(one)
    for bias in (block.attn.qkv.bias, block.attn.proj.bias):
        bias.zero_()
    for parameter in block.mlp.fc2.parameters():
        parameter.zero_()


@pytest.mark.parametrize("norm_pix", [True, False])
def test_the_whole_model_by_hand(norm_pix):
    """Four patches a, b, c, d of 2 x 2 px, a and d visible; networks whose arithmetic is short.

    Encoder: z_a = a + (a + d) / 2, z_d likewise, so z_a + z_d = 2 (a + d). Decoder with the mask
    token q at b and c: the mean of its tokens is m = (2 (a + d) + 2 q) / 4, y_b = y_c = q + m.
    """
    vit = create_model(
        "test_vit",
        img_size=4,
        patch_size=2,
        in_chans=1,
        embed_dim=4,
        depth=1,
        num_heads=1,
        class_token=False,
        global_pool="",
        num_classes=0,
    )
    model = MaskedAutoencoder(
        vit, 0.5, decoder_width=4, decoder_depth=1, decoder_heads=1, norm_pix=norm_pix
    ).eval()
    decoder = model.decoder
    with torch.no_grad():
        transparent(vit.blocks[0])
        transparent(decoder.blocks[0])
        vit.norm = vit.fc_norm = decoder.norm = torch.nn.Identity()
        vit.patch_embed.proj.weight.copy_(torch.eye(4).reshape(4, 1, 2, 2))
        decoder.embed.weight.copy_(torch.eye(4))
        decoder.predict.weight.copy_(torch.eye(4))
        vit.patch_embed.proj.bias.zero_()
        vit.pos_embed.zero_()
        decoder.positions.zero_()
        decoder.mask_token.copy_(torch.tensor([2.0, 0.0, -2.0, 4.0]))
        # a = (1, 2, 3, 4), b = (0, 0, 0, 8), c = (4, 4, 4, 4), d = (-1, 0, 1, 2)
        rows = [[1, 2, 0, 0], [3, 4, 0, 8], [4, 4, -1, 0], [4, 4, 1, 2]]
        images = torch.tensor([[rows]]).float()
        out = model(images, torch.tensor([[True, False, False, True]]))
    # a + d = (0, 2, 4, 6), m = (0 + 2, 2 + 0, 4 - 2, 6 + 4) / 2 = (1, 1, 1, 5), y = (3, 1, -1, 9)
    if norm_pix:
        # b: mean 2, variance (4 + 4 + 4 + 36) / 3 = 16, so t = (-0.5, -0.5, -0.5, 1.5);
        # c: t = 0; squares of y - t: 12.25 + 2.25 + 0.25 + 56.25 = 71 and 9 + 1 + 1 + 81 = 92
        assert out["loss"].item() == pytest.approx((71 / 4 + 92 / 4) / 2, rel=1e-6)
        shown = [4 * 3 + 2, 4 * 1 + 2, 4 * -1 + 2, 4 * 9 + 2]
    else:
        # (3, 1, -1, 9) - b: 9 + 1 + 1 + 1 = 12; minus c: 1 + 9 + 25 + 25 = 60
        assert out["loss"].item() == pytest.approx((12 / 4 + 60 / 4) / 2, rel=1e-6)
        shown = [3, 1, -1, 9]
    assert out["output"][0, 0, :2, 2:].flatten().tolist() == pytest.approx(shown, rel=1e-5)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_the_loss_by_loops(norm_pix):
    model = make_model(norm_pix=norm_pix).double().eval()
    images, visible = batch(model, 2)
    images = images.double()
    predictions = []
    model.decoder.register_forward_hook(lambda _m, _i, output: predictions.append(output))
    with torch.inference_mode():
        out = model(images, visible)
    errors = []
    for b in range(2):
        for k in range(16):
            if visible[b, k]:
                continue
            top, left = 16 * (k // 4), 16 * (k % 4)
            patch = images[b, :, top : top + 16, left : left + 16]
            shown = out["output"][b, :, top : top + 16, left : left + 16]
            # rows, columns, colours, as the official patchify orders them
            numbers = [
                patch[c, r, s].item() for r in range(16) for s in range(16) for c in range(3)
            ]
            mean, deviation = 0.0, 1.0
            if norm_pix:
                mean = sum(numbers) / 768
                deviation = (sum((x - mean) ** 2 for x in numbers) / 767 + 1e-6) ** 0.5
            got = predictions[0][b, k].tolist()
            errors.append(
                sum((y - (x - mean) / deviation) ** 2 for x, y in zip(numbers, got, strict=True))
                / 768
            )
            # the picture: number (r q + s) C + c goes to row r, column s, colour c
            for r, s, c in ((0, 0, 0), (3, 7, 1), (15, 15, 2)):
                expected = got[(r * 16 + s) * 3 + c] * deviation + mean
                assert shown[c, r, s].item() == pytest.approx(expected, abs=1e-12)
    assert len(errors) == 24
    assert out["loss"].item() == pytest.approx(sum(errors) / 24, rel=1e-12)


def test_a_perfect_prediction_is_the_image():
    model = make_model().eval()
    images, visible = batch(model)
    patches = patchify(images, model.grid)
    mean, deviation = pixel_statistics(patches)
    model.decoder.register_forward_hook(lambda *_: (patches - mean) / deviation)
    out = model(images, visible)
    assert out["loss"].item() == 0
    torch.testing.assert_close(out["output"], images, atol=1e-5, rtol=1e-5)


def test_the_gradient_comes_from_hidden_patches_alone():
    model = make_model()
    images, visible = batch(model)
    kept = []

    def keep(_module, _inputs, output):
        output.retain_grad()
        kept.append(output)

    model.decoder.register_forward_hook(keep)
    model(images, visible)["loss"].backward()
    (predicted,) = kept
    assert (predicted.grad[visible] == 0).all()
    assert (predicted.grad[~visible].abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("options", VITS.values(), ids=VITS)
def test_only_visible_tokens_enter_the_encoder(options):
    model = make_model(**options)
    images, visible = batch(model)
    lengths = []
    for block in model.backbone.blocks:
        block.register_forward_pre_hook(lambda _m, inputs: lengths.append(inputs[0].shape[1]))
    out = model(images, visible)
    assert lengths == [model.backbone.num_prefix_tokens + 4] * 2
    assert out["output"].shape == images.shape
    out["loss"].backward()
    assert model.decoder.mask_token.grad.abs().sum() > 0
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("options", VITS.values(), ids=VITS)
def test_the_encoder_image_by_image(options):
    """The steps of the ViT written out, with boolean indexing of one image's tokens."""
    model = make_model(**options).eval()
    vit = model.backbone
    images, visible = batch(model)
    prefix = [t for t in (vit.cls_token, vit.reg_token) if t is not None]
    with torch.inference_mode():
        got = model.encode(images, visible)
        for k in range(len(images)):
            patches = vit.patch_embed.proj(images[k : k + 1]).flatten(2).transpose(1, 2)
            if vit.no_embed_class:
                tokens = torch.cat([*prefix, patches + vit.pos_embed], dim=1)
            else:
                tokens = torch.cat([*prefix, patches], dim=1) + vit.pos_embed
            stay = torch.cat([torch.ones(vit.num_prefix_tokens, dtype=torch.bool), visible[k]])
            tokens = vit.norm_pre(tokens[:, stay])
            for block in vit.blocks:
                tokens = block(tokens)
            # one of the two is an identity: a ViT that averages keeps its last norm in the head
            tokens = vit.fc_norm(vit.norm(tokens))
            torch.testing.assert_close(got[k : k + 1], tokens, atol=1e-5, rtol=1e-5)


def test_with_everything_visible_the_encoder_is_the_backbone():
    model = make_model().eval()
    images, _ = batch(model)
    with torch.inference_mode():
        whole = model.encode(images, torch.ones(3, 16, dtype=torch.bool))
        assert torch.equal(whole, model.backbone.forward_features(images))


@pytest.mark.parametrize("options", VITS.values(), ids=VITS)
def test_hidden_pixels_change_the_target_only(options):
    model = make_model(norm_pix=False, **options).eval()
    images, visible = batch(model)
    other = other_hidden_pixels(model, images, visible)
    with torch.inference_mode():
        assert torch.equal(model.encode(images, visible), model.encode(other, visible))
        one, two = model(images, visible), model(other, visible)
    assert torch.equal(one["output"], two["output"])
    assert not torch.equal(one["loss"], two["loss"])


def test_the_prediction_is_normalised_back_with_the_target():
    """With norm_pix, hidden patches get the target's mean; what was predicted is the same."""
    model = make_model().eval()
    images, visible = batch(model)
    hidden = ~model.grid.pixels(visible, SIZE, SIZE)
    with torch.inference_mode():
        one = model(images, visible)
        two = model(torch.where(hidden, 3 * images + 2, images), visible)
    expected = torch.where(hidden, 3 * one["output"] + 2, one["output"])
    # the variance's 1e-6 does not scale along
    torch.testing.assert_close(two["output"], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(two["loss"], one["loss"], atol=1e-4, rtol=1e-4)


def test_images_do_not_see_each_other():
    model = make_model().eval()
    images, visible = batch(model)
    with torch.inference_mode():
        together = model(images, visible)
        alone = [model(images[k : k + 1], visible[k : k + 1]) for k in range(3)]
    outputs = torch.cat([a["output"] for a in alone])
    torch.testing.assert_close(together["output"], outputs, atol=1e-5, rtol=1e-5)
    losses = torch.stack([a["loss"] for a in alone])
    torch.testing.assert_close(together["loss"], losses.mean())


def test_visible_tokens_return_to_their_places():
    """Without blocks the decoder is local: each patch is predicted from its own token."""
    model = make_model().eval()
    decoder = model.decoder
    decoder.blocks = torch.nn.Sequential()
    images, visible = batch(model)
    with torch.inference_mode():
        tokens = model.encode(images, visible)
        got = decoder(tokens, visible_places(visible, 16))
        for b in range(3):
            seen = iter(tokens[b, 1:])  # after the class token
            for k in range(16):
                own = decoder.embed(next(seen)) if visible[b, k] else decoder.mask_token[0, 0]
                expected = decoder.predict(decoder.norm(own + decoder.positions[k]))
                torch.testing.assert_close(got[b, k], expected, atol=1e-5, rtol=1e-5)


def test_places_are_in_reading_order():
    visible = torch.rand(50, 196, generator=generator()).argsort(dim=1) < 49
    expected = visible.nonzero()[:, 1].reshape(50, 49)  # row by row, ascending
    assert torch.equal(visible_places(visible, 196), expected)


def test_positions_of_the_decoder():
    """Sines and cosines of 10000^(-k / 8) times row and column, each a quarter of 32 channels."""
    decoder = make_model().decoder
    for n in range(16):
        row, column = divmod(n, 4)
        waves = [10000 ** (-k / 8) for k in range(8)]
        expected = [f(x * w) for f in (sin, cos) for x in (row, column) for w in waves]
        torch.testing.assert_close(decoder.positions[n], torch.tensor(expected))
    assert "positions" not in decoder.state_dict()  # nothing to learn, nothing to save


def test_a_wide_image():
    backbone = make_backbone((32, 64))
    model = MaskedAutoencoder(backbone, decoder_width=32, decoder_depth=1, decoder_heads=2)
    assert model.grid == PatchGrid(2, 4)
    images = torch.randn(2, 3, 32, 64, generator=generator())
    assert model(images, model.draw(torch.arange(2), 1))["output"].shape == images.shape


def test_five_training_steps_lower_the_loss():
    model = make_model()
    images, visible = batch(model, 8)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = model(images, visible)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(b < a for a, b in pairwise(losses))


def test_the_backbone_stays_a_plain_timm_model(tmp_path):
    model = make_model(reg_tokens=2).eval()
    images, visible = batch(model)
    model(images, visible)["loss"].backward()
    save_backbone(model.backbone, tmp_path / "vit.safetensors")
    fresh = make_backbone(reg_tokens=2).eval()
    load_backbone(fresh, tmp_path / "vit.safetensors")
    with torch.inference_mode():
        assert torch.equal(fresh(images), model.backbone(images))


def test_the_backbone_is_whole_again_after_an_error():
    model = make_model().eval()
    images, visible = batch(model)
    failing = model.backbone.blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(images, visible)
    failing.remove()
    assert model.backbone.forward_features(images).shape == (3, 17, 64)


def test_bfloat16_autocast():
    model = make_model()
    images, visible = batch(model)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images, visible)
    assert out["loss"].dtype == torch.float32
    out["loss"].backward()
    assert out["loss"].item() == pytest.approx(model(images, visible)["loss"].item(), rel=0.02)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_other_families_are_refused(name):
    with pytest.raises(TypeError, match=r"timm VisionTransformer, got .*use MaskedImageModel"):
        MaskedAutoencoder(create_model(name, num_classes=0))


def test_a_convolutional_stem_is_refused():
    """It would carry hidden pixels into visible tokens."""
    backbone = make_backbone()
    backbone.patch_embed = torch.nn.Conv2d(3, 64, 16, 16)
    with pytest.raises(TypeError, match=r"one by one .* got Conv2d"):
        MaskedAutoencoder(backbone)


@pytest.mark.parametrize(
    ("backbone", "kwargs", "message"),
    [
        ({"img_size": 40}, {}, "that 16 x 16 px patches fill, got 40 x 40"),
        ({"patch_drop_rate": 0.5}, {}, "create it with patch_drop_rate=0"),
        ({}, {"ratio": 0.95}, "keeps one of 16 patches .* got 0.95"),
        ({}, {"ratio": 0.0}, "between 0 and 1"),
        ({}, {"ratio": 1e-12}, "hides one, got 1e-12"),
        ({}, {"ratio": 1.5}, "between 0 and 1"),
        ({}, {"decoder_width": 30, "decoder_heads": 2}, "multiple of 4 .* got 30"),
        ({}, {"decoder_width": 32, "decoder_heads": 3}, "of its 3 heads, got 32"),
    ],
)
def test_what_does_not_fit_is_refused(backbone, kwargs, message):
    with pytest.raises(ValueError, match=message):
        MaskedAutoencoder(make_backbone(**backbone), **kwargs)


def test_bad_inputs():
    model = make_model()
    images, visible = batch(model)
    with pytest.raises(ValueError, match=r"images \(3, 3, 64, 64\).* got \(3, 3, 32, 32\)"):
        model(images[:, :, :32, :32], visible)
    with pytest.raises(ValueError, match="one for each row of visible"):
        model(images, visible[:2])
    with pytest.raises(TypeError, match="visible as bool"):
        model(images, visible.float())
    with pytest.raises(ValueError, match=r"shape \(B, 16\)"):
        model(images, visible[:, :9])
    for wrong, count in ((torch.ones_like(visible), 16), (torch.zeros_like(visible), 0)):
        with pytest.raises(ValueError, match=rf"expected 4 visible .* got \[{count}\]"):
            model(images, wrong)
    with pytest.raises(ValueError, match=r"expected 1 visible .* got \[0\]"):
        model.encode(images, torch.zeros_like(visible))
    uneven = visible.clone()
    uneven[0] = True
    with pytest.raises(ValueError, match=r"expected 4 visible .* got \[4, 16\]"):
        model(images, uneven)
    with pytest.raises(ValueError, match=r"got \[4, 16\]"):
        model.encode(images, uneven)


@pytest.mark.integration
@pytest.mark.parametrize("options", [VITS["class token and registers"], VITS["no class token"]])
def test_it_compiles_into_one_graph(options, one_graph):
    model = make_model(**options)
    images, visible = batch(model, 4)
    one_graph(model, (images, visible), (images, visible.roll(1, 0)), (images[:2], visible[1:3]))


@pytest.mark.integration
def test_compiled_it_refuses_masks_of_another_count():
    model = make_model()
    images, visible = batch(model)
    visible[0, 0] = ~visible[0, 0]
    with pytest.raises(RuntimeError, match="expected 4 visible patches"):
        torch.compile(model, backend="eager", fullgraph=True)(images, visible)


def test_a_backbone_that_encodes_all_patches_is_found_out():
    """Hidden patches would be seen."""
    model = make_model()
    model.backbone.patch_drop.forward = lambda tokens: tokens
    with pytest.raises(RuntimeError, match="expected 5 tokens of visible patches, got 17"):
        model(*batch(model))
