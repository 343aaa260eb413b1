from dataclasses import replace

import pytest
import torch

from a2mim.recipes import checks
from a2mim.recipes.finetuning import check
from a2mim.recipes.pretrain import RECIPES as PRETRAIN
from a2mim.recipes.pretraining import method_of
from experiments.cifar10.arms import ABLATIONS, ARMS, EXTRAS, Arm, finetuning, pretraining
from experiments.cifar10.sizes import TINY


@pytest.mark.parametrize("name", [*ARMS["vit"], *EXTRAS, *ABLATIONS])
def test_every_arm_of_the_vit_learns(name):
    learns(Arm("vit", name, 0))


@pytest.mark.parametrize("name", ARMS["resnet"])
def test_every_arm_of_the_resnet_learns(name):
    learns(Arm("resnet", name, 0))


def learns(arm):
    name, config = pretraining(arm, TINY, "")
    checks.check(config, PRETRAIN[name]())
    method = method_of(config)
    images = torch.randn(4, 3, 32, 32)
    loss = method(images, method.draw(torch.arange(4), 0))["loss"]
    loss.backward()
    assert torch.isfinite(loss)


def test_arms_of_a_seed_begin_with_the_same_weights():
    def first(name, seed):
        _, config = pretraining(Arm("vit", name, seed), TINY, "")
        return method_of(config).backbone.state_dict()

    a, b, other = first("a2mim", 0), first("mae", 0), first("a2mim", 1)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], other[key]) for key in a)


def test_fine_tuning_differs_in_augmentation_alone():
    plain, strong = (finetuning(Arm("vit", n, 0), TINY, "") for n in ("a2mim", "strong"))
    assert (strong.cutmix, strong.erasing) == (1.0, 0.25)
    assert replace(strong, cutmix=0.0, erasing=0.0) == plain
    check(plain)
