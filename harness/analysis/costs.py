"""What a run costs: steps, gradient evaluations, seconds; and what finding its settings took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.analysis.sample import Group, Spent
from harness.base.spec import Description

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
    """Of a run of each of some groups: steps, gradient evaluations of the log-joint, and seconds of
    work.

    `tuning` has what was spent on finding the settings of those groups whose settings tuning found.
    """

    steps: Span | None
    gradients: Span | None
    seconds: Span | None
    tuning: tuple[Spent, ...]


def cost_of(groups: Iterable[Group], tuning: Mapping[str, Spent]) -> Cost:
    """From the cheapest group to the dearest; seconds are means over a group's finished runs.

    The members of a stack train together, and each has the seconds of the whole stack. `tuning` is
    by cell.
    """
    known = list(groups)
    return Cost(
        Span.of(group.cell.spec["steps"] for group in known),
        Span.of(gradients(group.cell.spec, group.cell.description) for group in known),
        Span.of(seconds(group) for group in known),
        tuple(tuning[group.cell.cell] for group in known if group.cell.cell in tuning),
    )


def seconds(group: Group) -> float | None:
    """Of work of a finished run, the mean; None where none has finished."""
    times = [run.wall_s for run in group.done]
    return sum(times) / len(times) if times else None


def gradients(
    spec: dict[str, Any], description: Description, steps: int | None = None
) -> int | None:
    """Gradient evaluations of the log-joint, or of a mini-batch's: steps x particles x (scores a
    draw takes + 1).

    How many scores a draw takes was counted when the run was queued. None where that is not known.
    Without `steps`: of a whole run.
    """
    taken = spec["steps"] if steps is None else steps
    return (
        None
        if description.scores is None
        else taken * spec["particles"] * (description.scores + BACKWARD)
    )
