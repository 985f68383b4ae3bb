"""The page: one HTML file with everything in it, the same bytes for the same content.

A content-security policy lets the page run its own scripts, by their hashes, and lets it ask no
host for anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from plotly import offline

DIGITS = 9
"""Significant digits of what is drawn: a tenth of a nat shows in a bound of a hundred million."""


@dataclass(frozen=True)
class Plot:
    """A chart under a title of its own.

    A colour `var(--blue)` is the page's own, light or dark; a trace's `legendgroup` is the index of
    its key in the figure's list.
    """

    title: str
    chart: go.Figure
    height: int = 230

    @property
    def content(self) -> dict[str, Any]:
        """The chart for plotly.js: the page has a template of its own."""
        values = self.chart.to_plotly_json()
        values["layout"].pop("template", None)
        values["layout"]["height"] = self.height
        return values


@dataclass(frozen=True)
class Style:
    """How a row is drawn, in every figure: a colour of the page, a dash and a marker by plotly's
    names.
    """

    color: str
    dash: str
    symbol: str


@dataclass(frozen=True)
class Key:
    """What a style stands for."""

    name: str
    style: Style


@dataclass(frozen=True)
class Figure:
    """Charts that share their keys.

    `choices` are names of horizontal axes to choose from: each trace has in its `meta` a factor for
    each, or null.
    """

    title: str
    about: str
    plots: Sequence[Plot]
    keys: Sequence[Key] = ()
    choices: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def legend(self) -> list[tuple[int, Key]]:
        """The keys that something is drawn under, with their indices: where all runs of a row
        failed, there is nothing to hide.
        """
        traces: list[Any] = [t for plot in self.plots for t in plot.chart.select_traces()]
        drawn_keys = {trace.legendgroup for trace in traces}
        return [(index, key) for index, key in enumerate(self.keys) if str(index) in drawn_keys]


@dataclass(frozen=True)
class Table:
    """Rows of texts, and of lists of keys that are shown on demand; columns from `numbers` on are
    numbers. A `folded` table opens when its caption is pressed.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | list[str]]]
    caption: str
    numbers: int | None = None
    folded: bool = False


@dataclass(frozen=True)
class Image:
    """A PNG with its caption."""

    caption: str
    png: bytes

    @property
    def address(self) -> str:
        """The image itself, as an address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading of its own. `fragments` are titles with trusted HTML."""

    id: str
    title: str
    about: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    images: Sequence[Image] = ()
    fragments: Sequence[tuple[str, str]] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing but a heading."""
        return not (self.figures or self.tables or self.images or self.fragments)


def render(title: str, about: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the page as HTML."""
    scripts = []
    if any(section.figures for section in sections):
        scripts = [_plotly(), _environment().get_template("page.js").render()]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    template = _environment().get_template("page.html.j2")
    return template.render(
        title=title, about=about, sections=sections, scripts=scripts, hashes=hashes
    )


_plotly = cache(offline.get_plotlyjs)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("harness.report", "."),
        autoescape=select_autoescape(["html", "j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json"] = lambda value: Markup(as_json(value))  # cannot end the script
    return environment


def as_json(value: Any) -> str:
    r"""Write JSON that can stand inside a script: numbers that are not finite are null, and there
    is no `<`.

    >>> as_json({"a": [float("nan"), 1.0], "b": "</script>"})
    '{"a":[null,1.0],"b":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(_plain(value), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
