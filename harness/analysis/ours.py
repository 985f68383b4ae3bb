"""Our runs of a published value: which of a study's runs they are, and the mean of what they gave."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from harness.analysis.statistics import Interval, t_interval
from harness.analysis.stored import StoredMetrics
from harness.base.errors import UsageError
from harness.base.spec import NewRun, Status
from harness.plan.grid import cell_runs, parse_selector
from harness.plan.registry import build, find
from harness.store import ResultStore

LOST = (Status.DIVERGED, "not finite")
WITHDRAWN = "withdrawn"


@dataclass(frozen=True)
class Mean:
    """One metric of the replicates of a cell: the mean of those that are done, of how many, and how
    many stand where.

    `counts` has every replicate once: by status, or as `missing` (not in the database),
    `withdrawn`, `not finite` or `without` the metric.
    """

    interval: Interval
    of: int
    counts: dict[str, int]
    keys: tuple[str, ...]

    @property
    def lost(self) -> int:
        """The replicates that ended without a finite value, and would again."""
        return sum(self.counts.get(name, 0) for name in LOST)

    @property
    def is_whole(self) -> bool:
        """Whether every replicate is done and has the metric."""
        return self.interval.n == self.of

    def standing(self) -> str:
        """`2 of 3, 1 diverged`: what there is, and how the others ended."""
        ended = [
            f"{self.counts[name]} {name}"
            for name in (*LOST, Status.FAILED, Status.TIMEOUT, Status.PRUNED, WITHDRAWN, "without")
            if self.counts.get(name)
        ]
        return ", ".join([f"{self.interval.n} of {self.of}", *ended])

    def plain(self) -> dict[str, Any]:
        """As JSON; null where nothing is known."""
        numbers = {"mean": self.interval.mean, "se": self.interval.se}
        shown = {name: None if math.isnan(value) else value for name, value in numbers.items()}
        return {
            **shown,
            "n": self.interval.n,
            "of": self.of,
            "counts": self.counts,
            "keys": list(self.keys),
        }


class Ours:
    """The runs of a study, asked for by method and task. What is asked for again is not looked up
    again.
    """

    def __init__(self, runs: Sequence[NewRun]) -> None:
        self._runs = runs
        self._settings = cache(parse_selector)  # a plugin is looked up in all files
        self._cells: dict[tuple[str, str], list[NewRun]] = {}
        self._truths: dict[str, tuple[list[float], int]] = {}

    def like(self, method: str, task: str, fields: Mapping[str, str]) -> list[NewRun]:
        """The replicates of the one cell with this method, this task, and these fields of the task.

        Method and task are read as the command line reads them; how the runs train may be anything.

        Raises:
            UsageError: the study has no such cell, or several.
        """
        selector = task + "".join(f"[{name}={value}]" for name, value in fields.items())
        if (method, selector) not in self._cells:
            self._cells[method, selector] = self._found(method, task, selector)
        return self._cells[method, selector]

    def _found(self, method: str, task: str, selector: str) -> list[NewRun]:
        rows, columns = self._settings("method", method), self._settings("task", selector)
        if len(rows) * len(columns) != 1:
            raise UsageError(
                f"{method} on {selector} stands for several settings. Write one value a field."
            )
        runs = [run for run in self._runs if run.task_label == task]
        protocols = {run.protocol for run in runs}
        wanted = [
            _identity(cell_runs(rows[0], columns[0], [0], protocol, {})[0])
            for protocol in protocols
        ]
        found = [run for run in runs if _identity(run) in wanted]
        cells = len({run.spec.cell for run in found})
        if cells != 1:
            raise UsageError(
                f"{method} on {selector} is {cells or 'none'} of the study's cells, not one. Write the fields that tell it apart."
            )
        return found

    def truth(self, run: NewRun) -> tuple[list[float], int]:
        """The true sigma of a run's task, and the points of a data set."""
        if run.task_label not in self._truths:
            task: Any = build(find("task", run.spec.task).cls, run.spec.task, run.spec.task_fields)
            self._truths[run.task_label] = task.truth()[1].tolist(), task.n_data
        return self._truths[run.task_label]


def _identity(run: NewRun) -> tuple[Any, ...]:
    return run.spec.method, run.spec.method_fields, run.spec.task, run.spec.task_fields


class Results:
    """What a result database holds of a metric; without a database everything is missing."""

    def __init__(self, store: ResultStore | None) -> None:
        self._store = store
        self._metrics = StoredMetrics(store)
        self._withdrawn = {} if store is None else store.errata.reasons()

    def mean(self, runs: Sequence[NewRun], metric: str) -> Mean:
        """The mean of one metric over these replicates."""
        keys = tuple(run.spec.key for run in runs)
        standings = {} if self._store is None else self._store.standings(keys)
        values, withdrawn = self._metrics.of(metric), self._withdrawn
        states = {
            key: _state(standings[key].status, values.get(key)) if key in standings else "missing"
            for key in keys
        }
        states |= dict.fromkeys((key for key in keys if key in withdrawn), WITHDRAWN)
        done = [values[key] for key in keys if states[key] == Status.DONE]
        return Mean(t_interval(done), len(keys), dict(Counter(states.values())), keys)


def _state(status: Status, value: float | None) -> str:
    if status != Status.DONE:
        return status.value
    if value is None:
        return "without"
    return status.value if math.isfinite(value) else "not finite"
