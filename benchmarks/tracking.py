"""What a whole `bench run` costs beside the bare loop of the same steps.

    python benchmarks/tracking.py

A run of `hvae` on `gaussian-25` of about a minute by `bench run`, with checkpoints, result database
and MLflow, and a bare loop over the same steps take turns of half a second, each with all its
processes, so that a machine that grows slower or faster meanwhile does so for both. It saves every
five seconds of its own, as is usual. A bare loop counts from its first step to its last, a run from
its first step to its stored result, in a workspace that already has its databases. The whole
command, start-up, a first run of two steps in an empty folder and a second one beside it stand next
to them. One thread.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import timing
from commands import BENCH, SAVE_EVERY, Worked, alone, in_turns
from timing import claim, spread, table, text

MINUTE_S = 60
TURN_S = 0.5
CALIBRATION = 20_000
METHOD, TASK = "hvae", "gaussian-25"
WATCHED = """
import sys, time
from harness.execution import job
from harness.training import loop
from harness.cli.__main__ import bench
train, store, marks = loop.train, job._store, []
def watched_train(*given):
    steps = train(*given)
    first = next(steps)
    marks.append(time.perf_counter())
    yield first
    yield from steps
def watched_store(*given):
    store(*given)
    print("from", marks[0], "to", time.perf_counter())
loop.train, job._store = watched_train, watched_store
bench()
"""
FEW_PARTICLES = ("--set", "eval_particles=2")  # scoring takes no time
BARE = """
import gc
gc.set_threshold(100_000)  # as bench does
import time, torch
from harness.plan.grid import resolve
from harness.plan.registry import find
from harness.training import devices, loop as training
devices.use("cpu")
torch.set_num_threads(1)
found = resolve(find("method", "{method}"), find("task", "{task}"), "smoke", {{"steps": {steps}}})
state = training.start(found.method, found.task, found.protocol, [0])
steps = training.train(found.method, found.task, found.protocol, state)
next(steps)
began = time.perf_counter()
for progress in steps:
    pass
print("from", began, "to", time.perf_counter())
"""


def words_of(steps: int, seed: int) -> tuple[str, ...]:
    """A run by the command line."""
    return (
        "run",
        "-m",
        METHOD,
        "-t",
        TASK,
        "--seeds",
        str(seed),
        "--protocol",
        "smoke",
        "--set",
        f"steps={steps}",
        *FEW_PARTICLES,
    )


def bare(steps: int) -> tuple[str, ...]:
    """The steps alone."""
    return sys.executable, "-c", BARE.format(method=METHOD, task=TASK, steps=steps)


def watched(steps: int, seed: int) -> tuple[str, ...]:
    """A run that says when it took its first step and when its result was stored."""
    return (sys.executable, "-c", WATCHED, *words_of(steps, seed), *SAVE_EVERY)


def marked(worked: Worked) -> list[float]:
    """Seconds of its turns between each two moments that it printed."""
    moments = re.findall(r"^from (\S+) to (\S+)$", worked.printed, re.MULTILINE)
    return [worked.seconds(float(began), float(ended)) for began, ended in moments]


def starts(home: Path, number: int) -> dict[str, float]:
    """Seconds of what begins: help, a first run in an empty folder, and a second one there."""
    fresh = home / f"fresh{number}"
    fresh.mkdir()
    alone(fresh, *BENCH, "--help")
    commands = {"help": ("--help",), "first run": words_of(2, 0), "second run": words_of(2, 1)}
    return {name: alone(fresh, *BENCH, *words) for name, words in commands.items()}


def measure(rounds: int) -> dict[str, Any]:
    """Tables and claims."""
    kept: dict[str, list[float]] = {
        name: []
        for name in ("bare loop", "bench run", "whole command", "help", "first run", "second run")
    }
    with tempfile.TemporaryDirectory() as home:
        for number in range(rounds):
            for name, seconds in starts(Path(home), number).items():
                kept[name].append(seconds)
        folder = Path(home) / "fresh0"
        (calibration,) = marked(*in_turns(TURN_S, (folder, bare(CALIBRATION))))
        steps = round(CALIBRATION * MINUTE_S / calibration)
        for number in range(rounds):
            run, loop = in_turns(
                TURN_S, (folder, watched(steps, 2 + number)), (folder, bare(steps))
            )
            kept["bench run"] += marked(run)
            kept["bare loop"] += marked(loop)
            kept["whole command"].append(run.seconds())
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    share = spread(
        [run / loop for run, loop in zip(kept["bench run"], kept["bare loop"], strict=True)]
    )
    said = {
        "bare loop": f"{steps:,} steps in a bare loop",
        "bench run": "`bench run`, from its first step to its stored result",
        "whole command": "`bench run`, the whole command: start-up and MLflow with it",
        "help": "`bench --help`",
        "first run": "`bench run` of two steps in an empty folder: databases are made",
        "second run": "`bench run` of two more steps there",
    }
    tables = {
        "Seconds": table(
            ["what", "seconds"], [[words, text(spread(kept[name]))] for name, words in said.items()]
        ),
        "Ratio": table(["ratio", "elapsed"], [["bench run over the bare loop", text(share)]]),
    }
    claims = [
        claim("a minute's run over the bare loop, elapsed", share["median"], 1.03, at_most=True),
        claim("bench --help, seconds", spread(kept["help"])["median"], 0.3, at_most=True),
    ]
    return {"tables": tables, "claims": claims, "seconds": kept, "steps": steps}


if __name__ == "__main__":
    timing.run(measure, __doc__, __file__, rounds=15)
