"""`bench verify`: our runs against published values."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from harness.base.text import number, plural
from harness.base.workspace import Workspace
from harness.cli._options import json_option, open_store
from harness.cli._output import print_json
from harness.cli._render import console, print_table

if TYPE_CHECKING:
    from harness.analysis.published import Experiment, Publication, Table
    from harness.analysis.reproduction import ClosedFormValue, Judgement, ReplicateMean


@click.command()
@click.argument("source", required=False)
@click.option(
    "-t",
    "--task",
    "tasks",
    multiple=True,
    metavar="TASK",
    help="Only values of this task: gaussian-25. Repeat for more.",
)
@json_option
@click.pass_context
def verify(ctx: click.Context, source: str | None, tasks: Sequence[str], as_json: bool) -> None:
    """Hold stored runs against published values.

    A value is reproduced where the mean of our runs is within 5 % of it, or within three combined
    standard errors; an error that follows the data set has to lie where data sets put it. What
    cannot be compared says why. Nothing is run.

    SOURCE is report2020, caterini2018 or literature; without it all of them are shown.
    Exit status: 0 nothing failed, 2 bad usage, 3 some value is not reproduced that should be.

    \b
    Example:
      bench verify report2020 -t gaussian-25
    """
    from harness.analysis import published

    found = [published.load(name) for name in ([source] if source else published.publications())]
    _refuse_unknown(tasks, found)
    judged = _judge(found, tasks)
    if as_json:
        print_json(value.plain() for value in judged)
    else:
        for each in found:
            _print_source(
                each, [value for value in judged if value.source == each.name], bool(tasks)
            )
        _print_summary(judged, found)
    ctx.exit(3 if any(value.fails for value in judged) else 0)


def _refuse_unknown(tasks: Sequence[str], found: Sequence[Publication]) -> None:
    from harness.base.errors import UnknownName

    known = {
        task for source in found for experiment in source.experiments for task in experiment.tasks
    }
    for task in tasks:
        if task not in known:
            raise UnknownName("task with published values", task, known)


def _judge(found: Sequence[Publication], tasks: Sequence[str]) -> list[Judgement]:
    from functools import cache

    from harness.analysis.reproduction import judge
    from harness.plan.studies import runs_of

    runs, chosen = cache(runs_of), set(tasks) or None
    store = open_store(Workspace.current())
    if store is None:
        return [value for source in found for value in judge(None, source, runs, chosen)]
    with store:
        return [value for source in found for value in judge(store, source, runs, chosen)]


def _print_source(source: Publication, judged: Sequence[Judgement], restricted: bool) -> None:
    """The source's tables; with only some tasks asked for, those that have them."""
    out = console()
    if restricted and not judged:
        return
    links = [source.code or "", f"arXiv:{source.arxiv}" if source.arxiv else ""]
    out.print(f"{source.name}: {source.title}", markup=False, style="bold")
    out.print(" · ".join([source.authors, *filter(None, links)]), markup=False)
    for experiment in source.experiments:
        if not experiment.tables and not restricted:
            out.print(f"\n{experiment.name}: {experiment.about}", markup=False)
            _print_wrapped(f"No values to compare: {experiment.because}")
        for table in experiment.tables:
            values = [
                value
                for value in judged
                if (value.experiment, value.metric) == (experiment.name, table.metric)
            ]
            if values:
                _print_values(experiment, table, values)
    out.print()


