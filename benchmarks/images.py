"""How long training steps on images of 28 x 28 take, and what the decoder's written-out score saves.

    python benchmarks/images.py
    python benchmarks/images.py --json out.json

`hvae` with 15 leapfrog steps on the nets of `mnist`, batches of 256 and 64 latent dimensions: once with the task's written-out score,
once with the score by automatic differentiation, which training differentiates a second time. `vb` and `iwae` with 40 particles
stand beside it. The images are random: a step takes no notice of what they show, and no data are needed.

In each round every contender takes one step, with one thread and with two, so that what slows the machine down slows all. The times
are elapsed seconds, and seconds of the processors (user and system, of all threads), which other work on the machine disturbs less. The
ratio is taken round by round. Figures are medians with the quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch

from harness import training
from harness.api import Problem, autograd_score
from harness.matrix import resolve
from harness.registry import Found, find
from tasks.mnist import MNIST

THREADS = (1, 2)
CLOCKS = {"elapsed": time.perf_counter, "processor": time.process_time}
WRITTEN, AUTOMATIC = "hvae K=15, written-out score", "hvae K=15, autograd of autograd"
CLAIM = 0.9
WARM_UP = 2


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


def contenders() -> dict[str, Iterator[training.Progress]]:
    """Training without end, by name."""
    return {
        WRITTEN: running("hvae", RandomImages, {"method.n_leapfrog": 15}),
        AUTOMATIC: running("hvae", AutomaticScore, {"method.n_leapfrog": 15}),
        "iwae k=40": running("iwae", RandomImages, {"particles": 40}),
        "vb": running("vb", RandomImages, {}),
    }


def running(method: str, task: type[MNIST], settings: dict[str, int]) -> Iterator[training.Progress]:
    """Training under the report's protocol."""
    sizes = {"task.n_train": 2560, "task.n_validation": 10, "task.n_test": 10, "steps": 10**9, "validate_every": None}
    resolved = resolve(find("method", method), Found(task, "mnist"), "report", sizes | settings)
    state = training.start(resolved.method, resolved.task, resolved.protocol, [0])
    return training.train(resolved.method, resolved.task, resolved.protocol, state)


def measure(rounds: int) -> dict[tuple[int, str], dict[str, list[float]]]:
    """Seconds of each step by threads and contender, on each clock."""
    going = contenders()
    taken = {(threads, name): {clock: [] for clock in CLOCKS} for threads in THREADS for name in going}
    for number in range(-WARM_UP, rounds):
        for (threads, name), times in taken.items():
            torch.set_num_threads(threads)
            before = {clock: read() for clock, read in CLOCKS.items()}
            bound = float(next(going[name]).bound)
            if number >= 0:
                for clock, read in CLOCKS.items():
                    times[clock].append(read() - before[clock])
            assert np.isfinite(bound), name
        print(f"round {number + 1} of {rounds}" if number >= 0 else "warm-up", file=sys.stderr)
    return taken


def spread(values: list[float]) -> dict[str, float]:
    """The median, the quartiles, the smallest and the largest."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "quartile_1": low, "quartile_3": high, "min": min(values), "max": max(values)}


def text(figure: dict[str, float]) -> str:
    """`0.85 (0.83 to 0.88)`: the median and the quartiles."""
    return f"{figure['median']:.3f} ({figure['quartile_1']:.3f} to {figure['quartile_3']:.3f})"


def ratios(taken: dict[tuple[int, str], dict[str, list[float]]], threads: int, clock: str) -> dict[str, float]:
    """What a step takes with the written-out score, as a share of what it takes by autograd of autograd."""
    pairs = zip(taken[threads, WRITTEN][clock], taken[threads, AUTOMATIC][clock], strict=True)
    return spread([written / automatic for written, automatic in pairs])


def run(rounds: int) -> dict[str, object]:
    """Measure, and print a table."""
    load = os.getloadavg()[0]
    taken = measure(rounds)
    steps, shares = [], []
    print(f"| threads | step | {' | '.join(f'{clock} s' for clock in CLOCKS)} |\n|---|---|{'---|' * len(CLOCKS)}")
    for (threads, name), times in taken.items():
        figures = {clock: spread(values) for clock, values in times.items()}
        steps.append({"threads": threads, "step": name, "seconds": figures, "all_seconds": times})
        print(f"| {threads} | {name} | {' | '.join(map(text, figures.values()))} |")
    for threads in THREADS:
        figures = {clock: ratios(taken, threads, clock) for clock in CLOCKS}
        shares.append({"threads": threads, "ratio": figures})
        print(f"| {threads} | written out / autograd of autograd | {' | '.join(map(text, figures.values()))} |")
    holds = all(figure["median"] <= CLAIM for share in shares for figure in share["ratio"].values())
    ends = (load, os.getloadavg()[0])
    print(f"\nA ratio of {CLAIM} or less {'holds' if holds else 'does not hold'} in all medians.")
    print(f"{rounds} rounds; {os.cpu_count()} processors, load {ends[0]:.1f} before and {ends[1]:.1f} after; torch {torch.__version__}.")
    about = {"machine": platform.platform(), "cores": os.cpu_count(), "torch": torch.__version__, "load": ends}
    return {"rounds": rounds, **about, "claim": CLAIM, "holds": holds, "steps": steps, "ratios": shares}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="five or more")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.rounds < 5:
        parser.error("five rounds or more")
    result = run(arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
