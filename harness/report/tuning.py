"""The figures of a search: how the score rose, what mattered, where the good settings lie, and how
the trials learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from optuna import Study, visualization
from optuna.distributions import CategoricalDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import TrialState, create_trial

from harness.base.text import number
from harness.plan.grid import ranges
from harness.report.curves import plateau
from harness.report.page import Figure, Plot, Section, Table, render
from harness.report.view import PERCENT, interval_text, label
from harness.store import ResultStore
from harness.tuning.result import TuningResult, report_metric
from harness.tuning.samplers import distribution, quietly, study_in_memory
from harness.tuning.search import run_keys

BEST, USUAL = "var(--vermilion)", "var(--blue)"
ABOUT = {
    "Each setting against the score": "A point a trial: the score against the setting's value.",
    "All settings together": (
        "A line a trial, each axis from the lowest value tried to the highest; the best trial in "
        "another colour."
    ),
    "What mattered": (
        "The share of the score's variance that each setting explains, by a forest fitted to the "
        "trials (fANOVA)."
    ),
    "Learning curves of the trials": (
        "The bound of the first replicate of each trial; the best trial in another colour."
    ),
}


def page(result: TuningResult, store: ResultStore) -> str:
    """Return all of a search as one HTML page that needs no other host."""
    return render(result.search.name, [], [section(result, store)])


def section(result: TuningResult, store: ResultStore) -> Section:
    """Return what a search found, and all its figures."""
    search, metric = result.search, result.search.metric
    study, names = _study(result, store), [label(item.address) for item in search.space]
    n_scores = sum(trial.score is not None for trial in result.trials)
    plots: dict[str, Sequence[Plot]] = {}
    if n_scores:
        plots[f"History: {metric} by trial"] = [_history(study, metric)]
        plots["Each setting against the score"] = [_slice(study, metric, name) for name in names]
        plots["All settings together"] = [_parallel(study, result)]
    if n_scores > 1 and len(names) > 1:
        plots["What mattered"] = [_importances(study, len(names))]
    plots["Learning curves of the trials"] = [_learning_curves(study, result)]
    figures = [Figure(title, ABOUT.get(title, ""), charts) for title, charts in plots.items()]
    counts = ", ".join(f"{count} {name}" for name, count in sorted(result.counts.items()))
    best = "" if result.best is None else f"; the best is trial {result.best.number}"
    about = (
        f"{len(result.trials)} trials ({counts}){best}. "
        f"Scores are {metric} in nats, means over seeds {ranges(search.seeds)}."
    )
    tables = [_table(result)] if result.best else []
    return Section(
        f"tuning-{search.name}",
        f"Tuning {search.method} on {search.task}",
        [about],
        figures,
        tables,
    )


def _study(result: TuningResult, store: ResultStore) -> Study:
    """The trials as an Optuna study in memory: with the scores of the result database, the learning
    curve of their first replicate, and names that are shown as written.
    """
    space = {
        label(dimension.address): CategoricalDistribution([_text(c) for c in dimension.choices])
        if dimension.choices
        else distribution(dimension)
        for dimension in result.search.space
    }
    trials = [create_trial(state=TrialState.FAIL)] * (1 + result.trials[-1].number)
    for trial in result.trials:
        curves = store.curves(run_keys(trial.spec, result.search.seeds)[0]) if trial.spec else {}
        curve = curves.get("validation_bound") or curves.get("bound") or []
        complete = trial.score is not None
        trials[trial.number] = create_trial(
            state=TrialState.COMPLETE if complete else TrialState.PRUNED,
            value=trial.score,
            params={label(name): _text(value) for name, value in trial.params.items()},
            distributions=space,
            intermediate_values={step: value for step, value in curve if math.isfinite(value)},
        )
    return study_in_memory(result.search.name, trials)


def _text(choice: Any) -> Any:
    return label(choice) if isinstance(choice, str) else choice


def _history(study: Study, metric: str) -> Plot:
    chart = visualization.plot_optimization_history(study, target_name=metric)
    chart.update_traces(marker={"color": USUAL, "size": 8, "opacity": 0.75})
    chart.update_traces(selector={"mode": "lines"}, line={"color": BEST, "shape": "hv"})
    chart.update_layout(showlegend=False, xaxis_title="trial")
    return _plot("", _usual_scores(chart, study), 320)


def _slice(study: Study, metric: str, name: str) -> Plot:
    chart = visualization.plot_slice(study, [name], target_name=metric)
    trace: Any = next(chart.select_traces())
    chart.update_traces(
        marker={"color": USUAL, "size": 8, "opacity": 0.75, "showscale": False},
        text=[f"trial {number}" for number in trace.marker.color],
        hovertemplate="%{text}: %{y:,.7~g}<extra></extra>",
    )
    return _plot(name, _usual_scores(chart, study), 280)


def _usual_scores(chart: go.Figure, study: Study) -> go.Figure:
    """Show nine of ten scores: one bad trial squeezes the others otherwise."""
    values = sorted(trial.value for trial in study.trials if trial.value is not None)
    low, high = values[len(values) // 10], values[-1]
    margin = 0.08 * (high - low) or 1.0
    return chart.update_yaxes(range=[low - margin, high + margin])


def _parallel(study: Study, result: TuningResult) -> Plot:
    chart = visualization.plot_parallel_coordinate(study, target_name=result.search.metric)
    scored = [trial.number for trial in result.trials if trial.score is not None]
    traces: Any = chart.data[: len(scored)]  # behind them is a scale of colours
    chart.data = traces
    for trace, trial in zip(traces, scored, strict=True):
        trace.name = f"Trial{trial}"
    _mark_best(chart, result, "%{customdata[0]}: %{customdata[1]}")
    chart.update_annotations(font_color="var(--muted)")
    return _plot("", chart.update_layout(plot_bgcolor=None), 380)


def _mark_best(chart: go.Figure, result: TuningResult, hover: str) -> None:
    """Draw the lines of all trials alike, and the best one's above them in another colour."""
    best = None if result.best is None else f"Trial{result.best.number}"
    chart.update_traces(
        mode="lines",
        line={"color": USUAL, "width": 1},
        opacity=0.5,
        hovertemplate=f"%{{fullData.name}}<br>{hover}<extra></extra>",
    )
    chart.update_traces(selector={"name": best}, line={"color": BEST, "width": 2.5}, opacity=1)
    traces: list[Any] = sorted(chart.select_traces(), key=lambda trace: trace.name == best)
    chart.data = traces


