"""Tables as Markdown, LaTeX and HTML; whatever a name holds, it stays text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jinja2 import Environment

from harness.analysis.grids import NOTHING, Grid, Word
from harness.base.errors import harmless

MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&])")
AT_START = re.compile(r"^([-+](?!\d)|[=#])")


def markdown(grids: Sequence[Grid]) -> str:
    """Each grid under a heading, with its notes below."""
    return "\n".join(_markdown_one(grid) for grid in grids)


def _markdown_one(grid: Grid) -> str:
    rows = [
        [escape_markdown(name) for name in grid.heading],
        ["---", *["---:"] * (len(grid.heading) - 1)],
        *([_markdown_word(word) for word in row] for row in grid.rows),
    ]
    lines = [f"### {escape_markdown(grid.title)}", ""]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", *(f"- {escape_markdown(note)}" for note in grid.notes), ""]
    return "\n".join(lines)


def _markdown_word(word: Word) -> str:
    text = escape_markdown(word.text)
    marks = " " + escape_markdown(f"[{','.join(word.marks)}]") if word.marks else ""
    return (f"**{text}**" if word.bold and text else text) + marks


def escape_markdown(text: str) -> str:
    r"""Text that Markdown prints as it is, in one line.

    >>> escape_markdown("a|b <script> 50%")
    'a\\|b \\<script\\> 50%'
    """
    one_line = harmless(" ".join(text.split()))
    return AT_START.sub(r"\\\1", MARKDOWN_SPECIAL.sub(r"\\\1", one_line))


LATEX_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%",
    "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\char34{}", "`": r"\`{}", "±": r"$\pm$", "[": "{[}", "*": "{*}",
}  # fmt: skip
PACKAGES = "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}."
FITTED = r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
"""A table that is wider than the text is made as small as the text is wide."""
POWER = re.compile(r"(?<=[\d)])e(-?\d+)\b")
NUMBER = re.compile(r"(?<![\w.,])-(?=\d)")


def latex(grids: Sequence[Grid], label: str | None = None) -> str:
    """Each grid as a table with its notes below; `label`, and `label-2` and so on of those that
    follow, is what \\ref knows it by.
    """
    labels = [f"{label}-{number}" if number > 1 else label for number in range(1, len(grids) + 1)]
    tables = [
        _latex_one(grid, own if label else None) for grid, own in zip(grids, labels, strict=True)
    ]
    return "\n".join([PACKAGES, *tables])


def _latex_one(grid: Grid, label: str | None) -> str:
    heading, *rows = (
        f"    {' & '.join(row)} \\\\"
        for row in (
            [escape_latex(name) for name in grid.heading],
            *([escape_latex(row[0].text), *map(_latex_word, row[1:])] for row in grid.rows),
        )
    )
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape_latex(grid.title)}}}",
        *([rf"  \label{{{label}}}"] if label else []),
        r"  \smallskip",
        FITTED,
        rf"  \begin{{tabular}}{{l{'r' * (len(grid.heading) - 1)}}}",
        r"    \toprule",
        heading,
        r"    \midrule",
        *rows,
        r"    \bottomrule",
        r"  \end{tabular}}",
    ]
    if grid.notes:
        lines += [r"  \begin{minipage}{\linewidth}", r"    \footnotesize\raggedright\smallskip"]
        lines += [rf"    {escape_latex(note)}\par" for note in grid.notes]
        lines.append(r"  \end{minipage}")
    return "\n".join([*lines, r"\end{table}", ""])


def _latex_word(word: Word) -> str:
    # minus signs and powers of ten are mathematics
    text = POWER.sub(r"$\\times 10^{\1}$", NUMBER.sub("$-$", escape_latex(word.text)))
    text = "--" if word.text == NOTHING else text
    marks = rf"\textsuperscript{{{','.join(word.marks)}}}" if word.marks else ""
    return (rf"{{\boldmath\textbf{{{text}}}}}" if word.bold and text else text) + marks


def escape_latex(text: str) -> str:
    r"""Text that LaTeX prints as it is, in one line; what it cannot print is a question mark.

    >>> escape_latex("a_b 50% \\x")
    'a\\_b 50\\% \\textbackslash{}x'
    """
    one_line = " ".join(text.split())
    return "".join(
        LATEX_SPECIAL.get(letter) or (letter if letter.isascii() and letter.isprintable() else "?")
        for letter in one_line
    )


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


def html(grids: Sequence[Grid], page: bool = True) -> str:
    """Each grid as a figure with its caption and notes; `page` makes a whole page of them."""
    # of a text from whomever what would be obeyed stands there as its escape
    environment = Environment(
        autoescape=True, finalize=lambda value: harmless(value) if type(value) is str else value
    )
    fragment = environment.from_string(FRAGMENT).render(grids=grids)
    if not page:
        return fragment
    from markupsafe import Markup

    return environment.from_string(PAGE).render(fragment=Markup(fragment))
