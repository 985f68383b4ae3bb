"""How often what is printed covers the truth, by simulation."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.base.metrics import DRAWS_FOR_INTERVAL, why_one_sided
from harness.tuning.result import optimism_gap

sys.path.append(str(Path(__file__).parent.parent / "docs"))
from make_coverage import DEVIATIONS, intervals


def test_printed_intervals_of_the_evidence_cover(record_property):
    """Pooled over log-normal weights of four widths, 90 to 97 % of what is printed covers; by
    Pareto k alone, at 100 draws, it would be far less.
    """
    by_width = {
        sd: [covers for fits, covers in intervals(sd, DRAWS_FOR_INTERVAL, 500) if fits]
        for sd in DEVIATIONS
    }
    pooled = [covers for members in by_width.values() for covers in members]
    share = sum(pooled) / len(pooled)
    assert 0.90 <= share <= 0.97
    few = [covers for fits, covers in intervals(2.0, 100, 500) if fits]
    assert sum(few) / len(few) < 0.75
    counts = ", ".join(f"{sum(m)} of {len(m)} at {sd:g}" for sd, m in by_width.items())
    record_property("printed", f"intervals of the evidence cover in {share:.1%}: {counts}")


def test_an_interval_is_printed_of_enough_draws_and_light_tails_alone():
    assert why_one_sided("nll", {"pareto_k": 0.7}, 10_000) is None
    assert why_one_sided("nll", {"pareto_k": 0.7}, 9_999) == "fewer than 10,000 draws"
    assert why_one_sided("log_evidence", {"pareto_k": 0.71}, 10_000) == "Pareto k is above 0.7"
    assert why_one_sided("nll", {"pareto_k": math.inf}, 10_000) == "Pareto k is above 0.7"
    for unknown in ({}, {"pareto_k": math.nan}):
        assert why_one_sided("nll", unknown, 10_000) == "Pareto k is not known"
    assert why_one_sided("elbo", {}, 10) is None


@pytest.mark.parametrize(("n_trials", "n_seeds"), [(5, 3), (50, 3), (50, 10)])
def test_the_interval_of_the_optimism_gap_covers(n_trials, n_seeds, record_property):
    """The best of many trials, chosen on its tuning seeds: what they overstate of its true gain on
    the default is covered in 95 %; a data set is good or bad for all settings.
    """
    rng, covered, repeats = np.random.default_rng(n_trials * n_seeds), 0, 2_000
    positive = 0
    for _ in range(repeats):
        true = np.append(rng.normal(size=n_trials), 0.0)  # the last is the default
        data, noise = 3 * rng.normal(size=(1, n_seeds)), rng.normal(size=(n_trials + 1, n_seeds))
        seen = true[:, None] + data + noise
        best = int(seen[:-1].mean(1).argmax())
        report = true[:, None] + 3 * rng.normal(size=(1, 10)) + rng.normal(size=(n_trials + 1, 10))
        tuning_gains = (seen[best] - seen[-1]).tolist()
        gap = optimism_gap(tuning_gains, (report[best] - report[-1]).tolist())
        overstated = sum(tuning_gains) / n_seeds - true[best]
        covered += gap.low <= overstated <= gap.high
        positive += overstated > 0
    assert abs(covered / repeats - 0.95) < 3 * math.sqrt(0.95 * 0.05 / repeats)
    assert positive / repeats > 0.5
    record_property(
        "printed",
        f"optimism gap of {n_trials} trials on {n_seeds} seeds: covered in {covered} of {repeats}",
    )
