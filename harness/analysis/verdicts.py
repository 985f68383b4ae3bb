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
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from harness.analysis.closed_forms import FORMS
from harness.analysis.ours import Mean, Ours, Results
from harness.analysis.references import Experiment, Remark, Source, Table
from harness.base.spec import NewRun
from harness.store import ResultStore

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
class Form:
    """What a closed form gives for one task."""

    name: str
    value: float


@dataclass(frozen=True)
class Judged:
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
    ours: Mean | None
    verdict: Verdict
    reason: str
    not_expected: str | None = None
    closed_form: Form | None = None
    corrected: Mean | None = None
    corrected_closed_form: Form | None = None

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
            name: value for name, value in vars(self).items() if not isinstance(value, Mean | Form)
        }
        means = {
            name: value.plain() if value else None
            for name, value in (("ours", self.ours), ("corrected", self.corrected))
        }
        forms = {
            name: vars(form) if (form := getattr(self, name)) else None
            for name in ("closed_form", "corrected_closed_form")
        }
        return {**shown, **means, **forms, "difference": self.difference, "fails": self.fails}


def judge(
    store: ResultStore | None, source: Source, runs_of: RunsOf, tasks: Collection[str] | None = None
) -> list[Judged]:
    """The verdict on every published value of a source, in the file's order.

    Args:
        store: our results; None where there are none.
        source: what `harness.analysis.references.load` returns.
        runs_of: the runs of a shipped study by its name: `harness.plan.studies.runs_of`.
        tasks: the tasks to look at; None: all of them.

    Raises:
        UsageError: the source names runs that its study does not have.
    """
    results = Results(store)
    return [
        judged
        for experiment in source.experiments
        for judged in _experiment(results, source.name, experiment, runs_of, tasks)
    ]


def settle(
    published: float, ours: Mean, n_datasets: int, band: tuple[float, float] | None = None
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


def _combined(ours: Mean, n_datasets: int) -> float:
    r"""$s \sqrt{1/n + 1/m}$; NaN for a single run, which says nothing of the spread."""
    n, se = ours.interval.n, ours.interval.se
    combined = se * math.sqrt(n) * math.sqrt(1 / n + 1 / n_datasets)
    return combined or math.nan  # equal runs say nothing of it either


def _experiment(
    results: Results,
    source: str,
    experiment: Experiment,
    runs_of: RunsOf,
    tasks: Collection[str] | None,
) -> Iterator[Judged]:
    if tasks is not None and set(tasks).isdisjoint(experiment.tasks):
        return  # a study's plugins are asked only where something may come of it
    ours = Ours(runs_of(experiment.study)) if experiment.study and experiment.tables else None
    for table in experiment.tables:
        for label, values in table.values.items():
            for task, value in zip(experiment.tasks, values, strict=True):
                if value is not None and (tasks is None or task in tasks):
                    yield _judged(results, ours, source, experiment, table, label, task, value)


def _judged(
    results: Results,
    ours: Ours | None,
    source: str,
    experiment: Experiment,
    table: Table,
    label: str,
    task: str,
    value: float,
) -> Judged:
    """One value."""
    row = experiment.rows[label]
    remark = table.remarks.get(label, {}).get(task, Remark())
    said = Judged(
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


def _form(name: str | None, ours: Ours, run: NewRun) -> Form | None:
    return None if name is None else Form(name, FORMS[name].value(*ours.truth(run)))


def _band(name: str | None, ours: Ours, run: NewRun, n_datasets: int) -> tuple[float, float] | None:
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
