import re

import pytest
import timm
import torch
from timm import create_model
from torch import nn

from a2mim.methods.masked_image_model import MaskedImageModel
from a2mim.methods.masking import BlockMask
from a2mim.methods.sites import (
    SITES,
    Site,
    as_map,
    last_norm,
    output_layout,
    output_shape,
    prefix_tokens,
    shape_at,
    site_at,
    site_of,
    with_last_norm,
)
from interactions.patches import PatchGrid

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
SWIN = {
    "img_size": 64,
    "embed_dim": 8,
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 1, 1, 1),
    "window_size": 2,
}
TABLE = {  # family: a small model of it, and the cells at its site and in its last features
    "vit_tiny_patch16_224": (VIT, 32, 4, 4),
    "deit_tiny_distilled_patch16_224": (VIT, 32, 4, 4),
    "beit_base_patch16_224": (VIT, 32, 4, 4),
    "eva02_tiny_patch14_224": (VIT, 32, 4, 4),
    "swin_tiny_patch4_window7_224": (SWIN, 64, 16, 2),
    "swinv2_tiny_window8_256": (SWIN, 64, 16, 2),
    "test_resnet": ({}, 64, 4, 2),
    "test_convnext": ({}, 64, 2, 2),
    "test_convnext2": ({}, 64, 2, 2),
    "moganet_xtiny": (
        {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "mlp_ratios": (1, 1, 1, 1)},
        128,  # its strided convolutions overlap: 2 x 2 cells would each see all quarters
        4,
        4,
    ),
    "hiera_tiny_224": (
        {"img_size": 64, "embed_dim": 8, "num_heads": 1, "stages": (1, 1, 1, 1)},
        64,
        16,
        2,
    ),
}


def small(name):
    return create_model(name, num_classes=0, **TABLE[name][0])


@pytest.mark.parametrize(
    ("name", "size", "site_cells", "last_cells"),
    [
        ("test_vit", 32, (2, 2), (2, 2)),  # patches of 16 px
        ("test_resnet", 64, (4, 4), (2, 2)),  # strides of 16 and 32 px
        ("test_convnext", 64, (2, 2), (2, 2)),  # after the last stride of 32 px
    ],
)
def test_cells_of_each_family(name, size, site_cells, last_cells):
    backbone = create_model(name, num_classes=0, **({"img_size": size} if "vit" in name else {}))
    channels, cells = shape_at(backbone, site_of(backbone), size)
    assert cells == PatchGrid(*site_cells)
    width, last = output_shape(backbone, site_of(backbone), size)
    assert last == PatchGrid(*last_cells)
    features = backbone.eval().forward_features(torch.zeros(2, 3, size, size))
    assert as_map(features, site_of(backbone).layout, prefix_tokens(backbone), last).shape == (
        2,
        width,
        *last_cells,
    )
    assert channels > 0


@pytest.mark.parametrize("name", TABLE)
def test_every_row_of_the_table(name):
    _, size, site_cells, last_cells = TABLE[name]
    backbone = small(name)
    assert type(backbone).__name__ in SITES
    site = site_of(backbone)
    assert shape_at(backbone, site, size)[1] == PatchGrid(site_cells, site_cells)
    assert output_shape(backbone, site, size)[1] == PatchGrid(last_cells, last_cells)
    check_step(backbone, size)


def test_every_family_of_the_table_is_tested():
    assert {type(small(name)).__name__ for name in TABLE} == set(SITES)


