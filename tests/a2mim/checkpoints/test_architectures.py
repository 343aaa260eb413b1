import pytest
import torch
from timm import create_model

from a2mim.checkpoints.architectures import classes_of, infer, structure, untold
from a2mim.checkpoints.files import WeightsError
from a2mim.checkpoints.layouts import FAMILIES, LAYOUTS, fixed_positions

LAYOUT = {layout.name: layout for layout in LAYOUTS}
MAE, TIMM, MOCO = LAYOUT["mae"], LAYOUT["timm"], LAYOUT["mocov3"]


def state(name, **options):
    """Names and shapes of a network, without memory."""
    with torch.device("meta"):
        found = create_model(name, **options).state_dict()
    if "pos_embed" in found:  # its values are looked at
        found["pos_embed"] = torch.zeros(found["pos_embed"].shape)
    return found


def rebuilt(name, options, like):
    """The network that was inferred has the same names and shapes."""
    got = state(name, num_classes=classes_of(name, like), **options)
    assert {k: v.shape for k, v in got.items()} == {k: v.shape for k, v in like.items()}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_small_patch16_224", {}),
        ("vit_base_patch16_224", {"num_classes": 0}),
        ("vit_base_patch16_224", {"global_pool": "avg", "img_size": 384}),
        ("vit_large_patch16_224", {"num_classes": 3}),
        ("vit_base_patch8_224", {"init_values": 0.1}),
        ("vit_base_patch16_224", {"qkv_bias": False}),
        ("vit_base_patch16_224", {"class_token": False, "global_pool": "avg"}),
        ("vit_base_patch16_224", {"mlp_ratio": 3, "depth": 3, "patch_size": 32}),
        ("vit_tiny_patch16_224", {}),
        ("beit_base_patch16_224", {}),
        ("beit_base_patch16_224", {"num_classes": 0, "global_pool": "token"}),
        (
            "beit_base_patch16_224",
            {
                "use_abs_pos_emb": True,
                "embed_dim": 768,
                "depth": 8,
                "num_heads": 8,
                "mlp_ratio": 3,
                "init_values": 0.1,
            },
        ),
    ],
)
def test_transformers_are_read_off(name, options):
    like = state(name, **options)
    found, made = infer(like, MAE, {}, "w.pth")
    rebuilt(found, made, like)


def test_published_names_are_used_where_they_fit():
    assert infer(state("vit_small_patch16_224"), MAE, {}, "w") == (
        "vit_small_patch16_224",
        {"img_size": 224},
    )
    name, made = infer(state("vit_small_patch16_224"), MOCO, {}, "w")
    assert (name, made["num_heads"]) == ("vit_small_patch16_224", 12)


@pytest.mark.integration
@pytest.mark.parametrize(
    "name",
    ["resnet50", "wide_resnet50_2", "convnext_tiny", "swin_tiny_patch4_window7_224"],
)
def test_other_families_are_found(name):
    for options in ({}, {"num_classes": 0}):
        assert infer(state(name, **options), TIMM, {}, "w") == (name, {})


@pytest.mark.integration
def test_the_tables_hold_networks_with_as_many_blocks():
    for family in FAMILIES:
        blocks, names = next(iter(family.members.items()))
        like = state(names[0])
        if family.doubt is None:
            assert infer(like, TIMM, {}, "w")[0] == names[0], blocks
        else:
            with pytest.raises(WeightsError, match=f"expected architecture= out of .*{names[0]}"):
                infer(like, TIMM, {}, "w")


@pytest.mark.integration
def test_explicit_architectures_keep_what_tensors_tell():
    moco = state("vit_small_patch16_224", num_classes=0)
    assert structure("vit_small_patch16_224", moco, MOCO, {}, "w") == {
        "num_heads": 12,
        "img_size": 224,
    }
    mae = state("vit_base_patch16_224", global_pool="avg", img_size=192)
    assert structure("vit_base_patch16_224", mae, MAE, {}, "w") == {
        "global_pool": "avg",
        "img_size": 192,
    }
    assert structure("resnet50", state("resnet50"), TIMM, {}, "w") == {}
    two_tokens = state("deit_tiny_distilled_patch16_224")
    assert structure("deit_tiny_distilled_patch16_224", two_tokens, TIMM, {}, "w") == {
        "img_size": 224
    }


