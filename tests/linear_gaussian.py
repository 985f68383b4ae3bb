"""A task with a latent for each point, a linear decoder and Gaussian noise: the evidence of every
point is a Gaussian density.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.api import Batch, Data, DiagNormal, Noise, Params, Problem, Task, autograd_score
from harness.densities import LOG_2PI
from harness.nets import init_linear, linear

LATENT, SEEN, N_POINTS, N_TEST = 2, 5, 400, 40
NOISE_SCALE = 1.5


def weights() -> Tensor:
    """W [seen, latent]."""
    return Noise(["linear-gaussian"]).normal(
        SEEN, LATENT, like=torch.zeros((), dtype=torch.float64)
    )


class LinearOracle:
    """x ~ N(b, W W' + s^2 I)."""

    def log_evidence(self, params: Params, batch: Batch) -> Tensor:
        """[N], nats."""
        covariance = weights() @ weights().T + NOISE_SCALE**2 * torch.eye(SEEN, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(params["b"][0], covariance).log_prob(
            batch["x"]
        )

    def posterior(self, params: Params, batch: Batch) -> None:
        """Not needed."""

    def mle(self, data: Data) -> None:
        """Not needed."""


class LinearGaussian(Task, frozen=True):
    """z ~ N(0, I), x ~ N(W z + b, s^2 I); learned: b, and an encoder that is linear."""

    name: ClassVar[str] = "linear-gaussian"
    source: ClassVar[str] = "a test"
    stacks: ClassVar[bool] = False
    default_base: ClassVar[str] = "learned"
    default_protocol: ClassVar[str] = "short"
    protocols: ClassVar[dict[str, dict[str, Any]]] = {
        "short": {
            "steps": 600,
            "lr": 2e-2,
            "lr_schedule": "cosine",
            "particles": 5,
            "eval_particles": 4_000,
        }
    }

    @property
    def latent_dim(self) -> int:
        """D."""
        return LATENT

    @property
    def n_context(self) -> int:
        """The point itself."""
        return SEEN

    def load(self, noise: Noise) -> Data:
        """`x` [n, seen]."""
        like = torch.zeros((), dtype=torch.float64)
        z = noise.normal(N_POINTS + N_TEST, LATENT, like=like)
        x = z @ weights().T + 1.0 + NOISE_SCALE * noise.normal(N_POINTS + N_TEST, SEEN, like=like)
        return Data({"x": x[:N_POINTS]}, test={"x": x[N_POINTS:]})

    def init(self, base: str, noise: Noise) -> Params:
        """b, and the encoder."""
        return {"b": torch.zeros(SEEN, dtype=torch.float64)} | init_linear(
            "encoder", SEEN, 2 * LATENT, noise
        )

    def batch(self, data: Data, step: int, batch_size: int | None, noise: Noise) -> Batch:
        """All points."""
        return data.train

    def scored_batches(self, data: Data, batch_size: int | None, noise: Noise) -> list[Batch]:
        """The held-out points, in parts of different size."""
        held_out = (data.test or data.train)["x"]
        return [{"x": held_out[:7]}, {"x": held_out[7:]}]

    def problem(self, params: Params, batch: Batch, base: str, training: bool = False) -> Problem:
        """The joint density."""
        x = batch["x"]

        def log_joint(z: Tensor) -> Tensor:
            error = (x - params["b"] - z @ weights().T) / NOISE_SCALE
            constant = (LATENT + SEEN) / 2 * LOG_2PI + SEEN * math.log(NOISE_SCALE)
            return -0.5 * (z.square().sum(-1) + error.square().sum(-1)) - constant

        mean, log_scale = linear(params, "encoder", x[None])[0].chunk(2, -1)
        return Problem(log_joint, autograd_score(log_joint), DiagNormal(mean, log_scale), x)

    def oracle(self) -> LinearOracle:
        """The exact evidence."""
        return LinearOracle()
