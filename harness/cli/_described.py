"""Stored results as plain values: one dict a run, as `--json` prints it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.base.spec import plain_number
from harness.store import Metric, ResultStore, RunRow


def described(
    row: RunRow, metrics: dict[str, Metric], outcome: str | None = None
) -> dict[str, Any]:
    """A run as one flat dict. `wall_s` is seconds; a metric that is not finite is the text nan, inf
    or -inf.
    """
    shown = {
        "key": row.key,
        "cell": row.cell,
        "method": row.method,
        "task": row.task_label,
        "settings": row.settings,
        "seed": row.seed,
        "status": row.status.value,
        "outcome": outcome,
        "reason": row.reason,
        "traceback": row.traceback,
        "step": row.step,
        "metrics": {name: plain_number(metric.value) for name, metric in sorted(metrics.items())},
        "standard_errors": {
            name: plain_number(metric.se)
            for name, metric in sorted(metrics.items())
            if metric.se is not None
        },
        "wall_s": round(row.wall_s, 3),
        "mlflow_run_id": row.mlflow_run_id,
    }
    return shown if outcome else {name: value for name, value in shown.items() if name != "outcome"}


def collect(
    store: ResultStore, keys: Sequence[str], outcomes: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """The stored runs of `keys`, described, in order."""
    rows, metrics = store.rows(keys), store.metrics(keys)
    return [
        described(rows[key], metrics.get(key, {}), (outcomes or {}).get(key))
        for key in keys
        if key in rows
    ]
