"""The trials of a search in Optuna's database, and every decision of its samplers and pruners.

The database is a log. A decision is computed on a copy in memory that holds what was known then, by a sampler made anew from a
seed and the trial's number: so it does not matter how often the process died before it. A trial appears in the log with all its
parameters at once, and what it is told is the same each time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, GPSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.errors import StoreError, UsageError
from harness.spec import canonical_json
from harness.store.connect import sqlite_file
from harness.store.exclusive import built_aside, exclusive
from harness.tuning.record import Record, Spec
from harness.tuning.search import Search
from harness.tuning.space import Dimension
from harness.workspace import redact

REDUCTION = 3
RUNGS = 2
DEFINITION, ROUND, RECORD = "bench.definition", "bench.round", "bench.record"
OUTCOME, SPEC, SPECS = "bench.outcome", "bench.spec", "bench.specs"


@dataclass(frozen=True)
class Trial:
    """A trial as the log has it: `outcome` is None until it has ended, else complete, pruned, diverged, failed or `not finite`; `spec` is
    what its runs are."""

    number: int
    params: dict[str, Any]
    outcome: str | None
    score: float | None
    reports: dict[int, float]
    spec: Spec | None


def rungs(search: Search) -> list[int]:
    """The steps at which a pruner of training looks: a ninth and a third of the way."""
    if search.tune.pruner not in ("median", "hyperband"):
        return []
    first = max(1, search.steps // REDUCTION**RUNGS)
    return [step for step in (first * REDUCTION**k for k in range(RUNGS)) if step < search.steps]


def total(search: Search) -> int:
    """How many trials the search has at most: a grid has no more than its points."""
    if search.tune.sampler != "grid":
        return search.tune.trials
    return min(search.tune.trials, math.prod(map(len, grid(search).values())))


@contextmanager
def open_log(url: str, search: Search) -> Iterator[Log]:
    """The log of a search for its one coordinator.

    Raises:
        UsageError: another process tunes this search.
    """
    with exclusive(url, search.name) as ours:
        if not ours:
            raise UsageError(f"Another process tunes '{search.name}' already. Wait for it, or stop it: its trials are kept.")
        with exclusive(url, "creation", wait=True), built_aside(url, _create), _storage(url):
            pass  # whoever comes first makes the tables
        with _storage(url) as storage:
            named = {"storage": storage, "study_name": search.name, "direction": search.tune.direction}
            yield Log(quietly(optuna.create_study, load_if_exists=True, **named), search)


@contextmanager
def read_log(url: str, record: Record) -> Iterator[tuple[optuna.Study, list[Trial]] | None]:
    """A search as Optuna has it, and its trials; None where it has none."""
    if not _exists(url):
        yield None
        return
    with _storage(url) as storage:
        known = record.name in quietly(optuna.get_all_study_names, storage)
        study = quietly(optuna.load_study, storage=storage, study_name=record.name) if known else None
        yield (study, _trials(study, record.space)) if study else None


def stored(url: str, study: str) -> list[Record]:
    """The searches of a study as they were last asked for, with a file or without; empty where it was never begun.

    Raises:
        UsageError: bench cannot have written what is stored of one.
    """
    if not _exists(url):
        return []
    with _storage(url) as storage:
        found = [summary for summary in quietly(optuna.get_all_study_summaries, storage) if summary.study_name.startswith(f"{study}/")]
    begun = {summary.study_name: summary.user_attrs for summary in found if DEFINITION in summary.user_attrs}
    if former := [name for name, attributes in begun.items() if RECORD not in attributes]:
        raise UsageError(
            f"'{former[0]}' was made by an earlier release. Repeat its command: nothing is trained anew, and it can be read then."
        )
    return [Record.parsed(attributes[RECORD], name) for name, attributes in begun.items()]


def names(url: str) -> list[str]:
    """The studies that were ever begun, sorted."""
    if not _exists(url):
        return []
    with _storage(url) as storage:
        return sorted({name.partition("/")[0] for name in quietly(optuna.get_all_study_names, storage)})


def _exists(url: str) -> bool:
    """Whether there may be trials: a server is asked, a file must be there."""
    file = sqlite_file(url)
    return file is None or file.exists()


def _create(url: str) -> None:
    with _storage(url):
        pass


@contextmanager
def _storage(url: str) -> Iterator[RDBStorage]:
    """Optuna's database, let go of at the end."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        storage = quietly(RDBStorage, url.replace("postgresql://", "postgresql+psycopg://", 1))
    except Exception as err:
        reason = str(err).strip().splitlines()[0]
        raise StoreError(f"Cannot use the database of studies, {redact(url)}: {reason[:200]}") from err
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def quietly(act: Any, *arguments: Any, **named: Any) -> Any:
    """What `act` returns; Optuna reports each step otherwise."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return act(*arguments, **named)


class Log:
    """What is known of a search."""

    def __init__(self, study: optuna.Study, search: Search) -> None:
        self.study = study
        self._search = search

    def check(self) -> None:
        """Keep the definition with the first trial, and refuse another one after that.

        Raises:
            UsageError: the study was begun with other fields.
        """
        now = json.loads(canonical_json(self._search.definition()))
        before = self.study.user_attrs.get(DEFINITION)
        if before is None or not self.study.get_trials(deepcopy=False):
            self.study.set_user_attr(DEFINITION, now)
            before = now
        if before != now:
            names = sorted(before.keys() | now.keys(), key=lambda name: (name.startswith("set."), name))
            changed = [name for name in names if before.get(name) != now.get(name)]
            shown = "; ".join(f"{name} was {_shown(before, name)} and is {_shown(now, name)}" for name in changed[:4])
            raise UsageError(
                f"'{self._search.name}' was changed since its first trial: {shown}. Trials of different studies cannot be compared: "
                "put it back, or give the changed study another name."
            )

        record = self._search.record(total(self._search)).model_dump(mode="json")
        if self.study.user_attrs.get(RECORD) != record:
            self.study.set_user_attr(RECORD, record)
        trials = self.study.get_trials(deepcopy=False)
        former = {str(trial.number): self._search.spec(trial.params) for trial in trials if SPEC not in trial.user_attrs}
        if self.study.user_attrs.get(SPECS, {}) != former:  # trials of earlier releases, which can no longer be written to
            self.study.set_user_attr(SPECS, former)

    def round_size(self, wanted: int) -> int:
        """Trials that are asked together: as many as workers when the study began, whoever goes on with it."""
        if ROUND not in self.study.user_attrs:
            self.study.set_user_attr(ROUND, wanted)
        return self.study.user_attrs[ROUND]

    def trials(self) -> list[Trial]:
        """All trials by number."""
        return _trials(self.study, self._search.space)

    @cached_property
    def _distributions(self) -> dict[str, BaseDistribution]:
        return {dimension.address: _distribution(dimension) for dimension in self._search.space}

    def ask(self) -> None:
        """Add the next trial, with its parameters."""
        known = self.study.get_trials(deepcopy=False)
        sampler = _sampler(self._search, len(known))
        memory = _in_memory(self._search, known, sampler, NopPruner())
        quietly(memory.ask, self._distributions)
        asked = memory.get_trials(deepcopy=False)[-1]
        named = {"params": asked.params, "distributions": asked.distributions, "system_attrs": asked.system_attrs}
        self.study.add_trial(create_trial(state=TrialState.RUNNING, **named, user_attrs={SPEC: self._search.spec(asked.params)}))

    def prunes(self, number: int, first_of_round: int, reports: Mapping[int, float]) -> bool:
        """Whether the pruner would end a trial after its last report, seeing the trials that ended before its round began."""
        return self._judged(number, first_of_round, reports)[0]

    def _judged(self, number: int, first_of_round: int, reports: Mapping[int, float]) -> tuple[bool, dict[str, Any]]:
        """The pruner's verdict, and what it notes down with the trial, which those after it are compared with."""
        known = self.study.get_trials(deepcopy=False)
        blanks = [create_trial(state=TrialState.RUNNING) for _ in range(first_of_round, number)]
        memory = _in_memory(self._search, [*known[:first_of_round], *blanks], RandomSampler(0), _pruner(self._search))
        trial = quietly(memory.ask)
        verdict = False
        for step, value in sorted(reports.items()):
            trial.report(value, step)
            verdict = quietly(trial.should_prune)
        return verdict, memory.get_trials(deepcopy=False)[-1].system_attrs

    def tell(self, number: int, first_of_round: int, outcome: str, score: float | None, reports: Mapping[int, float]) -> None:
        """Note how a trial ended; a score that is not finite never gets here as a number."""
        storage, frozen = self.study._storage, self.study.get_trials(deepcopy=False)[number]
        if frozen.state.is_finished():
            return
        for step, value in sorted(reports.items()):
            storage.set_trial_intermediate_value(frozen._trial_id, step, value)
        for name, value in self._judged(number, first_of_round, reports)[1].items() if reports else ():
            storage.set_trial_system_attr(frozen._trial_id, name, value)
        storage.set_trial_user_attr(frozen._trial_id, OUTCOME, outcome)
        state = {"complete": TrialState.COMPLETE, "failed": TrialState.FAIL}.get(outcome, TrialState.PRUNED)
        storage.set_trial_state_values(frozen._trial_id, state, [score] if state == TrialState.COMPLETE and score is not None else None)


