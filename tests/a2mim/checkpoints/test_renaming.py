from pathlib import Path

import pytest
import torch

from a2mim.checkpoints.files import StateFile, WeightsError
from a2mim.checkpoints.renaming import rename


def file(*names, wrapper=(), **tensors):
    state = {name: torch.full((1,), float(k)) for k, name in enumerate(names)}
    return StateFile(Path("w.pth"), state | tensors, wrapper)


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
        (["a"], {"layout": "nope"}, "expected a layout out of .*mocov3, .*timm, got 'nope'"),
        (["backbone.a", "a", "neck.b"], {}, "expected one tensor for a, w.pth has backbone.a and"),
        (["decoder.0.weight"], {}, r"expected weights of a backbone, w.pth \(simmim\) has none"),
    ],
)
def test_what_cannot_be_renamed(names, options, message):
    with pytest.raises(WeightsError, match=message):
        rename(file(*names), **options)


NET = ("patch_embed.proj.weight", "blocks.0.norm1.weight")


def wrapped(prefix, *names):
    return [prefix + name for name in names]


@pytest.mark.parametrize(
    ("names", "beside"),
    [
        (wrapped("module._orig_mod.", *NET), []),
        (["_orig_mod.patch_embed.proj.weight", "blocks._orig_mod.0.norm1.weight"], []),
        (
            [
                "_fsdp_wrapped_module.patch_embed.proj.weight",
                "blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module.norm1.weight",
            ],
            [],
        ),
        ([*wrapped("module.", *NET), "n_averaged"], ["n_averaged"]),
        ([*wrapped("model.", *NET), "loss.weight", "step"], ["loss.weight", "step"]),
        ([*wrapped("net.", *NET), "metric.total"], ["metric.total"]),
        ([*wrapped("model.encoder.", *NET), "head.weight"], ["head.weight"]),
        (
            [*wrapped("model.", *NET), *wrapped("model_ema.module.", *NET)],
            wrapped("model_ema.module.", *NET),
        ),
    ],
)
def test_what_wrappers_put_before_names_goes_wherever_it_stands(names, beside):
    renamed = rename(file(*names))
    assert sorted(renamed.tensors) == sorted(NET)
    assert sorted(renamed.dropped) == sorted(beside)
    assert len(renamed.tensors) + len(renamed.dropped) == len(names)


def test_averages_beside_a_network_under_their_own_prefix():
    names = [*wrapped("model.", *NET), *wrapped("model_ema.module.", *NET)]
    renamed = rename(file(*names), ema="ema")
    assert all(origin.startswith("model_ema.") for origin, _ in renamed.tensors.values())


def test_two_networks_of_which_none_is_meant():
    names = [*wrapped("one.", *NET), *wrapped("two.", *NET)]
    with pytest.raises(WeightsError, match=r"has 2, whose names begin with one\., two\."):
        rename(file(*names))


def test_queries_keys_and_values_become_one():
    names = [f"encoder.layer.0.attention.attention.{n}.weight" for n in ("query", "key", "value")]
    parts = {name: torch.full((2, 4), float(k)) for k, name in enumerate(names)}
    ((name, (origin, tensor)),) = rename(file(**parts)).tensors.items()
    assert name == "blocks.0.attn.qkv.weight"
    assert origin == ", ".join(names)
    assert torch.equal(tensor[:, 0], torch.tensor([0.0, 0, 1, 1, 2, 2]))
    del parts[names[1]]
    with pytest.raises(WeightsError, match="expected queries, keys and values of one shape"):
        rename(file(**parts))


def test_a_file_without_tensors_has_no_backbone():
    with pytest.raises(WeightsError, match="has none"):
        rename(file())
