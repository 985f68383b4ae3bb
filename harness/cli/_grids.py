"""Comparison tables on a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.base.errors import harmless
from harness.cli._output import say
from harness.cli._render import console

if TYPE_CHECKING:
    from harness.analysis.grids import Grid, Word

FILE_WIDTH = 10_000


def show(grids: Sequence[Grid]) -> None:
    """Print each grid: as a table where it fits, else a block a row."""
    out = console()
    if not out.is_terminal:
        say(plain_text(grids), nl=False)
        return
    for grid in grids:
        _print(out, grid)


def plain_text(grids: Sequence[Grid]) -> str:
    """The same for a file, however wide; an asterisk stands for bold."""
    from harness.cli._render import SafeConsole

    out = SafeConsole(file=io.StringIO(), width=FILE_WIDTH, plain=True)
    for grid in grids:
        _print(out, grid)
    return "\n".join(line.rstrip() for line in out.file.getvalue().splitlines()) + "\n"  # type: ignore[attr-defined]


def _print(out: Any, grid: Grid) -> None:
    from rich.measure import Measurement

    out.print(grid.title, style="bold", markup=False)
    plain = out.color_system is None
    table = _table(grid, plain)
    if Measurement.get(out, out.options.update(max_width=FILE_WIDTH), table).maximum <= out.width:
        out.print(table)
    else:
        _print_blocks(out, grid, plain)
    starred = plain and any(word.bold for row in grid.rows for word in row)
    for note in [*grid.notes, *(["*: bold."] if starred else [])]:
        out.print(note, style="dim", markup=False)
    out.print()


def _table(grid: Grid, plain: bool) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(grid.heading):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in grid.rows:
        table.add_row(*(_text(word, plain) for word in row))
    return table


def _text(word: Word, plain: bool) -> Any:
    from rich.text import Text

    text = Text("*" if word.bold and plain else "", style="bold" if word.bold else "").append(
        harmless(word.text)
    )
    return text.append(f" [{','.join(word.marks)}]", style="not bold dim") if word.marks else text


def _print_blocks(out: Any, grid: Grid, plain: bool) -> None:
    from rich.text import Text

    width = max(len(harmless(name)) for name in grid.heading)
    for row in grid.rows:
        out.print()
        out.print(_text(row[0], plain), style="bold")
        for name, word in zip(grid.heading[1:], row[1:], strict=True):
            if word.text:
                out.print(Text(f"  {harmless(name):<{width}}  ").append(_text(word, plain)))
    out.print()
