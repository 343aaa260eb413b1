import re
import sys

import pytest
import torch
from torch import nn

from a2mim.checkpoints.custom import (
    build,
    code_hash,
    kept_in_memory,
    load_own,
    names_of,
    split_own,
    untrained_twin,
)
from a2mim.checkpoints.load import WeightsError, describe
from a2mim.measure.networks import load, own_code, recognised, subject_of
from a2mim.messages import UsageError
from a2mim.settings.weights import WeightsConfig

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    pretrained_cfg = {"input_size": (3, 16, 16), "mean": (0.5,) * 3, "std": (0.25,) * 3}

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.conv(x).mean(dim=(2, 3)))

    def reset_classifier(self, classes):
        self.head = nn.Identity()

def net():
    return Net()

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 3))

def maps():
    model = nn.Conv2d(3, 4, 1)
    model.pretrained_cfg = Net.pretrained_cfg
    return model

def word():
    return "net"

def broken():
    raise RuntimeError("no such thing,\\nnor another")

class Dropping(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Dropout(0.5), nn.Linear(768, 3))
        self.pretrained_cfg = Net.pretrained_cfg

class Refusing(Dropping):
    def eval(self):
        raise RuntimeError("not\\nme")

class Awake(Dropping):
    def train(self, mode=True):
        self.training = mode
        return self
