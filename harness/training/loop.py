"""The one training loop: a generator over a stack of replicates, with everything it remembers in a
`State`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from harness.api import Batch, Data, Method, Params, Particles, Problem, Task
from harness.base.errors import PluginError
from harness.base.spec import Protocol
from harness.numerics.bounds import BOUNDS
from harness.numerics.noise import TRAIN_BLOCK, Noise
from harness.numerics.optimisers import UPDATES, learning_rate
from harness.training.recorded_steps import Replayed

CURVES = ("bound", "grad_norm")
CURVE_POINTS = 200
NEVER = -1


@dataclass(frozen=True)
class Layout:
    """Where each leaf lies in a flat row of parameters. Leaves are called `task.*` and `method.*`."""

    shapes: dict[str, torch.Size]

    def views(self, flat: Tensor) -> Params:
        """The leaves [R, *event] of `flat` [R, P]."""
        parts = flat.split([shape.numel() for shape in self.shapes.values()], dim=-1)
        return {
            name: part.unflatten(-1, shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def owned(self, flat: Tensor) -> tuple[Params, Params]:
        """The leaves of the task and those of the method, without the prefix."""
        views = self.views(flat).items()
        theta = {name[5:]: leaf for name, leaf in views if name.startswith("task.")}
        return theta, {name[7:]: leaf for name, leaf in views if name.startswith("method.")}


@dataclass
class State:
    """All that training remembers of a stack of R replicates. `layout`, `data` and `start` follow
    from the seeds; the rest is saved.

    Shapes: `flat`, `start` and `moments` [R, P]; `curve` [R, curves, points], NaN where not
    reached; `window` [R, curves], sums since the last point; `diverged_at` [R], the step at which a
    replicate was frozen, or -1. From then on nothing of that replicate changes. Where validation
    data are looked at: the bound at each look, `validation` [R, looks], NaN where not reached, and
    the parameters at the best one, `best` [R, P], NaN before the first; empty elsewhere.
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

    @property
    def alive(self) -> Tensor:
        """Which replicates still train, [R]."""
        return self.diverged_at == NEVER

    def to(self, device: str) -> None:
        """Move every tensor to a device."""
        for name, kept in list(vars(self).items()):
            if isinstance(kept, Tensor):
                setattr(self, name, kept.to(device))
        self.moments = {name: moment.to(device) for name, moment in self.moments.items()}
        splits = {name: split for name, split in vars(self.data).items() if split is not None}
        self.data = Data(
            **{
                name: {leaf: kept.to(device) for leaf, kept in split.items()}
                for name, split in splits.items()
            }
        )

    def keep(self) -> Callable[[], None]:
        """Keep what steps change; returns what puts it back."""
        step, changed = (
            self.step,
            {
                name: getattr(self, name).clone()
                for name in ("flat", "curve", "window", "diverged_at")
            },
        )
        moments = {name: moment.clone() for name, moment in self.moments.items()}
        return lambda: vars(self).update(changed, step=step, moments=moments)

    def reached(self, replicate: int) -> int:
        """Steps that a replicate has taken: all so far, or those before it was frozen."""
        diverged = int(self.diverged_at[replicate])
        return self.step if diverged == NEVER else diverged


@dataclass(frozen=True)
class Progress:
    """One finished step: how many steps are done, and the bound of each replicate [R] at the
    parameters before the update, nats.

    Whoever keeps or scores the state of a step that is not the last asks `holds()` first: where
    steps that were played back turn out wrong, it is false, the state is an earlier one again, and
    the next steps are taken anew. `remark`: what there is to say of that.
    """

    step: int
    bound: Tensor
    holds: Callable[[], bool]
    remark: str | None = None


def streams(seeds: Sequence[int], name: str) -> list[str]:
    """The random streams called `name`, one a seed."""
    return [f"{seed}/{name}" for seed in seeds]


def load_data(task: Task, seeds: Sequence[int], dtype: torch.dtype) -> Data:
    """The data of each seed in a stack (or of the one seed, where the task does not stack), with
    real numbers as `dtype`.
    """
    loaded = [task.load(Noise([stream])) for stream in streams(seeds, "data")]

    def together(split: str) -> dict[str, Tensor] | None:
        replicates = [getattr(data, split) for data in loaded]
        if replicates[0] is None:
            return None
        cast = [
            {
                name: leaf.to(dtype) if leaf.is_floating_point() else leaf
                for name, leaf in split.items()
            }
            for split in replicates
        ]
        return (
            {name: torch.stack([split[name] for split in cast]) for name in cast[0]}
            if task.stacks
            else cast[0]
        )

    train = together("train")
    if train is None:
        raise PluginError(f"Task '{task.name}' returned no training data from load().")
    return Data(train, together("validation"), together("test"))


