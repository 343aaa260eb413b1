"""How the pages are built, without a network: ``make docs``, Read the Docs, any sphinx-build."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import made  # noqa: E402
from sphinx.domains.python import PyProperty, PyVariable  # noqa: E402
from sphinx.ext.napoleon import GoogleDocstring  # noqa: E402

project = "a2mim"
author = "The a2mim authors"
version = release = version_of("a2mim")
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_templates", "generated/*.md"]
templates_path = ["_templates"]

# Markdown. Notebooks show the outputs that are committed with them; none is run.
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"

# API.
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False
add_module_names = False
toc_object_entries_show_parents = "hide"

# Looks.
html_theme = "furo"
html_title = f"a2mim {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
copybutton_exclude = ".linenos, .gp"
pygments_style = "friendly"
pygments_dark_style = "native"


# Types stand in annotations here: what is before a colon in "J: S over its mean" is no type.
GoogleDocstring._parse_attribute_docstring = made.sections_of
GoogleDocstring._consume_returns_section = lambda self, preprocess_types=False: [
    ("", "", self._dedent(self._consume_to_next_section()))
]


def setup(app):
    """What is made before pages are read, and how formulas and docstrings become pages."""
    made.write(HERE)
    app.add_html_math_renderer("mathml", (made.visit_math, None), (made.visit_math_block, None))
    app.connect("autodoc-process-docstring", made.escaped, priority=900)  # after napoleon
    app.connect("autodoc-process-signature", made.readable)
    app.connect("autodoc-skip-member", made.skipped)
    for described in (PyProperty, PyVariable):
        made.shorten(described)
    return {"parallel_read_safe": True}
