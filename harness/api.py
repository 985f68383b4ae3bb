"""What a plugin is made of: `Method`, `Task`, and the values that pass between them.

Axes: S particles, N independent inference problems, D latent dimensions, R replicates. Samples are
[S, N, D], log-weights [S, N]. Parameters carry a leading R, which is N (tasks that stack: one
problem a replicate) or 1 (N problems share one set of weights).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, overload

import numpy as np
import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from harness.base.errors import DataError
from harness.base.metrics import Metric
from harness.base.spec import added_later, worth_tuning
from harness.datasets.files import DataStream, Found, find_data, open_data
from harness.densities import DiagNormal, log_std_normal
from harness.nets import Params
from harness.numerics.noise import Noise
from harness.numerics.trajectory import LinearScore, Score, Trajectory

__all__ = [
    "Batch", "ClosedForm", "Data", "DataError", "DataStream", "DiagNormal", "Field", "Found",
    "LinearScore", "Method", "Metric", "Noise", "Oracle", "Params", "Particles", "Problem", "Score",
    "Task", "Trajectory", "abstractmethod", "added_later", "autograd_score", "find_data",
    "log_std_normal", "model_validator", "open_data", "tunable",
]  # fmt: skip

Batch = dict[str, Any]
Number = TypeVar("Number", int, float)
When = dict[str, tuple[Any, ...]] | None


@overload
def tunable(
    default: int, low: int, high: int, log: bool = False, when: When = None, **allowed: Any
) -> int: ...
@overload
def tunable(
    default: float, low: float, high: float, log: bool = False, when: When = None, **allowed: Any
) -> float: ...
def tunable(
    default: Number, low: Number, high: Number, log: bool = False, when: When = None, **allowed: Any
) -> Any:
    """A hyperparameter with the range in which it is worth tuning.

    Args:
        default: its value where nothing else is said.
        low, high: the ends of the range; values outside may still be set by hand.
        log: whether the range is covered evenly in the logarithm.
        when: the values of other fields under which it has an effect: `{"tempering": ("free",)}`.
        allowed: pydantic's constraints (`ge=1`, `gt=0`) and `description`.
    """
    return Field(default, json_schema_extra=worth_tuning(low, high, log, when), **allowed)


def autograd_score(log_joint: Callable[[Tensor], Tensor]) -> Score:
    r"""The score $\nabla_z \log p(x, z)$ by automatic differentiation, itself differentiable where
    gradients are recorded.
    """

    def score(z: Tensor) -> Tensor:
        recording = torch.is_grad_enabled()
        with torch.enable_grad():
            point = z if z.requires_grad else z.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(log_joint(point).sum(), point, create_graph=recording)
        return gradient

    return score


@dataclass(frozen=True)
class Problem:
    """All that a method may know of a task.

    Args:
        log_joint: z [S, N, D] -> log p(x, z) [S, N], nats.
        score: z [S, N, D] -> the gradient of log_joint in z, [S, N, D], differentiable;
            `autograd_score(log_joint)` unless the task knows better; a `LinearScore` where it is
            one, under which a `Trajectory` has a closed form.
        base: q0(z | x).
        context: [N, C], what an amortised flow may condition on.
    """

    log_joint: Callable[[Tensor], Tensor]
    score: Score
    base: DiagNormal
    context: Tensor | None = None


@dataclass(frozen=True)
class Particles:
    """Weighted draws: for each problem, the mean of exp(log_w) has expectation p(x).

    Args:
        z: [S, N, D].
        log_w: [S, N], nats.
        path: [K + 1, S, N, D], the trajectory from z_0 to z_K, when traced; a method that has none
            leaves it out.
    """

    z: Tensor
    log_w: Tensor
    path: Tensor | None = None


@dataclass(frozen=True)
class Data:
    """One replicate's data, by split and name. A stack's data carry a leading R."""

    train: dict[str, Tensor]
    validation: dict[str, Tensor] | None = None
    test: dict[str, Tensor] | None = None


class Method(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A way to draw weighted particles. Its pydantic fields are its hyperparameters."""

    name: ClassVar[str]
    source: ClassVar[str]
    version: ClassVar[int] = 1
    variants: ClassVar[dict[str, dict[str, Any]]] = {}
    bound: ClassVar[str] = "elbo"
    base: ClassVar[str | None] = None

    @abstractmethod
    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        """One replicate's parameters [*event], unconstrained reals; a scalar has shape [1]."""

    @abstractmethod
    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        """Draw `n_particles` weighted particles for each problem."""


