from pathlib import Path

import pytest
import torch

from a2mim.checkpoints.files import StateFile, WeightsError
from a2mim.checkpoints.renaming import rename


def file(*names, wrapper=(), **tensors):
    state = {name: torch.full((1,), float(k)) for k, name in enumerate(names)}
    return StateFile(Path("w.pth"), state, wrapper)


def origins(renamed):
    return {key: origin for key, (origin, _) in renamed.tensors.items()}


def test_every_name_is_in_the_result_or_dropped_with_a_reason():
    names = ("module.backbone.layer1.0.conv1.weight", "module.head.fc.bias", "module.neck.0.weight")
    renamed = rename(file(*names))
    assert origins(renamed) == {"layer1.0.conv1.weight": names[0], "fc.bias": names[1]}
    assert renamed.dropped == {names[2]: "decoder or neck of pre-training"}
    assert (renamed.layout.name, renamed.dialect) == ("mmpretrain", "ResNet")


def test_a_prefix_goes_only_if_all_names_have_it():
    assert set(origins(rename(file("module.a", "module.b")))) == {"a", "b"}
    assert set(origins(rename(file("module.a", "b")))) == {"module.a", "b"}
    assert set(origins(rename(file("module._orig_mod.model.a")))) == {"a"}


def test_stages_of_swin_move_on():
    names = [
        "layers.0.downsample.reduction.weight",
        "layers.2.downsample.norm.bias",
        "layers.0.blocks.1.attn_mask",
        "head.weight",
    ]
    renamed = rename(file(*names))
    assert origins(renamed) == {
        "layers.1.downsample.reduction.weight": names[0],
        "layers.3.downsample.norm.bias": names[1],
        "head.fc.weight": names[3],
    }
    assert renamed.dropped == {names[2]: "computed by timm from the image size"}


def test_values_that_cannot_be_reordered():
    names = ("stages.0.blocks.0.attn.w_msa.qkv.weight", "stages.0.downsample.norm.weight")
    with pytest.raises(WeightsError, match=r"another shape of stages.0.downsample.norm.weight"):
        rename(file(*names))


def test_two_sets_of_weights():
    names = ("bn.weight", "bn.running_mean", "ema_bn_weight")
    plain, ema = rename(file(*names)), rename(file(*names), "ema")
    assert origins(plain) == {"bn.weight": "bn.weight", "bn.running_mean": "bn.running_mean"}
    assert origins(ema) == {"bn.weight": "ema_bn_weight", "bn.running_mean": "bn.running_mean"}
    assert plain.dropped == {"ema_bn_weight": "the other set of weights, taken with ema='ema'"}
    assert ema.dropped == {"bn.weight": "the other set of weights, taken with ema='plain'"}
    whole_entry = file("a", wrapper=("model_ema",))
    assert origins(rename(whole_entry, "ema")) == {"a": "a"}


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["a"], {"ema": "ema"}, "expected averaged weights beside the others, w.pth has none"),
        (["a", "b", "ema_a"], {"ema": "ema"}, "expected an average of b, w.pth has none"),
        (["a", "ema_b"], {}, r"every ema_\* tensor to belong to one other, w.pth has ema_b"),
        (["a.b", "a_b", "ema_a_b"], {}, r"every ema_\* tensor to belong .* do not tell which"),
        (["a"], {"layout": "nope"}, "expected a layout out of mocov3, .*timm, got 'nope'"),
        (["backbone.a", "a", "neck.b"], {}, "expected one tensor for a, w.pth has backbone.a and"),
        (["decoder.0.weight"], {}, r"expected weights of a backbone, w.pth \(simmim\) has none"),
    ],
)
def test_what_cannot_be_renamed(names, options, message):
    with pytest.raises(WeightsError, match=message):
        rename(file(*names), **options)