@pytest.mark.parametrize("name", TABLE)
def test_cells_stand_row_by_row(name):
    """A changed cell of the image moves its own cell of the features most, first and last."""
    _, size, _, _ = TABLE[name]
    backbone = small(name).eval()
    generator = torch.Generator().manual_seed(0)
    for site in (site_of(backbone), site_at(backbone, 0)):
        grid = PatchGrid(2, 2)
        own = grid.pixels(torch.eye(4, dtype=torch.bool), size, size)
        before, after = torch.randn(2, 1, 3, size, size, generator=generator)
        images = torch.cat([before, torch.where(own, after, before)])
        seen = []
        module = backbone.get_submodule(site.module)
        hook = (
            module.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
            if site.side == "input"
            else module.register_forward_hook(lambda _, _i, output, seen=seen: seen.append(output))
        )
        with torch.no_grad():
            last = backbone.forward_features(images)
        hook.remove()
        _, here = shape_at(backbone, site, size)
        prefix = prefix_tokens(backbone) if site.prefix is None else site.prefix
        _, end = output_shape(backbone, site, size)
        for features, layout, skip, cells in (
            (seen[0], site.layout, prefix, here),
            (last, *output_layout(backbone, site), end),
        ):
            maps = as_map(features, layout, skip, cells)
            moved = (maps[1:] - maps[:1]).norm(dim=1)
            by_quarter = nn.functional.adaptive_avg_pool2d(moved[:, None], 2).flatten(1)
            assert by_quarter.argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_published_positions_at_224_pixels():
    """ViT: 14 x 14 tokens; ResNet: 14 x 14 before layer4; the others: 7 x 7 in the last stage."""
    for name, cells in (
        ("vit_tiny_patch16_224", PatchGrid(14, 14)),
        ("resnet18", PatchGrid(14, 14)),
        ("convnext_atto", PatchGrid(7, 7)),
        ("moganet_xtiny", PatchGrid(7, 7)),
    ):
        backbone = create_model(name, num_classes=0)
        assert shape_at(backbone, site_of(backbone), 224)[1] == cells


def test_resnet50_has_the_published_channels():
    """1024 and 2048 (table 4.2), and 64, 256, 512, 1024 at the positions 0 to 3 (section 3.4)."""
    backbone = create_model("resnet50", num_classes=0)
    assert shape_at(backbone, SITES["ResNet"], 64)[0] == 1024
    assert output_shape(backbone, SITES["ResNet"], 64)[0] == 2048
    positions = [shape_at(backbone, site_at(backbone, k), 64) for k in range(4)]
    assert [channels for channels, _ in positions] == [64, 256, 512, 1024]
    # at 224 px: 56, 56, 28, 14
    assert [cells.rows for _, cells in positions] == [16, 16, 8, 4]
    assert site_at(backbone, 3) == SITES["ResNet"]


def test_moganet_small_has_the_published_channels():
    """512 at the site and in the last features (table 4.2), on the same cells."""
    backbone = create_model("moganet_small", num_classes=0)
    site = site_of(backbone)
    assert (
        shape_at(backbone, site, 64) == output_shape(backbone, site, 64) == (512, PatchGrid(2, 2))
    )
    assert site_at(backbone, 3) == site
    positions = [shape_at(backbone, site_at(backbone, k), 64) for k in range(4)]
    assert [channels for channels, _ in positions] == [64, 128, 320, 512]
    assert [cells.rows for _, cells in positions] == [16, 8, 4, 2]
    with pytest.raises(ValueError, match="position from 0 to 3 of MogaNet, got 4"):
        site_at(backbone, 4)


def test_the_token_of_moganet_enters_before_the_blocks_of_its_last_stage():
    backbone = small("moganet_xtiny").eval()
    model = MaskedImageModel(backbone, BlockMask(64, 32, 0.5), token="replace").eval()
    seen = []
    hook = backbone.blocks4.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    generator = torch.Generator().manual_seed(0)
    visible = model.draw(torch.arange(2), 0)
    model(torch.randn(2, 3, 64, 64, generator=generator), visible)
    hook.remove()
    at_hidden = seen[0].permute(0, 2, 3, 1)[~visible.reshape(2, 2, 2)]
    assert torch.equal(at_hidden, model.token_blend.token.expand(4, -1))


def test_positions_of_a_vit():
    backbone = small("vit_tiny_patch16_224")
    first = site_at(backbone, 0)
    assert (first.module, first.side, first.prefix) == ("patch_embed", "output", 0)
    assert [site_at(backbone, k).module for k in (1, 2)] == ["blocks.0", "blocks.1"]
    for k in range(3):
        assert shape_at(backbone, site_at(backbone, k), 32) == (16, PatchGrid(4, 4))
        assert output_shape(backbone, site_at(backbone, k), 32) == (16, PatchGrid(4, 4))
    with pytest.raises(ValueError, match="position from 0 to 2 of VisionTransformer, got 3"):
        site_at(backbone, 3)


