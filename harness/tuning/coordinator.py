"""The coordinator of a search: it asks for trials in rounds, has their runs executed, and stores
how they ended.

A round is as many trials as there were workers when the study began. Its trials are asked for one
after another, run together, and told in their order when all have ended; pruners see the trials of
earlier rounds only. So the trials are the same however often the coordinator or its workers died.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from harness.base.spec import NewRun, Status
from harness.store import ResultStore, RunRow
from harness.tuning.result import cost, finite_mean, mean_score, measured
from harness.tuning.search import Search
from harness.tuning.trials import NOT_MEASURED, Trial, TrialLog

Execute = Callable[[list[NewRun], int | None], None]
"""Bring runs to their end, or to a step of their training."""


@dataclass(frozen=True)
class Stage:
    """A part of a trial: these replicates, up to a step or to the end; `at` is the step under which
    the pruner gets their mean, None for nothing.
    """

    seeds: list[int]
    until: int | None
    at: int | None


def stages(search: Search) -> list[Stage]:
    """Return the parts of a trial; after all but the last the pruner decides."""
    if search.tune.pruner == "wilcoxon":
        return [Stage([seed], None, index) for index, seed in enumerate(search.seeds)]
    whole = Stage(search.seeds, None, None if search.tune.pruner == "none" else search.steps)
    return [*(Stage(search.seeds, step, step) for step in search.rungs()), whole]


def tune(
    search: Search, log: TrialLog, store: ResultStore, execute: Execute, workers: int
) -> Iterator[Trial]:
    """Continue a search to its end, yielding the trials as they end; `workers` is how many trials a
    round has, if this is the first one.
    """
    log.check(store.database)
    size, record, hours = log.round_size(workers), search.record(), search.tune.hours
    while True:
        trials = measured(record, store, log.trials())
        log.unmeasured = frozenset(
            trial.number for trial in trials if trial.outcome == NOT_MEASURED
        )
        running = [trial.number for trial in trials if trial.outcome is None]
        missing = record.total - (len(trials) - len(log.unmeasured))
        if not running and (
            missing <= 0
            or (hours is not None and cost(record, store, trials).seconds >= 3600 * hours)
        ):
            return
        count = log.count()
        start = (running[0] if running else count) // size * size
        for number in running:
            if number < start + size:
                log.take_up(number)
        for _ in range(min(start + size - count, missing)):
            log.ask()
        members = [
            trial
            for trial in log.trials()
            if start <= trial.number < start + size and trial.outcome is None
        ]
        yield from _round(search, log, store, execute, members, start)


def _round(
    search: Search,
    log: TrialLog,
    store: ResultStore,
    execute: Execute,
    trials: list[Trial],
    start: int,
) -> Iterator[Trial]:
    """Have these trials run, stage by stage, and store how they ended."""
    running = {trial.number: trial for trial in trials}
    reports: dict[int, dict[int, float]] = {number: {} for number in running}
    pruned: set[int] = set()
    for stage in (all_stages := stages(search)):
        runs = [run for t in running.values() for run in search.runs(t.params, stage.seeds)]
        execute(runs, stage.until)
        for number, trial in list(running.items()):
            keys = search.keys(trial.params, stage.seeds)
            statuses = {row.status for row in store.rows(keys).values()}
            if statuses & {Status.DIVERGED, Status.FAILED}:
                del running[number]
            elif (
                stage.at is not None and (value := _report(search, store, keys, stage)) is not None
            ):
                reports[number][stage.at] = value
                if stage is not all_stages[-1] and log.prunes(number, start, reports[number])[0]:
                    pruned.add(number)
                    del running[number]
    for trial in trials:
        keys, score = search.keys(trial.params, search.seeds), None
        statuses = {row.status for row in store.rows(keys).values()}
        ended_badly = [each for each in (Status.FAILED, Status.DIVERGED) if each in statuses]
        if trial.number in pruned:
            outcome = "pruned"
        elif ended_badly:
            outcome = ended_badly[0].value
        else:
            score = mean_score(search.metric, store.metrics(keys), keys)
            outcome = "not finite" if score is None else "complete"
        if outcome != "complete":  # replicates that were stopped on the way go no further
            told = f"trial {trial.number} of {search.name}: {outcome}"
            store.prune(keys, f"{told} ({search.tune.pruner} pruner)")
        log.tell(trial.number, start, outcome, score, reports[trial.number])
        yield from (ended for ended in log.trials() if ended.number == trial.number)


def _report(search: Search, store: ResultStore, keys: Sequence[str], stage: Stage) -> float | None:
    """What the pruner gets after a stage: the mean over replicates of the score, or of the bound on
    the way; None where there is no number yet, or one is not finite.
    """
    if stage.until is None:
        return mean_score(search.metric, store.metrics(keys), keys)
    values = []
    for key in keys:
        curves = store.curves(key)
        curve = curves.get("validation_bound", curves.get("bound", []))
        values.append(([value for step, value in curve if step <= stage.until] or [math.nan])[-1])
    return finite_mean(values)


def has_reached(row: RunRow | None, until: int | None) -> bool:
    """Tell whether a run needs no more work for a stage that ends at this step, or at the end of
    training.
    """
    ended = (Status.DONE, Status.DIVERGED, Status.FAILED)
    return row is not None and (row.status in ended or (until is not None and row.step >= until))
