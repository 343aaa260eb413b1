"""Every notebook runs from top to bottom, in a real kernel."""

from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.mark.integration
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path):
    notebook = jupytext.read(path)
    NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": ROOT}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    # Without ipywidgets, tqdm says that its bars are plain text.
    complaints = [
        o["text"] for o in outputs if o.get("name") == "stderr" and "IProgress" not in o["text"]
    ]
    assert complaints == []


def test_there_are_notebooks():
    assert NOTEBOOKS
