"""What became of tuning studies, on a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from harness.base.text import duration, number, plural
from harness.cli._output import print_json
from harness.cli._render import console, print_table

if TYPE_CHECKING:
    from harness.analysis.statistics import Interval
    from harness.tuning.result import TuningResult
    from harness.tuning.search import Search, SearchRecord
    from harness.tuning.trials import Trial

LEFT_OUT = 5  # trials that are named


def dimensions(search: Search | SearchRecord) -> str:
    """`lr in 0.0001 to 0.1 (log); particles in 1, 10`."""
    parts = []
    for dimension in search.space:
        span = (
            ", ".join(map(str, dimension.choices))
            or f"{dimension.low:g} to {dimension.high:g}{' (log)' if dimension.log else ''}"
        )
        parts.append(f"{dimension.address} in {span}")
    return "; ".join(parts)


def trial_line(trial: Trial, best: Trial | None, total: int) -> str:
    """`trial 7 of 30: -123.4 (best -120.1, trial 3)  lr=0.0021`."""
    said = trial.outcome if trial.score is None else number(trial.score)
    leading = (
        ""
        if best is None or best.score is None
        else f" (best {number(best.score)}, trial {best.number})"
    )
    return f"  trial {trial.number} of {total}: {said}{leading}  {_settings(trial.params)}"


def _settings(params: dict[str, Any]) -> str:
    return " ".join(f"{name}={_short(value)}" for name, value in params.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_verdicts(verdicts: Sequence[TuningResult]) -> None:
    """A block a search: how its trials ended, the winner against the default, and what it cost."""
    out = console()
    for verdict in verdicts:
        search = verdict.search
        counts = (
            ", ".join(f"{count} {name}" for name, count in verdict.counts.items()) or "none yet"
        )
        out.print(f"{search.method} on {search.task}", style="bold", markup=False)
        out.print(
            f"{len(verdict.trials)} trials: {counts}; {search.metric}, seeds {_ranges(search.seeds)}",
            markup=False,
        )
        for trial, reason in list(verdict.left_out.items())[:LEFT_OUT]:
            out.print(f"trial {trial} is left out: {reason}", markup=False)
        if (more := len(verdict.left_out) - LEFT_OUT) > 0:
            out.print(f"{plural(more, 'more trial')} left out: --json lists all", markup=False)
        if verdict.best is None:
            out.print(
                "No trial has ended with a score." if verdict.trials else "Not begun.", markup=False
            )
            continue
        rows = [
            (name, _short(verdict.default[name]), _short(value))
            for name, value in sorted(
                verdict.best.params.items(), key=lambda pair: list(verdict.default).index(pair[0])
            )
        ]
        print_table(("setting", "default", "best"), rows, left=1)
        print_scores(verdict, out)
    if not any(verdict.trials for verdict in verdicts):
        out.print(f"Next: bench study run {verdicts[0].search.study}", markup=False)
    else:
        out.print(
            f"Next: bench study show {verdicts[0].search.study} --figures figures.html · bench ui",
            markup=False,
        )


def print_scores(verdict: TuningResult, out: Any) -> None:
    """The scores of the winner, where it was found and where it was not."""
    best, search = verdict.best, verdict.search
    if best is None or best.score is None:
        return
    lines = [
        f"best trial {best.number}: {search.metric} {number(best.score)} on the seeds it was tuned on"
    ]
    if verdict.tuned.n:
        lines.append(
            f"on report seeds {_ranges(search.report_seeds)}: tuned {_mean(verdict.tuned)}, default {_mean(verdict.untuned)}"
        )
        lines += _gain(verdict.gain)
        lines.append(
            f"optimism gap: {_signed(verdict.gap)} nats, the best trial less the same setting on report seeds"
        )
    of = len(search.report_seeds)
    lines += [
        f"{count} of the {of} {name} runs on report seeds ended without a score"
        for name, count in verdict.failures.items()
    ]
    cost = verdict.cost
    lines.append(
        f"cost of tuning: {plural(cost.runs, 'run')}, {plural(cost.steps, 'step')}, {duration(cost.seconds)} of work"
    )
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
    from harness.plan.grid import ranges

    return ranges(seeds)


def print_trials(verdicts: Sequence[TuningResult], as_json: bool) -> None:
    """Every trial with its settings."""
    if as_json:
        print_json(
            {"method": v.search.method, "task": v.search.task, **vars(trial)}
            for v in verdicts
            for trial in v.trials
        )
        return
    out = console()
    for verdict in verdicts:
        out.print(
            f"{verdict.search.method} on {verdict.search.task}: {dimensions(verdict.search)}",
            style="bold",
            markup=False,
        )
        if not verdict.trials:
            out.print("Not begun.\n", markup=False)
            continue
        names = list(verdict.default)
        rows = [
            (*_judged(trial), *(_short(trial.params.get(name, "-")) for name in names))
            for trial in verdict.trials
        ]
        print_table(("trial", "outcome", verdict.search.metric, *names), rows, left=2)


def _judged(trial: Trial) -> tuple[str, str, str]:
    return (
        str(trial.number),
        trial.outcome or "going",
        "-" if trial.score is None else number(trial.score),
    )
