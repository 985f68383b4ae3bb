"""The options that select stored runs, and the runs that they select."""

from __future__ import annotations

import dataclasses
import functools
import gc
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from harness.base.errors import BenchError, UnknownName, UsageError, one_line
from harness.base.workspace import Workspace
from harness.cli._options import bundle, open_store
from harness.cli._output import say

if TYPE_CHECKING:
    from harness.analysis.selection import RunFilter, SelectedRuns
    from harness.base.spec import NewRun
    from harness.plan.studies import Study
    from harness.store import ResultStore, RunRow
    from harness.tuning.result import TuningResult


@dataclass(frozen=True)
class Selection:
    """Which runs are wanted, as it was typed."""

    methods: Sequence[str] = ()
    tasks: Sequence[str] = ()
    study: str | None = None
    protocol: str | None = None
    seeds: str | None = None

    def __str__(self) -> str:
        """The options as they are typed."""
        options = [("-m", name) for name in self.methods] + [("-t", name) for name in self.tasks]
        options += [("--study", self.study), ("--protocol", self.protocol), ("--seeds", self.seeds)]
        return shlex.join(
            word for option, value in options if value is not None for word in (option, value)
        )

    def run_filter(
        self, statuses: Sequence[str] = (), keys: Collection[str] | None = None
    ) -> RunFilter:
        """Return the filter for these runs, only among `keys` if there are any.

        Raises:
            UsageError: there is no such study or status, or the seeds do not parse.
        """
        from harness.analysis.selection import RunFilter, parse_statuses, study_keys
        from harness.plan.grid import parse_seeds

        if self.study is not None:
            members = study_keys(self.study)
            keys = members if keys is None else members.intersection(keys)
        options = [str(self), *(f"--status {name}" for name in statuses)]
        return RunFilter(
            self.methods,
            self.tasks,
            self.protocol,
            None if self.seeds is None else set(parse_seeds(self.seeds)),
            parse_statuses(statuses),
            keys,
            " ".join(filter(None, options)),
        )


pattern_options = bundle(
    click.option(
        "-m",
        "--method",
        "methods",
        multiple=True,
        metavar="METHOD",
        help="Of these methods only: vb, 'hvae[n_leapfrog=10]' or 'hvae*'. Repeat for more.",
    ),
    click.option(
        "-t",
        "--task",
        "tasks",
        multiple=True,
        metavar="TASK",
        help="On these tasks only: gaussian-25 or 'gaussian-*'. Repeat for more.",
    ),
)


def selection_options(command: Any) -> Any:
    """Add the options that select stored runs; the command takes them as one `selection`."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        names = [field.name for field in dataclasses.fields(Selection)]
        selection = Selection(**{name: kwargs.pop(name) for name in names})
        was_enabled = gc.isenabled()
        gc.disable()  # with 100,000 runs it takes as long as everything else
        try:
            return command(*args, selection=selection, **kwargs)
        finally:
            if was_enabled:
                gc.enable()

    return bundle(
        pattern_options,
        click.option("--study", metavar="NAME-or-FILE", help="Of the runs of this study only."),
        click.option("--protocol", metavar="NAME", help="Of runs under this protocol only."),
        click.option(
            "--seeds",
            metavar="SEEDS",
            help="Of these replicates only: 0-9. Without it: all but those used for tuning, "
            "which are numbered from 1000.",
        ),
    )(wrapped)


def open_results(purpose: str) -> ResultStore:
    """Open the workspace's result database.

    Raises:
        UsageError: there is none.
    """
    store = open_store(Workspace.current())
    if store is None:
        raise UsageError(
            f"There are no runs here to {purpose}. Make some: "
            "bench run -m vb -m hvae -t gaussian-25 --protocol smoke --seeds 0-2"
        )
    return store


def find_run(store: ResultStore, prefix: str) -> RunRow:
    """Return the one run whose key begins so.

    Raises:
        UnknownName: there is none, or there are several.
    """
    rows = store.find(prefix)
    if len(rows) != 1:
        kind = "run of that key alone" if rows else "run"
        raise UnknownName(kind, prefix, [row.key for row in rows], "bench list runs")
    return rows[0]


def select_finished(
    store: ResultStore, selection: Selection, cells: Collection[str] | None = None
) -> SelectedRuns:
    """Return the finished runs that are selected, those of `cells` only if any are given.

    Raises:
        UsageError: no run matches.
    """
    from harness.analysis.selection import select_runs

    runs = select_runs(store, dataclasses.replace(selection.run_filter(), cells=cells))
    if not runs.groups:
        options = f" with {selection}" if str(selection) else ""
        excluded = "; ".join(f"{count:,} {reason}" for reason, count in runs.left_out.items())
        raise UsageError(
            f"There is no finished run{options}{f' ({excluded})' if excluded else ''}. "
            "What there is: bench list runs"
        )
    return runs


def add_tuning_costs(runs: SelectedRuns) -> list[TuningResult]:
    """Tell selected runs what finding their settings took, and return the results of all searches.

    A study that cannot be read, as its plugins have changed since, is left out with a message.
    """
    from harness.store.database import sqlite_file

    workspace = Workspace.current()
    file = sqlite_file(workspace.study_url)
    if file is not None and not file.exists():
        return []
    from harness.tuning.result import cost_by_cell, read_results
    from harness.tuning.trials import stored_searches, study_names

    results: list[TuningResult] = []
    try:
        studies = study_names(workspace.study_url)
    except BenchError as err:
        say(one_line(f"The cost of tuning is left out: {err}"), err=True)
        return []
    for name in studies:
        try:
            searches = stored_searches(workspace.study_url, name)
        except BenchError as err:
            say(one_line(f"The tuning study {name} is left out: {err}"), err=True)
            continue
        searches = sorted(searches, key=lambda search: search.name)
        results += read_results(workspace.study_url, runs.store, searches)
    runs.tuning = cost_by_cell(results)
    return results


def study_runs(
    study: Study, methods: Sequence[str], tasks: Sequence[str], sets: dict[str, Any] | None = None
) -> list[NewRun]:
    """Return the runs of a study that `-m` and `-t` select.

    Raises:
        UsageError: none matches.
    """
    from harness.plan.grid import matches_any

    runs = []
    for run in study.runs(sets):
        spec = run.spec
        method_names, task_names = (
            (spec.method, run.description.method),
            (spec.task, run.task_label),
        )
        if matches_any(methods, method_names, spec.method_fields) and matches_any(
            tasks, task_names, spec.task_fields
        ):
            runs.append(run)
    if not runs:
        raise UsageError(
            f"'{study.name}' has no run with {Selection(methods, tasks)}. "
            f"What it has: bench study show {study.name}"
        )
    return runs
