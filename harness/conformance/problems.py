"""What the suites share: verdicts, problems whose evidence is known, settings of a plugin, and
noise that keeps a record.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from harness.api import Method, Params, Problem
from harness.densities import LOG_2PI, DiagNormal
from harness.numerics import bounds
from harness.numerics.noise import Noise

LIKE = torch.zeros((), dtype=torch.float64)
Z_LIMIT = 5.0  # standard errors: chance exceeds it once in 1.7 million
JITTER = 0.05  # on every leaf: through a layer of a hundred units it moves a log scale by about 0.3
N_CONTEXT = 3
FEWEST_ESS = 500.0
Plugin = TypeVar("Plugin", bound=BaseModel)


@dataclass(frozen=True)
class Check:
    """One verdict: the contract's sentence, whether it holds, and one line with the measured number
    and its limit.
    """

    name: str
    holds: bool
    detail: str


Verdict = tuple[bool, str]


def run_checks(checks: Mapping[str, Callable[..., Verdict]], *arguments: Any) -> Iterator[Check]:
    """Run each check in turn. What a plugin raises is a failure, described in one line."""
    for name, check in checks.items():
        try:
            holds, detail = check(*arguments)
        except Exception as error:  # noqa: BLE001  a plugin may raise anything
            holds, detail = False, " ".join(f"{type(error).__name__}: {error}".split())
        yield Check(name, holds, detail)


@dataclass
class Worst:
    """The largest of some values, and the setting where it was seen; NaN is larger than all."""

    value: float = 0.0
    setting: str = ""

    def add(self, value: float, setting: str = "") -> None:
        """Take a value into account."""
        if not (math.isnan(self.value) or value <= self.value):
            self.value, self.setting = value, setting

    def verdict(self, what: str, limit: float) -> Verdict:
        """Hold it against a limit."""
        detail = f"{what} {self.value:.2g}{self.setting} (limit {limit:g})"
        return self.value <= limit, detail


def none_of(faults: Sequence[str], what: str) -> Verdict:
    """Tell that there are no faults, or how many, and the first."""
    first = f": {faults[0]}" if faults else ""
    return not faults, f"{len(faults)} {what} (limit 0){first}"


@dataclass(frozen=True)
class Target:
    r"""Inference problems with the joint density $\log p(x, z) = \log p(x) + \log N(z; \mu,
    \mathrm{diag}(e^{2 s}))$, everything known.

    Shapes: `base` and `posterior` [N, D]; `log_evidence` [N], nats; `context` [N, C].
    """

    base: DiagNormal
    posterior: DiagNormal
    log_evidence: Tensor
    context: Tensor | None = None

    def problem(self) -> Problem:
        """Return what a method may know of it."""

        def log_joint(z: Tensor) -> Tensor:
            return self.log_evidence + self.posterior.log_prob(z)

        def score(z: Tensor) -> Tensor:
            return (self.posterior.mean - z) * torch.exp(-2 * self.posterior.log_scale)

        return Problem(log_joint, score, self.base, self.context)

    def to(self, dtype: torch.dtype) -> Target:
        """Return the same problems in another precision."""
        return self._map(lambda tensor: tensor.to(dtype))

    def alone(self, index: int) -> Target:
        """Return problem `index` alone."""
        return self._map(lambda tensor: tensor[index : index + 1])

    def _map(self, change: Callable[[Tensor], Tensor]) -> Target:
        base, posterior = (
            DiagNormal(change(density.mean), change(density.log_scale))
            for density in (self.base, self.posterior)
        )
        context = None if self.context is None else change(self.context)
        return Target(base, posterior, change(self.log_evidence), context)


def bases(n: int, dim: int) -> DiagNormal:
    """N base densities: the standard normal and one with a mean and scales of its own, in turn."""
    learned = (torch.arange(n) % 2).double()[:, None]
    j = torch.arange(dim).double()
    return DiagNormal(learned * (0.3 - 0.2 * j), learned * (0.2 - 0.15 * j))


def conjugate(n: int, dim: int, stream: str, n_context: int = 0) -> Target:
    r"""N Gaussian models $z \sim N(0, I)$, $x_i \mid z \sim N(z + \delta, \sigma^2)$, three points
    each, with data drawn from them.

    With $m = \bar x - \delta$, each dimension's posterior is $N(3 m / (3 + \sigma^2), \sigma^2 / (3
    + \sigma^2))$.
    """
    noise = Noise([stream])
    z, errors = noise.normal(1, n, dim, like=LIKE), noise.normal(3, n, dim, like=LIKE)
    x = z + 0.9 * errors  # x - delta, with sigma = 0.9
    m, s2 = x.mean(0), torch.tensor(0.81, dtype=torch.float64)
    squares = (x - m).square().sum(0)
    evidence = -0.5 * (
        3 * LOG_2PI
        + 2 * torch.log(s2)
        + torch.log(s2 + 3)
        + squares / s2
        + 3 * m.square() / (s2 + 3)
    ).sum(-1)
    posterior = DiagNormal(3 * m / (3 + s2), 0.5 * torch.log(s2 / (3 + s2)).expand(n, dim))
    context = noise.normal(n, n_context, like=LIKE) if n_context else None
    return Target(bases(n, dim), posterior, evidence, context)


def reliable(log_w: Tensor, heaviest_tail: float) -> Tensor:
    """Which problems' weights [S, N] can be judged: [N]."""
    with np.errstate(over="ignore"):  # hopeless weights are no fault: they do not count
        return (bounds.ess(log_w) > FEWEST_ESS) & (bounds.pareto_k(log_w) < heaviest_tail)


