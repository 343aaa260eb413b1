import re
from functools import cache
from itertools import pairwise

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from a2mim.backbones.moganet import VARIANTS, MogaBlock, MogaNet

TINY = {"embed_dims": (8, 8, 16, 16), "depths": (1, 2, 1, 1), "mlp_ratios": (2, 2, 1, 1)}
RATIOS = (8, 8, 4, 4)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lively(module, seed=0):
    """Scales, biases and statistics that start at (nearly) nothing get values that can be seen."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point() and max(tensor.shape) == tensor.numel():
            tensor.uniform_(0.2, 1.0, generator=generator)
    return module.double().eval()


def long(*values):
    return pytest.param(*values, marks=pytest.mark.integration)


@cache
def on_meta(name, **options):
    with torch.device("meta"):
        return timm.create_model(name, **options).eval()


def parameters_by_hand(channels, depths, classes=1000):
    """Sums of kernels and biases, layer by layer."""
    first = channels[0]
    total = (3 * 9 + 1 + 2) * first // 2 + (first // 2 * 9 + 1 + 2) * first
    for before, C in pairwise(channels):
        total += (before * 9 + 1 + 2) * C
    for C, depth, ratio in zip(channels, depths, RATIOS, strict=True):
        pointwise = 4 * (C + 1) * C  # proj_1, gate, PW_conv, proj_2
        depthwise = (25 + 1) * C + (25 + 1) * (3 * C // 8) + (49 + 1) * (C // 2)
        H = ratio * C
        mlp = (C + 1) * H + (9 + 1) * H + (H + 1) * C + (H + 1) + H  # H of them: sigma
        norms_and_scales = 2 * 2 * C + 2 * C + C  # sigma of the gates
        total += depth * (pointwise + depthwise + mlp + norms_and_scales) + 2 * C
    return total + (channels[-1] + 1) * classes


@pytest.mark.parametrize("name", [*list(VARIANTS)[:3], *map(long, list(VARIANTS)[3:])])
def test_parameters_by_hand(name):
    model = on_meta(name)
    assert sum(p.numel() for p in model.parameters()) == parameters_by_hand(*VARIANTS[name])


@pytest.mark.parametrize(
    ("name", "millions", "digits"),
    [  # arXiv:2211.03295 and the README of Westlake-AI/MogaNet
        ("moganet_xtiny", 3.0, 1),
        ("moganet_tiny", 5.20, 2),
        ("moganet_small", 25.3, 1),
        long("moganet_large", 82.5, 1),
        long("moganet_xlarge", 181, 0),
    ],
)
def test_published_parameters(name, millions, digits):
    count = sum(p.numel() for p in on_meta(name).parameters())
    assert round(count / 1e6, digits) == millions


@pytest.mark.integration
def test_parameters_of_base():
    """Listed with 43.9 M, which its code does not make; its pose model (47.4 M) has 18.4 M more
    than that of MogaNet-S (29.0 M), which it does: the same head stands on 512 channels in both.
    """
    counts = [
        sum(p.numel() for p in on_meta(f"moganet_{size}", num_classes=0).parameters())
        for size in ("base", "small")
    ]
    assert (counts[0] - counts[1]) / 1e6 == pytest.approx(47.4 - 29.0, abs=0.05)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "published", "digits"),
    [
        ("moganet_xtiny", 0.80, 2),
        ("moganet_tiny", 1.10, 2),
        ("moganet_small", 4.97, 2),
        ("moganet_base", 9.93, 2),
        ("moganet_large", 15.9, 1),
    ],
)
def test_published_multiplications(name, published, digits):
    """The published numbers count one operation per bias and two per normalised number."""
    model = on_meta(name)
    extra = []
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda _, _i, out: extra.append(out.numel()))
        elif isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _, _i, out: extra.append(2 * out.numel()))
    with FlopCounterMode(display=False) as counter:
        assert model(torch.zeros(1, 3, 224, 224, device="meta")).shape == (1, 1000)
    assert round((counter.get_total_flops() / 2 + sum(extra)) / 1e9, digits) == published


def with_ends(names, ends=("weight", "bias")):
    return {f"{name}.{end}" for name in names for end in ends}


def test_names_of_a_block():
    """Section 7.3 of our notes on the official code."""
    attention = ("proj_1", "gate", "proj_2", "value.PW_conv")
    contexts = ("value.DW_conv0", "value.DW_conv1", "value.DW_conv2")
    expected = {"layer_scale_1", "layer_scale_2", "attn.sigma.scale", "mlp.sigma.scale"}
    expected |= with_ends(f"attn.{name}" for name in (*attention, *contexts))
    expected |= with_ends(f"mlp.{name}" for name in ("fc1", "dwconv", "decompose", "fc2"))
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected |= with_ends(("norm1", "norm2"), norm)
    state = MogaBlock(16).state_dict()
    assert set(state) == expected
    assert state["layer_scale_1"].shape == state["attn.sigma.scale"].shape == (1, 16, 1, 1)
    assert state["mlp.sigma.scale"].shape == (1, 64, 1, 1)
    assert state["mlp.decompose.weight"].shape == (1, 64, 1, 1)
    assert state["attn.value.DW_conv1.weight"].shape == (6, 1, 5, 5)
    assert state["attn.value.DW_conv2.weight"].shape == (8, 1, 7, 7)


def test_names_outside_blocks():
    names = {key for key in MogaNet(**TINY).state_dict() if not key.startswith("blocks")}
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = with_ends(["head", "patch_embed1.projection.0", "patch_embed1.projection.3"])
    expected |= with_ends(["patch_embed1.projection.1", "patch_embed1.projection.4"], norm)
    expected |= with_ends(f"patch_embed{k}.projection" for k in (2, 3, 4))
    expected |= with_ends((f"patch_embed{k}.norm" for k in (2, 3, 4)), norm)
    expected |= with_ends((f"norm{k}" for k in (1, 2, 3, 4)), norm)
    assert names == expected
    blocks = {".".join(key.split(".")[:2]) for key in MogaNet(**TINY).state_dict()}
    wanted = {"blocks1.0", "blocks2.0", "blocks2.1", "blocks3.0", "blocks4.0"}
    assert {name for name in blocks if name.startswith("blocks")} == wanted


def depthwise_by_loops(x, convolution, dilation):
    weight, bias = convolution.weight, convolution.bias
    K = weight.shape[-1]
    out = torch.zeros_like(x)
    _, C, h, w = x.shape
    for c in range(C):
        for i in range(h):
            for j in range(w):
                total = bias[c]
                for a in range(K):
                    for b in range(K):
                        row, col = i + dilation * (a - K // 2), j + dilation * (b - K // 2)
                        if 0 <= row < h and 0 <= col < w:
                            total = total + weight[c, 0, a, b] * x[0, c, row, col]
                out[0, c, i, j] = total
    return out


@torch.no_grad()
def test_contexts_by_loops():
    value = lively(MogaBlock(8)).attn.value
    u = draw(1, 8, 6, 7).double()
    d = depthwise_by_loops(u, value.DW_conv0, 1)
    parts = [
        d[:, :1],  # 1/8, 3/8 and 4/8 of the channels
        depthwise_by_loops(d[:, 1:4], value.DW_conv1, 2),
        depthwise_by_loops(d[:, 4:], value.DW_conv2, 3),
    ]
    mixed = torch.einsum("oi,bihw->bohw", value.PW_conv.weight[:, :, 0, 0], torch.cat(parts, 1))
    torch.testing.assert_close(value(u), mixed + value.PW_conv.bias[:, None, None])


def test_width_of_the_contexts():
    """One cell reaches 5, 5 + 8 and 5 + 18 cells in a row."""
    value = lively(MogaBlock(8)).attn.value
    x = torch.zeros(1, 8, 31, 31, dtype=torch.float64, requires_grad=True)
    d = value.DW_conv0(x)
    parts = (d[:, :1], value.DW_conv1(d[:, 1:4]), value.DW_conv2(d[:, 4:]))
    for maps, channel, width in zip(parts, (0, 1, 4), (5, 13, 23), strict=True):
        (gradient,) = torch.autograd.grad(maps[0, 0, 15, 15], x, retain_graph=True)
        reached = gradient[0, channel, 15].nonzero()[:, 0]
        assert reached.max() - reached.min() + 1 == width


def pointwise(x, convolution):
    return F.conv2d(x, convolution.weight, convolution.bias)


def silu(x):
    return x * torch.sigmoid(x)


def gelu(x):
    return x * (1 + torch.erf(x / 2**0.5)) / 2


@pytest.mark.parametrize("twice", [False, True])
@torch.no_grad()
def test_a_block_written_out(twice):
    block = lively(MogaBlock(8, mlp_ratio=2, attn_force_fp32=twice))
    x = draw(2, 8, 5, 5).double()

    def norm(z, n):
        z = (z - n.running_mean[:, None, None]) / (n.running_var[:, None, None] + 1e-5).sqrt()
        return z * n.weight[:, None, None] + n.bias[:, None, None]

    attn, mlp = block.attn, block.mlp
    z = norm(x, block.norm1)
    y = pointwise(z, attn.proj_1)
    mean = y.flatten(2).sum(2)[:, :, None, None] / 25
    u = silu(y + attn.sigma.scale * (y - mean))
    gate, value = silu(pointwise(u, attn.gate)), silu(attn.value(u))
    if twice:
        gate, value = silu(gate).float().double(), silu(value).float().double()
    after = x + block.layer_scale_1 * (z + pointwise(gate * value, attn.proj_2))
    h = norm(after, block.norm2)
    h = F.conv2d(pointwise(h, mlp.fc1), mlp.dwconv.weight, mlp.dwconv.bias, padding=1, groups=16)
    h = gelu(h)
    common = mlp.decompose.bias + (mlp.decompose.weight * h).sum(1, keepdim=True)
    h = h + mlp.sigma.scale * (h - gelu(common))
    expected = after + block.layer_scale_2 * pointwise(h, mlp.fc2)
    tolerance = {"rtol": 1e-5, "atol": 1e-4} if twice else {}  # the gates are in float32
    torch.testing.assert_close(block(x), expected, **tolerance)


@torch.no_grad()
def test_gates_in_float32():
    """Under autocast, and in a model whose weights are bfloat16 themselves."""
    blocks = [MogaBlock(8, attn_force_fp32=True).eval() for _ in range(2)]
    blocks[1].load_state_dict(blocks[0].state_dict())
    x = draw(2, 8, 5, 5)
    exact = blocks[0].attn(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = blocks[0].attn(x)
    assert under_autocast.dtype == torch.float32
    torch.testing.assert_close(under_autocast, exact, rtol=0.05, atol=0.05)
    whole = blocks[1].bfloat16().attn(x.bfloat16())
    assert whole.dtype == torch.bfloat16
    torch.testing.assert_close(whole.float(), exact, rtol=0.05, atol=0.05)


def test_stages_as_timm_gives_them():
    features = timm.create_model("moganet_xtiny", features_only=True, **TINY).eval()
    assert features.feature_info.reduction() == [4, 8, 16, 32]
    assert features.feature_info.channels() == [8, 8, 16, 16]
    images = draw(2, 3, 64, 96)
    with torch.no_grad():
        maps = features(images)
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 16, 24), (8, 8, 12), (16, 4, 6), (16, 2, 3)]
    whole = timm.create_model("moganet_xtiny", num_classes=0, **TINY).eval()
    nested = r"^((?:patch_embed|blocks)\d)_"  # timm flattens what holds a sequence
    whole.load_state_dict({re.sub(nested, r"\1.", k): v for k, v in features.state_dict().items()})
    assert torch.equal(whole.forward_features(images), maps[-1])


@torch.no_grad()
def test_classifier():
    model = timm.create_model("moganet_xtiny", num_classes=5, **TINY).eval()
    images = draw(3, 3, 64, 64)
    features = model.forward_features(images)
    assert features.shape == (3, model.num_features, 2, 2)
    pooled = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, features.mean(dim=(2, 3)))
    torch.testing.assert_close(model(images), pooled @ model.head.weight.T + model.head.bias)
    assert model.get_classifier() is model.get_submodule(model.pretrained_cfg["classifier"])
    model.double().reset_classifier(7)
    assert model(images.double()).shape == (3, 7)
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(images.double()).float(), features)


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch():
    model = lively(MogaNet(num_classes=3, **TINY))
    images = draw(3, 3, 64, 64).double()
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]))


def test_where_training_starts():
    """Deviations of He's normal by fan-out, sqrt(2 / (k k C_out / groups)); scales of 1e-5."""
    torch.manual_seed(0)
    block = timm.create_model("moganet_tiny").blocks4[0]
    for convolution, std in (
        (block.attn.proj_1, (2 / 256) ** 0.5),
        (block.attn.value.DW_conv0, (2 / 25) ** 0.5),
        (block.attn.value.DW_conv2, (2 / 49) ** 0.5),
        (block.mlp.fc1, (2 / 1024) ** 0.5),
    ):
        # The standard error of a deviation is std / sqrt(2 n); five of them.
        error = 5 * std / (2 * convolution.weight.numel()) ** 0.5
        assert convolution.weight.std().item() == pytest.approx(std, abs=error)
        assert not convolution.bias.any()
    scales = (
        block.layer_scale_1,
        block.layer_scale_2,
        block.attn.sigma.scale,
        block.mlp.sigma.scale,
    )
    for scale in scales:
        assert torch.equal(scale, torch.full_like(scale, 1e-5))
    assert (MogaBlock(8, ls_init_value=0.5).layer_scale_2 == 0.5).all()


def test_drop_path_rises_from_block_to_block():
    model = MogaNet(drop_path_rate=0.2, **TINY)
    rates = [m.drop_path.drop_prob for m in model.modules() if isinstance(m, MogaBlock)]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"4 embed_dims, depths and mlp_ratios, got \[4, 3, 4\]"):
        MogaNet(depths=(1, 1, 1))
    with pytest.raises(ValueError, match=r"multiples of 8, got \(8, 8, 12, 16\)"):
        MogaNet(embed_dims=(8, 8, 12, 16))
    with pytest.raises(RuntimeError, match="No pretrained weights exist for moganet_xtiny"):
        timm.create_model("moganet_xtiny", pretrained=True, **TINY)


def test_weights_from_a_file_by_way_of_timm(tmp_path):
    """The layout of the published files: a ``state_dict`` among other things."""
    trained = lively(MogaNet(**TINY)).float()
    path = tmp_path / "weights.pth"
    torch.save({"epoch": 300, "state_dict": trained.state_dict()}, path)
    loaded = timm.create_model("moganet_xtiny", checkpoint_path=str(path), **TINY).eval()
    images = draw(1, 3, 64, 64)
    assert torch.equal(loaded(images), trained(images))
