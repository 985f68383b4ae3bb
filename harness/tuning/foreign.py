"""Trials that other programs left in a study of bench's: which of them bench can run, and why the
others are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

OUTCOME = "bench.outcome"  # of a trial: how bench told it
STUDY = "bench.study"  # of a trial: the study that bench asked for it in
FIXED = "fixed_params"  # where Optuna keeps what a trial was enqueued with

Distributions = Mapping[str, BaseDistribution]


def is_enqueued(trial: FrozenTrial, distributions: Distributions) -> bool:
    """Whether another program left a trial to be run, and it has not all of its settings yet."""
    return trial.state == TrialState.WAITING or (
        trial.state == TrialState.RUNNING
        and FIXED in trial.system_attrs
        and trial.distributions.keys() < distributions.keys()
    )


def given(trial: FrozenTrial) -> dict[str, Any]:
    """The settings that a trial was enqueued with."""
    return {**trial.params, **trial.system_attrs.get(FIXED, {})}


def fault(
    trial: FrozenTrial, distributions: Distributions, study: str, is_grid: bool
) -> str | None:
    """Why a trial is none that bench asked for or can run; None for one that is."""
    if trial.user_attrs.get(STUDY, study) != study:
        return f"it was copied from the study '{trial.user_attrs[STUDY]}'"
    if is_enqueued(trial, distributions):
        values = given(trial)
        if is_grid and values.keys() < distributions.keys():
            return "a grid has no value for what it leaves open"
        return next(
            filter(None, (_misfit(name, value, distributions) for name, value in values.items())),
            None,
        )
    if trial.state.is_finished() and OUTCOME not in trial.user_attrs:
        return "another program said how it ended"
    return (
        None
        if trial.distributions == distributions
        else "its settings, or their ranges, are not those of this study"
    )


def _misfit(name: str, value: Any, distributions: Distributions) -> str | None:
    if name not in distributions:
        return f"'{name}' is not tuned here"
    try:
        create_trial(
            state=TrialState.RUNNING,
            params={name: value},
            distributions={name: distributions[name]},
        )
    except (TypeError, ValueError):
        return f"{name}={value} is outside what is tried"
    return None
