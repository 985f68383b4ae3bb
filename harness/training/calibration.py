"""Fair compute: the value of a method's setting at which its training step takes as long as that of
a reference.

Two methods are compared by the ratio of their times within a round, in which each of them trains
for a while: what slows the machine down slows both. Which value makes the ratio 1 is read from a
line through the three measured ratios nearest to 1; the value found is measured in turn, until the
line leads to a value that was measured already; that one is measured once more, for longer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.api import Data
from harness.base.errors import UsageError
from harness.plan.grid import Resolved, Setting, parse_selector, resolve, selected
from harness.training import loop as training
from harness.training.loop import Progress

ROUNDS = 9
PASSES = 10
WARM_UP = 3  # steps that nobody counts
BLOCK_S = 0.15  # how long a method trains in a round
LARGEST = 100_000
TOLERANCE = 0.05  # a ratio this near to 1 is as good as 1
CLOSE = 0.02  # and one this near is not looked beyond
UNENDING = 10**9  # steps: training does not end while it is timed


@dataclass(frozen=True)
class Point:
    """What is timed: one of the methods, by its place in the list, with a value of its setting."""

    method: int
    value: int


Measure = Callable[[Sequence[Point], int], Mapping[Point, Sequence[float]]]
"""Points and a number of rounds -> seconds a step in each of the rounds, for each point."""


@dataclass(frozen=True)
class Spread:
    """The median of several measurements, and half the distance between their quartiles."""

    median: float
    spread: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of these values.

        >>> Spread.of([1.0, 4.0, 2.0, 3.0, 10.0])
        Spread(median=3.0, spread=1.0)
        """
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, (high - low) / 2)


@dataclass(frozen=True)
class Answer:
    """The value found for a method, the seconds of a step at it, and the ratio of that to a step of
    the reference, from the last pass.

    `ratios` are the medians of all passes, by value.
    """

    value: int
    step: Spread
    ratio: Spread
    ratios: dict[int, float]

    @property
    def equal(self) -> bool:
        """Whether the ratio is 1 up to its spread or `TOLERANCE`."""
        return abs(self.ratio.median - 1) <= max(TOLERANCE, self.ratio.spread)


