"""What a search found: its best trial, how the setting does on seeds that the tuner never saw, what
tuning took, and the setting as a preset of other runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from harness.analysis.selection import TuningCost, gradients
from harness.analysis.statistics import Interval, mean, t_interval
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

    `tuned` and `untuned` are the best trial's setting and the default one on the report seeds, in
    the metric that is reported: that of the test data where validation data chose. `gain` is tuned
    less default, paired by seed, and `tuning_gain` the same on the tuning seeds, in the tuned
    metric. `optimism` is the second less the first, with the interval that the report seeds give
    it. `left_out` says why trials do not count.
    """

    search: SearchRecord
    trials: list[Trial]
    best: Trial | None
    default: dict[str, Any]
    tuned: Interval
    untuned: Interval
    gain: Interval
    tuning_gain: Interval
    optimism: Interval
    failures: dict[str, int]
    cost: TuningCost
    left_out: dict[int, str]

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
            "report_metric": report_metric(search.metric),
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
            "tuning_gain": _plain(self.tuning_gain),
            "optimism_gap": _plain(self.optimism)["mean"],
            "optimism": _plain(self.optimism),
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
    """Return what is known of these searches now; nothing is written, and there may be no result
    database yet.
    """
    return [_result(url, store, search) for search in searches]


def _result(url: str, store: ResultStore | None, search: SearchRecord) -> TuningResult:
    with read_log(url, search) as log:
        trials = measured(search, store, log.trials() if log else [])
        left_out = log.left_out() if log else {}
    for trial in trials:
        if trial.outcome == NOT_MEASURED:
            left_out[trial.number] = "the result database has no score of it"
    best = best_of(trials)
    specs = (best.spec, search.default_spec) if best else (None, None)
    metric, seeds = report_metric(search.metric), search.report_seeds
    (tuned, n_tuned), (untuned, n_default) = (_scores(metric, store, spec, seeds) for spec in specs)
    failures = {"tuned": n_tuned, "default": n_default}
    gains = _differences(tuned, untuned)
    tuning_gains = _differences(
        *(_scores(search.metric, store, spec, search.seeds)[0] for spec in specs)
    )
    return TuningResult(
        search=search,
        trials=trials,
        best=best,
        default=search.default,
        tuned=t_interval(list(tuned.values())),
        untuned=t_interval(list(untuned.values())),
        gain=t_interval(gains),
        tuning_gain=t_interval(tuning_gains),
        optimism=optimism_gap(tuning_gains, gains),
        failures={name: count for name, count in failures.items() if count},
        cost=TuningCost() if store is None else cost(search, store, trials),
        left_out=dict(sorted(left_out.items())),
    )


def report_metric(metric: str) -> str:
    """Return the metric of the report seeds: what validation data chose is scored on the test data.

    >>> report_metric("validation_elbo"), report_metric("elbo")
    ('elbo', 'elbo')
    """
    return metric.removeprefix("validation_")


def optimism_gap(tuning_gains: Sequence[float], gains: Sequence[float]) -> Interval:
    r"""Return what the tuning seeds overstate of the best setting's gain on the default one.

    The gain on the tuning seeds, $\bar g$, is what was seen when the setting was chosen, and so has
    no error; the setting's gain on seeds that chose nothing has: $\bar g - \bar r \pm t\, s_r /
    \sqrt n$. Both are paired by seed. NaN where one of the two is unknown.
    """
    if not tuning_gains or not gains:
        return t_interval([])
    seen = mean(tuning_gains)
    return t_interval([seen - gain for gain in gains])


def _differences(first: Mapping[int, float], second: Mapping[int, float]) -> list[float]:
    return [first[seed] - second[seed] for seed in first if seed in second]


