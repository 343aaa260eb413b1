import re

import pytest
import timm
import torch
from timm.models import model_entrypoint

from a2mim.checkpoints.files import WeightsError
from a2mim.checkpoints.load import load_model
from experiments.network_walk import (
    MEASURES,
    NETWORKS,
    OBLONG,
    PAGE,
    SIZE,
    page,
    walked,
    walked_oblong,
)

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
    files = {file for file in files if file.startswith("timm.")}  # others register theirs
    assert files <= {model_entrypoint(name).__module__ for name in NETWORKS}


def test_the_page_has_every_network():
    assert list(committed()) == list(NETWORKS)


def test_a_network_without_any_refusal():
    row = walked("test_resnet", {})
    assert row == {"class": "ResNet", **dict.fromkeys(MEASURES, "")}
    oblong = {"test_resnet": dict.fromkeys(OBLONG, "")}
    made = page({"test_resnet": row}, oblong)
    assert f"| `test_resnet` | ResNet | {' | '.join(['yes'] * len(MEASURES))} | yes |" in made


def test_refusals_are_whole_and_once():
    row = {"class": "X", **dict.fromkeys(MEASURES, ""), "probe": "expected a, got " + 200 * "b"}
    worse = {"test_vit": dict.fromkeys(OBLONG, "") | {"occlusion": "cannot", "probe": "cannot"}}
    lines = page({"test_vit": row, "test_resnet": row}, worse).splitlines()
    assert f"- `test_vit` (probe), `test_resnet` (probe): {200 * 'b'}" in lines
    assert "- `test_vit` (oblong: occlusion): cannot" in lines
    assert [line.split(" | ")[-1] for line in lines if line.startswith("| `")] == ["no |", "– |"]


@pytest.mark.integration
@pytest.mark.parametrize("name", NETWORKS)
def test_every_measure_of_every_file_is_as_the_page_says(name):
    """A number or one line, never a traceback: walked() raises whatever is not one of our lines."""
    row = walked(name, NETWORKS[name])
    marks = ["no" if row[measure] else "yes" for measure in MEASURES]
    assert committed()[name][0] == row["class"]
    assert committed()[name][1][:-1] == marks
    assert all("\n" not in line for line in row.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_oblong_images_of_every_file_are_as_the_page_says(name):
    """What works on square ones works there too, or one line says why not."""
    _, marks = committed()[name]
    row = walked_oblong(name, NETWORKS[name])
    square = dict(zip(MEASURES, marks, strict=False))
    worse = [measure for measure in OBLONG if row[measure] and square[measure] == "yes"]
    assert marks[-1] == ("no" if worse else "yes")
    assert all("\n" not in line for line in row.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # of timm's own resampling
@pytest.mark.parametrize("name", NETWORKS)
def test_files_at_twice_the_size_are_as_timm_loads_them(name, tmp_path):
    """Equal to the bit, or refused in one line; where timm has no way, a note says what is done."""
    options = dict(NETWORKS[name])
    size = options.pop("size", SIZE)
    try:
        model = timm.create_model(name, img_size=size, **options)
    except TypeError:
        pytest.skip("for images of any size")
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(generator=generator)
    torch.save(model.state_dict(), tmp_path / "net.pth")
    file = {"file": str(tmp_path / "net.pth"), "num_classes": model.num_classes}
    made = {"img_size": 2 * size, "pretrained_cfg_overlay": file | {"custom_load": False}}
    try:
        timms = timm.create_model(name, pretrained=True, **made, **options).state_dict()
    except RuntimeError:
        timms = None
    refused = ""
    try:
        ours = load_model(
            tmp_path / "net.pth", architecture=name, options=options, image_size=2 * size
        )
    except WeightsError as error:
        refused = str(error)
    if refused:
        assert "\n" not in refused
        assert timms is None or "expected an image size that" in refused
    elif timms is None:
        assert any("resampled as in a ViT" in note for note in ours.report.notes)
    else:
        own = ours.model.state_dict()
        assert own.keys() == timms.keys()
        assert all(torch.equal(own[key], timms[key]) for key in own)
