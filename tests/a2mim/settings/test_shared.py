from dataclasses import MISSING, fields
from itertools import combinations
from typing import get_type_hints

import pytest
import tyro

from a2mim.settings.compare import CompareConfig
from a2mim.settings.interactions import InteractionsConfig
from a2mim.settings.invariance import InvarianceConfig
from a2mim.settings.occlusion import OcclusionConfig
from a2mim.settings.probe import ProbeConfig
from a2mim.settings.spectrum import SpectrumConfig

MEASURES = (InteractionsConfig, InvarianceConfig, OcclusionConfig, SpectrumConfig, ProbeConfig)
OWN_DEFAULT = {"count": "as many as the measure can pay for", "fill": "see CompareConfig.fill"}


@pytest.mark.parametrize("name", ["checkpoints", "count", "seed", "batch_size", "fractions"])
@pytest.mark.parametrize(("a", "b"), list(combinations((*MEASURES, CompareConfig), 2)))
def test_the_same_option_has_the_same_type_and_default(a, b, name):
    one, other = ({f.name: f for f in fields(cls)}.get(name) for cls in (a, b))
    if one is None or other is None:
        return
    types = [get_type_hints(cls)[name] for cls in (a, b)]
    if name != "fractions":  # those of invariance depend on --against
        assert types[0] == types[1]
        assert one.default == other.default or name in OWN_DEFAULT


@pytest.mark.parametrize("cls", [*MEASURES, CompareConfig])
def test_names_that_were_spelled_otherwise_are_gone(cls):
    old = {"hiding", "ratios", "forward_batch", "batch", "game", "models"}
    assert not old & {field.name for field in fields(cls)}


def test_a_shared_option_reads_as_any_other():
    config = tyro.cli(SpectrumConfig, args=["a.pth", "b.pth", "--images", "x", "--batch-size", "3"])
    assert (config.checkpoints, str(config.images), config.batch_size) == (
        ("a.pth", "b.pth"),
        "x",
        3,
    )
    (first,) = [field for field in fields(SpectrumConfig) if field.default is MISSING][:1]
    assert first.name == "checkpoints"
