"""The norms task against scipy's quadrature, and the scores of problems that share one set of
weights.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from conftest import json_lines

from harness.numerics import bounds
from harness.numerics.noise import Noise
from harness.plan import registry
from harness.plan.grid import expand
from harness.tasks.norms import Norms, NormsOracle, length
from harness.training import loop as training
from harness.training.evaluation import Score, evaluate, mean_scores
from harness.training.loop import draw

METHODS = ["vb", "iwae", "pnf", "iaf", "hvae", "hvae-iaf"]
LIKE = torch.zeros((), dtype=torch.float64)
AT_TRUTH = (math.log(2 * math.pi), math.log(2.0))


def theta(log_a, log_b):
    return {
        "log_a": torch.tensor([[log_a]], dtype=torch.float64),
        "log_b": torch.tensor([[log_b]], dtype=torch.float64),
    }


def points(x):
    return {"x": torch.tensor(x, dtype=torch.float64)[:, None]}


def exact(x, log_a, log_b, dim):
    """log p(x) by adaptive quadrature, scaled to the integrand's peak on a fine grid."""
    a, b = math.exp(log_a), math.exp(log_b)

    def log_integrand(r):
        return scipy.stats.chi.logpdf(r, dim) + scipy.stats.norm.logpdf(x, a * (r + b), 1)

    grid = np.concatenate([np.geomspace(1e-9, 1e-3, 20_000), np.linspace(1e-3, 60, 400_000)])
    values = log_integrand(grid)
    peak = values.max()
    inside = grid[values > peak - 45]
    low, high = (0.0 if inside[0] == grid[0] else inside[0]), inside[-1]
    middle = grid[values.argmax()]
    parts = [
        scipy.integrate.quad(
            lambda r: math.exp(log_integrand(r) - peak), *ends, epsabs=0, epsrel=1e-11, limit=500
        )[0]
        for ends in ((low, middle), (middle, high))
    ]
    return peak + math.log(sum(parts))


@pytest.mark.parametrize("dim", [1, 2, 5, 100])
@pytest.mark.parametrize("at", [AT_TRUTH, (2.0, 2.0), (-1.0, 0.5)], ids=["truth", "start", "flat"])
def test_the_evidence_is_scipys_quadrature(dim, at):
    centre, width = (
        math.exp(at[0]) * (scipy.stats.chi.mean(dim) + math.exp(at[1])),
        math.exp(at[0]) + 1,
    )
    x = [
        centre - 40 * width,
        centre - 6 * width,
        centre - width,
        centre,
        centre + 2.5 * width,
        centre + 15 * width,
    ]
    ours = NormsOracle(dim).log_evidence(theta(*at), points(x))
    np.testing.assert_allclose(ours, [exact(each, *at, dim) for each in x], rtol=1e-10)


@pytest.mark.parametrize("dim", [1, 2, 100])
def test_the_evidence_is_that_of_all_numbers_together_one(dim):
    def density(x):
        return float(NormsOracle(dim).log_evidence(theta(*AT_TRUTH), points([x])).exp())

    centre = 2 * math.pi * (scipy.stats.chi.mean(dim) + 2)
    total = sum(
        scipy.integrate.quad(density, centre + low, centre + low + 15)[0]
        for low in range(-45, 45, 15)
    )
    assert total == pytest.approx(1, abs=1e-9)


def test_slopes_of_the_evidence_are_those_of_the_integral():
    oracle, x = NormsOracle(3), points([12.0, 20.0, 35.0, -10.0])
    params = {name: leaf.requires_grad_() for name, leaf in theta(*AT_TRUTH).items()}
    total = oracle.log_evidence(params, x).sum()
    for place, slope in enumerate(torch.autograd.grad(total, list(params.values()))):
        h = 1e-3
        above, below, up, down = (
            float(
                oracle.log_evidence(
                    theta(*(v + (i == place) * s * h for i, v in enumerate(AT_TRUTH))), x
                ).sum()
            )
            for s in (1, -1, 2, -2)
        )
        assert float(slope) == pytest.approx(
            (8 * (above - below) - (up - down)) / (12 * h), rel=1e-8
        )


