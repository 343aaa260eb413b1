import csv
import json
import re
import shutil
import weakref
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from a2mim.measure import plan as module
from a2mim.measure.networks import load, subject_of
from a2mim.measure.plan import SIMILAR_AT, batch_of, duration, planned
from a2mim.messages import UsageError
from a2mim.runs.folder import counted
from a2mim.settings.compare import CompareConfig
from a2mim.settings.weights import WeightsConfig
from interactions.features.invariance import batch_sizes

NETS = """
from torch import nn

def net():
    model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 3))
    model.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    return model
"""


RENAMED = """
import timm
from torch import nn

class Renamed(nn.Module):
    pretrained_cfg = {
        "input_size": (3, 32, 32),
        "mean": (0.1,) * 3,
        "std": (0.25,) * 3,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
    }

    def __init__(self):
        super().__init__()
        self.net = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32,
            patch_size=8, embed_dim=16, depth=1, num_heads=2)

    def forward(self, images):
        return self.net(images)

def renamed():
    return Renamed()
"""


@pytest.fixture
def config(compared, tmp_path, hastened):
    return CompareConfig(
        (compared["one"], compared["other"]),
        images=compared["photos"],
        grid=4,
        budget=compared["budget"],
        device="cpu",
        out=tmp_path / "out",
    )


@pytest.fixture
def digits(config):
    """The same on a set by name, which has 10 classes."""
    return replace(config, images=None, data="digits", count=6)


def changed_cfg(file, folder, **changes):
    """A copy of weights whose network wants its images otherwise."""
    folder.mkdir(exist_ok=True)
    copy = Path(shutil.copy(file, folder / f"changed-{Path(file).name}"))
    about = json.loads(Path(file).with_suffix(".json").read_text())
    about["pretrained_cfg"] |= changes
    copy.with_suffix(".json").write_text(json.dumps(about))
    return str(copy)


def test_what_the_page_is_told(config):
    plan = planned(config)
    told = plan.to_dict()
    assert list(told) == [
        *(
            "networks",
            "same_weights",
            "images",
            "label",
            "grid",
            "fill",
            "similarity_batch",
            "forwards",
        ),
        *("pictured", "apart", "notes", "key"),
    ]
    assert json.loads(json.dumps(told)) == told
    assert [network["classifier"] for network in told["networks"]] == ["own", "own"]
    assert (told["images"], told["similarity_batch"]) == (12, 12)
    assert (told["label"], plan.projection, plan.probe) == ("truth", False, None)
    assert sum(told["forwards"].values()) == config.budget
    assert told["forwards"]["predictions"] == 120
    assert told["forwards"]["similarity"] == 24 * (1 + len(SIMILAR_AT))


def test_half_of_the_budget_is_for_interactions_where_they_are_in(
    config, compared, save_vit, tmp_path
):
    """The others take 23 forwards an image, and 12 without predictions, which nobody is in."""
    left = config.budget - 12 * 23
    assert planned(replace(config, pictures=0)).forwards["interactions"] == left
    plan = planned(config)
    assert len(plan.pictured.sources) == 2
    assert plan.forwards["interactions"] == left - plan.pictured.forwards
    assert planned(replace(config, budget=23 * 8, skip=("interactions",))).config.count == 8
    encoders = (compared["encoder"], save_vit(tmp_path / "more.safetensors", classes=0))
    some = {"budget": 12 * 8 + 11, "skip": ("interactions", "spectrum")}
    plan = planned(replace(config, checkpoints=encoders, **some))
    assert plan.config.count == 8
    assert list(plan.forwards) == ["similarity"]
    assert any(note.startswith("Left out: predictions (it has no class") for note in plan.notes)


# --------------------------------------------------------------------------------------------------
# classes and classifiers


def test_pictures_that_the_budget_does_not_afford_are_left_out_and_said(config):
    """And what is said to be enough is."""
    few = replace(config, skip=("similarity", "spectrum", "predictions"), budget=6000)
    plan = planned(few)
    (note,) = [note for note in plan.notes if "--pictures 0" in note]
    assert note.startswith("With this budget no image is explained")
    assert plan.spent == plan.forwards == {"interactions": 6000}
    enough = int(re.search(r"--budget (\d+) is enough for 2", note)[1])
    richer = planned(replace(few, budget=enough))
    assert len(richer.pictured.sources) == 2
    assert not any("--pictures" in note for note in richer.notes)
    assert sum(richer.spent.values()) == enough
    assert f"{counted(richer.pictured.forwards)} for 2 images" in str(richer)
    assert not any("--pictures" in note for note in planned(replace(few, pictures=0)).notes)


