"""Intervals and tests against scipy, closed forms, whole enumeration, and simulated data; numbers
as they are printed.
"""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.analysis.statistics import (
    bca_interval,
    holm,
    t_interval,
    t_test,
    wilcoxon_test,
)
from harness.base.text import between, number

SLEEP = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
"""Student's own example (1908): hours of sleep gained by ten patients."""
EXTRA = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
MIXED = [
    [3.0, -1.0, 4.0, 1.5, -9.0, 2.6],
    [1.0, 1.0, -1.0, 2.0, 2.0, 3.0],
    [0.0, 1.0, 1.0, -2.0, 3.0, 3.0, 4.0],
    [0.0, 0.0, 1, 1, -1, 5.0],
]
finite = st.floats(allow_nan=False, allow_infinity=False)
BAD = [[math.nan, 1.0, 2.0], [math.inf, 1.0], [math.inf, -math.inf], [-math.inf]]


def normal_samples(n, count, seed):
    return np.random.default_rng(seed).normal(3.0, 2.0, size=(count, n)).tolist()


def skewed_samples(n, count, seed):
    return np.random.default_rng(seed).gamma(4.0, 1.0, size=(count, n)).tolist()


# Student's t


@pytest.mark.parametrize(
    "values", [SLEEP, EXTRA, [1.0, 2.0], [5.0, 5.0, 5.1], [1e9, 1e9 + 1e-3, 1e9]]
)
@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_the_t_interval_is_scipys(values, confidence):
    found = t_interval(values, confidence)
    expected = stats.t.interval(confidence, len(values) - 1, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-12)
    assert (found.mean, found.se, found.n) == pytest.approx(
        (np.mean(values), stats.sem(values), len(values)), rel=1e-7
    )


def test_of_two_values_the_interval_is_a_closed_form():
    """With one degree of freedom t is Cauchy: the quantile is tan(pi (p - 1/2)), the standard error
    half the distance.
    """
    found = t_interval([1.0, 3.0])
    half = math.tan(math.pi * 0.475)
    assert (found.mean, found.se, found.low, found.high) == pytest.approx(
        (2.0, 1.0, 2 - half, 2 + half), rel=1e-12
    )


def test_paired_values_are_students_example():
    gains = [a - b for a, b in zip(EXTRA, SLEEP, strict=True)]
    assert t_interval(gains).mean == pytest.approx(1.58)
    assert t_test(gains) == pytest.approx(stats.ttest_rel(EXTRA, SLEEP).pvalue, rel=1e-9)


@pytest.mark.parametrize(
    "values", [*normal_samples(4, 5, 1), *skewed_samples(12, 5, 2), [0.0, 0.0, 1.0], [1.0, -1.0]]
)
def test_the_t_test_is_scipys_and_agrees_with_the_interval(values):
    p, interval = t_test(values), t_interval(values)
    assert p == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, rel=1e-9)
    assert (p < 0.05) == (not interval.low <= 0 <= interval.high)


@pytest.mark.parametrize("interval", [t_interval, bca_interval])
def test_few_values_equal_values_and_values_that_are_no_numbers(interval):
    assert [math.isnan(end) for end in (interval([]).mean, interval([]).se)] == [True, True]
    alone = interval([7.0])
    assert (alone.mean, alone.n, math.isnan(alone.se), math.isnan(alone.low)) == (
        7.0,
        1,
        True,
        True,
    )
    for value in (0.1, 0.0, -3.0, 1e308):
        same = interval([value] * 3)
        assert (same.mean, same.se, same.low, same.high, same.n) == (value, 0.0, value, value, 3)
    for values in BAD:
        found = interval(values)
        assert all(map(math.isnan, (found.mean, found.se, found.low, found.high)))
        assert found.n == len(values)


@pytest.mark.parametrize("test", [t_test, wilcoxon_test])
def test_tests_of_few_equal_or_impossible_differences(test):
    assert math.isnan(test([1.0]))
    assert math.isnan(test([]))
    assert test([0.0] * 6) == 1.0
    assert test([0.1] * 6) < 0.05
    assert all(math.isnan(test(values * 6)) for values in BAD)
    assert (t_test([2.0, 2.0]), t_test([1.0, -1.0])) == (0.0, pytest.approx(1.0))


