"""Figures take most of the time of a small run: they are drawn where a test asks for them."""

import pytest
import torch
from safetensors.torch import save_file
from timm import create_model

from a2mim.measure import explanations, interactions, invariance, occlusion, spectrum


@pytest.fixture
def drawn():
    """Asked for, the runs of a test draw their figures."""


@pytest.fixture(autouse=True)
def _undrawn(request, monkeypatch):
    if "drawn" not in request.fixturenames:
        for module in (explanations, interactions, invariance, occlusion, spectrum):
            monkeypatch.setattr(module, "save", lambda figures, folder: None)


@pytest.fixture
def weights(tmp_path):
    """A file of a small network whose interactions vary with their context."""
    path = tmp_path / "net.safetensors"
    torch.manual_seed(1)
    model = create_model("test_resnet")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)  # larger than timm's
    save_file(model.state_dict(), path)
    return path
