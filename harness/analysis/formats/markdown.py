"""Tables in Markdown, as GitHub reads it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.analysis.formats.grid import Grid, Word
from harness.base.errors import harmless

SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&])")
AT_START = re.compile(r"^([-+](?!\d)|[=#])")


def markdown(grids: Sequence[Grid]) -> str:
    """Each grid under a heading, with its notes below."""
    return "\n".join(_one(grid) for grid in grids)


def _one(grid: Grid) -> str:
    lines = [f"### {escape(grid.title)}", "", _row([escape(name) for name in grid.heading])]
    lines.append(_row(["---", *["---:"] * (len(grid.heading) - 1)]))
    lines += [_row([_word(word) for word in row]) for row in grid.rows]
    lines += ["", *(f"- {escape(note)}" for note in grid.notes), ""]
    return "\n".join(lines)


def _row(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"


def _word(word: Word) -> str:
    text = escape(word.text)
    marks = " " + escape(f"[{','.join(word.marks)}]") if word.marks else ""
    return (f"**{text}**" if word.bold and text else text) + marks


def escape(text: str) -> str:
    r"""Text that Markdown prints as it is, in one line.

    >>> escape("a|b <script> 50%")
    'a\\|b \\<script\\> 50%'
    """
    one_line = harmless(" ".join(text.split()))
    return AT_START.sub(r"\\\1", SPECIAL.sub(r"\\\1", one_line))
