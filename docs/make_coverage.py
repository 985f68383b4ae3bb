"""Make the table of docs/results.md that says how often a printed interval of an importance-sampled
log-evidence covers it.

    python docs/make_coverage.py

Log-weights are normal with the variance s^2 and the mean -s^2 / 2, so that the truth is 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from marked import replaced

from harness.base.metrics import DRAWS_FOR_INTERVAL, why_one_sided
from harness.numerics import bounds
from harness.numerics.noise import Noise

PAGE = Path(__file__).parent / "results.md"
DEVIATIONS = (1.0, 1.5, 2.0, 2.5)
DRAWS = (100, DRAWS_FOR_INTERVAL)
REPEATS = 2_000
NORMAL_95 = 1.96


def intervals(sd: float, n_draws: int, repeats: int) -> Iterator[tuple[bool, bool]]:
    """Yield whether an estimate would be printed with an interval for its Pareto k alone, and
    whether the interval covers.
    """
    like = torch.zeros((), dtype=torch.float64)
    for block in range(0, repeats, 100):
        normal = Noise([f"coverage/{sd}/{n_draws}"]).at(block).normal(n_draws, 100, like=like)
        log_w = sd * normal - sd**2 / 2
        estimate, error = bounds.log_evidence(log_w)
        covers = estimate.abs() <= NORMAL_95 * error
        for k, is_covered in zip(bounds.pareto_k(log_w).tolist(), covers.tolist(), strict=True):
            reason = why_one_sided("log_evidence", {"pareto_k": k}, DRAWS_FOR_INTERVAL)
            yield reason is None, is_covered


def table(repeats: int) -> str:
    """Return the table in Markdown."""
    lines = [
        "| standard deviation of log-weights | draws | Pareto k at most 0.7 | of these cover |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for n_draws in DRAWS:
        pooled = [0, 0]
        for sd in DEVIATIONS:
            covered = [covers for fits, covers in intervals(sd, n_draws, repeats) if fits]
            pooled = [pooled[0] + len(covered), pooled[1] + sum(covered)]
            share = f"{sum(covered) / len(covered):.1%}" if covered else "-"
            lines.append(f"| {sd:g} | {n_draws:,} | {len(covered) / repeats:.0%} | {share} |")
        lines.append(
            f"| all | {n_draws:,} | {pooled[0]:,} intervals | {pooled[1] / pooled[0]:.1%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text(), "coverage", table(REPEATS)))
