"""What every task must satisfy: its densities, scores, exact answers, data and protocols agree with
one another.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.api import Batch, Data, Oracle, Params, Problem, Task, autograd_score
from harness.base.spec import Protocol
from harness.conformance.problems import (
    LIKE,
    Z_LIMIT,
    Check,
    RecordedNoise,
    Verdict,
    Worst,
    choices,
    described,
    distance,
    equal,
    global_state,
    leaf_fault,
    reseeded,
    run_checks,
    stacked_leaves,
)
from harness.numerics import bounds
from harness.numerics.noise import Noise
from harness.training.evaluation import task_metrics
from harness.training.loop import load_data, streams

BASES = ("prior", "learned")
BATCH = 7  # examples in a mini-batch: it divides none of the usual sizes of a data set
SMALL = (1, 2, 5)  # values of a whole-number variant
SEEDS = (0, 1, 2)
DRAWS = 20_000
FEWEST_ESS = 500.0
EPSILON = torch.finfo(torch.float64).eps
NO_ORACLE = True, "not applicable: the task has no exact answers"


def check_task(cls: type[Task], seed: int = 0, thoroughness: float = 1.0) -> Iterator[Check]:
    """Prove a task, one check at a time.

    Args:
        cls: the task's class; it must work with its defaults.
        seed: of all that is drawn.
        thoroughness: multiplies the draws of the statistical checks.
    """
    yield from run_checks(TASK_CHECKS, cls, seed, thoroughness)


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
    return tuple(3 * seed + offset for offset in (SEEDS if task.stacks else SEEDS[:1]))


def data_of(task: Task, seed: int) -> Data:
    """Data in double precision."""
    return load_data(task, replicate_seeds(task, seed), torch.float64)


def theta_of(task: Task, seed: int, base: str, jitter: float = 0.0) -> Params:
    """First parameters [R, *event] in double precision, every leaf moved by normal noise of scale
    `jitter`.
    """
    seeds = [str(replicate_seed) for replicate_seed in replicate_seeds(task, seed)]
    return stacked_leaves(
        lambda stream: task.init(base, Noise([f"{stream}/init/task"])), seeds, jitter
    )


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


def random_points(problem: Problem, stream: str, n: int = 4) -> Tensor:
    """Standard normal points, [n, N, D]."""
    return Noise([stream]).normal(n, *problem.base.mean.shape, like=LIKE)


def joint_is_evidence_times_posterior(cls: type[Task], seed: int, _: float) -> Verdict:
    """log_joint - log posterior = log evidence at random z; of the trained density too, where
    fields are at their defaults.
    """
    if cls().oracle() is None:
        return NO_ORACLE
    worst, compared = Worst(), 0
    for values in (*sized(cls), *choices(cls)):
        task = cls(**values)
        for error, mode in _joint_errors(
            task, seed, training=(False, True) if values in sized(cls) else (False,)
        ):
            compared += 1
            worst.add(error, f", {mode} at {described(values)}")
    if not compared:
        return True, "not applicable: the task has no exact posterior"
    return worst.value < 1e-12, (
        f"largest relative difference {worst.value:.1e}{worst.setting} (limit 1e-12)"
    )


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
                    z = random_points(problem, f"{seed}/z")
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
    worst = Worst()
    for values in (*sized(cls), *choices(cls)):
        task = cls(**values)
        data = data_of(task, seed)
        for base, training in [(base, training) for base in BASES for training in (False, True)]:
            theta = theta_of(task, seed, base, 0.1)
            for batch in batches_of(task, data, seed):
                error = _score_error(task, theta, batch, base, training, f"{seed}/z")
                worst.add(
                    error,
                    f" at {described(values)}, base {base}{', in training' if training else ''}",
                )
    return worst.value < 1e-9, (
        f"largest relative difference {worst.value:.1e}{worst.setting} (limit 1e-9)"
    )


def _score_error(
    task: Task, theta: Params, batch: Batch, base: str, training: bool, stream: str
) -> float:
    recorded = {name: leaf.clone().requires_grad_() for name, leaf in theta.items()}
    problem = task.problem(recorded, batch, base, training=training)
    z = random_points(problem, stream)
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
    worst = Worst(-math.inf)
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
            worst.add(gain / rounding, f" at {described(values)}")
    return (
        worst.value <= 1.0,
        f"largest gain of evidence over the stated maximum {worst.value:.2g} times what rounding hides{worst.setting} (limit 1)",
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
        for (name, leaf), values in zip(best.items(), row.split(sizes), strict=True):
            moved[name] = torch.cat(
                [
                    leaf[:replicate],
                    values.reshape(leaf[replicate].shape)[None],
                    leaf[replicate + 1 :],
                ]
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
            evidence(row + 10.0 ** (index % 3 - 1) * deviation * direction)
            for index, direction in enumerate(directions)
        ]
    )
    gain = float((nearby - at_best).amax())
    return max(abs(newton), gain), float(4 * EPSILON * at_best.abs())


def evidence_agrees_with_sampling(cls: type[Task], seed: int, thoroughness: float) -> Verdict:
    """The oracle's evidence is the integral of the joint density, by importance sampling that does
    not use the oracle.
    """
    worst, n_reliable, n_problems = Worst(), 0, 0
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
            z, reliable = _evidence_z(log_w, evidence)
            n_reliable, n_problems = n_reliable + int(reliable.sum()), n_problems + len(z)
            for excess in z.abs()[reliable].tolist():
                worst.add(excess, "")
    detail = f"worst |z| {worst.value:.1f}, {n_reliable} of {n_problems} settings counted (limits {Z_LIMIT:g} and at least 3)"
    return worst.value < Z_LIMIT and n_reliable >= 3, detail


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
        reliable = (bounds.ess(log_w) > FEWEST_ESS) & (
            bounds.pareto_k(log_w) < 0.5
        )  # from 0.5 on weights have no variance
    rounding = 64 * EPSILON * log_w.abs().amax()
    return (estimate - evidence) / (error + rounding), reliable


def _splits(data: Data) -> dict[str, Tensor]:
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    return {
        f"{split}/{name}": leaf
        for split, leaves in splits.items()
        if leaves
        for name, leaf in leaves.items()
    }


def data_depend_on_the_seed_alone(cls: type[Task], seed: int, _: float) -> Verdict:
    """`load` gives the same bits whatever else was done, and whatever the global generators;
    another seed gives others.
    """
    task, noise = cls(), RecordedNoise([f"{seed}/data"])
    with reseeded(1):
        state = global_state()
        data_at_first = _splits(task.load(noise))
        if global_state() != state:
            return False, "load moved a global generator"
    for base in BASES:
        theta, data = theta_of(task, seed, base), data_of(task, seed)
        for batch in batches_of(task, data, seed):
            problem = task.problem(theta, batch, base, training=True)
            problem.log_joint(problem.base.sample(Noise([f"{seed}/draw"]), 2))
        with reseeded(2):
            if not equal(data_at_first, _splits(task.load(Noise([f"{seed}/data"])))):
                return False, f"the data changed after a method with base {base} had been prepared"
    data_of_another_seed = _splits(task.load(Noise([f"{seed + 1}/data"])))
    if noise.draws and equal(data_at_first, data_of_another_seed):
        return False, "another seed gave the same data"
    return True, "same seed, same data, whatever came before" + (
        "; another seed, other data" if noise.draws else "; no split is drawn"
    )


def batches_depend_on_the_step_alone(cls: type[Task], seed: int, _: float) -> Verdict:
    """A batch is the same whichever steps came before it; a shuffled epoch has another order."""
    task = cls()
    data, names = data_of(task, seed), streams(replicate_seeds(task, seed), "batch")
    history = Noise(names)
    in_turn = [_tensors(task.batch(data, step, BATCH, history.at(step))) for step in range(4)]
    for step in (3, 0, 2):
        if not equal(in_turn[step], _tensors(task.batch(data, step, BATCH, Noise(names).at(step)))):
            return False, f"the batch of step {step} depends on the steps before it"
    distinct = not equal(in_turn[0], in_turn[1])
    return (
        distinct,
        "the same after any history" if distinct else "two steps of one epoch had the same batch",
    )


def _tensors(batch: Batch) -> dict[str, Tensor]:
    return {name: leaf for name, leaf in batch.items() if isinstance(leaf, Tensor)}


def leaves_and_metrics_have_their_shapes(cls: type[Task], seed: int, _: float) -> Verdict:
    """First leaves are finite reals [*event] with at least one axis; each metric is [R] and finite;
    the base is [N, D]; evidence is [N].
    """
    for values, base in [(values, base) for values in sized(cls) for base in BASES]:
        task = cls(**values)
        if fault := leaf_fault(task.init(base, Noise([f"{seed}/init"]))):
            return False, fault
        data, theta = data_of(task, seed), theta_of(task, seed, base)
        R = len(replicate_seeds(task, seed))
        for name, metric in task_metrics(task, theta, data).items():
            if metric.shape != (R,) or not bool(metric.isfinite().all()):
                return (
                    False,
                    f"metric '{name}' is {list(metric.shape)}; it must be finite and [R] = [{R}]",
                )
        for batch in (*batches_of(task, data, seed), *scored_of(task, data, seed)):
            if fault := _problem_fault(task, theta, batch, base, R, f"{seed}/z"):
                return False, fault
    return True, "leaves [*event], metrics [R], base [N, D], log_joint [S, N], evidence [N]"


def _problem_fault(
    task: Task, theta: Params, batch: Batch, base: str, R: int, stream: str
) -> str | None:
    """What is wrong with the shapes of a batch's problem and evidence, if anything."""
    problem, oracle = task.problem(theta, batch, base), task.oracle()
    shape, D = problem.base.mean.shape, task.latent_dim
    if (
        shape[1:] != (D,)
        or problem.base.log_scale.shape != shape
        or (task.stacks and shape[0] != R)
    ):
        return f"the base is {list(shape)} and {list(problem.base.log_scale.shape)}; it must be [N, D], D = {D}"
    if problem.log_joint(random_points(problem, stream)).shape != (4, shape[0]):
        return "log_joint of z [S, N, D] must be [S, N]"
    context = 0 if problem.context is None else problem.context.shape[-1]
    if context != task.n_context:
        return f"the context has {context} numbers, and n_context says {task.n_context}"
    if oracle is not None and (got := oracle.log_evidence(theta, batch).shape) != shape[:1]:
        return f"the evidence is {list(got)}; it must be [N] = {list(shape[:1])}"
    return None


