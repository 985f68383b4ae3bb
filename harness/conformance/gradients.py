"""Whether a method's particles are independent, and its gradients there and right."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.api import Method, Particles
from harness.conformance.problems import (
    JITTER,
    LIKE,
    N_CONTEXT,
    RecordedNoise,
    Target,
    Verdict,
    called,
    conjugate,
    main_settings,
    method_leaves,
)
from harness.densities import DiagNormal
from harness.numerics import bounds
from harness.numerics.noise import Noise

Leaves = dict[str, Tensor]


def particles_are_independent(cls: type[Method], seed: int, _: float) -> Verdict:
    """log_w[s, n] and z[s, n] have a gradient of exactly zero in the noise of every other particle
    and problem.
    """
    n, largest = 3, 0.0
    for values, n_context in [*((values, 0) for values in main_settings(cls)), ({}, N_CONTEXT)]:
        method, noise = cls(**values), RecordedNoise([f"{seed}/independence"])
        streams = [f"{seed}/independence/{replicate}" for replicate in range(1 if n_context else n)]
        params = method_leaves(method, 2, streams, n_context, JITTER)
        particles = method.particles(
            params, conjugate(n, 2, f"{seed}/independence", n_context).problem(), noise, n
        )
        for index in range(n * n):
            s, k = divmod(index, n)
            outputs = particles.log_w[s, k] + particles.z[s, k].sum()
            own = torch.zeros(n, n, dtype=torch.bool)
            own[s, k] = True
            slopes = torch.autograd.grad(outputs, noise.draws, retain_graph=True, allow_unused=True)
            foreign = [float(slope[~own].abs().amax()) for slope in slopes if slope is not None]
            largest = max(largest, *foreign)
        if not any(draw.requires_grad for draw in noise.draws):
            return False, "nothing was drawn from the noise"
    return (
        largest == 0.0,
        f"largest slope in the noise of another particle or problem {largest:.1e} (limit 0)",
    )


def _all_leaves(method: Method, seed: int, n_context: int) -> tuple[Leaves, Tensor | None]:
    """The leaves of a method and of its problems, `method.*`, `base.*` and `posterior.*`, with two
    problems, jittered.
    """
    target = conjugate(2, 2, f"{seed}/gradients", n_context)
    streams = [f"{seed}/gradients/{replicate}" for replicate in range(1 if n_context else 2)]
    leaves = {
        f"method.{name}": leaf
        for name, leaf in method_leaves(method, 2, streams, n_context, JITTER).items()
    }
    for owner, density in (("base", target.base), ("posterior", target.posterior)):
        leaves |= {f"{owner}.mean": density.mean, f"{owner}.log_scale": density.log_scale}
    return leaves, target.context


def _draw_at(
    method: Method, leaves: Leaves, context: Tensor | None, stream: str, n_particles: int
) -> Particles:
    params = {
        name.removeprefix("method."): leaf
        for name, leaf in leaves.items()
        if name.startswith("method.")
    }
    base, posterior = (
        DiagNormal(leaves[f"{owner}.mean"], leaves[f"{owner}.log_scale"])
        for owner in ("base", "posterior")
    )
    target = Target(base, posterior, torch.zeros(len(base.mean), dtype=torch.float64), context)
    return method.particles(params, target.problem(), Noise([stream]), n_particles)


def gradients(value: Tensor, leaves: Leaves) -> Leaves:
    """The slope of `value` in each leaf, zeros where it does not depend on it."""
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if slope is None else slope
        for (name, leaf), slope in zip(leaves.items(), found, strict=True)
    }


def parameters_get_gradients(cls: type[Method], seed: int, _: float) -> Verdict:
    """Every leaf of the method and of the base has a finite gradient of the ELBO that is not zero."""
    lacking = []
    for values, n_context in [*((values, 0) for values in main_settings(cls)), ({}, N_CONTEXT)]:
        leaves, context = _all_leaves(cls(**values), seed, n_context)
        leaves = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
        log_w = _draw_at(cls(**values), leaves, context, f"{seed}/gradients", 8).log_w
        for name, slope in gradients(bounds.elbo(log_w).sum(), leaves).items():
            if not bool(slope.isfinite().all()) or not bool(slope.any()):
                lacking.append(f"{name} at {called(values)}")
    return not lacking, f"{len(lacking)} leaves without one (limit 0)" + (
        f": {lacking[0]}" if lacking else ""
    )


def gradients_are_right(cls: type[Method], seed: int, _: float) -> Verdict:
    r"""Slopes along a random direction in each leaf equal central differences, extrapolated from
    steps h and h/2.

    The differences' own error is judged by how far the two steps disagree and by rounding,
    $\epsilon \sum |\log w| / h$; the limit is ten times the first and a hundred times the second.
    """
    worst, place = 0.0, ""
    for values, n_context in [*((values, 0) for values in main_settings(cls)), ({}, N_CONTEXT)]:
        for name, excess in _slope_errors(cls(**values), seed, n_context):
            if not excess <= worst:
                worst, place = excess, f" in {name} at {called(values)}"
    return worst <= 1.0, f"largest difference {worst:.2g} times its own error{place} (limit 1)"


def _slope_errors(
    method: Method, seed: int, n_context: int, h: float = 1e-4
) -> Iterator[tuple[str, float]]:
    """Each leaf's difference between slope and central difference, over the difference's error."""
    leaves, context = _all_leaves(method, seed, n_context)
    noise = Noise([f"{seed}/directions"])
    weight = noise.normal(2, 2, like=LIKE)

    def value(leaves: Leaves) -> Tensor:
        return weight * _draw_at(method, leaves, context, f"{seed}/differences", 2).log_w

    recorded = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
    at_start = value(recorded)
    slopes = gradients(at_start.sum(), recorded)
    rounding = 100 * torch.finfo(torch.float64).eps * (1 + float(at_start.detach().abs().sum())) / h
    for name, leaf in leaves.items():
        direction = noise.normal(*leaf.shape, like=LIKE)

        def slope(
            step: float, name: str = name, leaf: Tensor = leaf, direction: Tensor = direction
        ) -> float:
            above, below = (
                value(leaves | {name: leaf + side * step * direction}) for side in (1, -1)
            )
            return float((above - below).sum()) / (2 * step)

        with torch.no_grad():
            coarse, fine = slope(h), slope(h / 2)
        error = 10 * abs(fine - coarse) + rounding
        yield name, abs(float((slopes[name] * direction).sum()) - (4 * fine - coarse) / 3) / error
