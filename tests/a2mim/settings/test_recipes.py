import shlex
from dataclasses import dataclass, field

import pytest

from a2mim.messages import UsageError
from a2mim.recipes.finetune import RECIPES as FINETUNE
from a2mim.recipes.pretrain import RECIPES as PRETRAIN
from a2mim.settings.options import parse
from a2mim.settings.pretrain import Pretrain, pretrain_options
from a2mim.settings.probe import FinetuneProbe, finetune_options
from a2mim.settings.recipes import as_options, chosen, list_recipes


def test_recipes_by_name():
    assert chosen("b", {"a": 1, "b": 2}) == 2
    with pytest.raises(UsageError, match=r"got 'alphaa'; did you mean alpha\?"):
        chosen("alphaa", {"alpha": 1})


def test_every_recipe_is_listed_with_its_first_line():
    def quick():
        """In minutes.

        And more.
        """

    text = list_recipes({"a": {"quick": quick, "long-name": 3}, "b": {"x": quick}})
    assert text.splitlines() == [
        "a:",
        "  quick      In minutes.",
        "  long-name  3",
        "b:",
        "  x          In minutes.",
    ]


@dataclass(frozen=True)
class Inner:
    depth: int = 2


@dataclass(frozen=True)
class Outer:
    data: str = ""
    name: str = "two words"
    rate: float = 3e-4
    on: bool = False
    off: bool = True
    clip: float | None = None
    range: tuple[float, float] = (0.2, 1.0)
    model_kwargs: dict = field(default_factory=lambda: {"layers": (1, 2), "pool": "avg"})
    inner: Inner = Inner()


def test_settings_of_every_type_as_options():
    assert as_options(Outer()) == [
        "--data ''",
        "--name 'two words'",
        "--rate 0.0003",
        "--no-on",
        "--off",
        "--clip None",
        "--range 0.2 1.0",
        "--model-kwargs 'layers=(1,2)' pool=avg",
        "--depth 2",
    ]
    assert as_options(Inner(), "a.") == ["--a.depth 2"]


SOME = [*list(PRETRAIN)[::6], "cifar10-mae", "cifar10-rmae", "cifar10-cmae"]


@pytest.mark.parametrize("name", SOME)
def test_the_options_that_are_shown_give_the_recipe_back(name):
    recipe = PRETRAIN[name]()
    words = shlex.split(" ".join(as_options(recipe)))
    other = "cifar10-cmae" if recipe.method.name == "cmae" else "digits-resnet"
    arguments = [other, "--method", recipe.method.name, "--data", "", *words]
    given = parse(Pretrain, arguments, "pretrain", "", pretrain_options(arguments))
    assert given.config == recipe


@pytest.mark.parametrize("name", ["rsb-a3", "digits"])
def test_so_do_those_of_fine_tuning(name):
    without = {"data", "seed"}
    words = shlex.split(" ".join(as_options(FINETUNE[name](), "finetune.", without)))
    arguments = ["x.pth", "--method", "finetune", "--recipe", "simmim-vit-b", *words]
    given = parse(FinetuneProbe, arguments, "probe", "", finetune_options(arguments)).config
    for key, value in vars(FINETUNE[name]()).items():
        if key not in without:
            assert getattr(given.finetune, key) == value