def test_a_set_of_other_classes_cannot_judge(digits):
    """Networks of 3 classes on a set of 10."""
    plan = planned(digits)
    assert (plan.config.label, plan.projection) == ("prediction", True)
    (note,) = [note for note in plan.notes if "digits" in note]
    assert note == (
        "Classifiers have 3 classes and digits has 10, so predictions are compared with those of "
        "the same network for the whole image, and interactions are about features of all networks "
        "(their projection on those of the whole image)."
    )
    with pytest.raises(UsageError, match=r"but classifiers have 3 classes and digits has 10; give"):
        planned(replace(digits, label="truth"))
    asked = planned(replace(digits, label="prediction"))
    assert (asked.config.label, asked.projection) == ("prediction", False)
    assert not any("digits" in note for note in asked.notes)
    features = planned(replace(digits, skip=("predictions", "interactions")))
    assert not any("digits" in note for note in features.notes)


def test_classifiers_of_different_numbers_of_classes(config, compared, save_vit, tmp_path):
    ten = save_vit(tmp_path / "ten.safetensors", classes=10)
    different = replace(config, checkpoints=(compared["one"], ten))
    for label in ("auto", "prediction"):
        plan = planned(replace(different, label=label))
        assert (plan.config.label, plan.projection) == ("prediction", True)
        (note,) = [note for note in plan.notes if "numbers of classes" in note]
        assert note.startswith("Classifiers have different numbers of classes (3, 10), so predict")
        assert "which is easier with fewer classes, and interactions are about features" in note
    with pytest.raises(UsageError, match=r"different numbers of classes \(3, 10\); give --label"):
        planned(replace(different, label="truth"))


def test_a_class_that_no_classifier_has(config, compared, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(compared["photos"], photos)
    with (photos / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "class_index")])
        csv.writer(file).writerows((f"{k:02d}.png", k) for k in range(12))
    plan = planned(replace(config, images=photos))
    assert plan.config.label == "prediction"
    assert "Classifiers have 3 classes and an image has the class index 11" in " ".join(plan.notes)
    (photos / "labels.csv").write_text("nothing of the kind")
    assert planned(replace(config, images=photos, label="prediction")).config.label == "prediction"
    with pytest.raises(UsageError, match="expected the columns file,class_index"):
        planned(replace(config, images=photos))


def test_a_probe_beside_a_classifier_is_said(digits, compared, save_vit, tmp_path):
    ten = save_vit(tmp_path / "ten.safetensors", classes=10)
    plan = planned(replace(digits, checkpoints=(ten, compared["encoder"]), probe_max_train=500))
    assert [network.classifier for network in plan.networks] == [
        "own",
        "linear probe: 500 images of digits",
    ]
    assert (plan.config.label, plan.projection) == ("truth", True)
    notes = " ".join(plan.notes)
    assert "encoder: no classifier, so predictions are those of a linear probe trained on" in notes
    assert "A network has no classifier, so interactions are about features" in notes
    assert "and                500 training images of digits for a linear probe on encoder" in (
        str(plan)
    )
    timed = replace(plan, speeds=[100.0, 10.0])
    budget = digits.budget
    assert timed.seconds == pytest.approx(budget / 100 + (budget + 500) / 10)
    alone = planned(replace(digits, checkpoints=(ten, compared["encoder"]), skip=("predictions",)))
    assert alone.probe is None
    assert [network.classifier for network in alone.networks] == ["own", "none"]


def test_a_probe_of_other_classes_than_a_classifier(digits, compared):
    plan = planned(replace(digits, checkpoints=(compared["one"], compared["encoder"])))
    assert plan.config.label == "prediction"
    assert "different numbers of classes (3, 10), so predictions are" in " ".join(plan.notes)


# --------------------------------------------------------------------------------------------------
# the same pixels