def initial_leaves(method: Method, task: Task, base: str, seed: int) -> Params:
    """One replicate's first parameters, [*event], called `task.*` and `method.*`.

    Raises:
        PluginError: one of them has no axis.
    """
    theta = task.init(base, Noise([f"{seed}/init/task"]))
    phi = method.init(task.latent_dim, Noise([f"{seed}/init/method"]), task.n_context)
    for kind, plugin, leaves in (("Task", task, theta), ("Method", method, phi)):
        if scalars := [name for name, leaf in leaves.items() if not leaf.ndim]:
            raise PluginError(
                f"{kind} '{plugin.name}' returned leaf '{scalars[0]}' of shape [] from init(); a scalar has shape [1]."
            )
    return {f"task.{name}": leaf for name, leaf in theta.items()} | {
        f"method.{name}": leaf for name, leaf in phi.items()
    }


def curve_stride(steps: int) -> int:
    """Steps that are averaged into one point of a curve."""
    return math.ceil(steps / CURVE_POINTS)


def start(method: Method, task: Task, protocol: Protocol, seeds: Sequence[int]) -> State:
    """The state before the first step."""
    dtype = getattr(torch, protocol.dtype)
    replicates = [initial_leaves(method, task, protocol.base, seed) for seed in seeds]
    layout = Layout({name: leaf.shape for name, leaf in replicates[0].items()})
    flat = torch.stack(
        [torch.cat([leaf.flatten() for leaf in leaves.values()]).to(dtype) for leaves in replicates]
    )
    points = math.ceil(protocol.steps / curve_stride(protocol.steps))
    return State(
        seeds=tuple(seeds),
        layout=layout,
        data=load_data(task, seeds, dtype),
        start=flat.clone(),
        step=0,
        flat=flat,
        moments={name: torch.zeros_like(flat) for name in UPDATES[protocol.optimiser][1]},
        curve=torch.full((len(seeds), len(CURVES), points), math.nan, dtype=torch.float64),
        window=torch.zeros(len(seeds), len(CURVES), dtype=torch.float64),
        diverged_at=torch.full((len(seeds),), NEVER),
        validation=torch.full(
            (
                len(seeds),
                protocol.steps // protocol.validate_every if protocol.validate_every else 0,
            ),
            math.nan,
        ).double(),
        best=torch.full_like(flat, math.nan)[:, : flat.shape[1] if protocol.validate_every else 0],
    )


def draw(
    method: Method, task: Task, problem: Problem, phi: Params, noise: Noise, n_particles: int
) -> Particles:
    """The method's particles, with their shapes checked against the contract.

    Raises:
        PluginError: z is not [S, N, D], or log_w is not [S, N].
    """
    particles = method.particles(phi, problem, noise, n_particles)
    n_problems, dim = problem.base.mean.shape
    for name, leaf, shape in (
        ("z", particles.z, (n_particles, n_problems, dim)),
        ("log_w", particles.log_w, (n_particles, n_problems)),
    ):
        if tuple(leaf.shape) != shape:
            letters = "[S, N, D]" if name == "z" else "[S, N]"
            got = f"{name} of shape {list(leaf.shape)} on task '{task.name}'"
            raise PluginError(
                f"Method '{method.name}' returned {got}; it must be {letters} = {list(shape)}."
            )
    return particles


def replicate_bound(
    method: Method,
    task: Task,
    protocol: Protocol,
    layout: Layout,
    flat: Tensor,
    batch: Batch,
    noise: Noise,
) -> Tensor:
    """The bound of each replicate at parameters `flat`, nats: [R]."""
    theta, phi = layout.owned(flat)
    problem = task.problem(theta, batch, protocol.base, training=True)
    log_w = draw(method, task, problem, phi, noise, protocol.particles).log_w
    bound = BOUNDS[protocol.bound](log_w)  # [S, N] -> [N]
    return bound if task.stacks else bound.mean(0, keepdim=True)  # [N] = [R], or [1]