def test_differences_down_at_the_rounding_are_tested_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert t_test([1.0, 1.0 + 2e-16, 1.0]) < 1e-20
        assert t_interval([1.0, 1.0 + 2e-16, 1.0]).se < 1e-15
        assert bca_interval([1e16, 1e16 + 2, 1e16]).n == 3


@given(st.lists(finite, min_size=2, max_size=6))
def test_no_values_are_too_large_or_too_small_for_the_t_interval(values):
    found = t_interval(values)
    assert min(values) <= found.mean <= max(values) or found.mean == pytest.approx(
        values[0], rel=1e-12
    )
    assert found.low <= found.mean <= found.high
    assert 0 <= t_test(values) <= 1


@given(st.lists(st.integers(-1000, 1000), min_size=3, max_size=8), st.integers(-900, 900))
def test_the_t_interval_goes_with_the_unit(values, power):
    plain, scaled = (
        t_interval([float(value) for value in values]),
        t_interval([value * 2.0**power for value in values]),
    )
    assert [end * 2.0**power for end in (plain.mean, plain.se, plain.low)] == [
        scaled.mean,
        scaled.se,
        scaled.low,
    ]


TINY = [[0.0, 5e-324], [0.0, 5e-324, 5e-324], [-5e-324, 5e-324], [0.0, 0.0, 1e-323]]


@pytest.mark.parametrize("values", TINY)
def test_the_smallest_floats_are_as_good_as_others(values):
    found, large = bca_interval(values), bca_interval([value / 5e-324 for value in values])
    assert min(values) <= found.low <= found.high <= max(values)
    assert [large.low * 5e-324, large.high * 5e-324] == [found.low, found.high]
    assert t_test(values) == t_test([value / 5e-324 for value in values]) > 0


# The bootstrap


@pytest.mark.parametrize("values", [SLEEP, *skewed_samples(30, 3, 3), *normal_samples(20, 2, 4)])
def test_the_bootstrap_agrees_with_scipys_of_other_resamples(values):
    """Two bootstraps of 9,999 differ by about a hundredth of the standard error in an end: z-score
    of an extreme quantile.
    """
    found = bca_interval(values)
    other = stats.bootstrap(
        (values,),
        np.mean,
        method="BCa",
        n_resamples=50_000,
        batch=5000,
        rng=np.random.default_rng(5),
    )
    density = stats.norm.pdf(stats.norm.ppf(0.025)) / found.se
    noise = math.sqrt(0.025 * 0.975 / 9_999) / density
    assert abs(found.low - other.confidence_interval.low) < 5 * noise
    assert abs(found.high - other.confidence_interval.high) < 5 * noise
    assert (found.mean, found.se) == (t_interval(values).mean, t_interval(values).se)


def test_the_bootstrap_leans_to_the_long_tail_and_is_the_same_every_time():
    (values,) = skewed_samples(30, 1, 6)
    found, plain = bca_interval(values), t_interval(values)
    assert found == bca_interval(values)
    assert found.high - found.mean > found.mean - found.low
    assert found.low > plain.low


@settings(max_examples=30, deadline=None)
@given(st.lists(finite, min_size=2, max_size=8))
def test_no_values_are_too_large_or_too_small_for_the_bootstrap(values):
    found = bca_interval(values)
    assert min(values) <= found.low <= found.high <= max(values)


# Wilcoxon


@pytest.mark.parametrize(
    "differences", [*MIXED, SLEEP[:9], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0] * 7]
)
def test_wilcoxons_p_is_the_share_of_all_signs_that_are_as_extreme(differences):
    """Exact under the null: every sign of a difference is as likely as the other; zeros have
    none.
    """
    told = [difference for difference in differences if difference]
    ranks = stats.rankdata(np.abs(told))
    centre = ranks.sum() / 2
    sums = np.array(
        [
            ranks[np.array(signs)].sum()
            for signs in itertools.product([False, True], repeat=len(told))
        ]
    )
    seen = abs(ranks[np.array(told) > 0].sum() - centre)
    assert wilcoxon_test(differences) == pytest.approx(
        np.mean(np.abs(sums - centre) >= seen - 1e-9), abs=1e-12
    )


