"""The figures of a search: how the score rose, what mattered, where the good settings lie, and how
the trials learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import optuna

from harness.plan.grid import ranges
from harness.report import trials
from harness.report.page import Figure, Plot, Section, Table, render
from harness.report.view import PERCENT, anchor, number, spoken
from harness.store import ResultStore
from harness.tuning.result import TuningResult
from harness.tuning.search import run_keys
from harness.tuning.trials import quietly


def page(verdict: TuningResult, store: ResultStore) -> str:
    """All of a search as one HTML page that needs no other host."""
    return render(verdict.search.name, [], [section(verdict, store)])


def section(verdict: TuningResult, store: ResultStore) -> Section:
    """What became of a search, and all its figures."""
    search, metric = verdict.search, verdict.search.metric
    scored = [
        (trial.number, trial.params, trial.score)
        for trial in verdict.trials
        if trial.score is not None
    ]
    logarithmic = frozenset(one.address for one in search.space if one.log)
    drawn: dict[str, Sequence[Plot]] = {}
    if scored:
        drawn[f"History: {metric} by trial"] = [
            trials.history([(number, score) for number, _, score in scored], metric)
        ]
        drawn["Each setting against the score"] = trials.slices(scored, logarithmic, metric)
        drawn["All settings together"] = [trials.parallel(scored, logarithmic, metric)]
    if len(scored) > 1 and len(search.space) > 1:
        drawn["What mattered"] = [trials.importances(_importances(verdict))]
    drawn["Learning curves of the trials"] = [_curves(verdict, store)]
    id = anchor("tuning", search.name)
    figures = [
        Figure(f"{id}-{place}", name, ABOUT.get(name, ""), plots)
        for place, (name, plots) in enumerate(drawn.items(), 1)
    ]
    title = f"Tuning {search.method} on {search.task}"
    return Section(id, title, _about(verdict), figures, [_numbers(verdict)] if verdict.best else [])


ABOUT = {
    "Each setting against the score": "A point a trial, the same scores against the values of each setting.",
    "All settings together": "A line a trial, each axis from the lowest value tried to the highest. The stronger, the better; the best "
    "in another colour.",
    "Learning curves of the trials": "The first replicate of each trial; the best in another colour.",
    "What mattered": "The share of the score's variance that each setting explains, by a forest fitted to the trials (fANOVA).",
}


def _about(verdict: TuningResult) -> list[str]:
    search = verdict.search
    ended = ", ".join(f"{count} {name}" for name, count in sorted(verdict.counts.items()))
    best = "" if verdict.best is None else f"; the best is trial {verdict.best.number}"
    return [
        f"{len(verdict.trials)} trials ({ended}){best}. Scores are {search.metric} in nats, means over seeds {ranges(search.seeds)}."
    ]


def _numbers(verdict: TuningResult) -> Table:
    """The winner against the default, and what finding it cost."""
    best, gain, cost = verdict.best, verdict.gain, verdict.cost
    rows = [(f"best setting: {name}", f"{_short(best.params[name])} (default {_short(verdict.default[name])})")
            for name in verdict.default if best and name in best.params]  # fmt: skip
    if best is not None and best.score is not None:
        rows.append(("best trial, on the seeds it was tuned on", number(best.score)))
    if verdict.tuned.n:
        seeds = f"on report seeds {ranges(verdict.search.report_seeds)}"
        rows += [
            (f"tuned, {seeds}", spoken(verdict.tuned)),
            (f"default, {seeds}", spoken(verdict.untuned)),
        ]
        rows += [("paired gain: tuned less default, by seed", spoken(gain))] if gain.n else []
        rows.append(
            (
                "optimism gap: the best trial less the same setting on report seeds",
                number(verdict.gap),
            )
        )
    rows += [
        (f"runs of the {name} setting without a score", str(count))
        for name, count in sorted(verdict.failures.items())
    ]
    rows.append(
        ("cost", f"{cost.runs:,} runs, {cost.steps:,} steps, {cost.seconds:,.0f} seconds of work")
    )
    return Table(("what", "value"), rows, f"TuningResult; nats, with {PERCENT} t intervals", 1)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _importances(result: TuningResult) -> dict[str, float]:
    return quietly(
        optuna.importance.get_param_importances,
        result.study(),
        evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
    )


def _curves(verdict: TuningResult, store: ResultStore) -> Plot:
    """The first replicate of each trial, the best in colour."""
    lines = []
    for trial in verdict.trials:
        curves = store.curves(run_keys(trial.spec, verdict.search.seeds)[0]) if trial.spec else {}
        points = curves.get("validation_bound") or curves.get("bound") or []
        marked = verdict.best is not None and trial.number == verdict.best.number
        lines.append(
            (
                f"trial {trial.number}",
                [(step, value) for step, value in points if math.isfinite(value)],
                marked,
            )
        )
    return trials.learning_curves(sorted(lines, key=lambda line: line[2]), "bound")
