import re

import pytest
import timm
from timm.models import model_entrypoint

from experiments.network_walk import MEASURES, NETWORKS, PAGE, page, walked

ROW = re.compile(r"\| `(\w+)` \| (\w+) \| (.*) \|")


def committed():
    """Network -> its class, and yes or no for each measure, as the page in docs has it."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if match := ROW.fullmatch(line):
            found[match[1]] = (match[2], match[3].split(" | "))
    return found


def test_every_file_of_timm_has_a_network():
    files = {model_entrypoint(name).__module__ for name in timm.list_models()}
    ours = {"a2mim.backbones.moganet"}
    assert files - ours <= {model_entrypoint(name).__module__ for name in NETWORKS}


def test_the_page_has_every_network():
    assert list(committed()) == list(NETWORKS)


def test_a_network_without_any_refusal():
    row = walked("test_resnet", {})
    assert row == {"class": "ResNet", **dict.fromkeys(MEASURES, "")}
    assert "| `test_resnet` | ResNet | yes |" in page({"test_resnet": row})


@pytest.mark.integration
@pytest.mark.parametrize("name", NETWORKS)
def test_every_measure_of_every_file_is_as_the_page_says(name):
    """A number or one line, never a traceback: walked() raises whatever is not one of our lines."""
    row = walked(name, NETWORKS[name])
    marks = ["no" if row[measure] else "yes" for measure in MEASURES]
    assert committed()[name] == (row["class"], marks)
    assert all("\n" not in line for line in row.values())