def test_adding_before_and_after_positions_is_the_same_function():
    backbone = small("vit_tiny_patch16_224").eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = BlockMask(32, 16, 0.5)
    visible = mask.draw(torch.arange(2), 0)
    outputs = []
    for k in (0, 1):
        torch.manual_seed(0)
        model = MaskedImageModel(backbone, mask, site=site_at(backbone, k)).eval()
        outputs.append(model(images, visible)["output"])
    torch.testing.assert_close(outputs[0], outputs[1])


def test_positions_of_convnext_and_swin():
    convnext = create_model("test_convnext", num_classes=0)
    assert site_at(convnext, 3) == SITES["ConvNeXt"]
    assert [shape_at(convnext, site_at(convnext, k), 64)[1].rows for k in range(4)] == [16, 8, 4, 2]
    swin = small("swin_tiny_patch4_window7_224")
    positions = [shape_at(swin, site_at(swin, k), 64) for k in range(5)]
    assert positions == [
        (8, PatchGrid(16, 16)),
        (8, PatchGrid(16, 16)),
        (16, PatchGrid(8, 8)),
        (32, PatchGrid(4, 4)),
        (64, PatchGrid(2, 2)),
    ]


def test_tokens_become_a_map_row_by_row():
    tokens = torch.arange(1 * 7 * 2.0).reshape(1, 7, 2)
    features = as_map(tokens, "BNE", prefix=1, grid=PatchGrid(2, 3))
    assert features[0, 0].tolist() == [[2, 4, 6], [8, 10, 12]]


def test_channels_last_become_channels_first():
    features = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert as_map(features, "BhwE", 0, PatchGrid(2, 3))[0, 1].tolist() == [[1, 5, 9], [13, 17, 21]]


GRADIENTS = [
    *((name, options, size) for name, (options, size, *_) in TABLE.items()),
    *(
        (name, VIT | {"global_pool": pool}, 32)
        for name in ("vit_tiny_patch16_224", "beit_base_patch16_224", "eva02_tiny_patch14_224")
        for pool in ("avg", "token")
    ),
    ("vit_tiny_patch16_224", VIT | {"global_pool": "avg", "fc_norm": False}, 32),
    ("vit_tiny_patch16_224", VIT | {"global_pool": "map"}, 32),
    ("test_convnext", {"head_norm_first": True}, 64),
]


def with_gradient(module, loss):
    loss.backward()
    return {
        name for name, p in module.named_parameters() if p.grad is not None and p.grad.any().item()
    }


