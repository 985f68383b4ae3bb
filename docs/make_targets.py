"""Write the table of targets into docs/targets.md from what the tasks say of themselves.

python docs/make_targets.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from marked import replaced

from harness.api import Target
from harness.plan.grid import parse_selector
from harness.plan.registry import build
from harness.training.loop import load_data

PAGE = Path(__file__).with_name("targets.md")
TARGETS = (
    *("funnel", "banana", "many-well", "gmm", "student-mixture"),
    *("logistic-ionosphere", "logistic-sonar", "logistic-breast-cancer"),
    *("brownian", "brownian[known_scales=true]", "eight-schools", "seeds", "bayes-linear"),
)
HEADING = ("task", "D", "log Z", "how", "exact draws", "best mean field, gap", "best Gaussian, gap")


def row(name: str) -> list[str]:
    """Return what a target says of itself."""
    ((setting,),) = [parse_selector("task", name)]
    task = build(setting.plugin.cls, f"task '{name}'", setting.values)
    assert isinstance(task, Target)
    truth, limits = task.truth(), task.metrics({}, load_data(task, [0], torch.float64))
    assert truth is not None
    gaps = [limits.get(f"{family}_elbo_gap") for family in ("mean_field", "full_rank")]
    return [
        f"`{name}`",
        str(task.latent_dim),
        f"{truth.value:.10g}" + (f" ± {truth.error:g}" if truth.error > 1e-8 else ""),
        truth.how,
        "yes" if type(task).draws is not Target.draws else "no",
        *("" if gap is None else f"{float(gap):.4f}" for gap in gaps),
    ]


def main(*options: str) -> None:
    """Write the table, or only tell whether it is as the tasks say."""
    lines = [HEADING, ["---"] * len(HEADING), *map(row, TARGETS)]
    page = PAGE.read_text()
    made = replaced(page, "known", "\n".join(f"| {' | '.join(line)} |" for line in lines))
    if "--check" not in options:
        PAGE.write_text(made)
    elif made != page:
        sys.exit("docs/targets.md is stale. Run: python docs/make_targets.py")


if __name__ == "__main__":
    main(*sys.argv[1:])
