"""The trials of a search as they lie in a study of Optuna's, for whoever reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.tuning.decisions import distribution, in_memory
from harness.tuning.foreign import OUTCOME, fault, is_enqueued
from harness.tuning.record import Spec
from harness.tuning.space import Dimension

DEFINITION, SPEC, SPECS = "bench.definition", "bench.spec", "bench.specs"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Trial:
    """A trial as the log has it: `outcome` is None until it has ended, else complete, pruned,
    diverged, failed or `not finite`; `spec` is what its runs are. Its score is what Optuna was
    told; what counts is in the result database: see `rounds.measured`.
    """

    number: int
    params: dict[str, Any]
    outcome: str | None
    score: float | None
    reports: dict[int, float]
    spec: Spec | None


class Kept:
    """The trials of a search in a study of Optuna's. Others may write there too: what they left is
    run as it stands, or left out by name.

    `unmeasured` are the trials whose scores no sampler and no pruner shall see.
    """

    def __init__(self, study: optuna.Study, space: Sequence[Dimension]) -> None:
        self.study = study
        self.unmeasured: frozenset[int] = frozenset()
        self._distributions = {dimension.address: distribution(dimension) for dimension in space}

    def _all(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _fault(self, trial: FrozenTrial) -> str | None:
        is_grid = self.study.user_attrs.get(DEFINITION, {}).get("sampler") == "grid"
        return fault(trial, self._distributions, self.study.study_name, is_grid)

    def count(self) -> int:
        """How many trials there are, with those that are left out."""
        return len(self._all())

    def trials(self) -> list[Trial]:
        """By number, all trials but those that are left out."""
        order, specs = list(self._distributions), self.study.user_attrs.get(SPECS, {})
        known = [trial for trial in self._all() if self._fault(trial) is None]
        return [
            _plain(trial, order, trial.user_attrs.get(SPEC) or specs.get(str(trial.number)))
            for trial in known
        ]

    def left_out(self) -> dict[int, str]:
        """The trials of other programs that bench can do nothing with, by number, and why."""
        faults = {trial.number: self._fault(trial) for trial in self._all()}
        return {number: reason for number, reason in faults.items() if reason is not None}

    def seen(self) -> list[FrozenTrial]:
        """The trials for samplers and pruners: nothing in the place of one that says nothing to
        them.
        """
        nothing = create_trial(state=TrialState.FAIL)
        return [
            nothing
            if self._fault(trial)
            or trial.number in self.unmeasured
            or is_enqueued(trial, self._distributions)
            else trial
            for trial in self._all()
        ]

    def measured_study(self, trials: Sequence[Trial]) -> optuna.Study:
        """A study in memory without the trials whose scores are not measured."""
        self.unmeasured = frozenset(
            trial.number for trial in trials if trial.outcome == NOT_MEASURED
        )
        return in_memory(self.study.study_name, self.seen(), RandomSampler(0), NopPruner())


def _plain(trial: FrozenTrial, order: list[str], spec: Spec | None) -> Trial:
    params = {
        name: trial.params[name]
        for name in sorted(
            trial.params, key=lambda name: order.index(name) if name in order else -1
        )
    }
    return Trial(trial.number, params, trial.user_attrs.get(OUTCOME) if trial.state.is_finished() else None,
                 trial.value if trial.state == TrialState.COMPLETE else None, dict(trial.intermediate_values), spec)  # fmt: skip
