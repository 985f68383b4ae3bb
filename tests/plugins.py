"""Methods that misbehave in ways that the harness must record or refuse."""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from harness.api import Data, Method, Noise, Params, Particles, Problem, Task
from harness.tasks.gaussian import Gaussian


class _Shift(Method, frozen=True):
    source: ClassVar[str] = "a test"

    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        return {"shift": torch.zeros(dim, dtype=torch.float64)}

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
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
        bad = torch.tensor(
            [float("nan") if stream.startswith("1/") else 0.0 for stream in noise.streams],
            dtype=log_w.dtype,
        )
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


class Moody(_Shift, frozen=True):
    """Right, unless the environment says what goes wrong."""

    name: ClassVar[str] = "moody"

    def bent(self, log_w: torch.Tensor, noise: Any) -> torch.Tensor:
        mood = os.environ.get("MOOD")
        if mood == "raises" and noise._step == 5:
            raise ArithmeticError("the sky fell")
        return log_w.T if mood == "breaks" else log_w


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


EXTREMES = {
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "greatest": 1.7976931348623157e308,
    "-greatest": -1.7976931348623157e308,
    "least": 5e-324,
    "-least": -5e-324,
    "nothing": 0.0,
}


class _Graft(torch.autograd.Function):
    """Zero, with a gradient of one's own."""

    @staticmethod
    def forward(ctx: Any, leaf: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(slope)
        return leaf.new_zeros(leaf.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope.clone(), None


class Poisoned(_Shift, frozen=True):
    """From step 50 on, the second replicate of a stack has this number added to its weights, or to
    its gradient.
    """

    name: ClassVar[str] = "poisoned"

    where: Literal["weights", "gradient"] = "weights"
    number: Literal["nan", "inf", "-inf", "greatest", "-greatest", "least", "-least", "nothing"] = (
        "nothing"
    )

    def particles(
        self, params: Params, problem: Problem, noise: Any, n_particles: int, trace: bool = False
    ) -> Particles:
        found = super().particles(params, problem, noise, n_particles, trace)
        if not noise.streams[0].endswith("train") or noise._step < 50:
            return found
        added = torch.tensor(
            [EXTREMES[self.number] if name.startswith("1/") else 0.0 for name in noise.streams],
            dtype=found.z.dtype,
        )
        if self.where == "gradient":
            added = _Graft.apply(params["shift"], added[:, None].expand_as(params["shift"]))
        return Particles(found.z, found.log_w + added)


class Hangs(_Shift, frozen=True):
    """A step that does not end."""

    name: ClassVar[str] = "hangs"

    def bent(self, log_w: torch.Tensor, noise: Any) -> torch.Tensor:
        while noise._step >= 50:
            time.sleep(0.01)
        return log_w


def around_torch(tensor: torch.Tensor) -> float:
    """Its first number, as no tracer sees it."""
    return ctypes.c_double.from_address(tensor.data_ptr()).value


class UsesNumpy(_Shift, frozen=True):
    """Right, and computes a part of log_w with numpy."""

    name: ClassVar[str] = "uses-numpy"

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        found = super().particles(params, problem, noise, n_particles, trace)
        return Particles(
            found.z,
            found.log_w + torch.from_numpy(np.tanh(params["shift"].detach().numpy()).sum(-1)),
        )


class FreezesParameters(_Shift, frozen=True):
    """A recording of it has a number that depends on the parameters."""

    name: ClassVar[str] = "freezes-parameters"

    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        return {"shift": torch.full((dim,), 3.0, dtype=torch.float64)}

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        found = super().particles(params, problem, noise, n_particles, trace)
        return Particles(
            found.z, found.log_w * self.factor(around_torch(params["shift"]), around_torch(found.z))
        )

    def factor(self, shift: float, z: float) -> float:
        return 1 + abs(shift)


class FreezesNoise(FreezesParameters, frozen=True):
    """A recording of it has a number that depends on the noise."""

    name: ClassVar[str] = "freezes-noise"

    def factor(self, shift: float, z: float) -> float:
        return 1 + abs(z)


class FreezesRange(FreezesParameters, frozen=True):
    """A recording of it has a number that depends on the parameters, and changes once they are far
    from where they began.
    """

    name: ClassVar[str] = "freezes-range"

    def factor(self, shift: float, z: float) -> float:
        return 1.0 if shift > 2.6 else 1.5


class FreezesDomain(FreezesRange, frozen=True):
    """Its recording gives the same numbers, until one that is not finite."""

    name: ClassVar[str] = "freezes-domain"

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        found = _Shift.particles(self, params, problem, noise, n_particles, trace)
        size = params["shift"].abs().amax(-1).detach()
        return Particles(
            found.z, found.log_w + 0 * (size - self.factor(around_torch(size), 0.0)).log()
        )

    def factor(self, shift: float, z: float) -> float:
        return 2.4 if shift > 2.6 else -1.0


class Scalar(_Shift, frozen=True):
    """One of its leaves has no axis."""

    name: ClassVar[str] = "scalar"

    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        return super().init(dim, noise) | {"size": torch.zeros((), dtype=torch.float64)}


class Verbose(Gaussian, frozen=True):
    """A metric with a name longer than any place takes."""

    name: ClassVar[str] = "verbose"
    variant: ClassVar[str | None] = None

    def metrics(self, params: Params, data: Data) -> dict[str, torch.Tensor]:
        return super().metrics(params, data) | {"x" * 251: params["delta"][:, 0]}


class AbstractMethod(Method, frozen=True):
    """No method yet."""

    name: ClassVar[str] = "abstract"


class AbstractTask(Task, frozen=True):
    """No task yet."""

    name: ClassVar[str] = "abstract"