def _print_values(experiment: Experiment, table: Table, values: Sequence[Judgement]) -> None:
    dims = all(value.task.rpartition("-")[2].isdecimal() for value in values)
    console().print(f"\n{experiment.name}, {table.metric}: {table.about}", markup=False)
    columns: dict[str, list[str]] = {
        "method": [value.row for value in values],
        "setting": [value.setting or "" for value in values],
        "source": [value.quoted_from or "" for value in values],
        "d" if dims else "task": [
            value.task.rpartition("-")[2] if dims else value.task for value in values
        ],
        "verdict": [_verdict(value) for value in values],
        "published": [f"{value.published:.7g}" for value in values],
        "ours ± se (n)": [_mean(value.ours) for value in values],
        "off by": [
            "" if value.difference is None else f"{value.difference:+.1%}" for value in values
        ],
        "closed form": [_form(value.closed_form) for value in values],
        "corrected": [_mean(value.corrected) for value in values],
        "its closed form": [_form(value.corrected_closed_form) for value in values],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    print_table(
        tuple(shown), zip(*shown.values(), strict=True), left=list(shown).index("verdict") + 1
    )
    for note in _notes(experiment, values):
        _print_wrapped(note)


def _verdict(value: Judgement) -> str:
    """The verdict; of missing runs how many there are, and of a failure whether it was foreseen."""
    mean = value.ours
    if mean is not None and value.verdict == "not run":
        return f"not run ({mean.standing()})"
    if value.verdict == "not reproduced":
        foreseen = ", not expected to be" if value.not_expected else ""
        lost = f" ({mean.standing()})" if mean is not None and mean.lost else ""
        return f"not reproduced{foreseen}{lost}"
    return str(value.verdict)


def _mean(mean: ReplicateMean | None) -> str:
    if mean is None or not mean.interval.n:
        return ""
    return f"{number(mean.interval.mean, mean.interval.se)} ({mean.interval.n})"


def _form(form: ClosedFormValue | None) -> str:
    return "" if form is None else number(form.value)


def _notes(experiment: Experiment, values: Sequence[Judgement]) -> Iterator[str]:
    """Reasons, each once with the values that it is about; then what the closed forms are."""
    from harness.analysis.reproduction import NEAR

    reasons: dict[str, list[str]] = {}
    for value in values:
        name = f"{value.row} on {value.task}"
        if value.verdict == "not reproduced":
            reasons.setdefault(f"not reproduced: {value.reason}", []).append(name)
        if value.verdict == "reproduced" and abs(value.difference or 0.0) > NEAR:
            reasons.setdefault(f"reproduced: {value.reason}", []).append(name)
        if value.verdict == "not comparable":
            reasons.setdefault(f"not comparable: {value.reason}", []).append(name)
        if value.not_expected:
            reasons.setdefault(f"may fail to be reproduced: {value.not_expected}", []).append(name)
    for reason, names in reasons.items():
        yield (
            f"Not comparable: {experiment.because}"
            if experiment.because
            else f"{', '.join(names)} {reason}"
        )
    rows = {value.row for value in values}
    forms: dict[str, list[str]] = {}
    for value in values:
        for form in filter(None, (value.closed_form, value.corrected_closed_form)):
            forms.setdefault(form.description, []).append(value.row)
    for text, named in forms.items():
        whose = (
            "" if set(named) == rows and len(rows) > 1 else f" of {', '.join(dict.fromkeys(named))}"
        )
        yield f"Closed form{whose}: {text}."


def _print_wrapped(text: str) -> None:
    out = console()
    out.print("\n".join(textwrap.wrap(text, out.width, subsequent_indent="  ")), markup=False)


def _print_summary(judged: Sequence[Judgement], found: Sequence[Publication]) -> None:
    """Counts of verdicts, and what to do next."""
    out = console()
    counts = Counter(str(value.verdict) for value in judged)
    foreseen = sum(value.verdict == "not reproduced" and not value.fails for value in judged)
    said = [
        f"{count} {name}"
        + (f" ({foreseen} of them foreseen)" if foreseen and name == "not reproduced" else "")
        for name, count in counts.items()
    ]
    out.print(
        f"{plural(len(judged), 'published value')}: {', '.join(said) or 'none'}.",
        markup=False,
        style="bold",
    )
    for line in _next(judged, found):
        out.print(line, markup=False)


def _next(judged: Sequence[Judgement], found: Sequence[Publication]) -> Iterator[str]:
    failing = [value.ours.keys[0] for value in judged if value.fails and value.ours is not None]
    if failing:
        yield f"Next: bench show {failing[0]}, a run of the first value that is not reproduced"
    for study in _studies_to_run(judged, found):
        yield f"Next: bench study run {study}, which makes what is missing; --dry-run says how long it takes"
    if not failing and any(value.verdict == "reproduced" for value in judged):
        yield "More of a value, with the keys of its runs: bench verify --json"


def _studies_to_run(judged: Sequence[Judgement], found: Sequence[Publication]) -> list[str]:
    missing: Collection[tuple[str, str]] = {
        (value.source, value.experiment) for value in judged if value.verdict == "not run"
    }
    studies = [
        experiment.study
        for source in found
        for experiment in source.experiments
        if (source.name, experiment.name) in missing
    ]
    return list(dict.fromkeys(filter(None, studies)))
