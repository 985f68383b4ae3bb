"""What a tuning study searches: one search for each method on each task, how its trials are run,
and what is stored of it for those who only read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.base.errors import UsageError
from harness.base.spec import NewRun, Protocol, digest, former_values
from harness.plan.grid import Setting, cell_runs, parse_seeds, parse_selector
from harness.plan.studies import Study
from harness.plan.tune_options import Tune
from harness.store import CODE_DIGITS
from harness.tuning.space import Column, Dimension, space

Spec = dict[str, Any]
"""A run's spec without its seed: what a setting is."""

MAY_TUNE_ON = {True: ("elbo",), False: ("validation_elbo",)}
"""Metrics that see neither the truth nor test data, for tasks whose replicates stack and for
others.
"""
REDUCTION, RUNGS = 3, 2
"""A pruner of training looks after a ninth and a third of the steps."""
ADDED_LATER = {
    name: value
    for name, value in former_values(Protocol).items()
    if name not in ("validate_every", "patience")  # which every definition has
}
"""Fields of the protocol that definitions of earlier releases lack, with the values they had."""


class Plugin(BaseModel):
    """A method or a task as a selector names it; `fields` are those of its variant."""

    model_config = ConfigDict(frozen=True)

    name: str
    fields: dict[str, Any]
    values: dict[str, Any]


class SearchRecord(BaseModel):
    """One method on one task, as last asked for: to be read without any plugin.

    `settings` are what all trials share beyond the protocol, `default` the untuned values of the
    tuned fields; `together`: the replicates of a trial train as one program.
    """

    model_config = ConfigDict(frozen=True)

    study: str
    name: str
    method: str
    task: str
    plugins: tuple[Plugin, Plugin]
    protocol: str
    settings: dict[str, Any]
    space: tuple[Dimension, ...]
    seeds: list[int]
    report_seeds: list[int]
    metric: str
    direction: str
    total: int
    together: bool
    default: dict[str, Any]
    default_spec: Spec

    @classmethod
    def parse(cls, values: Any, name: str) -> SearchRecord:
        """Read the record that an Optuna study holds.

        Raises:
            UsageError: bench cannot have written it.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as err:
            raise UsageError(
                f"The stored record of the search '{name}' is not in bench's format. "
                "It stays as it is."
            ) from err


def run_keys(spec: Spec, seeds: Sequence[int]) -> list[str]:
    """Return the keys of a setting's runs, one for each seed."""
    return [digest(spec | {"seed": seed}) for seed in seeds]


