"""A step of each method on Gaussian data, alone and in a stack of ten, beside the published way.

    python benchmarks/gaussian.py

The published way is that of the code released with arXiv:1805.11328: each step goes over all 10,000
points for their mean and their d x d matrix of products, of which it needs only a trace; then
HVAE's ten steps with ten particles, backward, and RMSProp. It is written here in the same torch;
each precision is compared with itself. Ours takes the moments of the data once. Beside both: a
Python loop over ten replicates, and a hundred times the data. Our steps are taken sixteen at a
time, so that each turn draws one block of noise; the published way draws its own in each step.
Steps are taken from a recording, as most steps of a long run are; the rows "one by one" have those
before it is made. One thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import timing
import torch
from timing import claim, ratio, spread, stepper, table, text

from harness.numerics.noise import TRAIN_BLOCK

METHODS = ("vb", "iwae", "pnf", "iaf", "hvae", "hvae-untempered", "hvae-iaf")
DIMS = (25, 400)
STACK, PARTICLES, K, POINTS = 10, 10, 10, 10_000
PRECISIONS = {"double precision": "float64", "single precision": "float32"}
PUBLISHED = {"optimiser": "rmsprop", "particles": PARTICLES, "batch_size": None}
ALONE, STACKED, LOOP, PUBLISHED_WAY, DEFAULT = (
    "alone",
    "stack of ten",
    "loop over ten",
    "published way",
    "double precision",
)
ONE_BY_ONE = "one by one"


def published(dim: int, dtype: torch.dtype) -> Callable[[], None]:
    """A step of tempered HVAE over the full data, as published."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(POINTS, dim, generator=generator, dtype=dtype)
    leaves = [
        torch.zeros(dim),
        torch.full((dim,), 3.0),
        torch.full((dim,), math.log(0.01 / 0.99)),
        torch.tensor(math.log(4.0)),
    ]
    leaves = [leaf.to(dtype).requires_grad_() for leaf in leaves]
    delta, log_sigma, logit_epsilon, log_excess = leaves
    optimiser = torch.optim.RMSprop(leaves, lr=1e-6)

    def step() -> None:
        mean, products = x.mean(0), x.T @ x  # [d], [d, d]
        z, gamma = torch.randn(2, PARTICLES, dim, generator=generator, dtype=dtype)
        variance, epsilon = torch.exp(2 * log_sigma), 0.5 * torch.sigmoid(logit_epsilon)
        p, last = (1 + log_excess.exp()) * gamma, 1 + log_excess.exp()

        def slope(z: torch.Tensor) -> torch.Tensor:
            return z + POINTS * (z + delta - mean) / variance

        for k in range(1, K + 1):
            p = p - epsilon / 2 * slope(z)
            z = z + epsilon * p
            p = p - epsilon / 2 * slope(z)
            temperature = 1 + log_excess.exp() * (1 - k**2 / K**2)
            p, last = temperature / last * p, temperature
        precision = torch.exp(-2 * log_sigma)
        trace = torch.trace(torch.diag(precision) @ products)
        fit = ((z + delta) * precision * (z + delta - 2 * mean)).sum(1).mean()
        bound = (
            -POINTS * log_sigma.sum()
            - trace / 2
            - POINTS / 2 * fit
            - (z.square().sum(1) + p.square().sum(1)).mean() / 2
        )
        optimiser.zero_grad()
        (-bound).backward()
        optimiser.step()

    return step


def loop(method: str, task: str, settings: dict[str, Any]) -> Callable[[], None]:
    """A step of each of ten stacks of one."""
    alone = [stepper(method, task, settings) for _ in range(STACK)]

    def step() -> None:
        for one in alone:
            one()

    return step


