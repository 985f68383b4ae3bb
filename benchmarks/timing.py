"""What the benchmarks share: races in which everyone takes a step in every round, medians with
quartiles, and what a figure was made on.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import torch  # noqa: E402

from harness.execution import environment  # noqa: E402
from harness.plan.grid import resolve  # noqa: E402
from harness.plan.registry import NamedPlugin, find  # noqa: E402
from harness.training import devices  # noqa: E402
from harness.training import loop as training  # noqa: E402

FIGURES = Path(__file__).parent / "figures"
CLOCKS = {"elapsed": time.perf_counter, "processor": time.process_time}
WARM_UP = 2
Seconds = dict[str, dict[str, list[float]]]
"""By contender and clock, a number a round."""


def race(
    contenders: dict[str, Callable[[], object]], rounds: int, turns: dict[str, int] | None = None
) -> Seconds:
    """Seconds of a call of each contender in each round, after `WARM_UP` rounds that nobody counts.

    What slows the machine for a while slows everyone alike, so ratios are taken round by round.
    `processor` is the time of all threads, which other work on the machine disturbs less.

    Args:
        contenders: what to call, by name.
        rounds: how often.
        turns: calls of a contender in a round, for those that take too little time to be read from
            a clock; 1 where not given.
    """
    taken: Seconds = {name: {clock: [] for clock in CLOCKS} for name in contenders}
    for number in range(-WARM_UP, rounds):
        for name, call in contenders.items():
            calls = (turns or {}).get(name, 1)
            before = {clock: read() for clock, read in CLOCKS.items()}
            for _ in range(calls):
                call()
            if number >= 0:
                for clock, read in CLOCKS.items():
                    taken[name][clock].append((read() - before[clock]) / calls)
        print(f"round {number + 1} of {rounds}" if number >= 0 else "warm-up", file=sys.stderr)
    return taken


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median, the quartiles, the smallest and the largest."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {
        "median": median,
        "quartile_1": low,
        "quartile_3": high,
        "min": min(values),
        "max": max(values),
    }


def ratio(
    taken: Seconds, one: str, other: str, clock: str = "processor", share: float = 1.0
) -> dict[str, float]:
    """How many times as long as `other` the contender `one` takes, by rounds; `share` multiplies
    each ratio.
    """
    pairs = zip(taken[one][clock], taken[other][clock], strict=True)
    return spread([share * first / second for first, second in pairs])


def text(figure: dict[str, float], unit: float = 1.0) -> str:
    """`0.851 (0.832 to 0.883)`: the median and the quartiles, to three digits, in units of
    `unit`.
    """
    median, low, high = (
        f"{figure[name] / unit:.3g}" for name in ("median", "quartile_1", "quartile_3")
    )
    return f"{median} ({low} to {high})"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def claim(sentence: str, value: float, limit: float, at_most: bool) -> dict[str, Any]:
    """A target, what was measured, and whether it holds."""
    holds = value <= limit if at_most else value >= limit
    return {"claim": sentence, "limit": limit, "at_most": at_most, "value": value, "holds": holds}


def stepper(
    method: str,
    task: str | NamedPlugin,
    settings: dict[str, Any],
    seeds: int = 1,
    protocol: str | None = None,
    recorded: bool = True,
) -> Callable[[], None]:
    """A call that takes the next step of training without end.

    Args:
        method, task: their names; or a task that is registered nowhere.
        settings: as `--set` takes them.
        seeds: replicates in the stack.
        protocol: its name; the task's own without it.
        recorded: small problems from a recording, as most steps of a long run are taken; or one by
            one.
    """
    found = find("task", task) if isinstance(task, str) else task
    endless = {"steps": 10**9, "lr_schedule": "constant", "lr": 1e-6, "validate_every": None}
    resolved = resolve(
        find("method", method), found, protocol or found.cls.default_protocol, endless | settings
    )
    state = training.start(resolved.method, resolved.task, resolved.protocol, list(range(seeds)))
    going: Iterator[training.Progress] = training.train(
        resolved.method, resolved.task, resolved.protocol, state
    )
    devices.use("cpu")
    os.environ["BENCH_REPLAY"] = "always" if recorded and resolved.task.stacks else "off"
    next(going)

    def step() -> None:
        bound = next(going).bound
        assert np.isfinite(bound.numpy()).all(), method

    return step


def run(
    measure: Callable[[int], dict[str, Any]], about: str | None, file: str, rounds: int = 9
) -> None:
    """Measure as the command line says, print the tables and the claims, and keep all in
    `figures/`.

    Args:
        measure: from rounds to `tables` (title and Markdown), `claims`, and whatever else is worth
            keeping.
        about: the benchmark's docstring.
        file: its `__file__`.
        rounds: where the command line does not say.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"five or more (default {rounds})"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        default=FIGURES / f"{Path(file).stem}.json",
        help="where to keep the figures",
    )
    arguments = parser.parse_args()
    if arguments.rounds < 5:
        parser.error("five rounds or more")
    load = os.getloadavg()[0]
    result = {"about": inspect.cleandoc(about or ""), "rounds": arguments.rounds} | measure(
        arguments.rounds
    )
    result["made_on"] = made_on() | {"load": (load, os.getloadavg()[0])}
    for title, shown in result["tables"].items():
        print(f"\n{title}\n\n{shown}")
    for one in result["claims"]:
        print(said(one))
    keep(result, arguments.json)


def keep(result: dict[str, Any], path: Path) -> None:
    """Write figures to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


def medians(repeats: int, figures: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The result of a benchmark that times calls by name: `median_s`, `min_s` and `max_s` of
    each.
    """
    rows = [
        [name, f"{one['median_s']:.3g} ({one['min_s']:.3g} to {one['max_s']:.3g})"]
        for name, one in figures.items()
    ]
    shown = {"Seconds: median, smallest and largest": table(["call", "seconds"], rows)}
    return {
        "rounds": repeats,
        "tables": shown,
        "claims": [],
        "seconds": figures,
        "made_on": made_on() | {"load": (os.getloadavg()[0],) * 2},
    }


def said(one: dict[str, Any]) -> str:
    """A claim as a line."""
    limit = f"{'at most' if one['at_most'] else 'at least'} {one['limit']:g}"
    return (
        f"- {one['claim']}: {one['value']:.3g} ({limit}: "
        f"{'holds' if one['holds'] else 'does not hold'})"
    )


def made_on() -> dict[str, Any]:
    """Machine, releases, commit and day."""
    where = environment.describe()
    return {name: where[name] for name in ("cpu", "cores", "system", "python", "git_commit")} | {
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
