"""Bounds from both sides: paths backwards retrace paths forwards, and exact draws bound the
log-evidence from above.
"""

from __future__ import annotations

import math

import pytest
import torch
from conftest import json_lines

import harness
from harness.analysis.selection import RunFilter, select_runs
from harness.api import Method, Noise, Particles
from harness.base.workspace import Workspace
from harness.conformance.problems import conjugate, method_leaves
from harness.methods.hvae import HVAE
from harness.methods.hvae_iaf import HVAEIAF
from harness.methods.iaf import IAF
from harness.nets import init_linear, linear
from harness.report.comparisons import sandwich
from harness.report.view import View
from harness.store import ResultStore
from harness.tasks.gaussian_ar1 import covariance

SMOKE = ("--protocol", "smoke")


def scores(method, task, **settings):
    base = {"eval_particles": 4_000}
    return harness.fit(method, task, protocol="smoke", settings=base | settings).score()


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("n_context", [0, 3])
def test_a_flow_is_inverted(n_layers, n_context):
    method, target = IAF(n_layers=n_layers), conjugate(4, 3, "flow", n_context)
    params = method_leaves(method, 3, "leaves", 4, n_context, jitter=0.1)
    z_0 = target.base.sample(Noise(["z"]), 50)
    steps = method.flow(params, z_0, target.context)
    back, log_det = method.invert(params, steps[-1][0], target.context)
    assert torch.allclose(back, z_0, rtol=1e-8, atol=1e-9)
    assert torch.allclose(log_det, sum(step for _, step in steps), rtol=1e-8, atol=1e-9)


class _Fixed:
    """Noise that gives one momentum."""

    def __init__(self, momentum):
        self.momentum = momentum

    def normal(self, *shape, like=None):
        assert shape == self.momentum.shape
        return self.momentum


