"""Bounds of weights that are lognormal or Pareto, for which all is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from harness.numerics import bounds

SIGMA = 0.5  # log w ~ N(mu - sigma^2 / 2, sigma^2): then E w = e^mu
MU = -7.0
S, R = 400, 4_000


@pytest.fixture(scope="module")
def log_w():
    normal = np.random.default_rng(1).standard_normal((S, R))
    return torch.from_numpy(MU - SIGMA**2 / 2 + SIGMA * normal)


def z_score(sample, expected):
    return float((sample.mean() - expected) / (sample.std() / math.sqrt(len(sample))))


def test_elbo_has_the_closed_forms_mean(log_w):
    assert abs(z_score(bounds.elbo(log_w), MU - SIGMA**2 / 2)) < 5


def test_elbo_error_is_the_deviation_of_the_elbo(log_w):
    squared = bounds.elbo_error(log_w).square()
    assert abs(z_score(squared, SIGMA**2 / S)) < 5
    spread = bounds.elbo(log_w).var()
    assert abs(float(spread / squared.mean()) - 1) < 5 * math.sqrt(2 / (R - 1))


def test_weights_average_to_the_evidence(log_w):
    assert abs(z_score(torch.exp(bounds.iwae(log_w)), math.exp(MU))) < 5


@pytest.mark.parametrize("k", [1, 2, 5])
def test_iwae_has_the_mean_that_quadrature_gives(log_w, k):
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    grid = np.stack(np.meshgrid(*[nodes] * k)).reshape(k, -1) * SIGMA - SIGMA**2 / 2
    weight = np.stack(np.meshgrid(*[weights / weights.sum()] * k)).reshape(k, -1).prod(0)
    expected = MU + float(weight @ (np.log(np.exp(grid).mean(0))))
    sample = bounds.iwae(log_w[: S // k * k].reshape(k, -1))
    assert abs(z_score(sample, expected)) < 5


def test_iwae_of_one_is_the_log_weight(log_w):
    assert torch.equal(bounds.iwae(log_w[:1]), log_w[0])


def test_log_evidence_error_is_the_deviation_of_the_estimate(log_w):
    estimate, error = bounds.log_evidence(log_w)
    assert torch.equal(estimate, bounds.iwae(log_w))
    spread, claimed = float(estimate.var()), error.square()
    deviation = math.hypot(
        math.sqrt(2 / (R - 1)), float(claimed.std() / claimed.mean()) / math.sqrt(R)
    )
    bias = math.expm1(SIGMA**2) ** 2 / S  # of the delta method, to first order in 1 / S
    assert abs(spread / float(claimed.mean()) - 1) < 5 * deviation + 5 * bias


def test_ess_tends_to_its_limit_and_has_its_ends(log_w):
    """S / E[w^2] for weights of mean 1, and E[w^2] = exp(sigma^2)."""
    long = log_w.reshape(-1, 16)
    share = bounds.ess(long) / len(long)
    assert abs(z_score(share, math.exp(-(SIGMA**2)))) < 5
    equal = torch.zeros(8, 2, dtype=torch.float64)
    torch.testing.assert_close(
        bounds.ess(equal), torch.full_like(equal[0], 8.0), rtol=1e-14, atol=0
    )
    one = torch.tensor([[0.0], [-1e4]], dtype=torch.float64)
    assert float(bounds.ess(one)) == 1.0


@pytest.mark.parametrize("reduce", [bounds.elbo, bounds.iwae, lambda w: bounds.log_evidence(w)[0]])
def test_bounds_follow_a_constant_and_others_do_not(log_w, reduce):
    torch.testing.assert_close(
        reduce(log_w + 3e6), reduce(log_w) + 3e6, rtol=1e-15, atol=2e-9
    )  # where float64 resolves 5e-10
    for invariant in (bounds.ess, bounds.elbo_error, lambda w: bounds.log_evidence(w)[1]):
        torch.testing.assert_close(invariant(log_w + 64.0), invariant(log_w), rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [-0.3, 0.2, 0.5, 0.9])
def test_pareto_k_recovers_a_known_shape(shape):
    """Weights of which all, and so the largest, are generalised Pareto; the estimate is drawn
    towards 1/2 by ten observations.
    """
    n, replicates = 10_000, 60
    n_tail = math.ceil(3 * math.sqrt(n))
    log_w = stats.genpareto.rvs(shape, size=(n, replicates), random_state=np.random.default_rng(2))
    estimates = bounds.pareto_k(torch.from_numpy(np.log(log_w)))
    expected = (shape * n_tail + 0.5 * 10) / (n_tail + 10)
    bias = (
        (1 + abs(shape)) / n_tail * 5
    )  # of the estimate itself, of the order of one observation in the tail
    error = float(estimates.std()) / math.sqrt(replicates)
    assert abs(float(estimates.mean()) - expected) < 5 * error + bias


def test_pareto_k_agrees_with_scipys_fit():
    n = 10_000
    n_tail = math.ceil(3 * math.sqrt(n))
    weights = np.sort(stats.genpareto.rvs(0.4, size=n, random_state=np.random.default_rng(3)))
    fitted, _, _ = stats.genpareto.fit(weights[-n_tail:] - weights[-n_tail - 1], floc=0)
    ours = float(bounds.pareto_k(torch.from_numpy(np.log(weights))[:, None]))
    unshrunk = (ours * (n_tail + 10) - 5) / n_tail
    assert abs(unshrunk - fitted) < (1 + fitted) / math.sqrt(
        n_tail
    )  # one standard error of a maximum-likelihood shape


def test_pareto_k_of_weights_that_cannot_be_judged():
    assert math.isnan(float(bounds.pareto_k(torch.zeros(20, 1))))
    assert math.isnan(float(bounds.pareto_k(torch.full((100, 1), math.nan))))
    assert float(bounds.pareto_k(torch.zeros(100, 1))) == -math.inf


def test_tied_weights_have_a_finite_tail():
    """Weights at the tail's threshold are not above it, as in arviz: half of the weights are equal
    here, and with the others the tail is a Pareto's of shape 0.5.
    """
    rng = np.random.default_rng(0)
    tail = np.log(1 + rng.pareto(2.0, size=(30, 4)))
    log_w = torch.from_numpy(np.concatenate([np.zeros((970, 4)), tail]))
    k = bounds.pareto_k(log_w)
    assert k.isfinite().all()
    assert ((k > 0) & (k < 1)).all()
    assert float(bounds.pareto_k(torch.zeros(1000, 1, dtype=torch.float64))) == -math.inf
    few = torch.cat([torch.zeros(997, 1), torch.tensor([[1.0], [2.0], [3.0]])]).double()
    assert float(bounds.pareto_k(few)) == math.inf
