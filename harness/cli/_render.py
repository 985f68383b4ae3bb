"""Consoles, tables and progress bars, on a terminal that stored text cannot steer."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self, TypeVar

from rich import box
from rich import progress as rich_progress
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from harness.base.errors import harmless
from harness.cli._output import results, say

Item = TypeVar("Item")

UNLIMITED = 10_000
"""Columns of what is not a terminal."""
LINE_S, FIRST_LINE_S = 10.0, 2.0
"""Seconds between two lines of progress where there is no terminal, and before the first."""


class SafeConsole(Console):
    """Rich's console, where text is only text: `[red]` and `:crab:` are shown as they stand,
    control characters written out.
    """

    def __init__(self, *, plain: bool = False, **options: Any) -> None:
        super().__init__(
            **options,
            color_system=None if plain else "auto",
            markup=False,
            emoji=False,
            highlight=False,
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich's, of the text as it will be printed: tables measure it."""
        return super().render_str(harmless(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich's; what rich itself writes to move the cursor stays."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(harmless(segment.text), segment.style)


def console() -> SafeConsole:
    """Return a console for results; nothing is wrapped off a terminal."""
    is_terminal = results().isatty()
    width = None if is_terminal else UNLIMITED
    return SafeConsole(file=results(), width=width, soft_wrap=not is_terminal)


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    left: int | None = None,
    *,
    blocks: bool = False,
    out: Console | None = None,
) -> None:
    """Print a table.

    Args:
        columns, rows: the headings, and as many cells a row.
        left: how many columns are aligned left; those after them are numbers. None: all.
        blocks: print a table that is wider than the terminal as a block of lines for each row;
            without it, cells are wrapped.
        out: a console; stdout where it is None.
    """
    out, rows = out or console(), list(rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        justify = "left" if left is None or index < left else "right"
        table.add_column(name, justify=justify, no_wrap=blocks)
    for row in rows:
        table.add_row(*row)
    unlimited = out.options.update(max_width=UNLIMITED)
    if not blocks or Measurement.get(out, unlimited, table).maximum <= out.width:
        out.print(table)
        return
    width = max(len(harmless(name)) for name in columns)
    for row in rows:
        out.print()
        out.print(row[0], style="bold")
        for name, cell in zip(columns[1:], row[1:], strict=True):
            if cell:
                out.print(Text(f"  {harmless(name):<{width}}  ").append(cell))
    out.print()


class Progress:
    """Progress of long work on stderr: bars on a terminal, elsewhere a line every ten seconds.

    `columns` stand behind the name of a bar; `state_column()` is the text given to `update`.
    """

    def __init__(self, *columns: rich_progress.ProgressColumn) -> None:
        self._bars = bars(*columns) if sys.stderr.isatty() else None
        self._task, self._name, self._next_line = rich_progress.TaskID(0), "", 0.0

    def __enter__(self) -> Self:
        """Show the bars."""
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the last state of the bars on the screen."""
        if self._bars:
            self._bars.stop()

    def say(self, text: str) -> None:
        """Print a line, above the bars."""
        if self._bars:
            self._bars.console.print(text)
        else:
            say(text, err=True)

    def begin(self, name: str, total: float | None, completed: int = 0, line: str = "") -> None:
        """Add a bar, or print the line that says what begins."""
        self._name, self._next_line = name, time.monotonic() + FIRST_LINE_S
        if self._bars:
            self._task = self._bars.add_task(name, total=total, completed=completed, state="")
        elif line:
            say(line, err=True)

    def update(self, completed: float, state: str = "", is_last: bool = False) -> None:
        """Move the bar, or print the state when a line is due; the last one always is."""
        if self._bars:
            self._bars.update(self._task, completed=completed, state=state)
        elif state and (is_last or time.monotonic() >= self._next_line):
            self._next_line = time.monotonic() + LINE_S
            say(f"{self._name}: {state}", err=True)


def track(items: Iterable[Item], total: int | None, description: str) -> Iterator[Item]:
    """Yield the items, with a bar on a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    columns = rich_progress.BarColumn(), rich_progress.TimeRemainingColumn()
    with bars(*columns, transient=True) as progress:
        yield from progress.track(items, total, description=description)


def bars(*columns: rich_progress.ProgressColumn, transient: bool = False) -> rich_progress.Progress:
    """Return bars on stderr, each behind its description."""
    return rich_progress.Progress(
        _SafeColumn("{task.description}"),
        *columns,
        console=SafeConsole(stderr=True),
        transient=transient,
    )


def state_column() -> rich_progress.ProgressColumn:
    """Return a column of bars for the state given to `Progress.update`."""
    return _SafeColumn("{task.fields[state]}")


class _SafeColumn(rich_progress.TextColumn):
    def render(self, task: rich_progress.Task) -> Text:
        return Text(harmless(self.text_format.format(task=task)))