def test_doubtful_heads_are_refused():
    like = dict(state("vit_small_patch16_224", num_classes=0))
    for rows_first in (True, False):
        like["pos_embed"] = fixed_positions(384, 14, rows_first=rows_first)
        with pytest.raises(WeightsError, match=r"12 heads in MoCo v3 .* and 6 elsewhere"):
            infer(like, MAE, {}, "w")
        with pytest.raises(WeightsError, match=r"12 heads in MoCo v3 .* and 6 elsewhere"):
            structure("vit_small_patch16_224", like, TIMM, {}, "w")
    assert infer(like, MAE, {"num_heads": 6}, "w")[0] == "vit_small_patch16_224"
    with pytest.raises(WeightsError, match="width 200, and shapes do not tell"):
        infer(state("vit_base_patch16_224", embed_dim=200, num_heads=2), MAE, {}, "w")


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (state("vit_small_patch16_224"), "deit_small_patch16_224, vit_small.*normalisation"),
        (state("beit_base_patch16_224"), "beit_base_patch16_224, beitv2_base.*normalisation"),
        (state("resnet18", layers=(2, 2, 2, 3)), "names as in a ResNet, of unusual shapes"),
        ({"features.3.squeeze.weight": torch.zeros(1)}, r"is a SqueezeNet \(torchvision\); fill"),
        ({"linear.weight": torch.zeros(1)}, "is the CIFAR ResNet of He et al.; fill a module"),
        ({"what": torch.zeros(1)}, "has 1 tensors such as what; give architecture="),
    ],
)
def test_what_cannot_be_told(like, message):
    with pytest.raises(WeightsError, match=message):
        infer(like, TIMM, {}, "w.pth")


def test_broken_transformers():
    like = dict(state("vit_base_patch16_224"))
    lacking = {k: v for k, v in like.items() if not k.startswith("blocks.3.")}
    with pytest.raises(WeightsError, match=r"expected blocks 0 to 11, w.pth lacks blocks.3\b"):
        infer(lacking, MAE, {}, "w.pth")
    far = like | {"blocks.999999999.norm1.bias": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"lacks blocks.12\b"):
        infer(far, MAE, {}, "w.pth")
    for key, shape, message in (
        ("pos_embed", (197, 768), "expected 3 axes of pos_embed, w.pth has shape"),
        ("pos_embed", (1, 197, 0), "expected one width, w.pth has .*768.*0"),
        ("blocks.0.mlp.fc1.weight", (), "expected 2 axes of blocks.0.mlp.fc1.weight"),
    ):
        for broken in (infer, structure):
            first = ("vit_base_patch16_224",) if broken is structure else ()
            with pytest.raises(WeightsError, match=message):
                broken(*first, like | {key: torch.zeros(shape)}, MAE, {}, "w.pth")
    oblong = like | {"pos_embed": torch.zeros(1, 1 + 6, 768)}
    with pytest.raises(WeightsError, match="expected a square grid of position embeddings"):
        infer(oblong, MAE, {}, "w.pth")
    beit = dict(state("beit_base_patch16_224"))
    beit["blocks.0.attn.relative_position_bias_table"] = torch.zeros(20, 12)
    with pytest.raises(WeightsError, match=r"expected \(2g - 1\)\^2 \+ 3 relative positions"):
        infer(beit, MAE, {}, "w.pth")


def test_number_of_classes():
    assert classes_of("resnet18", state("resnet18", num_classes=7)) == 7
    assert classes_of("convnext_tiny", state("convnext_tiny", num_classes=0)) == 0
    assert classes_of("deit_tiny_distilled_patch16_224", {"head.weight": torch.zeros(5, 2)}) == 5


def test_a_name_does_not_settle_what_weights_from_elsewhere_need():
    like = {"conv_stem.weight": torch.zeros(1)}
    assert untold("mobilenetv2_100", like, {}) == {"pad_type": "symmetric", "bn_eps": "1e-05"}
    assert list(untold("mobilenetv2_100", like, {"pad_type": "same"})) == ["bn_eps"]
    assert untold("mobilenetv2_100.ra_in1k", like, {}) == {}  # a tag tells where they are from
    assert untold("tf_mobilenetv3_large_100", like, {}) == {}  # and so does this name
    assert untold("resnet18", {"what": torch.zeros(1)}, {}) == {}


def test_what_timm_takes_where_nothing_is_told():
    net = create_model("mobilenetv2_050")
    assert (net.conv_stem.padding, net.bn1.eps) == ((1, 1), 1e-5)
