"""The trials of a search in Optuna's database, and every decision that its `samplers` make.

The database is a log. A decision is computed on a copy in memory that holds what was known then, by
a sampler created anew from a seed and the trial's number: so it does not matter how often the
process died before it. A trial appears in the log with all its parameters at once, and what Optuna
is told of it is the same each time.

Other programs may write to the same study. What they enqueued is run as it stands; what bench can
do nothing with is left out by number, with the reason.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.base.errors import StoreError, UsageError, one_line
from harness.base.spec import canonical_json
from harness.base.workspace import redact, without_password
from harness.store.create import build_if_missing
from harness.store.database import sqlite_file
from harness.store.locks import named_lock
from harness.tuning.samplers import distribution, pruner_of, quietly, sampler_of, study_in_memory
from harness.tuning.search import Search, SearchRecord, Spec
from harness.tuning.space import Dimension

DEFINITION, RECORD, DATABASE = "bench.definition", "bench.record", "bench.database"
ROUND, SPECS = "bench.round", "bench.specs"
"""Attributes of a study; `SPECS` are those of trials of earlier releases, by number."""
OUTCOME, SPEC, STUDY = "bench.outcome", "bench.spec", "bench.study"
"""Attributes of a trial: how it ended, what its runs are, and the study that it was asked for
in.
"""
ENQUEUED = "fixed_params"
"""Where Optuna keeps the settings that a trial was enqueued with."""
NOT_MEASURED = "not measured"
"""The outcome of a trial whose score the result database does not have."""


@dataclass(frozen=True)
class Trial:
    """A trial as the log has it: `outcome` is None until it has ended, else complete, pruned,
    diverged, failed or `not finite`; `score` is what Optuna was told (see `result.measured`).
    """

    number: int
    params: dict[str, Any]
    outcome: str | None
    score: float | None
    reports: dict[int, float]
    spec: Spec | None


# Optuna's database


@contextmanager
def open_log(url: str, search: Search) -> Iterator[TrialLog]:
    """Open the log of a search for its one coordinator.

    Raises:
        UsageError: another process tunes this search.
    """
    with named_lock(url, search.name) as acquired:
        if not acquired:
            raise UsageError(
                f"Another process is tuning '{search.name}'. Wait for it, or stop it: "
                "its trials are saved."
            )
        with named_lock(url, "creation", wait=True):
            build_if_missing(url, _create)
            _create(url)  # on a server, the process that comes first creates the tables
        with _storage(url) as storage:
            study = quietly(
                optuna.create_study,
                storage=storage,
                study_name=search.name,
                direction=search.tune.direction,
                load_if_exists=True,
            )
            yield TrialLog(study, search)


@contextmanager
def read_log(url: str, record: SearchRecord) -> Iterator[StoredTrials | None]:
    """Open the trials of a search for reading; None where bench began none."""
    if not _exists(url):
        yield None
        return
    with _storage(url) as storage:
        study = None
        if record.name in quietly(optuna.get_all_study_names, storage):
            study = quietly(optuna.load_study, storage=storage, study_name=record.name)
        yield (
            StoredTrials(study, record.space) if study and DEFINITION in study.user_attrs else None
        )


def stored_searches(url: str, study: str) -> list[SearchRecord]:
    """Return the searches of a study as they were last asked for.

    Raises:
        UsageError: the record of one is not in bench's format.
    """
    records = []
    for name, attributes in _begun(url).items():
        if name.startswith(f"{study}/"):
            if RECORD not in attributes:
                raise UsageError(
                    f"'{name}' was made by an earlier release. Repeat its command: nothing is "
                    "trained again, and it can be read then."
                )
            records.append(SearchRecord.parse(attributes[RECORD], name))
    return records


def study_names(url: str) -> list[str]:
    """Return the names of the tuning studies that bench ever began, sorted."""
    return sorted({name.partition("/")[0] for name in _begun(url)})


def _begun(url: str) -> dict[str, dict[str, Any]]:
    """The attributes of Optuna's studies that bench began, by name."""
    if not _exists(url):
        return {}
    with _storage(url) as storage:
        summaries = quietly(optuna.get_all_study_summaries, storage)
    return {
        summary.study_name: summary.user_attrs
        for summary in summaries
        if DEFINITION in summary.user_attrs
    }


def _exists(url: str) -> bool:
    """Whether there may be trials: on a server always, else where the file exists."""
    file = sqlite_file(url)
    return file is None or file.exists()


def _create(url: str) -> None:
    with _storage(url):
        pass


