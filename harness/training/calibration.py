"""Fair compute: the value of a method's setting at which its training step takes as long as that of
a reference.

Methods are compared by the ratio of their times within a round, in which each of them trains for a
while: what slows the machine down slows all. A line through measured ratios says which value makes
the ratio 1; that value is measured in turn, until the line leads to one that was measured already,
which is measured once more, for longer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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


class Point(NamedTuple):
    """What is timed: a method, by its index, with a value of its setting."""

    method: int
    value: int


Measure = Callable[[Sequence[Point], int], Mapping[Point, Sequence[float]]]
"""Points and a number of rounds -> seconds a step in each of the rounds, for each point."""


class Spread(NamedTuple):
    """The median of several measurements, and half the distance between their quartiles."""

    median: float
    spread: float


def spread(values: Sequence[float]) -> Spread:
    """Compute it.

    >>> spread([1.0, 4.0, 2.0, 3.0, 10.0])
    Spread(median=3.0, spread=1.0)
    """
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, (high - low) / 2)


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
    """Find the value of each method that makes its step as long as that of the first, the
    reference; return the seconds of the reference's step, and an answer for each other method.
    """
    reference, methods = Point(0, values[0]), range(1, len(values))
    measured: dict[int, dict[int, list[float]]] = {method: {} for method in methods}

    def timed(points: list[Point], rounds: int) -> Mapping[Point, Sequence[float]]:
        times = measure([reference, *points], rounds)
        for point in points:
            ratios = [a / b for a, b in zip(times[point], times[reference], strict=True)]
            measured[point.method].setdefault(point.value, []).extend(ratios)
        return times

    def medians(method: int) -> dict[int, float]:
        return {value: statistics.median(ratios) for value, ratios in measured[method].items()}

    points = [Point(method, value) for method in methods for value in first_values(values[method])]
    for _ in range(PASSES - 1):
        timed(points, ROUNDS)
        points = [Point(method, next_value(medians(method))) for method in methods]
        if all(point.value in measured[point.method] for point in points):
            break
    times = timed(points, 2 * ROUNDS)
    answers = [
        Answer(p.value, spread(times[p]), spread(measured[p.method][p.value]), medians(p.method))
        for p in points
    ]
    return spread(times[reference]), answers


def first_values(value: int) -> list[int]:
    """Return three values to begin with, around one.

    >>> first_values(40), first_values(1)
    ([20, 40, 60], [1, 2, 3])
    """
    half = max(1, value // 2)
    return [half, 2 * half, 3 * half]


def next_value(ratios: Mapping[int, float]) -> int:
    """Return the value at which a line is 1: that through the nearest ratios on both sides of 1, or
    else through the three nearest. It is at most four times the largest measured.

    >>> next_value({20: 0.6, 40: 1.1, 60: 1.6})
    36
    """
    nearest = sorted(ratios, key=lambda value: abs(ratios[value] - 1))
    if len(ratios) > 3 and abs(ratios[nearest[0]] - 1) <= CLOSE:
        return nearest[0]
    below = [value for value in ratios if ratios[value] < 1]
    above = [value for value in ratios if ratios[value] >= 1]
    largest = min(4 * max(ratios), LARGEST)
    ends = (max(below), min(above)) if below and above else nearest[:3]
    slope, intercept = statistics.linear_regression(ends, [ratios[value] for value in ends])
    if slope <= 0 and not (below and above):
        return largest if below else 1
    return min(max(1, round((1 - intercept) / slope)), largest)


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


def stopwatch(
    entrants: Sequence[Entrant],
    task: Setting,
    protocol: str | None,
    sets: Mapping[str, Any],
    steps: int | None,
) -> tuple[Measure, list[int]]:
    """Return what times training steps in memory, so many a block or as many as take `BLOCK_S`, and
    where each method's setting stands. It trains one replicate, seed 0, and loads the data once.
    """
    name = protocol or task.plugin.cls.default_protocol
    running: dict[Point, tuple[Iterator[Progress], int]] = {}
    data: Data | None = None

    def resolved(entrant: Entrant, fields: dict[str, Any]) -> Resolved:
        typed = {**selected(entrant.setting, task), **sets, **fields}
        return resolve(entrant.setting.plugin, task.plugin, name, typed)

    def started(point: Point) -> Iterator[Progress]:
        nonlocal data
        entrant = entrants[point.method]
        run = resolved(entrant, {entrant.address: point.value})
        endless = {"steps": 10**9, "validate_every": None, "patience": None}
        endless_protocol = run.protocol.model_copy(update=endless)
        state = loop.start(run.method, run.task, endless_protocol, [0])
        data = state.data = data or state.data
        return loop.train(run.method, run.task, endless_protocol, state)

    def timed(point: Point, training: Iterator[Progress], n_steps: int) -> float:
        """Return seconds a step: the median of so many."""
        times = []
        for _ in range(n_steps):
            start = time.perf_counter()
            if next(training, None) is None:
                entrant = entrants[point.method]
                raise UsageError(
                    f"{entrant.typed} with {entrant.field}={point.value} diverged while it was "
                    "timed. Try --set lr=1e-5."
                )
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def measure(points: Sequence[Point], rounds: int) -> dict[Point, list[float]]:
        for point in points:
            if point not in running:
                training = started(point)
                step_s = [timed(point, training, 1) for _ in range(WARM_UP)][-1]
                running[point] = training, steps or max(1, round(BLOCK_S / step_s))
        times: dict[Point, list[float]] = {point: [] for point in points}
        for _ in range(rounds):
            for point in points:
                times[point].append(timed(point, *running[point]))
        return times

    return measure, [resolved(each, {}).addresses()[each.address] for each in entrants]