@dataclass(frozen=True)
class Search:
    """One method on one task: what a trial is."""

    study: str
    tune: Tune
    column: Column
    space: list[Dimension]
    seeds: list[int]
    report_seeds: list[int]
    metric: str
    _runs: dict[str, list[NewRun]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def method(self) -> str:
        """The method's label: hvae-untempered."""
        return self._default.description.method

    @property
    def task(self) -> str:
        """The task's label: gaussian-100."""
        return self._default.task_label

    @property
    def name(self) -> str:
        """The name of its Optuna study."""
        values = ",".join(f"{name}={value}" for name, value in self.column.method.values.items())
        method = self.column.method.plugin.name + (f"[{values}]" if values else "")
        return f"{self.study}/{method}/{self.task}"

    @property
    def steps(self) -> int:
        """Training steps of a run."""
        return self._default.spec.steps

    @property
    def _default(self) -> NewRun:
        return self.runs({}, self.report_seeds)[0]

    def runs(self, params: dict[str, Any], seeds: list[int]) -> list[NewRun]:
        """Return the runs of a setting, one for each seed."""
        column, name = self.column, repr((sorted(params.items()), seeds))
        if name not in self._runs:
            sets = {**column.shared, **params}
            self._runs[name] = cell_runs(column.method, column.task, seeds, column.protocol, sets)
        return self._runs[name]

    def keys(self, params: dict[str, Any], seeds: list[int]) -> list[str]:
        """Return the keys of those runs."""
        return [run.spec.key for run in self.runs(params, seeds)]

    def spec(self, params: dict[str, Any]) -> Spec:
        """Return the spec of a setting's runs without the seed."""
        values = self.runs(params, self.seeds[:1])[0].spec.plain()
        return {name: value for name, value in values.items() if name != "seed"}

    def grid(self) -> dict[str, list[Any]]:
        """Return the values of each dimension on a grid: all choices, and as many points of each
        range as the number of trials allows, two at least.
        """
        n_ranges = sum(not dimension.choices for dimension in self.space)
        n_choices = math.prod(len(dimension.choices) or 1 for dimension in self.space)
        points = int((self.tune.trials / n_choices) ** (1 / max(n_ranges, 1)) + 1e-9)
        return {dimension.address: dimension.points(max(2, points)) for dimension in self.space}

    @property
    def n_trials(self) -> int:
        """How many trials it has at most: a grid has no more than its points."""
        if self.tune.sampler != "grid":
            return self.tune.trials
        return min(self.tune.trials, math.prod(map(len, self.grid().values())))

    def rungs(self) -> list[int]:
        """Return the steps at which a pruner of training looks."""
        if self.tune.pruner not in ("median", "hyperband"):
            return []
        base = max(1, self.steps // REDUCTION**RUNGS)
        return [step for step in (base * REDUCTION**k for k in range(RUNGS)) if step < self.steps]

    def record(self) -> SearchRecord:
        """Return what is stored of it for those who only read."""
        column, values = self.column, self.column.values()
        method, task = (
            Plugin(name=setting.plugin.name, fields=setting.plugin.fields, values=setting.values)
            for setting in (column.method, column.task)
        )
        return SearchRecord(
            study=self.study,
            name=self.name,
            method=self.method,
            task=self.task,
            plugins=(method, task),
            protocol=column.protocol,
            settings=column.settings,
            space=tuple(self.space),
            seeds=self.seeds,
            report_seeds=self.report_seeds,
            metric=self.metric,
            direction=self.tune.direction,
            total=self.n_trials,
            together=self._default.description.stacks and self.tune.pruner != "wilcoxon",
            default={dimension.address: values[dimension.address] for dimension in self.space},
            default_spec=self.spec({}),
        )

    def definition(self) -> dict[str, Any]:
        """Return what must stay the same from the first trial to the last: all but the number of
        trials and the seeds to report.
        """

        def code(source: str | None) -> str:  # of a plugin that is not installed
            return f", code {source[:CODE_DIGITS]}" if source else ""

        tuned = {dimension.address for dimension in self.space}
        spec = self._default.spec
        values = {
            address: value
            for address, value in self.column.values().items()
            if address not in ADDED_LATER or ADDED_LATER[address] != value
        }
        return {
            "method": f"{spec.method}, version {spec.method_version}{code(spec.method_source)}",
            "task": f"{spec.task}, version {spec.task_version}{code(spec.task_source)}",
            **{
                f"set.{address}": value for address, value in values.items() if address not in tuned
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


def searches(tune: Tune, study: str, sets: dict[str, Any] | None = None) -> list[Search]:
    """Return one search for each method, with each of its settings, on each task.

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
    """Return the searches of a study file; `sets` and `trials` win over the file.

    Raises:
        UsageError: a name, field or value that is not allowed, with its line in the file.
    """
    tune = study.tune
    assert tune is not None
    changed = tune if trials is None else tune.model_copy(update={"trials": trials})
    return study.placed(("tune",), lambda: searches(changed, study.name, sets))


def _search(tune: Tune, study: str, method: Setting, task: Setting, sets: dict[str, Any]) -> Search:
    cls = task.plugin.cls
    metric, allowed = tune.metric or cls.score_to_tune, MAY_TUNE_ON[cls.stacks]
    if metric not in allowed:
        raise UsageError(
            f"'{metric}' cannot be tuned on {task.plugin.name}: metrics that see neither the truth "
            f"nor test data are {' or '.join(allowed)}."
        )
    seeds, report_seeds = parse_seeds(tune.seeds), parse_seeds(tune.report_seeds)
    if both := sorted(set(seeds) & set(report_seeds)):
        raise UsageError(
            f"Seed {both[0]} is tuned on and reported on. "
            "The best setting must be scored on seeds that the tuner never saw."
        )
    if tune.pruner == "wilcoxon" and len(seeds) < 2:
        raise UsageError("The Wilcoxon pruner compares replicates: give two seeds or more.")
    column = Column(method, task, tune.protocol or cls.default_protocol, {**tune.settings, **sets})
    return Search(study, tune, column, space(column, tune.space), seeds, report_seeds, metric)


def short_name(tune: Tune, sets: dict[str, Any]) -> str:
    """Return a name for a study without a file: `hvae-gaussian-25-3f2a91`."""
    members = searches(tune, "", sets)
    label = f"{len(members)}-searches"
    if len(members) == 1:
        label = f"{members[0].column.method.plugin.name}-{members[0].task}"
    return f"{label}-{digest([search.definition() for search in members])[:6]}"
