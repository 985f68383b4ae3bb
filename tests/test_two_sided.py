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
from harness.api import Noise
from harness.base.workspace import Workspace
from harness.conformance.problems import conjugate, method_leaves
from harness.methods.hvae import HVAE
from harness.methods.hvae_iaf import HVAEIAF
from harness.methods.iaf import IAF
from harness.report.comparisons import sandwich
from harness.report.view import View
from harness.store import ResultStore

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


@pytest.mark.slow
def test_the_sandwich_closes_with_leapfrog_steps_where_the_base_is_learned():
    """On a correlated posterior: with the prior as base no volume-preserving map gets near."""
    widths = [
        found["elbo_gap"] + found["eubo_gap"]
        for K in (1, 5, 20)
        for found in [
            harness.fit(
                f"hvae[n_leapfrog={K}]",
                "gaussian-ar1-9",
                settings={"steps": 3_000, "base": "learned"},
            ).score()
        ]
    ]
    assert widths[0] > widths[1] > widths[2], widths


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
