import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from timm import create_model

from experiments.runs import UsageError
from experiments.subjects import load_subject, model_options


def saved(tmp_path, name="test_resnet", classes=10):
    torch.manual_seed(1)
    model = create_model(name, num_classes=classes).eval()
    path = tmp_path / f"{name}.safetensors"
    save_file(model.state_dict(), path)
    return model, path


@pytest.mark.parametrize("classes", [10, 1000, 0])
def test_a_file_tells_its_number_of_classes(tmp_path, classes):
    model, path = saved(tmp_path, classes=classes)
    subject = load_subject("test_resnet", path, "cpu", headless=classes == 0)
    image = subject.transform(Image.new("RGB", (300, 200), (200, 10, 90)))[None]
    assert image.shape == (1, 3, *model.default_cfg["input_size"][1:])
    with torch.inference_mode():
        torch.testing.assert_close(subject.model(image), model(image))
    assert (subject.name, subject.weights) == ("test_resnet", "test_resnet.safetensors")
    assert not subject.model.training


def test_the_classifier_can_be_taken_off(tmp_path):
    model, path = saved(tmp_path)
    subject = load_subject("test_resnet", path, "cpu", headless=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
        torch.testing.assert_close(subject.model(images), expected)


def test_two_classifiers_of_a_distilled_model(tmp_path):
    _, path = saved(tmp_path, "deit_tiny_distilled_patch16_224", classes=7)
    subject = load_subject("deit_tiny_distilled_patch16_224", path, "cpu", headless=False)
    assert subject.model.num_classes == 7


def test_options_and_normalisation(tmp_path):
    options = model_options(["in_chans=3", "global_pool=max", "drop_rate=0.5"])
    assert options == {"in_chans": 3, "global_pool": "max", "drop_rate": 0.5}
    _, path = saved(tmp_path)
    grey = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    subject = load_subject("test_resnet", path, "cpu", options=options, normalisation=grey)
    assert subject.model.global_pool.pool_type == "max"
    image = subject.transform(Image.new("RGB", (300, 200), (255, 0, 0)))
    np.testing.assert_allclose(image[:, 0, 0], [2, -2, -2])
    for bad in ("pad_type", "=same", "a b=1"):
        with pytest.raises(UsageError, match="as NAME=VALUE, got"):
            model_options([bad])
    with pytest.raises(UsageError, match=r"cannot load weights for test_resnet: .*flavour"):
        load_subject("test_resnet", path, "cpu", options={"flavour": "sweet"})
    for bad in ({"mean": (0.5,)}, {"std": (0.5, 0.0, 0.5)}):
        with pytest.raises(UsageError, match="of 3 numbers"):
            load_subject("test_resnet", path, "cpu", normalisation=bad)


def test_bad_weights(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="name of a timm model, got 'resnot18'"):
        load_subject("resnot18", None, "cpu", headless=False)
    _, path = saved(tmp_path)
    with pytest.raises(UsageError, match=r"cannot load weights for test_vit: .*Missing key"):
        load_subject("test_vit", path, "cpu", headless=False)
    for content in ({"epoch": 3}, torch.zeros(3)):
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(UsageError, match=r"holds .* weights by name"):
            load_subject("test_resnet", tmp_path / "odd.pth", "cpu", headless=False)

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("timm.models._builder.load_pretrained", no_network)
    with pytest.raises(UsageError, match="cannot load weights for test_resnet: no network"):
        load_subject("test_resnet", None, "cpu", headless=False)
