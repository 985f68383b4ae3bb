"""Tuning studies from the command line: making their trials, and printing what became of them."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.base.stop_request import StopRequest
from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.cli._execute import INTERRUPTED, NOT_ALL_DONE, cluster, events, finish_mirror, signals
from harness.cli._options import Work, open_store
from harness.cli._output import print_json, say, write_out
from harness.cli._verdicts import dimensions, print_verdicts, trial_line
from harness.execution.job import OutOfTime

if TYPE_CHECKING:
    from harness.base.spec import NewRun
    from harness.store import ResultStore
    from harness.tracking import Mirror
    from harness.tuning.coordinator import Execute
    from harness.tuning.result import TuningResult
    from harness.tuning.search import Search, SearchRecord


def tune_all(searches: Sequence[Search], work: Work, as_json: bool) -> int:
    """Bring searches to their end, score their winners on report seeds, print what came out, and
    return the exit status.
    """
    from harness.base.errors import UsageError
    from harness.base.spec import Status
    from harness.execution.job import Stop
    from harness.store import ResultStore
    from harness.tracking import Mirror
    from harness.tuning.result import read_results

    if work.queue or work.rerun or work.retry or work.time_limit:
        refused = "--queue, --rerun, --retry and --time-limit"
        raise UsageError(
            f"Tuning takes no {refused}: what a trial is follows from those before it. For all together: --total-time-limit."
        )
    workspace = Workspace.current()
    stopped, late = False, False
    client = cluster(work)
    workspace.prepare()
    with ResultStore.open(workspace.database_url) as store:
        with signals() as stop, Mirror.start(workspace, []) as mirror:
            make = _maker(workspace, store, work, client, stop, mirror)
            try:
                for search in searches:
                    _tune(workspace, store, search, make, work)
            except Stop:
                stopped = True
            except OutOfTime:
                late = True
            verdicts = read_results(
                workspace.study_url, store, [search.record() for search in searches]
            )
            print_json(verdict.plain() for verdict in verdicts) if as_json else print_verdicts(
                verdicts
            )
            shown = finish_mirror(workspace, mirror, stop)
        if shown and not stopped:
            _show_in_mlflow(workspace, store, verdicts)
    if stopped:
        say("Interrupted. Everything is saved; the same command goes on.", err=True)
        return INTERRUPTED
    if late:
        say("The time is over. The same command, with more time, goes on.", err=True)
    good = all(
        verdict.best and not verdict.failures and not verdict.counts.get(Status.FAILED)
        for verdict in verdicts
    )
    return 0 if good and not late else NOT_ALL_DONE


def _tune(
    workspace: Workspace, store: ResultStore, search: Search, make: Execute, work: Work
) -> None:
    """One search to its end, and its winner on the report seeds."""

    from harness.tuning.coordinator import tune
    from harness.tuning.result import best_of, measured, report_runs
    from harness.tuning.trials import open_log

    with open_log(workspace.study_url, search) as log:
        record = search.record()
        say(f"{search.method} on {search.task}: {dimensions(search)}", err=True)
        for trial in tune(search, log, store, make, work.workers or 1):
            best = best_of(measured(record, store, log.trials()))
            say(trial_line(trial, best, search.n_trials), err=True)
        if runs := report_runs(search, best_of(measured(record, store, log.trials()))):
            say(
                f"the winner and the default on {plural(len(search.report_seeds), 'report seed')}",
                err=True,
            )
            make(runs, None)


def _maker(
    workspace: Workspace,
    store: ResultStore,
    work: Work,
    client: Any,
    stop: StopRequest,
    mirror: Mirror,
) -> Execute:
    """A function that brings runs to their end or to a step, while MLflow follows."""
    from harness.execution import local as executors
    from harness.execution.job import Note
    from harness.execution.local import Waiting
    from harness.tuning.coordinator import has_reached

    made: list[str] = []
    deadline = work.options().deadline(time.monotonic())

    def make(runs: list[NewRun], until: int | None) -> None:
        rows = store.rows([run.spec.key for run in runs])
        left = [run for run in runs if not has_reached(rows.get(run.spec.key), until)]
        keys = [run.spec.key for run in left]
        _follow_up(mirror, made, [run.spec.key for run in runs])
        if not left:
            return
        new = executors.prepare(store, workspace, left, rerun=False, retry=False)
        left_s = max(0.0, deadline - time.monotonic()) if math.isfinite(deadline) else None
        options = dataclasses.replace(work.options(), until=until, total_limit_s=left_s)
        with executors.taken_back(store, workspace, new):
            for event in events(workspace, store, keys, work, options, client, stop):
                if isinstance(event, Note):
                    say(event.text, err=True)
                elif isinstance(event, Waiting) and event.owners:
                    stop.wait(1.0)
        if not all(has_reached(row, until) for row in store.rows(keys).values()):
            raise OutOfTime

    return make


def _follow_up(mirror: Mirror, made: list[str], keys: list[str]) -> None:
    """Have the mirror follow these runs too."""
    new = [key for key in keys if key not in made]
    made += new
    mirror.add(new)


def searches_here(study: str) -> list[SearchRecord]:
    """The searches of a study that this workspace has trials of."""
    from harness.tuning.trials import stored_searches

    return stored_searches(Workspace.current().study_url, study)


def look(searches: Sequence[SearchRecord]) -> list[TuningResult]:
    """What is known of these searches in this workspace."""
    from harness.tuning.result import read_results

    workspace = Workspace.current()
    store = open_store(workspace)
    if store is None:
        return read_results(workspace.study_url, None, searches)
    with store:
        return read_results(workspace.study_url, store, searches)


def write_figures(verdicts: Sequence[TuningResult], target: Path) -> None:
    """The figures of each search as an HTML page; of several, a page each.

    Raises:
        UsageError: there is nothing to draw yet, or the file cannot be written.
    """
    from harness.base.errors import UsageError
    from harness.report.tuning import page

    workspace = Workspace.current()
    store = open_store(workspace)
    begun = [verdict for verdict in verdicts if verdict.trials]
    if store is None or not begun:
        raise UsageError("There are no trials to draw yet.")
    with store:
        for verdict in begun:
            mark = (
                f"-{verdict.search.plugins[0].name}-{verdict.search.task}" if len(begun) > 1 else ""
            )
            path = target.with_stem(target.stem + mark)
            write_out(page(verdict, store).encode(), path)


def _show_in_mlflow(
    workspace: Workspace, store: ResultStore, verdicts: Sequence[TuningResult]
) -> None:
    """A parent run for each search, with its figures, over the runs of its trials."""
    from harness.report.tuning import page
    from harness.tracking.runs import show_search
    from harness.tracking.server import one_line
    from harness.tuning.search import run_keys

    for verdict in [verdict for verdict in verdicts if verdict.trials]:
        search = verdict.search
        keys = {
            key: trial.number
            for trial in verdict.trials
            if trial.spec
            for key in run_keys(trial.spec, search.seeds)
        }
        try:
            show_search(
                workspace,
                store,
                search.name,
                search.task,
                keys,
                verdict.plain(),
                page(verdict, store),
            )
        except Exception as err:  # noqa: BLE001 - whatever MLflow raises, the trials are safe
            reason = one_line(err, workspace.tracking_uri)
            say(
                f"MLflow does not show {search.name} yet ({reason}). Nothing is lost: repeat the command.",
                err=True,
            )
