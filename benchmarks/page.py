"""Writes `docs/performance.md` from the figures that the benchmarks kept.

python benchmarks/page.py
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
BENCHMARKS = {
    "gaussian": "A step on Gaussian data",
    "rivals": "A step on images, beside Pythae",
    "images": "A step on images, and the score written out",
    "scaling": "How time grows",
    "gradients": "What a counted gradient costs",
    "memory": "The memory that steps take",
    "tracking": "A whole run, beside its bare loop",
    "workers": "Two workers, beside one",
    "store": "The result database at 100,000 finished runs",
    "claimers": "Many workers on one PostgreSQL server",
    "results": "Tables and reports of 100,000 finished runs",
}
INTRODUCTION = """# Performance

This page is written by `python benchmarks/page.py` from the figures in `benchmarks/figures/`; `python benchmarks/all.py` makes them all
anew. Figures are medians with the quartiles in brackets, unless said. Ratios mean more than seconds: contenders take turns, and a ratio
is taken round by round. Under each benchmark stands the commit at which its figures were made: they are not all of today's code. A load
above 1 at the start tells of other work on the machine, which disturbs elapsed time most. Make the figures on your machine.
"""
POLICY = """## On a CUDA card

`--device cuda` (or `cuda:N`) has new runs made on a card; the device is in the run's plan, and whoever goes on with the run needs it too.
Single precision is true single precision there: TF32 is off, for products and for convolutions. Steps are not compiled. Noise is drawn on
the processor, so that a run sees the same numbers on every device; scores are made on the processor. No figure on this page was made on a
card.

## What bounds a step

- **Small problems** (Gaussian data of tens of dimensions): a step is some hundreds of operations of torch on a few thousand numbers each,
  and takes the time of starting them, not of computing: a stack of ten takes about as long as one replicate. Once its
  steps have taken two seconds, and are 300, a run is therefore played back from a recording of the operations of one step (`harness/training/recorded_steps.py`), which spares
  all but the operations
  themselves and gives the same bits; every thousandth step is taken both ways, and a difference ends the run as failed.
  `BENCH_REPLAY=off` in the environment turns it off, `BENCH_REPLAY=always` records before the first step. Compiling the step instead
  (`torch.compile`) would be faster still, but takes longer than most of these runs, and changes the last bits: it is not used.
- **Larger ones** (a stack of ten at d = 400: 40,000 numbers an operation): each operation goes over its numbers in memory once, and the
  passes take the time. Recording saves less here, and a stack gains less on a loop over its members. Where the score is linear in each
  dimension, as in `gaussian`, the leapfrog is a matrix there (`harness/numerics/trajectory.py`): its two columns go through the steps,
  forward and back, and the particles through it once, so that leapfrog steps cost the same with ten particles and with ten thousand. Memory
  that a
  step frees is kept for the next (`harness/training/devices.py`): handed back, it would come anew in every step, page by page and
  filled with
  zeros, which takes as long as the step itself.
- **Images**: products, convolutions and their gradients take three quarters of a step, and no recording makes them faster. `hvae` with
  K steps runs the decoder K + 1 times and its transpose as often, and training goes back through both, twice as much work again; that
  gradient is written out (`tasks/_decoder.py`, docs/decisions/0011), so that what lies between the convolutions goes over memory as
  seldom as it can. Maps innermost in memory halve the convolutions; a transposed one is made as a convolution of two by two places at
  once, and its gradient is the convolution's (`tasks/_layers.py`); and what many particles decode is decoded a thousand images at a
  time, so that the maps are still in the cache when the next layer asks for them.
- **A whole run**: between two steps it looks at the clock and at whether it was asked to stop, which takes about a microsecond; a
  checkpoint of a small problem takes ten milliseconds, and the bound is said ten times a second. What more it costs falls into its first
  seconds, when the process that mirrors it loads MLflow on another core, and the two share what memory can carry. Libraries bring
  hundreds of thousands of objects that stay; `bench` therefore looks for garbage in cycles seldom, and not at all when it ends,
  which spares a command a second. On a machine whose speed wavers, as a virtual one's does, the bare loops
  themselves differ from round to round by more than what is measured here: the two therefore take turns.
- **A sweep on workers**: the command loads torch and then each worker does, some three seconds in which no step is taken, with one worker
  as with two; the process that mirrors runs works where with one worker a core lies idle: some three seconds for MLflow, and a quarter
  of a second for each run, most of it for its picture; and in the end one worker is idle while the other makes the last run. Ten of
  these runs, not in turns but one sweep after the other, took two workers 124 seconds, in which the workers computed for 110 and for 116
  and the mirror for 6.5; one worker took 235 seconds and computed for 231 of them. The rest is the machine's: two bare loops at
  once, which share nothing, are not twice as fast as one either.
"""


def section(name: str, title: str) -> str:
    """A benchmark's own words when its figures were made, its tables, its targets, and what they
    were made on.
    """
    path = HERE / "figures" / f"{name}.json"
    about = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8"))) or ""
    if not path.exists():
        return f"## {title}\n\n{about}\n\nNo figures are kept yet.\n"
    kept = json.loads(path.read_text(encoding="utf-8"))
    about = kept.get("about", about)
    parts = [
        f"## {title}",
        about,
        *(f"**{head}**\n\n{table}" for head, table in kept["tables"].items()),
    ]
    if kept["claims"]:
        parts.append("Targets:\n\n" + "\n".join(map(target, kept["claims"])))
    return "\n\n".join([*parts, made_on(kept)]) + "\n"


def target(claim: dict[str, Any]) -> str:
    """A target as a line of a list."""
    bound = f"{'at most' if claim['at_most'] else 'at least'} {claim['limit']:g}"
    return (
        f"- {claim['claim']}: {claim['value']:.3g}; {bound} "
        f"**{'holds' if claim['holds'] else 'does not hold'}**."
    )


def made_on(kept: dict[str, Any]) -> str:
    """Rounds, machine, releases, commit and day."""
    where = kept["made_on"]
    load = "load {:.1f} before and {:.1f} after".format(*where["load"])
    machine = (
        f"{where['cpu']}, {where['cores']} cores, Python {where['python']}, torch {where['torch']}"
    )
    commit = f"commit {where['git_commit'][:7]}" if "git_commit" in where else "commit not kept"
    return f"{kept['rounds']} rounds; {machine}; {where['date']}, {commit}, {load}."


if __name__ == "__main__":
    sections = [section(name, title) for name, title in BENCHMARKS.items()]
    PAGE.write_text("\n".join([INTRODUCTION, *sections, POLICY]), encoding="utf-8")
