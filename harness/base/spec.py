"""What a run is: its specification, its key, its plan and its status. Plain values only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import to_jsonable_python

from harness.base.errors import InvalidSetting
from harness.base.metrics import Metric

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]


class Status(StrEnum):
    """Where a run stands: `TERMINAL` statuses are results, the others go on when asked for
    again.
    """

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    DIVERGED = "diverged"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    PRUNED = "pruned"


TERMINAL = frozenset({Status.DONE, Status.DIVERGED, Status.FAILED, Status.PRUNED})
OPEN = frozenset({Status.QUEUED, Status.INTERRUPTED, Status.RUNNING})
"""What a worker makes unasked. A run that is out of time waits until its command is repeated."""


def canonical_json(value: Any) -> str:
    """The one JSON text of a plain value: sorted keys, no spaces, shortest floats, no NaN.

    >>> canonical_json({"b": 1.0, "a": [1, None]})
    '{"a":[1,null],"b":1.0}'
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )


def plain(value: Any, fallback: Callable[[Any], Any] | None = None) -> Any:
    """A value as JSON holds it, the same each time: enumerations by their value, sets in order,
    paths and times as text, and by `fallback` what has no text of its own.

    >>> plain({"b", "a"}), plain((1, {2: None}))
    (['a', 'b'], [1, {'2': None}])

    Raises:
        ValueError: it has no text, and there is no fallback.
    """
    if isinstance(value, Enum):
        return plain(value.value, fallback)
    if isinstance(value, dict):
        names = [plain(name, fallback) for name in value]
        items = [plain(item, fallback) for item in value.values()]
        return {
            name if isinstance(name, str) else canonical_json(name): item
            for name, item in zip(names, items, strict=True)
        }
    if isinstance(value, list | tuple):
        return [plain(item, fallback) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item, fallback) for item in value), key=canonical_json)
    return to_jsonable_python(value, fallback=fallback)


