"""`bench verify`: our runs against published values."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

import click

from harness.base.errors import UnknownName
from harness.base.text import number, plural
from harness.base.workspace import Workspace
from harness.cli._options import json_option, open_store
from harness.cli._output import print_json
from harness.cli._render import console, print_table

if TYPE_CHECKING:
    from harness.analysis.published import Experiment, Publication, Table
    from harness.analysis.reproduction import ClosedFormValue, Judgement, ReplicateMean

NOT_REPRODUCED = 3
"""Exit status where a value is not reproduced that should be."""


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
    """Compare stored runs with published values.

    A value is reproduced if the mean of our runs is within 5 % of it, or within three combined
    standard errors; an error that depends on the data set must lie where data sets put it. What
    cannot be compared says why. Nothing is run.

    SOURCE is report2020, caterini2018 or literature; without it all of them are shown.
    Exit status: 0 nothing failed, 2 bad usage, 3 some value is not reproduced that should be.

    \b
    Example:
      bench verify report2020 -t gaussian-25
    """
    from harness.analysis.published import load, publications

    sources = [load(name) for name in ([source] if source else publications())]
    known = {
        task
        for publication in sources
        for experiment in publication.experiments
        for task in experiment.tasks
    }
    for task in tasks:
        if task not in known:
            raise UnknownName("task with published values", task, known)
    judgements = _judge(sources, set(tasks) or None)
    if as_json:
        print_json(judgement.plain() for judgement in judgements)
    else:
        for publication in sources:
            members = [value for value in judgements if value.source == publication.name]
            if members or not tasks:
                _print_source(publication, members, bool(tasks))
        _print_summary(judgements, sources)
    ctx.exit(NOT_REPRODUCED if any(judgement.fails for judgement in judgements) else 0)


def _judge(sources: Sequence[Publication], tasks: set[str] | None) -> list[Judgement]:
    from harness.analysis.reproduction import judge
    from harness.plan.studies import runs_of

    study_runs = cache(runs_of)
    store = open_store(Workspace.current())
    try:
        return [
            judgement for source in sources for judgement in judge(store, source, study_runs, tasks)
        ]
    finally:
        if store is not None:
            store.close()


def _print_source(source: Publication, values: Sequence[Judgement], is_restricted: bool) -> None:
    """Print the source's tables; if only some tasks are wanted, those that have them."""
    out = console()
    arxiv = f"arXiv:{source.arxiv}" if source.arxiv else None
    out.print(f"{source.name}: {source.title}", style="bold")
    out.print(" · ".join(filter(None, (source.authors, source.code, arxiv))))
    for experiment in source.experiments:
        if not experiment.tables and not is_restricted:
            out.print(f"\n{experiment.name}: {experiment.about}")
            _print_wrapped(f"No values to compare: {experiment.because}")
        for table in experiment.tables:
            name = (experiment.name, table.metric)
            members = [value for value in values if (value.experiment, value.metric) == name]
            if members:
                _print_values(experiment, table, members)
    out.print()


def _print_values(experiment: Experiment, table: Table, values: Sequence[Judgement]) -> None:
    console().print(f"\n{experiment.name}, {table.metric}: {table.about}")
    names = [value.task.rpartition("-")[2] for value in values]
    has_dimensions = all(map(str.isdecimal, names))
    columns = {
        "method": [value.row for value in values],
        "setting": [value.setting or "" for value in values],
        "source": [value.quoted_from or "" for value in values],
        "d" if has_dimensions else "task": names
        if has_dimensions
        else [value.task for value in values],
        "verdict": [_verdict(value) for value in values],
        "published": [f"{value.published:.7g}" for value in values],
        "ours ± se (n)": [_mean(value.ours) for value in values],
        "off by": [
            "" if value.difference is None else f"{value.difference:+.1%}" for value in values
        ],
        "closed form": [_closed_form(value.closed_form) for value in values],
        "corrected": [_mean(value.corrected) for value in values],
        "its closed form": [_closed_form(value.corrected_closed_form) for value in values],
    }
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    n_left = list(columns).index("verdict") + 1
    print_table(list(columns), zip(*columns.values(), strict=True), n_left, blocks=True)
    for note in (*_reasons(experiment, values), *_closed_form_notes(values)):
        _print_wrapped(note)


