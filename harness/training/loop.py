"""The one training loop, with validation in it: a generator that remembers all in a `State`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from harness.api import Batch, Data, Method, Params, Particles, Problem, Task
from harness.base.errors import PluginError, UsageError
from harness.base.spec import Protocol
from harness.numerics.bounds import BOUNDS
from harness.numerics.noise import TRAIN_BLOCK, Noise
from harness.numerics.optimisers import UPDATES, learning_rate
from harness.training.recorded_steps import RecordedSteps
from harness.training.surrogates import log_weights_of_constants, surrogate

CURVES = ("bound", "grad_norm")
CURVE_POINTS = 200
NEVER = -1
CHOICE_DRAWS = 1_000
PARTICLE_BLOCK = 250
"""Particles drawn by one generator, and computed at a time: how memory is bounded without touching
a number.
"""
SPIKE = 4.0
"""Standard errors by which earlier parameters are better than the last ones after a spike."""


@dataclass(frozen=True)
class Layout:
    """The order of the leaves, `task.*` and `method.*`, in a flat row of parameters."""

    shapes: dict[str, torch.Size]

    def views(self, flat: Tensor) -> Params:
        """View `flat` [R, P] as leaves [R, *event]."""
        columns = flat.split([shape.numel() for shape in self.shapes.values()], dim=-1)
        return {
            name: leaf.unflatten(-1, shape)
            for (name, shape), leaf in zip(self.shapes.items(), columns, strict=True)
        }

    def owned(self, flat: Tensor) -> tuple[Params, Params]:
        """View `flat` as the leaves of the task and those of the method, without the prefix."""
        views = self.views(flat).items()
        theta = {name[5:]: leaf for name, leaf in views if name.startswith("task.")}
        return theta, {name[7:]: leaf for name, leaf in views if name.startswith("method.")}


@dataclass
class State:
    """What training remembers of a stack of R replicates. `layout`, `data` and `start` follow from
    the seeds; the rest is saved, and `start` too where `is_warm`: another run gave it.

    Shapes: `flat`, `start` and `moments` [R, P]; `curve` [R, curves, points], NaN where not
        reached; `window` [R, curves], sums since the last point; `diverged_at` [R], the step at
        which a replicate was frozen, or -1: from then on nothing of it changes. With a validation
        every so many steps: the bounds, `validation` [R, validations], NaN where not reached, and
        the parameters at the best one, `best` [R, P], NaN before the first; empty otherwise. With
        `eval_parameters=best`: `best`, the parameters at which the window with the best mean bound
        began, that mean and that step, `best_bound` and `best_step` [R], and where the present
        window began, `window_start` [R, P]; at the end also `last_elbo` [R].
    """

    seeds: tuple[int, ...]
    layout: Layout
    data: Data
    start: Tensor
    step: int
    flat: Tensor
    moments: dict[str, Tensor]
    curve: Tensor
    window: Tensor
    diverged_at: Tensor
    validation: Tensor
    best: Tensor
    best_bound: Tensor
    best_step: Tensor
    window_start: Tensor
    last_elbo: Tensor
    is_warm: bool = False

    @property
    def alive(self) -> Tensor:
        """Tell which replicates still train, [R]."""
        return self.diverged_at == NEVER

    def to(self, device: str) -> None:
        """Move every tensor to a device."""
        for name, value in list(vars(self).items()):
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        self.moments = {name: moment.to(device) for name, moment in self.moments.items()}
        self.data = Data(
            **{
                split: {name: leaf.to(device) for name, leaf in leaves.items()}
                for split, leaves in vars(self.data).items()
                if leaves is not None
            }
        )

    def snapshot(self) -> Callable[[], None]:
        """Copy what steps change; returns a function that puts it back."""
        changing = ["flat", "curve", "window", "diverged_at"]
        if len(self.window_start):
            changing += ["best", "best_bound", "best_step", "window_start"]
        copies = {name: getattr(self, name).clone() for name in changing}
        moments = {name: moment.clone() for name, moment in self.moments.items()}
        step = self.step
        return lambda: vars(self).update(copies, step=step, moments=moments)

    def steps_taken(self, replicate: int) -> int:
        """Count the steps of a replicate: all so far, or those before it was frozen."""
        diverged = int(self.diverged_at[replicate])
        return self.step if diverged == NEVER else diverged

    def best_parameters(self) -> Tensor:
        """Return the parameters to be scored, [R, P]: the best on validation data, or of the best
        window of steps, where there are such; else the last.
        """
        if not self.best.shape[1]:
            return self.flat
        return torch.where(self.best.isnan().any(1, keepdim=True), self.flat, self.best)


@dataclass(frozen=True)
class Progress:
    """One finished step: how many steps are done, and the bound of each replicate [R] at the
    parameters before the update, nats.

    Call `confirmed()` before the state of a step that is not the last is saved or scored: it is
    false where replayed steps were wrong, and the state is an earlier one again. `warning` says
    why, once.
    """

    step: int
    bound: Tensor
    confirmed: Callable[[], bool]
    warning: str | None = None


def streams(seeds: Sequence[int], name: str) -> list[str]:
    """Name a random stream of each seed."""
    return [f"{seed}/{name}" for seed in seeds]


def load_data(task: Task, seeds: Sequence[int], dtype: torch.dtype) -> Data:
    """Load the data of each seed of a stack, with real numbers as `dtype`.

    Raises:
        PluginError: there are no training data.
    """
    loaded = streams(seeds[:1] if task.shares_data else seeds, "data")
    replicates = [task.load(Noise([stream])) for stream in loaded]

    def stacked(split: str) -> dict[str, Tensor] | None:
        if getattr(replicates[0], split) is None:
            return None
        cast = [
            {
                name: leaf.to(dtype) if leaf.is_floating_point() else leaf
                for name, leaf in getattr(data, split).items()
            }
            for data in replicates
        ]
        if not task.stacks or task.shares_data:
            return cast[0]
        return {name: torch.stack([leaves[name] for leaves in cast]) for name in cast[0]}

    train = stacked("train")
    if train is None:
        raise PluginError(f"Task '{task.name}' returned no training data from load().")
    return Data(train, stacked("validation"), stacked("test"))


def initial_leaves(method: Method, task: Task, base: str, seed: int) -> Params:
    """Draw one replicate's first parameters, [*event], called `task.*` and `method.*`.

    Raises:
        PluginError: a leaf has no axis.
    """
    theta = task.init(base, Noise([f"{seed}/init/task"]))
    phi = method.init(task.latent_dim, Noise([f"{seed}/init/method"]), task.n_context)
    for kind, plugin, leaves in (("Task", task, theta), ("Method", method, phi)):
        if scalars := [name for name, leaf in leaves.items() if not leaf.ndim]:
            raise PluginError(
                f"{kind} '{plugin.name}' returned leaf '{scalars[0]}' of shape [] from init(); a "
                "scalar has shape [1]."
            )
    return {f"task.{name}": leaf for name, leaf in theta.items()} | {
        f"method.{name}": leaf for name, leaf in phi.items()
    }


def curve_stride(steps: int) -> int:
    """Count the steps that are averaged into one point of a curve."""
    return math.ceil(steps / CURVE_POINTS)


def start(method: Method, task: Task, protocol: Protocol, seeds: Sequence[int]) -> State:
    """Return the state before the first step."""
    dtype = getattr(torch, protocol.dtype)
    replicates = [initial_leaves(method, task, protocol.base, seed) for seed in seeds]
    empty = torch.zeros(0, dtype=dtype)  # of a target whose base is the prior, under vb
    flat = torch.stack(
        [
            torch.cat([empty, *(leaf.flatten().to(dtype) for leaf in leaves.values())])
            for leaves in replicates
        ]
    )
    R, n_points = len(seeds), math.ceil(protocol.steps / curve_stride(protocol.steps))
    n_validations = protocol.steps // protocol.validate_every if protocol.validate_every else 0
    n_best = flat.shape[1] if protocol.validate_every or protocol.eval_parameters == "best" else 0
    n_windowed = R if protocol.eval_parameters == "best" else 0
    return State(
        seeds=tuple(seeds),
        layout=Layout({name: leaf.shape for name, leaf in replicates[0].items()}),
        data=load_data(task, seeds, dtype),
        start=flat.clone(),
        step=0,
        flat=flat,
        moments={name: torch.zeros_like(flat) for name in UPDATES[protocol.optimiser][1]},
        curve=torch.full((R, len(CURVES), n_points), math.nan, dtype=torch.float64),
        window=torch.zeros(R, len(CURVES), dtype=torch.float64),
        diverged_at=torch.full((R,), NEVER),
        validation=torch.full((R, n_validations), math.nan, dtype=torch.float64),
        best=torch.full_like(flat, math.nan)[:, :n_best],
        best_bound=torch.full((n_windowed,), -math.inf, dtype=torch.float64),
        best_step=torch.zeros(n_windowed, dtype=torch.int64),
        window_start=flat[:n_windowed].clone(),
        last_elbo=torch.full((n_windowed,), math.nan, dtype=torch.float64),
    )


def extended(method: Method, task: Task, protocol: Protocol, state: State) -> State:
    """Return the state of one replicate as one of a longer run, `protocol`, that took the same
    steps; its curve begins there.
    """
    longer = start(method, task, protocol, state.seeds)
    longer.step, longer.flat = state.step, state.flat.clone()
    longer.start, longer.is_warm = state.start.clone(), state.is_warm
    longer.moments = {name: moment.clone() for name, moment in state.moments.items()}
    longer.validation[:, : state.validation.shape[1]] = state.validation
    longer.best = state.best.clone()
    longer.best_bound, longer.best_step = state.best_bound.clone(), state.best_step.clone()
    longer.window_start = longer.flat[: len(state.best_step)].clone()
    # The window that is open at this step holds none of the steps before: it has no point.
    longer.window.fill_(math.nan if state.step % curve_stride(protocol.steps) else 0.0)
    return longer


def replicate(task: Task, state: State, index: int) -> State:
    """Return one replicate of a stack as a stack of its own."""
    one = {
        name: value[index : index + 1].clone()
        for name, value in vars(state).items()
        if isinstance(value, Tensor)
    }
    is_stacked = task.stacks and not task.shares_data
    splits = {
        split: {name: leaf[index : index + 1] for name, leaf in leaves.items()}
        for split, leaves in vars(state.data).items()
        if leaves is not None
    }
    moments = {name: moment[index : index + 1].clone() for name, moment in state.moments.items()}
    data = Data(**splits) if is_stacked else state.data
    return replace(state, **one, seeds=(state.seeds[index],), moments=moments, data=data)


def draw(
    method: Method,
    task: Task,
    problem: Problem,
    phi: Params,
    noise: Noise,
    n_particles: int,
    trace: bool = False,
) -> Particles:
    """Draw the method's particles and check their shapes against the contract.

    Raises:
        PluginError: z is not [S, N, D], log_w not [S, N], or a surrogate not [N].
    """
    particles = method.particles(phi, problem, noise, n_particles, trace)
    n_problems, dim = problem.base.mean.shape
    for name, leaf, letters, shape in (
        ("z", particles.z, "[S, N, D]", [n_particles, n_problems, dim]),
        ("log_w", particles.log_w, "[S, N]", [n_particles, n_problems]),
        ("surrogate", particles.surrogate, "[N]", [n_problems]),
    ):
        if leaf is not None and list(leaf.shape) != shape:
            raise PluginError(
                f"Method '{method.name}' returned {name} of shape {list(leaf.shape)} "
                f"on task '{task.name}'; it must be {letters} = {shape}."
            )
    return particles


def bound_and_gradient(
    method: Method,
    task: Task,
    protocol: Protocol,
    layout: Layout,
    flat: Tensor,
    batch: Batch,
    noise: Noise,
) -> tuple[Tensor, Tensor]:
    """Return the bound of each replicate [R], nats, and its gradient [R, P]."""
    flat = flat.detach().requires_grad_()
    theta, phi = layout.owned(flat)
    problem = task.problem(theta, batch, protocol.base, training=True)
    trace = protocol.weighs_given_draws and method.weighs_paths()
    particles = draw(method, task, problem, phi, noise, protocol.particles, trace)
    bound = BOUNDS[protocol.bound](particles.log_w)  # [S, N] -> [N]
    climbed = particles.surrogate
    if protocol.gradient != "total":
        constants = {name: leaf.detach() for name, leaf in theta.items()}
        fixed = partial(task.problem, constants, batch, protocol.base, training=True)
        climbed = surrogate(protocol.gradient, method, phi, problem, fixed, particles)
    elif protocol.bound == "log-variance":
        log_w = log_weights_of_constants(method, phi, problem, particles)
        climbed = BOUNDS[protocol.bound](log_w)
    elif climbed is None:
        climbed = bound
    if not task.stacks:  # [N] -> [1]; else N = R
        bound, climbed = bound.mean(0, keepdim=True), climbed.mean(0, keepdim=True)
    if not flat.numel():
        return bound.detach(), torch.zeros_like(flat)
    (gradient,) = torch.autograd.grad(climbed.sum(), flat)
    return bound.detach(), gradient


def train(method: Method, task: Task, protocol: Protocol, state: State) -> Iterator[Progress]:
    """Climb the bound until `protocol.steps`, changing `state` in place and yielding after every
    step.

    Every `validate_every` steps the bound is taken on the validation data; after `patience` of
    these without a better one training ends. A replicate whose bound or gradient is not finite is
    frozen where it stood; training ends early when all are. Logging, checkpoints and time limits
    belong to whoever iterates: stop iterating to stop training.

    Raises:
        UsageError: the task has no validation data, and is to be validated.
    """
    if protocol.validate_every is not None and state.data.validation is None:
        raise UsageError(
            f"Task '{task.name}' has no validation data. Leave validate_every out: --set "
            "validate_every=none."
        )
    scale = rate_scale(task, protocol, state.layout)
    noise = Noise(streams(state.seeds, "train"), TRAIN_BLOCK)
    order = Noise(streams(state.seeds, "batch"), shuffled=protocol.shuffle)
    objective = partial(bound_and_gradient, method, task, protocol, state.layout)
    recorded = RecordedSteps(objective, task.stacks, state.snapshot)

    def batch_of(step: int) -> Batch:
        return task.batch(state.data, step, protocol.batch_size, order.at(step))

    def confirmed() -> bool:
        step = state.step - 1
        return recorded.confirmed(state.flat, partial(batch_of, step), noise, step)

    while state.step < protocol.steps and state.alive.any() and has_patience(protocol, state):
        step, batch = state.step, batch_of(state.step)
        result = recorded(state.flat, batch, noise, step, is_last=step == protocol.steps - 1)
        if result is None:  # replayed steps were wrong: the state is an earlier one again
            continue
        bound, gradient = result  # [R], [R, P]
        norm = gradient.norm(dim=1)
        finite = (bound + norm).isfinite()
        if not finite.all():
            diverging = state.alive & ~finite
            if diverging.any() and not recorded.confirmed(
                state.flat, partial(batch_of, step), noise, step
            ):
                continue
            state.diverged_at.masked_fill_(diverging, step)
        if protocol.clip_norm is not None:
            gradient = gradient * (protocol.clip_norm / (norm + 1e-6)).clamp(max=1.0)[:, None]
        frozen = ~state.alive if not state.alive.all() else None
        _take_step(protocol, state, gradient, scale, frozen)
        _add_to_curves(state, torch.stack([bound, norm], dim=1), frozen, protocol.steps)
        if protocol.eval_parameters == "best" and state.step == protocol.steps:
            choose_parameters(method, task, protocol, state)
        warning, recorded.warning = recorded.warning, None
        progress = Progress(state.step, bound, confirmed, warning)
        if protocol.validate_every and state.step % protocol.validate_every == 0 and confirmed():
            validate(method, task, protocol, state)
        yield progress


def _take_step(
    protocol: Protocol, state: State, gradient: Tensor, scale: Tensor | None, frozen: Tensor | None
) -> None:
    """Update the parameters and the moments, but not those of `frozen` replicates [R]."""
    update, _ = UPDATES[protocol.optimiser]
    tensors = (state.flat, *state.moments.values())
    frozen_rows = [] if frozen is None else [tensor[frozen] for tensor in tensors]
    rate = learning_rate(protocol, state.step)
    # [R, 1], or [R, P] where groups have their own; beyond the largest float it is inf
    rates = torch.full((len(gradient), 1), rate, dtype=torch.float64, device=gradient.device)
    rates = (rates if scale is None else rates * scale.to(rates)).to(gradient)
    update(state.flat, gradient, state.moments, state.step, rates, protocol)
    for tensor, rows in zip(tensors, frozen_rows, strict=False):
        tensor[frozen] = rows
    state.step += 1


def rate_scale(task: Task, protocol: Protocol, layout: Layout) -> Tensor | None:
    """Return each parameter's learning rate over `lr`, [P]; None where all have `lr`.

    The parameters of a learned base are those that the task has with it alone.
    """
    groups = {"method": protocol.lr_method, "model": protocol.lr_model, "base": protocol.lr_base}
    if not any(groups.values()):
        return None
    of_model = {f"task.{name}" for name in task.init("prior", Noise(["names"]))}

    def group(name: str) -> str:
        return "method" if name.startswith("method.") else "model" if name in of_model else "base"

    rates = [
        torch.full((shape.numel(),), groups[group(name)] or protocol.lr, dtype=torch.float64)
        for name, shape in layout.shapes.items()
    ]
    return torch.cat(rates) / protocol.lr if rates else None


def validate(method: Method, task: Task, protocol: Protocol, state: State) -> None:
    """Add the bound on the validation data to the state, and the parameters if it is the best."""
    assert protocol.validate_every is not None
    number = state.step // protocol.validate_every - 1
    theta, phi = state.layout.owned(state.flat)
    batches = validation_log_weights(method, task, protocol, state, theta, phi)
    bound = torch.cat([BOUNDS[protocol.bound](log_w) for log_w in batches]).double().mean()
    earlier = state.validation[0, :number]
    state.validation[0, number] = bound
    if bound.isfinite() and not bool((earlier >= bound).any()):
        state.best = state.flat.clone()


def has_patience(protocol: Protocol, state: State) -> bool:
    """Tell whether one of the last `patience` validations, if there were any, was the best."""
    if protocol.patience is None:
        return True
    bounds = state.validation[0][~state.validation[0].isnan()]
    return not len(bounds) or len(bounds) - 1 - int(bounds.argmax()) < protocol.patience


def validation_log_weights(
    method: Method, task: Task, protocol: Protocol, state: State, theta: Params, phi: Params
) -> list[Tensor]:
    """Return the log-weights [S, N] of each batch of the validation data, with the same noise every
    time.
    """
    batches, n_problems = [], 0
    with torch.no_grad():
        for batch in task.validation_batches(state.data):
            problem = task.problem(theta, batch, protocol.base)
            numbers = range(n_problems, n_problems + len(problem.base.mean))
            noise = Noise([f"{state.seeds[0]}/validation/{number}" for number in numbers])
            batches.append(draw(method, task, problem, phi, noise, protocol.particles).log_w)
            n_problems += len(numbers)
    return batches


def _add_to_curves(state: State, values: Tensor, frozen: Tensor | None, steps: int) -> None:
    """Add a step's values [R, curves] to the window, and at its end a point to the curve, but none
    of a frozen replicate.
    """
    state.window += values
    if frozen is not None:
        state.window[frozen] = 0.0
    stride = curve_stride(steps)
    if state.step % stride and state.step != steps:
        return
    point = (state.step - 1) // stride
    means = state.window / (state.step - point * stride)
    if frozen is not None:
        means = torch.where(frozen[:, None], math.nan, means)
    state.curve[:, :, point] = means
    state.window.zero_()
    if len(state.window_start):
        better = means[:, 0] > state.best_bound  # NaN is not
        state.best_bound = torch.where(better, means[:, 0], state.best_bound)
        state.best_step = torch.where(better, point * stride, state.best_step)
        state.best = torch.where(better[:, None], state.window_start, state.best)
        state.window_start = torch.where(state.alive[:, None], state.flat, state.window_start)


def choose_parameters(method: Method, task: Task, protocol: Protocol, state: State) -> None:
    """Keep the last parameters as the best ones, unless those at which the best window began have a
    better ELBO on the first batch, on the same fresh draws, by more than `SPIKE` standard errors of
    the difference. A spike at the end of training decides no result then, and neither does the luck
    of one window.
    """
    noise = Noise(streams(state.seeds, "batch"), shuffled=protocol.shuffle)
    batch = task.batch(state.data, 0, protocol.batch_size, noise.at(0))

    def log_weights(flat: Tensor) -> Tensor:  # [draws, R]
        theta, phi = state.layout.owned(flat)
        problem = task.problem(theta, batch, protocol.base)
        n_draws = CHOICE_DRAWS if task.stacks else max(2, CHOICE_DRAWS // len(problem.base.mean))
        draws = Noise(streams(state.seeds, "choice")).at(0)
        log_w = draw(method, task, problem, phi, draws, n_draws).log_w.double()
        return log_w if task.stacks else log_w.reshape(-1, 1)

    with torch.no_grad():
        last, best = log_weights(state.flat), log_weights(state.best)
    gain = best - last
    error = gain.std(0) / math.sqrt(len(gain))
    is_worse = ~last.mean(0).isfinite() | (gain.mean(0) > SPIKE * error)
    replaces = is_worse & best.mean(0).isfinite() & state.alive
    stays = replaces | ~state.alive
    state.best = torch.where(stays[:, None], state.best, state.flat)
    state.best_step = torch.where(stays, state.best_step, state.step)
    state.last_elbo = torch.where(state.alive, last.mean(0), state.last_elbo)


def curves(protocol: Protocol, state: State, replicate: int) -> dict[str, list[tuple[int, float]]]:
    """Return the points that a replicate reached, as (steps done, nats): means over the window that
    ends there, and validation bounds.
    """
    stride, steps = curve_stride(protocol.steps), protocol.steps
    ends = [min((point + 1) * stride, steps) for point in range(state.curve.shape[-1])]
    n_points = sum(end <= state.steps_taken(replicate) for end in ends)
    values = state.curve[replicate, :, :n_points].tolist()
    training = {
        name: list(zip(ends[:n_points], row, strict=True))
        for name, row in zip(CURVES, values, strict=True)
    }
    if protocol.validate_every is None:
        return training
    bounds = enumerate(state.validation[0].tolist(), 1)
    validation = [
        (number * protocol.validate_every, bound)
        for number, bound in bounds
        if not math.isnan(bound)
    ]
    return training | {"validation_bound": validation}
