"""Training that is looked at on validation data: the best parameters are kept, and training stops
where nothing gets better.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from harness.api import Method, Params, Task
from harness.base.errors import UsageError
from harness.base.spec import Protocol
from harness.numerics.bounds import BOUNDS, elbo
from harness.numerics.noise import Noise
from harness.training import loop as training
from harness.training.loop import Progress, State, draw


def train(method: Method, task: Task, protocol: Protocol, state: State) -> Iterator[Progress]:
    """`training.train`, with a look at the validation data every `validate_every` steps, and an end
    after `patience` looks in vain.

    Raises:
        UsageError: the task has no validation data to look at.
    """
    if protocol.validate_every is None:
        yield from training.train(method, task, protocol, state)
        return
    if state.data.validation is None:
        raise UsageError(
            f"Task '{task.name}' has no validation data. Leave validate_every out: --set validate_every=none."
        )
    if out_of_patience(protocol, state):
        return
    for progress in training.train(method, task, protocol, state):
        if state.step % protocol.validate_every == 0 and progress.holds():
            look(method, task, protocol, state)
        yield progress
        if out_of_patience(protocol, state):
            return


def look(method: Method, task: Task, protocol: Protocol, state: State) -> None:
    """Take note of the bound on the validation data, and of the parameters where it is the best so
    far.
    """
    assert protocol.validate_every is not None
    number = state.step // protocol.validate_every - 1
    bound, _ = validation_bounds(method, task, protocol, state, *state.layout.owned(state.flat))
    before = state.validation[0, :number]
    state.validation[0, number] = bound
    if bound.isfinite() and not bool((before >= bound).any()):
        state.best = state.flat.clone()


def out_of_patience(protocol: Protocol, state: State) -> bool:
    """Whether the last `patience` looks were no better than one before them."""
    seen = state.validation[0][~state.validation[0].isnan()]
    return (
        protocol.patience is not None
        and len(seen) > 0
        and len(seen) - 1 - int(seen.argmax()) >= protocol.patience
    )


def validation_bounds(
    method: Method, task: Task, protocol: Protocol, state: State, theta: Params, phi: Params
) -> tuple[Tensor, Tensor]:
    """The protocol's bound and the ELBO on the validation data, nats a problem; the same noise at
    every look.
    """
    bounds, elbos, n_seen = [], [], 0
    assert state.data.validation is not None
    with torch.no_grad():
        for batch in task.validation_batches(state.data):
            problem = task.problem(theta, batch, protocol.base)
            n = len(problem.base.mean)
            noise = Noise(
                [f"{state.seeds[0]}/validation/{place}" for place in range(n_seen, n_seen + n)]
            )
            log_w = draw(method, task, problem, phi, noise, protocol.particles).log_w
            bounds.append(BOUNDS[protocol.bound](log_w))
            elbos.append(elbo(log_w))
            n_seen += n
    return torch.cat(bounds).double().mean(), torch.cat(elbos).double().mean()


def best_parameters(state: State) -> Tensor:
    """The parameters that are scored: the best on the validation data where any were kept, else the
    last; [R, P].
    """
    return state.best if state.best.shape[1] and not bool(state.best.isnan().any()) else state.flat


def curve(protocol: Protocol, state: State) -> dict[str, list[tuple[int, float]]]:
    """The bound on the validation data, as (steps done, nats)."""
    if protocol.validate_every is None:
        return {}
    values = state.validation[0].tolist()
    return {
        "validation_bound": [
            ((i + 1) * protocol.validate_every, value)
            for i, value in enumerate(values)
            if not math.isnan(value)
        ]
    }
