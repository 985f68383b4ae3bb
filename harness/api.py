"""What a plugin is made of: `Method`, `Task`, and the values that pass between them.

Axes: S particles, N independent inference problems, D latent dimensions, R replicates. Samples are
[S, N, D], log-weights [S, N]. Parameters carry a leading R, which is N (tasks that stack: one
problem a replicate) or 1 (N problems share one set of weights).
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import new_class
from typing import Any, ClassVar, Literal, Protocol, TypeVar, overload

import numpy as np
import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from harness.base.errors import DataError, PluginError
from harness.base.metrics import Metric
from harness.base.spec import added_later, worth_tuning
from harness.datasets.files import DataStream, Found, find_data, open_data
from harness.densities import DiagNormal, log_std_normal
from harness.nets import Params
from harness.numerics.importance import log_integral
from harness.numerics.noise import Noise
from harness.numerics.trajectory import LinearScore, Score, Trajectory

__all__ = [
    "Batch", "ClosedForm", "Data", "DataError", "DataStream", "DiagNormal", "Field", "Found",
    "LinearScore", "LogDensity", "LogZ", "Method", "Metric", "Model", "Noise", "Oracle", "Params",
    "Particles", "Problem", "Score", "Target", "Task", "Trajectory", "abstractmethod",
    "added_later", "autograd_score", "find_data", "log_integral", "log_std_normal",
    "model_validator", "open_data", "target", "tunable",
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
        surrogate: [N], what training climbs in place of the bound, where a method has an objective
            of its own: only its gradient counts. See `Method.gradient`.
    """

    z: Tensor
    log_w: Tensor
    path: Tensor | None = None
    surrogate: Tensor | None = None

    def log_mean_exp(self, log_values: Tensor) -> Tensor:
        r"""Estimate $\log E_{p(z \mid x)}[f(z)]$ from $\log f$ of each draw, self-normalised:
        [S, N, ...] -> [N, ...]. With $\log f = \log p(x^* \mid z)$ it is a log predictive density.

        $$\log \frac{\sum_s w_s f(z_s)}{\sum_s w_s}$$
        """
        weights = self.log_w.log_softmax(0)
        return (
            weights.reshape(weights.shape + (1,) * (log_values.ndim - 2)) + log_values
        ).logsumexp(0)


@dataclass(frozen=True)
class Data:
    """One replicate's data, by split and name. A stack's data carry a leading R."""

    train: dict[str, Tensor]
    validation: dict[str, Tensor] | None = None
    test: dict[str, Tensor] | None = None


