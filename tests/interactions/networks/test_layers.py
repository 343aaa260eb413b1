import pytest
import torch
import torchvision
from timm import create_model
from torch import nn
from torch.nn import functional as F

from interactions.networks.layers import (
    OUTPUT,
    layer_features,
    layer_names,
    readouts_of,
    residual_stream,
    stream_names,
)
from interactions.patches import PatchGrid, hide

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64}
SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2)}
MODELS = {
    "vit": ("test_vit", {"img_size": 64, "init_values": 0.1}),
    "deit": ("deit_tiny_distilled_patch16_224", TINY),
    "relpos": ("vit_relpos_small_patch16_224", TINY),  # no prefix tokens
    "beit": ("beit_base_patch16_224", TINY | {"init_values": 0.1}),
    "eva": ("eva02_tiny_patch14_224", TINY | {"img_size": 56}),
    "swin": ("swin_tiny_patch4_window7_224", SWIN),
    "swinv2": ("swinv2_tiny_window8_256", SWIN),
    "resnet": ("test_resnet", {}),
    "bottleneck": ("resnet26", {"channels": (8, 8, 8, 8), "stem_width": 8}),
    "convnext": ("test_convnext", {"ls_init_value": 0.1}),
}
STREAMS = [name for name in MODELS if name != "relpos"]


