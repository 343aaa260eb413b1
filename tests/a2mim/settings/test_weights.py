import pytest
import tyro

from a2mim.messages import UsageError
from a2mim.settings.weights import (
    ModelsConfig,
    WeightsConfig,
    check_checkpoints,
    model_options,
    names_of,
    options_as_text,
    size_of,
    weights_of,
)


def test_options_of_weights_stand_beside_those_of_the_command():
    given = ["a.pth", "--ema", "--mean", "0.5", "0.5", "0.5", "--model-kwargs", "pad_type=same"]
    config = tyro.cli(ModelsConfig, args=given)
    assert config.checkpoints == ("a.pth",)
    assert config.weights == WeightsConfig(("pad_type=same",), ema=True, mean=(0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("checkpoint", "names"),
    [
        ("x/a.pth", {"a.pth"}),
        ("resnet18=a.pth", {"a.pth"}),
        ("resnet18=x/a.pth", {"x/a.pth", "a.pth"}),
        ("y/own.py:make=x/epoch=3.ckpt", {"x/epoch=3.ckpt", "epoch=3.ckpt"}),
        ("x/epoch=3.ckpt", {"epoch=3.ckpt"}),
    ],
)
def test_a_checkpoint_is_named_as_it_is_given_or_by_its_file(checkpoint, names):
    assert names | {checkpoint} <= names_of(checkpoint)


def test_settings_of_one_network():
    given = ["x/a.pth", "b.pth", "--std", "1", "1", "1", "--model-kwargs", "depth=2"]
    given += ["--for", "a.pth", "name=Ours, at last", "std=.5,.5,.5", "pool=avg"]
    given += ["--for", "b.pth", "layout=mae", "crop_pct=.9", "interpolation=bilinear"]
    config = tyro.cli(ModelsConfig, args=given).weights
    assert config.std == (1, 1, 1)
    one, title = weights_of("x/a.pth", config)
    assert (title, one.std, one.layout) == ("Ours, at last", (0.5, 0.5, 0.5), "")
    assert model_options(one.model_kwargs) == {"depth": 2, "pool": "avg"}
    other, title = weights_of("b.pth", config)
    assert (title, other.std, other.layout) == ("", (1, 1, 1), "mae")
    assert (other.crop_pct, other.interpolation) == (0.9, "bilinear")
    assert other.model_kwargs == config.model_kwargs
    check_checkpoints(("x/a.pth", "b.pth"), config)
    with pytest.raises(UsageError, match=r"got 'b\.pth layout=mae "):
        check_checkpoints(("a.pth",), config)


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        (None, None),
        (96, 96),
        ("96", 96),
        ("96x96", 96),
        ("96x160", (96, 160)),
        ((96, 160), (96, 160)),
        ([160, 96], (160, 96)),
        ("4096x1", (4096, 1)),
    ],
)
def test_sizes_of_images(asked, size):
    """In each form; those that a command line can hold also on it."""
    assert size_of(WeightsConfig(image_size=asked)) == size
    if isinstance(asked, int | str):
        given = tyro.cli(ModelsConfig, args=["a.pth", "--image-size", str(asked)])
        assert size_of(given.weights) == size


@pytest.mark.parametrize(
    "asked", [0, -5, 4097, 1e400, "96 160", "x96", "96x", "96x0", "a", (96,) * 3, (), "٣x٣"]
)
def test_what_is_no_size(asked):
    with pytest.raises(UsageError, match="expected --image-size of N or HEIGHTxWIDTH, 1 to 4096"):
        check_checkpoints(("a.pth",), WeightsConfig(image_size=asked))


@pytest.mark.parametrize("checkpoints", [(), ("a.pth", "")])
def test_an_empty_name_is_no_checkpoint(checkpoints):
    with pytest.raises(UsageError, match="expected a checkpoint, got none"):
        check_checkpoints(checkpoints, WeightsConfig())


@pytest.mark.parametrize(
    "words",
    [
        ("mean=red",),
        ("std=red",),
        ("std=0,1,1",),
        ("crop_pct=wide",),
        ("crop_pct=5",),
        ("interpolation=3",),
        ("ours",),
    ],
)
def test_words_that_say_nothing_of_a_network(words):
    with pytest.raises(UsageError):
        weights_of("a.pth", WeightsConfig(per_network=(("a.pth", *words),)))


def test_options_of_networks_as_text():
    options = {"depth": 2, "layers": (1, 2), "pool": "avg", "bias": False}
    assert model_options(options_as_text(options)) == options


@pytest.mark.parametrize(
    ("word", "limits"),
    [
        ("num_classes=-3", "at least 0 for num_classes"),
        ("num_classes=many", "a number for num_classes"),
        ("img_size=(32,-32)", "at least 1 for img_size"),
        ("depth=0", "at least 1 for depth"),
        ("drop_rate=1e400", "a finite number for drop_rate"),
        ("seed=99999999999999999999", "a finite number for seed"),
    ],
)
def test_numbers_that_no_network_can_have(word, limits):
    config = WeightsConfig(per_network=(("a.pth", word),))
    for fails in (lambda: model_options([word]), lambda: weights_of("a.pth", config)):
        with pytest.raises(UsageError, match=f"expected {limits}, got --"):
            fails()
    assert model_options(["num_classes=0", "img_size=(1,2)"]) == {
        "num_classes": 0,
        "img_size": (1, 2),
    }
