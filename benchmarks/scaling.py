"""How a step's time grows with replicates, dimensions, particles and data, and how far a step is
from the machine's peak.

    python benchmarks/scaling.py

A step of `hvae` with ten leapfrog steps on Gaussian data, double precision, one thread. One size
grows and the others stay at ten replicates, d = 25, ten particles, 10,000 points (1,000 while
replicates or dimensions grow, and two replicates for dimensions). The exponent is the slope of log
time on log size over the larger half of the sizes: 0 where starting the operations takes the time,
1 where the numbers do. Floating-point work of a step on Gaussian data is counted by hand from the
formulas, 24 operations for each leapfrog step and dimension and 47 for each particle and dimension,
forward and back; that of a step on images by torch's own counter, products and convolutions alone.
Bytes are those of the arguments and the results of every operation that is more than a view: what
would be moved if no cache were there, so that a share of the copy's speed above 100 % is the
caches' work. The peaks are those of a product of matrices and of a copy in the same run, on one
thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import timing
import torch
from images import SIZES, RandomImages
from timing import NamedPlugin, spread, stepper, table, text
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

K = 10
USUAL = {"replicates": 10, "dimensions": 25, "particles": 10, "points": 10_000}
GROWTH = {
    "replicates": (1, 10, 100, 1000),
    "dimensions": (25, 250, 2500, 25_000),
    "particles": (10, 100, 1000, 10_000),
    "points": (1000, 10_000, 100_000),
}
SMALLER = {
    "dimensions": {"points": 1000, "replicates": 2},
    "replicates": {"points": 1000},
}  # so that the data fit into memory
A_LEAPFROG_STEP = 2 * (4 + 8)
"""Operations a dimension and replicate, whatever the particles: both columns of the step's matrix
drift and are kicked, a + b c each; back, the products for b and for c, a sum over the columns for
the one and a sum with what else is asked of the other.
"""
A_PARTICLE = 3 * (8 + 4 + 2) + 5
"""Operations a particle and dimension: through the matrix, and the densities of its end, each
forward and twice as much back; and the densities of its start, which have no gradient.
"""
SIDE, COPIED = 2000, 2**25
GAUSSIAN = "hvae K=10, gaussian-400, stack of ten"
SHOWN = ["step", "GFLOP", "GFLOP/s", "of a product's", "share", "GB", "GB/s", "share of a copy's"]


class Moved(TorchDispatchMode):
    """Counts the bytes of every operation's arguments and results; a broadcast one counts once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """One operation."""
        result = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in str(func):
            tensors = [
                one for one in tree_leaves((args, kwargs, result)) if isinstance(one, torch.Tensor)
            ]
            self.bytes += sum(
                min(one.numel() * one.element_size(), one.untyped_storage().nbytes())
                for one in tensors
            )
        return result


def sized(recorded: bool = True, **changed: int) -> Callable[[], None]:
    """A step at these sizes."""
    size = USUAL | changed
    settings = {
        "particles": size["particles"],
        "task.n_data": size["points"],
        "method.n_leapfrog": K,
        "batch_size": None,
    }
    return stepper(
        "hvae", f"gaussian-{size['dimensions']}", settings, size["replicates"], recorded=recorded
    )


def growth(rounds: int) -> dict[str, dict[int, dict[str, float]]]:
    """Processor seconds of a step by what grows and how large it is."""
    found = {}
    for what, sizes in GROWTH.items():
        kept = SMALLER.get(what, {})
        calls = {str(size): sized(**kept | {what: size}) for size in sizes}
        taken = timing.race(calls, rounds, dict.fromkeys(calls, 5))
        found[what] = {size: spread(taken[str(size)]["processor"]) for size in sizes}
    return found


def exponent(times: dict[int, dict[str, float]]) -> float:
    """The slope of log time on log size over the larger half."""
    last = list(times.items())[-(len(times) // 2 + len(times) % 2) :]
    return float(
        np.polyfit(
            np.log([size for size, _ in last]), np.log([one["median"] for _, one in last]), 1
        )[0]
    )


def peaks(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds of a product of two matrices of each precision, and of a copy."""
    calls: dict[str, Callable[[], object]] = {}
    for dtype in (torch.float32, torch.float64):
        a, b = torch.randn(2, SIDE, SIDE, dtype=dtype)
        calls[f"product, {str(dtype)[6:]}"] = lambda a=a, b=b: a @ b
    source, goal = torch.randn(2, COPIED)
    calls["copy"] = lambda: goal.copy_(source)
    return {
        name: {clock: spread(values) for clock, values in clocks.items()}
        for name, clocks in timing.race(calls, rounds).items()
    }


def distances(rounds: int) -> list[list[str]]:
    """What hot steps compute and move, how fast, and as shares of the peaks."""
    best = {name: clocks["processor"]["median"] for name, clocks in peaks(rounds).items()}
    images = NamedPlugin(RandomImages, "mnist")
    calls = {
        GAUSSIAN: sized(dimensions=400),
        "hvae K=15, images": stepper("hvae", images, SIZES | {"method.n_leapfrog": 15}),
        "iwae k=40, images": stepper("iwae", images, SIZES | {"particles": 40}),
    }
    counted = {
        name: work(call)
        for name, call in (calls | {GAUSSIAN: sized(recorded=False, dimensions=400)}).items()
    }
    taken = timing.race(calls, rounds)
    rows = []
    for name, (flops, moved) in counted.items():
        seconds = spread(taken[name]["processor"])["median"]
        product = 2 * SIDE**3 / best["product, float64" if name == GAUSSIAN else "product, float32"]
        shares = (
            f"{flops / seconds / product:.1%}",
            f"{moved / seconds / (8 * COPIED / best['copy']):.0%}",
        )
        rows.append(
            [
                name,
                f"{flops / 1e9:.3g}",
                f"{flops / seconds / 1e9:.3g}",
                f"{product / 1e9:.3g}",
                shares[0],
            ]
        )
        rows[-1] += [f"{moved / 1e9:.3g}", f"{moved / seconds / 1e9:.3g}", shares[1]]
    return rows


def work(step: Callable[[], None]) -> tuple[float, float]:
    """Floating-point operations and bytes of a step."""
    with FlopCounterMode(display=False) as counter, Moved() as moved:
        step()
    by_hand = (A_LEAPFROG_STEP * K + A_PARTICLE * USUAL["particles"]) * USUAL["replicates"] * 400
    return counter.get_total_flops() or by_hand, moved.bytes


def measure(rounds: int) -> dict[str, Any]:
    """Tables."""
    torch.set_num_threads(1)
    found = growth(rounds)
    rows = [
        [what, f"{size:,}", text(one, 1e-3)]
        for what, times in found.items()
        for size, one in times.items()
    ]
    slopes = {what: exponent(times) for what, times in found.items()}
    copied = peaks(rounds)["copy"]["processor"]["median"]
    tables = {
        "Milliseconds a step, processor": table(["what grows", "size", "processor ms"], rows),
        "Exponents": table(
            ["what grows", "time grows as its power"],
            [[what, f"{slope:.2f}"] for what, slope in slopes.items()],
        ),
        "Distance from the peak": table(SHOWN, distances(rounds)),
        "Copy": table(
            ["memory, read and written", "GB/s"],
            [[f"{8 * COPIED / 1e9:.2g} GB", f"{8 * COPIED / copied / 1e9:.3g}"]],
        ),
    }
    return {"tables": tables, "claims": [], "seconds": found, "exponents": slopes}


if __name__ == "__main__":
    timing.run(measure, __doc__, __file__, rounds=5)