def _verdict(value: Judgement) -> str:
    """The verdict; of missing runs how many there are, and of a failure whether it was expected."""
    mean = value.ours
    if mean is not None and value.verdict == "not run":
        return f"not run ({mean.standing()})"
    if value.verdict == "not reproduced":
        expected = ", as expected" if value.not_expected else ""
        failures = f" ({mean.standing()})" if mean is not None and mean.lost else ""
        return f"not reproduced{expected}{failures}"
    return str(value.verdict)


def _mean(mean: ReplicateMean | None) -> str:
    if mean is None or not mean.interval.n:
        return ""
    return f"{number(mean.interval.mean, mean.interval.se)} ({mean.interval.n})"


def _closed_form(form: ClosedFormValue | None) -> str:
    return "" if form is None else number(form.value)


def _reasons(experiment: Experiment, values: Sequence[Judgement]) -> Iterator[str]:
    """Yield each reason with the values that it is about."""
    from harness.analysis.reproduction import NEAR

    reasons: dict[str, list[str]] = {}
    for value in values:
        is_far = abs(value.difference or 0.0) > NEAR
        texts = []
        if value.verdict in ("not reproduced", "not comparable") or (
            value.verdict == "reproduced" and is_far
        ):
            texts.append(f"{value.verdict}: {value.reason}")
        if value.not_expected:
            texts.append(f"may not be reproduced: {value.not_expected}")
        for text in texts:
            reasons.setdefault(text, []).append(f"{value.row} on {value.task}")
    for reason, names in reasons.items():
        if experiment.because:
            yield f"Not comparable: {experiment.because}"
        else:
            yield f"{', '.join(names)} {reason}"


def _closed_form_notes(values: Sequence[Judgement]) -> Iterator[str]:
    rows: dict[str, dict[str, None]] = {}
    for value in values:
        for form in (value.closed_form, value.corrected_closed_form):
            if form is not None:
                rows.setdefault(form.description, {})[value.row] = None
    all_rows = {value.row for value in values}
    for text, names in rows.items():
        is_general = set(names) == all_rows and len(all_rows) > 1
        subject = "" if is_general else f" of {', '.join(names)}"
        yield f"Closed form{subject}: {text}."


def _print_wrapped(text: str) -> None:
    out = console()
    out.print(textwrap.fill(text, out.width, subsequent_indent="  "))


def _print_summary(values: Sequence[Judgement], sources: Sequence[Publication]) -> None:
    """Print the count of each verdict and what to do next."""
    out = console()
    n_expected = sum(value.verdict == "not reproduced" and not value.fails for value in values)
    counts = []
    for verdict, count in Counter(str(value.verdict) for value in values).items():
        has_expected = verdict == "not reproduced" and n_expected
        expected = f" ({n_expected} of them expected)" if has_expected else ""
        counts.append(f"{count} {verdict}{expected}")
    total = plural(len(values), "published value")
    out.print(f"{total}: {', '.join(counts) or 'none'}.", style="bold")
    failing = [value.ours.keys[0] for value in values if value.fails and value.ours is not None]
    if failing:
        out.print(f"Next: bench show {failing[0]}, a run of the first value that is not reproduced")
    missing = {(value.source, value.experiment) for value in values if value.verdict == "not run"}
    studies = dict.fromkeys(
        experiment.study
        for source in sources
        for experiment in source.experiments
        if experiment.study and (source.name, experiment.name) in missing
    )
    for study in studies:
        out.print(
            f"Next: bench study run {study}, which makes what is missing; "
            "--dry-run says how long it takes"
        )
    if not failing and any(value.verdict == "reproduced" for value in values):
        out.print("More about each value, with the keys of its runs: bench verify --json")