class Oracle(Protocol):
    """A task's exact answers. Methods cannot see them."""

    def log_evidence(self, params: Params, batch: Batch) -> Tensor:
        """log p(x) of each problem of the batch at `params`, nats: [N], which is [R] where
        replicates stack.
        """
        ...

    def posterior(self, params: Params, batch: Batch) -> DiagNormal | Any | None:
        """p(z | x) at `params`, an object with `log_prob(z)`, or None."""
        ...

    def mle(self, data: Data) -> Params | None:
        """The parameters under which the training data have most evidence, in all; or None."""
        ...


@dataclass(frozen=True)
class ClosedForm:
    """What calculation says of a metric at some optimum, as a mean over data sets.

    Args:
        value: the mean.
        description: where it comes from.
        deviation: the standard deviation over data sets; None where that is not of use.
    """

    value: float
    description: str
    deviation: float | None = None


class Task(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A model with data. Its pydantic fields are its identity.

    Its protocols are dicts in the addresses of `--set`; `recommended` gives settings that the
    literature uses, by method. `metric_info` says what the metrics mean that `metrics` computes.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    version: ClassVar[int] = 1
    variant: ClassVar[str | None] = None
    protocols: ClassVar[dict[str, dict[str, Any]]]
    default_protocol: ClassVar[str]
    default_base: ClassVar[str] = "prior"
    recommended: ClassVar[dict[str, dict[str, Any]]] = {}
    stacks: ClassVar[bool]
    score_to_tune: ClassVar[str] = "elbo"
    metric_info: ClassVar[dict[str, Metric]] = {}
    headline: ClassVar[tuple[str, ...]] = (
        "elbo",
        "elbo_gap",
    )  # the metrics that a closing table shows

    @property
    @abstractmethod
    def latent_dim(self) -> int:
        """D, the number of latent dimensions."""

    @property
    def n_context(self) -> int:
        """C, the size of `Problem.context`; 0 where there is none."""
        return 0

    @property
    def scored_by(self) -> tuple[str, ...]:
        """The fields of the protocol that change what the final scores mean: runs that differ there
        are never compared.
        """
        return ("eval_particles",)

    @abstractmethod
    def load(self, noise: Noise) -> Data:
        """One replicate's data, on the CPU; never depends on the method."""

    @abstractmethod
    def init(self, base: str, noise: Noise) -> Params:
        """The model's parameters, and the base's where it is learned: one replicate's leaves,
        unconstrained reals.
        """

    @abstractmethod
    def batch(self, data: Data, step: int, batch_size: int | None, noise: Noise) -> Batch:
        """What step `step` trains on; all of the data where `batch_size` is None."""

    def scored_batches(self, data: Data, batch_size: int | None, noise: Noise) -> Iterable[Batch]:
        """What the final scores are taken over. The whole training data by default.

        Where replicates stack, each score is the mean over these batches. Where N problems share
        one set of weights it is the mean over the problems of all batches, whose sizes then only
        bound memory (250 particles of each problem of a batch are computed at a time): give the
        held-out split in parts.
        """
        return [self.batch(data, 0, None, noise)]

    def validation_batches(self, data: Data) -> Iterable[Batch]:
        """The validation data, in parts; nothing where there are none."""
        return []

    @abstractmethod
    def problem(self, params: Params, batch: Batch, base: str, training: bool = False) -> Problem:
        """The inference problems of a batch at `params`."""

    def metrics(self, params: Params, data: Data) -> dict[str, Tensor]:
        """Compute the task's own metrics of fitted parameters, each [R].

        A name that begins with `mle_` is the metric without that prefix of the exact
        maximum-likelihood fit to the same data.
        """
        return {}

    def closed_forms(self) -> dict[str, ClosedForm]:
        """Return what calculation says of metrics, by the names that published values refer to."""
        return {}

    def oracle(self) -> Oracle | None:
        """Exact answers, where they exist."""
        return None

    def decode(self, params: Params, z: Tensor) -> Tensor | None:
        """What latents stand for as pictures: z [..., D] -> [..., height, width], 0 (black) to 1;
        None for a task without pictures.

        A task that has pictures has the prior z ~ N(0, I), and the three methods below.
        """
        return None

    def originals(self, batch: Batch) -> Tensor:
        """The observations of a batch as pictures, [N, height, width], 0 to 1."""
        raise DataError(f"Task '{self.name}' has no images.")

    def read_images(self, path: Path) -> np.ndarray:
        """The grey images of a file in the format of the task's data, uint8 [n, height, width].

        Raises:
            DataError: the file cannot be read, or holds something else.
        """
        raise DataError(f"Task '{self.name}' has no images.")

    def observe(self, images: Tensor) -> Batch:
        """Grey images, uint8 [n, height, width], as the batch that they would be among the test
        images.
        """
        raise DataError(f"Task '{self.name}' has no images.")
