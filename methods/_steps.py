"""Step sizes that are learned, below a largest one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from harness.api import Field, Method, Params, model_validator, tunable


def logit(p: float) -> float:
    """The inverse of the logistic function."""
    return math.log(p / (1 - p))


class StepSizes(Method, frozen=True):
    """The fields and parameters of the steps of a path: `max_step` times a logistic function."""

    vary_steps: bool = Field(
        False, description="a step size for each step as well as for each dimension"
    )
    max_step: float = tunable(
        0.5, 0.25, 1.0, log=True, gt=0, description="upper end of every step size"
    )
    init_step: float = tunable(
        0.005, 0.001, 0.2, log=True, gt=0, description="first step size, below max_step"
    )

    @model_validator(mode="after")
    def _step_below_its_maximum(self) -> StepSizes:
        if self.init_step >= self.max_step:
            raise ValueError(
                f"init_step ({self.init_step:g}) must be below max_step ({self.max_step:g})"
            )
        return self

    def init_steps(self, n_steps: int, dim: int) -> Params:
        """`step` [D] or [K, D]."""
        shape = (n_steps, dim) if self.vary_steps else (dim,)
        first = logit(self.init_step / self.max_step)
        return {"step": torch.full(shape, first, dtype=torch.float64)}

    def step_sizes(self, params: Params, n_steps: int) -> list[Tensor]:
        r"""Return $\epsilon_1 \dots \epsilon_K$, [R, D] each: one tensor if steps do not vary."""
        epsilon = self.max_step * torch.sigmoid(params["step"])  # [R, D], or [R, K, D]
        return list(epsilon.unbind(1)) if self.vary_steps else [epsilon] * n_steps
