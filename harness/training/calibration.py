"""Fair compute: the value of a method's setting at which its training step takes as long as that of
a reference.

Methods are compared by the ratio of their times within a round, in which each of them trains for a
while: what slows the machine down slows all. Which value makes the ratio 1 is read from a line
through the three measured ratios nearest to 1; that value is measured in turn, until the line leads
to one that was measured already, which is measured once more, for longer.
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
from harness.training import loop
from harness.training.loop import Progress

ROUNDS = 9
PASSES = 10
WARM_UP = 3  # steps that are not timed
BLOCK_S = 0.15  # how long a method trains in a round
LARGEST = 100_000
TOLERANCE = 0.05  # a ratio this near to 1 is as good as 1
CLOSE = 0.02  # and from one this near the search goes no further
UNENDING = 10**9  # steps: training does not end while it is timed


@dataclass(frozen=True)
class Point:
    """What is timed: a method, by its index, with a value of its setting."""

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
        """Compute them.

        >>> Spread.of([1.0, 4.0, 2.0, 3.0, 10.0])
        Spread(median=3.0, spread=1.0)
        """
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, (high - low) / 2)


@dataclass(frozen=True)
class Answer:
    """The value for a method, the seconds of a step at it, and its ratio to the reference's step.

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


def search(measure: Measure, values: Sequence[int]) -> tuple[Spread, list[Answer]]:
    """Find the value of each method that makes its step as long as the reference's.

    Args:
        measure: takes the times.
        values: where each method begins; the first is the reference, which stays at its value.

    Returns:
        The seconds of the reference's step, and an answer for each other method.
    """
    reference, methods = Point(0, values[0]), range(1, len(values))
    measured: list[dict[int, list[float]]] = [{} for _ in values]
    points = [Point(method, value) for method in methods for value in first_values(values[method])]
    is_final = False
    for passes_left in reversed(range(PASSES)):
        times = measure([reference, *points], 2 * ROUNDS if is_final else ROUNDS)
        ratios = {
            point: [a / b for a, b in zip(times[point], times[reference], strict=True)]
            for point in points
        }
        for point in points:
            measured[point.method].setdefault(point.value, []).extend(ratios[point])
        medians = [
            {value: statistics.median(numbers) for value, numbers in sorted(by_value.items())}
            for by_value in measured
        ]
        proposed = [Point(method, next_value(medians[method])) for method in methods]
        if is_final:
            answers = [
                Answer(
                    point.value,
                    Spread.of(times[point]),
                    Spread.of(ratios[point]),
                    medians[point.method],
                )
                for point in points
            ]
            if not passes_left or proposed == points or all(answer.equal for answer in answers):
                return Spread.of(times[reference]), answers
        is_final = passes_left == 1 or all(
            point.value in measured[point.method] for point in proposed
        )
        points = proposed
    raise AssertionError("the last pass is final")


def first_values(value: int) -> list[int]:
    """Return three values to begin with, around one.

    >>> first_values(40), first_values(1)
    ([20, 40, 60], [1, 2, 3])
    """
    half = max(1, value // 2)
    return [half, 2 * half, 3 * half]


def next_value(ratios: Mapping[int, float]) -> int:
    """Return the value at which a line through the three ratios nearest to 1 is 1.

    It lies between the values that are known to be too small and too large, and is at most four
    times the largest measured.

    >>> next_value({20: 0.6, 40: 1.1, 60: 1.6})
    36
    """
    nearest = sorted(ratios, key=lambda value: abs(ratios[value] - 1))
    if len(ratios) > 3 and abs(ratios[nearest[0]] - 1) <= CLOSE:
        return nearest[0]
    below = [value for value in ratios if ratios[value] < 1]
    above = [value for value in ratios if ratios[value] >= 1]
    ends = max(below, default=1), min(above, default=min(4 * max(ratios), LARGEST))
    value = _root(ratios, nearest[:3])
    if value is not None and min(ends) <= value <= max(ends):
        return round(value)
    if below and above:  # the line bends or jumps between them, or noise hides its slope
        return round(_root(ratios, ends) or nearest[0])
    return ends[0] if above else ends[1]


def _root(ratios: Mapping[int, float], values: Sequence[int]) -> float | None:
    """Return where the line through some of the ratios is 1; None where it does not rise."""
    slope, intercept = statistics.linear_regression(values, [ratios[value] for value in values])
    return (1 - intercept) / slope if slope > 0 else None


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
    """Parse a method; its setting is `n_leapfrog` where it has that field, else `particles`.

    Raises:
        UsageError: the selector stands for several settings, or there is no such method.
    """
    settings = parse_selector("method", typed)
    if len(settings) > 1:
        raise UsageError(
            f"'{typed}' stands for {len(settings)} settings; "
            "calibrate takes one setting of each method."
        )
    fields = settings[0].plugin.cls.model_fields
    return Entrant(typed, settings[0], "n_leapfrog" if "n_leapfrog" in fields else "particles")


class Stopwatch:
    """Times training steps in memory: one replicate, seed 0, the data loaded once for all methods.

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
        self.values = [
            self._resolve(entrant, {}).addresses()[entrant.address] for entrant in entrants
        ]
        """Where each method's setting stands."""

    def __call__(self, points: Sequence[Point], rounds: int) -> dict[Point, list[float]]:
        """Return seconds a step of every point, in each of so many rounds."""
        times: dict[Point, list[float]] = {point: [] for point in points}
        for point in points:
            if point not in self._running:
                self._running[point] = self._start(point)
        for _ in range(rounds):
            for point in points:
                times[point].append(self._time(point, *self._running[point]))
        return times

    def _resolve(self, entrant: Entrant, fields: dict[str, Any]) -> Resolved:
        typed = {**selected(entrant.setting, self._task), **self._sets, **fields}
        return resolve(entrant.setting.plugin, self._task.plugin, self._protocol, typed)

    def _start(self, point: Point) -> tuple[Iterator[Progress], int]:
        """Return training after its first steps, and the steps of a block."""
        entrant = self._entrants[point.method]
        resolved = self._resolve(entrant, {entrant.address: point.value})
        method, task = resolved.method, resolved.task
        endless = {"steps": UNENDING, "validate_every": None, "patience": None}
        protocol = resolved.protocol.model_copy(update=endless)
        state = loop.start(method, task, protocol, [0])
        self._data = self._data or state.data
        running = loop.train(method, task, protocol, replace(state, data=self._data))
        step_s = [self._time(point, running, 1) for _ in range(WARM_UP)][-1]
        return running, self._steps or max(1, round(BLOCK_S / step_s))

    def _time(self, point: Point, running: Iterator[Progress], steps: int) -> float:
        """Return seconds a step: the median of so many.

        Raises:
            UsageError: the method diverged.
        """
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            if next(running, None) is None:
                entrant = self._entrants[point.method]
                raise UsageError(
                    f"{entrant.typed} with {entrant.field}={point.value} diverged while it was "
                    "timed. Try --set lr=1e-5."
                )
            times.append(time.perf_counter() - start)
        return statistics.median(times)
