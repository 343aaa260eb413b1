import pytest
from safetensors.torch import save_file
from timm import create_model

from a2mim.measure.reconstruction import pretrained
from a2mim.messages import UsageError
from a2mim.settings.reconstruct import ReconstructConfig
from a2mim.settings.weights import WeightsConfig

OWN = """
import timm
from torch import nn

class Net(nn.Sequential):
    num_classes = 0

def network():
    return Net(timm.create_model("test_vit", num_classes=0))
"""


@pytest.mark.parametrize("name", ["test_vit={}", "{}", "own.py:network={}"])
def test_that_there_is_no_decoder_is_said_before_anything_else(name, tmp_path, monkeypatch):
    """Also of a file that is not recognised, or whose network does not say how it wants images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    save_file(create_model("test_vit", num_classes=0).state_dict(), tmp_path / "vit.safetensors")
    name = name.format("vit.safetensors")
    weights = WeightsConfig(("depth=99",))
    with pytest.raises(UsageError, match=r"expected a decoder in .* found a backbone alone"):
        pretrained(name, ReconstructConfig((name,), data="digits", weights=weights))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("untrained:test_vit", "or a file with a decoder, got untrained:test_vit"),
        ("vit_base_patch16_224.mae", "or a file with a decoder, got vit_base"),  # not downloaded
        ("nowhere.pth", "nowhere.pth is missing"),
    ],
)
def test_what_is_no_file_has_no_decoder(name, message):
    with pytest.raises(UsageError, match=message):
        pretrained(name, ReconstructConfig((name,), data="digits"))