def make_model(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        architecture, options = MODELS[name]
        model = create_model(architecture, num_classes=5, **options).eval()
        for parameter in model.parameters():  # no scale or position is 0 or 1 by accident
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def make_images(name, count=3):
    size = {"eva": 56, "swin": 32, "swinv2": 32, "resnet": 96, "convnext": 96}.get(name, 64)
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def seen(model, images):
    maps = {}
    with torch.inference_mode(), residual_stream(model, lambda name, x: maps.update({name: x})):
        model(images)
    return maps


@pytest.mark.parametrize("name", ["vit", "deit", "beit", "eva", "relpos"])
def test_features_of_tokens_against_hooks(name):
    model, images = make_model(name), make_images(name)
    outputs = {}
    for k, block in enumerate(model.blocks):
        block.register_forward_hook(lambda m, a, out, k=k: outputs.update({f"blocks.{k}": out}))
    model.norm.register_forward_hook(lambda m, a, out: outputs.update({"norm": out}))
    features = layer_features(model, images)
    readouts = readouts_of(model)
    assert list(features) == [
        (layer, readout)
        for layer in layer_names(model)
        for readout in (readouts if layer != "output" else ["output"])
    ]
    prefix = model.num_prefix_tokens
    for layer, tokens in outputs.items():
        mean = sum(tokens[:, k] for k in range(prefix, tokens.shape[1]))
        mean = mean / (tokens.shape[1] - prefix)
        torch.testing.assert_close(features[layer, "mean"], mean)
        torch.testing.assert_close(features[layer, "visible"], mean)
        if "class" in readouts:
            assert torch.equal(features[layer, "class"], tokens[:, 0])
    with torch.inference_mode():
        torch.testing.assert_close(
            features["output", "output"],
            model.forward_head(model.forward_features(images), pre_logits=True),
        )


@pytest.mark.parametrize("name", ["resnet", "convnext", "swin"])
def test_features_of_maps(name):
    model, images = make_model(name), make_images(name)
    features = layer_features(model, images, readouts=["mean"])
    with torch.inference_mode():
        final, maps = model.forward_intermediates(images)
        output = model.forward_head(final, pre_logits=True)
    assert layer_names(model)[-1] == "output"
    assert readouts_of(model) == ("mean",)
    for layer, x in zip(layer_names(model), maps, strict=False):
        torch.testing.assert_close(features[layer, "mean"], x.mean(dim=(2, 3)))
    torch.testing.assert_close(features["output", "output"], output)
    one = layer_features(model, images, layers=[layer_names(model)[1]])
    assert list(one) == [(layer_names(model)[1], "mean")]
    assert torch.equal(one[layer_names(model)[1], "mean"], features[layer_names(model)[1], "mean"])


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_visible_is_the_mean_of_wholly_visible_cells(name):
    model, images, grid = make_model(name).double(), make_images(name).double(), PatchGrid(4, 4)
    visible = torch.zeros(3, 16, dtype=torch.bool)
    visible[0, [0, 1, 4, 5]] = visible[1, 10:] = visible[2] = True
    layer = "blocks.1" if name == "vit" else "layer1"
    features = layer_features(
        model, images, layers=[layer], readouts=["visible"], players=grid, visible_BN=visible
    )
    with torch.inference_mode():
        _, maps = model.forward_intermediates(images)
    x = maps[layer_names(model).index(layer)]
    h, H = x.shape[2], images.shape[2]
    pixels = grid.pixels(visible, H, H)
    for b in range(3):
        cells = [
            x[b, :, i, j]
            for i in range(h)
            for j in range(h)
            if pixels[b, 0, i * H // h : (i + 1) * H // h, j * H // h : (j + 1) * H // h].all()
        ]
        torch.testing.assert_close(features[layer, "visible"][b], torch.stack(cells).mean(dim=0))


def test_cells_that_straddle_players_are_not_visible():
    """3 x 3 cells over 4 x 4 players: of 16 players only hiding the last leaves the corner."""
    model, images, grid = make_model("resnet"), make_images("resnet", 1), PatchGrid(4, 4)
    visible = torch.ones(1, 16, dtype=torch.bool)
    visible[0, 5] = False  # pixels 24 to 47: cells 0 and 1 of both axes
    features = layer_features(
        model, images, layers=["layer4"], readouts=["visible"], players=grid, visible_BN=visible
    )
    with torch.inference_mode():
        x = model.forward_intermediates(images)[1][-1][0]
    expected = torch.cat([x[:, 2], x[:, :2, 2]], dim=1).mean(dim=1)
    torch.testing.assert_close(features["layer4", "visible"][0], expected)


def test_token_drop_against_a_transformer_written_out():
    model, images, grid = make_model("vit"), make_images("vit"), PatchGrid(4, 4)
    generator = torch.Generator().manual_seed(2)
    visible = torch.stack([torch.randperm(16, generator=generator) < 6 for _ in images])
    kwargs = {"players": grid, "visible_BN": visible, "token_drop": True}
    features = layer_features(model, images, **kwargs)
    for b in range(3):
        with torch.inference_mode():
            patches = model.patch_embed(images[b : b + 1]).reshape(1, 16, -1)
            x = torch.cat([model.cls_token, patches], dim=1)
            x = (x + model.pos_embed)[:, [0] + [1 + k for k in range(16) if visible[b, k]]]
            for k, block in enumerate(model.blocks):
                x = block(x)
                for readout, expected in (("class", x[0, 0]), ("mean", x[0, 1:].mean(dim=0))):
                    got = features[f"blocks.{k}", readout][b]
                    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    hidden = hide(images, visible, grid, torch.tensor(9.0))
    for key, feature in layer_features(model, hidden, **kwargs).items():
        assert torch.equal(feature, features[key])
    torch.testing.assert_close(features["norm", "visible"], features["norm", "mean"])
    kwargs["visible_BN"] = torch.ones_like(visible)
    for key, feature in layer_features(model, images, **kwargs).items():
        assert torch.equal(feature, layer_features(model, images)[key])


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_a_single_layer_is_the_same_as_among_all(name):
    model, images = make_model(name), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        everything = layer_features(model, images)
        for layer in layer_names(model):
            for key, feature_BD in layer_features(model, images, layers=[layer]).items():
                torch.testing.assert_close(feature_BD, everything[key])


def test_a_network_that_is_not_from_timm_has_its_output():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval()
    images = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    assert layer_names(model) == ("output",)
    features = layer_features(model, images)
    assert list(features) == [("output", "output")]
    assert torch.equal(features["output", "output"], model(images))
    with pytest.raises(ValueError, match="expected features \\(B, D\\) from the network, got"):
        layer_features(nn.Identity().eval(), images)


def test_bad_input_of_features():
    model, images, grid = make_model("vit"), make_images("vit"), PatchGrid(4, 4)
    visible = torch.ones(3, 16, dtype=torch.bool)
    with pytest.raises(ValueError, match="eval mode"):
        layer_features(make_model("vit").train(), images)
    with pytest.raises(ValueError, match=r"layers of blocks\.0, .*, got \['blocks\.9'\]"):
        layer_features(model, images, layers=["blocks.9"])
    with pytest.raises(ValueError, match="readout class, mean or visible, got 'max'"):
        layer_features(model, images, readouts=["max"])
    with pytest.raises(ValueError, match="class token, got ResNet"):
        layer_features(make_model("resnet"), make_images("resnet"), readouts=["class"])
    with pytest.raises(ValueError, match="both players and visible_BN"):
        layer_features(model, images, players=grid)
    visible[1] = False
    with pytest.raises(ValueError, match=r"blocks\.0 has none in image 1"):
        layer_features(model, images, players=grid, visible_BN=visible)
    with pytest.raises(ValueError, match="at least 1, in each image of a batch, got 0 to 16"):
        layer_features(model, images, players=grid, visible_BN=visible, token_drop=True)
    with pytest.raises(ValueError, match="whole patches of PatchGrid"):
        layer_features(
            model,
            images,
            players=PatchGrid(8, 8),
            visible_BN=torch.ones(3, 64) > 0,
            token_drop=True,
        )
    with pytest.raises(ValueError, match="tokens can be dropped, got Beit"):
        layer_features(
            make_model("beit"), images, players=grid, visible_BN=visible, token_drop=True
        )


@pytest.mark.parametrize(
    ("architecture", "count"),
    [
        ("resnet50", 17),
        ("vit_small_patch16_224", 25),
        ("swin_tiny_patch4_window7_224", 25),
        ("convnext_tiny", 19),
    ],
)
def test_number_of_maps(architecture, count):
    with torch.device("meta"):
        assert len(set(stream_names(create_model(architecture)))) == count


@pytest.mark.parametrize("name", STREAMS)
def test_every_map_is_seen_once_in_order_and_nothing_changes(name):
    model, images = make_model(name), make_images(name)
    visited = []
    with torch.inference_mode():
        before = model(images)
        with residual_stream(model, lambda layer, x: visited.append((layer, x.shape))):
            during = model(images)
        after = model(images)
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    assert tuple(layer for layer, _ in visited) == stream_names(model)
    assert all(len(shape) == 4 and shape[2] == shape[3] for _, shape in visited)


@pytest.mark.parametrize("name", ["vit", "deit", "beit", "eva"])
def test_the_stream_of_a_transformer_replays_the_network(name):
    """From the tokens that were seen after each attention, the MLP's scaled residual and the rest
    of the blocks give the network's own output; so do those seen after each MLP."""
    model, images = make_model(name), make_images(name)
    inside, prefix, finals = {}, model.num_prefix_tokens, []
    for k, block in enumerate(model.blocks):
        block.register_forward_pre_hook(
            lambda m, args, kwargs, k=k: inside.update({k: (args[0], kwargs)}), with_kwargs=True
        )
    model.norm.register_forward_pre_hook(lambda m, args: finals.append(args[0]))
    maps = seen(model, images)
    side = maps["stem"].shape[-1]
    for k, block in enumerate(model.blocks):
        x, options = inside[k]
        with torch.inference_mode():
            attention = block.attn(block.norm1(x), **options)
            scale = getattr(block, "gamma_1", None)
            attention = block.ls1(attention) if hasattr(block, "ls1") else attention
            after = x + (attention if scale is None else scale * attention)
            mlp = block.mlp(block.norm2(after))
            mlp = block.ls2(mlp) if hasattr(block, "ls2") else mlp
            scale = getattr(block, "gamma_2", None)
            out = after + (mlp if scale is None else scale * mlp)
            published = x + block.attn(block.norm1(x), **options)
        for half, tokens in (("attention", after), ("mlp", out)):
            got = maps[f"blocks.{k}/{half}"]
            for i, j in ((0, 0), (1, 2), (side - 1, side - 2)):
                torch.testing.assert_close(got[:, :, i, j], tokens[:, prefix + side * i + j])
        following = inside[k + 1][0] if k + 1 in inside else finals[0]
        torch.testing.assert_close(out, following)
        if name in ("vit", "beit"):  # layer scales are part of the stream
            assert (published - after).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["resnet", "bottleneck"])
def test_a_resnet_goes_on_from_its_maps(name):
    model, images = make_model(name), make_images(name)
    maps = seen(model, images)
    layers = ["layer1", "layer2", "layer3", "layer4"]
    blocks = [(f"{a}.{k}", b) for a in layers for k, b in enumerate(getattr(model, a))]
    with torch.inference_mode():
        torch.testing.assert_close(
            maps["stem"], model.maxpool(model.act1(model.bn1(model.conv1(images))))
        )
        for k, start in enumerate(["stem"] + [layer for layer, _ in blocks]):
            x = maps[start]
            for _, block in blocks[k:]:
                x = block(x)
            torch.testing.assert_close(model.forward_head(x), model(images))


def test_a_convnext_goes_on_from_its_maps():
    model, images = make_model("convnext"), make_images("convnext")
    maps = seen(model, images)
    with torch.inference_mode():
        torch.testing.assert_close(maps["stem"], model.stem(images))
        for s, stage in enumerate(model.stages):
            for k, _ in enumerate(stage.blocks):
                x = stage.blocks[k + 1 :](maps[f"stages.{s}.blocks.{k}"])
                x = model.stages[s + 1 :](x)
                torch.testing.assert_close(model.forward_head(model.norm_pre(x)), model(images))


@pytest.mark.parametrize("name", ["swin", "swinv2"])
def test_a_swin_goes_on_from_its_maps(name):
    model, images = make_model(name), make_images(name)
    maps = seen(model, images)
    with torch.inference_mode():
        torch.testing.assert_close(maps["stem"], model.patch_embed(images).movedim(3, 1))
        for s, stage in enumerate(model.layers):
            for k, block in enumerate(stage.blocks):
                between = maps[f"layers.{s}.blocks.{k}/attention"].movedim(1, 3)
                mlp, norm = block.mlp, block.norm2
                x = between + (mlp(norm(between)) if name == "swin" else norm(mlp(between)))
                torch.testing.assert_close(x.movedim(3, 1), maps[f"layers.{s}.blocks.{k}/mlp"])
                for later in [*stage.blocks[k + 1 :], *model.layers[s + 1 :]]:
                    x = later(x)
                torch.testing.assert_close(model.forward_head(model.norm(x)), model(images))


def test_networks_whose_stream_is_not_known():
    parallel = create_model("vit_pwee_patch16_reg1_gap_256", embed_dim=32, depth=1, num_heads=2)
    with (
        pytest.raises(ValueError, match=r"got ParallelScalingBlock at blocks\.0"),
        residual_stream(parallel, print),
    ):
        pass
    with pytest.raises(ValueError, match=r"expected layers of stem, .*, got \['layer9'\]"):
        residual_stream(make_model("resnet"), print, ["layer9"]).__enter__()


class Net(nn.Module):
    """Modules by name, which run one after the other where ``order`` does not say otherwise."""

    def __init__(self, order=None, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.order = order or list(modules)

    def forward(self, x):
        for name in self.order:
            x = self.get_submodule(name)(x)
        return x


class Residual(nn.Module):
    def __init__(self, inputs=3, outputs=3):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.grows = outputs - inputs

    def forward(self, x):
        return F.relu(F.pad(x, (0, 0, 0, 0, 0, self.grows)) + self.conv(x))


class Half(nn.Module):
    """No convolution, but a norm over the last axis."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(x)


def cifar_resnet():
    """As users write it, whose class may well be called ResNet."""
    layers = [[Residual(3, 3), Residual(3, 3)], [Residual(3, 4)], [Residual(4, 6)]]
    blocks = {f"layer{k}": nn.Sequential(*blocks) for k, blocks in enumerate(layers, 1)}
    ends = {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "linear": nn.Linear(6, 5)}
    model = Net(conv1=nn.Conv2d(3, 3, 3, padding=1), bn1=nn.BatchNorm2d(3), **blocks, **ends)
    model.__class__ = type("ResNet", (Net,), {})
    return model.eval()


def squeezenet():
    return torchvision.models.squeezenet1_1()


def without_classifier():
    model = squeezenet()
    model.classifier = nn.AdaptiveAvgPool2d(1)
    return model


MOBILENETV2 = [f"blocks.{s}.{k}" for s, n in enumerate([1, 2, 3, 4, 3, 3, 1]) for k in range(n)]
MOBILENETV1 = [f"blocks.{s}.{k}" for s, n in enumerate([1, 2, 2, 6, 2]) for k in range(n)]
EFFICIENTNET = [f"blocks.{s}.{k}" for s, n in enumerate([1, 2, 2, 3, 3, 4, 1]) for k in range(n)]
REGNET = [f"s{s}.b{k}" for s, n in enumerate([1, 1, 4, 7], 1) for k in range(1, n + 1)]
DENSENET = [
    "norm0",
    *[f"{a}{k}{b}" for k in (1, 2, 3) for a, b in (("denseblock", ""), ("transition", ".conv"))],
    "norm5",
]
FIRES = [f"features.{k}" for k in (1, 3, 4, 6, 7, 9, 10, 11, 12)]
SEARCHED = {
    "mobilenetv2_100": [*MOBILENETV2, "bn2"],
    "mobilenetv1_100": MOBILENETV1,
    "efficientnet_b0": [*EFFICIENTNET, "bn2"],
    "mobilenetv3_small_050": [
        f"blocks.{s}.{k}" for s, n in enumerate([1, 2, 3, 2, 3, 1]) for k in range(n)
    ],
    "regnety_002": ["stem", *REGNET],
    "densenet121": [f"features.{name}" for name in DENSENET],
    "vgg11_bn": [f"features.{k}" for k in (2, 6, 10, 13, 17, 20, 24, 27)],
    squeezenet: FIRES,
    without_classifier: FIRES,
    cifar_resnet: ["layer1.0", "layer1.1", "layer2.0", "layer3.0"],
}


@pytest.mark.parametrize("network", SEARCHED, ids=lambda name: getattr(name, "__name__", name))
def test_blocks_found_by_search(network):
    with torch.device("meta"):
        model = create_model(network) if isinstance(network, str) else network()
    assert stream_names(model) == tuple(SEARCHED[network])


@pytest.mark.parametrize("classifier", [True, False])
def test_found_maps_of_a_plain_network_against_its_own_layers(classifier):
    """Convolution, norm and ReLU one by one; the pooling behind them belongs to none."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (squeezenet() if classifier else without_classifier()).eval()
    images = make_images("vit")
    maps = seen(model, images)
    with torch.inference_mode():
        for name in FIRES:
            expected = model.features[: int(name.rpartition(".")[2]) + 1](images)
            assert torch.equal(maps[name], expected)
    assert torch.equal(maps["features.12"], model.features(images))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_efficientnet", {}),
        ("mobilenetv2_035", {}),
        ("regnety_002", {}),
        ("densenet121", {"growth_rate": 4, "block_config": (2, 2, 2, 2)}),
    ],
)
def test_found_maps_end_in_the_features(name, options):
    """In order, once each, and the last is what timm pools; hooks on the names see the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model(name, num_classes=5, **options).eval()
    images, hooked, visited, kept = make_images("vit"), {}, [], []

    def visit(layer, x):
        visited.append(layer)
        kept.append(x.clone())

    with torch.inference_mode():
        before = model(images)
        with residual_stream(model, visit):
            assert torch.equal(model(images), before)
            assert torch.equal(model(images[:1]), model(images[:1]))  # pass after pass
        for layer in stream_names(model):
            hook = lambda m, args, out, layer=layer: hooked.update({layer: out.clone()})  # noqa: E731
            model.get_submodule(layer).register_forward_hook(hook)
        features = model.forward_features(images)
    names = list(stream_names(model))
    assert visited == names * 3
    for layer, x in zip(names, kept, strict=False):
        assert torch.equal(x, hooked[layer])
        assert x.ndim == 4
        assert x.shape[2] == x.shape[3]
    assert torch.equal(kept[len(names) - 1], features)


def test_a_cifar_resnet_called_resnet_goes_on_from_its_maps():
    model, images = cifar_resnet(), make_images("swin")
    maps = seen(model, images)
    with torch.inference_mode():
        x = model.bn1(model.conv1(images))
        for layer in ("layer1.0", "layer1.1", "layer2.0", "layer3.0"):
            x = model.get_submodule(layer)(x)
            assert torch.equal(maps[layer], x)
        assert torch.equal(model.linear(x.mean(dim=(2, 3))), model(images))


def test_a_network_inside_another_and_one_without_a_class():
    inside = Net(backbone=cifar_resnet())
    expected = tuple(f"backbone.{name}" for name in stream_names(cifar_resnet()))
    assert stream_names(inside) == expected
    conv = [nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Dropout(), nn.ZeroPad2d(1)]
    plain = nn.Sequential(*conv, nn.Conv2d(3, 4, 1), nn.Flatten(), nn.ReLU(), nn.Linear(64, 2))
    assert stream_names(plain) == ("2", "4")
    assert list(seen(plain.eval(), torch.randn(2, 3, 2, 2))) == ["2", "4"]


def test_mere_convolutions_count_behind_the_last_block_and_before_the_pooling():
    ends = {"conv": nn.Conv2d(3, 3, 1), "norm": nn.GroupNorm(1, 3), "act": nn.SiLU()}
    pool = {"pool": nn.AdaptiveAvgPool2d(1)}
    blocks = {"stem": Residual(), "blocks": nn.Sequential(nn.Sequential(Residual()))}
    assert stream_names(Net(**blocks, **ends, **pool)) == ("stem", "blocks.0.0", "act")
    assert stream_names(Net(**blocks, **pool, **ends)) == ("stem", "blocks.0.0")
    assert stream_names(Net(**ends, **blocks)) == ("stem", "blocks.0.0")
    heads = {name: nn.Sequential(Residual(), nn.Linear(3, 2)) for name in ("head", "classifier")}
    assert stream_names(Net(**blocks, **heads)) == ("stem", "blocks.0.0")


def test_a_module_under_several_names_takes_them_in_turn():
    block, other = Residual(), Residual()
    model, images = Net(blocks=nn.Sequential(block, other, block)).eval(), make_images("swin")
    maps = seen(model, images)
    assert list(maps) == ["blocks.0", "blocks.1", "blocks.2"]
    with torch.inference_mode():
        assert torch.equal(maps["blocks.0"], block(images))
        assert torch.equal(maps["blocks.2"], model(images))
        last = {}
        with residual_stream(model, lambda name, x: last.update({name: x}), ["blocks.2"]):
            model(images)
    assert list(last) == ["blocks.2"]
    assert torch.equal(last["blocks.2"], maps["blocks.2"])


def run(model, layers=None):
    names = []
    with residual_stream(model, lambda name, x: names.append(name), layers):
        model.eval()(torch.zeros(2, 3, 8, 8))
    return names


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("aabc", "got a.0 where b.0 was due"),
        ("acb", "got c.0 where b.0 was due"),
        ("ac", "got c.0 where b.0 was due"),
        ("ab", "to run once each, got no c.0 after b.0"),
    ],
)
def test_blocks_that_do_not_run_once_and_in_order(order, message):
    model = Net(order, **{name: nn.Sequential(Residual()) for name in "abc"})
    with pytest.raises(ValueError, match=message):
        run(model)
    once = [f"{name}.0" for name in "abc" if order.count(name) == 1][:1]
    assert run(model, once) == once


def test_an_output_that_is_no_map():
    class Pair(Residual):
        def forward(self, x):
            return (x, x)

    class Wide(Residual):
        def forward(self, x):
            return x.flatten(2)

    model = Net("a", a=nn.Sequential(Residual(), Pair()))
    with pytest.raises(ValueError, match=r"a\.1: expected a map \(B, E, h, w\), got tuple; leave"):
        run(model)
    assert run(model, ["a.0"]) == ["a.0"]
    with pytest.raises(ValueError, match=r"a\.1: .* got \(2, 3, 64\)"):
        run(Net(a=nn.Sequential(Residual(), Wide())))


@pytest.mark.parametrize(
    ("architecture", "what"),
    [
        (torchvision.models.convnext_tiny, r"ConvNeXt with LayerNorm at features\.1\.0\.block\.2"),
        (torchvision.models.vit_b_32, "with parameters of VisionTransformer itself"),
    ],
)
def test_other_layouts_are_refused(architecture, what):
    with torch.device("meta"):
        model = architecture()
    with pytest.raises(ValueError, match=what):
        stream_names(model)


@pytest.mark.parametrize(
    ("modules", "what"),
    [
        ({"b": nn.Sequential(Half())}, "Net with LayerNorm at b.0.norm"),
        ({"b": nn.Sequential(nn.Linear(8, 8), Residual())}, "Linear at b.0, before b.1"),
        ({"b": nn.LayerNorm(8), "c": Residual()}, "LayerNorm at b, before c"),
        ({"b": nn.TransformerEncoderLayer(8, 1, 8)}, "MultiheadAttention at b.self_attn"),
        ({"b": nn.Conv3d(3, 3, 1), "c": Residual()}, "Conv3d at b"),
    ],
)
def test_weights_that_are_not_of_maps_are_refused(modules, what):
    with pytest.raises(ValueError, match=what):
        stream_names(Net(a=nn.Sequential(Residual(), Residual()), **modules))
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    accepted = Net(a=nn.Sequential(Residual(), Residual()), c=classifier, d=nn.LayerNorm(2))
    assert stream_names(accepted) == ("a.0", "a.1")


def test_too_few_blocks():
    loose = Net(conv=nn.Conv2d(3, 3, 1), other=nn.Conv2d(3, 3, 1))
    for model in (Net(), loose, nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())):
        with pytest.raises(ValueError, match=r"stream is known, or one of blocks .* fewer than 2"):
            stream_names(model)
    with pytest.raises(ValueError, match="Linear with parameters of Linear itself"):
        stream_names(nn.Linear(2, 2))


LISTED = {
    "test_mambaout": ({}, [f"stages.{k}" for k in range(4)], lambda x: x.movedim(3, 1)),
    "test_maxvit": ({"img_size": 64}, None, None),
    "cait_xxs24_224": (
        {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3},
        ["blocks.0", "blocks.1"],
        lambda x: x.mT.unflatten(2, (4, 4)),
    ),
}


@pytest.mark.parametrize("name", LISTED)
def test_other_maps_of_timm_are_those_of_its_modules(name):
    options, expected, to_map = LISTED[name]
    model = create_model(name, **options).eval()
    names, seen, hooked = stream_names(model), {}, {}
    assert expected is None or list(names) == expected
    handles = [
        model.get_submodule(layer).register_forward_hook(
            lambda module, args, out, layer=layer: hooked.__setitem__(layer, out)
        )
        for layer in names
    ]
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode(), residual_stream(model, seen.__setitem__, names[1:]):
        outputs = model(images)
    for handle in handles:
        handle.remove()
    assert list(seen) == list(names[1:])
    for layer, map_BEhw in seen.items():
        out = hooked[layer]
        torch.testing.assert_close(map_BEhw, to_map(out) if to_map else out)
    with torch.inference_mode():
        assert torch.equal(model(images), outputs)  # and nothing is left behind


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hiera_tiny_224", {"img_size": 64, "embed_dim": 16, "num_heads": 1}),
        ("naflexvit_base_patch16_gap", {"embed_dim": 24, "depth": 2, "num_heads": 3}),
        ("qwen3_vit_88m", {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": 64}),
    ],
)
def test_features_where_timm_has_other_arguments(name, options):
    """The head reads the end of the network whichever layers are asked for."""
    model = create_model(name, **options).eval()
    images = torch.rand(2, 3, 64, 64)
    first = layer_names(model)[0]
    features = layer_features(model, images, layers=(first, OUTPUT))
    with torch.inference_mode():
        maps = model.forward_intermediates(images, intermediates_only=True)
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(features[OUTPUT, OUTPUT], expected)
    torch.testing.assert_close(features[first, "mean"], maps[0].mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("name", "first", "last", "count"),
    [
        ("resnet18", "layer1", "layer4", 4),
        ("vgg11_bn", "features.3", "features.28", 5),
        ("densenet121", "features.denseblock1", "features.denseblock4", 4),
        ("convnext_tiny", "features.1", "features.7", 4),
        ("swin_t", "features.1", "features.7", 4),
        ("swin_v2_t", "features.1", "features.7", 4),
        ("vit_b_16", "encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_11", 12),
        ("efficientnet_b0", "features.0", "features.8", 9),
        ("mobilenet_v2", "features.0", "features.18", 19),
        ("mobilenet_v3_small", "features.0", "features.12", 13),
        ("regnet_y_400mf", "trunk_output.block1", "trunk_output.block4", 4),
        ("squeezenet1_0", "output", "output", 0),
    ],
)
def test_layers_of_torchvision_by_default(name, first, last, count):
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        names = layer_names(getattr(torchvision.models, name)())
    assert names[-1] == OUTPUT
    assert len(names) == count + 1
    assert (names[0], names[max(count - 1, 0)]) == (first, last)


def of_torchvision(name):
    models = torchvision.models
    if name == "vit":
        sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
        return models.VisionTransformer(image_size=64, patch_size=16, **sizes).eval()
    if name == "swin":
        sizes = {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": [4, 4]}
        return models.SwinTransformer([4, 4], **sizes).eval()
    return models.regnet_y_400mf().eval()


@pytest.mark.parametrize("name", ["regnet", "swin", "vit"])
def test_layers_of_torchvision_against_hooks(name):
    """Maps of either layout, tokens behind a class token; and what the network returns."""
    model, images = of_torchvision(name), torch.randn(2, 3, 64, 64)
    maps = {}
    for layer in layer_names(model)[:-1]:
        hooked = model.get_submodule(layer)
        hooked.register_forward_hook(lambda m, a, out, layer=layer: maps.update({layer: out}))
    grid, visible = PatchGrid(4, 4), torch.zeros(2, 16, dtype=torch.bool)
    visible[:, :4] = True  # the first row of patches
    features = layer_features(
        model,
        images,
        players=grid,
        visible_BN=visible,
        readouts=["mean", "visible"][: 1 + (name != "regnet")],
    )
    assert list(features)[-1] == (OUTPUT, OUTPUT)
    with torch.inference_mode():
        torch.testing.assert_close(features[OUTPUT, OUTPUT], model(images))
    for layer, out in maps.items():
        if name == "regnet":
            cells = out.flatten(2).mT
        else:
            cells = out[:, 1:] if name == "vit" else out.flatten(1, 2)
        torch.testing.assert_close(features[layer, "mean"], cells.mean(dim=1))
        if name != "regnet":
            first = cells[:, : cells.shape[1] // 4].mean(dim=1)
            torch.testing.assert_close(features[layer, "visible"], first)
    if name == "vit":
        layer = layer_names(model)[0]
        assert readouts_of(model) == ("class", "mean", "visible")
        token = layer_features(model, images, layers=[layer])[layer, "class"]
        assert torch.equal(token, maps[layer][:, 0])


class Own(nn.Module):
    """Not of any library."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.act = nn.ReLU()
        self.pair = nn.LSTM(8, 8, batch_first=True)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.unused = nn.Linear(8, 8)

    def forward(self, x):
        x = self.stem(x).flatten(2).mT
        for block in self.blocks[:2]:
            x = self.act(block(x))
        x, _ = self.pair(x)
        return self.blocks[2](x.mean(dim=1))