def _trials(study: optuna.Study, space: Sequence[Dimension]) -> list[Trial]:
    order, specs = [dimension.address for dimension in space], study.user_attrs.get(SPECS, {})
    return [_plain(trial, order, trial.user_attrs.get(SPEC) or specs.get(str(trial.number))) for trial in study.get_trials(deepcopy=False)]


def _plain(trial: FrozenTrial, order: list[str], spec: Spec | None) -> Trial:
    params = {name: trial.params[name] for name in sorted(trial.params, key=lambda name: order.index(name) if name in order else -1)}
    return Trial(trial.number, params, trial.user_attrs.get(OUTCOME) if trial.state.is_finished() else None,
                 trial.value if trial.state == TrialState.COMPLETE else None, dict(trial.intermediate_values), spec)  # fmt: skip


def _shown(values: dict[str, Any], name: str) -> str:
    return json.dumps(values[name], ensure_ascii=False) if name in values else "not there"


def _in_memory(search: Search, trials: Sequence[FrozenTrial], sampler: BaseSampler, pruner: BasePruner) -> optuna.Study:
    made = quietly(optuna.create_study, study_name=search.name, direction=search.tune.direction, sampler=sampler, pruner=pruner)
    for trial in trials:
        made.add_trial(trial)
    return made


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if isinstance(dimension.low, int) and isinstance(dimension.high, int):
        return IntDistribution(dimension.low, dimension.high, log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _sampler(search: Search, number: int) -> BaseSampler:
    """The sampler for one trial, seeded by the study and the trial's number."""
    seed = int.from_bytes(hashlib.sha256(f"{search.tune.sampler_seed}/{number}".encode()).digest()[:4], "big")
    if search.tune.sampler == "grid":
        return GridSampler(grid(search), seed=search.tune.sampler_seed)
    return quietly({"tpe": TPESampler, "gp": GPSampler, "random": RandomSampler}[search.tune.sampler], seed=seed)


def grid(search: Search) -> dict[str, list[Any]]:
    """The values of each dimension: choices as they are, ranges with as many points as the number of trials allows, two at least."""
    ranges = [dimension for dimension in search.space if not dimension.choices]
    taken = math.prod(len(dimension.choices) for dimension in search.space if dimension.choices)
    points = int((search.tune.trials / taken) ** (1 / max(len(ranges), 1)) + 1e-9)
    return {dimension.address: dimension.points(max(2, points)) for dimension in search.space}


def _pruner(search: Search) -> BasePruner:
    steps = rungs(search)
    if search.tune.pruner == "median":
        return MedianPruner(n_startup_trials=5)
    if search.tune.pruner == "hyperband":
        return HyperbandPruner(min_resource=steps[0] if steps else 1, max_resource=search.steps, reduction_factor=REDUCTION)
    return quietly(WilcoxonPruner) if search.tune.pruner == "wilcoxon" else NopPruner()
