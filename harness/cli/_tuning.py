"""Tuning studies: executing their trials, and printing what they found."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.analysis.statistics import Interval
from harness.base.errors import UsageError
from harness.base.spec import NewRun, Status, settings_text
from harness.base.text import between, duration, number, plural
from harness.base.workspace import Workspace
from harness.cli._execute import (
    INTERRUPTED,
    NOT_ALL_DONE,
    Session,
    finish_mirror,
    open_session,
)
from harness.cli._options import Work, open_store
from harness.cli._output import print_json, say, write_out
from harness.cli._render import console, print_table
from harness.execution import local
from harness.execution.job import Note, OutOfTime, Stop
from harness.execution.local import Waiting
from harness.plan.grid import ranges
from harness.tracking import Mirror
from harness.tuning.coordinator import has_reached, tune
from harness.tuning.result import (
    TuningResult,
    best_of,
    measured,
    read_results,
    report_metric,
    report_runs,
)
from harness.tuning.search import Search, SearchRecord, run_keys
from harness.tuning.trials import open_log

if TYPE_CHECKING:
    from rich.console import Console

    from harness.tuning.coordinator import Execute


def tune_all(searches: Sequence[Search], work: Work, as_json: bool) -> int:
    """Complete searches, score their winners on report seeds, print the results, and return the
    exit status.
    """
    if work.queue or work.rerun or work.retry or work.limits["time_limit_s"]:
        raise UsageError(
            "Tuning takes no --queue, --rerun, --retry and --time-limit: what a trial is follows "
            "from those before it. For all together: --total-time-limit."
        )
    was_stopped = was_late = False
    with open_session(work) as session:
        with Mirror.start(session.workspace, []) as mirror:
            execute = _executor(session, mirror)
            try:
                for search in searches:
                    _tune(session, search, execute)
            except Stop:
                was_stopped = True
            except OutOfTime:
                was_late = True
            records = [search.record() for search in searches]
            results = read_results(session.workspace.study_url, session.store, records)
            print_results(results, as_json)
            is_mirrored = finish_mirror(session.workspace, mirror, session.stop)
        if is_mirrored and not was_stopped:
            _show_in_mlflow(session, results)
    if was_stopped:
        say("Interrupted. Everything is saved; the same command continues.", err=True)
        return INTERRUPTED
    if was_late:
        say("The time is over. The same command, with more time, continues.", err=True)
    has_failures = any(
        not result.best or result.failures or result.counts.get(Status.FAILED) for result in results
    )
    return NOT_ALL_DONE if was_late or has_failures else 0


def _tune(session: Session, search: Search, execute: Execute) -> None:
    store, record = session.store, search.record()
    with open_log(session.workspace.study_url, search) as log:
        say(f"{search.method} on {search.task}: {_space(search)}", err=True)
        for trial in tune(search, log, store, execute, session.work.workers or 1):
            score = trial.outcome if trial.score is None else number(trial.score)
            settings = settings_text({name: _short(value) for name, value in trial.params.items()})
            say(f"  trial {trial.number} of {search.n_trials}: {score}  {settings}", err=True)
        if runs := report_runs(search, best_of(measured(record, store, log.trials()))):
            say(f"the winner and the default on seeds {ranges(search.report_seeds)}", err=True)
            execute(runs, None)


def _executor(session: Session, mirror: Mirror) -> Execute:
    """Return a function that executes runs to their end or to a step, while MLflow follows."""
    store, work = session.store, session.work
    mirrored: set[str] = set()
    deadline = work.options().deadline(time.monotonic())

    def execute(runs: list[NewRun], until: int | None) -> None:
        rows = store.rows([run.spec.key for run in runs])
        new_keys = [run.spec.key for run in runs if run.spec.key not in mirrored]
        mirrored.update(new_keys)
        mirror.add(new_keys)
        unfinished = [run for run in runs if not has_reached(rows.get(run.spec.key), until)]
        if not unfinished:
            return
        keys = [run.spec.key for run in unfinished]
        new = local.prepare(store, session.workspace, unfinished, rerun=False, retry=False)
        time_left = max(0.0, deadline - time.monotonic()) if math.isfinite(deadline) else None
        options = dataclasses.replace(work.options(), until=until, total_limit_s=time_left)
        with local.taken_back(store, session.workspace, new):
            for event in session.execute(keys, options):
                if isinstance(event, Note):
                    say(event.text, err=True)
                elif isinstance(event, Waiting) and event.owners:
                    session.stop.wait(1.0)
        if not all(has_reached(row, until) for row in store.rows(keys).values()):
            raise OutOfTime

    return execute


def _show_in_mlflow(session: Session, results: Sequence[TuningResult]) -> None:
    """Add a parent run for each search, with its figures, over the runs of its trials."""
    from harness.report.tuning import page
    from harness.tracking.runs import show_search
    from harness.tracking.server import one_line

    workspace, store = session.workspace, session.store
    for result in (result for result in results if result.trials):
        search = result.search
        keys = {
            key: trial.number
            for trial in result.trials
            if trial.spec
            for key in run_keys(trial.spec, search.seeds)
        }
        try:
            figures = page(result, store)
            show_search(workspace, store, search.name, search.task, keys, result.plain(), figures)
        except Exception as err:  # noqa: BLE001 - whatever MLflow raises, the trials are safe
            reason = one_line(err, workspace.tracking_uri)
            say(f"MLflow does not show {search.name} yet ({reason}): repeat the command.", err=True)


def read_here(searches: Sequence[SearchRecord]) -> list[TuningResult]:
    """Return what this workspace knows of searches."""
    workspace = Workspace.current()
    with open_store(workspace) or nullcontext() as store:
        return read_results(workspace.study_url, store, searches)


def write_figures(results: Sequence[TuningResult], target: Path) -> None:
    """Write the figures of each search as an HTML page; of several, a page each.

    Raises:
        UsageError: there is nothing to draw yet, or the file cannot be written.
    """
    from harness.report.tuning import page

    store = open_store(Workspace.current())
    begun = [result for result in results if result.trials]
    if store is None or not begun:
        raise UsageError("There are no trials to draw yet.")
    with store:
        for result in begun:
            search = result.search
            suffix = f"-{search.plugins[0].name}-{search.task}" if len(begun) > 1 else ""
            write_out(page(result, store).encode(), target.with_stem(target.stem + suffix))


def print_results(results: Sequence[TuningResult], as_json: bool) -> None:
    """Print a block a search: how its trials ended, the winner, and what finding it cost."""
    if as_json:
        print_json(result.plain() for result in results)
        return
    out = console()
    for result in results:
        _print_result(out, result)
    study = results[0].search.study
    out.print(f"Next: bench study run {study} · bench study show {study} --figures figures.html")


def _print_result(out: Console, result: TuningResult) -> None:
    search, best = result.search, result.best
    counts = ", ".join(f"{count} {name}" for name, count in result.counts.items()) or "none yet"
    out.print(f"{search.method} on {search.task}", style="bold")
    out.print(
        f"{plural(len(result.trials), 'trial')}: {counts}; "
        f"{search.metric}, seeds {ranges(search.seeds)}"
    )
    if result.left_out:
        trial, reason = next(iter(result.left_out.items()))
        out.print(f"trial {trial} is left out: {reason}; in all {len(result.left_out)}: see --json")
    if best is None:
        out.print("No trial has ended with a score." if result.trials else "Not begun.")
        return
    rows = [
        (name, _short(value), _short(best.params[name]))
        for name, value in result.default.items()
        if name in best.params
    ]
    score = "-" if best.score is None else number(best.score)
    rows += [
        (f"{search.metric} on seeds {ranges(search.seeds)}", "-", score),
        (
            f"{report_metric(search.metric)} on seeds {ranges(search.report_seeds)}",
            _mean(result.untuned),
            _mean(result.tuned),
        ),
        ("runs without a score", *(f"{result.failures.get(n, 0)}" for n in ("default", "tuned"))),
    ]
    print_table(("setting", "default", f"best trial {best.number}"), rows, left=1)
    gain, cost = result.gain, result.cost
    if gain.n:
        interval = between(gain.mean, gain.low, gain.high)
        out.print(f"tuned less default, paired over {plural(gain.n, 'seed')}: {interval} (95 %)")
    if (gap := result.optimism).n:
        interval = between(gap.mean, gap.low, gap.high)
        out.print(f"the same on seeds {ranges(search.seeds)}: {_mean(result.tuning_gain)}")
        out.print(f"optimism gap, the latter less the former: {interval} (95 %)")
    out.print(
        f"cost of tuning: {plural(cost.runs, 'run')}, {plural(cost.steps, 'step')}, "
        f"{duration(cost.seconds)} of work\n"
    )


def print_trials(results: Sequence[TuningResult], as_json: bool) -> None:
    """Print every trial with its settings."""
    if as_json:
        print_json(
            {"method": result.search.method, "task": result.search.task, **vars(trial)}
            for result in results
            for trial in result.trials
        )
        return
    out = console()
    for result in results:
        search = result.search
        out.print(f"{search.method} on {search.task}: {_space(search)}", style="bold")
        if not result.trials:
            out.print("Not begun.\n")
            continue
        names = list(result.default)
        rows = [
            (
                str(trial.number),
                trial.outcome or "going",
                "-" if trial.score is None else number(trial.score),
                *(_short(trial.params.get(name, "-")) for name in names),
            )
            for trial in result.trials
        ]
        print_table(("trial", "outcome", search.metric, *names), rows, left=2)


def _space(search: Search | SearchRecord) -> str:
    """`lr in 0.0001 to 0.1 (log); particles in 1, 10`."""
    return "; ".join(
        f"{dimension.address} in "
        + (
            ", ".join(map(str, dimension.choices))
            or f"{dimension.low:g} to {dimension.high:g}{' (log)' if dimension.log else ''}"
        )
        for dimension in search.space
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _mean(interval: Interval) -> str:
    return number(interval.mean, interval.se) if interval.n else "-"