def _importances(study: Study, n_names: int) -> Plot:
    evaluator = FanovaImportanceEvaluator(seed=0)
    chart = quietly(visualization.plot_param_importances, study, evaluator)
    chart.update_traces(marker_color=USUAL, hoverinfo="skip", hovertemplate=None)
    chart.update_layout(margin_r=40, showlegend=False)
    chart.update_xaxes(title_text="share of the score's variance", rangemode="tozero")
    chart.update_yaxes(title_text="", type="category")
    return _plot("", chart, 90 + 34 * n_names)


def _learning_curves(study: Study, result: TuningResult) -> Plot:
    chart = visualization.plot_intermediate_values(study)
    _mark_best(chart, result, "step %{x:,}: %{y:,.7~g} nats")
    traces: list[Any] = list(chart.select_traces())
    lines = [list(zip(trace.x, trace.y, strict=True)) for trace in traces]
    chart.update_layout(xaxis_title="step")
    chart.update_yaxes(title_text="bound, nats", range=plateau(lines))
    return _plot("", chart, 380)


def _plot(title: str, chart: go.Figure, height: int) -> Plot:
    """A chart of Optuna's without its title, which stands above it on the page."""
    return Plot(title, chart.update_layout(title=None), height)


def _table(result: TuningResult) -> Table:
    """The best setting against the default one, and what finding it cost."""
    best, cost = result.best, result.cost
    rows = []
    if best is not None and best.score is not None:
        rows = [
            (f"{name}, best setting", f"{_short(best.params[name])} (default {_short(default)})")
            for name, default in result.default.items()
            if name in best.params
        ]
        rows.append(("best trial, on the seeds it was tuned on", number(best.score)))
    if result.tuned.n:
        seeds = (
            f"{report_metric(result.search.metric)} on seeds {ranges(result.search.report_seeds)}"
        )
        rows += [
            (f"tuned, {seeds}", interval_text(result.tuned)),
            (f"default, {seeds}", interval_text(result.untuned)),
        ]
        if result.gain.n:
            rows.append(("tuned less default, paired by seed", interval_text(result.gain)))
    if result.optimism.n:
        seen, gap = result.tuning_gain, result.optimism
        rows += [
            (f"the same on tuning seeds {ranges(result.search.seeds)}", interval_text(seen)),
            ("optimism gap: the second gain less the first", interval_text(gap)),
        ]
    rows += [
        (f"runs of the {name} setting without a score", str(count))
        for name, count in sorted(result.failures.items())
    ]
    work = f"{cost.runs:,} runs, {cost.steps:,} steps, {cost.seconds:,.0f} seconds of work"
    caption = f"Result of tuning; nats, with {PERCENT} t intervals"
    return Table(("what", "value"), [*rows, ("cost", work)], caption, 1)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