def digest(value: Any) -> str:
    """`sha256(canonical JSON)[:16]`, the name under which a plain value is stored."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def added_later(old: Any, **kwargs: Any) -> Any:
    """A field of a later release: runs made before it had the value `old`, and keep their keys, as
    a spec leaves the field out of its hashed text while it has that value.
    """
    return Field(json_schema_extra={"old_runs_had": old}, **kwargs)


def settled_fields(model: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """`values` without those that old runs had in fields of later releases."""
    former = former_values(model)
    return {
        name: value for name, value in values.items() if name not in former or former[name] != value
    }


def stored_fields(plugin: BaseModel) -> dict[str, Any]:
    """All fields of a plugin as they are stored.

    Raises:
        InvalidSetting: a value that cannot be stored, or not be read back.
    """
    stored, values = {}, {name: getattr(plugin, name) for name in type(plugin).model_fields}
    for name, value in plugin.model_dump().items():
        survives = True
        try:
            stored[name] = plain(value)
            canonical_json(stored[name])
            try:
                canonical_json(value)
            except TypeError:  # what is not JSON itself must be the same when it is read back
                again = type(plugin)(**values | {name: stored[name]})
                survives = getattr(again, name) == values[name]
        except (TypeError, ValueError):
            survives = False
        if not survives:
            raise InvalidSetting(
                f"Field '{name}' of {type(plugin).__name__} cannot be stored: its value is a "
                f"{type(value).__name__}. "
                "Use numbers, texts, paths, times, enumerations, or lists, sets or dicts of them."
            )
    return stored


def former_values(model: type[BaseModel]) -> dict[str, Any]:
    """The value that old runs had, for each field that a later release added."""
    extras = {name: field.json_schema_extra for name, field in model.model_fields.items()}
    return {
        name: extra["old_runs_had"]
        for name, extra in extras.items()
        if isinstance(extra, dict) and "old_runs_had" in extra
    }


def worth_tuning(
    low: float, high: float, log: bool = True, when: dict[str, tuple[Any, ...]] | None = None
) -> dict[str, Any]:
    """How a field keeps the range in which it is worth tuning: see `harness.api.tunable`."""
    return {"tunable": {"low": low, "high": high, "log": log, "when": when}}


class Protocol(BaseModel):
    """How a run trains and how it is scored: the fields that `--set NAME=VALUE` addresses."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int = Field(ge=1, lt=2**63, description="training steps")
    batch_size: int | None = Field(
        json_schema_extra=worth_tuning(16, 1024),
        default=None,
        ge=1,
        description="examples in a batch; none: all of them",
    )
    shuffle: bool = Field(default=False, description="a new order of the examples every epoch")
    optimiser: Literal["adam", "adamw", "adamax", "rmsprop", "sgd"] = Field(
        default="adam", description="the update rule"
    )
    lr: float = Field(json_schema_extra=worth_tuning(1e-4, 1e-1), gt=0, description="learning rate")
    lr_method: float | None = added_later(
        None, default=None, gt=0, description="learning rate of the method's parameters; none: lr"
    )
    lr_model: float | None = added_later(
        None, default=None, gt=0, description="that of the task's model; none: lr"
    )
    lr_base: float | None = added_later(
        None, default=None, gt=0, description="that of a learned base; none: lr"
    )
    lr_schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="cosine: falls to 0 at the last step"
    )
    rmsprop_decay: float = Field(
        default=0.99, gt=0, lt=1, description="decay of rmsprop's average of squares"
    )
    weight_decay: float = added_later(
        0.01, default=0.01, ge=0, description="pull of adamw towards 0, times the learning rate"
    )
    momentum: float = added_later(0.9, default=0.9, ge=0, lt=1, description="momentum of sgd")
    clip_norm: float | None = Field(
        default=None, gt=0, description="largest gradient norm of a replicate; none: unlimited"
    )
    particles: int = Field(
        json_schema_extra=worth_tuning(1, 100),
        default=10,
        ge=1,
        description="particles in a training step",
    )
    bound: Literal["elbo", "iwae", "log-variance"] = Field(
        default="elbo", description="the reduction of log_w that is maximised"
    )
    gradient: Literal["total", "path", "dreg"] = added_later(
        "total",
        default="total",
        description="path: the elbo's without the score of q; dreg: iwae's, doubly reparameterised",
    )
    base: Literal["prior", "learned"] = Field(default="prior", description="the base density q0")
    dtype: Literal["float32", "float64"] = Field(
        default="float64", description="precision of parameters and densities"
    )
    eval_particles: int = Field(default=10_000, ge=2, description="particles in the final scores")
    eval_parameters: Literal["last", "best"] = added_later(
        "last",
        default="last",
        description="best: those of an earlier window of steps, where the last ones are worse",
    )
    validate_every: int | None = added_later(
        None, default=None, ge=1, description="steps between looks at validation data"
    )
    patience: int | None = added_later(
        None,
        default=None,
        ge=1,
        description="looks in vain after which training stops; none: go on",
    )

    start_from: Annotated[str, StringConstraints(pattern="^[0-9a-f]{16}$")] | None = added_later(
        None,
        default=None,
        description="key of the run whose parameters training starts from; none: first ones",
    )

    @model_validator(mode="after")
    def _one_choice_of_parameters(self) -> Self:
        if self.eval_parameters == "best" and self.validate_every is not None:
            raise ValueError(
                "eval_parameters=best is for training without validation data: with validate_every "
                "the best parameters on these are evaluated. Leave out one of the two"
            )
        return self

    @model_validator(mode="after")
    def _gradient_goes_with_its_bound(self) -> Self:
        of_bound = {"total": self.bound, "path": "elbo", "dreg": "iwae"}
        if of_bound[self.gradient] != self.bound:
            raise ValueError(
                f"gradient={self.gradient} is not one of bound={self.bound}. Use gradient=path "
                "with bound=elbo, gradient=dreg with bound=iwae, or gradient=total"
            )
        return self

    @model_validator(mode="after")
    def _a_variance_takes_two_particles(self) -> Self:
        if self.bound == "log-variance" and self.particles < 2:
            raise ValueError(
                "bound=log-variance is a variance over particles: set particles to 2 or more"
            )
        return self

    @property
    def weighs_given_draws(self) -> bool:
        """Whether training takes the log-weight of a given draw."""
        return self.gradient != "total" or self.bound == "log-variance"


