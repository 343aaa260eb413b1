"""Notebooks are in step with their sources, and run from top to bottom in a real kernel."""

import jupytext
import pytest

from experiments.notebooks import executed, slim, sources


@pytest.mark.integration
@pytest.mark.parametrize("source", sources(), ids=lambda path: path.stem)
def test_notebook_runs(source):
    notebook = slim(executed(source))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert [o["text"] for o in outputs if o.get("name") == "stderr"] == []


@pytest.mark.parametrize("source", sources(), ids=lambda path: path.stem)
def test_what_is_committed_is_in_step_with_its_source(source):
    """``make notebooks`` makes it so."""
    committed = source.with_suffix(".ipynb")
    made, wanted = jupytext.read(committed), jupytext.read(source)
    assert [(c.cell_type, c.source) for c in made.cells] == [
        (c.cell_type, c.source) for c in wanted.cells
    ]
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert not any(o.output_type == "error" for cell in code for o in cell.outputs)
    assert committed.stat().st_size < 400_000


def test_every_notebook_has_a_source():
    assert len(sources()) >= 7
    made = {path.stem for path in sources()[0].parent.glob("*.ipynb")}
    assert made == {path.stem for path in sources()}
