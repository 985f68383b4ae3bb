"""What is printed: texts as they stand, and marks that mean one thing."""

from __future__ import annotations

import io
import sqlite3
from contextlib import closing

import pytest
from conftest import json_lines
from rich.table import Table

from harness.analysis.grids import Grid, Word
from harness.cli._render import SafeConsole, bars
from harness.cli.compare import plain_text, print_grids

TEXTS = (
    "./cancer.py:Cancer: done",
    "a [red]b[/] [/c] [link=file:///etc/passwd]d",
    ":crab:",
    "a\x1b[2Jb",
    "\u202eabc",
)
SHOWN = (*TEXTS[:3], "a\\x1b[2Jb", "\\u202eabc")


@pytest.mark.parametrize(("text", "shown"), list(zip(TEXTS, SHOWN, strict=True)))
def test_texts_are_printed_as_they_stand(text, shown):
    """As a line, in every part of a table, and beside a bar."""
    out = SafeConsole(file=io.StringIO(), width=200)
    out.print(text)
    out.print(text, style="bold")
    table = Table(text, title=text, caption=text)
    table.add_row(text)
    out.print(table)
    with bars() as progress:
        progress.add_task(text)
        out.print(progress.get_renderable())
    assert out.file.getvalue().count(shown) == 7


BOLD = Grid(
    "elbo",
    ("method", "gaussian-2"),
    ((Word("vb"), Word("1.0", bold=True)), (Word("iaf"), Word("0.5"))),
    ("Bold: the best.",),
)


def test_an_asterisk_stands_for_bold_wherever_there_is_none(monkeypatch, capsys):
    """In a file, however wide its names are, and on a terminal that knows no bold."""
    wide = Grid(
        BOLD.title,
        BOLD.heading,
        ((Word("v" * 20_000), *BOLD.rows[0][1:]), *BOLD.rows[1:]),
        BOLD.notes,
    )
    for grid in (BOLD, wide):
        assert "*1.0" in plain_text([grid])
        assert "*: bold." in plain_text([grid])
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_grids([BOLD])
    assert "*1.0" in capsys.readouterr().out


@pytest.mark.usefixtures("no_mirror")
def test_estimates_that_are_not_trusted_have_a_footnote_and_no_asterisk(bench, workspace):
    """As in comparisons, where an asterisk is another mark; without an interval, it is a limit."""
    command = ("run", "-m", "vb", "-t", "digits", "--protocol", "smoke")
    assert bench(*command).exit_code == 0
    with closing(sqlite3.connect(workspace / "bench.db")) as database:
        database.execute(
            "UPDATE metrics SET value = CASE name WHEN 'pareto_k' THEN 0.9 ELSE 12.5 END, se = "
            "NULL, kind = 'finite'"
        )
        database.commit()
    text = bench(*command).stdout
    row = next(line.split("  ") for line in text.splitlines() if line.strip().startswith("vb"))
    assert [cell.strip() for cell in row if "12.5" in cell] == ["≤ 12.5 [a]", "12.5", "12.5"]
    assert (
        "[a] A bound in expectation, without an interval: Pareto k is above 0.7 in 1 of 1 runs."
        in text
    )
    assert "*" not in text
    gaussian = bench("run", "-m", "vb", "-t", "gaussian-2", "--protocol", "smoke").stdout
    assert "[a]" not in gaussian  # no column of its table is such an estimate
    (line,) = json_lines(bench("compare", "--metric", "nll", "--json"))
    assert "has no interval that would cover" in line["notes"]
