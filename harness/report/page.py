"""The page: one HTML file with everything in it, the same bytes for the same content. The only file
that imports plotly.

A content-security policy lets the page run its own scripts, by their hashes, and lets it ask no
host for anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

DIGITS = 9
"""Significant digits of what is drawn: a tenth of a nat shows in a bound of a hundred million."""


@dataclass(frozen=True)
class Plot:
    """A chart: traces and layout as plotly.js knows them, in plain values.

    A colour `@blue` is the page's own, light or dark; a trace's `legendgroup` is the place of its
    key in the figure's list.
    """

    title: str
    data: Sequence[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    height: int = 340


@dataclass(frozen=True)
class Look:
    """How a row is drawn, in every figure: a colour of the page, a dash and a marker by plotly's
    names.
    """

    color: str
    dash: str
    symbol: str


@dataclass(frozen=True)
class Key:
    """What a look stands for; keys of one heading stand together."""

    name: str
    look: Look
    heading: str = ""


@dataclass(frozen=True)
class Figure:
    """Charts that share their keys.

    `choices` are names of horizontal axes to choose from: each trace has in its `meta` a factor for
    each, or null.
    """

    id: str
    title: str
    about: str
    plots: Sequence[Plot]
    keys: Sequence[Key] = ()
    choices: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def legend(self) -> list[tuple[int, Key]]:
        """The keys that something is drawn under, with their places: where all runs of a row
        failed, there is nothing to hide.
        """
        drawn = {trace.get("legendgroup") for plot in self.plots for trace in plot.data}
        return [(place, key) for place, key in enumerate(self.keys) if str(place) in drawn]


@dataclass(frozen=True)
class Folded:
    """A table's cell that shows its list when it is asked for."""

    summary: str
    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of texts; columns from `numbers` on are numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Folded]]
    caption: str = ""
    numbers: int | None = None


@dataclass(frozen=True)
class Picture:
    """A PNG with what it shows."""

    caption: str
    png: bytes

    @property
    def address(self) -> str:
        """The picture itself, as an address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading of its own. `fragments` are titles with HTML that is
    trusted as it is.
    """

    id: str
    title: str
    about: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    fragments: Sequence[tuple[str, str]] = ()


def render(title: str, about: Sequence[str], sections: Sequence[Section]) -> str:
    """The page."""
    drawn = any(section.figures for section in sections)
    scripts = [_plotly(), _environment().get_template("page.js").render()] if drawn else []
    template = _environment().get_template("page.html.j2")
    return template.render(
        title=title,
        about=about,
        sections=sections,
        scripts=scripts,
        hashes=[_sha256(script) for script in scripts],
    )


@cache
def _plotly() -> str:
    from plotly import offline

    return offline.get_plotlyjs()


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
    from markupsafe import Markup

    made = Environment(
        loader=PackageLoader("harness.report", "."),
        autoescape=select_autoescape(["html", "j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["json"] = lambda value: Markup(as_json(value))  # nothing in it can end the script
    made.tests["folded"] = lambda value: isinstance(value, Folded)
    return made


def as_json(value: Any) -> str:
    r"""JSON that can stand inside a script: numbers that are not finite are null, and no `<` is
    left.

    >>> as_json({"a": [float("nan"), 1.0], "b": "</script>"})
    '{"a":[null,1.0],"b":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(_plain(value), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