def test_wilcoxon_of_many_differences_is_scipys_and_of_five_says_nothing():
    values = (np.arange(40) - 12.5).tolist()
    assert wilcoxon_test(values) == pytest.approx(stats.wilcoxon(values).pvalue, rel=1e-12)
    assert math.isnan(wilcoxon_test([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert wilcoxon_test([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == pytest.approx(2 / 2**6)


# Holm


def test_holm_is_the_published_step_down():
    """By hand: 4 x 0.005, 3 x 0.011, 2 x 0.02, and 0.04 once, none below the one before; tied
    values share the first's factor.
    """
    assert holm([0.011, 0.04, 0.005, 0.02]) == pytest.approx([0.033, 0.04, 0.02, 0.04])
    assert holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.03]) == [0.03]


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=8))
def test_holm_rejects_what_stepping_down_rejects(ps):
    """The textbook form: go up the sorted values, reject while p (m - i) is at most alpha."""
    corrected = holm(ps)
    ordered = sorted((p, place) for place, p in enumerate(ps) if not math.isnan(p))
    for alpha in (0.01, 0.05, 0.5):
        passes = [(len(ordered) - step) * p <= alpha for step, (p, _) in enumerate(ordered)]
        rejected = passes.index(False) if False in passes else len(passes)
        assert {place for place, p in enumerate(corrected) if p <= alpha} == {
            place for _, place in ordered[:rejected]
        }
    assert [math.isnan(p) for p in corrected] == [math.isnan(p) for p in ps]
    assert all(
        after >= before
        for before, after in zip(ps, corrected, strict=True)
        if not math.isnan(before)
    )


# Coverage


def coverage(interval, samples, truth):
    covered = [found.low <= truth <= found.high for found in map(interval, samples)]
    return sum(covered) / len(covered)


@pytest.mark.parametrize("n", [3, 5, 10, 30])
def test_t_intervals_cover(n):
    """4,000 draws: the share has a standard error of 0.34 %, and the band reaches 2 % to either
    side.
    """
    assert 0.93 <= coverage(t_interval, normal_samples(n, 4000, n), 3.0) <= 0.97


def test_bootstrap_intervals_of_thirty_cover(record_property):
    """1,000 draws: the share has a standard error of 0.8 %, and the band reaches 3 % to either
    side.
    """
    share = coverage(bca_interval, normal_samples(30, 1000, 7), 3.0)
    record_property("printed", f"BCa intervals at n = 30 cover {share:.1%}")
    assert 0.91 <= share <= 0.97


def test_tests_find_nothing_in_noise_about_as_often_as_they_say():
    """2,000 draws of noise at 5 %: a standard error of 0.5 %. Wilcoxon's p of ten has steps, and is
    never above its level.
    """
    samples = [[value - 3.0 for value in sample] for sample in normal_samples(10, 2000, 8)]
    assert sum(t_test(sample) <= 0.05 for sample in samples) / 2000 == pytest.approx(0.05, abs=0.02)
    assert sum(
        wilcoxon_test(sample) <= 0.05 for sample in samples[:500]
    ) / 500 <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 500)


# Numbers as text


def read(text):
    """A printed number, and its error, as numbers."""
    inner, _, power = text.partition(")e") if text.startswith("(") else (text, "", "0")
    return [
        float(part.strip("(").replace(",", "")) * 10.0 ** int(power) for part in inner.split(" ± ")
    ]


@given(st.floats(-1e300, 1e300), st.floats(-14, 3))
def test_a_printed_number_is_the_number_to_two_digits_of_its_error(value, power):
    error = 10.0**power * max(abs(value), 1e-290)
    shown, spread = read(number(value, error))
    assert spread == pytest.approx(error, rel=0.051)
    assert abs(shown - value) <= max(
        0.051 * error, 0.51e-6 * max(1.0, abs(value)), 1e-12 * abs(value)
    )


@given(st.floats(-1e300, 1e300, allow_subnormal=False))
def test_a_number_without_an_error_keeps_four_digits(value):
    assert read(number(value))[0] == pytest.approx(value, rel=0.51e-3)


@given(st.floats(-1e12, 1e12), st.floats(1e-4, 1e9), st.floats(1e-4, 1e9))
def test_printed_intervals_keep_their_order(value, below, above):
    text = between(value, value - below, value + above)
    mean, low, high = (
        float(part.replace(",", ""))
        for part in text.replace("[", "").replace("]", "").replace(", ", " ").split()
    )
    assert low <= mean <= high
    assert mean == pytest.approx(value, abs=0.06 * (below + above) + 1e-6 * abs(value))
