"""What became of runs: one dict a run, as `--json` prints it, and the tables that end a command."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.base.metrics import IMPORTANCE_ESTIMATES, RISING_Z, metric_by_name, why_one_sided
from harness.base.spec import NewRun, plain_number, settings_text
from harness.base.text import duration, number, plural
from harness.base.tracebacks import reason_and_place
from harness.store import Estimate, ResultStore, RunRow

Run = dict[str, Any]

FOOTNOTE = "a"
GAPS = ("elbo_gap", "evidence_gap")  # these need a task's exact answers
TRAVEL_LIMIT = 0.9
MOST_FAILURES = 5  # runs that are listed one by one


def run_as_dict(row: RunRow, metrics: Mapping[str, Estimate], outcome: str | None = None) -> Run:
    """Return a stored run as one flat dict.

    `wall_s` is seconds; a metric that is not finite is the text nan, inf or -inf.
    """
    values = sorted(metrics.items())
    return {
        "key": row.key,
        "cell": row.cell,
        "method": row.method,
        "task": row.task_label,
        "settings": row.settings,
        "seed": row.seed,
        "status": row.status.value,
        **({} if outcome is None else {"outcome": outcome}),
        "reason": row.reason,
        "traceback": row.traceback,
        "step": row.step,
        "metrics": {name: plain_number(metric.value) for name, metric in values},
        "standard_errors": {
            name: plain_number(metric.se) for name, metric in values if metric.se is not None
        },
        "wall_s": round(row.wall_s, 3),
        "mlflow_run_id": row.mlflow_run_id,
    }


def runs_as_dicts(
    store: ResultStore, keys: Sequence[str], outcomes: Mapping[str, str] | None = None
) -> list[Run]:
    """Return the stored runs of `keys`, in order."""
    rows, metrics = store.rows(keys), store.metrics(keys)
    return [
        run_as_dict(rows[key], metrics.get(key, {}), (outcomes or {}).get(key))
        for key in keys
        if key in rows
    ]


def print_summary(
    results: Sequence[Run], runs: Sequence[NewRun], not_replaced: Mapping[str, str]
) -> None:
    """Print a table for each task, a row a cell: means over seeds with standard errors; then notes.

    Args:
        results: the runs that have ended, as they are stored.
        runs: what was asked for.
        not_replaced: of runs whose rerun failed, which have their earlier results, why it did.
    """
    from harness.cli._render import console, print_table

    by_key = {run.spec.key: run for run in runs}
    out = console()
    for task in dict.fromkeys(result["task"] for result in results):
        members = [result for result in results if result["task"] == task]
        out.print(f"{task}, protocol {by_key[members[0]['key']].protocol}", style="bold")
        cells: dict[str, list[Run]] = {}
        for result in members:
            cells.setdefault(result["cell"], []).append(result)
        rows = [_row(cell, by_key[cell[0]["key"]]) for cell in cells.values()]
        columns = [name for name in rows[0] if any(row[name] for row in rows)]
        n_left = len({"method", "settings"}.intersection(columns))
        table = [[row[name] for name in columns] for row in rows]
        print_table(columns, table, n_left, blocks=True, out=out)
    failures = _failures(results, by_key, not_replaced)
    for line in (*failures, *_missing_metrics(results, by_key), *_notes(results, runs)):
        out.print(line)


def _row(cell: list[Run], run: NewRun) -> dict[str, str]:
    description = run.description
    statuses = Counter(
        f"{member['status']} ({member['outcome'].replace('hit', 'cached')})" for member in cell
    )
    status = ", ".join(f"{count}/{len(cell)} {name}" for name, count in statuses.items())
    return {
        "method": description.method,
        "settings": settings_text(description.settings or {}),
        "seeds": str(len(cell)),
        "status": next(iter(statuses)) if len(statuses) == 1 else status,
        **{name: _mean(cell, name, run.spec.eval_particles) for name in description.headline},
        "time": duration(max(member["wall_s"] for member in cell)),
    }


def _mean(cell: list[Run], name: str, n_draws: int) -> str:
    """Return the mean over seeds with its standard error; of one seed, the estimate's own."""
    values = [float(member["metrics"][name]) for member in cell if name in member["metrics"]]
    if not values:
        return "-"
    if name in IMPORTANCE_ESTIMATES and any(_why_one_sided(run, n_draws) for run in cell):
        return (
            f"{IMPORTANCE_ESTIMATES[name]} {number(math.fsum(values) / len(values))} [{FOOTNOTE}]"
        )
    if len(values) == 1:
        return number(values[0], cell[0]["standard_errors"].get(name))
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return number(mean, math.sqrt(variance / len(values)))


