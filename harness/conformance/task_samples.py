"""Where a task is looked at: small and default fields, several parameters, batches of both kinds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from harness.api import Batch, Data, Params, Problem, Task
from harness.conformance.problems import LIKE
from harness.numerics.noise import Noise
from harness.training.loop import load_data, streams

BASES = ("prior", "learned")
BATCH = 7  # examples in a mini-batch: it divides none of the usual sizes of a data set
SMALL = (1, 2, 5)  # values of a whole-number variant
SEEDS = (0, 1, 2)


def small_values(cls: type[Task]) -> list[dict[str, Any]]:
    """The variant field at a few small values, where it is a whole number; else the defaults."""
    field = cls.model_fields.get(cls.variant or "")
    return (
        [{str(cls.variant): value} for value in SMALL]
        if field is not None and field.annotation is int
        else [{}]
    )


def sized(cls: type[Task]) -> list[dict[str, Any]]:
    """The small values and the defaults."""
    values = small_values(cls)
    return values if values == [{}] else [*values, {}]


def replicate_seeds(task: Task, seed: int) -> tuple[int, ...]:
    """The seeds of a stack, or the one seed of a task that does not stack."""
    return tuple(3 * seed + each for each in (SEEDS if task.stacks else SEEDS[:1]))


def data_of(task: Task, seed: int) -> Data:
    """Data in double precision."""
    return load_data(task, replicate_seeds(task, seed), torch.float64)


def theta_of(task: Task, seed: int, base: str, jitter: float = 0.0) -> Params:
    """First parameters [R, *event] in double precision, every leaf moved by normal noise of scale
    `jitter`.
    """
    replicates = []
    for each in replicate_seeds(task, seed):
        moves = Noise([f"{each}/jitter"])
        leaves = task.init(base, Noise([f"{each}/init/task"]))
        replicates.append(
            {
                name: leaf.double() + jitter * moves.normal(*leaf.shape, like=LIKE)
                for name, leaf in leaves.items()
            }
        )
    return {name: torch.stack([leaves[name] for leaves in replicates]) for name in replicates[0]}


def thetas_of(task: Task, data: Data, seed: int, base: str) -> Iterator[Params]:
    """The first parameters, those moved a little and much, and the best where they are known."""
    for jitter in (0.0, 0.1, 0.5):
        yield theta_of(task, seed, base, jitter)
    oracle = task.oracle()
    best = None if oracle is None else oracle.mle(data)
    if best is not None:
        yield theta_of(task, seed, base) | best


def batches_of(task: Task, data: Data, seed: int) -> Iterator[Batch]:
    """Mini-batches, and all of the data where that is one problem a replicate."""
    order = Noise(streams(replicate_seeds(task, seed), "batch"), shuffled=True)
    if task.stacks:
        yield task.batch(data, 0, None, order)
    for step in (0, 3):
        yield task.batch(data, step, BATCH, order.at(step))


def scored_of(task: Task, data: Data, seed: int) -> Iterator[Batch]:
    """The first few of the batches that final scores are taken over."""
    order = Noise(streams(replicate_seeds(task, seed), "batch"), shuffled=False)
    yield from itertools.islice(task.scored_batches(data, BATCH, order), 2)


def somewhere(problem: Problem, stream: str, n: int = 4) -> Tensor:
    """Standard normal points, [n, N, D]."""
    return Noise([stream]).normal(n, *problem.base.mean.shape, like=LIKE)
