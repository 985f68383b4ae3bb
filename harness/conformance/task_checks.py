"""What every task must satisfy: its densities, scores, exact answers, data and protocols agree with
one another.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from harness.api import Batch, Data, Params, Task
from harness.base.spec import Protocol
from harness.conformance.exactness import (
    evidence_agrees_with_sampling,
    joint_is_evidence_times_posterior,
    mle_is_the_maximum,
    score_is_the_gradient,
)
from harness.conformance.problems import (
    LIKE,
    Check,
    RecordedNoise,
    Verdict,
    choices,
    distance,
    equal,
    global_state,
    leaf_fault,
    reseeded,
    run_checks,
)
from harness.conformance.task_samples import (
    BASES,
    BATCH,
    batches_of,
    data_of,
    replicate_seeds,
    scored_of,
    sized,
    somewhere,
    theta_of,
)
from harness.numerics.noise import Noise
from harness.training.evaluation import task_metrics
from harness.training.loop import load_data, streams


def check_task(cls: type[Task], seed: int = 0, thoroughness: float = 1.0) -> Iterator[Check]:
    """Prove a task, one check at a time.

    Args:
        cls: the task's class; it must work with its defaults.
        seed: of all that is drawn.
        thoroughness: multiplies the draws of the statistical checks.
    """
    yield from run_checks(TASK_CHECKS, cls, seed, thoroughness)


def _splits(data: Data) -> dict[str, Tensor]:
    named = {"train": data.train, "validation": data.validation, "test": data.test}
    return {
        f"{split}/{name}": leaf
        for split, leaves in named.items()
        if leaves
        for name, leaf in leaves.items()
    }


def data_depend_on_the_seed_alone(cls: type[Task], seed: int, _: float) -> Verdict:
    """`load` gives the same bits whatever else was done, and whatever the global generators;
    another seed gives others.
    """
    task, noise = cls(), RecordedNoise([f"{seed}/data"])
    with reseeded(1):
        before = global_state()
        first = _splits(task.load(noise))
        if global_state() != before:
            return False, "load moved a global generator"
    for base in BASES:
        theta, data = theta_of(task, seed, base), data_of(task, seed)
        for batch in batches_of(task, data, seed):
            problem = task.problem(theta, batch, base, training=True)
            problem.log_joint(problem.base.sample(Noise([f"{seed}/draw"]), 2))
        with reseeded(2):
            if not equal(first, _splits(task.load(Noise([f"{seed}/data"])))):
                return False, f"the data changed after a method with base {base} had been prepared"
    others = _splits(task.load(Noise([f"{seed + 1}/data"])))
    if noise.draws and equal(first, others):
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
    if problem.log_joint(somewhere(problem, stream)).shape != (4, shape[0]):
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
            z = somewhere(problem, f"{seed}/z", 2).requires_grad_()
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
        for index, each in enumerate(seeds):
            own = {name: leaf[index : index + 1] for name, leaf in theta.items()}
            alone = _answers(task, own, (each,), base, z[:, index : index + 1])
            worst = max(
                [
                    worst,
                    *(
                        distance(stack[name].narrow(axis, index, 1), alone[name])
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
    def known(address: str) -> bool:
        owner, _, field = address.rpartition(".")
        return owner == "method" or field in {
            "": Protocol.model_fields,
            "task": cls.model_fields,
        }.get(owner, {})

    return [f"no field '{address}'" for address in settings if not known(address)]


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
