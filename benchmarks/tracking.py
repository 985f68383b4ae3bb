"""What a whole `bench run` costs beside the bare loop of the same steps.

    python benchmarks/tracking.py

Each round makes one run of `hvae` on `gaussian-25` of about a minute by `bench run`, with its result database and MLflow, in a workspace of
its own, and takes the same steps in a bare loop in a process of its own, turn about. The run counts from its first step to its stored
result, as the database has it (`wall_s`), scoring left out on both sides. Start-up, a first run of two steps in an empty folder and a
second one beside it are whole commands. One thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import timing
from timing import ROOT, claim, spread, table, text

MINUTE_S = 60
CALIBRATION = 20_000
METHOD, TASK = "hvae", "gaussian-25"
BENCH = (sys.executable, "-m", "harness.cli")
FEW_PARTICLES = ("--set", "eval_particles=2")  # scoring takes no time
BARE = """
import time, torch
from harness import training
from harness.matrix import resolve
from harness.registry import find
torch.set_num_threads(1)
found = resolve(find("method", "{method}"), find("task", "{task}"), "smoke", {{"steps": {steps}}})
state = training.start(found.method, found.task, found.protocol, [0])
began, worked = time.perf_counter(), time.process_time()
for progress in training.train(found.method, found.task, found.protocol, state):
    pass
print(time.perf_counter() - began, time.process_time() - worked)
"""


def bare(steps: int) -> tuple[float, float]:
    """Elapsed and processor seconds of the steps alone."""
    source = BARE.format(method=METHOD, task=TASK, steps=steps)
    done = subprocess.run([sys.executable, "-c", source], env=environment(ROOT), capture_output=True, text=True, check=True)
    elapsed, processor = done.stdout.split()
    return float(elapsed), float(processor)


def bench(folder: Path, *words: str) -> tuple[float, str]:
    """Seconds of a whole command, and what it printed."""
    began = time.perf_counter()
    done = subprocess.run([*BENCH, *words], env=environment(folder), cwd=folder, capture_output=True, text=True, check=True)
    return time.perf_counter() - began, done.stdout


def environment(folder: Path) -> dict[str, str]:
    """A workspace of its own, one thread."""
    left = {name: value for name, value in os.environ.items() if not name.startswith(("BENCH_", "MLFLOW_"))}
    return left | {"BENCH_HOME": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run_of(folder: Path, steps: int, seed: int) -> tuple[float, float]:
    """Seconds of a run as the database has them, and of its whole command."""
    words = ("run", "-m", METHOD, "-t", TASK, "--seeds", str(seed), "--protocol", "smoke", "--set", f"steps={steps}", *FEW_PARTICLES)
    whole, printed = bench(folder, *words, "--json")
    (line,) = [json.loads(text) for text in printed.splitlines() if text.startswith("{")]
    return line["wall_s"], whole


def measure(rounds: int) -> dict[str, Any]:
    """Tables and claims."""
    kept: dict[str, list[float]] = {name: [] for name in ("bare loop", "bench run", "whole command", "help", "first run", "second run")}
    steps = round(CALIBRATION * MINUTE_S / bare(CALIBRATION)[0])
    with tempfile.TemporaryDirectory() as name:
        for number in range(rounds):
            fresh, folder = Path(name) / f"fresh{number}", Path(name) / "kept"
            fresh.mkdir()
            folder.mkdir(exist_ok=True)
            bench(folder, "--help")
            kept["help"].append(bench(folder, "--help")[0])
            kept["first run"].append(run_of(fresh, 2, 0)[1])
            kept["second run"].append(run_of(fresh, 2, 1)[1])
            kept["bare loop"].append(bare(steps)[0])
            wall, whole = run_of(folder, steps, number)
            kept["bench run"].append(wall)
            kept["whole command"].append(whole)
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    share = spread([run / loop for run, loop in zip(kept["bench run"], kept["bare loop"], strict=True)])
    said = {
        "bare loop": f"{steps:,} steps in a bare loop",
        "bench run": "`bench run`, from the start of its stack to its stored result",
        "whole command": "`bench run`, the whole command: start-up and MLflow with it",
        "help": "`bench --help`",
        "first run": "`bench run` of two steps in an empty folder: databases are made",
        "second run": "`bench run` of two more steps there",
    }
    tables = {
        "Seconds": table(["what", "seconds"], [[words, text(spread(kept[name]))] for name, words in said.items()]),
        "Ratio": table(["ratio", "elapsed"], [["bench run over the bare loop", text(share)]]),
    }
    claims = [
        claim("a minute's run over the bare loop, elapsed", share["median"], 1.03, at_most=True),
        claim("bench --help, seconds", spread(kept["help"])["median"], 0.3, at_most=True),
    ]
    return {"tables": tables, "claims": claims, "seconds": kept, "steps": steps}


if __name__ == "__main__":
    timing.run(measure, __doc__, __file__, rounds=5)
