"""What became of a search: its best trial, and how it fares on seeds that the tuner never saw."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.analysis.selection import TuningCost
from harness.analysis.statistics import Interval, paired, t_interval
from harness.base.spec import NewRun, Status
from harness.store import ResultStore
from harness.tuning.kept import NOT_MEASURED, Trial
from harness.tuning.record import Record, Spec, cell, keys
from harness.tuning.rounds import cost, measured
from harness.tuning.search import Search


@dataclass(frozen=True)
class Verdict:
    """A search in figures; scores are nats.

    `gap` is the best trial's score less the mean of the same setting on the report seeds: what
    choosing the best of many noisy trials made look better than it is. `gain` is tuned less
    default, paired by seed.
    """

    search: Record
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
        """The optimism gap, nats; NaN while there is no winner on report seeds."""
        return (
            math.nan
            if self.best is None or self.best.score is None
            else self.best.score - self.tuned.mean
        )

    @property
    def counts(self) -> dict[str, int]:
        """Trials by how they ended; `going` are those that have not."""
        return dict(Counter(trial.outcome or "going" for trial in self.trials))

    def plain(self) -> dict[str, Any]:
        """As JSON; what is not known yet is null."""
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


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial with the highest score, the first of equals."""
    complete = [(trial.score, -trial.number, trial) for trial in trials if trial.score is not None]
    return max(complete, default=(None, None, None))[2]


def spent(verdicts: Iterable[Verdict]) -> dict[str, TuningCost]:
    """What was spent on finding the settings of a cell, by cell: of every search's winner; where
    several found it, the dearest.
    """
    found: dict[str, TuningCost] = {}
    for verdict in sorted(verdicts, key=lambda verdict: verdict.cost.steps):
        if verdict.best is not None and verdict.best.spec:
            found[cell(verdict.best.spec)] = verdict.cost
    return found


def report_runs(search: Search, best: Trial | None) -> list[NewRun]:
    """The winner and the default setting on the report seeds."""
    settings = [] if best is None else [best.params, {}]
    return list(
        {
            run.spec.key: run
            for params in settings
            for run in search.runs(params, search.report_seeds)
        }.values()
    )


def verdict(
    search: Record,
    store: ResultStore | None,
    trials: list[Trial],
    left_out: dict[int, str] | None = None,
) -> Verdict:
    """What is known of a search now; `left_out` are other programs' trials, and why they do not
    count.
    """
    trials = measured(search, store, trials)
    unknown = {
        trial.number: "the result database has no score of it"
        for trial in trials
        if trial.outcome == NOT_MEASURED
    }
    best = best_of(trials)
    tuned, lost = _scores(search, store, None if best is None else best.spec)
    untuned, lost_default = _scores(search, store, None if best is None else search.default_spec)
    both = [seed for seed in tuned if seed in untuned]
    return Verdict(
        search, trials, best, search.default,
        t_interval(list(tuned.values())), t_interval(list(untuned.values())),
        paired([tuned[seed] for seed in both], [untuned[seed] for seed in both]),
        {name: count for name, count in (("tuned", lost), ("default", lost_default)) if count},
        TuningCost() if store is None else cost(search, store, trials),
        dict(sorted(((left_out or {}) | unknown).items())),
    )  # fmt: skip


def _scores(
    search: Record, store: ResultStore | None, spec: Spec | None
) -> tuple[dict[int, float], int]:
    """The scores of a setting by report seed, and how many of its runs ended without one."""
    if store is None or spec is None:
        return {}, 0
    seeds = dict(zip(keys(spec, search.report_seeds), search.report_seeds, strict=True))
    rows, metrics = store.rows(list(seeds)), store.metrics(list(seeds))
    found = {
        seeds[key]: values[search.metric].value
        for key, values in metrics.items()
        if search.metric in values
    }
    finite = {seed: score for seed, score in found.items() if math.isfinite(score)}
    return finite, sum(
        row.status in (Status.DIVERGED, Status.FAILED) for row in rows.values()
    ) + len(found) - len(finite)
