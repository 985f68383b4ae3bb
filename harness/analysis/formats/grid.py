"""A table as rows of words: what every text format prints in its own way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.analysis.costs import Span
from harness.analysis.ranks import Ranking
from harness.analysis.statistics import Interval
from harness.analysis.tables import Entry, Line, Table
from harness.analysis.text import between, count, number, probability

FLOOR = "exact MLE"
COSTS = ("steps", "gradients", "time")


@dataclass(frozen=True)
class Word:
    """What stands in one place of a table. `marks` are letters of notes, `cell` is the name under which `bench why` knows it."""

    text: str
    bold: bool = False
    marks: tuple[str, ...] = ()
    cell: str | None = None


@dataclass(frozen=True)
class Grid:
    """A heading and its rows; the first column holds names, the others numbers."""

    title: str
    heading: tuple[str, ...]
    rows: tuple[tuple[Word, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Style:
    """How tables look.

    `brackets` has intervals in place of standard errors, `differences` adds a table of paired differences to the reference, and
    `costs` has what a run costs in the last columns.
    """

    brackets: bool = False
    differences: bool = False
    costs: bool = True


def grids(table: Table, style: Style) -> list[Grid]:
    """The table of means, and after it that of differences where it is wanted."""
    costs = COSTS if style.costs else ()
    rows = [(Word(line.name), *_means(line, style.brackets), *(_costs(line) if costs else ())) for line in table.lines]
    if table.floor is not None:
        floors = (Word("" if floor is None else estimate(floor, style.brackets)) for floor in table.floor)
        rows.append((Word(FLOOR), *floors, *(Word("") for _ in costs)))
    means = Grid(table.title, ("method", *table.columns, *costs), tuple(rows), table.notes)
    return [means, _differences(table)] if style.differences else [means]


def rank_grid(ranking: Ranking) -> Grid:
    """Mean ranks, the best first, and who is not told apart from whom."""
    order = sorted(range(len(ranking.names)), key=lambda place: (ranking.mean_ranks[place], ranking.names[place]))
    groups = {name: [str(number) for number, clique in enumerate(ranking.cliques, 1) if name in clique] for name in ranking.names}
    ranked = [(ranking.names[place], ranking.mean_ranks[place]) for place in order]
    rows = tuple((Word(name), Word(f"{rank:.2f}"), Word(" ".join(groups[name]))) for name, rank in ranked)
    notes = [f"Ranks within each of {ranking.n_blocks} tasks, 1 the best; a method with failed runs on a task is last there."]
    if ranking.p == ranking.p:
        notes.append(f"Friedman's test that all are alike: chi-squared {number(ranking.chi_square)}, p {probability(ranking.p)}.")
    near = number(ranking.critical_difference)
    notes.append(f"Mean ranks less than {near} apart are not told apart (Nemenyi, 5 %): such methods share a group.")
    return Grid("mean ranks across tasks", ("method", "mean rank", "group"), rows, tuple(notes))


def estimate(interval: Interval, brackets: bool) -> str:
    """A mean with its standard error, or with its interval."""
    if brackets and interval.n > 1:
        return between(interval.mean, interval.low, interval.high)
    return number(interval.mean, interval.se)


def _means(line: Line, brackets: bool) -> Iterator[Word]:
    return (_mean(entry, brackets) for entry in line.entries)


def _mean(entry: Entry | None, brackets: bool) -> Word:
    if entry is None:
        return Word("-")
    failed = ", ".join(f"{some}/{entry.total} {status}" for status, some in entry.failures.items())
    if not entry.interval.n:
        return Word(failed or "-", False, entry.marks, entry.cell)
    text = estimate(entry.interval, brackets) + (f" ({failed})" if failed else "")
    return Word(text, entry.best, entry.marks, entry.cell)


def _costs(line: Line) -> tuple[Word, ...]:
    return Word(_span(line.cost.steps)), Word(_span(line.cost.gradients)), Word(_span(line.cost.seconds, " s"))


def _span(span: Span | None, unit: str = "") -> str:
    if span is None:
        return "-"
    low, high = (f"{each:.2g}" if each < 10 and unit else count(each) for each in (span.low, span.high))
    return (low if low == high else f"{low} to {high}") + unit


def _differences(table: Table) -> Grid:
    """Each row less the reference: the mean with its 95 % interval, and the corrected p."""
    references = {entry.difference.reference for line in table.lines for entry in line.entries if entry and entry.difference}
    whose = references.pop() if len(references) == 1 else "the best of each column"
    rows = tuple((Word(line.name), *(_difference(entry) for entry in line.entries)) for line in table.lines)
    note = "Paired over the seeds that both finished; p is corrected for the column's other rows (Holm)."
    return Grid(f"{table.metric.name}: less {whose}", ("method", *table.columns), rows, (note,))


def _difference(entry: Entry | None) -> Word:
    if entry is None:
        return Word("-")
    if entry.difference is None:
        return Word("reference" if entry.interval.n else "-", False, (), entry.cell)
    interval = entry.difference.interval
    if interval.n < 2:
        return Word(number(interval.mean) if interval.n else "no shared seed", False, (), entry.cell)
    return Word(f"{estimate(interval, brackets=True)}, p {probability(entry.difference.p)}", False, (), entry.cell)
