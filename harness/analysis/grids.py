"""A table as rows of words: what every text format prints in its own way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.analysis.footnotes import NAMES
from harness.analysis.ranks import Ranking
from harness.analysis.reproduction import ClosedFormValue, Judgement, ReplicateMean
from harness.analysis.selection import Span, TuningCost
from harness.analysis.statistics import Interval
from harness.analysis.tables import Entry, Line, Table
from harness.base.text import between, count, number, probability

MLE_ROW = "exact MLE"
COSTS = ("steps", "gradients", "time")
TUNING = "tuning"
NOTHING = "-"


@dataclass(frozen=True)
class Word:
    """What stands in one place of a table. `marks` are letters of notes, `cell` is the name under
    which `bench why` knows it.
    """

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

    `brackets` has intervals in place of standard errors, `differences` adds a table of paired
    differences to the reference, and `costs` has what a run costs in the last columns.
    """

    brackets: bool = False
    differences: bool = False
    costs: bool = True


def table_grids(table: Table, style: Style) -> list[Grid]:
    """The table of means, and after it that of differences where it is wanted."""
    costs = _cost_names(table) if style.costs else ()
    usual = Counter(
        entry.total for line in table.lines for entry in line.entries if entry
    ).most_common(1)[0][0]
    means = [
        [_mean(entry, style.brackets, usual) for entry in line.entries] for line in table.lines
    ]
    rows = [
        (Word(line.name), *words, *_costs(line)[: len(costs)])
        for line, words in zip(table.lines, means, strict=True)
    ]
    if table.floor is not None:
        floors = (
            Word("" if floor is None else estimate(floor, style.brackets)) for floor in table.floor
        )
        rows.append((Word(MLE_ROW), *floors, *(Word("") for _ in costs)))
    notes = (_means_are(table, style), *table.notes, *_reading(table, style))
    found = [Grid(table.title, ("method", *table.columns, *costs), tuple(rows), notes)]
    return [*found, _differences(table)] if style.differences else found


def _cost_names(table: Table) -> tuple[str, ...]:
    return (*COSTS, TUNING) if any(line.cost.tuning for line in table.lines) else COSTS


def _means_are(table: Table, style: Style) -> str:
    counts = sorted(
        {
            entry.interval.n
            for line in table.lines
            for entry in line.entries
            if entry and entry.interval.n
        }
        or {0}
    )
    spread = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    shown = (
        f", in brackets the 95 % interval ({NAMES[table.options.interval]})"
        if style.brackets
        else " ± standard error"
    )
    return f"Means over seeds{shown}; {spread}."


def _reading(table: Table, style: Style) -> Iterator[str]:
    """How all else is to be read."""
    if table.floor is not None:
        yield f"{MLE_ROW}: the exact maximum-likelihood fit to the same data sets."
    if any(entry is None for line in table.lines for entry in line.entries):
        yield f"{NOTHING}: not run."
    if table.apart:
        yield f"In a table of its own because of {', '.join(table.apart)}: scores under other values are not comparable."
    if style.costs:
        yield (
            "Costs are of one run, from the cheapest column to the dearest. Gradients: evaluations of the log-joint's gradient, which are "
            "steps x particles x (what a draw takes + 1). Time: seconds of work; replicates that train together each count the time of all."
        )
        tuned = any(line.cost.tuning for line in table.lines)
        yield (
            f"Tuning: all trials of the search that found a row's settings; {NOTHING} where none did."
            if tuned
            else ("No settings here were found by a tuning study of this workspace.")
        )


def rank_grid(ranking: Ranking) -> Grid:
    """Mean ranks, the best first, and who is not told apart from whom."""
    order = sorted(
        range(len(ranking.names)),
        key=lambda place: (ranking.mean_ranks[place], ranking.names[place]),
    )
    groups: dict[str, list[str]] = {name: [] for name in ranking.names}
    for place, clique in enumerate(ranking.cliques, 1):
        for name in clique:
            groups[name].append(str(place))
    ranked = [(ranking.names[place], ranking.mean_ranks[place]) for place in order]
    rows = tuple(
        (Word(name), Word(f"{rank:.2f}"), Word(" ".join(groups[name]))) for name, rank in ranked
    )
    notes = [
        f"Ranks within each of {ranking.n_blocks} columns, 1 the best; a method with failed runs is last in that column."
    ]
    if ranking.p == ranking.p:
        notes.append(
            f"Friedman's test that all are alike: chi-squared {number(ranking.chi_square)}, p {probability(ranking.p)}."
        )
    near = number(ranking.critical_difference)
    notes.append(
        f"Mean ranks less than {near} apart are not told apart (Nemenyi, 5 %): such methods share a group."
    )
    return Grid("mean ranks across tasks", ("method", "mean rank", "group"), rows, tuple(notes))


def estimate(interval: Interval, brackets: bool) -> str:
    """A mean with its standard error, or with its interval."""
    if brackets and interval.n > 1:
        return between(interval.mean, interval.low, interval.high)
    return number(interval.mean, interval.se)


