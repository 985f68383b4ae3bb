"""How much memory training steps take at their peak.

    python benchmarks/memory.py

Each contender takes six steps in a process of its own, whose largest resident memory the system
keeps (`VmHWM`, Linux). First stands a process that loads torch and this project and takes no step;
what the others take beyond it is theirs. Gaussian data: double precision, HVAE with ten leapfrog
steps and ten particles; beside it the published way, and a hundred times the data, of which steps
need the moments alone. Images: 28 x 28, batches of 256, 64 latent dimensions, HVAE with 15 leapfrog
steps, IWAE with 40 particles; beside HVAE the score by automatic differentiation, which training
differentiates a second time. One thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import timing
import torch
from gaussian import PUBLISHED, STACK, published
from images import SIZES, AutomaticScore, RandomImages
from timing import NamedPlugin, spread, stepper, table, text

STEPS = 6
LOADED = "no step: torch and this project loaded"
HVAE = SIZES | {"method.n_leapfrog": 15}
CONTENDERS: dict[str, Callable[[], Callable[[], object]]] = {
    LOADED: lambda: lambda: None,
    "hvae, gaussian-25, stack of ten": lambda: stepper("hvae", "gaussian-25", PUBLISHED, STACK),
    "hvae, gaussian-25, stack of ten, 1,000,000 points": lambda: stepper(
        "hvae", "gaussian-25", PUBLISHED | {"task.n_data": 1_000_000}, STACK
    ),
    "hvae, gaussian-400, alone": lambda: stepper("hvae", "gaussian-400", PUBLISHED),
    "hvae, gaussian-400, stack of ten": lambda: stepper("hvae", "gaussian-400", PUBLISHED, STACK),
    "hvae, gaussian-400, published way": lambda: published(400, torch.float64),
    "vb, images": lambda: stepper("vb", NamedPlugin(RandomImages, "mnist"), SIZES),
    "iwae k=40, images": lambda: stepper(
        "iwae", NamedPlugin(RandomImages, "mnist"), SIZES | {"particles": 40}
    ),
    "hvae K=15, images": lambda: stepper("hvae", NamedPlugin(RandomImages, "mnist"), HVAE),
    "hvae K=15, images, autograd of autograd": lambda: stepper(
        "hvae", NamedPlugin(AutomaticScore, "mnist"), HVAE
    ),
}


def peak(name: str) -> float:
    """In a process of its own: the largest resident memory in MB, once the contender has taken its
    steps.
    """
    torch.set_num_threads(1)
    step = CONTENDERS[name]()
    for _ in range(STEPS):
        step()
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit("This system keeps no VmHWM. Measure on Linux.")
    return int(found[1]) / 1e3


def measure(rounds: int) -> dict[str, Any]:
    """Tables."""
    taken: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
            for name in CONTENDERS:
                taken[name].append(pool.submit(peak, name).result())
        print(f"round {number + 1} of {rounds}", flush=True)
    found = {name: spread(values) for name, values in taken.items()}
    base = found[LOADED]["median"]
    rows = [[name, text(one), f"{one['median'] - base:.3g}"] for name, one in found.items()]
    return {
        "tables": {"Megabytes": table(["what", "at the peak", "beyond loading"], rows)},
        "claims": [],
        "megabytes": taken,
    }


if __name__ == "__main__":
    timing.run(measure, __doc__, __file__, rounds=5)