class Method(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A way to draw weighted particles. Its pydantic fields are its hyperparameters.

    `gradient` says what that of `Particles.surrogate` is, where particles have one: that of the
    bound for every draw (`exact`), or in expectation (`unbiased`). `bench check` tests it.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    version: ClassVar[int] = 1
    variants: ClassVar[dict[str, dict[str, Any]]] = {}
    bound: ClassVar[str] = "elbo"
    base: ClassVar[str | None] = None
    uses_base: ClassVar[bool] = True  # False: its draws have a start of their own
    gradient: ClassVar[Literal["exact", "unbiased"]] = "exact"

    @abstractmethod
    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        """One replicate's parameters [*event], unconstrained reals; a scalar has shape [1]."""

    @abstractmethod
    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        """Draw `n_particles` weighted particles for each problem."""

    def log_weight(self, params: Params, problem: Problem, z: Tensor) -> Tensor | None:
        """Evaluate the log-weight that `particles` would give the draw `z` [S, N, D], nats, [S, N];
        None for a method that cannot. `--set gradient=path`, `gradient=dreg` and
        `bound=log-variance` need it, or `log_path`.
        """
        return None

    def log_path(
        self, params: Params, problem: Problem, path: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        r"""Evaluate $\log F$ and $\log B$ of a given path [K + 1, S, N, D], nats, [S, N] each: of
        drawing it forwards, and of the joint density at its end times the backward kernels.

        Their difference is the log-weight. For methods whose weights need all of the traced path,
        in place of `log_weight`; None for the others.
        """
        return None

    @classmethod
    def weighs_paths(cls) -> bool:
        """Tell whether it has a `log_path`."""
        return cls.log_path is not Method.log_path

    @classmethod
    def weighs_given_draws(cls) -> bool:
        """Tell whether it has a `log_path` or a `log_weight`."""
        return cls.weighs_paths() or cls.log_weight is not Method.log_weight

    def backward(self, params: Params, problem: Problem, z: Tensor, noise: Noise) -> Tensor | None:
        r"""Draw a path that ends in `z` [S, N, D] by the method's own reverse law, and return the
        log-weight that `particles` would give it, nats, [S, N]; None for a method that cannot.

        Where z are exact draws, $E[\log w]$ is an upper bound of the log-evidence and
        $p(x)\, E[1 / w] = 1$. A method whose draw is all of its path needs `log_weight` alone.
        """
        return self.log_weight(params, problem, z)


class Oracle(Protocol):
    """A task's exact answers. Methods cannot see them.

    It may also have `draws(params, batch, noise, n)`: exact draws from p(z | x), [n, N, D], or
    None.
    """

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


@dataclass(frozen=True)
class LogZ:
    """The logarithm of a target's integral, nats: its value, its error, and how it was found."""

    value: float
    error: float = 0.0
    how: str = ""


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
    shares_data: ClassVar[bool] = False  # all seeds have the same data: their leaves carry no R
    has_mini_batches: ClassVar[bool] = True
    has_variances: ClassVar[bool] = True  # else no Gaussian tail covers the posterior
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

    def simulate(self, params: Params, batch: Batch, noise: Noise) -> tuple[Batch, Tensor] | None:
        """Draw data like those of the batch from the model at `params`, with the latent vectors
        behind them, [N, D], which are exact draws of their posteriors; None where a task has no way
        to. A stream of noise a problem: draws are [1, N, ...].
        """
        return None

    def validation_batches(self, data: Data) -> Iterable[Batch]:
        """The validation data, in parts; nothing where there are none."""
        return []

    @abstractmethod
    def problem(self, params: Params, batch: Batch, base: str, training: bool = False) -> Problem:
        """The inference problems of a batch at `params`."""

    def metrics(self, params: Params, data: Data) -> dict[str, Tensor]:
        """Compute the task's own metrics of fitted parameters, each [R]; or [1], where seeds share
        the data and one number holds for all.

        A name that begins with `mle_` is the metric without that prefix of the exact
        maximum-likelihood fit to the same data.
        """
        return {}

    def posterior_metrics(
        self, particles: Particles, params: Params, data: Data, noise: Noise
    ) -> dict[str, Tensor]:
        """Compute metrics of the weighted draws that the final scores are taken over, each [N], one
        for a problem: a held-out predictive density, an error of posterior moments.

        Args:
            particles: `eval_particles` fresh draws, z [S, N, D] and log_w [S, N].
            params: the fitted parameters.
            data: as `load` gives them, all splits.
            noise: for draws of the metric's own.
        """
        return {}

    def closed_forms(self) -> dict[str, ClosedForm]:
        """Return what calculation says of metrics, by the names that published values refer to."""
        return {}

    def oracle(self) -> Oracle | None:
        """Exact answers, where they exist."""
        return None

    def certify(self, noise: Noise) -> LogZ | None:
        """Compute log Z by other code than `log_joint`, with its error; None for a task that has
        no such way. `bench certify` holds it against the stored value.
        """
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


class _FieldsKeepTheirTypes(type(BaseModel)):
    """Lets a subclass set a field of its base without repeating its type: `dim = 10`."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any):  # noqa: ANN204
        annotations = namespace.setdefault("__annotations__", {})
        for base in bases:
            for field, info in getattr(base, "model_fields", {}).items():
                if field in namespace:
                    annotations.setdefault(field, info.annotation)
        return super().__new__(mcs, name, bases, namespace, **kwargs)


class Target(Task, frozen=True, metaclass=_FieldsKeepTheirTypes):
    r"""A joint density $\log p(x, z)$ of one fixed data set, which all seeds share.

    A subclass gives `latent_dim` and `log_joint`, or `log_prior` and `log_likelihood`; `data` where
    it has data, `parameters` where it has something to learn; `truth` or `log_z`, and `draws`,
    where the answer is known. It is called by its class's name in lower case, `EightSchools` ->
    `eight-schools`, unless it has a `name`.

    The base is $N(\texttt{base\_mean}, \texttt{base\_scale}^2 I)$: as it stands (`base=prior`), or
    where learning starts from (`base=learned`).
    """

    source: ClassVar[str] = ""
    stacks: ClassVar[bool] = True
    shares_data: ClassVar[bool] = True
    headline: ClassVar[tuple[str, ...]] = ("elbo",)
    default_base: ClassVar[str] = "learned"
    default_protocol: ClassVar[str] = "standard"
    protocols: ClassVar[dict[str, dict[str, Any]]] = {
        "standard": {
            "steps": 10_000,
            "lr": 1e-2,
            "lr_schedule": "cosine",
            "eval_parameters": "best",
        },
        "smoke": {"steps": 200, "lr": 5e-2, "lr_schedule": "cosine", "eval_particles": 500},
    }
    # at 1e-2 one of six runs of realnvp diverged on funnel; the path gradient of a Gaussian has no
    # noise where the posterior is one, and so takes large steps
    recommended: ClassVar[dict[str, dict[str, Any]]] = {
        "fullrank": {"gradient": "path", "lr_method": 3e-2},
        "realnvp": {"lr_method": 3e-3},
        "nsf": {"lr_method": 3e-3},
    }
    base_mean: ClassVar[float] = 0.0
    base_scale: ClassVar[float] = 1.0
    log_z: ClassVar[float | None] = None

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Name the class after itself, and show the gap first where there is one."""
        super().__pydantic_init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()
        cls.has_mini_batches = cls.log_joint is Target.log_joint
        is_known = cls.truth is not Target.truth or cls.log_z is not None
        if is_known and cls.headline == Target.headline:
            cls.headline = ("elbo_gap", "elbo")

    def truth(self) -> LogZ | None:
        """Return log Z, where it is known: `log_z` unless a subclass knows it as a function of its
        fields, or with an error.
        """
        return None if self.log_z is None else LogZ(float(self.log_z))

    def draws(self, noise: Noise, n: int) -> Tensor | None:
        """Draw from the normalised density, [n, D]; None where that cannot be done exactly."""
        return None

    def oracle(self) -> FixedTruth | None:
        """Return log Z and the exact draws, where log Z is known."""
        truth = self.truth()
        return None if truth is None else FixedTruth(self, truth)

    def data(self) -> Data | dict[str, Tensor]:
        """Return the data by name, the first axis of each tensor over examples; with a held-out
        split as `Data(train, test=...)`. They never change.
        """
        return {}

    def parameters(self) -> Params:
        """Return the model's first parameters [*event], unconstrained reals; a scalar has [1]."""
        return {}

    def log_prior(self, params: Params, z: Tensor) -> Tensor:
        r"""Evaluate $\log p(z)$, nats: [S, R, D] -> [S, R]. N(0, I) unless it is given."""
        return log_std_normal(z)

    def log_likelihood(self, params: Params, data: dict[str, Tensor], z: Tensor) -> Tensor:
        r"""Evaluate $\log p(x_i \mid z)$ of each example, nats: z [S, R, D] -> [S, R, n]."""
        raise PluginError(f"Task '{self.name}' gives neither log_joint() nor log_likelihood().")

    def log_joint(self, params: Params, data: dict[str, Tensor], z: Tensor) -> Tensor:
        r"""Evaluate $\log p(x, z)$, nats: [S, R, D] -> [S, R].

        By default $\log p(z) + \sum_i \log p(x_i \mid z)$.
        """
        return self.log_prior(params, z) + self.log_likelihood(params, data, z).sum(-1)

    def score(self, params: Params, data: dict[str, Tensor], z: Tensor) -> Tensor:
        r"""Evaluate $\nabla_z \log p(x, z)$, [S, R, D] -> [S, R, D], differentiable.

        By default automatic differentiation; an expression written out takes less time. Of a
        mini-batch it is always automatic.
        """
        return autograd_score(lambda z: self.log_joint(params, data, z))(z)

    def load(self, noise: Noise) -> Data:
        """Return `data()`, and a number from which the others have their precision."""
        data = self.data()
        data = data if isinstance(data, Data) else Data(data)
        return replace(data, train={**data.train, "_like": torch.zeros(1, dtype=torch.float64)})

    def init(self, base: str, noise: Noise) -> Params:
        """Return `parameters()`, and those of a learned base."""
        if base == "prior":
            return self.parameters()
        zeros = torch.zeros(self.latent_dim, dtype=torch.float64)
        start = {
            "base_mean": zeros + self.base_mean,
            "base_log_scale": zeros + math.log(self.base_scale),
        }
        return self.parameters() | start

    def batch(self, data: Data, step: int, batch_size: int | None, noise: Noise) -> Batch:
        """Return the training data, or the next `batch_size` examples in order with `_weight` [1],
        how many examples each of them stands for; and `_like` [R, 1].
        """
        like = data.train["_like"]
        train = {name: leaf for name, leaf in data.train.items() if name != "_like"}
        batch = {"_like": like.expand(len(noise.streams), 1)}
        if batch_size is None or not train:
            return train | batch
        n = len(next(iter(train.values())))
        first = step % math.ceil(n / batch_size) * batch_size
        part = {name: leaf[first : first + batch_size] for name, leaf in train.items()}
        return part | batch | {"_weight": like + n / min(batch_size, n - first)}

    def scored_batches(self, data: Data, batch_size: int | None, noise: Noise) -> Iterable[Batch]:
        """Return all the training data."""
        return [self.batch(data, 0, None, noise)]

    def problem(self, params: Params, batch: Batch, base: str, training: bool = False) -> Problem:
        r"""Return the inference problem of each replicate; of a mini-batch,
        $\log p(z) + \tfrac nB \sum_i \log p(x_i \mid z)$.
        """
        like, weight = batch["_like"], batch.get("_weight")
        data = {name: leaf for name, leaf in batch.items() if not name.startswith("_")}
        if weight is not None and not self.has_mini_batches:
            raise PluginError(
                f"Task '{self.name}' has no mini-batches: give log_prior() and log_likelihood() in "
                "place of log_joint(), or leave batch_size out."
            )

        def log_joint(z: Tensor) -> Tensor:
            if weight is not None:
                likelihood = self.log_likelihood(params, data, z).sum(-1)
                return self.log_prior(params, z) + weight * likelihood
            joint = self.log_joint(params, data, z)
            if joint.shape != z.shape[:-1]:
                raise PluginError(
                    f"Task '{self.name}': the log density of z {list(z.shape)} is "
                    f"{list(joint.shape)}; it must be {list(z.shape[:-1])}, a number for each z."
                )
            return joint

        if base == "learned":
            density = DiagNormal(params["base_mean"], params["base_log_scale"])
        else:
            shape = (len(like), self.latent_dim)
            density = DiagNormal(
                like.new_full(shape, self.base_mean),
                like.new_full(shape, math.log(self.base_scale)),
            )
        score = (
            autograd_score(log_joint) if weight is not None else partial(self.score, params, data)
        )
        return Problem(log_joint, score, density)


class Model(Target, frozen=True):
    """A `Target` whose dimension is a field: a subclass says `dim = 10`."""

    dim: int = Field(ge=1, description="latent dimension D")

    @property
    def latent_dim(self) -> int:
        """D."""
        return self.dim


class LogDensity(Model, frozen=True):
    r"""A target from a function: an unnormalised log density, without data or parameters.

    A subclass gives `dim` and `log_density`, and where they are known `log_z`, the logarithm of its
    integral, and `draws` from it:

    ```python
    class MyFunnel(LogDensity):
        "Neal's funnel (Neal 2003, Annals of Statistics 31)."
        dim, log_z = 10, 0.0

        def log_density(self, z):
            v, x = z[..., :1], z[..., 1:]
            return Normal(0, 3).log_prob(v)[..., 0] + Normal(0, (v / 2).exp()).log_prob(x).sum(-1)
    ```

    `./my_funnel.py[dim=20]` is the one in 20 dimensions. With `log_z` its runs have an `elbo_gap`.
    """

    variant: ClassVar[str] = "dim"
    target_functions: ClassVar[dict[str, Callable[..., Any]]] = {}
    """What `target` made it of, by the names of its arguments."""

    @abstractmethod
    def log_density(self, z: Tensor) -> Tensor:
        r"""Evaluate $\log \tilde p(z)$, nats: [..., D] -> [...]."""

    def log_joint(self, params: Params, data: dict[str, Tensor], z: Tensor) -> Tensor:
        """Evaluate `log_density`."""
        return self.log_density(z)


@dataclass(frozen=True)
class FixedTruth:
    """The exact answers of a `Target` that learns nothing: an `Oracle` without parameters."""

    target: Target
    truth: LogZ

    def log_evidence(self, params: Params, batch: Batch) -> Tensor:
        """Return log Z for each replicate, nats, [R]."""
        return batch["_like"][:, 0].double() + self.truth.value

    def posterior(self, params: Params, batch: Batch) -> None:
        """The density over its integral, by definition; not given."""

    def mle(self, data: Data) -> None:
        """There is nothing to fit."""

    def draws(self, params: Params, batch: Batch, noise: Noise, n: int) -> Tensor | None:
        """Draw from the density, [n, R, D], for each stream of the noise; None where it has no
        exact draws.
        """
        of_streams = (self.target.draws(Noise([stream]), n) for stream in noise.streams)
        draws = [each for each in of_streams if each is not None]
        if not draws:
            return None
        z = torch.stack(draws, 1)  # of another shape where the target's draws are
        return z.expand(-1, len(batch["_like"]), -1) if z.ndim == 3 else z


def target(
    log_density: Callable[[Tensor], Tensor],
    dim: int,
    *,
    log_z: float | None = None,
    draws: Callable[[Noise, int], Tensor] | None = None,
    name: str | None = None,
) -> LogDensity:
    """Make a task of a function, for `harness.fit` and `harness.run`.

    Args:
        log_density: z [..., dim] -> the unnormalised log density [...], nats.
        dim: D.
        log_z: the logarithm of its integral, where it is known.
        draws: exact draws, `draws(noise, n)` -> [n, dim].
        name: what tables call it; the function's name where none is given.

    >>> from harness.densities import log_std_normal
    >>> target(log_std_normal, dim=3, log_z=0.0).name
    'log-std-normal'
    """
    values: dict[str, Any] = {
        "__doc__": log_density.__doc__ or "A log density.",
        "__module__": log_density.__module__,
        "name": name or log_density.__name__.strip("<>_").replace("_", "-"),
        "dim": dim,
        "log_z": log_z,
        "log_density": lambda self, z: log_density(z),
        "target_functions": {"log_density": log_density},
    }
    if draws is not None:
        values["target_functions"]["draws"] = draws
        values["draws"] = lambda self, noise, n: draws(noise, n)
    cls: Any = new_class("Target", (LogDensity,), exec_body=lambda body: body.update(values))
    return cls()
