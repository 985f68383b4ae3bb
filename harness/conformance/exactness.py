"""Whether a task's densities, scores and exact answers agree with one another."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from harness.api import Batch, Data, Oracle, Params, Problem, Task, autograd_score
from harness.conformance.problems import LIKE, Z_LIMIT, Verdict, called, choices, distance
from harness.conformance.task_samples import (
    BASES,
    batches_of,
    data_of,
    replicate_seeds,
    sized,
    small_values,
    somewhere,
    theta_of,
    thetas_of,
)
from harness.numerics import bounds
from harness.numerics.noise import Noise

DRAWS = 20_000
FEWEST_ESS = 500.0
EPSILON = torch.finfo(torch.float64).eps
NO_ORACLE = True, "not applicable: the task has no exact answers"


def joint_is_evidence_times_posterior(cls: type[Task], seed: int, _: float) -> Verdict:
    """log_joint - log posterior = log evidence at random z; of the trained density too, where
    fields are at their defaults.
    """
    if cls().oracle() is None:
        return NO_ORACLE
    worst, place, compared = 0.0, "", 0
    for values in (*sized(cls), *choices(cls)):
        task = cls(**values)
        for error, described in _joint_errors(
            task, seed, training=(False, True) if values in sized(cls) else (False,)
        ):
            compared += 1
            if not error <= worst:
                worst, place = error, f", {described} at {called(values)}"
    if not compared:
        return True, "not applicable: the task has no exact posterior"
    return worst < 1e-12, f"largest relative difference {worst:.1e}{place} (limit 1e-12)"


def _joint_errors(task: Task, seed: int, training: tuple[bool, ...]) -> Iterator[tuple[float, str]]:
    data, oracle = data_of(task, seed), task.oracle()
    if oracle is None:
        return
    for base in BASES:
        for theta in thetas_of(task, data, seed, base):
            for batch in batches_of(task, data, seed):
                posterior, evidence = (
                    oracle.posterior(theta, batch),
                    oracle.log_evidence(theta, batch),
                )
                if posterior is None:
                    return
                for mode in training:
                    problem = task.problem(theta, batch, base, training=mode)
                    z = somewhere(problem, f"{seed}/z")
                    joint, conditional = problem.log_joint(z), posterior.log_prob(z)
                    scale = torch.maximum(
                        torch.maximum(joint.abs(), conditional.abs()), evidence.abs()
                    )
                    error = (joint - conditional - evidence).abs() / scale
                    yield float(error.amax()), "in training" if mode else "in scores"


def score_is_the_gradient(cls: type[Task], seed: int, _: float) -> Verdict:
    """`score` equals autograd of `log_joint`, with and without gradients recorded, and so do its
    slopes in the parameters.
    """
    worst, place = 0.0, ""
    for values in (*sized(cls), *choices(cls)):
        task = cls(**values)
        data = data_of(task, seed)
        for base, training in [(base, training) for base in BASES for training in (False, True)]:
            theta = theta_of(task, seed, base, 0.1)
            for batch in batches_of(task, data, seed):
                error = _score_error(task, theta, batch, base, training, f"{seed}/z")
                if not error <= worst:
                    worst, place = (
                        error,
                        f" at {called(values)}, base {base}{', in training' if training else ''}",
                    )
    return worst < 1e-9, f"largest relative difference {worst:.1e}{place} (limit 1e-9)"


def _score_error(
    task: Task, theta: Params, batch: Batch, base: str, training: bool, stream: str
) -> float:
    recorded = {name: leaf.clone().requires_grad_() for name, leaf in theta.items()}
    problem = task.problem(recorded, batch, base, training=training)
    z = somewhere(problem, stream)
    weight = Noise([f"{stream}/weight"]).normal(*z.shape, like=LIKE)
    own, reference = problem.score(z), autograd_score(problem.log_joint)(z)
    with torch.no_grad():
        unrecorded = task.problem(theta, batch, base, training=training).score(z)
    errors = [distance(own, reference), distance(unrecorded, reference)]
    slopes = [
        torch.autograd.grad(
            (score * weight).sum(), list(recorded.values()), allow_unused=True, retain_graph=True
        )
        if score.requires_grad
        else [None] * len(recorded)
        for score in (own, reference)
    ]
    for mine, right in zip(*slopes, strict=True):
        if mine is not None or right is not None:
            present = right if mine is None else mine
            zero = torch.zeros_like(present if present is not None else z)
            errors.append(
                distance(zero if mine is None else mine, zero if right is None else right)
            )
    return max(errors)


def mle_is_the_maximum(cls: type[Task], seed: int, _: float) -> Verdict:
    r"""At the oracle's best parameters the gradient g of the evidence is zero: a Newton step would
    gain less than rounding hides.

    $$\tfrac12\, g^\top (-H)^{-1} g \le 4 \epsilon\, |\log p(x)|$$

    and no point within ten standard errors has more evidence.
    """
    worst, place = -math.inf, ""
    for values in small_values(cls):
        task = cls(**values)
        data, oracle = data_of(task, seed), task.oracle()
        best = None if oracle is None else oracle.mle(data)
        if oracle is None or best is None:
            return True, "not applicable: the task has no exact maximum"
        for replicate in range(len(replicate_seeds(task, seed))):
            gain, rounding = _gain_beyond_best(
                task, oracle, best, data, replicate, f"{seed}/nearby"
            )
            if not gain / rounding <= worst:
                worst, place = gain / rounding, f" at {called(values)}"
    return (
        worst <= 1.0,
        f"largest gain of evidence over the stated maximum {worst:.2g} times what rounding hides{place} (limit 1)",
    )


def _gain_beyond_best(
    task: Task, oracle: Oracle, best: Params, data: Data, replicate: int, stream: str
) -> tuple[float, float]:
    """The most that one replicate's evidence gains by a Newton step or at random nearby points, and
    what rounding hides; nats.

    Where problems share one set of parameters, it is the evidence of all of them.
    """
    rest = theta_of(task, 0, task.default_base)
    batch = task.batch(data, 0, None, Noise([stream]))
    sizes = [leaf[replicate].numel() for leaf in best.values()]

    def evidence(row: Tensor) -> Tensor:
        moved = dict(best)
        for (name, leaf), part in zip(best.items(), row.split(sizes), strict=True):
            moved[name] = torch.cat(
                [leaf[:replicate], part.reshape(leaf[replicate].shape)[None], leaf[replicate + 1 :]]
            )
        value = oracle.log_evidence(rest | moved, batch)
        return value[replicate] if task.stacks else value.sum()

    row = torch.cat([leaf[replicate].flatten() for leaf in best.values()]).detach()
    gradient, hessian = (
        torch.autograd.functional.jacobian(evidence, row),
        torch.autograd.functional.hessian(evidence, row),
    )
    if not isinstance(gradient, Tensor) or not isinstance(hessian, Tensor):
        raise TypeError("the evidence has no gradient in the parameters")
    newton = 0.5 * float(gradient @ torch.linalg.pinv(-hessian) @ gradient)
    deviation = (-hessian.diagonal()).clamp(min=EPSILON).rsqrt()
    at_best = evidence(row)
    directions = Noise([stream]).normal(12, len(row), like=LIKE)
    nearby = torch.stack(
        [
            evidence(row + 10.0 ** (index % 3 - 1) * deviation * each)
            for index, each in enumerate(directions)
        ]
    )
    gain = float((nearby - at_best).amax())
    return max(abs(newton), gain), float(4 * EPSILON * at_best.abs())


def evidence_agrees_with_sampling(cls: type[Task], seed: int, thoroughness: float) -> Verdict:
    """The oracle's evidence is the integral of the joint density, by importance sampling that does
    not use the oracle.
    """
    worst, counted, tried = 0.0, 0, 0
    for values in small_values(cls):
        task = cls(**values)
        data, oracle = data_of(task, seed), task.oracle()
        if oracle is None:
            return NO_ORACLE
        for theta, batch in [
            (theta, batch)
            for theta in thetas_of(task, data, seed, "prior")
            for batch in batches_of(task, data, seed)
        ]:
            problem, evidence = (
                task.problem(theta, batch, "prior"),
                oracle.log_evidence(theta, batch),
            )
            with torch.no_grad():
                log_w = _importance_weights(problem, f"{seed}/evidence", int(DRAWS * thoroughness))
            z, counts = _evidence_z(log_w, evidence)
            worst, counted, tried = (
                max([worst, *z.abs()[counts].tolist()]),
                counted + int(counts.sum()),
                tried + len(z),
            )
    detail = f"worst |z| {worst:.1f}, {counted} of {tried} settings counted (limits {Z_LIMIT:g} and at least 3)"
    return worst < Z_LIMIT and counted >= 3, detail


def _importance_weights(problem: Problem, stream: str, draws: int) -> Tensor:
    """Log-weights [S, N] of draws from a normal at the joint density's peak, half as wide again;
    from the base if it has no such peak.
    """
    mean, factor = (
        problem.base.mean.detach(),
        torch.diag_embed(problem.base.log_scale.detach().exp()),
    )
    step, _ = _newton(problem, mean)
    beyond, curvature = _newton(
        problem, mean + step
    )  # one step reaches the peak of a normal density; the second tells whether it was one
    if bool((torch.linalg.eigvalsh(-curvature) > 0).all()) and bool(
        (beyond.abs() < 1e-6 * (1 + mean.abs() + step.abs())).all()
    ):
        mean, factor = mean + step, 1.5 * torch.linalg.cholesky(torch.linalg.inv(-curvature))
    noise = Noise([stream]).normal(draws, *mean.shape, like=LIKE)
    z = mean + (factor @ noise[..., None])[..., 0]
    log_q = (
        -0.5 * (noise.square() + math.log(2 * math.pi)).sum(-1)
        - torch.linalg.slogdet(factor).logabsdet
    )
    return problem.log_joint(z).detach() - log_q


def _newton(problem: Problem, z: Tensor) -> tuple[Tensor, Tensor]:
    """The step from `z` [N, D] to the peak, were the joint density normal [N, D], and its curvature
    there [N, D, D].
    """
    with torch.enable_grad():
        point = z.clone().requires_grad_()
        score = autograd_score(problem.log_joint)(point[None])[0]
        rows = [
            torch.autograd.grad(score[:, j].sum(), point, retain_graph=True)[0]
            for j in range(z.shape[1])
        ]
    curvature = torch.stack(rows, -2)
    return -torch.linalg.solve(curvature, score.detach()[..., None])[..., 0], curvature


def _evidence_z(log_w: Tensor, evidence: Tensor) -> tuple[Tensor, Tensor]:
    """Standard errors between sampled and exact evidence of each problem [N], and which can be told
    [N].
    """
    estimate, error = bounds.log_evidence(log_w)
    with np.errstate(over="ignore"):  # hopeless weights are no fault: they do not count
        counts = (bounds.ess(log_w) > FEWEST_ESS) & (
            bounds.pareto_k(log_w) < 0.5
        )  # from 0.5 on weights have no variance
    rounding = 64 * EPSILON * log_w.abs().amax()
    return (estimate - evidence) / (error + rounding), counts
