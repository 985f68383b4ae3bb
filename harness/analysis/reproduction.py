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

from harness.analysis.metrics import MetricCache
from harness.analysis.published import Experiment, Publication, Remark, Table
from harness.analysis.statistics import Interval, t_interval
from harness.api import ClosedForm
from harness.base.errors import UnknownName, UsageError
from harness.base.spec import NewRun, Status
from harness.plan.grid import cell_runs, parse_selector
from harness.plan.registry import find, rebuild
from harness.store import ResultStore

NEAR = 0.05
"""As a share of the published value."""
STANDARD_ERRORS = 3.0
LOST = (Status.DIVERGED, "not finite")
WITHDRAWN = "withdrawn"

RunsOf = Callable[[str], Sequence[NewRun]]


@dataclass(frozen=True)
class ReplicateMean:
    """One metric of the replicates of a cell: the mean of those that are done, of how many, and how
    many ended how.

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
        """Say how many there are, and how the others ended: `2 of 3, 1 diverged`."""
        endings = (*LOST, Status.FAILED, Status.TIMEOUT, Status.PRUNED, WITHDRAWN, "without")
        ended = [f"{self.counts[name]} {name}" for name in endings if self.counts.get(name)]
        return ", ".join([f"{self.interval.n} of {self.of}", *ended])

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it; null where nothing is known."""
        mean, se = self.interval.mean, self.interval.se
        return {
            "mean": None if math.isnan(mean) else mean,
            "se": None if math.isnan(se) else se,
            "n": self.interval.n,
            "of": self.of,
            "counts": self.counts,
            "keys": list(self.keys),
        }


class ReproductionRuns:
    """The runs of a study by method and task, each looked up once."""

    def __init__(self, runs: Sequence[NewRun]) -> None:
        self._runs = runs
        self._settings = cache(parse_selector)  # a plugin is looked up in all files
        self._cells: dict[tuple[str, str], list[NewRun]] = {}
        self._closed_forms: dict[str, dict[str, ClosedForm]] = {}

    def replicates(self, method: str, task: str, fields: Mapping[str, str]) -> list[NewRun]:
        """Return the replicates of the one cell with this method, this task, and these fields of
        the task, however they train.

        Raises:
            UsageError: the study has no such cell, or several.
        """
        selector = task + "".join(f"[{name}={value}]" for name, value in fields.items())
        if (method, selector) in self._cells:
            return self._cells[method, selector]
        rows, columns = self._settings("method", method), self._settings("task", selector)
        if len(rows) * len(columns) != 1:
            raise UsageError(
                f"{method} on {selector} stands for several settings. Write one value a field."
            )
        candidates = [run for run in self._runs if run.task_label == task]
        identities = [
            _identity(cell_runs(rows[0], columns[0], [0], protocol, {})[0])
            for protocol in {run.protocol for run in candidates}
        ]
        replicates = [run for run in candidates if _identity(run) in identities]
        n_cells = len({run.spec.cell for run in replicates})
        if n_cells != 1:
            raise UsageError(
                f"{method} on {selector} matches {n_cells or 'none'} of the study's cells, not one."
                " Write the fields that distinguish it."
            )
        self._cells[method, selector] = replicates
        return replicates

    def closed_form(self, run: NewRun, name: str) -> ClosedForm:
        """Return what calculation says for a run's task.

        Raises:
            UnknownName: the task has no such closed form.
        """
        if run.task_label not in self._closed_forms:
            task = rebuild(find("task", run.spec.task).cls, run.spec.task, run.spec.task_fields)
            self._closed_forms[run.task_label] = task.closed_forms()
        forms = self._closed_forms[run.task_label]
        if name not in forms:
            raise UnknownName("closed form", name, forms)
        return forms[name]


def _identity(run: NewRun) -> tuple[Any, ...]:
    return run.spec.method, run.spec.method_fields, run.spec.task, run.spec.task_fields


class StoredMeans:
    """The means that a result database holds; without a database every run is missing."""

    def __init__(self, store: ResultStore | None) -> None:
        self._store = store
        self._metrics = MetricCache(store)
        self._withdrawn = {} if store is None else store.retractions.reasons()

    def mean(self, runs: Sequence[NewRun], metric: str) -> ReplicateMean:
        """Return the mean of one metric over these replicates."""
        keys = tuple(run.spec.key for run in runs)
        statuses = {} if self._store is None else self._store.statuses(keys)
        values = self._metrics.values(metric)

        def state(key: str) -> str:
            if key in self._withdrawn:
                return WITHDRAWN
            if key not in statuses:
                return "missing"
            if statuses[key].status != Status.DONE:
                return statuses[key].status.value
            if key not in values:
                return "without"
            return Status.DONE.value if math.isfinite(values[key]) else "not finite"

        states = {key: state(key) for key in keys}
        done = [values[key] for key in keys if states[key] == Status.DONE]
        return ReplicateMean(t_interval(done), len(keys), dict(Counter(states.values())), keys)