def test_any_module_of_ones_own_can_be_named():
    torch.manual_seed(0)
    model, images = Own().eval(), torch.randn(3, 3, 24, 32)
    features = layer_features(model, images, layers=["blocks.1", "stem", "blocks.2", OUTPUT])
    with torch.inference_mode():
        stem = model.stem(images)
        block = model.blocks[1](model.act(model.blocks[0](stem.flatten(2).mT)))
        torch.testing.assert_close(features["stem", "mean"], stem.mean(dim=(2, 3)))
        torch.testing.assert_close(features["blocks.1", "mean"], block.mean(dim=1))
        torch.testing.assert_close(features["blocks.2", OUTPUT], model(images))
    assert layer_names(model) == (OUTPUT,)
    for layer, told in (
        ("act", "runs once, act runs several times"),
        ("unused", "layers that run, got unused"),
        ("pair", "vectors, maps or tokens of pair, got tuple"),
        ("layer5", r"or other modules of Own, got \['layer5'\]"),
        ("", "or other modules of Own"),
    ):
        with pytest.raises(ValueError, match=told):
            layer_features(model, images, layers=[layer])
    assert not any(module._forward_hooks for module in model.modules())


def test_other_modules_of_timm_can_be_named_beside_its_layers():
    model, images = make_model("vit"), make_images("vit")
    outputs = {}
    model.blocks[1].mlp.register_forward_hook(lambda m, a, out: outputs.update(mlp=out))
    features = layer_features(model, images, layers=["blocks.1", "blocks.1.mlp", "patch_embed"])
    prefix = model.num_prefix_tokens
    assert torch.equal(features["blocks.1.mlp", "class"], outputs["mlp"][:, 0])
    torch.testing.assert_close(
        features["blocks.1.mlp", "mean"], outputs["mlp"][:, prefix:].mean(dim=1)
    )
    alone = layer_features(model, images, layers=["blocks.1"])
    assert torch.equal(features["blocks.1", "mean"], alone["blocks.1", "mean"])


class Square(nn.Module):
    """A map that has as many channels as rows and columns, first or last, or nobody knows where."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x).flatten(1)


def test_a_map_whose_channels_could_be_any_axis():
    images = torch.randn(2, 4, 4, 4)
    conv, linear = nn.Conv2d(4, 4, 1), nn.Linear(4, 4)
    for inner, axes in ((conv, (2, 3)), (linear, (1, 2))):
        model = Square(inner).eval()
        with torch.inference_mode():
            expected = inner(images).mean(dim=axes)
        features = layer_features(model, images, layers=["inner"])
        torch.testing.assert_close(features["inner", "mean"], expected)
    mixed = Square(nn.Sequential(conv, linear)).eval()
    with pytest.raises(ValueError, match="read another layer or use another image size"):
        layer_features(mixed, images, layers=["inner"])