def stacked_leaves(
    init: Callable[[str], Params], streams: Sequence[str], jitter: float = 0.0
) -> Params:
    """Draw first leaves in double precision, [R, *event], a replicate a stream, every leaf moved by
    normal noise of scale `jitter`.
    """
    replicates = []
    for stream in streams:
        moves = Noise([f"{stream}/jitter"])
        replicates.append(
            {
                name: leaf.double() + jitter * moves.normal(*leaf.shape, like=LIKE)
                for name, leaf in init(stream).items()
            }
        )
    return {name: torch.stack([leaves[name] for leaves in replicates]) for name in replicates[0]}


def method_leaves(
    method: Method, dim: int, stream: str, n: int, n_context: int = 0, jitter: float = 0.0
) -> Params:
    """Draw a method's first parameters for `n` problems, which share them where they have a
    context.
    """
    streams = [f"{stream}/{replicate}" for replicate in range(1 if n_context else n)]
    return stacked_leaves(
        lambda name: method.init(dim, Noise([f"{name}/init"]), n_context), streams, jitter
    )


def allowed(cls: type[Plugin], values: dict[str, Any]) -> Plugin | None:
    """The plugin with these fields, or None where they do not go together."""
    try:
        return cls(**values)
    except ValidationError:
        return None


def choices(cls: type[BaseModel]) -> Iterator[dict[str, Any]]:
    """Every value, other than the default, of each field that has a list of values."""
    for name, field in cls.model_fields.items():
        values: tuple[Any, ...] = (True, False) if field.annotation is bool else ()
        if get_origin(field.annotation) is Literal:
            values = get_args(field.annotation)
        yield from ({name: value} for value in values if value != field.default)


def tunable_ends(cls: type[BaseModel], *which: str) -> Iterator[dict[str, Any]]:
    """The ends `low` and `high` of every tunable range, or those asked for."""
    for name, field in cls.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and isinstance(ends := extra.get("tunable"), dict):
            yield from ({name: ends[end]} for end in which or ("low", "high"))


def main_settings(cls: type[Method]) -> Iterator[dict[str, Any]]:
    """The defaults, both ends of every tunable range, every variant, every value of a field that
    lists its values.
    """
    yield {}
    for values in (*tunable_ends(cls), *cls.variants.values(), *choices(cls)):
        if allowed(cls, values) is not None:
            yield dict(values)


def described(values: dict[str, Any]) -> str:
    """Describe a setting in words."""
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "defaults"


class RecordedNoise(Noise):
    """Noise whose every draw is kept and can be differentiated by."""

    def __init__(self, streams: Sequence[str], draws: list[Tensor] | None = None) -> None:
        super().__init__(streams)
        self.draws: list[Tensor] = [] if draws is None else draws

    def at(self, step: int) -> RecordedNoise:
        """The same streams at another step, in the same record."""
        noise = RecordedNoise(self.streams, self.draws)
        noise._step = step
        return noise

    def permutation(self, n: int) -> Tensor:
        """An order of `n` items for each stream, recorded."""
        self.draws.append(super().permutation(n))
        return self.draws[-1]

    def _draw(self, kind: str, shape: tuple[int, ...], like: Tensor | None) -> Tensor:
        self.draws.append(super()._draw(kind, shape, like).clone().requires_grad_())
        return self.draws[-1]


def global_state() -> tuple[Any, ...]:
    """Where the global generators of torch, numpy and Python stand."""
    numpy_state = np.random.get_state(legacy=True)
    return (
        torch.get_rng_state().numpy().tobytes(),
        repr([np.asarray(value).tobytes() for value in numpy_state]),
        random.getstate(),
    )


@contextmanager
def reseeded(seed: int) -> Iterator[None]:
    """The global generators newly seeded; put back afterwards."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def recorded(leaves: Params) -> dict[str, Tensor]:
    """Copy leaves, so that gradients in them are recorded."""
    return {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}


def gradients(value: Tensor, leaves: Params) -> dict[str, Tensor]:
    """The slope of `value` in each leaf, zeros where it does not depend on it."""
    if not leaves or not value.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    slopes = torch.autograd.grad(
        value, list(leaves.values()), retain_graph=True, materialize_grads=True
    )
    return dict(zip(leaves, slopes, strict=True))


def leaf_fault(leaves: Params) -> str | None:
    """What is wrong with a replicate's first leaves, if anything."""
    for name, leaf in leaves.items():
        if leaf.ndim < 1 or not leaf.is_floating_point() or not bool(leaf.isfinite().all()):
            must = "it must be finite reals with at least one axis, a scalar [1]"
            return f"leaf '{name}' is {list(leaf.shape)} of {leaf.dtype}; {must}"
    return None


def distance(a: Tensor, b: Tensor, scale: float = 0.0) -> float:
    """The largest difference, relative to the largest value, or to `scale` where that is larger."""
    if a.shape != b.shape:
        return math.inf
    if not a.numel():
        return 0.0
    a, b = a.detach(), b.detach()
    smallest = max(scale, torch.finfo(a.dtype).tiny)
    largest = torch.maximum(a.abs().amax(), b.abs().amax()).clamp(min=smallest)
    return float(((a - b).abs().amax() / largest).nan_to_num(math.inf))


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two sets of named tensors are the same to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
