"""Tuning studies: how trials are chosen, and the searches, one for each method on each task, that
they stand for.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from harness.base.errors import UsageError
from harness.base.spec import NewRun, digest
from harness.plan.grid import Setting, cell_runs, parse_seeds, parse_selector
from harness.plan.studies import Study
from harness.plan.tune_options import Tune
from harness.store import CODE
from harness.tuning.record import Plugin, Record, Spec
from harness.tuning.space import Column, Dimension, space

MAY_TUNE_ON = {True: ("elbo",), False: ("validation_elbo",)}
"""Scores that see neither the truth nor test data, for tasks whose replicates stack and for others.
"""


@dataclass(frozen=True)
class Search:
    """One method on one task: what a trial is."""

    study: str
    tune: Tune
    sets: dict[str, Any]
    column: Column
    space: list[Dimension]
    seeds: list[int]
    report_seeds: list[int]
    metric: str
    _runs: dict[str, list[NewRun]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def method(self) -> str:
        """The method's label: hvae-untempered."""
        return self._default[0].description.method

    @property
    def task(self) -> str:
        """The task's label: gaussian-100."""
        return self._default[0].task_label

    @property
    def name(self) -> str:
        """The name under which its trials are kept."""
        settings = ",".join(f"{name}={value}" for name, value in self.column.method.values.items())
        return f"{self.study}/{self.column.method.found.name}{f'[{settings}]' if settings else ''}/{self.task}"

    @property
    def _default(self) -> list[NewRun]:
        return self.runs({}, self.report_seeds)

    def runs(self, params: dict[str, Any], seeds: list[int]) -> list[NewRun]:
        """The runs of a setting, one for each seed."""
        column, name = self.column, repr((sorted(params.items()), seeds))
        if name not in self._runs:
            self._runs[name] = cell_runs(
                column.method, column.task, seeds, column.protocol, {**column.shared, **params}
            )
        return self._runs[name]

    def keys(self, params: dict[str, Any], seeds: list[int]) -> list[str]:
        """The keys of those runs."""
        return [run.spec.key for run in self.runs(params, seeds)]

    def spec(self, params: dict[str, Any]) -> Spec:
        """What a setting is: the spec of its runs, without the seed."""
        return {
            name: value
            for name, value in self.runs(params, self.seeds[:1])[0].spec.plain().items()
            if name != "seed"
        }

    def record(self, total: int) -> Record:
        """What is stored of it for those who only read; `total` is the number of its trials."""
        column, values = self.column, self.column.values()
        return Record(
            study=self.study,
            name=self.name,
            method=self.method,
            task=self.task,
            plugins=(_plugin(column.method), _plugin(column.task)),
            protocol=column.protocol,
            settings=column.settings,
            space=tuple(self.space),
            seeds=self.seeds,
            report_seeds=self.report_seeds,
            metric=self.metric,
            direction=self.tune.direction,
            total=total,
            together=self._default[0].description.stacks and self.tune.pruner != "wilcoxon",
            default={dimension.address: values[dimension.address] for dimension in self.space},
            default_spec=self.spec({}),
        )

    @property
    def steps(self) -> int:
        """Training steps of a run."""
        return self._default[0].spec.steps

    def definition(self) -> dict[str, Any]:
        """What must stay the same from the first trial to the last: all but the number of trials
        and the seeds to report.
        """
        tuned = {dimension.address for dimension in self.space}
        spec = self._default[0].spec
        return {
            "method": f"{spec.method}, version {spec.method_version}{_code(spec.method_source)}",
            "task": f"{spec.task}, version {spec.task_version}{_code(spec.task_source)}",
            **{
                f"set.{address}": value
                for address, value in self.column.values().items()
                if address not in tuned
            },
            **{f"space.{dimension.address}": dimension.plain() for dimension in self.space},
            **({"trials": self.tune.trials} if self.tune.sampler == "grid" else {}),
            "seeds": self.seeds,
            "metric": self.metric,
            "direction": self.tune.direction,
            "sampler": self.tune.sampler,
            "pruner": self.tune.pruner,
            "sampler_seed": self.tune.sampler_seed,
        }


def _plugin(setting: Setting) -> Plugin:
    return Plugin(name=setting.found.name, fields=setting.found.fields, values=setting.values)


def _code(source: str | None) -> str:
    """Which code it is, of a plugin that is not installed."""
    return f", code {source[:CODE]}" if source else ""


def searches(tune: Tune, study: str, sets: dict[str, Any] | None = None) -> list[Search]:
    """One search for each method, with each of its settings, on each task.

    Raises:
        UsageError: something in it is not allowed.
    """
    methods = [setting for text in tune.methods for setting in parse_selector("method", text)]
    tasks = [setting for text in tune.tasks for setting in parse_selector("task", text)]
    return [
        _search(tune, study, method, task, sets or {})
        for task, method in itertools.product(tasks, methods)
    ]


def searches_of(
    study: Study, sets: dict[str, Any] | None = None, trials: int | None = None
) -> list[Search]:
    """The searches of a study file; `sets` wins over the file, and `trials` over its number of
    them.

    Raises:
        UsageError: a name, field or value that is not allowed, with its place in the file.
    """
    tune = study.tune
    assert tune is not None
    asked = tune if trials is None else tune.model_copy(update={"trials": trials})
    return study.placed(("tune",), lambda: searches(asked, study.name, sets))


def _search(tune: Tune, study: str, method: Setting, task: Setting, sets: dict[str, Any]) -> Search:
    cls = task.found.cls
    metric = tune.metric or cls.score_to_tune
    if metric not in MAY_TUNE_ON[cls.stacks]:
        allowed = " or ".join(MAY_TUNE_ON[cls.stacks])
        raise UsageError(
            f"'{metric}' cannot be tuned on {task.found.name}: scores that see no truth and no test data are {allowed}."
        )
    seeds, report_seeds = parse_seeds(tune.seeds), parse_seeds(tune.report_seeds)
    if both := sorted(set(seeds) & set(report_seeds)):
        raise UsageError(
            f"Seed {both[0]} is tuned on and reported on. A winner must be scored on seeds that the tuner never saw."
        )
    if tune.pruner == "wilcoxon" and len(seeds) < 2:
        raise UsageError("The Wilcoxon pruner compares replicates: give two seeds or more.")
    column = Column(method, task, tune.protocol or cls.default_protocol, {**tune.settings, **sets})
    return Search(study, tune, sets, column, space(column, tune.space), seeds, report_seeds, metric)


def short_name(tune: Tune, sets: dict[str, Any]) -> str:
    """A name for a study without a file: `hvae-gaussian-25-3f2a91`, other for everything that must
    stay the same.
    """
    found = searches(tune, "", sets)
    first = found[0]
    label = (
        f"{first.column.method.found.name}-{first.task}"
        if len(found) == 1
        else f"{len(found)}-searches"
    )
    return f"{label}-{digest([search.definition() for search in found])[:6]}"
