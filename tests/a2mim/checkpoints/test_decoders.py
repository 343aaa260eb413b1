"""Official decoders, computed from the tensors of a file without any module of ours or of timm."""

import json
from argparse import Namespace

import pytest
import torch
from timm import create_model
from torch.nn import functional as F

from a2mim.checkpoints.decoders import decoder_heads, mae_decoder, with_decoder
from a2mim.checkpoints.files import WeightsError, read_state

OPTIONS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
WIDTH, DEPTH, PATCHES, NUMBERS = 32, 2, 16, 192


def noise(*shape, seed):
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def vit():
    model = create_model("vit_base_patch16_224", num_classes=0, **OPTIONS)
    for seed, tensor in enumerate(model.state_dict().values()):
        tensor.copy_(noise(*tensor.shape, seed=seed))
    return model.eval()


def official(model):
    """The file of an official MAE around a ViT."""
    shapes = {
        "mask_token": (1, 1, WIDTH),
        "decoder_pos_embed": (1, 1 + PATCHES, WIDTH),
        "decoder_embed.weight": (WIDTH, 24),
        "decoder_embed.bias": (WIDTH,),
        "decoder_norm.weight": (WIDTH,),
        "decoder_norm.bias": (WIDTH,),
        "decoder_pred.weight": (NUMBERS, WIDTH),
        "decoder_pred.bias": (NUMBERS,),
    }
    for k in range(DEPTH):
        block = {
            **{f"norm{j}.{part}": (WIDTH,) for j in (1, 2) for part in ("weight", "bias")},
            **{"attn.qkv.weight": (3 * WIDTH, WIDTH), "attn.qkv.bias": (3 * WIDTH,)},
            **{"attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,)},
            **{"mlp.fc1.weight": (4 * WIDTH, WIDTH), "mlp.fc1.bias": (4 * WIDTH,)},
            **{"mlp.fc2.weight": (WIDTH, 4 * WIDTH), "mlp.fc2.bias": (WIDTH,)},
        }
        shapes |= {f"decoder_blocks.{k}.{name}": shape for name, shape in block.items()}
    decoder = {name: noise(*shape, seed=99 + k) for k, (name, shape) in enumerate(shapes.items())}
    decoder["decoder_pos_embed"][:, 0] = 0  # of the class token, as in all official files
    return {name: tensor.clone() for name, tensor in model.state_dict().items()} | decoder


def hugging_face(state):
    """The same decoder under the names of transformers' conversion script."""
    renamed = {}
    for name, tensor in state.items():
        if not name.startswith(("decoder_", "mask_token")):
            continue
        if ".attn.qkv." in name:
            k, part = name.split(".")[1], name.rsplit(".", 1)[1]
            where = f"decoder.decoder_layers.{k}.attention.attention"
            for one, values in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[f"{where}.{one}.{part}"] = values
            continue
        name = name.replace("decoder_blocks", "decoder_layers")
        name = name.replace("attn.proj", "attention.output.dense")
        name = name.replace("norm1", "layernorm_before").replace("norm2", "layernorm_after")
        name = name.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
        renamed[f"decoder.{name}"] = tensor
    return renamed


def blocks(x, state, prefix, depth, heads):
    for k in range(depth):
        p = {n.removeprefix(f"{prefix}.{k}."): t for n, t in state.items()}

        def of(name, y, p=p):
            return F.linear(y, p[f"{name}.weight"], p[f"{name}.bias"])

        def norm(name, y, p=p):
            return F.layer_norm(y, y.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], 1e-6)

        B, N, E = x.shape
        q, key, value = (
            of("attn.qkv", norm("norm1", x)).view(B, N, 3, heads, -1).permute(2, 0, 3, 1, 4)
        )
        weights = (q @ key.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(dim=-1)
        x = x + of("attn.proj", (weights @ value).transpose(1, 2).reshape(B, N, E))
        x = x + of("mlp.fc2", F.gelu(of("mlp.fc1", norm("norm2", x))))
    return x


def predicted(state, images, kept):
    """Numbers of all patches from those kept, one image after the other."""
    x = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=8)
    x = x.flatten(2).transpose(1, 2) + state["pos_embed"][:, 1:]
    first = state["cls_token"] + state["pos_embed"][:, :1]
    rows = []
    for tokens, places in zip(x, kept, strict=True):
        z = torch.cat([first, tokens[places][None]], dim=1)
        z = blocks(z, state, "blocks", 2, heads=2)
        z = F.layer_norm(z, (24,), state["norm.weight"], state["norm.bias"], 1e-6)
        z = F.linear(z, state["decoder_embed.weight"], state["decoder_embed.bias"])
        y = state["mask_token"].repeat(1, 1 + PATCHES, 1)
        y[0, 0], y[0, 1 + places] = z[0, 0], z[0, 1:]
        y = blocks(y + state["decoder_pos_embed"], state, "decoder_blocks", DEPTH, heads=16)
        y = F.layer_norm(
            y, (WIDTH,), state["decoder_norm.weight"], state["decoder_norm.bias"], 1e-6
        )
        rows.append(F.linear(y, state["decoder_pred.weight"], state["decoder_pred.bias"])[0, 1:])
    return torch.stack(rows)


