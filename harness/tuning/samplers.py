"""Samplers and pruners of Optuna: each is created anew for one trial, from a seed and the trial's
number, on a study in memory.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, GPSampler, GridSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from harness.tuning.search import REDUCTION, Search
from harness.tuning.space import Dimension


def quietly(call: Any, *arguments: Any, **options: Any) -> Any:
    """Return what `call` returns, without Optuna's log messages and warnings."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments, **options)


def distribution(dimension: Dimension) -> BaseDistribution:
    """Return a dimension as Optuna's distribution."""
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if isinstance(dimension.low, int) and isinstance(dimension.high, int):
        return IntDistribution(dimension.low, dimension.high, log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def study_in_memory(
    name: str,
    trials: Sequence[FrozenTrial],
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
) -> optuna.Study:
    """Create a study with these trials that is stored nowhere."""
    study = quietly(
        optuna.create_study,
        study_name=name,
        direction=StudyDirection.MAXIMIZE,
        sampler=sampler or RandomSampler(0),
        pruner=pruner or NopPruner(),
    )
    for trial in trials:
        study.add_trial(trial)
    return study


def sampler_of(search: Search, number: int) -> BaseSampler:
    """Create the sampler for one trial, seeded by the study and the trial's number."""
    tune = search.tune
    if tune.sampler == "grid":
        return GridSampler(search.grid(), seed=tune.sampler_seed)
    seed = hashlib.sha256(f"{tune.sampler_seed}/{number}".encode()).digest()[:4]
    sampler = {"tpe": TPESampler, "gp": GPSampler, "random": RandomSampler}[tune.sampler]
    return quietly(sampler, seed=int.from_bytes(seed, "big"))


def pruner_of(search: Search) -> BasePruner:
    """Create the pruner of a search."""
    if search.tune.pruner == "median":
        return MedianPruner(n_startup_trials=5)
    if search.tune.pruner == "hyperband":
        low = (search.rungs() or [1])[0]
        return HyperbandPruner(
            min_resource=low, max_resource=search.steps, reduction_factor=REDUCTION
        )
    return quietly(WilcoxonPruner) if search.tune.pruner == "wilcoxon" else NopPruner()
