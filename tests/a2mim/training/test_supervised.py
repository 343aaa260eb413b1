import copy
import math

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from timm.optim import param_groups_layer_decay
from torch import nn

from a2mim.data.sampler import keyed_generator
from a2mim.training.loop import Saving, pretrain
from a2mim.training.mixing import Mixing, soft_targets
from a2mim.training.optim import OFFICIAL_VIT, explain_groups, parameter_groups
from a2mim.training.supervised import (
    FineTuning,
    decay_rules,
    final_norm,
    new_classifier,
    set_drop_path,
)

SMALL = {
    "beit_base_patch16_224": {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 3,
        "num_heads": 2,
        "use_abs_pos_emb": True,
        "init_values": 0.1,
        "global_pool": "token",
    },
    "vit_base_patch16_224": {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 3,
        "num_heads": 2,
    },
    "swin_tiny_patch4_window7_224": {
        "img_size": 32,
        "window_size": 2,
        "embed_dim": 8,
        "depths": (1, 2, 1, 1),
        "num_heads": (1, 1, 2, 2),
    },
    "convnext_tiny": {"depths": (1, 2, 1, 1), "dims": (8, 8, 16, 16)},
    "resnet50": {"layers": (1, 2, 1, 1), "channels": (8, 8, 16, 16)},
}


def build(name, **options):
    return timm.create_model(name, **(SMALL[name] | {"num_classes": 5} | options))


@pytest.fixture
def batch():
    generator = keyed_generator("batch")
    images = torch.randn(8, 3, 32, 32, generator=generator)
    return images, torch.randint(0, 5, (8,), generator=generator)


@pytest.mark.parametrize(
    ("loss", "reference"),
    [("cross_entropy", SoftTargetCrossEntropy()), ("binary", BinaryCrossEntropy(0.0))],
)
def test_timm_has_the_same_losses(loss, reference, batch):
    images, labels = batch
    model = build("resnet50").eval()
    mixing = Mixing(group=4)
    method = FineTuning(model, mixing, 0.1, loss)
    drawn = method.draw(8, keyed_generator(0))
    found = method(images, drawn, labels)
    mixed, share = mixing.images(images, drawn)
    targets = mixing.targets(soft_targets(labels, 5, 0.1), share)
    torch.testing.assert_close(found["output"], model(mixed))
    torch.testing.assert_close(found["loss"], reference(model(mixed), targets))


def test_without_mixing_it_is_label_smoothing(batch):
    images, labels = batch
    model = build("vit_base_patch16_224").eval()
    method = FineTuning(model, smoothing=0.1)
    drawn = method.draw(8, keyed_generator(0))
    assert drawn.shape == (8, 0)
    expected = nn.CrossEntropyLoss(label_smoothing=0.1)(model(images), labels)
    torch.testing.assert_close(method(images, drawn, labels)["loss"], expected)