def problems_do_not_leak(cls: type[Task], seed: int, _: float) -> Verdict:
    """log_joint[s, n] has a gradient of exactly zero in the z of every other particle and problem."""
    largest = 0.0
    for values, training in [
        (values, training) for values in sized(cls) for training in (False, True)
    ]:
        task = cls(**values)
        data, theta = data_of(task, seed), theta_of(task, seed, task.default_base, 0.1)
        for batch in batches_of(task, data, seed):
            problem = task.problem(theta, batch, task.default_base, training=training)
            z = random_points(problem, f"{seed}/z", 2).requires_grad_()
            for s, n in ((0, 0), (1, z.shape[1] - 1)):
                (slope,) = torch.autograd.grad(problem.log_joint(z)[s, n], z)
                slope[s, n] = 0.0
                largest = max(largest, float(slope.abs().amax()))
    return (
        largest == 0.0,
        f"largest slope in the z of another particle or problem {largest:.1e} (limit 0)",
    )


def replicates_do_not_leak(cls: type[Task], seed: int, _: float) -> Verdict:
    """A stack of three gives the densities, scores and metrics that each replicate gives alone."""
    if not cls.stacks:
        return True, "not applicable: replicates of this task do not stack"
    worst = 0.0
    for values, base in [
        (values, base) for values in (*sized(cls), *choices(cls)) for base in BASES
    ]:
        task = cls(**values)
        seeds, theta = replicate_seeds(task, seed), theta_of(task, seed, base, 0.1)
        z = Noise([f"{seed}/z"]).normal(4, len(seeds), task.latent_dim, like=LIKE)
        stack = _answers(task, theta, seeds, base, z)
        for index, replicate_seed in enumerate(seeds):
            own = {name: leaf[index : index + 1] for name, leaf in theta.items()}
            single = _answers(task, own, (replicate_seed,), base, z[:, index : index + 1])
            worst = max(
                [
                    worst,
                    *(
                        distance(stack[name].narrow(axis, index, 1), single[name])
                        for name in stack
                        for axis in [_axis(name)]
                    ),
                ]
            )
    return (
        worst < 1e-10,
        f"largest relative difference between a stack and one alone {worst:.1e} (limit 1e-10)",
    )


