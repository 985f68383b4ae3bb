"""How long training steps on images of 28 x 28 take, and what the decoder's written-out score
saves.

    python benchmarks/images.py

`hvae` with 15 leapfrog steps on the nets of `mnist`, batches of 256 and 64 latent dimensions: once
with the task's written-out score, once with the score by automatic differentiation, which training
differentiates a second time. The other methods stand beside it: `iwae` with 40 particles, those
with a leapfrog with 15 steps, flows with as many as they have. The images are random: a step takes
no notice of what they show, and no data are needed.

In each round every contender takes one step, with one thread and then with two, so that what slows
the machine down slows all. The times are elapsed seconds, and seconds of the processors (user and
system, of all threads), which other work on the machine disturbs less. The ratio is taken round by
round. Figures are medians with the quartiles.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import timing
import torch
from timing import NamedPlugin, claim, ratio, spread, stepper, table, text

from harness.api import Problem, autograd_score
from harness.tasks.mnist import MNIST

THREADS = (1, 2)
WRITTEN, AUTOMATIC = "hvae K=15, written-out score", "hvae K=15, autograd of autograd"
CLAIM = 0.9
OTHERS = {
    "hvae-untempered K=15": ("hvae-untempered", {"method.n_leapfrog": 15}),
    "hvae-iaf K=15": ("hvae-iaf", {"method.n_leapfrog": 15}),
    "iwae k=40": ("iwae", {"particles": 40}),
    "vb": ("vb", {}),
    "pnf": ("pnf", {}),
    "iaf": ("iaf", {}),
}
SIZES = {"task.n_train": 2560, "task.n_validation": 10, "task.n_test": 10}


class RandomImages(MNIST, frozen=True):
    """Zeros and ones in place of digits."""

    def grey(self, split):
        """2,560 images to learn from and 10 to validate, 10 to test."""
        drawn = np.random.default_rng(0).random((2570 if split == "train" else 10, 784)) < 0.13
        return (255 * drawn).astype(np.uint8)


class AutomaticScore(RandomImages, frozen=True):
    """The same, but the score is the gradient of the log joint density."""

    def problem(self, *given, **named) -> Problem:
        """With another score."""
        problem = super().problem(*given, **named)
        return replace(problem, score=autograd_score(problem.log_joint))


def measure(rounds: int) -> dict[str, Any]:
    """Tables and claims."""
    tasks = {
        name: NamedPlugin(task, "mnist")
        for name, task in ((WRITTEN, RandomImages), (AUTOMATIC, AutomaticScore))
    }
    going = {
        name: stepper("hvae", task, SIZES | {"method.n_leapfrog": 15})
        for name, task in tasks.items()
    }
    going |= {
        name: stepper(method, tasks[WRITTEN], SIZES | more)
        for name, (method, more) in OTHERS.items()
    }
    rows, shares, claims, kept = [], [], [], {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        kept[f"{threads} threads"] = taken = timing.race(going, rounds)
        rows += [
            [threads, name, *(text(spread(values)) for values in clocks.values())]
            for name, clocks in taken.items()
        ]
        figures = {clock: ratio(taken, WRITTEN, AUTOMATIC, clock) for clock in timing.CLOCKS}
        shares.append([threads, *(text(figure) for figure in figures.values())])
        claims.append(
            claim(
                f"written out over autograd of autograd, threads: {threads}",
                figures["processor"]["median"],
                CLAIM,
                at_most=True,
            )
        )
    tables = {
        "Seconds a step": table(["threads", "step", *timing.CLOCKS], rows),
        "Written-out score over autograd of autograd": table(["threads", *timing.CLOCKS], shares),
    }
    return {"tables": tables, "claims": claims, "seconds": kept}


if __name__ == "__main__":
    timing.run(measure, __doc__, __file__)
