"""What bold and the confidence set of the best claim, by simulation with heavy tails."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.analysis.best import FEW, RELATIVE_MARGIN, best_rows
from harness.base.metrics import Metric

GAP = Metric("nats", "lower")
NATS = Metric("nats", "higher", "", 0.1)
REPEATS = 400
NOISE = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "student-3": lambda rng, shape: rng.standard_t(3, size=shape),
    "cauchy": lambda rng, shape: rng.standard_cauchy(size=shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape) - math.log(2),
    "log-normal": lambda rng, shape: np.exp(1.5 * rng.normal(size=shape)) - 1,
}
"""Noise of median 0."""


def standing(costs, metric):
    """What is called best of costs [k, n], whose first row is the best by the margin and a hair."""
    if metric is GAP:
        factor = np.full((len(costs), 1), (1 + RELATIVE_MARGIN) * 1.0001)
        factor[0] = 1.0
        values = np.exp(np.clip(costs, -300, 300)) * factor
    else:
        worse = np.full((len(costs), 1), metric.margin * 1.0001)
        worse[0] = 0.0
        values = -costs - worse
    return best_rows({index: dict(enumerate(row)) for index, row in enumerate(values)}, metric)


@pytest.mark.parametrize("n", [6, 10, 30])
@pytest.mark.parametrize("k", [3, 8, 15])
def test_a_bold_row_is_seldom_worse_than_the_true_best_by_more_than_the_margin(
    k, n, record_property
):
    """Every row but the best is worse by a hair more than the margin, where a wrong bold is
    likeliest; noise of all rows, or of the others alone, small and large.
    """
    rng = np.random.default_rng([k, n])
    wrong, missed, total = 0, 0, 0
    for draw in NOISE.values():
        wrong_here = missed_here = 0
        for repeat in range(REPEATS):
            costs = draw(rng, (k, n)) * 10.0 ** rng.uniform(-2, 0.5)
            costs[0] *= repeat % 2
            best = standing(costs, NATS if repeat % 4 < 2 else GAP)
            wrong_here += any(row != 0 for row in best.bold)
            missed_here += n >= best.n_needed and 0 not in best.confidence_set
        # three binomial standard errors above 5 %
        limit = REPEATS * 0.05 + 3 * math.sqrt(REPEATS * 0.05 * 0.95)
        assert wrong_here <= limit
        assert missed_here <= limit
        wrong, missed, total = wrong + wrong_here, missed + missed_here, total + REPEATS
    record_property(
        "printed",
        f"{k} rows, {n} seeds: a row bold wrongly in {wrong} of {total}, "
        f"the best not in its confidence set in {missed}",
    )


def test_the_simulation_sees_the_fault_it_is_for():
    """By what the t test alone says of skewed values a wrong row is often bold."""
    from harness.analysis import best

    rng = np.random.default_rng(0)
    costs = rng.exponential(size=(2000, 7, 10)) - 1.0  # of mean 0
    t = costs.mean(-1) / (costs.std(-1, ddof=1) / math.sqrt(10))
    from scipy import special

    assert (special.stdtr(9, t) <= 0.05 / 7).any(1).mean() > 0.2
    assert (best._p_below_zero(costs + 1 - math.log(2), "t") <= 0.05 / 7).any(1).mean() < 0.05


def test_a_row_better_on_every_seed_is_bold_and_alone():
    rng = np.random.default_rng(0)
    base = rng.normal(size=20)
    better = {seed: 1.0 + 0.01 * x for seed, x in enumerate(base)}
    worse = {seed: 2 * value for seed, value in better.items()}
    worse |= dict.fromkeys(range(20, 25), 0.001)  # seeds that the better row has not
    found = best_rows({"better": better, "worse": worse}, GAP)
    assert (found.row, found.bold, found.confidence_set) == ("better", {"better"}, {"better"})
    assert found.n_seeds == 20


def test_nothing_is_bold_where_nothing_is_shown():
    values = [1.0, 2.0, 4.0, 1.5, 3.0, 2.5, 1.2, 3.5]
    rows = {name: dict(enumerate(values[i:] + values[:i])) for i, name in enumerate("abc")}
    found = best_rows(rows, GAP)
    assert not found.bold
    assert found.confidence_set == set("abc")


def test_equal_rows_are_bold_together():
    values = dict(enumerate(np.linspace(1, 2, 8)))
    assert best_rows({"a": values, "b": dict(values)}, GAP).bold == {"a", "b"}


def test_of_few_seeds_the_best_mean_alone_is_bold():
    few = {seed: 1.0 + seed for seed in range(FEW - 1)}
    found = best_rows({"a": few, "b": {seed: 1.0001 * value for seed, value in few.items()}}, GAP)
    assert (found.bold, found.confidence_set) == ({"a"}, set())
    one = best_rows({"a": {0: 1.0}, "b": {0: 1e6}}, GAP)
    assert (one.row, one.bold) == ("a", set())


def test_a_row_of_few_seeds_does_not_compete_with_rows_of_many():
    many = {seed: 2.0 + seed for seed in range(10)}
    rows = {"many": many, "also": {s: 2 * v for s, v in many.items()}, "few": {0: 0.1, 1: 0.1}}
    found = best_rows(rows, GAP)
    assert found.bold == {"many"}
    assert not best_rows({"a": {0: 1.0, 1: 2.0}, "b": {2: 1.0, 3: 2.0}}, GAP).bold


def test_of_too_few_seeds_for_so_many_rows_nothing_is_bold():
    rows = {str(k): dict.fromkeys(range(6), 2.0**k) for k in range(6)}
    found = best_rows(rows, GAP)
    assert (found.row, found.bold, found.confidence_set, found.n_needed) == ("0", set(), set(), 7)
    more = best_rows({name: dict.fromkeys(range(7), v[0]) for name, v in rows.items()}, GAP)
    assert (more.bold, more.confidence_set) == ({"0"}, {"0"})
