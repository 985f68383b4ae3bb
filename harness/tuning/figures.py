"""The figures of a search: how the score rose, what mattered, where the good settings lie, and how the trials learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import optuna
from optuna import visualization

from harness.report import figures
from harness.store import ResultStore
from harness.tuning.log import quietly
from harness.tuning.verdict import Verdict


def page(study: optuna.Study, verdict: Verdict, store: ResultStore) -> str:
    """All figures of a search as one HTML page that needs no other host."""
    search, metric = verdict.search, verdict.search.metric
    drawn: dict[str, Callable[[], Any]] = {"Learning curves of the trials": lambda: _curves(verdict, store)}
    if verdict.best is not None:
        drawn = {
            f"History: {metric} by trial": lambda: visualization.plot_optimization_history(study, target_name=metric),
            "Each setting against the score": lambda: visualization.plot_slice(study, target_name=metric),
            "All settings together": lambda: visualization.plot_parallel_coordinate(study, target_name=metric),
            **drawn,
        }
    if sum(trial.score is not None for trial in verdict.trials) > 1 and len(search.space) > 1:
        drawn["What mattered"] = lambda: visualization.plot_param_importances(study, evaluator=_evaluator(), target_name=metric)
    best = "" if verdict.best is None else f"; the best is trial {verdict.best.number}"
    about = f"{len(verdict.trials)} trials of {search.method} on {search.task}{best}. Scores are nats, means over seeds {search.seeds}."
    return figures.page(search.name, about, {name: quietly(draw) for name, draw in drawn.items()})


def _evaluator() -> Any:
    return optuna.importance.FanovaImportanceEvaluator(seed=0)


def _curves(verdict: Verdict, store: ResultStore) -> Any:
    """The first replicate of each trial, the best in colour."""
    lines = []
    for trial in verdict.trials:
        curves = store.curves(verdict.search.keys(trial.params, verdict.search.seeds)[0])
        points = curves.get("validation_bound") or curves.get("bound") or []
        marked = verdict.best is not None and trial.number == verdict.best.number
        lines.append((f"trial {trial.number}", [(step, value) for step, value in points if math.isfinite(value)], marked))
    return figures.learning_curves(sorted(lines, key=lambda line: line[2]), "bound")