def test_losses_by_hand():
    """Two classes, logits 0 and log 3: probabilities 1/4 and 3/4, sigmoids 1/2 and 3/4."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([0.0, math.log(3)]))
    call = (torch.zeros(1, 1, 1, 1), torch.empty(1, 0), torch.tensor([1]))
    found = FineTuning(model)(*call)["loss"].item()
    assert found == pytest.approx(-math.log(3 / 4), rel=1e-6)
    found = FineTuning(model, loss="binary")(*call)["loss"].item()
    assert found == pytest.approx(-(math.log(1 / 2) + math.log(3 / 4)) / 2, rel=1e-6)


class Digits:
    """Keyed images whose class is a brightness."""

    labels_I = torch.arange(24) % 5

    def __len__(self):
        return 24

    def load(self, index, epoch):
        noise = torch.randn(3, 32, 32, generator=keyed_generator(epoch, index))
        return 0.1 * noise + float(self.labels_I[index]) - 2


def train(tmp_path=None, stop=None, accumulate=1, seed=0, **options):
    model = build("vit_base_patch16_224")
    with torch.no_grad():
        for k, parameter in enumerate(model.parameters()):
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=keyed_generator(k)))
    set_drop_path(model, 0.2)
    method = FineTuning(model, Mixing(group=4), 0.1)
    saving = None if tmp_path is None else Saving(tmp_path, every_steps=2)
    losses = []

    def on_step(report):
        losses.append(report.losses["loss"])
        if report.step == stop:
            raise InterruptedError

    groups = parameter_groups(model, 1e-3, 0.05, OFFICIAL_VIT)
    call = (method, Digits(), torch.optim.AdamW(groups), lambda step, scale: 1e-2 * scale)
    how = {"batch_size": 8, "steps": 6, "accumulate": accumulate, "log_every": 1, "clip": 5.0}
    pretrain(
        *call, **how, labels_I=Digits.labels_I, cpu=True, on_step=on_step, saving=saving, seed=seed
    )
    return losses, model.state_dict()


def test_the_engine_trains_it_and_a_resumed_run_is_the_same(tmp_path):
    losses, weights = train()
    with pytest.raises(InterruptedError):
        train(tmp_path, stop=4)
    resumed, again = train(tmp_path)
    assert resumed == losses[2:]  # a step is saved after its report
    assert all(torch.equal(weights[key], again[key]) for key in weights)
    assert train(seed=1)[0] != losses


def test_micro_batches_train_the_same():
    """Without dropout, which is keyed by the step and not by the image."""

    def gradients(parts):
        model = build("vit_base_patch16_224", global_pool="avg")
        with torch.no_grad():
            for k, parameter in enumerate(model.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=keyed_generator(k)))
        method = FineTuning(model, Mixing(group=4), 0.1)
        images = torch.stack([Digits().load(k, 0) for k in range(16)])
        drawn = method.draw(16, keyed_generator(0))
        for part in torch.arange(16).chunk(parts):
            loss = method(images[part], drawn[part], Digits.labels_I[part])["loss"]
            (loss / parts).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    torch.testing.assert_close(gradients(4), gradients(1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_a_new_classifier(name, batch):
    model = build(name).eval()
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    new_classifier(model, 1000, keyed_generator("head"))
    assert torch.equal(torch.random.get_rng_state(), state)
    weight = model.get_classifier().weight.detach()
    assert model(batch[0]).shape == (8, 1000)
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert weight.abs().max() <= 2
    assert not model.get_classifier().bias.any()
    again = build(name)
    new_classifier(again, 1000, keyed_generator("head"))
    assert torch.equal(again.get_classifier().weight, weight)
    classifiers = (model.get_classifier().weight.data_ptr(), model.get_classifier().bias.data_ptr())
    for key, value in model.state_dict().items():
        assert value.data_ptr() in classifiers or torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "vit_base_patch16_224"])
@pytest.mark.parametrize(("pooling", "timms"), [("mean", "avg"), ("token", "token")])
@pytest.mark.parametrize("pretrained", ["avg", "token"])
def test_pooling_is_that_of_a_model_made_so(name, pooling, timms, pretrained, batch):
    """The same function as timm's model of that pooling with the same weights."""
    model = build(name, global_pool=pretrained).eval()
    norm = model.norm if pretrained == "token" else model.fc_norm
    nn.init.normal_(norm.weight)
    new_classifier(model, 5, keyed_generator(0), pooling)
    made = build(name, global_pool=timms).eval()
    made.load_state_dict(model.state_dict())
    assert torch.equal(made(batch[0]), model(batch[0]))
    assert final_norm(model) == {"mean": "after", "token": "before"}[pooling]
    fresh = model.fc_norm if pooling == "mean" else model.norm
    moved = timms != pretrained
    assert bool((fresh.weight == 1).all()) == moved


def test_where_the_norm_is():
    found = {name: final_norm(build(name)) for name in SMALL}
    assert found == {
        "beit_base_patch16_224": "before",
        "vit_base_patch16_224": "before",
        "swin_tiny_patch4_window7_224": "before",
        "convnext_tiny": "after",
        "resnet50": "none",
    }


