"""The metrics of a trained stack: bounds with fresh noise, gaps to the exact answers, the task's
own metrics, convergence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import Batch, Method, Oracle, Params, Particles, Problem, Task
from harness.base.errors import PluginError, shortened
from harness.base.metrics import PARETO_K_LIMIT
from harness.base.spec import Protocol
from harness.numerics import bounds
from harness.numerics.noise import Noise
from harness.numerics.optimisers import total_travel
from harness.store import Estimate
from harness.training.exact_draws import (
    backward_log_weights,
    calibration,
    discrepancies,
    exact_draws,
    upper_bounds,
)
from harness.training.loop import (
    PARTICLE_BLOCK,
    State,
    draw,
    load_data,
    rate_scale,
    streams,
    validation_log_weights,
)

LONGEST_NAME = 200
"""Letters of a metric's name: bundles and MLflow take no longer ones."""


ESTIMATOR, VERSION = "evaluation", 1
"""The name under which `bench score` stores what is computed here. The version is raised where a
metric of an unchanged run becomes another number, by more than rounding.
"""


@dataclass(frozen=True)
class Score:
    """A metric of each replicate [R], with its standard error [R] where it is an estimate; its
    percentiles over the problems [101], where these share weights and each has a value to show; of
    calibration, the relative frequency of each rank [R, 20].
    """

    value: Tensor
    error: Tensor | None = None
    percentiles: Tensor | None = None
    ranks: Tensor | None = None

    def estimate(self, replicate: int) -> Estimate:
        """Return the number and the standard error of one replicate."""
        error = None if self.error is None else float(self.error[replicate])
        return Estimate(float(self.value[replicate]), error)


def fresh_particles(
    method: Method,
    task: Task,
    problem: Problem,
    phi: Params,
    stream_names: list[str],
    n_particles: int,
) -> Generator[None, None, Particles]:
    """Draw fresh particles, a block at a time: a particle's noise depends on its problem and its
    block alone. Where nothing needs z it is empty, which spares memory.
    """
    noise, blocks = Noise(stream_names), []
    keeps_z = type(task).posterior_metrics is not Task.posterior_metrics
    keeps_z = keeps_z or hasattr(task.oracle(), "draws")
    for block, start in enumerate(range(0, n_particles, PARTICLE_BLOCK)):
        size = min(PARTICLE_BLOCK, n_particles - start)
        with torch.no_grad():
            particles = draw(method, task, problem, phi, noise.at(block), size)
        blocks.append((particles.z if keeps_z else particles.z[:0], particles.log_w))
        yield
    z, log_w = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return Particles(z, log_w)


def evaluate(
    method: Method,
    task: Task,
    protocol: Protocol,
    state: State,
    between: Callable[[], object] = lambda: None,
) -> dict[str, Score]:
    """Evaluate every metric of the stack at its present parameters, as `scoring` returns them;
    `between` is called between blocks of particles, and may raise.
    """
    steps = scoring(method, task, protocol, state)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value
        between()


