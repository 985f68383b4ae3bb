"""What decides on trials: samplers made anew from a seed and a trial's number, and pruners, on
copies of a study in memory.
"""

from __future__ import annotations

import hashlib
import math
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

from harness.tuning.search import Search
from harness.tuning.space import Dimension

REDUCTION = 3
RUNGS = 2


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


def quietly(act: Any, *arguments: Any, **named: Any) -> Any:
    """What `act` returns; Optuna reports each step otherwise."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return act(*arguments, **named)


def in_memory(
    name: str, trials: Sequence[FrozenTrial], sampler: BaseSampler, pruner: BasePruner
) -> optuna.Study:
    """A study with these trials that is written nowhere."""
    made = quietly(
        optuna.create_study,
        study_name=name,
        direction=StudyDirection.MAXIMIZE,
        sampler=sampler,
        pruner=pruner,
    )
    for trial in trials:
        made.add_trial(trial)
    return made


def distribution(dimension: Dimension) -> BaseDistribution:
    """A dimension as Optuna has it."""
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if isinstance(dimension.low, int) and isinstance(dimension.high, int):
        return IntDistribution(dimension.low, dimension.high, log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def sampler_for(search: Search, number: int) -> BaseSampler:
    """The sampler for one trial, seeded by the study and the trial's number."""
    seed = int.from_bytes(
        hashlib.sha256(f"{search.tune.sampler_seed}/{number}".encode()).digest()[:4], "big"
    )
    if search.tune.sampler == "grid":
        return GridSampler(grid(search), seed=search.tune.sampler_seed)
    return quietly(
        {"tpe": TPESampler, "gp": GPSampler, "random": RandomSampler}[search.tune.sampler],
        seed=seed,
    )


def grid(search: Search) -> dict[str, list[Any]]:
    """The values of each dimension: choices as they are, ranges with as many points as the number
    of trials allows, two at least.
    """
    ranges = [dimension for dimension in search.space if not dimension.choices]
    taken = math.prod(len(dimension.choices) for dimension in search.space if dimension.choices)
    points = int((search.tune.trials / taken) ** (1 / max(len(ranges), 1)) + 1e-9)
    return {dimension.address: dimension.points(max(2, points)) for dimension in search.space}


def pruner_of(search: Search) -> BasePruner:
    """The pruner of a search."""
    steps = rungs(search)
    if search.tune.pruner == "median":
        return MedianPruner(n_startup_trials=5)
    if search.tune.pruner == "hyperband":
        return HyperbandPruner(
            min_resource=steps[0] if steps else 1,
            max_resource=search.steps,
            reduction_factor=REDUCTION,
        )
    return quietly(WilcoxonPruner) if search.tune.pruner == "wilcoxon" else NopPruner()