class Verdict(StrEnum):
    """The verdict on a published value."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    NOT_COMPARABLE = "not comparable"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class ClosedFormValue:
    """The value of a closed form for one task, and where it comes from."""

    name: str
    value: float
    description: str


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
        if self.ours is None or not self.ours.interval.n or not self.published:
            return None
        return self.ours.interval.mean / self.published - 1

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it; null where nothing is known."""
        fields = vars(self) | {"difference": self.difference, "fails": self.fails}
        for name, value in fields.items():
            if isinstance(value, ReplicateMean):
                fields[name] = value.plain()
            elif isinstance(value, ClosedFormValue):
                fields[name] = {"name": value.name, "value": value.value}
        return fields


def judge(
    store: ResultStore | None,
    publication: Publication,
    runs_of: RunsOf,
    tasks: Collection[str] | None = None,
) -> list[Judgement]:
    """Judge every published value of a source, of some tasks or of all, in the file's order.
    `runs_of` gives the runs of a shipped study by its name.

    Raises:
        UsageError: the source names runs that its study does not have.
    """
    means = StoredMeans(store)
    judgements: list[Judgement] = []
    for experiment in publication.experiments:
        runs: ReproductionRuns | None = None
        for table, label, task, value in _published_values(experiment, tasks):
            row = experiment.rows[label]
            remark = table.remarks.get(label, {}).get(task, Remark())
            judgement = Judgement(
                publication.name,
                experiment.name,
                table.metric,
                label,
                task,
                row.setting,
                row.source,
                value,
                None,
                Verdict.NOT_COMPARABLE,
                experiment.because or remark.because or "",
                remark.not_expected,
            )
            if experiment.study is not None and row.method is not None:
                runs = runs or ReproductionRuns(runs_of(experiment.study))
                judgement = _compared(means, runs, experiment, table, judgement)
            judgements.append(judgement)
    return judgements


def _published_values(
    experiment: Experiment, tasks: Collection[str] | None
) -> Iterator[tuple[Table, str, str, float]]:
    """Every published value with its table, its row and its task."""
    for table in experiment.tables:
        for label, values in table.values.items():
            for task, value in zip(experiment.tasks, values, strict=True):
                if value is not None and (tasks is None or task in tasks):
                    yield table, label, task, value


def _compared(
    means: StoredMeans,
    runs: ReproductionRuns,
    experiment: Experiment,
    table: Table,
    judgement: Judgement,
) -> Judgement:
    """Hold our runs against a published value, unless a reason says that it cannot be compared."""
    row, task = experiment.rows[judgement.row], judgement.task
    method, n_datasets = row.method or "", experiment.n_datasets or 1
    replicates = runs.replicates(method, task, row.task)

    def closed_form(names: Mapping[str, str]) -> ClosedFormValue | None:
        name = names.get(judgement.row, table.data_dependent)
        if name is None:
            return None
        form = runs.closed_form(replicates[0], name)
        return ClosedFormValue(name, form.value, form.description)

    ours = means.mean(replicates, table.metric)
    judgement = replace(judgement, ours=ours, closed_form=closed_form(table.explained_by))
    if not judgement.reason:
        band = None
        if table.data_dependent:
            form = runs.closed_form(replicates[0], table.data_dependent)
            if form.deviation is None:
                raise UsageError(
                    f"The closed form '{table.data_dependent}' has no deviation over data sets, so "
                    "it cannot stand in data_dependent."
                )
            half = STANDARD_ERRORS * form.deviation / math.sqrt(n_datasets)
            band = form.value - half, form.value + half
        verdict, reason = settle(judgement.published, ours, n_datasets, band)
        judgement = replace(judgement, verdict=verdict, reason=reason)
    if not row.corrected_by:
        return judgement
    replicates = runs.replicates(method, task, row.task | row.corrected_by)
    return replace(
        judgement,
        corrected=means.mean(replicates, table.metric),
        corrected_closed_form=closed_form(table.corrected_explained_by),
    )


def settle(
    published: float, ours: ReplicateMean, n_datasets: int, band: tuple[float, float] | None = None
) -> tuple[Verdict, str]:
    """Return the verdict on a comparable value, the mean of `n_datasets` data sets, and why.

    `band` is where means of so many data sets lie, for a metric that follows the data set.
    """
    mean = ours.interval.mean
    if ours.lost:
        return Verdict.NOT_REPRODUCED, f"{ours.standing()}, which is a result too."
    if not ours.is_whole:
        return Verdict.NOT_RUN, f"{ours.standing()} runs are done."
    if band and band[0] <= published <= band[1]:
        is_inside = band[0] <= mean <= band[1]
        return Verdict.REPRODUCED if is_inside else Verdict.NOT_REPRODUCED, (
            f"{'inside' if is_inside else 'outside'} {band[0]:.4g} to {band[1]:.4g}, "
            "where data sets put it and the published value is."
        )
    distance, n = abs(mean - published), ours.interval.n
    # NaN for a single run, and for equal ones, which show no spread
    combined = ours.interval.se * math.sqrt(n) * math.sqrt(1 / n + 1 / n_datasets) or math.nan
    errors = distance / combined if distance else 0.0
    is_near = distance <= NEAR * abs(published) or errors <= STANDARD_ERRORS
    reason = f"{distance / abs(published):.2%} off" if published else f"{distance:.4g} off"
    reason += "." if math.isnan(errors) else f", {errors:.2g} standard errors."
    return Verdict.REPRODUCED if is_near else Verdict.NOT_REPRODUCED, reason
