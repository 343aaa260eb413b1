import json
import shutil
import sys
import types
from functools import partial

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from a2mim.checkpoints.files import WeightsError
from a2mim.checkpoints.zero_shot import read_texts
from a2mim.commands.compare import run as compare
from a2mim.commands.probe import probe
from a2mim.measure.interactions import interaction_curves
from a2mim.measure.networks import load, recorded, subject_of, without_classifier
from a2mim.measure.occlusion import occlusion
from a2mim.messages import UsageError
from a2mim.runs.table import read_table
from a2mim.settings.compare import CompareConfig
from a2mim.settings.interactions import InteractionsConfig
from a2mim.settings.occlusion import OcclusionConfig
from a2mim.settings.probe import ProbeConfig
from a2mim.settings.weights import WeightsConfig

NAMES = ("tench", "goldfish", "shark")


def texts(folder, width, **more):
    """A file of random text vectors that are not of length 1, and the vectors."""
    vectors = np.random.default_rng(0).normal(size=(3, width)) * [[2], [3], [0.5]]
    np.savez(folder / "texts.npz", names=NAMES, vectors=vectors, **more)
    return str(folder / "texts.npz"), vectors


def cosines(features, vectors):
    features = features.numpy().astype(float)
    dots = features @ vectors.T
    lengths = np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(vectors, axis=1)
    return dots / lengths


@pytest.mark.parametrize(("scale", "bias"), [(None, None), (20.0, None), (7.5, -3.0)])
def test_logits_are_scaled_cosines_of_outputs_and_texts(tmp_path, save_vit, scale, bias):
    """Of a tower whose classifier is the projection; also with words of one network."""
    path = save_vit(tmp_path / "tower.safetensors", classes=5)
    more = {key: value for key, value in (("scale", scale), ("bias", bias)) if value is not None}
    file, vectors = texts(tmp_path, 5, **more)
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        expected = cosines(load(path, WeightsConfig()).model(images), vectors)
    expected = (scale or 100) * expected + (bias or 0)
    for config in (
        WeightsConfig(texts=file),
        WeightsConfig(per_network=(("tower.safetensors", f"texts={file}"),)),
    ):
        loaded = load(path, config)
        with torch.inference_mode():
            np.testing.assert_allclose(loaded.model(images), expected, rtol=1e-3, atol=1e-3)
        assert loaded.report.classes == 3
        assert str(tmp_path) not in json.dumps(recorded(config))
        note = loaded.report.notes[-1]
        assert note.startswith("zero-shot: 3 classes of texts.npz, scale ")
        assert note.endswith("which nothing told") == (scale is None)
    assert loaded.report.sha256 != load(path, WeightsConfig()).report.sha256


def test_it_is_still_the_same_network_of_timm(tmp_path, save_vit):
    """Tokens, layers and the features behind the classifier."""
    path = save_vit(tmp_path / "tower.safetensors", classes=5)
    file, _ = texts(tmp_path, 5)
    images = torch.randn(2, 3, 32, 32)
    tower = load(path, WeightsConfig(texts=file)).model
    assert type(tower) is timm.models.VisionTransformer
    plain = without_classifier(load(path, WeightsConfig()).model)
    with torch.inference_mode():
        assert torch.equal(without_classifier(tower)(images), plain(images))


