"""What a run costs: steps, gradient evaluations, seconds; and what finding its settings took."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from harness import registry
from harness.analysis.sample import Group, Spent
from harness.errors import BenchError

BACKWARD = 1
"""The gradient of the bound, taken once a step, goes through the log-joint once more."""


@dataclass(frozen=True)
class Span:
    """The smallest and the largest of some figures."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Span | None:
        """Of these figures; None where one is missing or there are none."""
        known = list(values)
        if not known or any(value is None for value in known):
            return None
        numbers = [value for value in known if value is not None]
        return cls(min(numbers), max(numbers))


@dataclass(frozen=True)
class Cost:
    """Of a run of each of some groups: steps, gradient evaluations of the log-joint, and seconds of work.

    `tuning` has what was spent on finding the settings of those groups whose settings tuning found.
    """

    steps: Span | None
    gradients: Span | None
    seconds: Span | None
    tuning: tuple[Spent, ...]


def cost_of(groups: Iterable[Group], tuning: Mapping[str, Spent]) -> Cost:
    """From the cheapest group to the dearest; seconds are means over a group's finished runs.

    The members of a stack train together, and each has the seconds of the whole stack. `tuning` is by cell.
    """
    known = list(groups)
    return Cost(
        Span.of(group.cell.spec["steps"] for group in known),
        Span.of(gradients(group.cell.spec) for group in known),
        Span.of(seconds(group) for group in known),
        tuple(tuning[group.cell.cell] for group in known if group.cell.cell in tuning),
    )


def seconds(group: Group) -> float | None:
    """Of work of a finished run, the mean; None where none has finished."""
    times = [run.wall_s for run in group.done]
    return sum(times) / len(times) if times else None


def gradients(spec: dict[str, Any], steps: int | None = None) -> int | None:
    """Gradient evaluations of the log-joint, or of a mini-batch's: steps x particles x (scores a draw takes + 1).

    How many scores a draw takes is counted, by drawing once. None where the method is not here to be asked. Without `steps`: of a
    whole run.
    """
    scores = _scores(spec["method"], json.dumps(spec["method_fields"], sort_keys=True))
    taken = spec["steps"] if steps is None else steps
    return None if scores is None else taken * spec["particles"] * (scores + BACKWARD)


@cache
def _scores(method: str, fields: str) -> int | None:
    """How often one draw of a particle asks for the score."""
    import torch

    from harness.api import DiagNormal, Noise, Problem

    try:
        built = registry.load_method(method, json.loads(fields))
    except BenchError:
        return None
    asked = 0

    def score(z: torch.Tensor) -> torch.Tensor:
        nonlocal asked
        asked += 1
        return -z

    zeros = torch.zeros(1, 2, dtype=torch.float64)
    problem = Problem(log_joint=lambda z: -0.5 * z.square().sum(-1), score=score, base=DiagNormal(zeros, zeros))
    noise = Noise(["cost"])
    params = {name: leaf.double()[None] for name, leaf in built.init(2, noise).items()}
    with torch.no_grad():
        built.particles(params, problem, noise, 1)
    return asked
