"""The coordinator of a search: it asks for trials in rounds, has their runs made, and tells how
they ended.

A round is as many trials as there were workers when the study began. Its trials are asked for one
after another, made together, and told in their order when all have ended; pruners see the trials of
earlier rounds only. So the trials are the same however often the coordinator or its workers died.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.analysis.selection import TuningCost, gradients
from harness.base.spec import NewRun, Status
from harness.store import Metric, ResultStore, RunRow
from harness.tuning.decisions import rungs, total
from harness.tuning.kept import NOT_MEASURED, Trial
from harness.tuning.log import Log
from harness.tuning.record import Record
from harness.tuning.record import keys as keys_of
from harness.tuning.search import Search

Make = Callable[[list[NewRun], int | None], None]
"""Bring runs to their end, or to a step of their training."""


@dataclass(frozen=True)
class Stage:
    """A part of a trial: these replicates, up to a step or to the end; `at` is what the pruner is
    told of it, None for nothing.
    """

    seeds: list[int]
    until: int | None
    at: int | None


def stages(search: Search) -> list[Stage]:
    """The parts of a trial; all but the last are followed by a look of the pruner."""
    if search.tune.pruner == "wilcoxon":
        return [Stage([seed], None, place) for place, seed in enumerate(search.seeds)]
    last = Stage(search.seeds, None, None if search.tune.pruner == "none" else search.steps)
    return [Stage(search.seeds, step, step) for step in rungs(search)] + [last]


def tune(search: Search, log: Log, store: ResultStore, make: Make, size: int) -> Iterator[Trial]:
    """Go on with a search to its end; yields the trials as they are told.

    Args:
        search, log: what is searched, and its trials.
        store: where the runs of the trials are kept.
        make: has runs made.
        size: trials in a round, if this is the first one.
    """
    log.check(store.database)
    size, record = log.round_size(size), search.record(total(search))
    while True:
        trials = measured(record, store, log.trials())
        log.unmeasured = frozenset(
            trial.number for trial in trials if trial.outcome == NOT_MEASURED
        )
        going = [trial.number for trial in trials if trial.outcome is None]
        missing = record.total - (len(trials) - len(log.unmeasured))
        if not going and (missing <= 0 or _is_over(search, store, trials)):
            return
        count = log.count()
        first = (going[0] if going else count) // size * size
        for number in going:
            if number < first + size:
                log.take_up(number)
        for _ in range(min(first + size - count, missing)):
            log.ask()
        left = [
            trial
            for trial in log.trials()
            if first <= trial.number < first + size and trial.outcome is None
        ]
        yield from _round(search, log, store, make, left, first)


def measured(record: Record, store: ResultStore | None, trials: Sequence[Trial]) -> list[Trial]:
    """The trials with the scores that the result database has; one that claims another's, or one
    that was retracted, has none.
    """
    keys = {
        trial.number: keys_of(trial.spec, record.seeds)
        for trial in trials
        if trial.outcome == "complete" and trial.spec
    }
    every = [key for several in keys.values() for key in several]
    found = {} if store is None else store.metrics(every)
    retracted = {} if store is None else store.errata.reasons(every)
    known = []
    for trial in trials:
        own = keys.get(trial.number, [])
        score = None if retracted.keys() & set(own) else _mean_score(record.metric, found, own)
        lost = trial.outcome == "complete" and score is None
        known.append(replace(trial, score=score, outcome=NOT_MEASURED if lost else trial.outcome))
    return known


def _is_over(search: Search, store: ResultStore, trials: Sequence[Trial]) -> bool:
    hours = search.tune.hours
    return (
        hours is not None
        and cost(search.record(total(search)), store, trials).seconds >= 3600 * hours
    )


def _round(
    search: Search, log: Log, store: ResultStore, make: Make, trials: list[Trial], first: int
) -> Iterator[Trial]:
    """Have these trials made, stage by stage, and tell how they ended."""
    going = {trial.number: trial for trial in trials}
    reports: dict[int, dict[int, float]] = {number: {} for number in going}
    pruned: set[int] = set()
    parts = stages(search)
    for stage in parts:
        make(
            [run for trial in going.values() for run in search.runs(trial.params, stage.seeds)],
            stage.until,
        )
        for number, trial in list(going.items()):
            keys = search.keys(trial.params, stage.seeds)
            if _has_failed(store, keys):
                del going[number]
            elif stage.at is not None and (seen := _seen(search, store, keys, stage)) is not None:
                reports[number][stage.at] = seen
                if stage is not parts[-1] and log.prunes(number, first, reports[number]):
                    pruned.add(number)
                    del going[number]
    for trial in trials:
        outcome, score = (
            ("pruned", None) if trial.number in pruned else outcome_of(search, store, trial)
        )
        if outcome != "complete":  # replicates that were stopped on the way go no further
            reason = (
                f"trial {trial.number} of {search.name}: {outcome} ({search.tune.pruner} pruner)"
            )
            store.prune(search.keys(trial.params, search.seeds), reason)
        log.tell(trial.number, first, outcome, score, reports[trial.number])
        yield from (told for told in log.trials() if told.number == trial.number)


def _has_failed(store: ResultStore, keys: Sequence[str]) -> bool:
    return any(row.status in (Status.DIVERGED, Status.FAILED) for row in store.rows(keys).values())


def _seen(search: Search, store: ResultStore, keys: Sequence[str], stage: Stage) -> float | None:
    """What the pruner is shown after a stage: the mean over replicates; None where there is no
    number yet, or none that is finite.
    """
    if stage.until is None:
        return _mean_score(search.metric, store.metrics(keys), keys)
    return _finite_mean([_on_the_way(store, key, stage.until) for key in keys])


def _mean_score(
    metric: str, found: Mapping[str, Mapping[str, Metric]], keys: Sequence[str]
) -> float | None:
    """The mean over replicates, where all of them have a finite score."""
    return _finite_mean(
        [found[key][metric].value if metric in found.get(key, {}) else math.nan for key in keys]
    )


def _finite_mean(values: Sequence[float]) -> float | None:
    mean = (
        math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else math.nan
    )
    return mean if math.isfinite(mean) else None


def _on_the_way(store: ResultStore, key: str, step: int) -> float:
    """The bound on the validation data at this step or the last look before it; of tasks without,
    the training bound's.
    """
    curves = store.curves(key)
    points = [
        value for at, value in curves.get("validation_bound", curves.get("bound", [])) if at <= step
    ]
    return points[-1] if points else math.nan


def outcome_of(search: Search, store: ResultStore, trial: Trial) -> tuple[str, float | None]:
    """How a trial that was made ended, and its score where all its replicates have one: their mean."""
    keys = search.keys(trial.params, search.seeds)
    ended = {row.status for row in store.rows(keys).values()}
    for status in (Status.FAILED, Status.DIVERGED):
        if status in ended:
            return status.value, None
    score = _mean_score(search.metric, store.metrics(keys), keys)
    return ("not finite", None) if score is None else ("complete", score)


def cost(record: Record, store: ResultStore, trials: Sequence[Trial]) -> TuningCost:
    """What these trials took so far; a run that two of them share counts once."""
    settings = {tuple(keys_of(trial.spec, record.seeds)): None for trial in trials if trial.spec}
    found = TuningCost()
    for keys in settings:
        rows = list(store.rows(keys).values())
        seconds = [row.wall_s for row in rows]
        spent = max(seconds, default=0.0) if record.together else math.fsum(seconds)
        told = store.described(keys)
        taken = [gradients(row.spec, told[row.key], row.step) for row in rows]
        known = [count for count in (found.gradients, *taken) if count is not None]
        found = TuningCost(
            found.runs + len(rows),
            found.steps + sum(row.step for row in rows),
            sum(known) if len(known) > len(taken) else None,
            found.seconds + spent,
        )
    return found


def has_reached(row: RunRow | None, until: int | None) -> bool:
    """Whether a run needs no more work for a stage that ends at this step, or at the end of
    training.
    """
    if row is None:
        return False
    if row.status in (Status.DONE, Status.DIVERGED, Status.FAILED):
        return True
    return until is not None and row.step >= until
