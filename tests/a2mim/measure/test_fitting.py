import pytest
import timm

from a2mim.measure.fitting import Sight, as_setting, fitting_grid, parsed_grid, sight_of, unlike
from a2mim.messages import UsageError
from interactions.patches import PatchGrid


def cnn(*size):
    return Sight("cnn", *(size if len(size) == 2 else size * 2))


def vit(size, side):
    return Sight("vit", size, size, PatchGrid(side, side))


@pytest.mark.parametrize(
    ("sights", "grid"),
    [
        ([cnn(224)], 14),
        ([cnn(160)], 10),
        ([cnn(32)], 8),
        ([cnn(224), cnn(192)], 8),
        ([cnn(224, 160)], "14x10"),
        ([vit(224, 14)], 14),
        ([vit(224, 7), vit(384, 7)], 7),
        ([vit(518, 37)], 37),
        ([vit(32, 8), cnn(64)], 8),
        ([vit(384, 24), cnn(224)], 8),
        ([vit(518, 37), cnn(224)], 14),  # the pixels, for patches have no common grid
    ],
)
def test_an_automatic_grid_fits_all(sights, grid):
    assert as_setting(fitting_grid(None, sights)) == grid


def test_what_fits_none():
    with pytest.raises(UsageError, match="4 to 14 patches per side divide, got 31 x 31 px"):
        fitting_grid(None, [cnn(31)])
    assert fitting_grid(16, [cnn(224), cnn(192)]) == PatchGrid(16, 16)
    with pytest.raises(UsageError, match=r"a 14 x 14 grid divides, got 160 x 160 px.*give 10"):
        fitting_grid(14, [cnn(224), cnn(160)])


@pytest.mark.parametrize("setting", [0, "4x", "x4", "4x8x2", -3, "four"])
def test_a_grid_is_a_number_or_two(setting):
    with pytest.raises(UsageError, match="such as 14 or 4x8"):
        parsed_grid(setting)
    assert parsed_grid("4x8") == PatchGrid(4, 8)
    assert as_setting(parsed_grid("4x4")) == 4


def test_what_a_network_says_of_itself():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1)
    assert sight_of("v", model, (3, 32, 32), 10) == Sight("v", 32, 32, PatchGrid(4, 4), 10)
    assert sight_of("r", timm.create_model("test_resnet"), (3, 64, 32)) == Sight("r", 64, 32)


@pytest.mark.parametrize(
    ("classifiers", "of_data", "highest", "why"),
    [
        ([10, 10], 10, 9, ""),
        ([10], None, 9, ""),
        ([], 10, 9, ""),
        ([1000], 10, 9, "1000 classes and digits has 10"),
        ([10, 3], 10, 9, "different numbers of classes (3, 10)"),
        ([10], None, 10, "the class index 10"),
    ],
)
def test_labels_judge_classifiers_of_their_classes_alone(classifiers, of_data, highest, why):
    said = unlike(classifiers, of_data, highest, "digits")
    assert said.endswith(why)
    assert bool(said) == bool(why)