def test_networks_of_two_sizes_see_the_same_region(config, compared, save_vit, tmp_path):
    """A ramp of colours, cut and resized for both, is the same ramp."""
    large = save_vit(tmp_path / "large.safetensors", crop_pct=0.8, mean=0.4, img_size=48)
    both = replace(config, checkpoints=(compared["one"], large), grid=None, skip=("interactions",))
    plan = planned(both)
    assert plan.config.grid == 8
    assert plan.config.weights.crop_pct == 1
    assert (
        "Networks take images of 32, 48 px: each sees the same region at its own size (the whole "
        "short side, where they want 0.8, 0.9 of it), and the same regions are hidden."
    ) in plan.notes
    ramp = np.linspace(0, 255, 480)[None, :, None].repeat(480, 0).repeat(3, 2).astype(np.uint8)
    seen = []
    for name, size in ((compared["one"], 32), (large, 48)):
        subject = subject_of(name, plan.config.weights, "cpu")
        image_CHW = subject.transform(Image.fromarray(ramp))
        look = subject.model.pretrained_cfg
        image_CHW = image_CHW * look["std"][0] + look["mean"][0]
        assert image_CHW.shape[-1] == size
        seen.append(image_CHW.reshape(3, 16, size // 16, 16, size // 16).mean(dim=(2, 4)))
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0.003)
    asked = planned(replace(both, weights=WeightsConfig(crop_pct=0.9), fill="blur"))
    assert asked.config.weights.crop_pct == 0.9
    assert "(0.9 of the short side, up to a pixel)" in " ".join(asked.notes)
    assert "--fill blur is as wide in pixels for each" in " ".join(asked.notes)


def test_networks_of_images_that_are_not_square(config):
    wide = WeightsConfig(("img_size=(96, 160)",))
    checkpoints = ("untrained:test_vit", "untrained:test_resnet")
    with pytest.raises(
        UsageError, match="of square images, got 96 x 160 px for untrained:test_vit"
    ):
        planned(replace(config, checkpoints=checkpoints, weights=wide))


def test_other_crops_and_ways_of_resizing(config, compared, tmp_path):
    other = changed_cfg(
        compared["other"], tmp_path / "nets", crop_mode="squash", interpolation="bilinear"
    )
    plan = planned(replace(config, checkpoints=(compared["one"], other), fill="zero"))
    assert plan.config.weights == WeightsConfig(crop_pct=1.0, interpolation="bicubic")
    assert plan.notes == [
        "Networks want different crops (0.9, 1 of the short side): all see the same 1 of every "
        "image.",
        "Networks want different ways of cropping (center, squash): they do not see the same "
        "pixels, unless images are square.",
        "Networks want different ways of resizing: all images are resized bicubic.",
        "Networks have different normalisations, so with --fill zero hidden patches have another "
        "colour for each.",
    ]


def test_the_same_weights_under_two_preprocessings(config, compared, tmp_path):
    """Another file with other names for its tensors, and another mean."""
    renamed = {f"net.{k}": v for k, v in load_file(compared["one"]).items()}
    save_file(renamed, tmp_path / "renamed.safetensors")
    (tmp_path / "nets.py").write_text(RENAMED)
    own = f"{tmp_path}/nets.py:renamed={tmp_path}/renamed.safetensors"
    plan = planned(replace(config, checkpoints=(compared["one"], own, compared["other"])))
    one, two, other = (network.report for network in plan.networks)
    assert one.sha256 != two.sha256
    assert one.contents == two.contents != other.contents
    (pair,) = plan.to_dict()["same_weights"]
    titles = [network.title for network in plan.networks[:2]]
    assert pair["networks"] == titles
    assert pair["sentence"] == (
        f"{titles[0]} and {titles[1]} are the same weights under two preprocessings (mean 0.5 0.5 "
        "0.5 and 0.1 0.1 0.1): a difference is one of preprocessing or of how the network is "
        "built, not of weights."
    )
    assert pair["sentence"] in str(plan)


def test_one_network_twice_is_said(config, compared, tmp_path):
    """A copy under another name, which tables can tell apart."""
    copy = changed_cfg(compared["one"], tmp_path)
    (pair,) = planned(replace(config, checkpoints=(compared["one"], copy))).to_dict()[
        "same_weights"
    ]
    assert pair["sentence"].endswith("the same weights under one preprocessing: one network twice.")


def test_what_all_networks_are_given_is_not_assumed(config, compared, tmp_path):
    """The fixture's files do not tell how images are resized; a crop for all settles that."""
    plan = planned(config)
    told = plan.to_dict()["networks"]
    assert [network["look"]["crop_pct"] for network in told] == [1.0, 1.0]
    assert [network["look"]["mean"] for network in told] == [[0.5] * 3, [0.4] * 3]
    title = plan.networks[0].title
    said = f"{title}: assumed interpolation bicubic (timm's for vit_tiny_patch16_224, the file"
    assert said in str(plan)
    given = replace(config, weights=WeightsConfig(interpolation="bicubic"))
    assert [network["assumed"] for network in planned(given).to_dict()["networks"]] == [[], []]


# --------------------------------------------------------------------------------------------------
# what a network cannot do


def test_own_networks_are_noted_and_named_where_they_are_left_out(config, compared, tmp_path):
    """Maps of an own network are not known, and its classifier cannot be taken off."""
    (tmp_path / "nets.py").write_text(NETS)
    own = f"untrained:{tmp_path}/nets.py:net"
    plan = planned(replace(config, checkpoints=(compared["one"], own)))
    assert list(plan.apart) == ["spectrum"]
    (title,) = plan.apart["spectrum"]
    assert title == plan.networks[1].title
    assert plan.checkpoints("spectrum") == (compared["one"],)
    assert plan.checkpoints("similarity") == (compared["one"], own)
    assert f"{title}: no reset_classifier: outputs are taken where features are wanted." in (
        plan.notes
    )
    assert str(tmp_path) not in json.dumps([plan.to_dict(), plan.settings])
    skipped = planned(replace(config, checkpoints=(compared["one"], own), skip=("spectrum",)))
    assert skipped.apart == {}
    both = (own, f"untrained:{shutil.copy(tmp_path / 'nets.py', tmp_path / 'more.py')}:net")
    with pytest.raises(UsageError, match="once, got net untrained, seed 0 twice"):
        planned(replace(config, checkpoints=both))


def test_nothing_is_left_to_measure(config, compared, save_vit, tmp_path):
    more = save_vit(tmp_path / "more.safetensors", classes=0)
    none = replace(
        config,
        checkpoints=(compared["encoder"], more),
        skip=("interactions", "similarity", "spectrum"),
    )
    with pytest.raises(UsageError, match=r"nothing is left to measure: predictions \(it has no cl"):
        planned(none)


def test_networks_are_tried_one_by_one_as_they_are_measured(config, monkeypatch):
    kept, used = [], []

    def watched(name, weights):
        assert all(reference() is None for reference in kept)
        loaded = load(name, weights)
        kept.append(weakref.ref(loaded.model))
        return loaded

    @contextmanager
    def arithmetic(precision, device):
        used.append(precision)
        yield

    def unwanted(model, images):
        raise AssertionError("maps of a panel that is skipped")

    monkeypatch.setattr(module, "load", watched)
    monkeypatch.setattr(module, "arithmetic", arithmetic)
    monkeypatch.setattr(module, "maps_of", unwanted)
    planned(replace(config, precision="tf32", skip=("spectrum",)))
    assert len(kept) == 2
    assert used == ["tf32", "tf32"]


# --------------------------------------------------------------------------------------------------
# the key


def test_the_key_is_of_everything_that_decides_numbers(config, compared, tmp_path, monkeypatch):
    monkeypatch.setattr("a2mim.runs.folder.commit", lambda: "as it is")
    photos = tmp_path / "photos"
    shutil.copytree(compared["photos"], photos)
    (tmp_path / "nets.py").write_text(NETS)
    one = changed_cfg(compared["one"], tmp_path)
    own = f"untrained:{tmp_path}/nets.py:net"
    config = replace(config, images=photos, checkpoints=(one, own))
    keys = [planned(config).key]
    assert planned(replace(config, device="auto", out=tmp_path / "b", resume=False)).key in keys
    moved = shutil.move(photos, tmp_path / "elsewhere")
    shutil.move(moved, photos)
    assert planned(config).key in keys
    labels = (photos / "labels.csv").read_text()
    (photos / "labels.csv").write_text(labels.replace("00.png,0", "00.png,2"))
    keys.append(planned(config).key)
    Image.new("RGB", (48, 40), (1, 2, 3)).save(photos / "00.png")
    keys.append(planned(config).key)
    changed_cfg(compared["one"], tmp_path, mean=[0.1] * 3)
    keys.append(planned(config).key)
    (tmp_path / "nets.py").write_text(NETS.replace("AvgPool2d", "MaxPool2d"))
    keys.append(planned(config).key)
    keys.append(planned(replace(config, probe_data="digits")).key)
    keys.append(planned(replace(config, seed=1)).key)
    assert len(set(keys)) == len(keys)
    monkeypatch.setattr("a2mim.runs.folder.commit", lambda: "other code")
    assert planned(replace(config, seed=1)).key == keys[-1]


def test_equal_batches():
    for count in range(4, 5001):
        sizes = batch_sizes(count, batch_of(count))
        assert sizes[0] == batch_of(count)
        assert min(24, count) <= sizes[-1] <= sizes[0] < 48
    assert [batch_of(count) for count in (30, 48, 97, 100)] == [30, 24, 25, 25]


def test_times_for_people():
    told = [duration(seconds) for seconds in (0.4, 89, 91, 5399, 5401, 36000)]
    assert told == ["0 s", "89 s", "2 min", "90 min", "1.5 h", "10.0 h"]