def test_mae_and_hugging_face_predict_what_the_official_model_does():
    model = vit()
    state = official(model)
    images = noise(2, 3, 32, 32, seed=7)
    kept = torch.tensor([[0, 3, 7, 9], [1, 2, 14, 15]])
    visible = torch.zeros(2, PATCHES, dtype=torch.bool).scatter(1, kept, True)
    for file in (state, hugging_face(state)):
        method = with_decoder(file, model, image_size=32)
        assert method.kept == 4
        with torch.no_grad():
            found = method.eval().predict(images, visible)
        torch.testing.assert_close(found, predicted(state, images, kept), atol=1e-5, rtol=1e-5)


def test_simmim_has_the_token_and_the_decoder_of_the_file():
    options = {"use_abs_pos_emb": False, "use_shared_rel_pos_bias": True, "global_pool": "token"}
    model = create_model("beit_base_patch16_224", num_classes=0, **OPTIONS, **options)
    state = {
        "encoder.mask_token": noise(1, 1, 24, seed=1),
        "decoder.0.weight": noise(NUMBERS, 24, 1, 1, seed=2),
        "decoder.0.bias": noise(NUMBERS, seed=3),
    }
    method = with_decoder(state, model.eval(), image_size=32, block=16, ratio=0.5)
    images = noise(2, 3, 32, 32, seed=4)
    visible = torch.tensor([[True, False, False, True]] * 2)
    with torch.no_grad():
        output = method.eval()(images, visible)["output"]
        z = method.encode(images, visible)
        expected = F.pixel_shuffle(
            F.conv2d(z, state["decoder.0.weight"], state["decoder.0.bias"]), 8
        )
        torch.testing.assert_close(output, expected)
        # Hidden pixels do not matter, the token of the file does.
        other = images + ~method.mask.grid.pixels(visible, 32, 32)
        torch.testing.assert_close(method(other, visible)["output"], output)
        state["encoder.mask_token"] += noise(1, 1, 24, seed=5)
        changed = with_decoder(state, model, image_size=32, block=16, ratio=0.5).eval()
        assert (changed(images, visible)["output"] - output).abs().max() > 0.01


def test_what_has_no_decoder_or_not_all_of_one_is_refused():
    model = vit()
    with pytest.raises(WeightsError, match=r"w\.pth"):
        with_decoder(model.state_dict(), model, image_size=32, where="w.pth")
    state = official(model)
    del state["decoder_blocks.1.mlp.fc1.bias"]
    with pytest.raises(WeightsError, match=r"blocks.1.mlp.fc1.bias"):
        with_decoder(state, model, image_size=32)
    with pytest.raises(ValueError, match="--block 8"):
        with_decoder(official(model), model, image_size=32, block=16)
    assert len(mae_decoder(official(model))) == len(mae_decoder(hugging_face(official(model))))


@pytest.mark.parametrize(
    ("beside", "arguments", "heads"),
    [
        (None, None, None),
        (None, Namespace(decoder_num_heads=4, model="mae"), 4),
        (None, {"decoder_num_heads": 8}, 8),
        ({"decoder_num_attention_heads": 2}, None, 2),
        ([], Namespace(lr=0.1), None),
    ],
)
def test_heads_are_those_that_the_file_or_its_neighbour_tells(tmp_path, beside, arguments, heads):
    model = vit()
    state = official(model)
    args = {} if arguments is None else {"args": arguments}
    torch.save({"model": state, **args}, tmp_path / "mae.pth")
    if beside is not None:
        (tmp_path / "config.json").write_text(json.dumps(beside))
    file = read_state(tmp_path / "mae.pth")
    assert decoder_heads(file) == heads
    method = with_decoder(file.tensors, model, image_size=32, heads=decoder_heads(file))
    assert method.decoder.blocks[0].attn.num_heads == (heads or 16)
