import numpy as np
import pytest
import torch
from PIL import Image

from a2mim.data.arrays import digits
from a2mim.methods.sites import shape_at, site_of
from a2mim.recipes.demo import NETWORKS, SIZE, recipes, some_of_each, write_digits
from a2mim.recipes.pretrain import RECIPES
from a2mim.recipes.pretraining import backbone_of, method_of
from a2mim.settings.demo import DemoConfig
from interactions.patches import PatchGrid


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_small_and_meet_the_mask_blocks(name):
    recipe = RECIPES[f"digits-demo-{name}"]()
    model = backbone_of(recipe)
    assert 0.05e6 < sum(p.numel() for p in model.parameters()) < 1e6
    assert shape_at(model, site_of(model), recipe.image_size)[1] == PatchGrid(4, 4)
    method = method_of(recipe)
    visible = method.draw(torch.arange(2), 0)
    assert visible.shape == (2, 16)
    assert method(torch.zeros(2, 3, 32, 32), visible)["output"].shape == (2, 3, 32, 32)


def test_few_labels_are_as_many_of_each_class_and_others_for_another_seed():
    labels_I = torch.tensor([0, 1, 2] * 20)
    chosen = some_of_each(labels_I, 5, 0)
    assert labels_I[chosen].bincount().tolist() == [5, 5, 5]
    assert chosen == sorted(set(chosen)) == some_of_each(labels_I, 5, 0)
    assert chosen != some_of_each(labels_I, 5, 1)
    assert len(some_of_each(labels_I, 100, 0)) == 60


def test_effort_shortens_all_training():
    whole, tenth = (recipes("vit", 1, DemoConfig(effort=effort)) for effort in (1.0, 0.1))
    for long, short in zip(whole, tenth, strict=True):
        assert short.epochs == round(long.epochs / 10)
        assert short.warmup / short.epochs == pytest.approx(long.warmup / long.epochs)
        assert short.seed == long.seed == 1


def test_every_other_digit_tests(tmp_path):
    write_digits(tmp_path / "data")
    first, second = digits(SIZE)
    labels_I = torch.cat([first.labels_I, second.labels_I])
    pixels_ICHW = torch.cat([first.pixels_ICHW, second.pixels_ICHW])
    files = sorted((tmp_path / "data").rglob("*.png"), key=lambda file: int(file.stem))
    assert [int(file.stem) for file in files] == list(range(1797))
    assert [file.parts[-3] for file in files[:4]] == ["train", "val", "train", "val"]
    assert [int(file.parts[-2]) for file in files] == labels_I.tolist()
    for number in (0, 1796):
        np.testing.assert_array_equal(Image.open(files[number]), pixels_ICHW[number, 0])
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
