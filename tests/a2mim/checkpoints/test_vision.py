import copy

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform
from torchvision import models

from a2mim.checkpoints.vision import classifier_of, look, make
from a2mim.measure.networks import load, own_code, recognised, subject_of
from a2mim.messages import UsageError
from a2mim.settings.weights import WeightsConfig
from interactions.networks.layers import layer_features


@pytest.fixture(scope="module")
def theirs():
    """SqueezeNet with seven classes, as torchvision makes it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return models.squeezenet1_1(weights=None, num_classes=7).eval()


@pytest.fixture(scope="module")
def file(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("vision") / "seven.safetensors"
    save_file(theirs.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def test_a_file_fills_the_network_with_as_many_classes_as_it_has(theirs, file, images):
    name = f"torchvision:squeezenet1_1={file}"
    loaded = load(name, WeightsConfig())
    report = loaded.report
    assert (report.architecture, report.classes) == ("torchvision:squeezenet1_1", 7)
    assert loaded.data_config["input_size"] == (3, 224, 224)
    torch.testing.assert_close(loaded.model(images), theirs(images), rtol=0, atol=0)
    assert recognised(name, WeightsConfig()).sha256 == report.sha256
    assert own_code(name) == ""


def test_without_its_classifier_it_gives_features(theirs, file, images):
    subject = subject_of(f"torchvision:squeezenet1_1={file}", WeightsConfig(), "cpu", headless=True)
    with torch.no_grad():
        expected = theirs.features(images).mean(dim=(2, 3))
        torch.testing.assert_close(subject.model(images), expected)
        found = layer_features(subject.model, images, layers=("features.12",))
    torch.testing.assert_close(found["features.12", "mean"], expected)


def test_a_copy_loses_its_own_classifier():
    model = make("torchvision:squeezenet1_1", {"num_classes": 5})
    other = copy.deepcopy(model)
    other.reset_classifier(0)
    assert (model.num_classes, other.num_classes) == (5, 0)
    assert isinstance(model.get_submodule("classifier.1"), torch.nn.Conv2d)


def test_random_weights(images):
    name = "untrained:torchvision:squeezenet1_1"
    config = WeightsConfig(model_kwargs=("num_classes=3",))
    subject = subject_of(name, config, "cpu")
    assert subject.weights == "untrained, seed 0"
    with torch.no_grad():
        assert subject.model(images).shape == (2, 3)
    again = subject_of(name, config, "cpu")
    assert again.report.sha256 == subject.report.sha256
    assert not again.report.assumed
    twin = subject.untrained(1)
    assert not torch.equal(twin.features[0].weight, subject.model.features[0].weight)


@pytest.mark.parametrize(
    ("network", "head"),
    [
        ("alexnet", "classifier.6"),
        ("convnext_tiny", "classifier.2"),
        ("efficientnet_b0", "classifier.1"),
        ("googlenet", "fc"),
        ("inception_v3", "fc"),
        ("maxvit_t", "classifier.5"),
        ("mobilenet_v3_small", "classifier.3"),
        ("resnet18", "fc"),
        ("squeezenet1_0", "classifier.1"),
        ("swin_t", "head"),
        ("vit_b_16", "heads.head"),
    ],
)
def test_the_classifier_of_every_family(network, head):
    with torch.device("meta"):
        model = make(f"torchvision:{network}")
    assert classifier_of(model) == head
    assert model.num_classes == 1000


@pytest.mark.parametrize("weights", [models.ResNet50_Weights.IMAGENET1K_V2, "V1", "other"])
def test_images_are_prepared_as_torchvision_does(weights):
    first = models.ResNet50_Weights.IMAGENET1K_V1
    of_file = isinstance(weights, str)
    file = {"V1": first.url, "other": "mine.pth"}[weights] if of_file else weights.url
    config, known, whose = look("torchvision:resnet50", file.rpartition("/")[2])
    expected = first if of_file else weights
    assert whose == str(expected)
    assert ("crop_pct" in known) == (weights != "other")  # 256 px of the first, 232 of the second
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    ours = create_transform(**config, crop_mode="center")(picture)
    torch.testing.assert_close(ours, expected.transforms()(picture), rtol=0, atol=1e-6)


def test_what_a_file_does_not_tell_is_assumed(file, tmp_path):
    path = tmp_path / "mine.pth"
    torch.save(models.mobilenet_v2(weights=None, num_classes=2).state_dict(), path)
    report = load(f"torchvision:mobilenet_v2={path}", WeightsConfig()).report
    assert [one.setting for one in report.assumed] == ["crop_pct"]
    told = load(f"torchvision:mobilenet_v2={path}", WeightsConfig(crop_pct=0.9)).report
    assert not told.assumed
    assert told.look["crop_pct"] == 0.9
    assert not load(f"torchvision:squeezenet1_1={file}", WeightsConfig()).report.assumed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:squeezenet1_1", "expected torchvision:squeezenet1_1=WEIGHTS, or untrained:"),
        ("untrained:torchvision:squezenet1_1", "did you mean squeezenet1_1"),
        ("torchvision:squeezenet1_1=none.pth", "none.pth"),
    ],
)
def test_what_cannot_be_used_is_one_line(name, message):
    with pytest.raises(UsageError, match=message) as error:
        load(name, WeightsConfig())
    assert "\n" not in str(error.value)


def test_weights_of_another_network_or_unknown_options(file):
    with pytest.raises(UsageError, match="to fit MobileNetV2 in every tensor"):
        load(f"torchvision:mobilenet_v2={file}", WeightsConfig())
    with pytest.raises(UsageError, match=r"cannot make torchvision:squeezenet1_1: .*nonsense"):
        load("untrained:torchvision:squeezenet1_1", WeightsConfig(model_kwargs=("nonsense=1",)))