@contextmanager
def _storage(url: str) -> Iterator[RDBStorage]:
    """Optuna's database, closed at the end."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        storage = quietly(RDBStorage, url.replace("postgresql://", "postgresql+psycopg://", 1))
    except Exception as err:
        reason = without_password(str(err).strip().splitlines()[0], url)
        raise StoreError(
            f"Cannot use the database of studies, {redact(url)}: {one_line(reason, 400)}"
        ) from err
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


# Trials


Distributions = Mapping[str, BaseDistribution]


def is_enqueued(trial: FrozenTrial, distributions: Distributions) -> bool:
    """Tell whether another program left a trial to be run that lacks some of its settings."""
    return trial.state == TrialState.WAITING or (
        trial.state == TrialState.RUNNING
        and ENQUEUED in trial.system_attrs
        and trial.distributions.keys() < distributions.keys()
    )


def _enqueued_params(trial: FrozenTrial) -> dict[str, Any]:
    return {**trial.params, **trial.system_attrs.get(ENQUEUED, {})}


def _misfit(name: str, value: Any, distributions: Distributions) -> str | None:
    """Why a setting is not one of this study; None where it is."""
    if name not in distributions:
        return f"'{name}' is not tuned here"
    try:
        create_trial(
            state=TrialState.RUNNING,
            params={name: value},
            distributions={name: distributions[name]},
        )
    except (TypeError, ValueError):
        return f"{name}={value} is outside the space"
    return None


class StoredTrials:
    """The trials of a search in an Optuna study, for whoever reads them."""

    def __init__(self, study: optuna.Study, space: Sequence[Dimension]) -> None:
        self.study = study
        self._distributions = {dimension.address: distribution(dimension) for dimension in space}

    def _all(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def count(self) -> int:
        """Count the trials, with those that are left out."""
        return len(self._all())

    def trials(self) -> list[Trial]:
        """Return all trials but those that are left out, by number."""
        specs = self.study.user_attrs.get(SPECS, {})
        trials = []
        for trial in self._all():
            if self._fault(trial) is None:
                ended = trial.state.is_finished()
                complete = trial.state == TrialState.COMPLETE
                trials.append(
                    Trial(
                        number=trial.number,
                        params={
                            n: trial.params[n] for n in self._distributions if n in trial.params
                        },
                        outcome=trial.user_attrs.get(OUTCOME) if ended else None,
                        score=trial.value if complete else None,
                        reports=dict(trial.intermediate_values),
                        spec=trial.user_attrs.get(SPEC) or specs.get(str(trial.number)),
                    )
                )
        return trials

    def left_out(self) -> dict[int, str]:
        """Return why other programs' trials are left out, by number."""
        faults = {trial.number: self._fault(trial) for trial in self._all()}
        return {number: reason for number, reason in faults.items() if reason is not None}

    def _fault(self, trial: FrozenTrial) -> str | None:
        """Why a trial is neither one that bench asked for nor one that it can run; else None."""
        study, distributions = self.study.study_name, self._distributions
        if trial.user_attrs.get(STUDY, study) != study:
            return f"it was copied from the study '{trial.user_attrs[STUDY]}'"
        if is_enqueued(trial, distributions):
            params = _enqueued_params(trial)
            is_grid = self.study.user_attrs.get(DEFINITION, {}).get("sampler") == "grid"
            if is_grid and params.keys() < distributions.keys():
                return "a grid has no value for what it leaves open"
            misfits = (_misfit(name, value, distributions) for name, value in params.items())
            return next(filter(None, misfits), None)
        if trial.state.is_finished() and OUTCOME not in trial.user_attrs:
            return "another program ended it"
        if trial.distributions != distributions:
            return "its settings, or their ranges, are not those of this study"
        return None