def bound_and_gradient(
    method: Method,
    task: Task,
    protocol: Protocol,
    layout: Layout,
    flat: Tensor,
    batch: Batch,
    noise: Noise,
) -> tuple[Tensor, Tensor]:
    """The bound of each replicate [R], nats, and its gradient by that replicate's parameters [R,
    P].
    """
    flat = flat.detach().requires_grad_()
    bound = replicate_bound(method, task, protocol, layout, flat, batch, noise)
    (gradient,) = torch.autograd.grad(bound.sum(), flat)
    return bound.detach(), gradient


def train(method: Method, task: Task, protocol: Protocol, state: State) -> Iterator[Progress]:
    """Climb the bound until `protocol.steps`, changing `state` in place and yielding after every
    step.

    Logging, checkpoints, pruning and time limits belong to whoever iterates: stop iterating to stop
    training. A replicate whose bound or gradient is not finite is frozen where it stood, and the
    others go on; training ends early only when all are frozen.
    """
    update, _ = UPDATES[protocol.optimiser]
    noise = Noise(streams(state.seeds, "train"), TRAIN_BLOCK)
    order = Noise(streams(state.seeds, "batch"), shuffled=protocol.shuffle)
    stride = curve_stride(protocol.steps)
    climb = Replayed(
        partial(bound_and_gradient, method, task, protocol, state.layout), task.stacks, state.keep
    )

    def batch_of(number: int) -> Batch:
        return task.batch(state.data, number, protocol.batch_size, order.at(number))

    def holds() -> bool:
        return climb.holds(state.flat, partial(batch_of, state.step - 1), noise, state.step - 1)

    while state.step < protocol.steps and bool(state.alive.any()):
        batch = batch_of(state.step)
        taken = climb(state.flat, batch, noise, state.step, last=state.step == protocol.steps - 1)
        if taken is None:
            continue
        bound, gradient = taken
        norm = gradient.norm(dim=1)
        healthy = (bound + norm).isfinite()
        if not healthy.all():
            if bool((state.alive & ~healthy).any()) and not climb.holds(
                state.flat, partial(batch_of, state.step), noise, state.step
            ):
                continue
            state.diverged_at.masked_fill_(state.alive & ~healthy, state.step)
        if protocol.clip_norm is not None:
            gradient = gradient * (protocol.clip_norm / (norm + 1e-6)).clamp(max=1.0)[:, None]
        rate = torch.full_like(norm, learning_rate(protocol, state.step), dtype=torch.float64).to(
            norm.dtype
        )[:, None]  # [R, 1]
        frozen = ~state.alive
        disturbed = bool(frozen.any())
        kept = (
            [(tensor, tensor[frozen]) for tensor in (state.flat, *state.moments.values())]
            if disturbed
            else []
        )
        update(state.flat, gradient, state.moments, state.step, rate, protocol)
        for tensor, before in kept:
            tensor[frozen] = before
        state.step += 1
        _record(
            state,
            torch.stack([bound, norm], dim=1),
            frozen if disturbed else None,
            stride,
            protocol.steps,
        )
        remark, climb.remark = climb.remark, None
        yield Progress(state.step, bound, holds, remark)


def _record(state: State, values: Tensor, frozen: Tensor | None, stride: int, steps: int) -> None:
    """Add a step's values [R, curves] to the window; at its end, make a point of the curve. A
    frozen replicate's stay empty.
    """
    state.window += values
    if frozen is not None:
        state.window[frozen] = 0.0
    if state.step % stride and state.step != steps:
        return
    point = (state.step - 1) // stride
    means = state.window / (state.step - point * stride)
    state.curve[:, :, point] = (
        means if frozen is None else torch.where(frozen[:, None], math.nan, means)
    )
    state.window.zero_()


def curves(state: State, replicate: int, steps: int) -> dict[str, list[tuple[int, float]]]:
    """The points that a replicate reached, as (steps done, mean over the window that ends there)."""
    stride = curve_stride(steps)
    reached = state.reached(replicate)
    ends = [min((point + 1) * stride, steps) for point in range(state.curve.shape[-1])]
    n_points = sum(end <= reached for end in ends)
    values = state.curve[replicate, :, :n_points].tolist()
    return {
        name: list(zip(ends[:n_points], row, strict=True))
        for name, row in zip(CURVES, values, strict=True)
    }