def contenders(dim: int) -> dict[str, Callable[[], None]]:
    """Every method alone and in a stack, and the references of HVAE."""
    task = f"gaussian-{dim}"
    found = {}
    for method in METHODS:
        found[f"{method}, {ALONE}"] = stepper(method, task, PUBLISHED)
        found[f"{method}, {STACKED}"] = stepper(method, task, PUBLISHED, STACK)
    found[f"hvae, {ALONE}, {ONE_BY_ONE}"] = stepper("hvae", task, PUBLISHED, recorded=False)
    found[f"hvae, {STACKED}, {ONE_BY_ONE}"] = stepper(
        "hvae", task, PUBLISHED, STACK, recorded=False
    )
    for said, dtype in PRECISIONS.items():
        if said != DEFAULT:
            found[f"hvae, {ALONE}, {said}"] = stepper("hvae", task, PUBLISHED | {"dtype": dtype})
            found[f"hvae, {STACKED}, {said}"] = stepper(
                "hvae", task, PUBLISHED | {"dtype": dtype}, STACK
            )
        found[named(PUBLISHED_WAY, said)] = published(dim, getattr(torch, dtype))
    return found | {f"hvae, {LOOP}": loop("hvae", task, PUBLISHED)}


def named(how: str, precision: str) -> str:
    """The name of a contender; the default precision goes without saying."""
    return f"hvae, {how}" + ("" if precision == DEFAULT else f", {precision}")


def more_data(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Steps with 10,000 and 1,000,000 points at d = 25."""
    sizes = (POINTS, 100 * POINTS)
    found = {
        f"{n:,} points": stepper("hvae", "gaussian-25", PUBLISHED | {"task.n_data": n}, STACK)
        for n in sizes
    }
    return timing.race(found, 5 * rounds, dict.fromkeys(found, TRAIN_BLOCK))


def measure(rounds: int) -> dict[str, Any]:
    """Tables and claims."""
    torch.set_num_threads(1)
    tables, claims, kept = {}, [], {}
    for dim in DIMS:
        found = contenders(dim)
        quick = {
            name: TRAIN_BLOCK for name in found if PUBLISHED_WAY not in name and LOOP not in name
        }
        kept[f"gaussian-{dim}"] = taken = timing.race(found, rounds, quick)
        tables[f"gaussian-{dim}: milliseconds a step"] = shown(taken)
        faster = {}
        for how in (ALONE, STACKED):
            faster[f"{how}: recorded, than {ONE_BY_ONE}"] = ratio(
                taken, f"hvae, {how}, {ONE_BY_ONE}", f"hvae, {how}"
            )
        for said in PRECISIONS:
            way, alone, stacked = (named(how, said) for how in (PUBLISHED_WAY, ALONE, STACKED))
            faster[f"alone, {said}"] = ratio(taken, way, alone)
            faster[f"in a stack of ten, a replicate, {said}"] = ratio(
                taken, way, stacked, share=STACK
            )
        faster["in a stack of ten, than one Python loop over ten"] = ratio(
            taken, f"hvae, {LOOP}", f"hvae, {STACKED}"
        )
        tables[f"gaussian-{dim}: times as fast as the published way, or as a loop"] = table(
            ["hvae", "ratio of processor time"],
            [[name, text(figure)] for name, figure in faster.items()],
        )
        if dim == DIMS[-1]:
            for name, limit in (
                (f"alone, {DEFAULT}", 60),
                (f"in a stack of ten, a replicate, {DEFAULT}", 250),
            ):
                claims.append(
                    claim(
                        f"gaussian-400, hvae {name}: times as fast as published",
                        faster[name]["median"],
                        limit,
                        at_most=False,
                    )
                )
    kept["points"] = points = more_data(rounds)
    first, second = points
    share = ratio(points, second, first)
    tables["Data points, gaussian-25, hvae in a stack of ten"] = table(
        ["data", "processor ms a step"],
        [[name, text(spread(clocks["processor"]), 1e-3)] for name, clocks in points.items()],
    )
    claims.append(
        claim(
            "a step with 1,000,000 points over one with 10,000", share["median"], 1.05, at_most=True
        )
    )
    return {"tables": tables, "claims": claims, "seconds": kept}


def shown(taken: timing.Seconds) -> str:
    """Elapsed and processor time of each step, and a replicate's share of it."""
    rows = []
    for name, clocks in taken.items():
        figures = {clock: spread(values) for clock, values in clocks.items()}
        replicates = STACK if STACKED in name or LOOP in name else 1
        rows.append(
            [
                name,
                *(text(figure, 1e-3) for figure in figures.values()),
                f"{figures['processor']['median'] / replicates * 1e3:.3g}",
            ]
        )
    return table(["step", "elapsed", "processor", "processor, a replicate"], rows)


if __name__ == "__main__":
    timing.run(measure, __doc__, __file__)