def test_a_network_of_ones_own(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\n\n\ndef net():\n    model = torch.nn.Sequential(torch.nn.Flatten(), "
        "torch.nn.Linear(48, 6))\n    model.pretrained_cfg = dict(input_size=(3, 4, 4), "
        "mean=(0.5,) * 3, std=(0.5,) * 3)\n    return model\n"
    )
    file, vectors = texts(tmp_path, 6, scale=10.0)
    name = f"untrained:{tmp_path / 'net.py'}:net"
    images = torch.randn(2, 3, 4, 4)
    with torch.inference_mode():
        features = load(name, WeightsConfig()).model(images)
        logits = load(name, WeightsConfig(texts=file)).model(images)
        np.testing.assert_allclose(logits, 10 * cosines(features, vectors), rtol=1e-4, atol=1e-4)
        headless = subject_of(name, WeightsConfig(texts=file), "cpu", headless=True)
        assert torch.equal(headless.model(images), features)


def test_the_projection_and_scale_of_a_file_of_clip(tmp_path, save_vit):
    """Those of open_clip around a tower of timm; the tower itself has no classifier."""
    path = save_vit(tmp_path / "alone.safetensors", classes=0)
    tower = load(path, WeightsConfig()).model
    projection = torch.randn(6, 16)
    state = {f"visual.trunk.{key}": value for key, value in tower.state_dict().items()}
    state |= {"visual.head.proj.weight": projection, "logit_scale": torch.tensor(2.0)}
    save_file(state, tmp_path / "clip.safetensors")
    options = tuple(
        f"{key}={value}" for key, value in (("patch_size", 8), ("embed_dim", 16), ("depth", 1))
    )
    config = WeightsConfig(
        model_kwargs=(*options, "num_heads=2", "img_size=32"), texts=texts(tmp_path, 6)[0]
    )
    vectors = texts(tmp_path, 6)[1]
    loaded = load(f"vit_tiny_patch16_224={tmp_path / 'clip.safetensors'}", config)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = np.exp(2.0) * cosines(tower(images) @ projection.T, vectors)
        np.testing.assert_allclose(loaded.model(images), expected, rtol=1e-4, atol=1e-4)


def test_texts_in_safetensors(tmp_path):
    vectors = torch.randn(3, 5)
    save_file(
        {"vectors": vectors, "scale": torch.tensor(50.0)},
        tmp_path / "t.safetensors",
        metadata={"names": json.dumps(NAMES)},
    )
    found = read_texts(str(tmp_path / "t.safetensors"))
    assert (found.names, found.scale, found.bias) == (NAMES, 50.0, 0.0)
    torch.testing.assert_close(found.vectors_KD, nn.functional.normalize(vectors, dim=1))


class Tower(nn.Module):
    """What open_clip gives, as far as it is used: texts are their lengths and first letters."""

    def __init__(self):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def encode_text(self, tokens):
        return tokens.half()


@pytest.fixture
def open_clip(monkeypatch):
    asked = []
    fake = types.ModuleType("open_clip")

    def create(name, pretrained):
        asked.append((name, pretrained))
        return Tower(), "for training", "for testing"

    fake.create_model_and_transforms = create
    fake.get_tokenizer = lambda name: (
        lambda prompts: torch.tensor([[len(prompt), ord(prompt[0])] for prompt in prompts])
    )
    monkeypatch.setitem(sys.modules, "open_clip", fake)
    return asked


def test_prompts_are_averaged_as_vectors_of_length_1(tmp_path, open_clip):
    (tmp_path / "classes.txt").write_text("cat\n\nold dog\n")
    (tmp_path / "templates.txt").write_text("{}\na photo of {}.\n")
    where = f"open_clip:ViT-B-32:openai:{tmp_path / 'classes.txt'}"
    for templates, more in (
        (["{}", "a photo of {}."], f":{tmp_path / 'templates.txt'}"),
        (None, ""),
    ):
        found = read_texts(where + more)
        expected = []
        for name in ("cat", "old dog"):
            prompts = [template.format(name) for template in templates or ["a photo of a {}."]]
            rows = np.array([[len(prompt), ord(prompt[0])] for prompt in prompts], float)
            mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)
            expected.append(mean / np.linalg.norm(mean))
        np.testing.assert_allclose(found.vectors_KD, expected, rtol=1e-5)
        assert found.names == ("cat", "old dog")
        assert found.scale == pytest.approx(np.exp(3.0))
    assert open_clip == [("ViT-B-32", "openai")] * 2


@pytest.mark.parametrize("model", ["hf-hub:timm/ViT-B-16-SigLIP", "local-dir:towers/mine"])
def test_models_of_open_clip_that_bring_their_weights(model, tmp_path, open_clip):
    (tmp_path / "classes.txt").write_text("cat\nold dog\n")
    (tmp_path / "templates.txt").write_text("a {}.\n")
    where = f"open_clip:{model}:{tmp_path / 'classes.txt'}"
    for more in ("", f":{tmp_path / 'templates.txt'}"):
        assert read_texts(where + more).names == ("cat", "old dog")
    assert open_clip == [(model, None)] * 2
    for wrong in (f"open_clip:{model}", "open_clip:hf-hub:", f"{where}:a:b"):
        with pytest.raises(WeightsError, match=r"or open_clip:hf-hub:USER/NAME:CLASSES\.txt"):
            read_texts(wrong)


@pytest.mark.integration
def test_texts_of_open_clip_itself(tmp_path):
    """Random weights of its smallest text tower, from a file as a user's would be."""
    library = pytest.importorskip("open_clip")
    model = library.create_model("ViT-S-32-alt").eval()
    torch.save(model.state_dict(), tmp_path / "random.pt")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    where = f"open_clip:ViT-S-32-alt:{tmp_path / 'random.pt'}:{tmp_path / 'classes.txt'}"
    found = read_texts(where)
    prompts = library.get_tokenizer("ViT-S-32-alt")(["a photo of a cat.", "a photo of a dog."])
    with torch.inference_mode():
        expected = nn.functional.normalize(model.encode_text(prompts), dim=1)
    torch.testing.assert_close(found.vectors_KD, expected)
    assert found.scale == pytest.approx(model.logit_scale.exp().item())


