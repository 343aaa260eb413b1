"""What pages hold that is made from the code: options, tables of columns, layouts, notebooks."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from inspect import isfunction
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).parents[1]

COMMANDS = {
    "demo": ["demo"],
    "interactions": ["interactions"],
    "occlusion": ["occlusion"],
    "invariance": ["invariance"],
    "spectrum": ["spectrum"],
    "compare": ["compare"],
    "pretrain": ["pretrain", "digits-resnet"],
    "reconstruct": ["reconstruct"],
    "configs": ["configs"],
    "models": ["models"],
    "probe": ["probe"],
    "figures": ["figures"],
}
"""Command -> the words whose ``--help`` shows its options."""


ROWS = {
    "run": "command, or what the run is called",
    "measure": "what the value is",
    "model": "network",
    "weights": "what its weights are called",
    "dataset": "where the images are from",
    "image": "name of the image; all, or all N, where the value is of a set",
    "setting": "what else decides the value, as words NAME=VALUE",
    "at": "place on the axis: share of n - 2, hidden share, frequency, step; 0 where there is none",
    "value": "the measurement, raw",
    "samples": "how many samples are behind it: differences, masked images, images",
    "seed": "random seed",
    "commit": "of the code",
}
"""Columns of ``rows.csv`` and what they mean."""


def write(docs: Path) -> None:
    """Write all of it below the folder of the pages: ``generated/`` and ``notebooks/``."""
    generated, notebooks = docs / "generated", docs / "notebooks"
    generated.mkdir(exist_ok=True)
    for name, words in COMMANDS.items():
        _write(generated / f"{name}.txt", options(words))
    for name, columns in schemas().items():
        _write(generated / f"{name}.md", table("column", columns))
    _write(generated / "scores.md", scores())
    _write(generated / "layouts.md", layouts())
    notebooks.mkdir(exist_ok=True)
    there = {path.name: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    for old in notebooks.glob("*.ipynb"):
        if old.name not in there:
            old.unlink()
    for name, path in there.items():
        if not (notebooks / name).exists() or (notebooks / name).read_bytes() != path.read_bytes():
            shutil.copyfile(path, notebooks / name)
    listed = "\n".join(Path(name).stem for name in there)
    said = "Each runs in a minute on two cores. Here they are with the outputs of their last run."
    contents = f"```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n" if there else "None yet.\n"
    _write(notebooks / "index.md", f"# Notebooks\n\n{said}\n\n{contents}")


def _write(path: Path, text: str) -> None:
    """Only what is new is written, so that a second build reads no page again."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def options(words: list[str]) -> str:
    """What ``a2mim WORDS --help`` says."""
    from a2mim.cli import main

    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "88"
    try:
        with redirect_stdout(StringIO()) as said, suppress(SystemExit):
            main([*words, "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue()).rstrip() + "\n"


def schemas() -> dict[str, Mapping[str, str]]:
    """File of a table -> its columns and what they mean, as the code has them."""
    from a2mim.measure import interaction_summary, invariance, occlusion_tables, spectrum
    from a2mim.runs.table import COLUMNS

    return {
        "rows": {name: ROWS[name] for name in COLUMNS},
        "summary-interactions": interaction_summary.COLUMNS,
        "summary-occlusion": occlusion_tables.SUMMARY,
        "summary-invariance": invariance.SUMMARY,
        "summary-spectrum": spectrum.SUMMARY,
    }


def table(of: str, meanings: Mapping[str, str]) -> str:
    """A table of two columns in Markdown."""
    lines = [f"| {of} | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {_cell(text)} |" for name, text in meanings.items()]
    return "\n".join(lines) + "\n"


def scores() -> str:
    """The scores of a comparison."""
    from a2mim.measure.scores import MEANINGS, TITLES

    lines = ["| score | meaning |", "|---|---|"]
    lines += [f"| {title} | {_cell(MEANINGS[name])} |" for name, title in TITLES.items()]
    return "\n".join(lines) + "\n"


def layouts() -> str:
    """The layouts of files that are recognised, and what is left out of them."""
    from a2mim.checkpoints.layouts import LAYOUTS

    lines = ["| layout | images are normalised | left out |", "|---|---|---|"]
    for one in LAYOUTS:
        look = "files differ" if one.data is None else _look(one.data)
        dropped = "; ".join(dict.fromkeys(one.drops.values()))
        lines.append(f"| `{one.name}` | {look} | {_cell(dropped) or 'nothing'} |")
    return "\n".join(lines) + "\n"


def _look(data: Mapping[str, object]) -> str:
    said = {
        key: "/".join(f"{one:.3g}" for one in value) if isinstance(value, tuple) else str(value)
        for key, value in data.items()
    }
    names = {"mean": "mean", "std": "std", "crop_pct": "crop", "interpolation": ""}
    return ", ".join(f"{name} {said[key]}".strip() for key, name in names.items() if key in said)


def _cell(text: str) -> str:
    """Text of one cell, as it stands."""
    return re.sub(r"([|*_<\[\]^$\\])", r"\\\1", " ".join(text.split()))


def visit_math(self, node):
    """A formula in a line, as MathML: browsers draw it without scripts or a network."""
    _mathml(self, node, block=False)


def visit_math_block(self, node):
    """A formula of its own."""
    _mathml(self, node, block=True)


def _mathml(translator, node, block):
    from docutils import nodes
    from docutils.utils.math.latex2mathml import tex2mathml

    found = str(tex2mathml(node.astext(), as_block=block))
    found = re.sub(r"<mo>([{}|])</mo>", r'<mo stretchy="false">\1</mo>', found)
    translator.body.append(f'<div class="formula">{found}</div>' if block else found)
    raise nodes.SkipNode


def escaped(app, what, name, obj, given, lines):
    """Docstrings as they stand: bars are no substitutions, and formulas keep their lines."""
    kept, formula = [], False
    for k, line in enumerate(lines):
        begins = line.startswith("    ") and k > 0 and not lines[k - 1].strip()
        if begins and not formula and not _in_field(lines, k):
            formula = True
            kept += [".. code-block:: text", ""]
        formula = formula and (not line.strip() or line.startswith(" "))
        kept.append(line if formula else _bars_escaped(line))
    lines[:] = kept


def readable(app, what, name, obj, options, signature, returned):
    """Signatures that Python can read, so that they are set one argument a line."""
    if what == "class" and getattr(obj, "_is_protocol", False):
        return "", None  # nobody makes one
    if signature:
        signature = re.sub(r"=\s*<factory>", "= ...", signature)
        signature = re.sub(r"<function (\w+)[^>]*>", r"\1", signature)
        signature = re.sub(r"~?\b(?:[a-z_]\w*\.)+([A-Z]\w*)", r"\1", signature)
    return signature and of_arrays(signature), returned and of_arrays(returned)


ARRAY = re.sub(
    "NAME", r"~?(?:\\w+\\.)*", r"NAMEndarray\[tuple\[NAMEAny, \.{3}\], NAMEdtype\[NAME(\w+)\]\]"
)
"""How Sphinx writes the type of an array."""


def of_arrays(types: str) -> str:
    """Types in which arrays are called as in the code: ``NDArray[float64]``."""
    types = re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", types)
    return re.sub(ARRAY, r"NDArray[\1]", types)


def skipped(app, what, name, obj, skip, options):
    """A function that is the default of a field is no method: the field has its own line."""
    return True if what == "class" and isfunction(obj) and "." not in obj.__qualname__ else None


LONGEST = 80
"""Characters of a value that is shown."""


def shorten(described) -> None:
    """Let a kind of Sphinx's descriptions have short types of arrays, and no long values."""
    plain = described.handle_signature

    def handle_signature(self, sig, signode):
        if "type" in self.options:
            self.options["type"] = of_arrays(self.options["type"])
        if len(self.options.get("value", "")) > LONGEST:
            del self.options["value"]
        return plain(self, sig, signode)

    described.handle_signature = handle_signature


def sections_of(docstring) -> list[str]:
    """What a property or a constant is said to be, read as a method's docstring is."""
    docstring._what = "method"
    docstring._parse()
    return []


def _bars_escaped(line: str) -> str:
    """Bars outside of ``code``."""
    parts = re.split(r"(``.*?``)", line)
    return "".join(part if part.startswith("``") else part.replace("|", r"\|") for part in parts)


def _in_field(lines: list[str], k: int) -> bool:
    """Whether a line belongs to a field (``:param x:``), a directive or an item above it."""
    above = next((line for line in reversed(lines[:k]) if line.strip() and line[0] != " "), "")
    return above.startswith((":", ".. ", "* ", "- "))
