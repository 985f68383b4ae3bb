"""How Sphinx builds the documentation site: `just docs`."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

import harness

project = "bench"
version = release = harness.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# Links to files outside of docs/ lead to the repository, which the site does not hold.
suppress_warnings = ["myst.xref_missing", "myst.header"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"bench {release}"
html_copy_source = html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
html_math_renderer = "mathml"


def visit_inline(self: Any, node: nodes.math) -> None:
    """Write a formula as MathML, which browsers draw without a script from elsewhere."""
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def visit_display(self: Any, node: nodes.math_block) -> None:
    """Write a formula of its own lines."""
    self.body.append(convert(node.astext(), display="block"))
    raise nodes.SkipNode


def from_markdown(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Write a docstring, which has the code and formulas of Markdown, as reStructuredText."""
    lines[:] = [
        line
        for part in re.split(r"(```python\n.*?```|\$\$.*?\$\$)", "\n".join(lines), flags=re.DOTALL)
        for line in _block(part).split("\n")
    ]


def _block(part: str) -> str:
    if part.startswith("```python"):
        code = part.removeprefix("```python\n").removesuffix("```")
        return ".. code-block:: python\n\n" + textwrap.indent(code, "    ")
    if part.startswith("$$"):
        return ".. math::\n\n" + textwrap.indent(part.strip("$"), "    ")
    pieces = re.split(r"(`[^`]+`|\$[^$]+\$)", part)
    return "".join(
        f"``{piece[1:-1]}``"
        if piece.startswith("`")
        else f":math:`{piece[1:-1]}`"
        if piece.startswith("$")
        else re.sub(r"([*|]|_\b)", r"\\\1", piece)
        for piece in pieces
    )


def setup(app: Any) -> None:
    """Register the renderer of formulas, and the language of docstrings."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_display, None))
    app.connect("autodoc-process-docstring", from_markdown, priority=400)  # napoleon is later