class RunSpec(Protocol):
    """One run: one method on one task under one protocol with one seed.

    Two specs that mean the same computation have the same canonical text, and so the same `key`.
    """

    method: str
    method_version: int
    method_fields: dict[str, Any]
    method_source: str | None = added_later(
        None, default=None, description="sha256 of the method's text; none: it is installed"
    )
    task: str
    task_version: int
    task_fields: dict[str, Any]
    task_source: str | None = added_later(
        None, default=None, description="sha256 of the task's text; none: it is installed"
    )
    seed: int = Field(ge=0, lt=2**63)

    def plain(self) -> dict[str, Any]:
        """The hashed text's values."""
        return settled_fields(type(self), self.model_dump())

    def replicates(self, seeds: Iterable[int]) -> Iterator[RunSpec]:
        """This spec with other seeds: they share its names and texts, and cost little."""
        names = set(RunSpec.model_fields)
        values = {name: getattr(self, name) for name in RunSpec.model_fields}
        for seed in seeds:
            spec = RunSpec.model_construct(names, **{**values, "seed": seed})
            vars(spec)["around_seed"] = self.around_seed
            yield spec

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, which has names and a text of its own."""
        copied = super().model_copy(update=update, deep=deep)
        vars(copied).pop("around_seed", None)
        return copied

    @cached_property
    def around_seed(self) -> tuple[str, str, str]:
        """The canonical text before and after the seed, and the cell."""
        values, mark = self.plain(), uuid4().hex
        before, after = canonical_json({**values, "seed": mark}).split(f'"{mark}"')
        del values["seed"]
        return before, after, digest(values)

    @property
    def text(self) -> str:
        """The hashed text."""
        before, after, _ = self.around_seed
        return f"{before}{self.seed}{after}"

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> RunSpec:
        """The spec whose `plain()` is `values`."""
        return cls(**{**former_values(cls), **values})

    @property
    def key(self) -> str:
        """The run's name: 16 hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    @property
    def cell(self) -> str:
        """The key without the seed: what replicates have in common."""
        return self.around_seed[-1]

    def protocol(self) -> Protocol:
        """The fields of the protocol alone."""
        return Protocol(**{name: getattr(self, name) for name in Protocol.model_fields})


def settings_text(settings: dict[str, Any]) -> str:
    """Settings in one line, as `--set` takes them.

    >>> settings_text({"method.n_leapfrog": 1, "clip_norm": None})
    'n_leapfrog=1 clip_norm=none'
    """
    return " ".join(
        f"{name.removeprefix('method.')}={'none' if value is None else value}"
        for name, value in settings.items()
    )


def plain_number(value: float) -> float | str:
    """A number that JSON can hold: finite as it is, else its name.

    >>> plain_number(0.5), plain_number(float("-inf"))
    (0.5, '-inf')
    """
    return value if abs(value) < float("inf") else str(float(value))


class Description(BaseModel):
    """What a run's plugins say of it, stored when it is queued: whoever reads needs no plugin."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    method: str = Field(description="the method's name with its variant: hvae-untempered")
    settings: dict[str, Any] | None = Field(
        default=None, description="by address, those that neither that name nor the protocol says"
    )
    scored_by: tuple[str, ...] = Field(
        default=("eval_particles",), description="fields of the protocol on which the scores depend"
    )
    headline: tuple[str, ...] = Field(
        default=("elbo", "elbo_gap"), min_length=1, description="the metrics that are shown first"
    )
    task_variant: str | None = Field(
        default=None, description="the field that the task's name fills: dim"
    )
    stacks: bool = Field(default=False, description="whether replicates train as one program")
    scores: int | None = Field(
        default=None, description="how often one draw asks for the score; none: not known"
    )
    metric_info: dict[str, Metric] = Field(
        default={}, description="what the task's metrics mean; earlier releases did not store it"
    )

    @cached_property
    def text(self) -> str:
        """As it is stored."""
        undeclared = set() if self.metric_info else {"metric_info"}
        return canonical_json(self.model_dump(mode="json", exclude=undeclared))

    @cached_property
    def digest(self) -> str:
        """The name under which it is stored."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


class Plan(BaseModel):
    """What only changes speed, kept with the run so that whoever resumes it computes the same
    bits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    members: tuple[str, ...] = Field(description="keys of the stack, in order")
    threads: int = Field(ge=1)
    device: str = "cpu"
    compiled: bool = False
    torch: str = Field(description="the release of torch that made the first step")


@dataclass(frozen=True)
class NewRun:
    """A run to be made: its spec, and what is stored beside it; `sources` are texts by sha256."""

    spec: RunSpec
    task_label: str
    settings: dict[str, Any]
    source_hash: str
    protocol: str
    description: Description
    sources: dict[str, str] = field(default_factory=dict)
