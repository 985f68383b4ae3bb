"""Scores by annealed importance sampling: what a run's model and base are worth, whatever its
method draws.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.api import Batch, Params, Problem, Task
from harness.base.spec import Protocol
from harness.numerics import bounds
from harness.numerics.noise import TRAIN_BLOCK, Noise
from harness.training.annealed_importance import (
    ADAPTATIONS,
    Annealing,
    adapted_steps,
    sigmoid_schedule,
)
from harness.training.evaluation import Score, mean_scores
from harness.training.exact_draws import exact_draws
from harness.training.loop import State, load_data, streams

ESTIMATOR, VERSION = "ais", 1
"""The version is raised where a score of an unchanged run becomes another number, by more than
rounding, or a default below another one.
"""
ADAPTING_CHAINS = 4


@dataclass(frozen=True)
class AnnealingSettings:
    """How much is computed. `problems` are the first ones that the final scores are taken over."""

    temperatures: int = 500
    chains: int = 16
    problems: int = 100

    def changed(self) -> dict[str, int]:
        """Return what differs from the defaults."""
        defaults = vars(AnnealingSettings())
        return {name: value for name, value in vars(self).items() if value != defaults[name]}


def annealed_scoring(
    task: Task, protocol: Protocol, state: State, settings: AnnealingSettings
) -> Generator[float, None, dict[str, Score]]:
    r"""Anneal from the base to the posterior of each problem, yielding the share that is done.

    Step sizes are adapted by chains of their own on the last of the scored batches, which are other
    problems where there are more than `settings.problems`. Computed in double precision where a
    task has exact answers, else in that of training; log-weights are summed in double precision.

    Returns: `log_evidence_ais` (nats), $\log \frac1S \sum_s w_s$, a lower bound of the log-evidence
    in expectation; `ess_ais`, the effective sample size of the chains' weights; where problems
    share weights `nll_ais`, the first with its sign turned (nats an example), and its standard
    error over the examples. With exact draws of the posteriors `bdmc_gap` (nats): an upper bound,
    $-\log \frac1S \sum_s 1 / w_s$ over chains backwards from these, less the lower one. Of a task
    that has none but simulates data it is that gap on data simulated from the model, each with the
    latent vector behind it. Standard errors are those of the chains; that of the gap is over the
    problems where they share weights, as chains from one latent vector are not independent.
    """
    oracle = task.oracle()
    dtype = torch.float64 if oracle else getattr(torch, protocol.dtype)
    data = load_data(task, state.seeds, dtype)
    theta, _ = state.layout.owned(state.best_parameters().to(dtype))
    order = Noise(streams(state.seeds, "batch"), shuffled=False)
    batches = list(task.scored_batches(data, protocol.batch_size, order))
    scored, n_problems = [], 0
    for batch in batches:
        if n_problems < settings.problems:
            scored.append(batch)
            n_problems += len(task.problem(theta, batch, protocol.base).base.mean)
    directions = 3 if type(task).simulate is not Task.simulate else 1
    directions = 2 if hasattr(oracle, "draws") else directions
    total = ADAPTATIONS + directions * len(scored) * settings.temperatures
    work = _scoring(task, theta, protocol, state.seeds[0], batches[-1], scored, settings)
    n_done = 0
    while True:
        try:
            with torch.no_grad():
                next(work)
        except StopIteration as done:
            return done.value
        n_done += 1
        yield min(n_done / total, 1.0)


def _scoring(
    task: Task,
    theta: Params,
    protocol: Protocol,
    seed: int,
    last: Batch,
    scored: list[Batch],
    settings: AnnealingSettings,
) -> Generator[None, None, dict[str, Score]]:
    betas = sigmoid_schedule(settings.temperatures)

    def problem_of(batch: Batch) -> Problem:
        return task.problem(theta, batch, protocol.base)

    def noise(name: str, batch: int, problem: Problem) -> Noise:
        numbers = range(len(problem.base.mean))
        return Noise([f"{seed}/ais/{name}/{batch}/{number}" for number in numbers], TRAIN_BLOCK)

    adapting = problem_of(last)
    steps = yield from adapted_steps(adapting, betas, noise("steps", 0, adapting), ADAPTING_CHAINS)
    rows = []
    for number, batch in enumerate(scored):
        problem = problem_of(batch)
        chains = Annealing(problem, betas, steps)
        forwards = yield from chains.forwards(noise("forwards", number, problem), settings.chains)
        row = {
            "log_evidence_ais": Score(*bounds.log_evidence(forwards)),
            "ess_ais": Score(bounds.ess(forwards)),
        }
        names = [f"{stream}/exact" for stream in noise("draws", number, problem).streams]
        exact = exact_draws(task, theta, batch, names, settings.chains)
        simulated = None
        if exact is None:
            simulated = task.simulate(theta, batch, noise("simulated", number, problem))
        if simulated is not None:
            data, z = simulated
            exact = z.expand(settings.chains, *z.shape)
            chains = replace(chains, problem=problem_of(data))
            forwards = yield from chains.forwards(noise("check", number, problem), settings.chains)
        if exact is not None:
            backwards = yield from chains.backwards(exact, noise("backwards", number, problem))
            row["bdmc_gap"] = _gap(forwards, backwards)
        rows.append(row)
    scores = mean_scores(rows, task.stacks)
    return scores if task.stacks else scores | dict(_over_examples(rows, scores))


def _gap(forwards: Tensor, backwards: Tensor) -> Score:
    """Compute the upper bound that log-weights of chains backwards give, less the lower one of
    those forwards, [S, N] each.
    """
    lower, error = bounds.log_evidence(forwards)
    negative_upper, error_above = bounds.log_evidence(-backwards)
    return Score(-negative_upper - lower, (error.square() + error_above.square()).sqrt())


def _over_examples(
    rows: list[dict[str, Score]], scores: dict[str, Score]
) -> Iterator[tuple[str, Score]]:
    """Compute what has another sign or error where N problems are examples."""

    def error(name: str) -> Tensor:
        values = torch.cat([row[name].value for row in rows])
        return values.std()[None] / math.sqrt(len(values))

    evidence = scores["log_evidence_ais"]
    yield "nll_ais", Score(-evidence.value, evidence.error)
    yield "nll_ais_se_examples", Score(error("log_evidence_ais"))
    if "bdmc_gap" in scores:
        yield "bdmc_gap", Score(scores["bdmc_gap"].value, error("bdmc_gap"))