@pytest.mark.parametrize(
    "method",
    [
        *(HVAE(tempering=each) for each in ("fixed", "fixed-variance", "free", "none")),
        HVAE(vary_steps=True, n_leapfrog=3),
        HVAEIAF(n_layers=1),
        HVAEIAF(n_layers=2, tempering="free"),
    ],
    ids=lambda method: f"{method.name} {method.tempering} {getattr(method, 'n_layers', '')}",
)
def test_a_path_backwards_has_the_weight_of_the_path_forwards(method):
    """Given the momentum in which the path forwards ended."""
    target = conjugate(4, 3, "paths")
    problem = target.problem()
    params = method_leaves(method, 3, "leaves", 4, jitter=0.2)
    forward = method.particles(params, problem, Noise(["path"]), 20)
    path, rho, _ = method.evolve(params, problem, Noise(["path"]), 20)
    if isinstance(method, HVAEIAF):
        joint = method.flow(params, torch.cat([path[-1], rho], -1), None)[-1][0]
        _, rho = method._split(joint)
    backward = method.backward(params, problem, forward.z, _Fixed(rho))
    assert torch.allclose(backward, forward.log_w, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(
    ("method", "task"),
    [
        *(("vb", task) for task in ("gaussian-3", "gaussian-ar1-3", "bayes-linear-3", "ppca-2")),
        *(("iaf", task) for task in ("gaussian-3", "ppca-2", "many-well-2")),
        *(("hvae", task) for task in ("ppca-2", "eight-schools", "bayes-linear-3")),
        *(("vb", task) for task in ("banana", "brownian", "brownian[known_scales=true]")),
    ],
)
def test_the_bounds_are_on_their_sides(method, task):
    """EUBO >= log Z >= ELBO within five standard errors."""
    found = scores(method, task)
    for gap in ("elbo_gap", "eubo_gap"):
        assert found[gap] > -5 * found[f"{gap}_se"], found
    assert 0 <= found["forward_ess"] <= 1 + 1e-9


def test_where_the_draws_are_exact_both_bounds_meet_and_estimates_agree():
    """Mean field has the exact posterior of the Gaussian model."""
    found = scores("vb", "gaussian-3", steps=3_000, eval_particles=20_000)
    truth = found["elbo"] + found["elbo_gap"]
    assert found["eubo_gap"] < 0.05
    error = found["reciprocal_log_evidence_se"]
    assert found["reciprocal_log_evidence"] == pytest.approx(truth, abs=5 * error)
    assert found["forward_ess"] == pytest.approx(found["ess"] / 20_000, abs=0.05)


def test_exact_draws_see_the_modes_that_a_method_misses():
    """A normal on one of forty modes has a good effective sample size by its own draws."""
    found = scores("vb", "gmm", steps=2_000)
    assert found["ess"] > 0.5 * 4_000
    assert found["forward_ess"] < 1e-3
    assert found["eubo_gap"] > 10
    assert found["modes"] <= 3


def test_without_variances_the_upper_bound_is_infinite():
    found = scores("vb", "student-mixture")
    assert found["eubo_gap"] == math.inf
    assert "eubo_gap_se" not in found


def test_where_there_is_no_inverse_nothing_is_said(bench):
    (run,) = json_lines(bench("run", "-m", "pnf", "-t", "banana", "--protocol", "smoke", "--json"))
    assert run["status"] == "done"
    assert "eubo" not in run["metrics"]


def width(method, task, **settings):
    """How far the two bounds are apart, and the lower one's gap."""
    found = harness.fit(method, task, settings=settings).score()
    return found["elbo_gap"] + found["eubo_gap"], found["elbo_gap"]


@pytest.mark.slow
def test_the_sandwich_closes_with_leapfrog_steps_where_the_base_is_learned():
    """On a correlated posterior. From the prior no symplectic map gets nearer than the sum over
    eigenvalues of its precision of sqrt(kappa) - 1 - log(kappa) / 2.
    """
    learned = [
        width(f"hvae[n_leapfrog={K}]", "gaussian-ar1-9", steps=3_000, base="learned")[0]
        for K in (1, 5, 20)
    ]
    assert learned[0] > learned[1] > learned[2], learned
    kappa = torch.linalg.eigvalsh(
        torch.eye(9).double() + 10_000 * torch.linalg.inv(covariance(9, 0.9))
    )
    limit = float((kappa.sqrt() - 1 - 0.5 * kappa.log()).sum())
    for K in (1, 5, 20):
        apart, below = width(f"hvae[n_leapfrog={K}]", "gaussian-ar1-9", steps=1_000, base="prior")
        assert apart > below > limit, (K, apart, below, limit)


class Couplings(Method, frozen=True):
    """Affine couplings of two dimensions in turn, with an inverse."""

    name = "couplings"
    source = "arXiv:1605.08803"
    n_layers: int = 2

    def init(self, dim, noise, n_context=0):
        params = {}
        for k in range(self.n_layers):
            params |= init_linear(f"{k}.hidden", 1, 32, noise)
            params |= init_linear(f"{k}.last", 32, 2, noise, scale=0.01)
        return params

    def layer(self, params, k, seen):
        hidden = linear(params, f"{k}.hidden", seen / 10).tanh()
        shift, log_scale = linear(params, f"{k}.last", hidden).chunk(2, -1)
        return 10 * shift, 2 * log_scale.tanh()

    def particles(self, params, problem, noise, n_particles, trace=False):
        z_0 = z = problem.base.sample(noise, n_particles)
        log_det = 0.0
        for k in range(self.n_layers):
            a, b = z.chunk(2, -1)
            shift, log_scale = self.layer(params, k, a)
            z = torch.cat([b * log_scale.exp() + shift, a], -1)
            log_det = log_det + log_scale[..., 0]
        return Particles(z, problem.log_joint(z) - problem.base.log_prob(z_0) + log_det)

    def backward(self, params, problem, z, noise):
        log_w = problem.log_joint(z)
        for k in reversed(range(self.n_layers)):
            moved, a = z.chunk(2, -1)
            shift, log_scale = self.layer(params, k, a)
            z = torch.cat([a, (moved - shift) * (-log_scale).exp()], -1)
            log_w = log_w + log_scale[..., 0]
        return log_w - problem.base.log_prob(z)


@pytest.mark.slow
def test_the_sandwich_of_couplings_closes_on_the_banana_with_layers():
    widths = [
        width(Couplings(n_layers=layers), "banana-2", steps=4_000, particles=8)[0]
        for layers in (0, 2, 6)
    ]
    assert widths[0] > widths[1] > widths[2], widths
    assert widths[2] < 2, widths


def test_the_report_draws_both_bounds_where_there_are_two(bench, workspace):
    """One chart for the task with exact draws, none for the one without."""
    for task in ("banana", "logistic-sonar"):
        assert bench("run", "-m", "vb", "-m", "pnf", "-t", task, *SMOKE).exit_code == 0
    with ResultStore.open(Workspace.current().database_url) as store:
        section = sandwich(View(select_runs(store, RunFilter())))
    (figure,) = section.figures
    assert figure.title == "banana-2"
    (plot,) = figure.plots
    below, above = plot.chart.data
    assert (len(below.x), len(above.x)) == (2, 1)  # a planar flow has no paths backwards
