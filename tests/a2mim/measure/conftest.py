"""Figures take most of the time of a small run: they are drawn where a test asks for them."""

import pytest

from a2mim.measure import explanations, interactions, invariance, occlusion, spectrum


@pytest.fixture
def drawn():
    """Asked for, the runs of a test draw their figures."""


@pytest.fixture(autouse=True)
def _undrawn(request, monkeypatch):
    if "drawn" not in request.fixturenames:
        for module in (explanations, interactions, invariance, occlusion, spectrum):
            monkeypatch.setattr(module, "save", lambda figures, folder: None)
