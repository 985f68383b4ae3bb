"""The Gaussian task against scipy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from harness.base.spec import Protocol
from harness.methods.vb import VB
from harness.numerics.noise import Noise
from harness.tasks.gaussian import Gaussian, mini_batch
from harness.training import loop as training
from harness.training.evaluation import evaluate


def loaded(task, seed=0):
    return training.load_data(task, [seed], torch.float64)


def test_the_evidence_is_the_multivariate_normal_density_of_all_points():
    task = Gaussian(dim=2, n_data=7)
    data = loaded(task)
    params = {
        "delta": torch.tensor([[0.3, -1.0]], dtype=torch.float64),
        "log_sigma": torch.tensor([[0.1, -0.7]], dtype=torch.float64),
    }
    x = data.train["x"][0].numpy()
    covariances = [np.exp(2 * s) * np.eye(7) + 1.0 for s in (0.1, -0.7)]
    exact = sum(
        scipy.stats.multivariate_normal.logpdf(x[:, j], np.full(7, d), covariances[j])
        for j, d in enumerate((0.3, -1.0))
    )
    assert float(task.oracle().log_evidence(params, data.train)) == pytest.approx(exact, rel=1e-12)


def test_the_fit_of_most_evidence_is_found_by_a_numerical_search_too():
    task = Gaussian(dim=1, n_data=20)
    data = loaded(task)
    best = task.oracle().mle(data)

    def minus(theta):
        params = {
            "delta": torch.tensor([[theta[0]]]).double(),
            "log_sigma": torch.tensor([[theta[1]]]).double(),
        }
        return -float(task.oracle().log_evidence(params, data.train))

    found = scipy.optimize.minimize(
        minus,
        [0.0, 0.0],
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000},
    )
    assert float(best["delta"]) == pytest.approx(found.x[0], abs=1e-6)
    assert float(best["log_sigma"]) == pytest.approx(found.x[1], abs=1e-6)


def test_the_truth_is_the_papers():
    delta, sigma = Gaussian(dim=5).truth()
    assert delta.tolist() == pytest.approx([-0.4, -0.2, 0.0, 0.2, 0.4])
    assert sigma.tolist() == pytest.approx([1.0, 0.325, 0.1, 0.325, 1.0])
    assert Gaussian(dim=1).truth()[1].tolist() == [1.0]


def test_the_report_has_forty_batches_of_which_the_last_holds_sixteen():
    task = Gaussian(dim=2, batch_likelihood="as-dataset")
    data = loaded(task)
    batches = list(task.scored_batches(data, 256, Noise(["0/batch"], shuffled=False)))
    assert [int(batch["n"]) for batch in batches] == [256] * 39 + [16]
    scaled = Gaussian(dim=2).batch(data, 39, 256, Noise(["0/batch"], shuffled=False))
    assert int(scaled["n"]) == 10_000


def test_an_epoch_of_shuffled_batches_holds_every_point_once():
    x = torch.arange(20, dtype=torch.float64).reshape(1, 10, 2)
    noise = Noise(["0/batch"])
    epoch = torch.cat([mini_batch(x, step, 3, noise) for step in range(4)], dim=1)
    assert sorted(epoch[0, :, 0].tolist()) == x[0, :, 0].tolist()
    assert epoch.tolist() != x.tolist()
    following = torch.cat([mini_batch(x, step, 3, noise) for step in range(4, 8)], dim=1)
    assert following.tolist() != epoch.tolist()


def test_the_missing_half_is_in_training_alone():
    task, exact = Gaussian(dim=3, objective="released-flow"), Gaussian(dim=3)
    data = loaded(task)
    params = {name: leaf[None] for name, leaf in task.init("prior", Noise(["0"])).items()}
    z = torch.randn(4, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batch = task.batch(data, 0, None, Noise(["0"]))
    right = exact.problem(params, batch, "prior", training=True).log_joint(z)
    missing = 0.5 * (
        (data.train["x"] - params["delta"][:, None]).square().sum(1)
        * torch.exp(-2 * params["log_sigma"])
    ).sum(-1)
    assert torch.allclose(
        task.problem(params, batch, "prior", training=True).log_joint(z),
        right - missing,
        rtol=1e-12,
    )
    assert torch.equal(task.problem(params, batch, "prior").log_joint(z), right)


def test_scores_of_the_exact_posterior_have_no_gap():
    task, protocol = Gaussian(dim=4), Protocol(steps=1, lr=0.1, base="learned", eval_particles=500)
    state = training.start(VB(), task, protocol, [0])
    best = task.oracle().mle(state.data)
    posterior = task.oracle().posterior(best, state.data.train)
    leaves = {
        "delta": best["delta"],
        "log_sigma": best["log_sigma"],
        "base_mean": posterior.mean + best["delta"],
        "base_log_scale": posterior.log_scale,
    }
    state.flat = torch.cat(
        [leaves[name.removeprefix("task.")] for name in state.layout.shapes], dim=1
    )
    state.step = 1
    scores = evaluate(VB(), task, protocol, state)
    rounding = 1e-12 * abs(float(scores["elbo"].value))
    assert abs(float(scores["elbo_gap"].value)) < rounding
    assert abs(float(scores["evidence_gap"].value)) < rounding
    assert float(scores["ess"].value) == pytest.approx(500, rel=1e-6)
    assert float(scores["excess_theta_sq_error"].value) == 0.0


@pytest.mark.parametrize("n_particles", [250, 251, 600])
def test_scores_do_not_disturb_training(n_particles):
    task = Gaussian(dim=2)
    protocol = Protocol(steps=20, lr=0.1, base="learned", eval_particles=n_particles)
    plain, scored = (training.start(VB(), task, protocol, [0]) for _ in range(2))
    for _ in training.train(VB(), task, protocol, plain):
        pass
    for progress in training.train(VB(), task, protocol, scored):
        if progress.step % 7 == 0:
            evaluate(VB(), task, protocol, scored)
    assert torch.equal(plain.flat, scored.flat)


def test_the_trend_of_a_line_with_noise_is_scipys():
    from harness.training.evaluation import trend_z

    values = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 20)) + 0.1 * np.arange(20))
    for row, z in zip(values, trend_z(values), strict=True):
        fit = scipy.stats.linregress(np.arange(20), row.numpy())
        assert float(z) == pytest.approx(fit.slope / fit.stderr, rel=1e-10)


def test_travel_is_the_share_of_the_sum_of_the_rates():
    from harness.training.evaluation import convergence

    task, protocol = Gaussian(dim=2), Protocol(steps=10, lr=0.1, base="learned")
    state = training.start(VB(), task, protocol, [0])
    state.flat[0, 0] += 0.25
    state.step = 10
    assert float(convergence(task, protocol, state)["travel_used"].value) == pytest.approx(0.25)