def _axis(name: str) -> int:
    return 0 if name.startswith("metric") else 1


def _answers(
    task: Task, theta: Params, seeds: tuple[int, ...], base: str, z: Tensor
) -> dict[str, Tensor]:
    """Densities and scores [S, R, ...] of every kind of batch, and metrics [R]."""
    data, order = load_data(task, seeds, torch.float64), Noise(streams(seeds, "batch"))
    answers = {f"metric/{name}": value for name, value in task.metrics(theta, data).items()}
    for step, size in ((0, None), (0, BATCH), (3, BATCH)):
        problem = task.problem(
            theta, task.batch(data, step, size, order.at(step)), base, training=True
        )
        own = {
            "joint": problem.log_joint(z),
            "score": problem.score(z),
            "base": problem.base.log_prob(z),
        }
        answers |= {f"{name}/{step}/{size}": value for name, value in own.items()}
    return answers


def protocols_are_valid(cls: type[Task], _: int, __: float) -> Verdict:
    """Every address of a protocol exists, and each makes a whole protocol; `default_protocol` and
    `smoke` are among them.
    """
    problems = [
        f"no protocol '{name}'"
        for name in (cls.default_protocol, "smoke")
        if name not in cls.protocols
    ]
    for name, settings in cls.protocols.items():
        problems += [f"{name}: {message}" for message in _unknown_addresses(cls, settings)]
        problems += [f"{name}: no {field}" for field in ("steps", "lr") if field not in settings]
        if not problems:
            Protocol(
                **{address: value for address, value in settings.items() if "." not in address}
            )
            cls(
                **{
                    address.removeprefix("task."): value
                    for address, value in settings.items()
                    if address.startswith("task.")
                }
            )
    for method, settings in cls.recommended.items():
        problems += [
            f"recommended for {method}: {message}" for message in _unknown_addresses(cls, settings)
        ]
    return not problems, f"{len(problems)} faults (limit 0)" + (
        f": {problems[0]}" if problems else ""
    )


