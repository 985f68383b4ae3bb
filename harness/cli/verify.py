"""`bench verify`: our runs against published values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cache
from typing import TYPE_CHECKING

import click

from harness.base.errors import UnknownName, listed
from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.cli._options import json_option, many, open_store
from harness.cli._output import print_json
from harness.cli._render import console
from harness.cli.compare import print_grids

if TYPE_CHECKING:
    from harness.analysis.published import Publication
    from harness.analysis.reproduction import Judgement

NOT_REPRODUCED = 3


@click.command()
@click.argument("source", required=False)
@many(
    *("-t", "--task", "tasks"),
    metavar="TASK",
    help_text="Only values of this task: gaussian-25. Repeat for more.",
)
@json_option
@click.pass_context
def verify(ctx: click.Context, source: str | None, tasks: Sequence[str], as_json: bool) -> None:
    """Compare stored runs with published values.

    A value is reproduced if the mean of our runs is within 5 % of it, or within three combined
    standard errors; an error that depends on the data set must lie where data sets put it. What
    cannot be compared says why. Nothing is run.

    SOURCE is report2020, caterini2018 or literature; without it all of them are shown.

    \b
    Example:
      bench verify report2020 -t gaussian-25
    """
    from harness.analysis.published import load, publications
    from harness.analysis.reproduction import judge
    from harness.plan.studies import runs_of

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
    study_runs = cache(runs_of)
    with open_store(Workspace.current()) or nullcontext() as store:
        judgements = [
            judgement
            for publication in sources
            for judgement in judge(store, publication, study_runs, set(tasks) or None)
        ]
    if as_json:
        print_json(judgement.plain() for judgement in judgements)
    else:
        for publication in sources:
            members = [value for value in judgements if value.source == publication.name]
            if members or not tasks:
                _print_source(publication, members, bool(tasks))
        _print_summary(judgements, sources)
    ctx.exit(NOT_REPRODUCED if any(judgement.fails for judgement in judgements) else 0)


def _print_source(source: Publication, values: Sequence[Judgement], is_restricted: bool) -> None:
    """Print the source's experiments; if only some tasks are wanted, those that have them."""
    from harness.analysis.grids import published_grids

    out = console()
    arxiv = f"arXiv:{source.arxiv}" if source.arxiv else None
    out.print(f"{source.name}: {source.title}", style="bold")
    out.print(" · ".join(filter(None, (source.authors, source.code, arxiv))))
    for experiment in source.experiments:
        members = [value for value in values if value.experiment == experiment.name]
        if members or not is_restricted:
            out.print(f"\n{experiment.name}: {experiment.about}")
            print_grids(published_grids(members))
            if not members:
                out.print(f"No values to compare: {experiment.because}")
        names_by_note: dict[str, list[str]] = {}
        for value in members:
            for note in _notes(value):
                name = f"{value.metric} of {value.row} on {value.task}"
                names_by_note.setdefault(note, []).append(name)
        for note, names in names_by_note.items():
            out.print(f"{'All' if len(names) == len(members) > 1 else listed(names, 4)} {note}")
    out.print()


def _label(value: Judgement) -> str:
    is_expected = value.verdict == "not reproduced" and not value.fails
    return f"{value.verdict} as expected" if is_expected else str(value.verdict)


def _notes(value: Judgement) -> Iterator[str]:
    """Yield what is said of a value, and why its verdict is what it is."""
    from harness.analysis.reproduction import NEAR

    if about := "; ".join(filter(None, (value.setting, value.quoted_from))):
        yield f"is {about}"
    if value.verdict != "reproduced" or abs(value.difference or 0.0) > NEAR:
        yield f"{_label(value)}: {value.reason}"


def _print_summary(values: Sequence[Judgement], sources: Sequence[Publication]) -> None:
    """Print the count of each verdict and what to do next."""
    out = console()
    counts = ", ".join(f"{count} {label}" for label, count in Counter(map(_label, values)).items())
    out.print(f"{plural(len(values), 'published value')}: {counts or 'none'}.", style="bold")
    failing = [value.ours.keys[0] for value in values if value.fails and value.ours is not None]
    if failing:
        out.print(f"Next: bench show {failing[0]}, a run of the first value that is not reproduced")
    missing = {(value.source, value.experiment) for value in values if value.verdict == "not run"}
    for source in sources:
        for experiment in source.experiments:
            if (source.name, experiment.name) in missing:
                out.print(
                    f"Next: bench study run {experiment.study}, which makes what is missing; "
                    "--dry-run says how long it takes"
                )
