"""What a search found: its best trial, how the setting does on seeds that the tuner never saw, what
tuning took, and the setting as a preset of other runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from harness.analysis.selection import TuningCost, gradients
from harness.analysis.statistics import Interval, t_interval
from harness.base.errors import UsageError
from harness.base.spec import NewRun, Status, digest
from harness.base.workspace import Workspace
from harness.plan.grid import Setting
from harness.store import Estimate, ResultStore
from harness.store.create import is_missing
from harness.tuning.search import Search, SearchRecord, Spec, run_keys
from harness.tuning.trials import (
    NOT_MEASURED,
    Trial,
    read_log,
    stored_searches,
)


@dataclass(frozen=True)
class TuningResult:
    """A search in figures; scores are nats.

    `tuned` and `untuned` are the best trial's setting and the default one on the report seeds;
    `gain` is tuned less default, paired by seed. `left_out` are other programs' trials, and why
    they do not count.
    """

    search: SearchRecord
    trials: list[Trial]
    best: Trial | None
    default: dict[str, Any]
    tuned: Interval
    untuned: Interval
    gain: Interval
    failures: dict[str, int]
    cost: TuningCost
    left_out: dict[int, str]

    @property
    def gap(self) -> float:
        """The optimism gap, nats: the best trial's score less the mean of the same setting on the
        report seeds, which is what choosing the best of many noisy trials adds; NaN if unknown.
        """
        if self.best is None or self.best.score is None:
            return math.nan
        return self.best.score - self.tuned.mean

    @property
    def counts(self) -> dict[str, int]:
        """Trials by how they ended; `going` are those that have not."""
        return dict(Counter(trial.outcome or "going" for trial in self.trials))

    def plain(self) -> dict[str, Any]:
        """Return it as JSON; what is not known yet is null."""
        search, best = self.search, self.best
        return {
            "study": search.study,
            "method": search.method,
            "task": search.task,
            "metric": search.metric,
            "trials": len(self.trials),
            "of": search.total,
            "counts": self.counts,
            "best": None
            if best is None
            else {"trial": best.number, "score": best.score, "settings": best.params},
            "default": self.default,
            "report_seeds": search.report_seeds,
            "tuned": _plain(self.tuned),
            "untuned": _plain(self.untuned),
            "gain": _plain(self.gain),
            "optimism_gap": None if math.isnan(self.gap) else self.gap,
            "failures": self.failures,
            "left_out": self.left_out,
            "cost": asdict(self.cost),
        }


def _plain(interval: Interval) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in asdict(interval).items()
    }


def read_results(
    url: str, store: ResultStore | None, searches: Iterable[SearchRecord]
) -> list[TuningResult]:
    """Return what is known of these searches now; nothing is written.

    Args:
        url: the database of studies.
        store: the result database, None where there is none yet.
        searches: as they were last asked for.
    """
    results = []
    for search in searches:
        with read_log(url, search) as log:
            trials, left_out = (log.trials(), log.left_out()) if log else ([], [])
        reasons = dict.fromkeys(left_out, "another program added or ended it")
        results.append(_result(search, store, measured(search, store, trials), reasons))
    return results


def _result(
    search: SearchRecord, store: ResultStore | None, trials: list[Trial], left_out: dict[int, str]
) -> TuningResult:
    unmeasured = {
        trial.number: "the result database has no score of it"
        for trial in trials
        if trial.outcome == NOT_MEASURED
    }
    best = best_of(trials)
    tuned, tuned_failures = _scores(search, store, None if best is None else best.spec)
    untuned, default_failures = _scores(
        search, store, None if best is None else search.default_spec
    )
    failures = {"tuned": tuned_failures, "default": default_failures}
    both = [seed for seed in tuned if seed in untuned]
    return TuningResult(
        search=search,
        trials=trials,
        best=best,
        default=search.default,
        tuned=t_interval(list(tuned.values())),
        untuned=t_interval(list(untuned.values())),
        gain=t_interval([tuned[seed] - untuned[seed] for seed in both]),
        failures={name: count for name, count in failures.items() if count},
        cost=TuningCost() if store is None else cost(search, store, trials),
        left_out=dict(sorted((left_out | unmeasured).items())),
    )


def _scores(
    search: SearchRecord, store: ResultStore | None, spec: Spec | None
) -> tuple[dict[int, float], int]:
    """The scores of a setting by report seed, and how many of its runs ended without one."""
    if store is None or spec is None:
        return {}, 0
    seeds = dict(zip(run_keys(spec, search.report_seeds), search.report_seeds, strict=True))
    rows, metrics = store.rows(list(seeds)), store.metrics(list(seeds))
    scores = {
        seeds[key]: values[search.metric].value
        for key, values in metrics.items()
        if search.metric in values
    }
    finite = {seed: score for seed, score in scores.items() if math.isfinite(score)}
    ended_badly = sum(row.status in (Status.DIVERGED, Status.FAILED) for row in rows.values())
    return finite, ended_badly + len(scores) - len(finite)


def measured(
    record: SearchRecord, store: ResultStore | None, trials: Sequence[Trial]
) -> list[Trial]:
    """Return the trials with the scores of the result database: none where a trial has another's
    settings, or its runs were retracted.
    """
    keys = {
        trial.number: run_keys(trial.spec, record.seeds)
        for trial in trials
        if trial.outcome == "complete" and trial.spec
    }
    every_key = [key for members in keys.values() for key in members]
    metrics = {} if store is None else store.metrics(every_key)
    retracted = {} if store is None else store.retractions.reasons(every_key)
    results = []
    for trial in trials:
        members = keys.get(trial.number, [])
        score = mean_score(record.metric, metrics, members)
        if retracted.keys() & set(members):
            score = None
        missing = trial.outcome == "complete" and score is None
        outcome = NOT_MEASURED if missing else trial.outcome
        results.append(replace(trial, score=score, outcome=outcome))
    return results


def mean_score(
    metric: str, metrics: Mapping[str, Mapping[str, Estimate]], keys: Sequence[str]
) -> float | None:
    """Return the mean over replicates, where all of them have a finite score."""
    return finite_mean(
        [metrics[key][metric].value if metric in metrics.get(key, {}) else math.nan for key in keys]
    )


def finite_mean(values: Sequence[float]) -> float | None:
    """Return the mean, or None where there is no value or one is not finite."""
    if not values or not all(map(math.isfinite, values)):
        return None
    mean = math.fsum(values) / len(values)
    return mean if math.isfinite(mean) else None


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the complete trial with the highest score, the first of equals."""
    complete = [(trial.score, -trial.number, trial) for trial in trials if trial.score is not None]
    return max(complete, default=(None, None, None))[2]


