"""Notebooks from their sources: ``python -m experiments.notebooks`` (``make notebooks``).

Every ``notebooks/NAME.py`` (jupytext, percent format) is executed in a kernel of its own and kept
as ``notebooks/NAME.ipynb`` with its outputs. So that what is committed stays small and readable
where widgets do not live, pictures are kept with 256 colours, progress bars are left out, and a
widget is left as the text that stands for it.
"""

from __future__ import annotations

import base64
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
COLOURS = 256
SECONDS = 600
"""The most that a cell may take."""


def sources() -> list[Path]:
    """The sources of all notebooks."""
    return sorted(FOLDER.glob("*.py"))


def executed(source: Path) -> Any:
    """A notebook with its outputs.

    Args:
        source: of the notebook.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.read(source)
    # Names in order: jupytext draws new ones each time.
    for k, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{k}"
    where = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=where).execute()
    return notebook


def slim(notebook: Any) -> Any:
    """The same notebook, as it is committed."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        cell["metadata"].pop("execution", None)
        outputs = cell.get("outputs", [])
        for output in outputs:
            data = output.get("data", {})
            if data.pop("application/vnd.jupyter.widget-view+json", None) and _is_bar(data):
                data.clear()
            if "image/png" in data:
                data["image/png"] = _fewer_colours(data["image/png"])
        cell["outputs"] = [o for o in outputs if o.get("data") != {}] if outputs else []
        if cell["cell_type"] != "code":
            cell.pop("outputs")
    return notebook


def _is_bar(data: dict[str, str]) -> bool:
    return "it/s" in data.get("text/plain", "") or "?, ?" in data.get("text/plain", "")


def _fewer_colours(encoded: str) -> str:
    from PIL import Image

    written = BytesIO()
    picture = Image.open(BytesIO(base64.b64decode(encoded))).convert("RGB")
    few = picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
    few.save(written, "png", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def main(names: list[str]) -> None:
    """Execute the named notebooks, or all of them."""
    import jupytext
    from nbclient.exceptions import CellExecutionError

    failed = []
    for source in sources():
        if names and source.stem not in names:
            continue
        start = time.perf_counter()
        try:
            notebook = slim(executed(source))
        except CellExecutionError as error:
            failed.append(source.name)
            print(f"{source.name}: {error}", file=sys.stderr, flush=True)
            continue
        target = source.with_suffix(".ipynb")
        jupytext.write(notebook, target, fmt="ipynb")
        size = target.stat().st_size / 1e3
        print(f"{target.name}: {time.perf_counter() - start:.0f} s, {size:.0f} kB", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
