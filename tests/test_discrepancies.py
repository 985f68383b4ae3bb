"""Draws against exact draws: two exact samples read 0 within error, and what is wrong does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from harness.api import Noise
from harness.numerics.discrepancies import (
    compare,
    median_distance,
    mmd2,
    moment_z,
    quantile_z,
    rank_chi2,
    rank_counts,
    resampled,
    sliced_wasserstein,
)
from harness.tasks.gmm import GMM

DIRECTIONS = Noise(["directions"]).normal(64, 3)
REPEATS = 200


def normal(stream, n, scale=1.0):
    return scale * Noise([stream]).normal(n, 1, 3)


def with_diagonals(x, y, width):
    """As public code has it: the diagonals stay in the means."""

    def kernel(a, b):
        squares = torch.cdist(a.transpose(0, 1), b.transpose(0, 1)).square()
        return torch.exp(-0.5 * squares / width.square()[:, None, None]).mean((1, 2))

    return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)


@pytest.mark.parametrize(("estimator", "is_right"), [(mmd2, True), (with_diagonals, False)])
def test_two_exact_samples_read_zero(estimator, is_right):
    """The mean over 200 pairs of samples is 0 within four standard errors, and bites."""
    width = median_distance(normal("width", 400))
    values = torch.cat(
        [estimator(normal(f"a{i}", 100), normal(f"b{i}", 100), width) for i in range(REPEATS)]
    )
    z = float(values.mean() / (values.std() / REPEATS**0.5))
    assert (abs(z) < 4) == is_right, z


@pytest.mark.parametrize("name", ["mmd2", "sliced_wasserstein"])
def test_the_standard_errors_cover(name):
    """0 lies within the 95 % t interval of ten blocks in 90 to 99 % of 200 repeats."""
    found = [
        compare(normal(f"x{i}", 400), normal(f"y{i}", 800), DIRECTIONS)[name]
        for i in range(REPEATS)
    ]
    covered = sum(abs(float(value / error)) < 2.262 for value, error in found)
    assert 0.90 * REPEATS <= covered <= 0.99 * REPEATS, covered


def test_a_wider_sample_is_told():
    for name, (value, error) in compare(
        normal("wide", 2_000, 1.2), normal("exact", 4_000), DIRECTIONS
    ).items():
        assert float(value) > 5 * float(error), name


def test_the_sliced_distance_is_that_of_scipy():
    x, y = normal("x", 50), normal("y", 50, 2.0)
    unit = (DIRECTIONS / DIRECTIONS.norm(dim=1, keepdim=True)).numpy()
    expected = np.mean(
        [wasserstein_distance(x[:, 0].numpy() @ d, y[:, 0].numpy() @ d) for d in unit]
    )
    assert float(sliced_wasserstein(x, y, DIRECTIONS)) == pytest.approx(float(expected))


def test_resampling_takes_each_draw_as_often_as_its_weight_says():
    z, log_w = torch.arange(100.0).double()[:, None, None], Noise(["w"]).normal(100, 1)
    again = resampled(z, log_w, torch.tensor([0.37]))
    counts = torch.bincount(again.flatten().long(), minlength=100)
    expected = 100 * log_w.softmax(0)[:, 0]
    assert bool(((counts - expected).abs() < 1 + 1e-9).all())
    assert not torch.equal(again.flatten(), again.flatten().sort().values)


def test_moments_of_exact_draws_are_one_standard_error_off():
    found = torch.stack(
        [torch.stack(moment_z(normal(f"m{i}", 500), normal(f"n{i}", 1_000))) for i in range(100)]
    )
    squares = found.square().mean((0, 2))
    assert squares.tolist() == pytest.approx([1, 1], abs=0.25)
    assert float(moment_z(normal("m", 2_000) + 0.3, normal("n", 2_000))[0]) > 4


def test_exact_draws_of_the_mixture_cover_its_modes():
    from harness.api import Particles

    task = GMM()
    z = task.draws(Noise(["z"]), 10_000)[:, None]
    found = task.posterior_metrics(Particles(z, torch.zeros(10_000, 1)), {}, None, Noise(["n"]))
    assert float(found["modes"]) == 40
    assert float(found["mode_coverage"]) > 0.99


def test_ranks_of_exact_draws_are_even_and_of_others_are_not():
    def chi2(scale, shift=0.0, n=190):
        values = [
            rank_chi2(rank_counts(normal(f"x{r}", n, scale) + shift, normal(f"y{r}", n)).double())
            for r in range(REPEATS)
        ]
        return torch.stack(values).mean(), torch.stack(values).std() / REPEATS**0.5

    mean, error = chi2(1.0)  # ten ranks only, of twenty: the expectation is 1 all the same
    assert abs(mean - 1) < 4 * error < 0.1
    for wrong in ((0.5,), (2.0,), (1.0, 1.0)):
        mean, error = chi2(*wrong)
        assert mean - 1 > 5 * error, wrong


def test_rank_counts_are_those_of_counting():
    x, y = normal("x", 60), normal("y", 60)
    counts = rank_counts(x, y)
    assert counts.sum(0).tolist() == [[3, 3, 3]]
    for d in range(3):
        ranks = [int((x[19 * g : 19 * g + 19, 0, d] < y[g, 0, d]).sum()) for g in range(3)]
        assert counts[:, 0, d].tolist() == [ranks.count(rank) for rank in range(20)]


def test_quantile_errors_need_no_moments():
    def cauchy(stream, n, scale=1.0, shift=0.0):
        uniform = Noise([stream]).uniform(n, 3)[:, None]
        return shift + scale * torch.tan(torch.pi * (uniform - 0.5))

    def rms(**wrong):
        return torch.stack(
            [
                quantile_z(cauchy(f"x{r}", 500, **wrong), cauchy(f"y{r}", 1000))
                for r in range(REPEATS)
            ]
        ).square()

    squares = rms()
    assert abs(squares.mean() - 1) < 4 * squares.std() / REPEATS**0.5 < 0.2
    assert rms(scale=1.5).mean() > 3
    assert rms(shift=0.5).mean() > 3


def test_exact_amortised_posteriors_are_calibrated_over_points():
    from harness.tasks.ppca import PPCA

    task = PPCA(dim=3)
    noise = Noise(["0/data"])
    data = task.load(noise)
    oracle, batch = task.oracle(), {"x": data.train["x"][:250]}
    params = oracle.mle(data)
    streams = [f"p{number}" for number in range(250)]
    exact = oracle.draws(params, batch, Noise(streams), 190)
    again = oracle.draws(params, batch, Noise([f"q{number}" for number in range(250)]), 190)
    chi2 = rank_chi2(rank_counts(again, exact).double())
    assert abs(chi2.mean() - 1) < 4 * chi2.std() / 250**0.5
    of_others = rank_chi2(rank_counts(again.roll(1, 1), exact).double())  # each its neighbour's
    assert of_others.mean() > 2