def _mean(entry: Entry | None, brackets: bool, usual: int) -> Word:
    """`usual` is how many runs an entry has; of others the number is said."""
    if entry is None:
        return Word(NOTHING)
    said = [f"{some}/{entry.total} {status}" for status, some in entry.failures.items()]
    if not entry.interval.n:
        return Word(", ".join(said) or "withdrawn", False, entry.marks, entry.cell)
    if entry.total != usual:
        said.append(f"n = {entry.interval.n}")
    text = estimate(entry.interval, brackets) + (f" ({', '.join(said)})" if said else "")
    return Word(text, entry.best, entry.marks, entry.cell)


def _costs(line: Line) -> tuple[Word, ...]:
    cost = line.cost
    return (
        Word(_span(cost.steps)),
        Word(_span(cost.gradients)),
        Word(_span(cost.seconds, " s")),
        Word(_tuning(cost.tuning)),
    )


def _tuning(spent: Sequence[TuningCost]) -> str:
    """Gradient evaluations, or steps where those cannot be counted, and seconds."""
    if not spent:
        return NOTHING
    gradients = Span.of(one.gradients for one in spent)
    work = (
        f"{_span(gradients)} gradients"
        if gradients
        else f"{_span(Span.of(one.steps for one in spent))} steps"
    )
    return f"{work}, {_span(Span.of(one.seconds for one in spent), ' s')}"


def _span(span: Span | None, unit: str = "") -> str:
    if span is None:
        return NOTHING
    low, high = (
        f"{each:#.2g}" if each < 10 and unit else count(each) for each in (span.low, span.high)
    )
    return (low if low == high else f"{low} to {high}") + unit


def _differences(table: Table) -> Grid:
    """Each row less the reference: the mean with its 95 % interval, and the corrected p."""
    whose = table.options.baseline or "the best row of each column"
    rows = tuple(
        (Word(line.name), *(_difference(entry) for entry in line.entries)) for line in table.lines
    )
    test = NAMES[table.options.test]
    note = (
        "Each row less the reference, paired over the seeds that both finished: mean, 95 % interval (Student's t), and p by "
        f"{test} test, corrected for the column's other rows (Holm)."
    )
    nobody = [
        column for place, column in enumerate(table.columns) if not _has_reference(table, place)
    ]
    missing = (
        [f"Nothing to compare with on {', '.join(nobody)}: {_why_not(table)}."] if nobody else []
    )
    return Grid(
        f"{table.title}: differences from {whose}",
        ("method", *table.columns),
        rows,
        (note, *missing),
    )


def _has_reference(table: Table, place: int) -> bool:
    return any(entry.is_reference for line in table.lines if (entry := line.entries[place]))


def _why_not(table: Table) -> str:
    if table.options.baseline:
        return f"{table.options.baseline} was not run there"
    return (
        "every row has failed runs"
        if table.info.better
        else "this metric does not rank, so a baseline must be named"
    )


def _difference(entry: Entry | None) -> Word:
    if entry is None:
        return Word(NOTHING)
    if entry.difference is None:
        return Word("reference" if entry.is_reference else NOTHING, False, (), entry.cell)
    interval = entry.difference.interval
    if interval.n < 2:
        return Word(
            number(interval.mean) if interval.n else "no shared seed", False, (), entry.cell
        )
    return Word(
        f"{estimate(interval, brackets=True)}, p {probability(entry.difference.p)}",
        False,
        (),
        entry.cell,
    )


PUBLISHED_HEADING = (
    "method",
    "task",
    "published",
    "ours",
    "n",
    "verdict",
    "closed form",
    "corrected",
    "its closed form",
)


def published_grids(judged: Sequence[Judgement]) -> list[Grid]:
    """A grid for each metric of each source: the values that our runs could be held against."""
    settled = [value for value in judged if value.verdict in ("reproduced", "not reproduced")]
    parts: dict[tuple[str, str], list[Judgement]] = {}
    for value in settled:
        parts.setdefault((value.source, value.metric), []).append(value)
    return [
        Grid(f"{metric}: {source}", PUBLISHED_HEADING, tuple(map(_published_row, values)))
        for (source, metric), values in parts.items()
    ]


def _published_row(value: Judgement) -> tuple[Word, ...]:
    n = "" if value.ours is None else str(value.ours.interval.n)
    texts = (
        value.row,
        value.task,
        f"{value.published:.7g}",
        _replicate_mean(value.ours),
        n,
        str(value.verdict),
        _closed_form(value.closed_form),
    )
    return tuple(
        map(
            Word,
            (*texts, _replicate_mean(value.corrected), _closed_form(value.corrected_closed_form)),
        )
    )


def _replicate_mean(mean: ReplicateMean | None) -> str:
    return (
        "" if mean is None or not mean.interval.n else number(mean.interval.mean, mean.interval.se)
    )


def _closed_form(form: ClosedFormValue | None) -> str:
    return "" if form is None else f"{number(form.value)} ({form.name})"