def report_runs(search: Search, best: Trial | None) -> list[NewRun]:
    """Return the runs of the best setting and of the default one on the report seeds."""
    settings = [] if best is None else [best.params, {}]
    runs = [run for params in settings for run in search.runs(params, search.report_seeds)]
    return list({run.spec.key: run for run in runs}.values())


def cost(record: SearchRecord, store: ResultStore, trials: Sequence[Trial]) -> TuningCost:
    """Return what these trials took so far; a run that two of them share counts once."""
    settings = {tuple(run_keys(trial.spec, record.seeds)): None for trial in trials if trial.spec}
    total = TuningCost()
    for keys in settings:
        rows, descriptions = list(store.rows(keys).values()), store.described(keys)
        seconds = [row.wall_s for row in rows]
        counts = [gradients(row.spec, descriptions[row.key], row.step) for row in rows]
        sums = [count for count in (total.gradients, *counts) if count is not None]
        total = TuningCost(
            total.runs + len(rows),
            total.steps + sum(row.step for row in rows),
            sum(sums) if len(sums) > len(counts) else None,
            total.seconds + (max(seconds, default=0.0) if record.together else math.fsum(seconds)),
        )
    return total


def cost_by_cell(results: Iterable[TuningResult]) -> dict[str, TuningCost]:
    """Return what was spent on finding the setting of a cell; where several searches found it, the
    cost of the dearest.
    """
    return {
        digest(result.best.spec): result.cost
        for result in sorted(results, key=lambda result: result.cost.steps)
        if result.best is not None and result.best.spec
    }


class Preset:
    """The best settings of a tuning study, by method and task.

    Raises:
        UsageError: there is no such study here, or one of `seeds` was tuned on.
    """

    def __init__(self, workspace: Workspace, study: str, seeds: Sequence[int]) -> None:
        self._workspace, self._study = workspace, study
        self._searches = stored_searches(workspace.study_url, study)
        if not self._searches:
            raise UsageError(
                f"No tuning study named '{study}' was run in this workspace. "
                f"Run it first: bench study run {study}"
            )
        for search in self._searches:
            if used := sorted(set(seeds) & set(search.seeds)):
                raise UsageError(
                    f"Seed {used[0]} was tuned on by '{study}': a score on it is too good. "
                    "Take other seeds."
                )

    def settings(self, method: Setting, task: Setting) -> tuple[str, dict[str, Any]]:
        """Return the protocol and the best settings for a method on a task.

        Other values of their selectors than the tuned ones are the user's.

        Raises:
            UsageError: the study did not tune this pair, or has no best trial yet.
        """
        plugins = [(setting.plugin.name, setting.plugin.fields) for setting in (method, task)]
        candidates = [
            search
            for search in self._searches
            if [(plugin.name, plugin.fields) for plugin in search.plugins] == plugins
        ]
        exact = [
            search
            for search in candidates
            if [plugin.values for plugin in search.plugins] == [method.values, task.values]
        ]
        matches = exact or candidates
        if len(matches) != 1:
            names = [search.name.removeprefix(f"{self._study}/") for search in self._searches]
            reason = "tuned several settings of" if candidates else "did not tune"
            raise UsageError(
                f"'{self._study}' {reason} {method.plugin.name} on {task.plugin.name}. "
                f"It tuned {', '.join(names)}."
            )
        return matches[0].protocol, {**matches[0].settings, **self._best_params(matches[0])}

    def _best_params(self, search: SearchRecord) -> dict[str, Any]:
        url, best = self._workspace.database_url, None
        with read_log(self._workspace.study_url, search) as log:
            if log is not None and not is_missing(url):
                with ResultStore.open(url) as store:
                    best = best_of(measured(search, store, log.trials()))
        if best is None:
            raise UsageError(
                f"'{self._study}' has no best trial of {search.method} on {search.task} yet: "
                f"bench study status {self._study}"
            )
        return best.params
