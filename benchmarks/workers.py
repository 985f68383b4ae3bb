"""How much sooner two workers finish a sweep of independent cells than one.

    python benchmarks/workers.py

Each round makes ten runs of `hvae` on Gaussian data of ten dimensionalities, which do not train together, by `bench run --workers 1` and
by `bench run --workers 2`, turn about: whole commands, with start-up, results and MLflow, each in a new workspace that has its databases
already. One thread a worker.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import timing
from timing import claim, spread, table, text
from tracking import FEW_PARTICLES, bench, words_of

DIMS = range(20, 30)
STEPS = 20_000
COUNTS = (1, 2)


def sweep(workers: int) -> float:
    """Seconds of the whole command; a run of two steps has made the databases."""
    words = [word for dim in DIMS for word in ("-t", f"gaussian-{dim}")]
    fields = ("--protocol", "smoke", "--set", f"steps={STEPS}", *FEW_PARTICLES)
    with tempfile.TemporaryDirectory() as folder:
        bench(Path(folder), *words_of(2, 0))
        return bench(Path(folder), "run", "-m", "hvae", *words, *fields, "--workers", str(workers))


def measure(rounds: int) -> dict[str, Any]:
    """Tables and claims."""
    kept: dict[int, list[float]] = {workers: [] for workers in COUNTS}
    for number in range(rounds):
        for workers in COUNTS if number % 2 else reversed(COUNTS):
            kept[workers].append(sweep(workers))
        print(f"round {number + 1} of {rounds}: {', '.join(f'{kept[workers][-1]:.1f} s' for workers in COUNTS)}", flush=True)
    one, two = (kept[workers] for workers in COUNTS)
    gain = spread([alone / both for alone, both in zip(one, two, strict=True)])
    tables = {
        "Seconds": table(["workers", "the whole command"], [[workers, text(spread(kept[workers]))] for workers in COUNTS]),
        "Ratio": table(["ratio", "elapsed"], [["one worker over two", text(gain)]]),
    }
    return {"tables": tables, "claims": [claim("times sooner with two workers", gain["median"], 1.8, at_most=False)], "seconds": kept}


if __name__ == "__main__":
    timing.run(measure, __doc__, __file__, rounds=5)