@pytest.mark.parametrize("name", SMALL)
def test_drop_path_is_timms(name):
    def probabilities(model):
        return [
            0.0 if not isinstance(path, DropPath) else path.drop_prob
            for block in model.modules()
            for key in ("drop_path", "drop_path1", "drop_path2")
            if hasattr(block, key)
            for path in [getattr(block, key)]
        ]

    model = build(name)
    set_drop_path(model, 0.3)
    expected = probabilities(build(name, drop_path_rate=0.3))
    assert probabilities(model) == pytest.approx(expected, rel=1e-6)
    assert max(expected) == pytest.approx(0.3)
    set_drop_path(model, 0.0)
    assert not any(probabilities(model))


def test_drop_path_keeps_the_mode(batch):
    model = build("vit_base_patch16_224").eval()
    before = model(batch[0])
    set_drop_path(model, 0.5)
    assert torch.equal(model(batch[0]), before)


def test_layer_decay_of_vit_b_in_closed_form():
    """0.65^13 at the bottom, 0.65 in the last block, 1 for the norm after pooling and the head."""
    with torch.device("meta"):
        model = timm.create_model("beit_base_patch16_224", use_abs_pos_emb=True, num_classes=5)
    rules = (*OFFICIAL_VIT, *decay_rules(model, 0.65))
    scales = {row.name: row.lr_scale for row in explain_groups(model, rules)}
    for name in ("patch_embed.proj.weight", "pos_embed", "cls_token"):
        assert scales[name] == pytest.approx(0.65**13)
    for block in range(12):
        of_block = {scales[n] for n in scales if n.startswith(f"blocks.{block}.")}
        assert list(of_block) == [pytest.approx(0.65 ** (12 - block))]
    for name in ("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"):
        assert scales[name] == 1
    assert scales["patch_embed.proj.weight"] == pytest.approx(0.0037, abs=5e-5)
    assert scales["blocks.11.mlp.fc1.weight"] == 0.65


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "convnext_tiny", "resnet50"])
def test_layer_decay_of_other_families_is_timms(name):
    model = build(name)
    found = {row.name: row.lr_scale for row in explain_groups(model, decay_rules(model, 0.7))}
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    expected = {
        names[id(parameter)]: group["lr_scale"]
        for group in param_groups_layer_decay(model, layer_decay=0.7)
        for parameter in group["params"]
    }
    assert found == pytest.approx(expected)
    assert len(set(found.values())) > 5


def test_no_layer_decay_makes_no_rules():
    assert decay_rules(nn.Linear(2, 2), 1.0) == ()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FineTuning(nn.Identity(), loss="l2"), "loss of cross_entropy, binary, got 'l2'"),
        (lambda: FineTuning(nn.Identity(), smoothing=1.0), r"smoothing in \[0, 1\), got 1.0"),
        (lambda: set_drop_path(nn.Identity(), 0.1), "blocks can be left out, got Identity"),
        (lambda: set_drop_path(build("resnet50"), 1.0), r"drop-path rate in \[0, 1\), got 1.0"),
        (lambda: decay_rules(build("resnet50"), 0.0), r"layer decay in \(0, 1\], got 0.0"),
        (lambda: decay_rules(nn.Linear(2, 2), 0.5), "model of timm for a layer decay, got Linear"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "options", "pooling", "message"),
    [
        ("resnet50", {}, "mean", "expected a ViT for pooling 'mean', got ResNet; use 'own'"),
        ("resnet50", {}, "max", "expected pooling 'own', 'mean' or 'token', got 'max'"),
        (
            "vit_base_patch16_224",
            {"class_token": False, "global_pool": "avg"},
            "token",
            "a class token for pooling 'token'; use 'mean'",
        ),
    ],
)
def test_bad_poolings(name, options, pooling, message):
    with pytest.raises(ValueError, match=message):
        new_classifier(build(name, **options), 5, keyed_generator(0), pooling)


def test_a_classifier_of_two_parts_is_refused():
    model = timm.create_model(
        "deit_tiny_distilled_patch16_224", embed_dim=24, depth=1, num_heads=2, img_size=32
    )
    with pytest.raises(ValueError, match="one linear classifier, VisionTransformerDistilled has a"):
        new_classifier(model, 5, keyed_generator(0))
