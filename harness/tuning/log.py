"""The trials of a search in Optuna's database, and every decision of its samplers and pruners.

The database is a log. A decision is computed on a copy in memory that holds what was known then, by
a sampler made anew from a seed and the trial's number: so it does not matter how often the process
died before it. A trial appears in the log with all its parameters at once, and what it is told is
the same each time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.base.errors import StoreError, UsageError, one_line
from harness.base.spec import canonical_json
from harness.base.workspace import redact, without_password
from harness.store.connect import sqlite_file
from harness.store.exclusive import built_aside, exclusive
from harness.tuning.decisions import in_memory, pruner_of, quietly, sampler_for, total
from harness.tuning.foreign import OUTCOME, STUDY, given, is_enqueued
from harness.tuning.kept import DEFINITION, SPEC, SPECS, Kept
from harness.tuning.record import Record
from harness.tuning.search import Search

ROUND, RECORD, DATABASE = "bench.round", "bench.record", "bench.database"


@contextmanager
def open_log(url: str, search: Search) -> Iterator[Log]:
    """The log of a search for its one coordinator.

    Raises:
        UsageError: another process tunes this search.
    """
    with exclusive(url, search.name) as ours:
        if not ours:
            raise UsageError(
                f"Another process tunes '{search.name}' already. Wait for it, or stop it: its trials are kept."
            )
        with exclusive(url, "creation", wait=True), built_aside(url, _create), _storage(url):
            pass  # whoever comes first makes the tables
        with _storage(url) as storage:
            named = {
                "storage": storage,
                "study_name": search.name,
                "direction": search.tune.direction,
            }
            yield Log(quietly(optuna.create_study, load_if_exists=True, **named), search)


@contextmanager
def read_log(url: str, record: Record) -> Iterator[Kept | None]:
    """A search as Optuna has it; None where bench began none."""
    if not _exists(url):
        yield None
        return
    with _storage(url) as storage:
        known = record.name in quietly(optuna.get_all_study_names, storage)
        study = (
            quietly(optuna.load_study, storage=storage, study_name=record.name) if known else None
        )
        yield Kept(study, record.space) if study and DEFINITION in study.user_attrs else None


def stored(url: str, study: str) -> list[Record]:
    """The searches of a study as they were last asked for, with a file or without; empty where it
    was never begun.

    Raises:
        UsageError: bench cannot have written what is stored of one.
    """
    if not _exists(url):
        return []
    with _storage(url) as storage:
        found = [
            summary
            for summary in quietly(optuna.get_all_study_summaries, storage)
            if summary.study_name.startswith(f"{study}/")
        ]
    begun = {
        summary.study_name: summary.user_attrs
        for summary in found
        if DEFINITION in summary.user_attrs
    }
    if former := [name for name, attributes in begun.items() if RECORD not in attributes]:
        raise UsageError(
            f"'{former[0]}' was made by an earlier release. Repeat its command: nothing is trained anew, and it can be read then."
        )
    return [Record.parsed(attributes[RECORD], name) for name, attributes in begun.items()]


def names(url: str) -> list[str]:
    """The studies that bench ever began, sorted."""
    if not _exists(url):
        return []
    with _storage(url) as storage:
        begun = [
            summary
            for summary in quietly(optuna.get_all_study_summaries, storage)
            if DEFINITION in summary.user_attrs
        ]
    return sorted({summary.study_name.partition("/")[0] for summary in begun})


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
        reason = without_password(str(err).strip().splitlines()[0], url)
        raise StoreError(
            f"Cannot use the database of studies, {redact(url)}: {one_line(reason, 400)}"
        ) from err
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


class Log(Kept):
    """What is known of a search, for its one coordinator."""

    def __init__(self, study: optuna.Study, search: Search) -> None:
        super().__init__(study, search.space)
        self._search = search

    def check(self, database: str | None = None) -> None:
        """Keep the definition with the first trial, and refuse another one, another result database
        or another program's study.

        Args:
            database: the result database's id.

        Raises:
            UsageError: the study was begun with other fields, from another database or by another
                program.
        """
        attributes, trials = self.study.user_attrs, self._all()
        before, home = attributes.get(DEFINITION), attributes.get(DATABASE)
        advice = "Name another database of studies with BENCH_STUDY_URL"
        if before is None and (
            attributes or trials or self.study.directions != [StudyDirection.MAXIMIZE]
        ):
            raise UsageError(
                f"The study '{self._search.name}' was begun by another program, and stays as it is. {advice}."
            )
        if database is not None and home not in (None, database):
            raise UsageError(
                f"The study '{self._search.name}' was begun with another result database, {home[:8]}; this one is {database[:8]}. "
                f"Name that one with BENCH_DATABASE_URL. {advice} to begin anew: runs that are here are found again."
            )
        now = json.loads(canonical_json(self._search.definition()))
        if before is None or not trials:
            self.study.set_user_attr(DEFINITION, now)
            before = now
        if canonical_json(before) != canonical_json(now):
            names = sorted(
                before.keys() | now.keys(), key=lambda name: (name.startswith("set."), name)
            )
            changed = [name for name in names if _shown(before, name) != _shown(now, name)]
            shown = "; ".join(
                f"{name} was {_shown(before, name)} and is {_shown(now, name)}" for name in changed
            )
            raise UsageError(
                f"'{self._search.name}' was changed since its first trial: {shown}. Trials of different studies cannot be compared: "
                "put it back, or give the changed study another name."
            )
        if database is not None and home is None:
            self.study.set_user_attr(DATABASE, database)
        self._keep_record()

    def _keep_record(self) -> None:
        record = self._search.record(total(self._search)).model_dump(mode="json")
        if self.study.user_attrs.get(RECORD) != record:
            self.study.set_user_attr(RECORD, record)
        former = {
            str(trial.number): self._search.spec(trial.params)
            for trial in self._all()
            if SPEC not in trial.user_attrs
            and not self._fault(trial)
            and not is_enqueued(trial, self._distributions)
        }
        if (
            self.study.user_attrs.get(SPECS, {}) != former
        ):  # trials of earlier releases, which can no longer be written to
            self.study.set_user_attr(SPECS, former)

    def round_size(self, wanted: int) -> int:
        """Trials that are asked together: as many as workers when the study began, whoever goes on
        with it.
        """
        if ROUND not in self.study.user_attrs:
            self.study.set_user_attr(ROUND, wanted)
        return self.study.user_attrs[ROUND]

    def ask(self) -> None:
        """Add the next trial, with its parameters.

        Raises:
            UsageError: another program's trials are in the way.
        """
        asked = self._decide(self.seen(), {})
        named = {
            "params": asked.params,
            "distributions": asked.distributions,
            "system_attrs": asked.system_attrs,
        }
        try:
            self.study.add_trial(
                create_trial(
                    state=TrialState.RUNNING, **named, user_attrs=self._marks(asked.params)
                )
            )
        except ValueError as err:
            raise UsageError(
                f"Optuna's study '{self._search.name}' has trials of other kinds of settings, not bench's: {err}."
            ) from err

    def take_up(self, number: int) -> None:
        """Give a trial of another program what it leaves open; one that bench asked for stays as it
        is.
        """
        storage, trial = self.study._storage, self._all()[number]
        params = trial.params
        if is_enqueued(trial, self._distributions):
            params = self._decide(self.seen()[:number], given(trial)).params
            if trial.state == TrialState.WAITING:
                storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            for name, distribution in self._distributions.items():
                storage.set_trial_param(
                    trial._trial_id, name, distribution.to_internal_repr(params[name]), distribution
                )
        for name, value in self._marks(params).items():
            if name not in trial.user_attrs:
                storage.set_trial_user_attr(trial._trial_id, name, value)

    def _marks(self, params: dict[str, Any]) -> dict[str, Any]:
        return {SPEC: self._search.spec(params), STUDY: self.study.study_name}

    def _decide(self, known: Sequence[FrozenTrial], settled: dict[str, Any]) -> FrozenTrial:
        """What the sampler makes of the trial after `known`."""
        memory = in_memory(
            self.study.study_name, known, sampler_for(self._search, len(known)), NopPruner()
        )
        if settled:
            memory.enqueue_trial(settled)
        quietly(memory.ask, self._distributions)
        return memory.get_trials(deepcopy=False)[-1]

    def prunes(self, number: int, first_of_round: int, reports: Mapping[int, float]) -> bool:
        """Whether the pruner would end a trial after its last report, seeing the trials that ended
        before its round began.
        """
        return self._judged(number, first_of_round, reports)[0]

    def _judged(
        self, number: int, first_of_round: int, reports: Mapping[int, float]
    ) -> tuple[bool, dict[str, Any]]:
        """The pruner's verdict, and what it notes down with the trial, which those after it are
        compared with.
        """
        known = self.seen()
        blanks = [create_trial(state=TrialState.RUNNING) for _ in range(first_of_round, number)]
        memory = in_memory(
            self.study.study_name,
            [*known[:first_of_round], *blanks],
            RandomSampler(0),
            pruner_of(self._search),
        )
        trial = quietly(memory.ask)
        verdict = False
        for step, value in sorted(reports.items()):
            trial.report(value, step)
            verdict = quietly(trial.should_prune)
        return verdict, memory.get_trials(deepcopy=False)[-1].system_attrs

    def tell(
        self,
        number: int,
        first_of_round: int,
        outcome: str,
        score: float | None,
        reports: Mapping[int, float],
    ) -> None:
        """Note how a trial ended; a score that is not finite never gets here as a number."""
        storage, frozen = self.study._storage, self._all()[number]
        if frozen.state.is_finished():
            return
        for step, value in sorted(reports.items()):
            storage.set_trial_intermediate_value(frozen._trial_id, step, value)
        for name, value in (
            self._judged(number, first_of_round, reports)[1].items() if reports else ()
        ):
            storage.set_trial_system_attr(frozen._trial_id, name, value)
        storage.set_trial_user_attr(frozen._trial_id, OUTCOME, outcome)
        state = {"complete": TrialState.COMPLETE, "failed": TrialState.FAIL}.get(
            outcome, TrialState.PRUNED
        )
        storage.set_trial_state_values(
            frozen._trial_id,
            state,
            [score] if state == TrialState.COMPLETE and score is not None else None,
        )


def _shown(values: dict[str, Any], name: str) -> str:
    return json.dumps(values[name], ensure_ascii=False) if name in values else "not there"
