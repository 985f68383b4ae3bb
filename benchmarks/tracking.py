"""What a whole `bench run` costs beside the bare loop of the same steps.

    python benchmarks/tracking.py

Runs of `hvae` on `gaussian-25` of about a minute by `bench run`, with checkpoints, result database and MLflow, take turns with bare loops
over the same steps, each in a process of its own. A bare loop counts from its first step to its last, a run from its first step to its
stored result, in a workspace that already has its databases. A run is set against the mean of the loops before and after it, so that a
machine that grows slower or faster meanwhile does so for both. The whole command, start-up, a first run of two steps in an empty folder
and a second one beside it stand next to them. One thread.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import timing
from timing import ROOT, claim, spread, table, text

MINUTE_S = 60
CALIBRATION = 20_000
METHOD, TASK = "hvae", "gaussian-25"
BENCH = (sys.executable, "-m", "harness.cli")
WATCHED = """
import sys, time
from harness import runner, validation
from harness.cli.__main__ import bench
train, store, marks = validation.train, runner._store, []
def watched_train(*given):
    steps = train(*given)
    first = next(steps)
    marks.append(time.perf_counter())
    yield first
    yield from steps
def watched_store(*given):
    store(*given)
    print("from the first step:", time.perf_counter() - marks[0], file=sys.stderr)
validation.train, runner._store = watched_train, watched_store
bench()
"""
FEW_PARTICLES = ("--set", "eval_particles=2")  # scoring takes no time
BARE = """
from harness import collector
collector.collect_seldom()
import time, torch
from harness import devices, training
from harness.matrix import resolve
from harness.registry import find
devices.use("cpu")
collector.collect_as_usual()
torch.set_num_threads(1)
found = resolve(find("method", "{method}"), find("task", "{task}"), "smoke", {{"steps": {steps}}})
state = training.start(found.method, found.task, found.protocol, [0])
steps = training.train(found.method, found.task, found.protocol, state)
next(steps)
began = time.perf_counter()
for progress in steps:
    pass
print(time.perf_counter() - began)
"""


def bare(steps: int) -> float:
    """Seconds of the steps alone, from the first one on."""
    source = BARE.format(method=METHOD, task=TASK, steps=steps)
    return float(command(ROOT, [sys.executable, "-c", source]).stdout)


def bench(folder: Path, *words: str) -> float:
    """Seconds of a whole command."""
    began = time.perf_counter()
    command(folder, [*BENCH, *words])
    return time.perf_counter() - began


def command(folder: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What it printed, in a workspace of its own."""
    return subprocess.run(words, env=environment(folder), cwd=folder, capture_output=True, text=True, check=True)


def environment(folder: Path) -> dict[str, str]:
    """Neither settings of the caller nor a second thread."""
    left = {name: value for name, value in os.environ.items() if not name.startswith(("BENCH_", "MLFLOW_"))}
    return left | {"BENCH_HOME": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def words_of(steps: int, seed: int) -> tuple[str, ...]:
    """A run by the command line."""
    return ("run", "-m", METHOD, "-t", TASK, "--seeds", str(seed), "--protocol", "smoke", "--set", f"steps={steps}", *FEW_PARTICLES)


def watched(folder: Path, steps: int, seed: int) -> tuple[float, float]:
    """Seconds of a run from its first step to its stored result, and of its whole command."""
    began = time.perf_counter()
    done = command(folder, [sys.executable, "-c", WATCHED, *words_of(steps, seed)])
    whole = time.perf_counter() - began
    (seconds,) = re.findall(r"^from the first step: (.+)$", done.stderr, re.MULTILINE)
    return float(seconds), whole


def starts(home: Path, number: int) -> dict[str, float]:
    """Seconds of what begins: help, a first run in an empty folder, and a second one there."""
    fresh = home / f"fresh{number}"
    fresh.mkdir()
    bench(fresh, "--help")
    return {"help": bench(fresh, "--help"), "first run": bench(fresh, *words_of(2, 0)), "second run": bench(fresh, *words_of(2, 1))}


def measure(rounds: int) -> dict[str, Any]:
    """Tables and claims."""
    kept: dict[str, list[float]] = {name: [] for name in ("bare loop", "bench run", "whole command", "help", "first run", "second run")}
    steps = round(CALIBRATION * MINUTE_S / bare(CALIBRATION))
    with tempfile.TemporaryDirectory() as home:
        for number in range(rounds):
            for name, seconds in starts(Path(home), number).items():
                kept[name].append(seconds)
        folder = Path(home) / "fresh0"
        kept["bare loop"].append(bare(steps))
        for number in range(rounds):
            for name, seconds in zip(("bench run", "whole command"), watched(folder, steps, 2 + number), strict=True):
                kept[name].append(seconds)
            kept["bare loop"].append(bare(steps))
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    beside = [(before + after) / 2 for before, after in pairwise(kept["bare loop"])]
    share = spread([run / loop for run, loop in zip(kept["bench run"], beside, strict=True)])
    said = {
        "bare loop": f"{steps:,} steps in a bare loop",
        "bench run": "`bench run`, from its first step to its stored result",
        "whole command": "`bench run`, the whole command: start-up and MLflow with it",
        "help": "`bench --help`",
        "first run": "`bench run` of two steps in an empty folder: databases are made",
        "second run": "`bench run` of two more steps there",
    }
    tables = {
        "Seconds": table(["what", "seconds"], [[words, text(spread(kept[name]))] for name, words in said.items()]),
        "Ratio": table(["ratio", "elapsed"], [["bench run over the bare loops beside it", text(share)]]),
    }
    claims = [
        claim("a minute's run over the bare loop, elapsed", share["median"], 1.03, at_most=True),
        claim("bench --help, seconds", spread(kept["help"])["median"], 0.3, at_most=True),
    ]
    return {"tables": tables, "claims": claims, "seconds": kept, "steps": steps}


if __name__ == "__main__":
    timing.run(measure, __doc__, __file__, rounds=7)
