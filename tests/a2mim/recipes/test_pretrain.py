"""Every recipe builds and makes a step, shrunk in depth and width but in nothing else."""

import json
from dataclasses import fields, replace
from typing import get_args, get_type_hints

import pytest
import torch

from a2mim.data.named import NAMES
from a2mim.methods.losses import LOSSES
from a2mim.methods.mask_token import TokenInit, TokenMode
from a2mim.recipes.pretrain import (
    METHODS,
    RECIPES,
    A2mim,
    Cmae,
    Mae,
    changed,
    flat,
    recorded_config,
    with_method,
)
from a2mim.recipes.pretraining import backbone_of, method_of
from a2mim.recipes.training import schedule
from a2mim.training.optim import RULES, parameter_groups

SMALLER = {
    "beit": {"embed_dim": 24, "depth": 2, "num_heads": 2},
    "vit": {"embed_dim": 24, "depth": 2, "num_heads": 2},
    "resnet": {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)},
    "convnext": {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)},
    "moganet": {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1)},
    "swin": {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
}


def shrunk(config):
    family = next(name for name in SMALLER if config.backbone.startswith(name))
    options = config.model_kwargs | SMALLER[family]
    small = {}
    if isinstance(config.method, A2mim):
        if config.method.position and family == "beit":
            options["depth"] = config.method.position + 1
    elif isinstance(config.method, Cmae):
        small["head"] = (16, 8)
    else:
        small["decoder"] = (16, 1, 2)
    return changed(config, model_kwargs=options, **small)


@pytest.mark.parametrize("name", RECIPES)
def test_a_step(name):
    config = shrunk(RECIPES[name]())
    method = method_of(config)
    groups = parameter_groups(method, config.lr, config.weight_decay, RULES[config.rules])
    optimiser = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)
    images = torch.randn(2, 3, config.image_size, config.image_size)
    before = {key: value.clone() for key, value in method.named_parameters()}
    losses = method(images, method.draw(torch.arange(2), 0))
    assert losses["output"].shape == (
        (2, 1, 8) if isinstance(config.method, Cmae) else images.shape
    )
    losses["loss"].backward()
    optimiser.step()
    assert losses["loss"].isfinite()
    trained = {k: v for k, v in method.named_parameters() if v.requires_grad}
    assert not [k for k, v in trained.items() if v.grad is None]
    learning = [k for k, v in trained.items() if v.grad.any()]
    assert all(not torch.equal(trained[k], before[k]) for k in learning)
    assert "decoder.project.weight" in learning or not isinstance(config.method, A2mim)


@pytest.mark.parametrize("name", RECIPES)
def test_a_label_says_what_it_is(name):
    lines = RECIPES[name].__doc__.splitlines()
    assert lines[0].endswith(".")
    assert "Expected: " in RECIPES[name].__doc__
    if not name.startswith(("digits", "cifar10", "tiny")):
        assert "Source: " in RECIPES[name].__doc__


def test_sets_that_can_be_had_by_name_are_named():
    for name, recipe in RECIPES.items():
        named = [part for part in name.split("-") if part in NAMES]
        assert [recipe().data] == (named or [""])


def test_mae_and_its_relatives_differ_in_nothing_else():
    """So do the masks and the weights to start from, which the seed decides."""
    mae, relaxed, contrast = (RECIPES[f"cifar10-{name}"]() for name in ("mae", "rmae", "cmae"))
    assert replace(relaxed, method=mae.method) == replace(contrast, method=mae.method) == mae
    assert relaxed.method.decoder == mae.method.decoder
    one, *others = (method_of(shrunk(config)) for config in (mae, relaxed, contrast))
    for other in others:
        masks = (m.draw(torch.arange(5), 0) for m in (one, other))
        assert torch.equal(*masks)
        for name, weight in one.backbone.state_dict().items():
            assert torch.equal(weight, other.backbone.state_dict()[name])


