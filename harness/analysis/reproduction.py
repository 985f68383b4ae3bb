r"""Whether our runs reproduce published values.

A value is reproduced where our mean is within 5 % of it, or within three combined standard errors,
$3 s \sqrt{1/n + 1/m}$: $s$ is the standard deviation of our $n$ data sets and stands for that of
the published $m$, which is not known.

Where a metric follows the data set, ours and the published one need not agree, as the published
data sets cannot be had. Its closed form says where the mean of $m$ data sets must lie, three
standard deviations either way. Where the published value lies there, ours must too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from typing import Any

from harness.analysis.closed_forms import FORMS
from harness.analysis.metrics import MetricCache
from harness.analysis.published import Experiment, Publication, Remark, Table
from harness.analysis.statistics import Interval, t_interval
from harness.base.errors import UsageError
from harness.base.spec import NewRun, Status
from harness.plan.grid import cell_runs, parse_selector
from harness.plan.registry import build, find
from harness.store import ResultStore

LOST = (Status.DIVERGED, "not finite")
WITHDRAWN = "withdrawn"


@dataclass(frozen=True)
class ReplicateMean:
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


class ReproductionRuns:
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


class StoredMeans:
    """What a result database holds of a metric; without a database everything is missing."""

    def __init__(self, store: ResultStore | None) -> None:
        self._store = store
        self._metrics = MetricCache(store)
        self._withdrawn = {} if store is None else store.retractions.reasons()

    def mean(self, runs: Sequence[NewRun], metric: str) -> ReplicateMean:
        """The mean of one metric over these replicates."""
        keys = tuple(run.spec.key for run in runs)
        standings = {} if self._store is None else self._store.statuses(keys)
        values, withdrawn = self._metrics.of(metric), self._withdrawn
        states = {
            key: _state(standings[key].status, values.get(key)) if key in standings else "missing"
            for key in keys
        }
        states |= dict.fromkeys((key for key in keys if key in withdrawn), WITHDRAWN)
        done = [values[key] for key in keys if states[key] == Status.DONE]
        return ReplicateMean(t_interval(done), len(keys), dict(Counter(states.values())), keys)


def _state(status: Status, value: float | None) -> str:
    if status != Status.DONE:
        return status.value
    if value is None:
        return "without"
    return status.value if math.isfinite(value) else "not finite"


NEAR = 0.05  # of the published value
STANDARD_ERRORS = 3.0

RunsOf = Callable[[str], Sequence[NewRun]]


class Verdict(StrEnum):
    """What is to be said of a published value."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    NOT_COMPARABLE = "not comparable"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class ClosedFormValue:
    """What a closed form gives for one task."""

    name: str
    value: float
    text: str


@dataclass(frozen=True)
class Judgement:
    """A published value, our runs of it, and the verdict with its reason.

    `corrected` are our runs without what was wrong. `not_expected` says why it may fail to be
    reproduced.
    """

    source: str
    experiment: str
    metric: str
    row: str
    task: str
    setting: str | None
    quoted_from: str | None
    published: float
    ours: ReplicateMean | None
    verdict: Verdict
    reason: str
    not_expected: str | None = None
    closed_form: ClosedFormValue | None = None
    corrected: ReplicateMean | None = None
    corrected_closed_form: ClosedFormValue | None = None

    @property
    def fails(self) -> bool:
        """Whether it should have been reproduced, and was not."""
        return self.verdict is Verdict.NOT_REPRODUCED and self.not_expected is None

    @property
    def difference(self) -> float | None:
        """Ours less the published value, as a share of it; None without ours."""
        return (
            self.ours.interval.mean / self.published - 1
            if self.ours is not None and self.ours.interval.n and self.published
            else None
        )

    def plain(self) -> dict[str, Any]:
        """As JSON; null where nothing is known."""
        shown = {
            name: value
            for name, value in vars(self).items()
            if not isinstance(value, ReplicateMean | ClosedFormValue)
        }
        means = {
            name: value.plain() if value else None
            for name, value in (("ours", self.ours), ("corrected", self.corrected))
        }
        forms = {
            name: {"name": form.name, "value": form.value}
            if (form := getattr(self, name))
            else None
            for name in ("closed_form", "corrected_closed_form")
        }
        return {**shown, **means, **forms, "difference": self.difference, "fails": self.fails}


def judge(
    store: ResultStore | None,
    source: Publication,
    runs_of: RunsOf,
    tasks: Collection[str] | None = None,
) -> list[Judgement]:
    """The verdict on every published value of a source, in the file's order.

    Args:
        store: our results; None where there are none.
        source: what `harness.analysis.published.load` returns.
        runs_of: the runs of a shipped study by its name: `harness.plan.studies.runs_of`.
        tasks: the tasks to look at; None: all of them.

    Raises:
        UsageError: the source names runs that its study does not have.
    """
    results = StoredMeans(store)
    return [
        judged
        for experiment in source.experiments
        for judged in _experiment(results, source.name, experiment, runs_of, tasks)
    ]