def test_score_and_slopes_are_finite_where_z_is_zero():
    task = Norms(dim=2)
    data = training.load_data(task, [0], torch.float64)
    for dtype in (torch.float64, torch.float32):
        batch = {
            name: leaf.to(dtype) for name, leaf in task.batch(data, 0, 3, Noise(["0"])).items()
        }
        params = {name: leaf.to(dtype).requires_grad_() for name, leaf in theta(2.0, 2.0).items()}
        problem = task.problem(params, batch, "prior")
        z = torch.zeros(1, 3, 2, dtype=dtype, requires_grad=True)
        for score in (
            problem.score(z),
            torch.autograd.grad(problem.log_joint(z).sum(), z, create_graph=True)[0],
        ):
            assert score.detach().abs().amax() == 0
            slopes = torch.autograd.grad(
                score.sum(), [z, *params.values()], retain_graph=True, allow_unused=True
            )
            assert all(slope.isfinite().all() for slope in slopes if slope is not None)
    assert length(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist() == pytest.approx(
        [5.0, 0.0], abs=1e-14
    )


def test_the_best_fit_is_near_the_truth_and_has_no_slope():
    task = Norms(dim=2)
    data = training.load_data(task, [0], torch.float64)
    best = task.oracle().mle(data)
    metrics = task.metrics(best, data)
    assert float(metrics["excess_theta_sq_error"]) == 0.0
    assert float(metrics["theta_sq_error"]) < 0.05  # standard errors are 0.08 and 0.04
    params = {name: leaf.requires_grad_() for name, leaf in best.items()}
    total = task.oracle().log_evidence(params, data.train).sum()
    assert (
        max(abs(float(slope)) for slope in torch.autograd.grad(total, list(params.values()))) < 1e-6
    )


def test_the_data_come_from_the_stated_model():
    task = Norms(dim=3, n_data=20_000)
    data = task.load(Noise(["0/data"]))
    assert data.test["x"].shape == (1_000, 1)
    x = torch.cat([data.train["x"], data.test["x"]])[:, 0].numpy()
    mean, variance = (
        2 * math.pi * (scipy.stats.chi.mean(3) + 2),
        (2 * math.pi) ** 2 * scipy.stats.chi.var(3) + 1,
    )
    assert abs(x.mean() - mean) / math.sqrt(variance / len(x)) < 5
    assert abs(x.var() / variance - 1) < 5 * math.sqrt(
        2.2 / len(x)
    )  # the fourth moment is near a normal's


def test_an_epoch_holds_every_point_once():
    task = Norms(n_data=100)
    data = training.load_data(task, [0], torch.float64)
    order = Noise(["0/batch"])
    epoch = torch.cat([task.batch(data, step, 30, order.at(step))["x"] for step in range(4)])
    assert sorted(epoch[:, 0].tolist()) == sorted(data.train["x"][:, 0].tolist())
    assert epoch.tolist() != data.train["x"].tolist()


class Parts(Norms, frozen=True):
    """The first 200 held-out points, in parts of unequal sizes."""

    n_data: int = 500
    sizes: ClassVar[list[int]] = [200]

    def scored_batches(self, data, batch_size, noise):
        return [{**data.train, "x": part} for part in data.test["x"][:200].split(self.sizes)]


def started(method, **sets):
    (run,) = expand(
        [method],
        ["norms"],
        [0],
        "smoke",
        {"steps": 3, "batch_size": 100, "eval_particles": 300, **sets},
    )
    method = registry.load(run.spec, None)[0]
    state = training.start(method, Parts(), run.spec.protocol(), [0])
    for _ in training.train(method, Parts(), run.spec.protocol(), state):
        pass
    return method, run.spec.protocol(), state


@pytest.mark.parametrize("method", ["vb", "iaf", "hvae"])
def test_scores_do_not_depend_on_how_problems_are_cut_into_batches(method, monkeypatch):
    method, protocol, state = started(method)
    answers = []
    for sizes in ([200], [110, 60, 29, 1]):
        monkeypatch.setattr(Parts, "sizes", sizes)
        answers.append(evaluate(method, Parts(), protocol, state))
    for name, score in answers[0].items():
        assert score.value.shape == (1,)
        torch.testing.assert_close(
            answers[1][name].value, score.value, rtol=1e-11, atol=0, msg=name
        )
        if score.error is not None:
            torch.testing.assert_close(
                answers[1][name].error, score.error, rtol=1e-10, atol=0, msg=name
            )


def test_scores_are_means_over_problems_and_errors_combine():
    method, protocol, state = started("vb")
    scores, task = evaluate(method, Parts(), protocol, state), Parts()
    params, phi = state.layout.owned(state.flat)
    (batch,) = task.scored_batches(state.data, None, Noise(["0"]))
    problem = task.problem(params, batch, "learned")
    noise = Noise([f"0/eval/{problem}" for problem in range(200)])
    with torch.no_grad():
        log_w = torch.cat(
            [
                draw(method, task, problem, phi, noise.at(block), size).log_w
                for block, size in enumerate((250, 50))
            ]
        )
        gap = (task.oracle().log_evidence(params, batch) - log_w.mean(0)).mean()
    assert float(scores["elbo"].value) == pytest.approx(float(log_w.mean()), rel=1e-12)
    assert float(scores["elbo_gap"].value) == pytest.approx(float(gap), rel=1e-10)
    assert float(scores["ess"].value) == pytest.approx(float(bounds.ess(log_w).mean()), rel=1e-12)
    error = math.sqrt(float((log_w.var(0) / 300).sum())) / 200
    assert (
        float(scores["elbo"].error)
        == float(scores["elbo_gap"].error)
        == pytest.approx(error, rel=1e-10)
    )
    evidence, errors = bounds.log_evidence(log_w)
    assert float(scores["log_evidence"].value) == pytest.approx(float(evidence.mean()), rel=1e-12)
    assert float(scores["log_evidence"].error) == pytest.approx(
        float(errors.norm()) / 200, rel=1e-10
    )
    assert float(scores["pareto_k"].value) == sorted(bounds.pareto_k(log_w).tolist())[179]


def test_of_many_shapes_nine_in_ten_do_not_exceed_the_score():
    rows = [
        {"pareto_k": Score(torch.tensor([0.1, -math.inf, 0.3, 0.9, 0.4]))},
        {"pareto_k": Score(torch.full((5,), 0.2))},
    ]
    assert float(mean_scores(rows, stacks=False)["pareto_k"].value) == pytest.approx(0.4)
    assert mean_scores(rows, stacks=True)["pareto_k"].value.tolist() == pytest.approx(
        [0.2, 0.2, 0.3, 0.9, 0.4]
    )
    rows[0]["pareto_k"].value[:2] = math.nan  # two of ten cannot be told
    assert mean_scores(rows, stacks=False)["pareto_k"].value.isnan().tolist() == [True]


def test_the_exact_evidence_is_that_of_the_weights():
    method, protocol, state = started("vb", eval_particles=2_000, base="prior")
    state.flat[:, :2] = torch.tensor([AT_TRUTH]).to(state.flat)
    scores = evaluate(method, Parts(), protocol, state)
    sampled = scores["log_evidence"].value
    exact = scores["elbo"].value + scores["elbo_gap"].value
    assert (
        abs(float((sampled - exact) / scores["log_evidence"].error)) < 5 + 1
    )  # the logarithm of a mean is a little low: S is 2,000


def test_every_method_ends_done(bench, monkeypatch):
    methods = [part for name in METHODS for part in ("-m", name)]
    sets = ("--set", "steps=20", "--set", "eval_particles=40", "--set", "task.n_data=500")
    runs = json_lines(bench("run", *methods, "-t", "norms", "--protocol", "smoke", *sets, "--json"))
    assert [(run["method"], run["status"], run["reason"]) for run in runs] == [
        (name, "done", None) for name in METHODS
    ]
    for run in runs:
        assert run["task"] == "norms-2"
        assert all(
            math.isfinite(run["metrics"][name])
            for name in ("elbo", "elbo_gap", "ess", "travel_used", "theta_sq_error")
        )
