"""How long `bench compare` and `bench report` take over 100,000 finished runs: eight methods,
twelve tasks, 1,042 seeds.

    python benchmarks/results.py
    python benchmarks/results.py --json out.json

On SQLite, and on PostgreSQL where its server programs are installed.

Whole commands, from the shell's point of view: start-up is in them. Curves have 50 points. Each
figure is the median of `--repeats` calls in seconds, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import timing
from store import databases, fill, measured
from timing import ROOT

from harness.base.spec import NewRun
from harness.plan.grid import expand

METHODS = ("vb", "iwae", "iaf", "pnf", "hvae[n_leapfrog=1,10]", "hvae-untempered", "hvae-iaf")
TASKS = (
    *(f"gaussian-{dim}" for dim in (2, 5, 10, 25, 50, 100, 200, 400)),
    "gaussian-ar1-25",
    "gaussian-ar1-100",
    "norms-2",
    "norms-25",
)
SEEDS = 1042
COMMANDS = {
    "bench compare": ("compare", "--seeds", f"0-{SEEDS - 1}"),
    "bench compare, 95 % intervals by bootstrap, differences, ranks": (
        "compare", "--seeds", f"0-{SEEDS - 1}", "--interval", "bca", "--differences", "--ranks",
    ),
    "bench compare of one task": ("compare", "-t", "gaussian-100", "--seeds", f"0-{SEEDS - 1}"),
    "bench report": ("report", "--seeds", f"0-{SEEDS - 1}", "-o", "report.html"),
}  # fmt: skip


def finished_runs(seeds: int) -> Iterator[NewRun]:
    """Every method on every task with every seed."""
    for pattern in expand(METHODS, TASKS, [0], "smoke"):
        for seed in range(seeds):
            yield replace(pattern, spec=pattern.spec.model_copy(update={"seed": seed}))


def score(run: NewRun, name: str) -> float:
    """A number of its own for each method, task, seed and metric."""
    return abs(
        random.Random(f"{run.spec.method}{run.task_label}{name}").gauss(0, 3)
    ) + random.Random(run.spec.key + name).gauss(1, 0.1)


def run(seeds: int, repeats: int) -> dict[str, object]:
    """Fill each database and time the commands."""
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name, databases(Path(name)) as urls:
        for kind, url in urls.items():
            began = time.perf_counter()
            fill(url, finished_runs(seeds), score, 50)
            print(f"{kind}: filled within {time.perf_counter() - began:.0f} s", file=sys.stderr)
            environment = {
                **os.environ,
                "BENCH_HOME": name,
                "BENCH_DATABASE_URL": url,
                "PYTHONPATH": str(ROOT),
            }
            for said, words in COMMANDS.items():

                def call(
                    words: tuple[str, ...] = words, environment: dict[str, str] = environment
                ) -> None:
                    argv = [sys.executable, "-m", "harness.cli", *words]
                    subprocess.run(argv, env=environment, cwd=name, check=True, capture_output=True)

                taken = measured(call, repeats)
                figures[f"{kind}: {said}"] = {
                    "median_s": statistics.median(taken),
                    "min_s": min(taken),
                    "max_s": max(taken),
                }
                print(
                    (
                        f"{kind:10} {said:64} {statistics.median(taken):6.2f} s  ({min(taken):.2f} "
                        "to "
                        f"{max(taken):.2f})"
                    ),
                    flush=True,
                )
    return timing.medians(repeats, figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=timing.FIGURES / f"{Path(__file__).stem}.json")
    arguments = parser.parse_args()
    result = run(arguments.seeds, arguments.repeats)
    timing.keep(result, arguments.json)