def settle(
    published: float, ours: ReplicateMean, n_datasets: int, band: tuple[float, float] | None = None
) -> tuple[Verdict, str]:
    """The verdict on a comparable value, and why.

    Args:
        published: the mean of `n_datasets` data sets.
        ours: that of ours.
        band: where means of so many data sets lie, for a metric that follows the data set.
    """
    mean = ours.interval.mean
    if ours.lost:
        return Verdict.NOT_REPRODUCED, f"{ours.standing()}, which is a result too."
    if not ours.is_whole:
        return Verdict.NOT_RUN, f"{ours.standing()} runs are done."
    if band and band[0] <= published <= band[1]:
        inside = band[0] <= mean <= band[1]
        said = f"{'inside' if inside else 'outside'} {band[0]:.4g} to {band[1]:.4g}, where data sets put it and the published value is."
        return (Verdict.REPRODUCED if inside else Verdict.NOT_REPRODUCED), said
    off = abs(mean - published)
    errors = off / _combined(ours, n_datasets) if off else 0.0
    near = off <= NEAR * abs(published)
    said = f"{off / abs(published):.2%} off" if published else f"{off:.4g} off"
    said += "." if math.isnan(errors) else f", {errors:.2g} standard errors."
    return (
        Verdict.REPRODUCED if near or errors <= STANDARD_ERRORS else Verdict.NOT_REPRODUCED
    ), said


def _combined(ours: ReplicateMean, n_datasets: int) -> float:
    r"""$s \sqrt{1/n + 1/m}$; NaN for a single run, which says nothing of the spread."""
    n, se = ours.interval.n, ours.interval.se
    combined = se * math.sqrt(n) * math.sqrt(1 / n + 1 / n_datasets)
    return combined or math.nan  # equal runs say nothing of it either


def _experiment(
    results: StoredMeans,
    source: str,
    experiment: Experiment,
    runs_of: RunsOf,
    tasks: Collection[str] | None,
) -> Iterator[Judgement]:
    if tasks is not None and set(tasks).isdisjoint(experiment.tasks):
        return  # a study's plugins are asked only where something may come of it
    ours = (
        ReproductionRuns(runs_of(experiment.study))
        if experiment.study and experiment.tables
        else None
    )
    for table in experiment.tables:
        for label, values in table.values.items():
            for task, value in zip(experiment.tasks, values, strict=True):
                if value is not None and (tasks is None or task in tasks):
                    yield _judged(results, ours, source, experiment, table, label, task, value)


def _judged(
    results: StoredMeans,
    ours: ReproductionRuns | None,
    source: str,
    experiment: Experiment,
    table: Table,
    label: str,
    task: str,
    value: float,
) -> Judgement:
    """One value."""
    row = experiment.rows[label]
    remark = table.remarks.get(label, {}).get(task, Remark())
    said = Judgement(
        source, experiment.name, table.metric, label, task, row.setting, row.source, value, None,
        Verdict.NOT_COMPARABLE, experiment.because or remark.because or "", remark.not_expected,
    )  # fmt: skip
    if ours is None or row.method is None:
        return said
    runs, n_datasets = ours.like(row.method, task, row.task), experiment.n_datasets or 1
    mean = results.mean(runs, table.metric)
    if not said.reason:
        verdict, reason = settle(
            value, mean, n_datasets, _band(table.data_dependent, ours, runs[0], n_datasets)
        )
        said = replace(said, verdict=verdict, reason=reason)
    said = replace(
        said,
        ours=mean,
        closed_form=_form(table.explained_by.get(label, table.data_dependent), ours, runs[0]),
    )
    if not row.corrected_by:
        return said
    corrected = results.mean(ours.like(row.method, task, row.task | row.corrected_by), table.metric)
    form = _form(table.corrected_explained_by.get(label, table.data_dependent), ours, runs[0])
    return replace(said, corrected=corrected, corrected_closed_form=form)


def _form(name: str | None, ours: ReproductionRuns, run: NewRun) -> ClosedFormValue | None:
    return (
        None
        if name is None
        else ClosedFormValue(name, FORMS[name].value(*ours.truth(run)), FORMS[name].text)
    )


def _band(
    name: str | None, ours: ReproductionRuns, run: NewRun, n_datasets: int
) -> tuple[float, float] | None:
    """Where means of so many data sets lie, three standard deviations either way."""
    deviation = FORMS[name].deviation if name else None
    if name is None or deviation is None:
        return None
    sigma, n_data = ours.truth(run)
    middle, half = (
        FORMS[name].value(sigma, n_data),
        STANDARD_ERRORS * deviation(sigma, n_data) / math.sqrt(n_datasets),
    )
    return middle - half, middle + half