class TrialLog(StoredTrials):
    """The trials of a search, for its one coordinator.

    `unmeasured` are the trials whose scores neither samplers nor pruners may see.
    """

    def __init__(self, study: optuna.Study, search: Search) -> None:
        super().__init__(study, search.space)
        self._search = search
        self.unmeasured: frozenset[int] = frozenset()

    def check(self, database: str | None = None) -> None:
        """Store the definition with the first trial, and what was asked for last.

        Raises:
            UsageError: the study was begun with other fields, with another result database than
                that of this id, or by another program.
        """
        name, attributes, trials = self._search.name, self.study.user_attrs, self._all()
        stored, home = attributes.get(DEFINITION), attributes.get(DATABASE)
        advice = "Name another database of studies with BENCH_STUDY_URL"
        is_empty = not attributes and not trials
        if stored is None and not (is_empty and self.study.directions == [StudyDirection.MAXIMIZE]):
            raise UsageError(
                f"The study '{name}' was begun by another program, and stays as it is. {advice}."
            )
        if database is not None and home not in (None, database):
            raise UsageError(
                f"The study '{name}' was begun with another result database, {home[:8]}; "
                f"this one is {database[:8]}. Name that one with BENCH_DATABASE_URL. "
                f"{advice} to begin again: runs that are stored here are used again."
            )
        current = json.loads(canonical_json(self._search.definition()))
        if stored is None or not trials:
            self.study.set_user_attr(DEFINITION, current)
        elif changes := [
            f"{field} was {stored.get(field)} and is {current.get(field)}"
            for field in sorted(stored.keys() | current.keys())
            if stored.get(field) != current.get(field)
        ]:
            raise UsageError(
                f"'{name}' has changed since its first trial: {'; '.join(changes)}. "
                "Trials of different studies cannot be compared: "
                "change it back, or give the changed study another name."
            )
        if database is not None and home is None:
            self.study.set_user_attr(DATABASE, database)
        record = self._search.record().model_dump(mode="json")
        if self.study.user_attrs.get(RECORD) != record:
            self.study.set_user_attr(RECORD, record)
        specs = {
            str(trial.number): self._search.spec(trial.params)
            for trial in self._all()
            if SPEC not in trial.user_attrs
            and not self._fault(trial)
            and not is_enqueued(trial, self._distributions)
        }
        if self.study.user_attrs.get(SPECS, {}) != specs:
            # trials of earlier releases have ended, and can no longer be written to
            self.study.set_user_attr(SPECS, specs)

    def round_size(self, workers: int) -> int:
        """Return how many trials are asked for together, whoever continues the study."""
        if ROUND not in self.study.user_attrs:
            self.study.set_user_attr(ROUND, workers)
        return self.study.user_attrs[ROUND]

    def _visible(self) -> list[FrozenTrial]:
        """The trials as samplers and pruners see them: failed where there is nothing to learn."""
        blank = create_trial(state=TrialState.FAIL)
        return [
            blank
            if self._fault(trial)
            or trial.number in self.unmeasured
            or is_enqueued(trial, self._distributions)
            else trial
            for trial in self._all()
        ]

    def ask(self) -> None:
        """Add the next trial, with its parameters.

        Raises:
            UsageError: another program's trials are in the way.
        """
        trial = self._sample(self._visible(), {})
        try:
            self.study.add_trial(
                create_trial(
                    state=TrialState.RUNNING,
                    params=trial.params,
                    distributions=trial.distributions,
                    system_attrs=trial.system_attrs,
                    user_attrs=self._attributes(trial.params),
                )
            )
        except ValueError as err:
            raise UsageError(
                f"Optuna's study '{self._search.name}' has trials of another program "
                f"with other kinds of settings: {err}."
            ) from err

    def take_up(self, number: int) -> None:
        """Give a trial of another program the settings it leaves open; one that bench asked for
        stays as it is.
        """
        storage, trial = self.study._storage, self._all()[number]
        params = trial.params
        if is_enqueued(trial, self._distributions):
            params = self._sample(self._visible()[:number], _enqueued_params(trial)).params
            if trial.state == TrialState.WAITING:
                storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            for name, distribution in self._distributions.items():
                storage.set_trial_param(
                    trial._trial_id, name, distribution.to_internal_repr(params[name]), distribution
                )
        for name, value in self._attributes(params).items():
            if name not in trial.user_attrs:
                storage.set_trial_user_attr(trial._trial_id, name, value)

    def _attributes(self, params: dict[str, Any]) -> dict[str, Any]:
        return {SPEC: self._search.spec(params), STUDY: self.study.study_name}

    def _sample(self, trials: Sequence[FrozenTrial], fixed: dict[str, Any]) -> FrozenTrial:
        """What the sampler makes of the trial after `trials`."""
        sampler = sampler_of(self._search, len(trials))
        memory = study_in_memory(self.study.study_name, trials, sampler)
        if fixed:
            memory.enqueue_trial(fixed)
        quietly(memory.ask, self._distributions)
        return memory.get_trials(deepcopy=False)[-1]

    def prunes(
        self, number: int, round_start: int, reports: Mapping[int, float]
    ) -> tuple[bool, dict[str, Any]]:
        """Tell whether the pruner would end a trial after its last report, seeing the trials that
        ended before its round began; and the attributes by which it compares later trials.
        """
        blanks = [create_trial(state=TrialState.RUNNING) for _ in range(round_start, number)]
        memory = study_in_memory(
            self.study.study_name,
            [*self._visible()[:round_start], *blanks],
            pruner=pruner_of(self._search),
        )
        trial = quietly(memory.ask)
        decision = False
        for step, value in sorted(reports.items()):
            trial.report(value, step)
            decision = quietly(trial.should_prune)
        return decision, memory.get_trials(deepcopy=False)[-1].system_attrs

    def tell(
        self,
        number: int,
        round_start: int,
        outcome: str,
        score: float | None,
        reports: Mapping[int, float],
    ) -> None:
        """Store how a trial ended; `score` is finite or None."""
        storage, trial = self.study._storage, self._all()[number]
        if trial.state.is_finished():
            return
        for step, value in sorted(reports.items()):
            storage.set_trial_intermediate_value(trial._trial_id, step, value)
        attributes = self.prunes(number, round_start, reports)[1] if reports else {}
        for name, value in attributes.items():
            storage.set_trial_system_attr(trial._trial_id, name, value)
        storage.set_trial_user_attr(trial._trial_id, OUTCOME, outcome)
        states = {"complete": TrialState.COMPLETE, "failed": TrialState.FAIL}
        state = states.get(outcome, TrialState.PRUNED)
        values = None if score is None or state != TrialState.COMPLETE else [score]
        storage.set_trial_state_values(trial._trial_id, state, values)