def first_values(value: int) -> list[int]:
    """Three values to begin with, around one.

    >>> first_values(40), first_values(1)
    ([20, 40, 60], [1, 2, 3])
    """
    half = max(1, value // 2)
    return [half, 2 * half, 3 * half]


def next_value(ratios: Mapping[int, float]) -> int:
    """The value at which a line through the three ratios nearest to 1 is 1.

    It lies between the values that are known to be too small and too large, and is at most four
    times the largest measured.

    >>> next_value({20: 0.6, 40: 1.1, 60: 1.6})
    36
    """
    nearest = sorted(ratios, key=lambda value: abs(ratios[value] - 1))
    if len(ratios) > 3 and abs(ratios[nearest[0]] - 1) <= CLOSE:
        return nearest[0]
    below, above = (
        [value for value in ratios if ratios[value] < 1],
        [value for value in ratios if ratios[value] >= 1],
    )
    ends = max(below, default=1), min(above, default=min(4 * max(ratios), LARGEST))
    value = _where_one(ratios, nearest[:3])
    if value is not None and min(ends) <= value <= max(ends):
        return round(value)
    if below and above:  # the line bends or jumps between them, or noise hides its slope
        return round(_where_one(ratios, ends) or nearest[0])
    return ends[0] if above else ends[1]


def _where_one(ratios: Mapping[int, float], values: Sequence[int]) -> float | None:
    """Where the line through some of the ratios is 1; None where it does not rise."""
    slope, intercept = statistics.linear_regression(values, [ratios[value] for value in values])
    return (1 - intercept) / slope if slope > 0 else None


def search(measure: Measure, values: Sequence[int]) -> tuple[Spread, list[Answer]]:
    """The seconds of the reference's step, and for each other method the value that makes its own
    step equally long.

    Args:
        measure: takes the times.
        values: where each method begins; the first is the reference, which stays at its value.
    """
    reference = Point(0, values[0])
    known = [dict[int, list[float]]() for _ in values]
    points = [
        Point(place, value)
        for place, first in enumerate(values)
        if place
        for value in first_values(first)
    ]
    settled = False
    for left in reversed(range(PASSES)):
        times = measure([reference, *points], 2 * ROUNDS if settled else ROUNDS)
        for point in points:
            known[point.method].setdefault(point.value, []).extend(
                round_by_round(times[point], times[reference])
            )
        medians = [
            {value: statistics.median(ratios) for value, ratios in sorted(found.items())}
            for found in known
        ]
        proposed = [Point(place, next_value(medians[place])) for place in range(1, len(values))]
        if settled:
            answers = [
                _answer(point, times[point], times[reference], medians[point.method])
                for point in points
            ]
            if not left or proposed == points or all(answer.equal for answer in answers):
                return Spread.of(times[reference]), answers
        settled = left == 1 or all(point.value in known[point.method] for point in proposed)
        points = proposed
    raise AssertionError("the last pass is settled")


def _answer(
    point: Point, times: Sequence[float], reference: Sequence[float], ratios: dict[int, float]
) -> Answer:
    return Answer(
        point.value, Spread.of(times), Spread.of(round_by_round(times, reference)), ratios
    )


def round_by_round(times: Sequence[float], reference: Sequence[float]) -> list[float]:
    """The ratios of two times."""
    return [one / other for one, other in zip(times, reference, strict=True)]


@dataclass(frozen=True)
class Entrant:
    """A method to be timed: what was typed for it, and the setting that makes its step longer."""

    typed: str
    setting: Setting
    field: str

    @property
    def address(self) -> str:
        """The setting as `--set` knows it."""
        return self.field if self.field == "particles" else f"method.{self.field}"


def entrant(typed: str) -> Entrant:
    """The method of a selector; its setting is `n_leapfrog` where it has that field, else
    `particles`.

    Raises:
        UsageError: the selector stands for several settings, or there is no such method.
    """
    settings = parse_selector("method", typed)
    if len(settings) > 1:
        raise UsageError(
            f"'{typed}' stands for {len(settings)} settings; calibrate takes one setting of each method."
        )
    return Entrant(
        typed,
        settings[0],
        "n_leapfrog" if "n_leapfrog" in settings[0].plugin.cls.model_fields else "particles",
    )


class Stopwatch:
    """Times training steps in memory, a few at a time; one replicate, seed 0, the data loaded once
    for all methods.

    Args:
        entrants: the methods.
        task: the task of all of them.
        protocol: one of the task's, or None for its default.
        sets: what `--set` would say.
        steps: steps of each block that is timed; None: as many as take `BLOCK_S`.
    """

    def __init__(
        self,
        entrants: Sequence[Entrant],
        task: Setting,
        protocol: str | None,
        sets: Mapping[str, Any],
        steps: int | None,
    ) -> None:
        self._entrants, self._task, self._sets, self._steps = entrants, task, sets, steps
        self._protocol = protocol or task.plugin.cls.default_protocol
        self._data: Data | None = None
        self._running: dict[Point, tuple[Iterator[Progress], int]] = {}
        self._resolved = [self._resolve(entrant, {}) for entrant in entrants]

    @property
    def values(self) -> list[int]:
        """Where each method's setting stands."""
        pairs = zip(self._entrants, self._resolved, strict=True)
        return [resolved.addresses()[entrant.address] for entrant, resolved in pairs]

    def __call__(self, points: Sequence[Point], rounds: int) -> dict[Point, list[float]]:
        """Seconds a step of every point, in each of so many rounds."""
        for point in points:
            if point not in self._running:
                self._running[point] = self._start(point)
        times: dict[Point, list[float]] = {point: [] for point in points}
        for _ in range(rounds):
            for point in points:
                running, steps = self._running[point]
                times[point].append(self._timed(point, running, steps))
        return times

    def _resolve(self, entrant: Entrant, more: dict[str, Any]) -> Resolved:
        given = {**selected(entrant.setting, self._task), **self._sets, **more}
        return resolve(entrant.setting.plugin, self._task.plugin, self._protocol, given)

    def _start(self, point: Point) -> tuple[Iterator[Progress], int]:
        """Training of a point behind its first steps, which nobody counts, and the steps of a
        block.
        """
        entrant = self._entrants[point.method]
        resolved = self._resolve(entrant, {entrant.address: point.value})
        protocol = resolved.protocol.model_copy(
            update={"steps": UNENDING, "validate_every": None, "patience": None}
        )
        state = training.start(resolved.method, resolved.task, protocol, [0])
        self._data = self._data or state.data
        running = training.train(
            resolved.method, resolved.task, protocol, replace(state, data=self._data)
        )
        took = [self._timed(point, running, 1) for _ in range(WARM_UP)]
        return running, self._steps or max(1, round(BLOCK_S / took[-1]))

    def _timed(self, point: Point, running: Iterator[Progress], steps: int) -> float:
        """Seconds a step: the median of so many.

        Raises:
            UsageError: the method diverged.
        """
        taken = []
        for _ in range(steps):
            began = time.perf_counter()
            if next(running, None) is None:
                entrant = self._entrants[point.method]
                raise UsageError(
                    f"{entrant.typed} with {entrant.field}={point.value} diverged while it was timed. Try --set lr=1e-5."
                )
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)
