"""How much sooner two workers finish a sweep of independent cells than one.

    python benchmarks/workers.py

Runs of `hvae` on Gaussian data of twenty dimensionalities, which do not train together, each of
30,000 steps, as many as the task's own protocol has: some minutes; once by `bench run --workers 1`
and once by `bench run --workers 2`: whole commands, with start-up, results and MLflow, each in a
new workspace that has its databases already. Beside them stands what the machine allows: a bare
loop, and two of them at once, which share nothing. The two sweeps take turns of twenty seconds, and
loops of one, each with all its processes, so that what slows the machine down slows both. One
thread a worker.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import timing
from commands import BENCH, alone, in_turns
from timing import claim, spread, table, text
from tracking import FEW_PARTICLES, bare, marked, words_of

DIMS = range(20, 40)
STEPS = 30_000
LOOP_STEPS = 10_000
SWEEP_TURN_S, LOOP_TURN_S = 20.0, 1.0
COUNTS = (1, 2)
AT_ONCE = {1: '"$@"', 2: '"$@" & "$@" & wait'}


def sweep(workers: int) -> tuple[str, ...]:
    """The whole command."""
    words = [word for dim in DIMS for word in ("-t", f"gaussian-{dim}")]
    fields = ("--protocol", "smoke", "--set", f"steps={STEPS}", *FEW_PARTICLES)
    return (*BENCH, "run", "-m", "hvae", *words, *fields, "--workers", str(workers))


def loops(count: int) -> tuple[str, ...]:
    """Bare loops at once, each in a process of its own."""
    return ("sh", "-c", AT_ONCE[count], "sh", *bare(LOOP_STEPS))


def measured(home: Path) -> tuple[list[float], list[float]]:
    """Seconds of the sweeps, and of a bare loop where one or two are at work."""
    folders = {count: home / f"workers{count}" for count in COUNTS}
    for folder in folders.values():
        folder.mkdir()
        alone(folder, *BENCH, *words_of(2, 0))
    sweeps = in_turns(SWEEP_TURN_S, *((folder, sweep(count)) for count, folder in folders.items()))
    machine = in_turns(LOOP_TURN_S, *((folder, loops(count)) for count, folder in folders.items()))
    return [done.seconds() for done in sweeps], [fmean(marked(done)) for done in machine]


def measure(rounds: int) -> dict[str, Any]:
    """Tables and claims."""
    sweeps, machine = [], []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as home:
            swept, looped = measured(Path(home))
        sweeps.append(swept)
        machine.append(looped)
        print(f"round {number + 1} of {rounds}: sweeps {swept}, loops {looped}", file=sys.stderr)
    gain = spread([one / two for one, two in sweeps])
    allowed = spread([2 * one / two for one, two in machine])
    columns = zip(COUNTS, zip(*sweeps, strict=True), zip(*machine, strict=True), strict=True)
    tables = {
        "Seconds": table(
            [
                "workers, or loops at once",
                "the whole sweep",
                f"a bare loop of {LOOP_STEPS:,} steps",
            ],
            [
                [count, text(spread(swept)), text(spread(looped))]
                for count, swept, looped in columns
            ],
        ),
        "Ratio": table(
            ["ratio", "elapsed"],
            [
                ["one worker over two", text(gain)],
                ["two loops one after the other, over two at once", text(allowed)],
            ],
        ),
    }
    claims = [claim("times sooner with two workers", gain["median"], 1.8, at_most=False)]
    return {"tables": tables, "claims": claims, "sweeps": sweeps, "machine": machine}


if __name__ == "__main__":
    timing.run(measure, __doc__, __file__, rounds=5)
