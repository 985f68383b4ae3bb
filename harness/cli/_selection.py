"""The options that select stored runs, and the runs that they select."""

from __future__ import annotations

import functools
import gc
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import click

from harness.base.errors import BenchError, UsageError, one_line
from harness.base.workspace import Workspace
from harness.cli._options import bundle, many, open_store
from harness.cli._output import say

if TYPE_CHECKING:
    from harness.analysis.selection import RunFilter, SelectedRuns
    from harness.base.spec import NewRun
    from harness.plan.studies import Study
    from harness.store import ResultStore
    from harness.tuning.result import TuningResult


def _patterns(ctx: click.Context, param: click.Parameter, texts: Sequence[str]) -> list[str]:
    """Return patterns with a file's plugin by its name and the hash of its text; the others as they
    are.
    """
    kind: Literal["method", "task"] = "method" if param.name == "methods" else "task"
    patterns = []
    for text in texts:
        selector, bracket, settings = text.partition("[")
        if selector.endswith(".py") or ".py:" in selector:
            from harness.plan.registry import find
            from harness.store import CODE_DIGITS

            plugin = find(kind, selector)
            digest = plugin.source.digest if plugin.source else ""
            selector = f"{plugin.name}@{digest[:CODE_DIGITS]}"
        patterns.append(selector + bracket + settings)
    return patterns


pattern_options = bundle(
    many(
        *("-m", "--method", "methods"),
        metavar="METHOD",
        help_text="Of these methods only: vb, 'hvae[n_leapfrog=10]', 'hvae*' or ./mine.py:Mine. "
        "Repeat for more.",
        callback=_patterns,
    ),
    many(
        *("-t", "--task", "tasks"),
        metavar="TASK",
        callback=_patterns,
        help_text="On these tasks only: gaussian-25 or 'gaussian-*'. Repeat for more.",
    ),
)


def selection_options(command: Any) -> Any:
    """Add the options that select stored runs; the command takes them as one `selection`."""

    @functools.wraps(command)
    def wrapped(
        *args: Any,
        methods: Sequence[str],
        tasks: Sequence[str],
        study: str | None,
        protocol: str | None,
        seeds: str | None,
        **kwargs: Any,
    ) -> Any:
        from harness.analysis.selection import RunFilter, study_keys
        from harness.plan.grid import parse_seeds

        typed = [("-m", name) for name in methods] + [("-t", name) for name in tasks]
        typed += [("--study", study), ("--protocol", protocol), ("--seeds", seeds)]
        selection = RunFilter(
            methods,
            tasks,
            protocol,
            None if seeds is None else set(parse_seeds(seeds)),
            keys=None if study is None else study_keys(study),
            text=shlex.join(
                word for option, value in typed if value is not None for word in (option, value)
            ),
        )
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


particles_option = click.option(
    "--particles",
    type=click.IntRange(2),
    metavar="N",
    help="As evaluated with N particles, which bench score does, in place of the runs' own.",
)


def select_finished(
    store: ResultStore, selection: RunFilter, particles: int | None = None
) -> SelectedRuns:
    """Return the finished runs that are selected, as evaluated with so many particles.

    Raises:
        UsageError: no run matches.
    """
    from harness.analysis.selection import select_runs

    runs = select_runs(store, selection, particles)
    if not runs.groups:
        options = f" with {selection.text}" if selection.text else ""
        excluded = "; ".join(f"{count:,} {reason}" for reason, count in runs.left_out.items())
        raise UsageError(
            f"There is no finished run{options}{f' ({excluded})' if excluded else ''}. "
            "What there is: bench list runs"
        )
    return runs


def add_tuning_costs(runs: SelectedRuns, workspace: Workspace) -> list[TuningResult]:
    """Tell selected runs what finding their settings took, and return the results of all searches
    of the workspace.

    A study that cannot be read, as its plugins have changed since, is left out with a message.
    """
    from harness.store.database import sqlite_file

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
    from harness.store import plugin_names

    runs = []
    for run in study.runs(sets):
        spec, shared = run.spec, run.spec.protocol().model_dump()
        method_names = plugin_names(spec.method, run.description.method, spec.method_source)
        task_names = plugin_names(spec.task, run.task_label, spec.task_source)
        if matches_any(methods, method_names, shared | spec.method_fields) and matches_any(
            tasks, task_names, shared | spec.task_fields
        ):
            runs.append(run)
    if not runs:
        raise UsageError(
            f"'{study.name}' has no such run. What it has: bench study show {study.name}"
        )
    return runs