def test_what_cannot_be_read_is_one_line(tmp_path, monkeypatch, save_vit):
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "bad.txt").write_text("a photo\n")
    np.savez(tmp_path / "few.npz", names=["a", "b"], vectors=np.ones((3, 4)))
    np.savez(tmp_path / "zero.npz", names=["a", "b"], vectors=[[0.0, 0], [1, 1]])
    np.savez(tmp_path / "scale.npz", names=["a", "b"], vectors=np.ones((2, 2)), scale=-1)
    np.savez(tmp_path / "words.npz", names=["a", "b"], vectors=[["x"], ["y"]])
    (tmp_path / "broken.npz").write_text("no zip")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    classes = f"open_clip:ViT-B-32:openai:{tmp_path / 'classes.txt'}"
    for where, told in (
        (tmp_path / "no.npz", "no.npz is missing"),
        (tmp_path / "few.npz", r"2 names and vectors \(3, 4\)"),
        (tmp_path / "zero.npz", "none of length 0"),
        (tmp_path / "scale.npz", "scale above 0"),
        (tmp_path / "words.npz", "cannot read texts"),
        (tmp_path / "broken.npz", "cannot read texts"),
        (tmp_path / "classes.txt", r"\.npz or \.safetensors file, or open_clip:MODEL"),
        ("open_clip:ViT-B-32", "expected open_clip:MODEL:PRETRAINED:CLASSES"),
        ("open_clip:a:b:no.txt", "one name a line"),
        (f"{classes}:{tmp_path / 'bad.txt'}", "templates with {} for the class, got 'a photo'"),
        (classes, r"need open_clip: pip install 'a2mim\[clip\]'"),
    ):
        with pytest.raises(WeightsError, match=told) as error:
            read_texts(str(where))
        assert "\n" not in str(error.value)
    path = save_vit(tmp_path / "tower.safetensors", classes=5)
    with pytest.raises(UsageError, match="as wide as the outputs of vit_tiny_patch16_224, got 7"):
        load(path, WeightsConfig(texts=texts(tmp_path, 7)[0]))


def test_a_measure_of_zero_shot_classes(compared, save_vit, tmp_path, hastened):
    """Accuracy of occluded images, by true classes and with tokens that are left out."""
    path = save_vit(tmp_path / "tower.safetensors", classes=5)
    config = OcclusionConfig(
        (path,),
        images=compared["photos"],
        fill="token_drop",
        fractions=(0.0, 0.5),
        label="truth",
        weights=WeightsConfig(texts=texts(tmp_path, 5)[0]),
        device="cpu",
        out=tmp_path / "out",
    )
    occlusion(config)
    rows = read_table(tmp_path / "out" / "rows.csv")
    assert "occlusion_top1" in set(rows["measure"])
    assert rows["setting"].str.contains("classifier=own").all()


@pytest.mark.parametrize("command", [occlusion, interaction_curves, probe, compare])
def test_classes_of_images_in_another_order_than_the_texts(command, compared, save_vit, tmp_path):
    """By name: no command judges them by the wrong numbers."""
    photos = shutil.copytree(compared["photos"], tmp_path / "photos")
    rows = [f"{k:02d}.png,{NAMES[k % 3]}" for k in range(12)]
    (photos / "labels.csv").write_text("\n".join(["file,class_name", *rows]))
    (photos / "classes.txt").write_text("\n".join(reversed(NAMES)))
    paths = [save_vit(tmp_path / f"{name}.safetensors", classes=5) for name in ("one", "two")]
    of = {
        occlusion: OcclusionConfig,
        interaction_curves: InteractionsConfig,
        probe: partial(ProbeConfig, method="clean"),
        compare: partial(CompareConfig, grid=4),
    }
    config = of[command](
        tuple(paths),
        images=photos,
        weights=WeightsConfig(texts=texts(tmp_path, 5)[0]),
        device="cpu",
        out=tmp_path / "out",
        **({} if command is probe else {"label": "truth"}),
    )
    with pytest.raises(UsageError, match=r"in the order of the images' classes, .* is class 0 of"):
        command(config)
    assert not (tmp_path / "out").exists()
