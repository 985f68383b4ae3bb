"""Methods that misbehave in ways that the harness must record or refuse."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from harness.api import Method, Noise, Params, Particles, Problem


class _Shift(Method, frozen=True):
    source: ClassVar[str] = "a test"

    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        return {"shift": torch.zeros(dim, dtype=torch.float64)}

    def particles(self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False) -> Particles:
        z_0 = problem.base.sample(noise, n_particles)
        z = z_0 + params["shift"]
        return Particles(z, self.bent(problem.log_joint(z) - problem.base.log_prob(z_0), noise))

    def bent(self, log_w: torch.Tensor, noise: Noise) -> torch.Tensor:
        return log_w


class Shift(_Shift, frozen=True):
    """A right method."""

    name: ClassVar[str] = "shift"


class DivergesAt50(_Shift, frozen=True):
    """The second replicate of a stack gives NaN from step 50 on."""

    name: ClassVar[str] = "diverges"

    def bent(self, log_w: torch.Tensor, noise: Any) -> torch.Tensor:
        if not noise.streams[0].endswith("train") or noise._step < 50:
            return log_w
        bad = torch.tensor([float("nan") if stream.startswith("1/") else 0.0 for stream in noise.streams], dtype=log_w.dtype)
        return log_w + bad


class WrongShape(_Shift, frozen=True):
    """log_w has its axes exchanged."""

    name: ClassVar[str] = "wrong-shape"

    def bent(self, log_w: torch.Tensor, noise: Noise) -> torch.Tensor:
        return log_w.T


class Raises(_Shift, frozen=True):
    """An exception in the middle of training."""

    name: ClassVar[str] = "raises"

    def bent(self, log_w: torch.Tensor, noise: Any) -> torch.Tensor:
        if noise._step == 5:
            raise ArithmeticError("the sky fell")
        return log_w


class Exits(_Shift, frozen=True):
    """Ends the program, or so it thinks."""

    name: ClassVar[str] = "exits"

    def bent(self, log_w: torch.Tensor, noise: Noise) -> torch.Tensor:
        raise SystemExit(0)


class Eats(_Shift, frozen=True):
    """Takes more and more memory."""

    name: ClassVar[str] = "eats"

    def bent(self, log_w: torch.Tensor, noise: Noise) -> torch.Tensor:
        return log_w + torch.zeros(2**30, dtype=torch.float64)[0]