@pytest.mark.parametrize(("name", "options", "size"), GRADIENTS)
def test_pretraining_reaches_every_parameter_that_a_classifier_uses(name, options, size):
    torch.manual_seed(0)
    images = torch.randn(2, 3, size, size)
    classifier = create_model(name, num_classes=3, **options)
    logits = classifier.eval()(images)  # a distilled model averages its two heads
    used = with_gradient(classifier, (logits * torch.randn(2, 3)).sum())

    backbone = create_model(name, num_classes=0, **options)
    model = MaskedImageModel(backbone, BlockMask(size, size // 2))
    out = model(images, torch.tensor([[True, False, True, False]]).expand(2, -1))
    trained = with_gradient(backbone, out["loss"])

    heads = r"(head|head_dist|fc|head\.fc)\.(weight|bias)"
    pools = r"attn_pool\."  # reads all features for one vector: nothing of it belongs to a map
    assert {key for key in used - trained if not re.match(rf"{heads}$|{pools}", key)} == set()


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("beit_base_patch16_224", VIT, 32),
        ("vit_tiny_patch16_224", VIT | {"global_pool": "avg"}, 32),
        ("hiera_tiny_224", TABLE["hiera_tiny_224"][0], 64),
        ("test_convnext", {}, 64),
    ],
)
def test_the_last_norm_is_the_one_behind_the_pooling(name, options, size):
    """A classifier that pools by averaging says which: its head, on maps of one value."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=0, **options).eval()
    norm = last_norm(model)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    site = site_of(model)
    width, grid = output_shape(model, site, size)
    layout, prefix = output_layout(model, site)
    vectors = torch.randn(5, width)
    map_BEhw = vectors[:, :, None, None].expand(-1, -1, grid.rows, grid.cols)
    features = map_BEhw if layout == "BEhw" else vectors[:, None].expand(-1, prefix + grid.n, -1)
    pooled = model.forward_head(features, pre_logits=True)
    normed = with_last_norm(model, map_BEhw)
    assert normed.shape == map_BEhw.shape
    torch.testing.assert_close(normed[:, :, 0, 0], pooled)
    torch.testing.assert_close(normed[:, :, -1, -1], pooled)


def test_a_norm_before_pooling_is_not_applied_twice():
    model = create_model("vit_tiny_patch16_224", num_classes=0, **VIT)
    assert last_norm(model) is None
    map_BEhw = torch.randn(2, 16, 4, 4)
    assert with_last_norm(model, map_BEhw) is map_BEhw


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_looking_leaves_no_trace(name):
    """Neither hooks nor a changed mode nor changed running statistics."""
    backbone = create_model(name, num_classes=0).train()
    frozen = next(m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    shape_at(backbone, site_of(backbone, 64), 64)
    assert backbone.training
    assert not frozen.training  # what was in another mode stays in it
    for module in backbone.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key]), key


# Small members of families without a row, with as few blocks as they allow: name, options, size,
# and where the tokens enter.
ONE = (1, 1, 1, 1)
OTHERS = [
    ("test_efficientnet", {}, 64, "blocks.3"),
    ("test_byobnet", {}, 64, "stages.2"),
    ("test_nfnet", {}, 64, "stages.2"),
    ("test_mambaout", {}, 64, "stages.2"),
    ("regnetx_002", {}, 64, "s3"),
    ("mobilenetv3_small_050", {}, 64, "blocks.3"),
    ("efficientnet_lite0", {}, 64, "blocks.4"),
    ("ghostnet_050", {}, 64, "blocks.5"),
    ("densenet121", {"block_config": ONE}, 64, "features.denseblock3"),
    ("dpn48b", {"k_sec": ONE}, 64, "features.conv4_1"),
    ("rexnet_100", {}, 64, "features.10"),
    ("hrnet_w18_small", {}, 64, "layer1"),
    (timm.models.convmixer.ConvMixer, {"dim": 16, "depth": 1, "patch_size": 8}, 64, "blocks.0"),
    (timm.models.metaformer.MetaFormer, {"depths": ONE, "dims": (8, 16, 24, 32)}, 64, "stages.2"),
    (
        timm.models.tiny_vit.TinyVit,
        {"depths": ONE, "embed_dims": (8, 16, 32, 64), "num_heads": ONE, "window_sizes": (7,) * 4},
        64,
        "stages.2",
    ),
    ("pvt_v2_b0", {"depths": ONE}, 64, "stages.2"),
    ("coatnet_nano_rw_224", {"img_size": 64, "depths": ONE}, 64, "stages.2"),
    ("maxvit_pico_rw_256", {"img_size": 64, "depths": ONE}, 64, "stages.2"),
    ("levit_128s", {"img_size": 64}, 64, "stages.1"),
    ("mobilevit_xs", {}, 64, "stages.3"),
    (
        timm.models.davit.DaVit,
        {"depths": ONE, "embed_dims": (8, 16, 32, 64), "num_heads": ONE},
        64,
        "stages.2",
    ),
    (
        timm.models.nest.Nest,
        {"img_size": 64, "depths": ONE[:3], "embed_dims": (8, 16, 32), "num_heads": ONE[:3]},
        64,
        "levels.1",
    ),
    ("edgenext_xx_small", {}, 64, "stages.2"),
    ("xcit_nano_12_p16_224", {"depth": 1, "cls_attn_layers": 1}, 64, "blocks.0"),
    ("cait_xxs24_224", {"img_size": 64, "depth": 1}, 64, "blocks.0"),
    (
        timm.models.mlp_mixer.MlpMixer,
        {"img_size": 64, "num_blocks": 1, "embed_dim": 16},
        64,
        "blocks.0",
    ),
    (
        timm.models.volo.VOLO,
        {"img_size": 64, "layers": ONE, "embed_dims": (8, 16, 16, 16), "num_heads": (1,) * 4}
        | {"mlp_ratio": 1.0},
        64,
        "network.0",
    ),
    ("mvitv2_tiny", {}, 64, "patch_embed.proj"),
    ("twins_pcpvt_small", {"depths": ONE}, 64, "pos_block.2"),
]


def build(what, options):
    return (
        create_model(what, num_classes=0, **options)
        if isinstance(what, str)
        else what(num_classes=0, **options)
    )


@pytest.mark.parametrize(
    ("what", "options", "size", "module"),
    OTHERS,
    ids=[what if isinstance(what, str) else what.__name__ for what, *_ in OTHERS],
)
def test_one_step_in_families_without_a_row(what, options, size, module):
    backbone = build(what, options)
    assert type(backbone).__name__ not in SITES
    assert check_step(backbone, size).site.module == module


def check_step(backbone, size):
    model = MaskedImageModel(backbone, BlockMask(size, size // 2, 0.5))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, size, size, generator=generator)
    out = model(images, model.draw(torch.arange(4), 0))
    assert out["output"].shape == images.shape
    out["loss"].backward()
    assert out["loss"].isfinite()
    gradient = model.token_blend.token.grad
    assert gradient.isfinite().all()
    assert gradient.norm() > 0
    return model


@pytest.mark.parametrize(
    ("what", "options", "size", "message"),
    [
        ("crossvit_tiny_240", {}, 48, "CrossVit: its last features are a list"),
        ("pit_ti_224", {"img_size": 64}, 64, r"its last features are 1 token\(s\)"),
        (
            timm.models.convmixer.ConvMixer,
            {"dim": 16, "depth": 1},
            64,
            "9 x 9 cells at blocks.0 does not divide",
        ),
        ("tnt_s_patch16_224", {"img_size": 64, "depth": 1}, 64, "TNT: none of its modules"),
    ],
)
def test_families_that_cannot_say_so(what, options, size, message):
    backbone = build(what, options)
    with pytest.raises(ValueError, match=message + r".*pass site=Site\(module, layout\)"):
        site_of(backbone, size)


def test_a_backbone_for_another_size_says_so():
    backbone = create_model("test_vit", num_classes=0, img_size=32, dynamic_img_size=False)
    with pytest.raises(
        ValueError, match=r"backbone for images of 64 px.*create it with img_size=64"
    ):
        MaskedImageModel(backbone, BlockMask(64, 32, 0.5))


def test_positions_of_families_without_a_row():
    backbone = create_model("test_efficientnet", num_classes=0)
    assert [site_at(backbone, k, 64).module for k in range(4)] == [f"blocks.{k}" for k in range(4)]
    assert [shape_at(backbone, site_at(backbone, k, 64), 64)[1].rows for k in range(4)] == [
        32,
        16,
        8,
        4,
    ]
    with pytest.raises(ValueError, match="position from 0 to 4 of EfficientNet, got 5"):
        site_at(backbone, 5, 64)
    hrnet = create_model("hrnet_w18_small", num_classes=0)
    with pytest.raises(ValueError, match=r"feature map 2 \(stage2\) is not one"):
        site_at(hrnet, 2, 64)
    assert site_at(hrnet, 0, 64).module == "layer1"


def test_channels_that_look_like_rows():
    """A map of 8 x 8 cells and 8 channels: timm says which axis they are."""

    class Square(nn.Module):
        def __init__(self, output_fmt):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 4, stride=4)
            self.last = nn.Conv2d(8, 8, 2, stride=2)
            self.output_fmt = output_fmt
            self.feature_info = [
                {"module": "stem", "num_chs": 8, "reduction": 4},
                {"module": "last", "num_chs": 8, "reduction": 8},
            ]

        def forward_features(self, images):
            return self.last(self.stem(images))

    assert site_of(Square("NCHW"), 32).layout == "BEhw"
    assert site_of(Square("NHWC"), 32).layout == "BhwE"


def test_unknown_families_say_what_to_do():
    with pytest.raises(ValueError, match=r"got Linear; pass site=Site"):
        site_of(nn.Linear(1, 1))
    backbone = create_model("test_resnet", num_classes=0)
    with pytest.raises(ValueError, match=r"expected features BNE, got the shape \(1, "):
        shape_at(backbone, Site("layer4", "BNE"), 64)
    with pytest.raises(ValueError, match="fc did not run in forward_features"):
        shape_at(backbone, Site("fc", "BEhw"), 64)
    with pytest.raises(ValueError, match="expected a module of ResNet, got 'layer5'"):
        shape_at(backbone, Site("layer5", "BEhw"), 64)