def _unknown_addresses(cls: type[Task], settings: dict[str, Any]) -> list[str]:
    def exists(address: str) -> bool:
        owner, _, field = address.rpartition(".")
        return owner == "method" or field in {
            "": Protocol.model_fields,
            "task": cls.model_fields,
        }.get(owner, {})

    return [f"no field '{address}'" for address in settings if not exists(address)]


def has_a_docstring_and_source(cls: type[Task], _: int, __: float) -> Verdict:
    """The class says what it is and where it comes from."""
    holds = bool(inspect.getdoc(cls)) and "__doc__" in vars(cls) and bool(cls.source)
    return (
        holds,
        "docstring and source are there" if holds else "the class needs a docstring and a `source`",
    )


TASK_CHECKS: dict[str, Callable[[type[Task], int, float], Verdict]] = {
    "joint = evidence x posterior": joint_is_evidence_times_posterior,
    "score is the gradient": score_is_the_gradient,
    "the best parameters are the maximum": mle_is_the_maximum,
    "evidence agrees with sampling": evidence_agrees_with_sampling,
    "data depend on the seed alone": data_depend_on_the_seed_alone,
    "batches depend on the step alone": batches_depend_on_the_step_alone,
    "shapes are kept": leaves_and_metrics_have_their_shapes,
    "problems do not leak": problems_do_not_leak,
    "replicates do not leak": replicates_do_not_leak,
    "protocols are valid": protocols_are_valid,
    "the task says where it comes from": has_a_docstring_and_source,
}
"""Each check of a task by its name."""
