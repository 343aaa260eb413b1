import sys
from io import BytesIO
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image
from torch import nn

import interactions as ix

GRID = ix.PatchGrid(4, 4)


class Neighbours(nn.Module):
    """The logit of class 0 is the product of the means of cells 5 and 6."""

    def forward(self, images):
        cells = images.mean(dim=1).unfold(1, 4, 4).unfold(2, 4, 4).mean(dim=(3, 4)).flatten(1)
        first = cells[:, 5] * cells[:, 6]
        return torch.stack([first, torch.zeros_like(first)], dim=1)


SETTINGS = {
    "label": 0,
    "players": GRID,
    "contexts": ix.Windows(2, 1),
    "permutations": 2,
    "reward": "logit",
    "progress": False,
}


@pytest.fixture(scope="module")
def explorer():
    images = [torch.ones(3, 16, 16), 2 * torch.ones(3, 16, 16)]
    return ix.explore(Neighbours().eval(), images, **SETTINGS)


def test_a_click_shows_the_partners_of_a_patch(explorer):
    assert explorer.patch == 5
    before = explorer._picture.value
    explorer._buttons[9].click()
    assert explorer.patch == 9
    assert explorer._number.value == 9
    assert explorer._picture.value != before
    assert Image.open(BytesIO(explorer._picture.value)).width > 400
    explorer._number.value = 5
    assert explorer.patch == 5
    for band in explorer.explanation.bands:
        first_row = explorer._partners.value.partition(f"<b>{band} orders</b>")[2]
        first_row = first_row.partition("<tbody>")[2].split()
        assert first_row[:3] == ["<tr>", "<td>6</td>", "<td>1</td>"]


def test_images_are_measured_when_they_are_chosen(explorer):
    assert [isinstance(made, ix.Explanation) for made in explorer._made] == [True, False]
    explorer._choice.value = 1
    assert explorer.explanation.image == "1"
    table = explorer.explanation.partners(5, "middle")
    assert table.set_index("partner")["interaction"][6] == pytest.approx(4)


def test_explanations_that_are_there(explorer, tmp_path):
    explorer.explanation.save(tmp_path / "e.npz")
    again = ix.Explorer([ix.Explanation.load(tmp_path / "e.npz")])
    assert repr(again) == f"Explorer(1 images, {explorer.explanation.image!r}, patch 5)"
    explorer.choose(5)
    assert again._partners.value == explorer._partners.value
    shown = again._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "image/png"} <= shown.keys()
    assert shown["text/plain"] == repr(again)


def test_superpixels_have_a_number_to_choose_by():
    cells = torch.zeros(16, 16, dtype=torch.int64)
    cells[:8], cells[8:, :8], cells[8:, 8:] = 0, 1, 2
    explorer = ix.explore(
        Neighbours().eval(), torch.ones(3, 16, 16), **{**SETTINGS, "players": ix.PlayerMap(cells)}
    )
    assert explorer._buttons == []
    explorer._number.value = 2
    assert explorer.patch == 2


def test_without_ipywidgets_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match=r"pip install 'a2mim\[notebook\]'"):
        ix.explore(Neighbours().eval(), torch.ones(3, 16, 16))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="at least one explanation"):
        ix.Explorer([])


CELL = """
import timm, torch
import interactions as ix
model = timm.create_model("test_vit", img_size=32).eval()
grid = ix.PatchGrid(4, 4)
explorer = ix.explore(model, [torch.rand(3, 32, 32)], players=grid, permutations=2,
                      contexts=ix.Windows(2, 1), ratios=(0.0, 0.5, 1.0))
explorer
"""


@pytest.mark.integration
def test_in_a_notebook():
    cells = [CELL, "explorer._buttons[10].click(); print(explorer.patch)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    root = Path(__file__).parents[2]
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": root}}
    ).execute()
    shown, said = (cell["outputs"] for cell in notebook.cells)
    assert "application/vnd.jupyter.widget-view+json" in shown[-1]["data"]
    assert said[0]["text"] == "10\n"
    models = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    assert sum(m["model_name"] == "ButtonModel" for m in models.values()) == 16
