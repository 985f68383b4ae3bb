"""What is stored of each metric, and what it means to the tasks that were run."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable
from functools import cache, cached_property
from pathlib import Path

from harness.base.metrics import HARNESS_METRICS, Metric, metric_by_name
from harness.base.spec import canonical_json
from harness.store import CellRow, ResultStore, StoredScore, newest


class MetricCache:
    """The metrics of a database, each read once; without a database there are none."""

    def __init__(self, store: ResultStore | None) -> None:
        self._store = store
        self._own: dict[str, dict[str, float]] = {}
        self._values: dict[tuple[str, int | None], dict[str, float]] = {}
        self._later: dict[tuple[str, int | None], dict[str, StoredScore]] = {}

    @cached_property
    def names(self) -> list[str]:
        """The names of all stored metrics, sorted."""
        if self._store is None:
            return []
        names = {*self._store.scores.metric_names(), *self._store.evaluations.metric_names()}
        return sorted(names)

    def values(self, name: str, particles: int | None = None) -> dict[str, float]:
        """Return a metric by run, of all runs that have it: their own, else what was computed from
        them later; with `particles`, what was computed later with so many.
        """
        if self._store is None or name not in self.names:
            return {}
        address = name, particles
        if address not in self._values:
            own = self.own(name) if particles is None else {}
            later = self.computed_later(*address)
            values = {key: score.estimate.value for key, score in later.items()}
            self._values[address] = values | own if values else own
        return self._values[address]

    def own(self, name: str) -> dict[str, float]:
        """Return a metric by run, of the runs that had it when they ended."""
        if self._store is not None and name not in self._own:
            self._own[name] = self._store.scores.metric(name)
        return self._own.get(name, {})

    def computed_later(self, name: str, particles: int | None = None) -> dict[str, StoredScore]:
        """Return what the newest version of the estimator computed from stored runs, by run: as
        their own protocols say, or with so many `particles`.
        """
        if self._store is None:
            return {}
        if (name, particles) not in self._later:
            settings = canonical_json({} if particles is None else {"eval_particles": particles})
            scores = newest(self._store.evaluations.of(None, name))
            self._later[name, particles] = {
                score.run: score for score in scores if score.evaluation.settings == settings
            }
        return self._later[name, particles]


def declared_metric(cell: CellRow, name: str) -> Metric | None:
    """Return what a metric means to the task of a cell; None where the task does not say.

    Earlier releases did not store it with a run; `studies/earlier-metrics.json` has what their own
    tasks meant.
    """
    if name in HARNESS_METRICS:
        return HARNESS_METRICS[name]
    stored = cell.description.metric_info
    if not stored and cell.task_source is None:
        return _earlier_metrics().get(name)
    return stored.get(name)


@cache
def _earlier_metrics() -> dict[str, Metric]:
    package = importlib.util.find_spec("harness.studies")
    assert package is not None
    folder = Path(next(iter(package.submodule_search_locations or ())))
    values = json.loads((folder / "earlier-metrics.json").read_text(encoding="utf-8"))
    return {name: Metric(*fields) for name, fields in values.items()}


def one_cell_a_task(cells: Iterable[CellRow]) -> list[CellRow]:
    """Pick a cell of each task, of those that say what their metrics mean where there are any."""
    picked: dict[tuple[str, str | None], CellRow] = {}
    for cell in cells:
        task = cell.task, cell.task_source
        if task not in picked or not picked[task].description.metric_info:
            picked[task] = cell
    return list(picked.values())


def metric_info(name: str, cells: Iterable[CellRow]) -> Metric:
    """Return what a metric means to the first of these cells whose task says it, else to all."""
    declared = (declared_metric(cell, name) for cell in cells)
    return next(filter(None, declared), None) or metric_by_name(name)
