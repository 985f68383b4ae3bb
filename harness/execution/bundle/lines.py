"""One finished run as one line of canonical JSON, and back. A line that would not be written so is
refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from harness.base.spec import TERMINAL, Description, NewRun, Plan, RunSpec, Status, canonical_json
from harness.base.workspace import FILE_NAME, KEY
from harness.plan.description import describe_stored
from harness.store import ArtifactFile, CheckpointFile, Curve, HistoryRow, Metric, Outcome, Result
from harness.store.floats import FINITE, encode

# A line is read whole, and as objects it takes some twenty times as much. This is room for 500,000
# points of curves.
LONGEST_LINE = 16 * 2**20

# What a database column can hold: PostgreSQL's text has no NUL, its integers 64 bits, its row
# counters 32.
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
Name = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{0,200}$")]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Fence = Annotated[int, Field(ge=0, lt=2**31)]
Key = Annotated[str, StringConstraints(pattern=f"^{KEY}$")]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Role = Annotated[str, StringConstraints(pattern="^[a-z]{1,40}$")]
FileName = Annotated[str, StringConstraints(pattern=f"^{FILE_NAME}$")]


def _countable(value: Any) -> Any:
    """A plain value, if each whole number in it fits 64 bits: longer ones cannot be read
    everywhere.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a whole number is too large")
    for inner in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        _countable(inner)
    return value


Values = Annotated[dict[str, Any], AfterValidator(_countable)]
# Seconds since 1970, or of work: a calendar can show them up to the year 5138.
Seconds = Annotated[float, Field(ge=0, le=1e11)]
# JSON has no NaN and no infinity: they go by name.
Number = float | Literal["nan", "+inf", "-inf"]


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class _Metric(_Plain):
    value: Number
    se: Number | None


class _Curve(_Plain):
    steps: list[Count]
    values: list[Number]


class _Checkpoint(_Plain):
    role: Role
    step: Count
    sha256: Sha256
    size: Count


class _Picture(_Plain):
    name: FileName
    sha256: Sha256
    size: Count


class _Change(_Plain):
    at: Seconds
    status: Status
    reason: Text | None
    step: Count
    fence: Fence
    owner: Text | None


class _Line(_Plain):
    """A run as a bundle holds it. No paths: where files lie follows from the key."""

    key: Key
    spec: Values
    task_label: Name
    settings: Values
    source_hash: Name
    protocol: Name
    status: Status
    reason: Text | None
    step: Count
    wall_s: Seconds
    created_at: Seconds
    started_at: Seconds | None
    finished_at: Seconds | None
    plan: Plan | None
    environment: Values
    description: Values | None = None  # bundles of earlier releases have none
    metrics: dict[Name, _Metric]
    curves: dict[Name, _Curve]
    history: list[_Change]
    checkpoint: _Checkpoint | None
    pictures: list[_Picture]


def encode_line(result: Result) -> bytes:
    """A run's line, with its end.

    Raises:
        ValueError: the run has something that a bundle cannot hold.
    """
    outcome = result.outcome
    values = {
        "key": result.key,
        "spec": result.run.spec.plain(),
        "task_label": result.run.task_label,
        "settings": result.run.settings,
        "source_hash": result.run.source_hash,
        "protocol": result.run.protocol,
        "status": outcome.status.value,
        "reason": outcome.reason,
        "step": outcome.step,
        "wall_s": outcome.wall_s,
        "created_at": result.created_at,
        "started_at": result.started_at,
        "finished_at": result.finished_at,
        "plan": result.plan.model_dump(mode="json") if result.plan else None,
        "environment": result.environment,
        "description": result.run.description.model_dump(mode="json"),
        "metrics": {
            name: {"value": _number(metric.value), "se": _number(metric.se)}
            for name, metric in outcome.metrics.items()
        },
        "curves": {name: _curve(curve) for name, curve in outcome.curves.items()},
        "history": [vars(line) for line in result.history],
        "checkpoint": _file(outcome.checkpoint),
        "pictures": [_file(picture) for picture in outcome.artifacts],
    }
    line = canonical_json(values).encode() + b"\n"
    decode_line(line)  # what is written can be read
    return line


def _number(value: float | None) -> Any:
    finite, kind = encode(value)
    return finite if kind in (None, FINITE) else kind


def _curve(curve: Curve) -> dict[str, Any]:
    return {"steps": [step for step, _ in curve], "values": [_number(value) for _, value in curve]}


def _file(file: CheckpointFile | ArtifactFile | None) -> dict[str, Any] | None:
    return (
        None
        if file is None
        else {name: value for name, value in vars(file).items() if name != "edition"}
    )


def decode_line(line: bytes) -> Result:
    """The run of a line.

    Raises:
        ValueError: it is not what `encode_line` writes, or contradicts itself.
    """
    if len(line) > LONGEST_LINE:
        raise ValueError(f"a run takes more than {LONGEST_LINE // 2**20} MB of text")
    try:
        values = _Line.model_validate_json(line)
        spec = RunSpec.from_plain(values.spec)
        told = values.description
        description = (
            describe_stored(spec.method, values.spec, values.settings, values.protocol)
            if told is None
            else Description.model_validate(told)
        )
    except ValidationError as err:
        first = err.errors(include_url=False, include_input=False)[0]
        raise ValueError(
            f"a run does not validate: {'.'.join(map(str, first['loc'])) or 'its line'}: {first['msg']}"
        ) from err
    if canonical_json(values.model_dump(mode="json", exclude_unset=True)).encode() + b"\n" != line:
        raise ValueError(f"the line of run {values.key} is not written as bench writes it")
    _check(values, spec)
    return Result(
        run=NewRun(
            spec,
            values.task_label,
            values.settings,
            values.source_hash,
            values.protocol,
            description,
        ),
        outcome=_outcome(values),
        history=[HistoryRow(**vars(line)) for line in values.history],
        **{
            name: getattr(values, name)
            for name in ("created_at", "started_at", "finished_at", "plan", "environment")
        },
    )


def _check(values: _Line, spec: RunSpec) -> None:
    """What one field must be because of another."""
    names = [
        picture.name.lower() for picture in values.pictures
    ]  # some file systems do not tell them apart
    faults = {
        "its key is not the digest of its spec": values.key != spec.key,
        f"status {values.status} is not that of a finished run": values.status not in TERMINAL,
        "its plan is another run's": values.plan is not None
        and values.key not in values.plan.members,
        "it has more steps than its spec": max(
            values.step, values.checkpoint.step if values.checkpoint else 0
        )
        > spec.steps,
        "its spec has more steps than can be counted": spec.steps >= 2**63,
        "a name in its spec is not text": not all(map(str.isprintable, (spec.method, spec.task))),
        "a curve has more steps than values, or fewer": any(
            len(c.steps) != len(c.values) for c in values.curves.values()
        ),
        "two pictures have one name": len(set(names)) < len(names),
    }
    found = next((text for text, holds in faults.items() if holds), None)
    if found:
        raise ValueError(f"run {values.key} contradicts itself: {found}")


def _outcome(values: _Line) -> Outcome:
    file = values.checkpoint
    return Outcome(
        values.status,
        values.reason,
        values.step,
        values.wall_s,
        metrics={
            name: Metric(float(metric.value), None if metric.se is None else float(metric.se))
            for name, metric in values.metrics.items()
        },
        curves={
            name: list(zip(curve.steps, map(float, curve.values), strict=True))
            for name, curve in values.curves.items()
        },
        checkpoint=file and CheckpointFile(**vars(file)),
        artifacts=[ArtifactFile(**vars(picture)) for picture in values.pictures],
    )
