"""Tuning studies from the command line: making their trials, and printing what became of them."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli._making import INTERRUPTED, NOT_ALL_DONE, cluster, events, signals
from harness.cli._options import console, duration, number, open_store, plural, print_json
from harness.cli._work import Work
from harness.cli.listing import print_table
from harness.workspace import Workspace

if TYPE_CHECKING:
    from harness.analysis.statistics import Interval
    from harness.store import NewRun, ResultStore
    from harness.tracking import Mirror
    from harness.tuning.log import Trial
    from harness.tuning.rounds import Make
    from harness.tuning.search import Search
    from harness.tuning.verdict import Verdict


def tune_all(searches: Sequence[Search], work: Work, as_json: bool) -> int:
    """Bring searches to their end, score their winners on report seeds, print what came out, and return the exit status."""
    from harness.errors import UsageError
    from harness.runner import Stop
    from harness.store import ResultStore

    if work.queue or work.rerun or work.retry:
        raise UsageError("A tuning study takes no --queue, --rerun and --retry: what its trials are follows from those before.")
    workspace = Workspace.current()
    stopped = False
    with signals() as stop:
        client = cluster(work)
        workspace.prepare()
        with ResultStore.open(workspace.database_url) as store:
            try:
                with _making(workspace, store, work, client, stop) as make:
                    for search in searches:
                        _tune(workspace, store, search, make, work)
            except Stop:
                stopped = True
            verdicts = read(workspace, store, searches)
            _show_in_mlflow(workspace, store, verdicts)
    print_json(verdict.plain() for verdict in verdicts) if as_json else print_verdicts(verdicts)
    if stopped:
        click.echo("Interrupted. Everything is saved; the same command goes on.", err=True)
        return INTERRUPTED
    return 0 if all(verdict.best and not verdict.failures for verdict in verdicts) else NOT_ALL_DONE


def _tune(workspace: Workspace, store: ResultStore, search: Search, make: Make, work: Work) -> None:
    """One search to its end, and its winner on the report seeds."""
    from harness.tuning.log import open_log
    from harness.tuning.rounds import total, tune
    from harness.tuning.verdict import best_of, report_runs

    with open_log(workspace.study_url, search) as log:
        click.echo(f"{search.method} on {search.task}: {_dimensions(search)}", err=True)
        for trial in tune(search, log, store, make, work.workers or 1):
            best = best_of(log.trials())
            click.echo(_line(trial, best, total(search)), err=True)
        if runs := report_runs(search, best_of(log.trials())):
            click.echo(f"the winner and the default on {plural(len(search.report_seeds), 'report seed')}", err=True)
            make(runs, None)


@contextmanager
def _making(workspace: Workspace, store: ResultStore, work: Work, client: Any, stop: threading.Event) -> Iterator[Make]:
    """A function that brings runs to their end or to a step, while MLflow follows."""
    from harness import executors
    from harness.executors import Waiting
    from harness.runner import Note
    from harness.tracking import Mirror
    from harness.tuning.rounds import has_reached

    made: list[str] = []

    def make(runs: list[NewRun], until: int | None) -> None:
        rows = store.rows([run.spec.key for run in runs])
        left = [run for run in runs if not has_reached(rows.get(run.spec.key), until)]
        keys = [run.spec.key for run in left]
        _follow_up(mirror, made, [run.spec.key for run in runs])
        if not left:
            return
        executors.prepare(store, workspace, left, rerun=False, retry=False)
        options = dataclasses.replace(work.options(), until=until)
        for event in events(workspace, store, keys, work, options, client, stop):
            if isinstance(event, Note):
                click.echo(event.text, err=True)
            elif isinstance(event, Waiting) and event.owners:
                stop.wait(1.0)

    with Mirror.start(workspace, []) as mirror:
        yield make
        mirror.finish()


def _follow_up(mirror: Mirror, made: list[str], keys: list[str]) -> None:
    """Have the mirror follow these runs too."""
    new = [key for key in keys if key not in made]
    made += new
    mirror.add(new)


def read(workspace: Workspace, store: ResultStore | None, searches: Sequence[Search]) -> list[Verdict]:
    """What is known of these searches; nothing is written."""
    from harness.tuning.log import read_log
    from harness.tuning.verdict import verdict

    found = []
    for search in searches:
        with read_log(workspace.study_url, search) as log:
            found.append(verdict(search, store, log.trials() if log else []))
    return found


def stored_searches(study: str) -> list[Search]:
    """The searches of a study that this workspace has trials of."""
    from harness.tuning.log import stored

    return stored(Workspace.current().study_url, study)


def look(searches: Sequence[Search]) -> list[Verdict]:
    """What is known of these searches in this workspace."""
    workspace = Workspace.current()
    store = open_store(workspace)
    if store is None:
        return read(workspace, None, searches)
    with store:
        return read(workspace, store, searches)


def write_figures(verdicts: Sequence[Verdict], target: Path) -> None:
    """The figures of each search as an HTML page; of several, a page each.

    Raises:
        UsageError: there is nothing to draw yet, or the file cannot be written.
    """
    from harness.errors import UsageError
    from harness.tuning.figures import page
    from harness.tuning.log import read_log

    workspace = Workspace.current()
    store = open_store(workspace)
    begun = [verdict for verdict in verdicts if verdict.trials]
    if store is None or not begun:
        raise UsageError("There are no trials to draw yet.")
    with store:
        for verdict in begun:
            mark = f"-{verdict.search.column.method.found.name}-{verdict.search.task}" if len(begun) > 1 else ""
            path = target.with_stem(target.stem + mark)
            with read_log(workspace.study_url, verdict.search) as log:
                drawn = page(log.study, verdict, store) if log else ""
            try:
                path.write_text(drawn, encoding="utf-8")
            except OSError as err:
                raise UsageError(f"Cannot write {path}: {err.strerror}.") from err
            click.echo(f"wrote {path}", err=True)


def _show_in_mlflow(workspace: Workspace, store: ResultStore, verdicts: Sequence[Verdict]) -> None:
    """A parent run for each search, with its figures, over the runs of its trials."""
    from harness.tracking.parents import show_search
    from harness.tuning.figures import page
    from harness.tuning.log import read_log

    for verdict in [verdict for verdict in verdicts if verdict.trials]:
        search = verdict.search
        keys = {run.spec.key: trial.number for trial in verdict.trials for run in search.runs(trial.params, search.seeds)}
        try:
            with read_log(workspace.study_url, search) as log:
                drawn = page(log.study, verdict, store) if log else ""
            show_search(workspace, store, search.name, search.task, keys, verdict.plain(), drawn)
        except Exception as err:  # noqa: BLE001 - whatever MLflow raises, the trials are safe
            reason = (str(err).strip().splitlines() or [""])[0]
            click.echo(f"MLflow does not show {search.name} yet ({reason[:150]}). Nothing is lost: repeat the command.", err=True)


def _dimensions(search: Search) -> str:
    parts = []
    for dimension in search.space:
        span = ", ".join(map(str, dimension.choices)) or f"{dimension.low:g} to {dimension.high:g}{' (log)' if dimension.log else ''}"
        parts.append(f"{dimension.address} in {span}")
    return "; ".join(parts)


def _line(trial: Trial, best: Trial | None, total: int) -> str:
    """`trial 7 of 30: -123.4 (best -120.1, trial 3)  lr=0.0021`."""
    said = trial.outcome if trial.score is None else number(trial.score)
    leading = "" if best is None or best.score is None else f" (best {number(best.score)}, trial {best.number})"
    return f"  trial {trial.number} of {total}: {said}{leading}  {settings(trial.params)}"


def settings(params: dict[str, Any]) -> str:
    """Settings in one line, numbers to four digits."""
    return " ".join(f"{name}={_short(value)}" for name, value in params.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# Printing


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """A block a search: how its trials ended, the winner against the default, and what it cost."""
    out = console()
    for verdict in verdicts:
        search = verdict.search
        counts = ", ".join(f"{count} {name}" for name, count in verdict.counts.items()) or "none yet"
        out.print(f"{search.method} on {search.task}", style="bold", markup=False)
        out.print(f"{len(verdict.trials)} trials: {counts}; {search.metric}, seeds {_ranges(search.seeds)}", markup=False)
        if verdict.best is None:
            out.print("No trial has ended with a score." if verdict.trials else "Not begun.", markup=False)
            continue
        rows = [
            (name, _short(verdict.default[name]), _short(value))
            for name, value in sorted(verdict.best.params.items(), key=lambda pair: list(verdict.default).index(pair[0]))
        ]
        print_table(("setting", "default", "best"), rows, left=1)
        print_scores(verdict, out)
    if verdicts:
        out.print(f"Next: bench study show {verdicts[0].search.study} --figures figures.html · bench ui", markup=False)


def print_scores(verdict: Verdict, out: Any) -> None:
    """The scores of the winner, where it was found and where it was not."""
    best, search = verdict.best, verdict.search
    if best is None or best.score is None:
        return
    lines = [f"best trial {best.number}: {search.metric} {number(best.score)} on the seeds it was tuned on"]
    if verdict.tuned.n:
        lines.append(f"on report seeds {_ranges(search.report_seeds)}: tuned {_mean(verdict.tuned)}, default {_mean(verdict.untuned)}")
        lines += _gain(verdict.gain)
        lines.append(f"optimism gap: {_signed(verdict.gap)} nats, the best trial less the same setting on report seeds")
    of = len(search.report_seeds)
    lines += [f"{count} of the {of} {name} runs on report seeds ended without a score" for name, count in verdict.failures.items()]
    cost = verdict.cost
    lines.append(f"cost of tuning: {plural(cost.runs, 'run')}, {plural(cost.steps, 'step')}, {duration(cost.seconds)} of work")
    for line in lines:
        out.print(line, markup=False)
    out.print()


def _gain(gain: Interval) -> Iterator[str]:
    if gain.n > 1:
        ends = f"[{_signed(gain.low)}, {_signed(gain.high)}] (95 %)"
        sure = "excludes" if gain.low > 0 or gain.high < 0 else "includes"
        yield f"tuned less default, paired over {gain.n} seeds: {_signed(gain.mean)} {ends}, which {sure} zero"


def _mean(interval: Interval) -> str:
    return number(interval.mean, None if math.isnan(interval.se) else interval.se)


def _signed(value: float) -> str:
    return f"{value:+.4g}"


def _ranges(seeds: Sequence[int]) -> str:
    from harness.cli.study import ranges

    return ranges(seeds)


def print_trials(verdicts: Sequence[Verdict], as_json: bool) -> None:
    """Every trial with its settings."""
    if as_json:
        print_json({"method": v.search.method, "task": v.search.task, **vars(trial)} for v in verdicts for trial in v.trials)
        return
    out = console()
    for verdict in verdicts:
        out.print(f"{verdict.search.method} on {verdict.search.task}: {_dimensions(verdict.search)}", style="bold", markup=False)
        names = list(verdict.default)
        rows = [(*_judged(trial), *(_short(trial.params.get(name, "-")) for name in names)) for trial in verdict.trials]
        print_table(("trial", "outcome", verdict.search.metric, *names), rows, left=2)


def _judged(trial: Trial) -> tuple[str, str, str]:
    return str(trial.number), trial.outcome or "going", "-" if trial.score is None else number(trial.score)