def _why_one_sided(run: Run, n_draws: int) -> str | None:
    """Why the importance-sampling estimates of a run are bounds only."""
    metrics = {name: float(value) for name, value in run["metrics"].items()}
    return why_one_sided("nll", metrics, n_draws) if metrics else None


def _failures(
    results: Sequence[Run], by_key: Mapping[str, NewRun], not_replaced: Mapping[str, str]
) -> Iterator[str]:
    """Yield a line for each of the first runs that are not done, and one for the others."""
    failures = [run for run in results if run["status"] != "done" or run["key"] in not_replaced]
    for run in failures[:MOST_FAILURES]:
        description = by_key[run["key"]].description
        name = f"{description.method} {settings_text(description.settings or {})}".strip()
        status, reason = run["status"], reason_and_place(run["reason"], run["traceback"])
        if run["key"] in not_replaced:
            status, reason = f"rerun failed, {status} as before", not_replaced[run["key"]]
        yield f"{run['key']} {name} on {run['task']}, seed {run['seed']}, {status}: {reason}"
    if (n_more := len(failures) - MOST_FAILURES) > 0:
        yield f"and {plural(n_more, 'more run')} that ended so: bench list runs"


def _missing_metrics(results: Sequence[Run], by_key: Mapping[str, NewRun]) -> Iterator[str]:
    """Yield a line for each headline metric that no finished run of its task has."""
    tasks: dict[str, list[Run]] = {}
    for run in results:
        if run["status"] == "done":
            tasks.setdefault(run["task"], []).append(run)
    for task, done in tasks.items():
        for name in by_key[done[0]["key"]].description.headline:
            if not any(name in run["metrics"] for run in done):
                source = "oracle()" if name in GAPS else "metrics() or posterior_metrics()"
                yield f"{name}: in the headline of {task}, but its {source} did not give it."


def _notes(results: Sequence[Run], runs: Sequence[NewRun]) -> Iterator[str]:
    """Yield what a reader of the tables must know, and where to look next."""

    def share(name: str, limit: float) -> str:
        """Say in how many runs a metric is above a limit; nothing where it is in none."""
        n = sum(float(run["metrics"].get(name, 0.0)) > limit for run in results)
        return f"{n} of {len(results)} runs" if n else ""

    infos = {
        name: run.description.metric_info.get(name) or metric_by_name(name)
        for run in runs
        for name in run.description.headline
    }
    described = {name: info.description for name, info in infos.items() if info.description}
    if results and described:
        texts = (f"{name}: {text}" for name, text in described.items())
        yield f"{'; '.join(texts)}; ± one standard error."
    if limited := share("travel_used", TRAVEL_LIMIT):
        yield (
            f"{limited} used over {TRAVEL_LIMIT:.0%} of the distance that their learning "
            "rate and steps allow: give them more steps."
        )
    if rising := share("bound_trend_z", RISING_Z):
        yield f"{rising} were still improving at the end (bound_trend_z above {RISING_Z:.0f})."
    n_draws = {run.spec.key: run.spec.eval_particles for run in runs}
    reasons = (_why_one_sided(run, n_draws[run["key"]]) for run in results)
    doubtful = list(filter(None, reasons))
    if doubtful and infos.keys() & IMPORTANCE_ESTIMATES.keys():
        yield (
            f"[{FOOTNOTE}] A bound in expectation, without an interval: {doubtful[0]} in "
            f"{len(doubtful)} of {len(results)} runs."
        )
    if results:
        yield (
            f"Next: bench show {results[0]['key']} · bench list runs "
            "· bench ui (curves and checkpoints in MLflow)"
        )