def scoring(
    method: Method, task: Task, protocol: Protocol, state: State
) -> Generator[None, None, dict[str, Score]]:
    """Evaluate the stack, yielding between blocks of particles so that whoever iterates can stop.

    Where a task has exact answers all is computed in double precision, whatever the precision of
    training was. Each score is [R]: where replicates stack, the mean over the scored batches; where
    N problems share one set of weights, the mean over the problems of all of them, however they are
    cut into batches. Standard errors are those of the draws, given the data.

    Returns: `elbo` (nats, with standard error), `log_evidence` (importance sampling, nats, with
    standard error), `ess` (particles), `pareto_k`; `nll` where problems share weights (minus
    `log_evidence`: nats an example), the standard errors of both over the examples and the share
    of these whose `pareto_k` is above 0.7; `validation_elbo` (nats an example) with its error where
    there are validation data; with an oracle `elbo_gap` and `evidence_gap` (nats), and
    what its exact draws say (`harness.training.exact_draws`); the task's
    metrics, those of the draws as means over problems like the bounds; `bound_trend_z` and
    `travel_used`; with `eval_parameters=best` the step of the parameters that are evaluated, and
    the ELBO of the last ones.
    """
    oracle = task.oracle()
    dtype = torch.float64 if oracle else getattr(torch, protocol.dtype)
    data = load_data(task, state.seeds, dtype)
    theta, phi = state.layout.owned(state.best_parameters().to(dtype))
    best = oracle.mle(data) if oracle else None
    order = Noise(streams(state.seeds, "batch"), shuffled=False)
    rows, n_scored = [], 0
    for index, batch in enumerate(task.scored_batches(data, protocol.batch_size, order)):
        problem = task.problem(theta, batch, protocol.base)
        n_problems = len(problem.base.mean)
        names = streams(state.seeds, f"eval/{index}")
        if not task.stacks:  # a problem has the same noise however they are cut into batches
            numbers = range(n_scored, n_scored + n_problems)
            names = [f"{state.seeds[0]}/eval/{number}" for number in numbers]
        particles = yield from fresh_particles(
            method, task, problem, phi, names, protocol.eval_particles
        )
        log_w = particles.log_w
        gaps = dict(_gaps(oracle, theta, best, batch, log_w)) if oracle else {}
        exact = exact_draws(task, theta, batch, names, protocol.eval_particles)
        if oracle and exact is not None:
            evidence = oracle.log_evidence(theta, batch)
            gaps |= yield from _of_exact_draws(
                method, task, problem, phi, exact, particles, names, evidence
            )
        with torch.no_grad():
            noise = Noise(streams(state.seeds, f"posterior/{index}"))
            of_draws = task.posterior_metrics(particles, theta, data, noise)
        rows.append(bound_scores(log_w) | gaps | checked_metrics(task, of_draws, n_problems))
        n_scored += n_problems
    own = checked_metrics(task, task.metrics(theta, data), len(state.seeds))
    scores = mean_scores(rows, task.stacks) | own | convergence(task, protocol, state)
    if data.validation is not None:
        scores["validation_elbo"] = _validation_score(method, task, protocol, state, theta, phi)
    if protocol.eval_parameters == "best":
        scores["scored_step"] = Score(state.best_step.double())
        scores["last_elbo"] = Score(state.last_elbo)
    if not task.stacks:
        scores["nll"] = Score(-scores["log_evidence"].value, scores["log_evidence"].error)
        scores |= _over_examples(rows)
    return scores


def checked_metrics(task: Task, metrics: dict[str, Tensor], n: int) -> dict[str, Score]:
    """Return a task's own metrics, each [n]; one that holds for all seeds of shared data is
    repeated.

    Raises:
        PluginError: a name is too long or not printable, or a shape is another.
    """
    for name, value in metrics.items():
        if not (0 < len(name) <= LONGEST_NAME and name.isprintable()):
            raise PluginError(
                f"Task '{task.name}' calls a metric {shortened(repr(name), 60)}: "
                f"a name has 1 to {LONGEST_NAME} printable letters, not {len(name)}."
            )
        if tuple(value.shape) != (n,) and not (task.shares_data and tuple(value.shape) == (1,)):
            raise PluginError(
                f"Task '{task.name}' returned metric '{name}' of shape {list(value.shape)}; "
                f"it must be [{n}], a number for each replicate or problem."
            )
    return {name: Score(value.expand(n)) for name, value in metrics.items()}


def bound_scores(log_w: Tensor) -> dict[str, Score]:
    """Compute the metrics that need log-weights alone, for each problem: [S, N] -> [N] each."""
    evidence, evidence_error = bounds.log_evidence(log_w)
    return {
        "elbo": Score(bounds.elbo(log_w), bounds.elbo_error(log_w)),
        "log_evidence": Score(evidence, evidence_error),
        "ess": Score(bounds.ess(log_w)),
        "pareto_k": Score(bounds.pareto_k(log_w)),
    }


def _gaps(
    oracle: Oracle, theta: Params, best: Params | None, batch: Batch, log_w: Tensor
) -> Iterator[tuple[str, Score]]:
    """Compute how far the bound is below the evidence, and the evidence below that of the
    parameters that are best on the training data; nats.
    """
    evidence = oracle.log_evidence(theta, batch)
    yield "elbo_gap", Score(evidence - bounds.elbo(log_w), bounds.elbo_error(log_w))
    if best is not None:
        yield "evidence_gap", Score(oracle.log_evidence(theta | best, batch) - evidence)


def _of_exact_draws(
    method: Method,
    task: Task,
    problem: Problem,
    phi: Params,
    exact: Tensor,
    particles: Particles,
    names: list[str],
    log_evidence: Tensor,
) -> Generator[None, None, dict[str, Score]]:
    """What exact draws say, [N] each, yielding between blocks of them."""
    log_w = yield from backward_log_weights(method, problem, phi, exact, names)
    estimates = {} if log_w is None else upper_bounds(log_w, log_evidence, task.has_variances)
    if task.stacks:
        estimates |= discrepancies(particles, exact, names, task.has_variances)
    ranked = calibration(particles, exact, names)
    return {name: Score(*pair) for name, pair in estimates.items()} | {
        name: Score(chi2, ranks=shares) for name, (chi2, shares) in ranked.items()
    }