def test_table_4_2_of_the_notes():
    """Peak rates by the official formulas, 1e-4 x 2048 / 512 and 3e-4 x 2048 / 512."""
    for name in ("a2mim-vit-s-in1k", "a2mim-vit-b-in1k", "a2mim-vit-l-in1k"):
        config = RECIPES[name]()
        assert (config.lr, config.epochs, config.clip) == (pytest.approx(1e-4 * 4), 800, 5.0)
        assert (config.method.loss, config.method.token, config.method.position) == (
            "official-vit",
            "add",
            0,
        )
    for name in ("a2mim-r50-in1k", "a2mim-r101-in1k", "a2mim-r152-in1k", "a2mim-r200-in1k"):
        config = RECIPES[name]()
        assert (config.lr, config.epochs, config.clip) == (pytest.approx(3e-4 * 4), 300, None)
        assert (config.method.token, config.method.position, config.crop) == (
            "damped",
            3,
            (0.8, 1.0),
        )
    assert RECIPES["a2mim-r50-in1k"]().method.loss == "official-r50"
    assert RECIPES["a2mim-r101-in1k"]().method.loss == "official-r101"
    assert RECIPES["a2mim-r200-in1k"]().method.loss == "official-cnn-nofreq"


def test_parameters_of_the_official_vit_s():
    """48.06 M without a head (our notes, section 3.4), counted on the meta device."""
    with torch.device("meta"):
        backbone = backbone_of(RECIPES["a2mim-vit-s-in1k"]())
    assert sum(p.numel() for p in backbone.parameters()) == pytest.approx(48.06e6, abs=5e3)


def test_schedules():
    """R-50, 300 epochs of 626 steps: section 4.5 of our notes."""
    cosine = schedule(RECIPES["a2mim-r50-in1k"](), 187_800, 626)
    for step, rate in {1: 1.911363e-7, 626: 1.197174e-4, 6260: 1.2e-3, 50_000: 1.037533e-3}.items():
        assert cosine(step, 1.0) == pytest.approx(rate, rel=1e-6)
    assert cosine(50_000, 0.1) == pytest.approx(1.049821e-4, rel=1e-6)
    plain = schedule(replace(RECIPES["a2mim-r50-in1k"](), schedule="plain_cosine"), 187_800, 626)
    assert plain(0, 1.0) == 0
    assert plain(93_900, 1.0) == pytest.approx((1.2e-3 + 1e-5) / 2)  # half-way, and no warm-up
    assert plain(93_900, 0.1) == pytest.approx((1.2e-4 + 1e-5) / 2)
    step = schedule(RECIPES["a2mim-vit-b-in1k"](), 800 * 626, 626)
    assert step(699 * 626, 1.0) == pytest.approx(4e-4)
    assert step(700 * 626, 1.0) == pytest.approx(4e-5)


def test_choices_are_those_of_the_modules():
    """Named again in the settings, which need no torch."""
    hints = get_type_hints(A2mim)
    assert get_args(hints["loss"]) == tuple(LOSSES)
    assert get_args(hints["token_init"]) == get_args(TokenInit)
    assert set(get_args(hints["token"])) == set(get_args(TokenMode))


def test_settings_are_recorded_flat_and_those_of_another_method_are_not_there():
    vit, tokens = RECIPES["digits-vit"](), with_method(RECIPES["cifar10-cmae"](), "cmae-tokens")
    assert (flat(vit)["method"], flat(vit)["token"], flat(vit)["lr"]) == ("a2mim", "add", 1e-3)
    assert (flat(tokens)["method"], flat(tokens)["level"]) == ("cmae", "token")
    assert not {"temperature", "decoder", "level"} & flat(vit).keys()
    with pytest.raises(TypeError, match="temperature"):
        changed(vit, temperature=0.2)


def test_another_method_keeps_what_both_have():
    mae = changed(RECIPES["cifar10-mae"](), decoder=(16, 1, 2))
    relaxed = with_method(mae, "rmae")
    assert relaxed.method.decoder == (16, 1, 2)
    assert replace(relaxed, method=mae.method) == mae
    assert with_method(mae, "mae") is mae
    assert with_method(relaxed, "mae").method == Mae((16, 1, 2))
    assert all(with_method(mae, name).method == METHODS[name]() for name in ("a2mim", "cmae"))


@pytest.mark.parametrize("name", [*RECIPES, "cmae-tokens"])
def test_a_configuration_is_had_back_from_what_a_run_records(name):
    config = with_method(RECIPES["cifar10-cmae"](), name) if name in METHODS else RECIPES[name]()
    settings = json.loads(json.dumps(flat(config)))
    again = recorded_config(settings)
    assert replace(again, model_kwargs=config.model_kwargs) == config
    assert json.loads(json.dumps(again.model_kwargs)) == settings["model_kwargs"]
    del settings[fields(config.method)[0].name]
    with pytest.raises(ValueError, match=config.method.name):
        recorded_config(settings)