def _scores(
    metric: str, store: ResultStore | None, spec: Spec | None, at_seeds: Sequence[int]
) -> tuple[dict[int, float], int]:
    """A metric of a setting by seed, and how many of its runs ended without one."""
    if store is None or spec is None:
        return {}, 0
    seeds = dict(zip(run_keys(spec, at_seeds), at_seeds, strict=True))
    rows, metrics = store.rows(list(seeds)), store.metrics(list(seeds))
    scores = {
        seeds[key]: values[metric].value for key, values in metrics.items() if metric in values
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
    """Return the runs of the best setting and of the default one on the report seeds, and of the
    default one on the tuning seeds.
    """
    settings = [] if best is None else [best.params, {}]
    runs = [run for params in settings for run in search.runs(params, search.report_seeds)]
    runs += search.runs({}, search.seeds) if best else []
    return list({run.spec.key: run for run in runs}.values())


def cost(record: SearchRecord, store: ResultStore, trials: Sequence[Trial]) -> TuningCost:
    """Return what these trials took so far; a run that two of them share counts once."""
    settings = dict.fromkeys(
        tuple(run_keys(trial.spec, record.seeds)) for trial in trials if trial.spec
    )
    rows, seconds = store.rows([key for keys in settings for key in keys]), []
    for keys in settings:
        walls = [rows[key].wall_s for key in keys if key in rows]
        seconds.append(max(walls, default=0.0) if record.together else math.fsum(walls))
    descriptions = store.described(list(rows))
    counts = [gradients(row.spec, descriptions[key], row.step) for key, row in rows.items()]
    known = [count for count in counts if count is not None]
    return TuningCost(
        len(rows),
        sum(row.step for row in rows.values()),
        sum(known) if len(known) == len(counts) else None,
        sum(seconds),
    )


def cost_by_cell(results: Iterable[TuningResult]) -> dict[str, TuningCost]:
    """Return what was spent on finding the setting of a cell; where several searches found it, the
    cost of the dearest.
    """
    return {
        digest(result.best.spec): result.cost
        for result in sorted(results, key=lambda result: result.cost.steps)
        if result.best is not None and result.best.spec
    }


def best_settings(
    workspace: Workspace, study: str, seeds: Sequence[int]
) -> Callable[[Setting, Setting], tuple[str, dict[str, Any]]]:
    """Return what gives the protocol and the best settings of a tuning study for a method on a
    task; other values of their selectors than the tuned ones are the user's.

    Raises:
        UsageError: there is no such study here, one of `seeds` was tuned on, or (from what is
            returned) the study did not tune this pair, or has no best trial yet.
    """
    searches = stored_searches(workspace.study_url, study)
    if not searches:
        raise UsageError(
            f"No tuning study named '{study}' was run in this workspace. "
            f"Run it first: bench study run {study}"
        )
    for search in searches:
        if used := sorted(set(seeds) & set(search.seeds)):
            raise UsageError(
                f"Seed {used[0]} was tuned on by '{study}': a score on it is too good. "
                "Take other seeds."
            )

    def settings(method: Setting, task: Setting) -> tuple[str, dict[str, Any]]:
        pair = [(setting.plugin.name, setting.plugin.fields) for setting in (method, task)]
        tuned = [
            search for search in searches if [(p.name, p.fields) for p in search.plugins] == pair
        ]
        values = [method.values, task.values]
        exact = [search for search in tuned if [p.values for p in search.plugins] == values]
        if len(exact or tuned) != 1:
            names = [search.name.removeprefix(f"{study}/") for search in searches]
            reason = "tuned several settings of" if tuned else "did not tune"
            raise UsageError(
                f"'{study}' {reason} {method.plugin.name} on {task.plugin.name}. "
                f"It tuned {', '.join(names)}."
            )
        (search,) = exact or tuned
        best = None
        with read_log(workspace.study_url, search) as log:
            if log is not None and not is_missing(workspace.database_url):
                with ResultStore.open(workspace.database_url) as store:
                    best = best_of(measured(search, store, log.trials()))
        if best is None:
            raise UsageError(
                f"'{study}' has no best trial of {search.method} on {search.task} yet: "
                f"bench study status {study}"
            )
        return search.protocol, {**search.settings, **best.params}

    return settings
