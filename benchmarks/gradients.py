"""What a counted gradient costs, by method: processor time against the count.

    python benchmarks/gradients.py

A training step counts particles x (2 x scores a draw takes + 1) gradients: each score once where
it is taken and once where the bound's gradient goes back through it, and the bound's own. HVAE with
K leapfrog steps takes K + 1 scores, IWAE none: with 2 K + 3 times the particles it has the same
count. If the count is right the two take the same time. Nets decide the time on these tasks; on
`gaussian` closed forms do, and there a count says nothing of time. One thread, steps one by one.
"""

from __future__ import annotations

from typing import Any

import timing
import torch
from images import SIZES, RandomImages
from timing import NamedPlugin, claim, race, ratio, stepper, table, text

LEAPFROG = 10
COUNT = 2 * (LEAPFROG + 1) + 1
TASKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "digits": ("digits", {"particles": 10}),
    "norms-2": ("norms-2", {"particles": 20}),
    "images, 28 x 28": (NamedPlugin(RandomImages, "mnist"), {**SIZES, "particles": 1}),
}
"""A task, and settings with which starting torch's operations takes little of the time."""


def measure(rounds: int) -> dict[str, Any]:
    """Tables and targets."""
    rows, claims = [], []
    torch.set_num_threads(1)
    for name, (task, settings) in TASKS.items():
        hvae = {**settings, "method.n_leapfrog": LEAPFROG}
        iwae = {**settings, "particles": COUNT * settings["particles"]}
        taken = race(
            {
                "hvae": stepper("hvae", task, hvae, recorded=False),
                "iwae": stepper("iwae", task, iwae, recorded=False),
            },
            rounds,
        )
        times = ratio(taken, "hvae", "iwae")
        rows.append([name, text(times)])
        far = abs(times["median"] - 1)
        claims.append(
            claim(
                f"{name}: a counted gradient of hvae takes as long as iwae's, but for 15 %",
                far,
                0.15,
                at_most=True,
            )
        )
    heading = ["task", "processor time of hvae's step over iwae's at the same count"]
    return {
        "tables": {"Time at equal counts of gradients": table(heading, rows)},
        "claims": claims,
    }


if __name__ == "__main__":
    timing.run(measure, __doc__, __file__, rounds=9)
