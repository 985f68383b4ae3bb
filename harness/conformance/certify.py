"""The integral of a target, computed anew and held against the stored value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import LogZ, Target, Task
from harness.base.errors import DataError, PluginError
from harness.numerics.importance import Integral, log_integral
from harness.numerics.noise import Noise
from harness.training.loop import load_data

DEGREES_OF_FREEDOM = (20.0, 100.0)
"""Of the two proposals."""
FEWEST_ESS = 0.05
"""Share of the draws below which an estimate by importance sampling is refused."""
ERRORS = 3.0
"""Combined errors within which two values agree."""


@dataclass(frozen=True)
class Certificate:
    """log Z computed anew, beside the stored value, which is None where there is none."""

    computed: LogZ
    stored: LogZ | None
    samples: tuple[Integral, ...] = ()

    @property
    def difference(self) -> float:
        """The computed value less the stored one, nats; NaN where none is stored."""
        return self.computed.value - self.stored.value if self.stored else math.nan

    @property
    def allowed(self) -> float:
        """How far they may be apart: three combined errors, nats."""
        stored = self.stored.error if self.stored else math.nan
        return ERRORS * math.hypot(self.computed.error, stored)

    @property
    def agrees(self) -> bool:
        """Whether they are within three combined errors."""
        return self.stored is None or abs(self.difference) <= self.allowed


def certify(task: Task) -> Certificate:
    """Compute log Z by the task's own `certify`, where it has one, or else by importance sampling
    on `log_joint` with two proposals.

    Raises:
        DataError: there is no one log Z, or an effective sample size is below 5 % of the draws.
        PluginError: the density is not finite, or has the wrong shape.
    """
    log_joint = density_of(task)
    assert isinstance(task, Target)
    computed = task.certify(Noise(["certify"]))
    if computed is not None:
        return Certificate(computed, task.truth())
    samples = tuple(
        log_integral(log_joint, task.latent_dim, nu, f"certify/{nu:g}") for nu in DEGREES_OF_FREEDOM
    )
    return Certificate(_combined(task, samples), task.truth(), samples)


def density_of(task: Task) -> Callable[[Tensor], Tensor]:
    """Return the log joint density of a target in double precision, [n, D] -> [n].

    Raises:
        DataError: its data or its parameters differ from run to run.
    """
    if not isinstance(task, Target) or task.parameters():
        raise DataError(
            f"Task '{task.name}' has no one log Z: its data or its parameters differ from run to "
            f"run. Prove its exact answers with: bench check {task.name}."
        )
    data = load_data(task, [0], torch.float64)
    problem = task.problem({}, task.batch(data, 0, None, Noise(["0/batch"])), "prior")

    def log_joint(z: Tensor) -> Tensor:
        value = problem.log_joint(z[:, None])
        if value.shape != (len(z), 1) or not value.is_floating_point():
            raise PluginError(
                f"Task '{task.name}': the log density of z {[len(z), 1, z.shape[1]]} is "
                f"{list(value.shape)} of {value.dtype}; it must be {[len(z), 1]} real numbers."
            )
        if bool(value.isnan().any()):
            at = ", ".join(f"{x:.4g}" for x in z[value[:, 0].isnan()][0][:4].tolist())
            raise PluginError(f"Task '{task.name}': the log density is NaN at z = ({at}, ...).")
        return value[:, 0]

    return log_joint


def _combined(task: Task, samples: tuple[Integral, ...]) -> LogZ:
    """Weigh two estimates by their precision; their difference is in the error."""
    fewest = min(sample.ess for sample in samples)
    if fewest < FEWEST_ESS:
        raise DataError(
            f"Importance sampling does not reach '{task.name}': an effective sample size is "
            f"{100 * fewest:.2g} % of the draws, and below {100 * FEWEST_ESS:g} % nothing is "
            "said. Give the task a certify() of its own: docs/add-a-task.md."
        )
    weights = [sample.error**-2 for sample in samples]
    value = sum(w * s.value for w, s in zip(weights, samples, strict=True)) / sum(weights)
    error = max(sum(weights) ** -0.5, abs(samples[0].value - samples[1].value) / 2)
    return LogZ(value, error, "adaptive importance sampling, two proposals")