"""


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(CODE)
    return str(path)


@pytest.fixture
def weights(code, tmp_path):
    path = tmp_path / "net.pth"
    torch.save({"state_dict": build(f"{code}:net", seed=7).state_dict()}, path)
    return str(path)


def test_weights_are_filled_strictly_and_images_are_as_the_module_says(code, weights):
    loaded = load_own(f"{code}:net", weights)
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded.model(x), build(f"{code}:net", seed=7)(x))
    assert not loaded.model.training
    assert loaded.report.architecture == "net"
    assert ": own module, plain weights" in str(loaded.report)
    assert loaded.report.classes == 5
    assert len(loaded.report.sha256) == 64
    assert loaded.data_config["input_size"] == (3, 16, 16)
    assert loaded.data_config["mean"] == (0.5, 0.5, 0.5)


def test_what_the_module_leaves_open_is_assumed(code, weights):
    report = load_own(f"{code}:net", weights).report
    assert [one.setting for one in report.assumed] == ["crop_pct", "interpolation"]
    assert (
        "  assumed: crop_pct 0.875, interpolation bicubic (timm's default, the pretrained_cfg of "
        "net does not tell); to change: --crop-pct --interpolation"
    ) in str(report)
    told = {"crop_pct": 1.0, "interpolation": "bilinear"}
    assert load_own(f"{code}:net", weights, data=told).report.assumed == ()


def test_weights_of_another_network_are_an_error(code, weights, tmp_path):
    other = tmp_path / "other.pth"
    torch.save(nn.Linear(3, 3).state_dict(), other)
    with pytest.raises(WeightsError, match="rename them in your module") as found:
        load_own(f"{code}:net", other)
    assert "architecture=" not in str(found.value)
    with pytest.raises(WeightsError, match="is a network of your own; fill"):
        describe(f"{code}:net={other}")


def test_random_weights_come_from_the_seed_alone(code):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a, b, other = (build(f"{code}:net", seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a.conv.weight, b.conv.weight)
    assert not torch.equal(a.conv.weight, other.conv.weight)


def test_names_on_the_command_line(code, weights):
    subject = subject_of(f"{code}:net={weights}", WeightsConfig(), "cpu", headless=True)
    assert (subject.name, subject.weights) == ("net", "net.pth")
    assert subject.model(torch.rand(1, 3, 16, 16)).shape == (1, 4)
    assert not torch.equal(subject.untrained(1).conv.weight, subject.model.conv.weight)
    loaded = load(f"untrained:{code}:net", WeightsConfig(image_size=8, mean=(0.1, 0.2, 0.3)))
    assert loaded.report.layout == "untrained"
    assert loaded.data_config["input_size"] == (3, 8, 8)
    assert loaded.data_config["mean"] == (0.1, 0.2, 0.3)
    assert recognised(f"{code}:net={weights}", WeightsConfig()).classes == 5


def test_images_that_are_not_square(tmp_path):
    file = tmp_path / "wide.py"
    file.write_text(CODE.replace("(3, 16, 16)", "(3, 8, 16)"))
    loaded = load(f"untrained:{file}:net", WeightsConfig())
    assert loaded.data_config["input_size"] == (3, 8, 16)
    assert loaded.report.image_size == (8, 16)


def test_height_and_width_can_be_asked_for(code):
    """Of any kind of network, with the weights that its own size gives."""
    wide = WeightsConfig(image_size="96x160")
    for name in (f"untrained:{code}:net", "untrained:test_vit", "untrained:test_resnet"):
        assert load(name, wide).data_config["input_size"] == (3, 96, 160)
    made = load("untrained:test_vit", WeightsConfig(("img_size=(96, 160)",)))
    asked = load("untrained:test_vit", wide)
    assert asked.report.sha256 == made.report.sha256
    assert asked.data_config == made.data_config
    image = torch.rand(1, 3, 96, 160)
    assert torch.equal(asked.model(image), made.model(image))


def test_a_vit_of_timm_is_measured_at_the_size_it_is_made_for(tmp_path):
    """Its pretrained_cfg still says 160 x 160."""
    file = tmp_path / "vit.py"
    call = 'timm.create_model("test_vit", img_size=(96, 160))'
    file.write_text(f"import timm\n\n\ndef net():\n    return {call}\n")
    loaded = load(f"untrained:{file}:net", WeightsConfig())
    assert loaded.data_config["input_size"] == (3, 96, 160)
    assert loaded.report.classes == 1000


def test_a_module_that_says_nothing_of_its_images_can_be_told(code):
    config = WeightsConfig(image_size=4, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(UsageError, match="expected a pretrained_cfg with input_size, mean and std"):
        load(f"untrained:{code}:plain", WeightsConfig())
    loaded = load(f"untrained:{code}:plain", config)
    assert loaded.report.classes == 3
    assert any("no reset_classifier" in note for note in loaded.report.notes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("untrained:{code}:missing", "expected a function missing in"),
        ("untrained:{code}:word", "expected a torch module from .*word, got str"),
        ("untrained:{code}:broken", "broken failed: RuntimeError: no such thing, nor another"),
        ("untrained:{code}:maps", r"expected outputs \(B, classes\) from .*, got \(1, 4, 16, 16\)"),
        ("untrained:nowhere.py:net", "expected a Python file at nowhere.py, found none"),
        ("{code}:net", "expected .*:net=WEIGHTS, or untrained:"),
    ],
)
def test_what_cannot_be_used_is_one_line(code, name, message):
    with pytest.raises(UsageError, match=message) as error:
        load(name.format(code=code), WeightsConfig())
    assert "\n" not in str(error.value)


def test_a_file_that_fails_is_named(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("1 / 0")
    with pytest.raises(UsageError, match=re.escape(f"{path} failed: ZeroDivisionError")):
        build(f"{path}:net")


def test_the_code_may_use_dataclasses(tmp_path):
    """Which look their module up by name, where annotations are words."""
    path = tmp_path / "nets.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from torch import nn\n"
        "@dataclass\nclass Sizes:\n    width: int = 3\n"
        "def net():\n    return nn.Linear(Sizes().width, 2)\n"
    )
    assert build(f"{path}:net").in_features == 3


def test_the_code_may_import_what_lies_beside_it(tmp_path):
    """Two folders with files of one name: each network is made of its own."""
    before, path = set(sys.modules), list(sys.path)
    for width in (3, 4):
        folder = tmp_path / f"width{width}"
        (folder / "parts").mkdir(parents=True)
        (folder / "parts" / "__init__.py").write_text("")
        (folder / "parts" / "sizes.py").write_text(f"WIDTH = {width}")
        (folder / "layers.py").write_text(
            "from torch import nn\nfrom parts.sizes import WIDTH\n"
            "def layer():\n    from parts.sizes import WIDTH as again\n"
            "    return nn.Linear(WIDTH, again)"
        )
        (folder / "nets.py").write_text("from layers import layer\ndef net():\n    return layer()")
    hashes = [code_hash(f"{tmp_path}/width{width}/nets.py:net") for width in (3, 4)]
    assert hashes[0] != hashes[1]  # though the files themselves are the same
    widths = [build(f"{tmp_path}/width{width}/nets.py:net").weight.shape for width in (3, 4, 3)]
    assert widths == [(3, 3), (4, 4), (3, 3)]
    assert sys.path == path
    left = {name for name in sys.modules.keys() - before if not name.startswith("own_")}
    assert not left & {"layers", "parts", "parts.sizes"}


def test_equals_signs_in_paths(tmp_path):
    assert split_own("lr=0.1/nets.py:net=b=2/w.pth") == ("lr=0.1/nets.py:net", "b=2/w.pth")
    assert split_own("untrained:lr=0.1/nets.py:net") == ("untrained:lr=0.1/nets.py:net", None)
    assert split_own("vit_tiny_patch16_224=lr=0.1/w.pth") is None
    folder = tmp_path / "lr=0.1"
    folder.mkdir()
    (folder / "nets.py").write_text(CODE)
    network, file = f"{folder}/nets.py:net", folder / "net.pth"
    torch.save(build(network, seed=7).state_dict(), file)
    assert load(f"{network}={file}", WeightsConfig()).report.classes == 5
    assert load(f"untrained:{network}", WeightsConfig()).report.layout == "untrained"
    with pytest.raises(UsageError, match=r"expected .*:net=WEIGHTS"):
        load(network, WeightsConfig())


def test_other_code_has_another_hash(code, weights):
    before = own_code(f"{code}:net={weights}")
    assert before == code_hash(f"{code}:net") == own_code(f"untrained:{code}:net")
    with open(code, "a") as file:
        file.write("# more")
    assert own_code(f"{code}:net={weights}") != before
    assert own_code("untrained:test_resnet") == own_code(weights) == ""


def test_options_are_for_timm_models(code, weights):
    with pytest.raises(UsageError, match="expected no --model-kwargs"):
        load(f"{code}:net={weights}", WeightsConfig(model_kwargs=("a=1",)))


class Own(nn.Module):
    def __init__(self, token=False):
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 16, 16), "mean": (0.5,) * 3, "std": (0.25,) * 3}
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)
        if token:
            self.token = nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).mean(dim=(2, 3)))


def test_a_module_of_this_process_is_measured_as_a_copy():
    module = Own()  # in training mode
    name = kept_in_memory(module, "ours")
    loaded = load(name, WeightsConfig())
    assert loaded.report.title == "ours"
    assert loaded.report.classes == 5
    assert loaded.data_config["input_size"] == (3, 16, 16)
    assert not loaded.model.training
    assert module.training
    assert loaded.model is not module
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded.model(x), module.eval()(x))
    before = loaded.report.sha256
    torch.nn.init.ones_(module.head.bias)
    assert load(name, WeightsConfig()).report.sha256 != before  # as it is now
    with pytest.raises(UsageError, match="a module of this process, got 'memory:nobody'"):
        load("memory:nobody", WeightsConfig())
    del module.head
    with pytest.raises(UsageError, match="failed on one image"):
        load(name, WeightsConfig())


def test_names_of_what_commands_are_given():
    a, b = nn.Linear(1, 1), nn.Linear(1, 1)
    assert names_of("x.pth") == ("x.pth",)
    assert names_of(a) == ("memory:Linear",)
    assert names_of(["x.pth", a, nn.ReLU(), b]) == (
        *("x.pth", "memory:Linear-1", "memory:ReLU", "memory:Linear-2"),
    )
    assert names_of({"ours": a}) == ("memory:ours",)


def test_the_untrained_twin_of_a_module():
    module = Own()
    name = kept_in_memory(module, "ours")
    with torch.no_grad():
        for value in module.parameters():
            value.fill_(7.0)
        module.norm.running_mean.fill_(3.0)
    twin, again, other = (untrained_twin(name, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(twin[key], again[key]) for key in twin)
    assert not torch.equal(twin["conv.weight"], other["conv.weight"])
    assert twin["conv.weight"].abs().max() < 1
    assert (twin["norm.running_mean"] == 0).all()
    assert (module.conv.weight == 7).all()
    with pytest.raises(UsageError, match="such as token; leave similarity out"):
        untrained_twin(kept_in_memory(Own(token=True), "token"), 0)


@pytest.mark.parametrize(
    ("network", "why"),
    [
        ("Refusing", r"that can be put in eval mode: .*not\b.*me"),
        ("Awake", r"eval mode, got one in training mode at 1 \(Dropout\)"),
    ],
)
def test_a_network_that_refuses_eval(code, network, why):
    """Numbers of it would be drawn anew in every forward."""
    with pytest.raises(UsageError, match=why):
        load(f"untrained:{code}:{network}", WeightsConfig())
    assert not load(f"untrained:{code}:Dropping", WeightsConfig()).model.training