def _validation_score(
    method: Method, task: Task, protocol: Protocol, state: State, theta: Params, phi: Params
) -> Score:
    """The bound on the validation data, with its error where more than one draw gives one."""
    log_w = validation_log_weights(method, task, protocol, state, theta, phi)
    elbo = torch.cat([bounds.elbo(part) for part in log_w]).double().mean()[None]
    if protocol.particles == 1:
        return Score(elbo)
    error = torch.cat([bounds.elbo_error(part) for part in log_w]).double()
    return Score(elbo, error.square().sum().sqrt()[None] / len(error))


def mean_scores(rows: list[dict[str, Score]], stacks: bool) -> dict[str, Score]:
    r"""Average each metric, [R], over batches of [R] where replicates stack, else over the problems
    of all batches, with R = 1.

    The errors of B independent estimates combine to $\frac1B \sqrt{\sum_b \mathrm{se}_b^2}$. Of
    `pareto_k` it is the worst batch, or the value that nine problems in ten do not exceed: the
    worst of a thousand fitted shapes is mostly the noise of the fit, and one bad problem in a
    thousand hardly moves a mean.
    """
    return {name: _mean_score(name, [row[name] for row in rows], stacks) for name in rows[0]}


def _mean_score(name: str, scores: list[Score], stacks: bool) -> Score:
    def stacked(batches: list[Tensor]) -> Tensor:  # [batches, R], or [problems, 1]
        return torch.stack(batches) if stacks else torch.cat(batches)[:, None]

    values = stacked([score.value for score in scores])
    if name == "pareto_k":
        if stacks:
            return Score(values.amax(0))
        of_problems = percentiles(values[:, 0])
        return Score(of_problems[90:91], percentiles=of_problems if len(values) > 1 else None)
    errors = [score.error for score in scores if score.error is not None]
    error = stacked(errors).square().sum(0).sqrt() / len(values) if errors else None
    ranks = [score.ranks for score in scores if score.ranks is not None]
    return Score(values.mean(0), error, ranks=stacked(ranks).mean(0) if ranks else None)


def percentiles(values: Tensor) -> Tensor:
    """Return the least of the values that p % of them do not exceed, p = 0, ..., 100: [N] ->
    [101].
    """
    ranks = (torch.arange(101) * len(values) + 99) // 100  # rounded up
    return values.sort().values[ranks.clamp(min=1) - 1]


def _over_examples(rows: list[dict[str, Score]]) -> dict[str, Score]:
    """The standard errors of means over N problems that are examples, and how many have a tail too
    heavy for importance sampling.
    """
    elbo, evidence, pareto_k = (
        torch.cat([row[name].value for row in rows]).double()
        for name in ("elbo", "log_evidence", "pareto_k")
    )
    return {
        "elbo_se_examples": Score(elbo.std()[None] / math.sqrt(len(elbo))),
        "nll_se_examples": Score(evidence.std()[None] / math.sqrt(len(evidence))),
        "pareto_k_share": Score((pareto_k > PARETO_K_LIMIT).double().mean()[None]),
    }


def convergence(task: Task, protocol: Protocol, state: State) -> dict[str, Score]:
    """Whether the budget was enough: `bound_trend_z`, where it can be told, and `travel_used`."""
    moved = (state.flat - state.start).abs()  # [R, P]
    scale = rate_scale(task, protocol, state.layout)
    moved = moved if scale is None else moved / scale.to(moved)
    theta, _ = state.layout.owned(moved)
    scores = {}
    if theta:
        furthest = torch.stack([leaf.flatten(1).amax(1) for leaf in theta.values()]).amax(0)
        scores["travel_used"] = Score(furthest.double() / total_travel(protocol, state.step))
    n_last = state.curve.shape[-1] // 10
    if n_last >= 5:
        scores["bound_trend_z"] = Score(trend_z(state.curve[:, 0, -n_last:]))
    return scores


def trend_z(values: Tensor) -> Tensor:
    r"""Slope over its standard error in a least-squares line through each row: [R, n] -> [R]. Above
    about 3, the bound still rose.

    $$z = \hat b / \mathrm{se}(\hat b), \qquad
    \mathrm{se}^2 = \frac{\sum_i e_i^2}{(n - 2) \sum_i (t_i - \bar t)^2}$$
    """
    n = values.shape[1]
    t = torch.arange(n, dtype=values.dtype) - (n - 1) / 2
    centred = values - values.mean(1, keepdim=True)
    slope = centred @ t / t.square().sum()
    residual = (centred - slope[:, None] * t).square().sum(1)
    return slope / torch.sqrt(residual / (n - 2) / t.square().sum()).clamp(min=math.ulp(0.0))
