"""Objectives of a method's own: the gradient that is climbed is that of the bound, for every draw
or in expectation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from harness.api import DiagNormal, Method, Particles, Problem, autograd_score, log_std_normal
from harness.conformance.problems import (
    JITTER,
    LIKE,
    N_CONTEXT,
    Z_LIMIT,
    Verdict,
    distance,
    gradients,
    method_leaves,
)
from harness.numerics.bounds import BOUNDS
from harness.numerics.noise import Noise
from harness.training.surrogates import SURROGATES, given_path, surrogate

REPETITIONS = 10_000
NUMBERS = 10_000_000
"""Repetitions times leaves' numbers, at most: each repetition has leaves of its own."""
LARGE, DIRECTIONS = 100, 20
PARTICLES = 5
DIM = 2
OBSERVED = 1.3


class Repeated:
    """One Gaussian model, repeated as N problems with parameters of their own, so that each has its
    own gradient: of the method, of the base, and of the model, whose mean is learned.
    """

    def __init__(self, method: Method, n: int, seed: int) -> None:
        own = method_leaves(method, DIM, f"{seed}/leaves", 1, N_CONTEXT, JITTER)
        n = min(n, NUMBERS // (1 + sum(leaf.numel() for leaf in own.values())))
        leaves = {f"method.{name}": leaf for name, leaf in own.items()}
        start = {"base.mean": 0.3, "base.log_scale": -0.2, "model.mean": 0.5}
        leaves |= {name: LIKE.new_full((1, DIM), value) for name, value in start.items()}
        self.method, self.noise = method, Noise([f"{seed}/gradient"])
        self.leaves = {
            name: leaf.expand(n, *leaf.shape[1:]).clone().requires_grad_()
            for name, leaf in leaves.items()
        }

    @property
    def params(self) -> dict[str, Tensor]:
        """The method's own leaves, [N, *event]."""
        return {name[7:]: leaf for name, leaf in self.leaves.items() if name.startswith("method.")}

    def problem(self, constant: bool = False) -> Problem:
        """Return z ~ N(0, I) seen through x ~ N(z + mean, I); at constant leaves if so asked."""
        leaves = {name: leaf.detach() if constant else leaf for name, leaf in self.leaves.items()}
        mean = leaves["model.mean"]

        def log_joint(z: Tensor) -> Tensor:
            return log_std_normal(z) + log_std_normal(OBSERVED - z - mean)

        base = DiagNormal(leaves["base.mean"], leaves["base.log_scale"])
        context = LIKE.new_ones(len(mean), N_CONTEXT)
        return Problem(log_joint, autograd_score(log_joint), base, context)

    def gradients(self, objective: Tensor) -> Tensor:
        """Return each problem's gradient of its own objective, [N, P]: in every number of a small
        leaf, along some directions in a large one, of whose many numbers one is far off by chance.
        """
        parts, noise = [], Noise(["directions"])
        for slope in gradients(objective.sum(), self.leaves).values():
            flat = slope.flatten(1)
            if flat.shape[1] > LARGE:
                flat = flat @ noise.normal(flat.shape[1], DIRECTIONS, like=flat)
            parts.append(flat)
        return torch.cat(parts, 1)


def surrogates_have_the_gradient(cls: type[Method], seed: int, thoroughness: float) -> Verdict:
    """A surrogate's gradient is that of the bound: for every draw where it is declared exact, else
    in the mean; and `log_weight` of a method's own draws is their `log_w`.
    """
    method = cls()
    repeated = Repeated(method, max(100, int(REPETITIONS * thoroughness)), seed)
    problem = repeated.problem()
    weighs_paths = method.weighs_paths()
    particles = method.particles(
        repeated.params, problem, repeated.noise, PARTICLES, trace=weighs_paths
    )
    if weighs_paths:
        log_forward, log_backward = given_path(method, repeated.params, problem, particles.path)
        given = log_backward - log_forward
    else:
        given = method.log_weight(repeated.params, problem, particles.z)
    if given is None and particles.surrogate is None:
        return True, "not applicable: the method climbs the bound itself"
    if given is not None and (error := distance(given, particles.log_w)) > 1e-10:
        name = "log_path" if weighs_paths else "log_weight"
        return False, f"{name} differs from log_w by {error:.1e} (limit 1e-10)"
    details = []
    for name, bound, objective in _objectives(method, repeated, problem, particles):
        total = repeated.gradients(BOUNDS[bound](particles.log_w))
        climbed = repeated.gradients(objective)
        if name == "surrogate" and method.gradient == "exact":
            error = distance(climbed, total)
            details.append(f"{name}: relative difference {error:.1e} (limit 1e-9)")
            if error >= 1e-9:
                return False, details[-1]
            continue
        difference = climbed - total
        scale = difference.std(0) / math.sqrt(len(difference)) + 1e-12 * total.abs().amax()
        excess = float((difference.mean(0).abs() / scale).nan_to_num(math.inf).amax())
        details.append(f"{name}: worst |z| {excess:.1f} (limit {Z_LIMIT:g})")
        if excess >= Z_LIMIT:
            return False, details[-1]
    return True, "; ".join(details)


def _objectives(
    method: Method, repeated: Repeated, problem: Problem, particles: Particles
) -> Iterator[tuple[str, str, Tensor]]:
    """The name of each surrogate, the bound that it is of, and its values [N]."""
    if particles.surrogate is not None:
        yield "surrogate", method.bound, particles.surrogate
    if method.weighs_given_draws():
        fixed = partial(repeated.problem, constant=True)
        for name, (bound, _) in SURROGATES.items():
            climbed = surrogate(name, method, repeated.params, problem, fixed, particles)
            yield name, bound, climbed
