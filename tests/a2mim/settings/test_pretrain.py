from dataclasses import replace

import pytest

from a2mim.messages import UsageError
from a2mim.recipes.pretrain import RECIPES, CmaeTokens, changed
from a2mim.settings.options import parse
from a2mim.settings.pretrain import Pretrain, pretrain_options


def given(*arguments):
    return parse(Pretrain, arguments, "pretrain", "", pretrain_options(arguments))


def test_options_are_the_settings_of_the_recipe():
    words = ("--lr", "3e-4", "--batch-size", "512", "--token", "damped", "--clip", "None", "--fsdp")
    expected = changed(
        RECIPES["cifar10-vit"](), lr=3e-4, batch_size=512, token="damped", clip=None, fsdp=True
    )
    assert given("cifar10-vit", *words) == Pretrain("cifar10-vit", expected)
    assert given(*words, "cifar10-vit").config == expected
    assert given("cifar10-vit", "--no-resume").config == RECIPES["cifar10-vit"]()


def test_options_of_the_backbone_are_values():
    config = given("digits-vit", "--model-kwargs", "depth=2", "layers=(1,2)", "pool=avg").config
    assert config.model_kwargs == {"depth": 2, "layers": (1, 2), "pool": "avg"}


def test_another_method_has_its_own_options():
    config = given("cifar10-mae", "--method", "cmae-tokens", "--negatives", "all").config
    assert config.method == CmaeTokens(decoder=(64, 2, 4), negatives="all")
    assert replace(config, method=None) == replace(RECIPES["cifar10-mae"](), method=None)


@pytest.mark.parametrize(
    "arguments",
    [
        ("digits-vit", "--temperature", "0.2"),
        ("digits-vit", "--decoder", "16", "1", "2"),
        ("cifar10-mae", "--temperature", "0.2"),
        ("cifar10-mae", "--token", "add"),
        ("cifar10-rmae", "--method", "mae", "--view2", "full"),
        ("cifar10-cmae", "--negatives", "all"),
        ("digits-vit", "--epoch", "ten"),
        ("digits-vit", "--epochs", "ten"),
        ("digits-vit", "--token", "swap"),
        ("digits-vit", "--method", "simclr"),
        ("digits-vit", "--betas", "0.9"),
        ("digits-vit", "digits-resnet", "digits"),
    ],
)
def test_what_does_not_belong_cannot_be_given(arguments):
    with pytest.raises((SystemExit, UsageError)) as ended:
        given(*arguments)
    assert getattr(ended.value, "code", 2) == 2


def test_a_recipe_has_to_be_named(capsys):
    for arguments in (("digits-vti",), ("--lr", "3"), ()):
        with pytest.raises(UsageError, match="expected a recipe"):
            given(*arguments)
    with pytest.raises(SystemExit) as ended:
        given("--help")
    assert ended.value.code == 0
    assert "--token" in capsys.readouterr().out
