"""The correlated Gaussian task against scipy, dense linear algebra and the floor of mean field."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from harness.base.spec import Protocol
from harness.methods.vb import VB
from harness.numerics.noise import Noise
from harness.tasks.gaussian import Gaussian
from harness.tasks.gaussian_ar1 import GaussianAR1, covariance, neighbours, precision, whiten
from harness.training import loop as training
from harness.training.evaluation import evaluate

LIKE = torch.zeros((), dtype=torch.float64)
RHOS = [0.9, 0.0, -0.7, 0.999]


def loaded(task, seed=0):
    return training.load_data(task, [seed], torch.float64)


def delta(task, stream="delta"):
    return {"delta": Noise([stream]).normal(1, task.dim, like=LIKE)}


def dense(task):
    """Sigma, and P = I + n Sigma^-1."""
    sigma = scipy.linalg.toeplitz(task.rho ** np.arange(task.dim))
    return sigma, np.eye(task.dim) + task.n_data * np.linalg.inv(sigma)


@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("dim", [1, 2, 6])
def test_the_inverse_of_the_covariance_is_tridiagonal(rho, dim):
    sigma = covariance(dim, rho).numpy()
    diagonal, beside = precision(dim, rho)
    rows = torch.diag(diagonal) + beside * neighbours(torch.eye(dim, dtype=torch.float64))
    np.testing.assert_allclose(rows.numpy() @ sigma, np.eye(dim), atol=1e-10)
    whitened = whiten(torch.eye(dim, dtype=torch.float64), rho).numpy()  # rows: L^-1 e_j
    np.testing.assert_allclose(whitened @ whitened.T @ sigma, np.eye(dim), atol=1e-10)


@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("dim", [1, 3])
def test_the_evidence_is_the_multivariate_normal_density_of_all_points(rho, dim):
    task = GaussianAR1(dim=dim, rho=rho, n_data=4)
    data, params = loaded(task), delta(task)
    sigma, _ = dense(task)
    joint = np.kron(np.eye(4), sigma) + np.kron(np.ones((4, 4)), np.eye(dim))
    x, mean = data.train["x"][0].numpy().ravel(), np.tile(params["delta"][0].numpy(), 4)
    exact = scipy.stats.multivariate_normal.logpdf(x, mean, joint)
    assert float(task.oracle().log_evidence(params, data.train)) == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize("rho", RHOS)
def test_the_posterior_and_the_score_are_those_of_dense_linear_algebra(rho):
    task = GaussianAR1(dim=5, rho=rho, n_data=50)
    data, params = loaded(task), delta(task)
    sigma, P = dense(task)
    m = (data.train["mean"] - params["delta"])[0].numpy()
    pull = task.n_data * np.linalg.solve(sigma, m)
    z = Noise(["z"]).normal(3, 1, 5, like=LIKE)
    posterior = task.oracle().posterior(params, data.train)
    exact = scipy.stats.multivariate_normal(np.linalg.solve(P, pull), np.linalg.inv(P)).logpdf(
        z[:, 0].numpy()
    )
    np.testing.assert_allclose(posterior.log_prob(z)[:, 0].numpy(), exact, rtol=1e-9)
    score = task.problem(params, data.train, "prior").score(z)
    np.testing.assert_allclose(score[:, 0].numpy(), pull - z[:, 0].numpy() @ P, rtol=1e-9)


@pytest.mark.parametrize("rho", RHOS)
def test_the_likelihood_is_the_product_over_points(rho):
    task = GaussianAR1(dim=3, rho=rho, n_data=8)
    data, params = loaded(task), delta(task)
    z = Noise(["z"]).normal(2, 1, 3, like=LIKE)
    x = data.train["x"][0].numpy()
    for row, value in zip(
        z[:, 0].numpy(), task.problem(params, data.train, "prior").log_joint(z)[:, 0], strict=True
    ):
        likelihood = scipy.stats.multivariate_normal.logpdf(
            x - row - params["delta"][0].numpy(), None, dense(task)[0]
        ).sum()
        assert float(value) == pytest.approx(
            likelihood + scipy.stats.norm.logpdf(row).sum(), rel=1e-11
        )


def test_without_correlation_it_is_the_gaussian_task_with_unit_noise():
    ar1, plain = GaussianAR1(dim=4, rho=0.0, n_data=20), Gaussian(dim=4, n_data=20)
    data, params = loaded(ar1), delta(ar1)
    z = Noise(["z"]).normal(3, 1, 4, like=LIKE)
    x = data.train["x"]
    batch = {"n": data.train["n"], "mean": x.mean(1), "variance": x.var(1, correction=0)}
    same = plain.problem(
        params | {"log_sigma": torch.zeros(1, 4, dtype=torch.float64)}, batch, "prior"
    ).log_joint(z)
    assert torch.allclose(ar1.problem(params, data.train, "prior").log_joint(z), same, rtol=1e-13)
    assert ar1.truth().tolist() == plain.truth()[0].tolist()


@pytest.mark.parametrize(("dim", "rho"), [(25, 0.9), (400, 0.9), (3, -0.7), (7, 0.0), (1, 0.9)])
def test_the_floor_of_mean_field_is_the_divergence_of_its_best_normal(dim, rho):
    task = GaussianAR1(dim=dim, rho=rho)
    _, P = dense(task)
    exact = 0.5 * (np.log(np.diag(P)).sum() - np.linalg.slogdet(P).logabsdet)
    floor = float(task.oracle().mean_field_gap(torch.full((1, 1), 10_000.0, dtype=torch.float64)))
    assert floor == pytest.approx(exact, abs=1e-8)
    if dim == 25:
        assert floor == pytest.approx(7.65, abs=0.005)


def test_the_best_mean_field_scores_the_gap_that_is_reported():
    task, protocol = (
        GaussianAR1(dim=6),
        Protocol(steps=1, lr=0.1, base="learned", eval_particles=4_000),
    )
    state = training.start(VB(), task, protocol, [0, 1])
    best = task.oracle().mle(state.data)
    posterior = task.oracle().posterior(best, state.data.train)
    log_scale = torch.from_numpy(-0.5 * np.log(np.diag(dense(task)[1]))).expand(2, 6)
    delta = best["delta"]
    leaves = {"delta": delta, "base_mean": posterior.mean + delta, "base_log_scale": log_scale}
    state.flat = torch.cat(
        [leaves[name.removeprefix("task.")] for name in state.layout.shapes], dim=1
    )
    state.step = 1
    scores = evaluate(VB(), task, protocol, state)
    z = (scores["elbo_gap"].value - scores["mean_field_gap"].value) / scores["elbo_gap"].error
    assert float(z.abs().amax()) < 5
    assert float(scores["mean_field_gap"].value[0]) > 1
    assert scores["evidence_gap"].value.tolist() == [0.0, 0.0]
    assert scores["excess_theta_sq_error"].value.tolist() == [0.0, 0.0]


def test_a_step_does_not_see_the_data_beyond_their_mean_and_scatter():
    task = GaussianAR1(dim=3, n_data=50)
    data = training.load_data(task, [0, 1], torch.float64)
    batch = task.batch(data, 0, None, Noise(["0/batch", "1/batch"]))
    assert {name: leaf.numel() for name, leaf in batch.items()} == {"n": 2, "mean": 6, "scatter": 2}


def test_the_data_come_from_the_stated_model():
    task, n_replicates = GaussianAR1(dim=3, rho=-0.6, n_data=60), 400
    x = torch.stack([task.load(Noise([f"{seed}/data"])).train["x"] for seed in range(n_replicates)])
    means = x.mean(1)
    off = x - means[:, None]
    spread = off.transpose(1, 2) @ off / 59  # unbiased for Sigma
    for sample, truth in ((means, task.truth()), (spread, covariance(3, -0.6))):
        z = (sample.mean(0) - truth) / (sample.std(0) / math.sqrt(n_replicates))
        assert float(z.abs().amax()) < 5


def test_the_first_leapfrog_step_is_stable():
    task = GaussianAR1()
    stiffest = np.linalg.eigvalsh(dense(task)[1])[-1]
    assert {
        settings["method.init_step"] < 2 / math.sqrt(stiffest)
        for settings in (task.recommended["hvae"], task.recommended["hvae-iaf"])
    } == {True}
