"""Tables in HTML: a fragment for a page, or a page of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment

from harness.analysis.formats.grid import Grid
from harness.base.errors import harmless

FRAGMENT = """\
{%- for grid in grids %}
<figure class="table">
<figcaption>{{ grid.title }}</figcaption>
<div class="scroll"><table>
<thead><tr>{% for name in grid.heading %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for row in grid.rows %}
<tr>{% for word in row -%}
{%- if loop.first %}<th scope="row">{{ word.text }}</th>
{%- else %}<td{% if word.cell %} title="bench why {{ word.cell }}"{% endif %}>
{%- if word.bold %}<strong>{{ word.text }}</strong>{% else %}{{ word.text }}{% endif %}
{%- if word.marks %}<sup>{{ word.marks | join(',') }}</sup>{% endif %}</td>
{%- endif %}{% endfor %}</tr>
{%- endfor %}
</tbody></table></div>
{%- if grid.notes %}
<ul class="notes">{% for note in grid.notes %}<li>{{ note }}</li>{% endfor %}</ul>
{%- endif %}
</figure>
{%- endfor %}
"""
PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Comparison</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
figure { margin: 0 0 2.5rem; }
figcaption { font-weight: 600; margin-bottom: .5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: right; white-space: nowrap; }
th[scope=row], thead th:first-child { text-align: left; font-weight: normal; }
thead th { border-block: 2px solid currentcolor; border-bottom-width: 1px; font-weight: 600; }
@media (max-width: 40rem) { th[scope=row] { white-space: normal; min-width: 7rem; } }
tbody tr:last-child > * { border-bottom: 2px solid currentcolor; }
.notes { font-size: .85rem; opacity: .8; padding-left: 1.2rem; }
</style>
</head>
<body>{{ fragment }}</body>
</html>
"""


def shown(value: Any) -> Any:
    """What a page shows of a value: of a text from whomever what would be obeyed stands there as
    its escape.
    """
    return harmless(value) if type(value) is str else value


def html(grids: Sequence[Grid], page: bool = True) -> str:
    """Each grid as a figure with its caption and notes; `page` makes a whole page of them."""
    environment = Environment(autoescape=True, finalize=shown)
    fragment = environment.from_string(FRAGMENT).render(grids=grids)
    if not page:
        return fragment
    from markupsafe import Markup

    return environment.from_string(PAGE).render(fragment=Markup(fragment))
