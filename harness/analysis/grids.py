"""Tables as rows of words: what every text format prints in its own way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from harness.analysis.footnotes import (
    FEW_NOTE,
    IN_CONFIDENCE_SET,
    TEST_NAMES,
    Footnotes,
    short_best_note,
)
from harness.analysis.ranks import FEW_BLOCKS, Ranking
from harness.analysis.reproduction import ClosedFormValue, Judgement, ReplicateMean
from harness.analysis.selection import (
    RowName,
    TuningCost,
    gradients,
    row_names,
    seconds,
    shared_settings,
)
from harness.analysis.statistics import Interval
from harness.analysis.tables import Entry, Line, Table, aspects_of
from harness.base.errors import UsageError
from harness.base.text import between, count, number, probability

COSTS = ("steps", "gradients", "time")
TUNING = "tuning"
NOTHING = "-"
PUBLISHED_HEADING = (
    "method", "task", "published", "ours", "n", "verdict", "closed form", "corrected",
    "its closed form",
)  # fmt: skip


@dataclass(frozen=True)
class Word:
    """A text of a grid, with letters of notes, and the name under which `bench why` knows it."""

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
    """How tables look: `brackets` has intervals in place of standard errors, `differences` adds a
    table of paired differences to the reference, `short` keeps the notes that a caption needs.
    """

    brackets: bool = False
    differences: bool = False
    costs: bool = True
    short: bool = False


def table_grids(table: Table, style: Style) -> list[Grid]:
    """Return the table of means, and after it that of differences where it is asked for."""
    costs: tuple[str, ...] = COSTS if style.costs else ()
    if costs and any(line.tuning for line in table.lines):
        costs = (*COSTS, TUNING)
    usual_total = _usual_total(table)
    rows: list[tuple[Word, ...]] = [
        (
            Word(line.name),
            *(_mean(entry, style.brackets, usual_total) for entry in line.entries),
            *_costs(line)[: len(costs)],
        )
        for line in table.lines
    ]
    for limit in table.limits:
        words = _limit(limit.values, style)
        rows.append((Word(limit.name), *words, *(Word("") for _ in costs)))
    heading = ("method", *table.columns, *costs)
    means = Grid(table.title, heading, tuple(rows), tuple(_notes([table], style)))
    return [means, _differences(table)] if style.differences else [means]


def joined_grid(tables: Sequence[Table], style: Style) -> Grid:
    """Return one table of the means of several: of their metrics, or of what was scored apart.

    The caption has what they share, and a column's heading what they do not.

    Raises:
        UsageError: a metric means one thing on some of the tasks and another on others.
    """
    for metric in (table.metric for table in tables):
        if len({(t.info.unit, t.info.better) for t in tables if t.metric == metric}) > 1:
            raise UsageError(
                f"'{metric}' has another unit or another better end on some of these tasks, so "
                "that one table would mislead. Select tasks with -t, or leave out --one-table."
            )
    rows = sorted({line.row for table in tables for line in table.lines}, key=lambda row: row.order)
    shared = shared_settings(rows)
    names = row_names(rows, shared)
    protocols = {row.protocol for row in rows}
    tasks = list(dict.fromkeys(task for table in tables for task in table.columns))
    in_caption = {
        name: value
        for name, value in tables[0].apart.items()
        if all(table.apart.get(name, ...) == value for table in tables)
    }
    metrics = list(dict.fromkeys(table.heading for table in tables))
    heading = ["method"]
    cells: dict[RowName, list[Word]] = {row: [] for row in rows}
    footnotes = Footnotes()
    names_of_limits = dict.fromkeys(limit.name for table in tables for limit in table.limits)
    limits = {name: [Word(name)] for name in names_of_limits}
    for table in tables:
        apart = {name: value for name, value in table.apart.items() if name not in in_caption}
        suffix = [*([table.metric] if len(metrics) > 1 else []), *aspects_of(None, apart)]
        heading += [
            ", ".join([*([task] if len(tasks) > 1 or not suffix else []), *suffix])
            for task in table.columns
        ]
        entries = {line.row: line.entries for line in table.lines}
        usual_total = _usual_total(table)
        for row in rows:
            for entry in entries.get(row, (None,) * len(table.columns)):
                word = _mean(entry, style.brackets, usual_total)
                marks = tuple(map(footnotes.letter, table.explained(word.marks)))
                cells[row].append(replace(word, marks=marks))
        of_table = {limit.name: limit.values for limit in table.limits}
        for name, limit_words in limits.items():
            limit_words += _limit(of_table.get(name, (None,) * len(table.columns)), style)
    title = [*metrics, *(tasks if len(tasks) == 1 else [])]
    title += aspects_of(rows[0].protocol if len(protocols) == 1 else None, in_caption, shared)
    notes = _notes(tables, replace(style, costs=False))
    notes = [note for note in notes if not note.startswith("[")]
    words = [(Word(names[row]), *cells[row]) for row in rows]
    words += [(name, *rest) for name, *rest in limits.values()]
    return Grid(
        ", ".join(title),
        tuple(heading),
        tuple(words),
        (*footnotes.lines(), *dict.fromkeys(notes)),
    )


def _usual_total(table: Table) -> int:
    totals = Counter(entry.total for line in table.lines for entry in line.entries if entry)
    return totals.most_common(1)[0][0]


def _notes(tables: Sequence[Table], style: Style) -> Iterator[str]:
    """Say what the numbers are, what the letters stand for, and how all else is to be read."""
    entries = [entry for table in tables for line in table.lines for entry in line.entries if entry]
    counts = sorted({entry.interval.n for entry in entries if entry.interval.n} or {0})
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    spread = " ± standard error"
    if style.brackets:
        spread = f", in brackets the 95 % interval ({TEST_NAMES[tables[0].options.interval]})"
    yield f"Means over seeds{spread}; {n}."
    if not style.short:
        for table in tables:
            yield from table.notes
            yield from _legend(table, style)
        return
    better = {table.metric: table.info.better for table in tables}
    if len(set(better.values())) == 1 and (end := tables[0].info.better):
        yield f"{end.capitalize()} is better."
    else:
        yield from (f"{metric}: {end} is better." for metric, end in better.items() if end)
    if any(entry.in_confidence_set for entry in entries):
        has_marks = any(entry.in_confidence_set and not entry.best for entry in entries)
        yield short_best_note((table.info for table in tables), has_marks)
    elif any(entry.best for entry in entries):
        yield FEW_NOTE
    yield from (note for table in tables for note in table.notes if note.startswith("["))


def _legend(table: Table, style: Style) -> Iterator[str]:
    """How all else is to be read."""
    if any(entry and entry.spiked for line in table.lines for entry in line.entries):
        yield (
            "Spiked: the last parameters are worse than those of an earlier window of steps, which "
            "are scored."
        )
    yield from (f"{limit.name}: {limit.about}." for limit in table.limits)
    if any(entry is None for line in table.lines for entry in line.entries):
        yield f"{NOTHING}: not run."
    if table.apart:
        yield (
            f"In a table of its own because of {', '.join(table.apart)}: "
            "scores under other values are not comparable."
        )
    if style.costs:
        yield (
            "Costs are of one run, from the cheapest column to the dearest. Gradients: evaluations "
            "of the log-joint's gradient, which are steps x particles x (2 x what a draw takes + "
            "1): training goes back through each of them. "
            "Time: seconds of work; replicates that train together each count the time of all."
        )
        yield (
            "Tuning: all trials of the search that found a row's settings; "
            f"{NOTHING} where none did."
            if any(line.tuning for line in table.lines)
            else "No settings here were found by a tuning study of this workspace."
        )


def _limit(values: Iterable[Interval | None], style: Style) -> list[Word]:
    return [Word("" if value is None else estimate(value, style.brackets)) for value in values]


def estimate(interval: Interval, brackets: bool) -> str:
    """Write a mean with its standard error, or with its interval."""
    if brackets and interval.n > 1 and interval.se == interval.se:
        return between(interval.mean, interval.low, interval.high)
    return number(interval.mean, interval.se)


def _mean(entry: Entry | None, brackets: bool, usual_total: int) -> Word:
    if entry is None:
        return Word(NOTHING)
    remarks = [f"{some}/{entry.total} {status}" for status, some in entry.failures.items()]
    remarks += [f"{entry.spiked}/{entry.total} spiked"] if entry.spiked else []
    if not entry.interval.n:
        return Word(", ".join(remarks) or "withdrawn", False, entry.marks, entry.cell)
    if entry.total != usual_total:
        remarks.append(f"n = {entry.interval.n}")
    text = between(*entry.quartiles) if entry.quartiles else estimate(entry.interval, brackets)
    text = f"{entry.sign} {text}" if entry.sign else text
    text += f" ({', '.join(remarks)})" if remarks else ""
    text += f" {IN_CONFIDENCE_SET}" if entry.in_confidence_set and not entry.best else ""
    return Word(text, entry.best, entry.marks, entry.cell)


def _costs(line: Line) -> tuple[Word, ...]:
    groups = [entry.group for entry in line.entries if entry]
    texts = (
        _span(group.cell.spec["steps"] for group in groups),
        _span(gradients(group.cell.spec, group.cell.description) for group in groups),
        _span(map(seconds, groups), " s"),
        _tuning_cost(line.tuning),
    )
    return tuple(map(Word, texts))


def _tuning_cost(costs: Sequence[TuningCost]) -> str:
    """Gradient evaluations, or steps where those cannot be counted, and seconds."""
    if not costs:
        return NOTHING
    work = f"{_span(cost.gradients for cost in costs)} gradients"
    if any(cost.gradients is None for cost in costs):
        work = f"{_span(cost.steps for cost in costs)} steps"
    return f"{work}, {_span((cost.seconds for cost in costs), ' s')}"


def _span(values: Iterable[float | None], unit: str = "") -> str:
    """The smallest and the largest of some figures; a dash where one is missing."""
    figures = list(values)
    numbers = [value for value in figures if value is not None]
    if not numbers or len(numbers) < len(figures):
        return NOTHING
    low, high = (
        f"{value:#.2g}" if value < 10 and unit else count(value)
        for value in (min(numbers), max(numbers))
    )
    return (low if low == high else f"{low} to {high}") + unit


def _differences(table: Table) -> Grid:
    """Each row less the reference: the mean with its 95 % interval, and the corrected p."""
    baseline = table.options.baseline
    notes = [
        "Each row less the reference, paired over the seeds that both finished: mean, 95 % "
        f"interval (Student's t), and p by {TEST_NAMES[table.options.test]} test, corrected for "
        "the column's other rows (Holm)."
    ]
    columns = zip(*(line.entries for line in table.lines), strict=True)
    without_reference = [
        name
        for name, entries in zip(table.columns, columns, strict=True)
        if not any(entry.is_reference for entry in entries if entry)
    ]
    if without_reference:
        notes.append(
            f"Nothing to compare with on {', '.join(without_reference)}: the baseline was not run "
            "there, or none is named and every row has failed runs or the metric does not rank."
        )
    return Grid(
        f"{table.title}: differences from {baseline or 'the best row of each column'}",
        ("method", *table.columns),
        tuple((Word(line.name), *map(_difference, line.entries)) for line in table.lines),
        tuple(notes),
    )


def _difference(entry: Entry | None) -> Word:
    if entry is None:
        return Word(NOTHING)
    if entry.difference is None:
        text = "reference" if entry.is_reference else NOTHING
    else:
        interval = entry.difference.interval
        text = number(interval.mean) if interval.n else "no shared seed"
        if interval.n > 1:
            p = probability(entry.difference.p)
            text = f"{estimate(interval, brackets=True)}, p {p}"
    return Word(text, cell=entry.cell)


def rank_grid(ranking: Ranking) -> Grid:
    """Return mean ranks, the best first, and which methods a test does not distinguish."""
    groups: dict[str, list[str]] = {name: [] for name in ranking.names}
    for label, clique in enumerate(ranking.cliques, 1):
        for name in clique:
            groups[name].append(str(label))
    notes = [
        f"Ranks within each of {ranking.n_blocks} columns, 1 the best, by the median of a method's "
        "runs; a failed run counts as worse than any other."
    ]
    if ranking.n_blocks < FEW_BLOCKS:
        notes.insert(
            0,
            f"Of fewer than {FEW_BLOCKS} columns: these ranks say little, and the tests below are "
            "approximations for more.",
        )
    if ranking.p == ranking.p:
        notes.append(
            "Friedman's test that all are alike, as Iman and Davenport's: "
            f"F {number(ranking.f)}, p {probability(ranking.p)}."
        )
    notes.append(
        f"Mean ranks less than {number(ranking.critical_difference)} apart are not told apart "
        "(Nemenyi, 5 %): such methods share a group."
    )
    rows = tuple(
        (Word(name), Word(f"{rank:.2f}"), Word(" ".join(groups[name])))
        for rank, name in sorted(zip(ranking.mean_ranks, ranking.names, strict=True))
    )
    heading = ("method", "mean rank", "group")
    return Grid("mean ranks across tasks", heading, rows, tuple(notes))


def published_grids(judgements: Sequence[Judgement]) -> list[Grid]:
    """Return a grid for each metric of each source: published values beside ours."""
    by_metric: dict[tuple[str, str], list[Judgement]] = {}
    for judgement in judgements:
        by_metric.setdefault((judgement.source, judgement.metric), []).append(judgement)
    return [
        Grid(f"{metric}: {source}", PUBLISHED_HEADING, tuple(map(_published_row, members)))
        for (source, metric), members in by_metric.items()
    ]


def _published_row(judgement: Judgement) -> tuple[Word, ...]:
    def mean(ours: ReplicateMean | None) -> str:
        has_mean = ours and ours.interval.n
        return number(ours.interval.mean, ours.interval.se) if ours and has_mean else ""

    def form(form: ClosedFormValue | None) -> str:
        return f"{number(form.value)} ({form.name})" if form else ""

    texts = (
        judgement.row,
        judgement.task,
        f"{judgement.published:.7g}",
        mean(judgement.ours),
        "" if judgement.ours is None else str(judgement.ours.interval.n),
        str(judgement.verdict),
        form(judgement.closed_form),
        mean(judgement.corrected),
        form(judgement.corrected_closed_form),
    )
    return tuple(map(Word, texts))
