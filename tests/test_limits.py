"""What HVAE's family can reach on `gaussian`, calculated, and the harness's scores there."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.api import Data
from harness.base.spec import Protocol
from harness.numerics.noise import Noise
from harness.training import loop as training
from harness.training.evaluation import evaluate
from methods.hvae import HVAE
from tasks.gaussian import Gaussian

sys.path.append(str(Path(__file__).parent.parent / "docs"))
from hamiltonian_limits import Optimum, lower_hull, optimum, volume_limit

TASK = Gaussian(dim=25)
N = 10_000.0


@pytest.fixture(scope="module")
def variance():
    return TASK.load(Noise(["0/data"])).train["variance"].numpy()


def scored(method, task, seed, found):
    """The harness's scores of the calculated optimum."""
    protocol = Protocol(steps=1, lr=0.1, eval_particles=4_000)
    state = training.start(method, task, protocol, [seed])
    epsilon = torch.from_numpy(found.steps / method.max_step)
    leaves = {
        "task.delta": state.data.train["mean"][0],
        "task.log_sigma": torch.from_numpy(found.sigma).log(),
        "method.step": torch.logit(epsilon),
        "method.log_T0": torch.tensor([math.log(found.T0)]),
    }
    state.flat = torch.cat([leaves[name] for name in state.layout.shapes])[None]
    state.step = 1
    return evaluate(method, task, protocol, state)


@pytest.mark.parametrize(
    ("tempering", "n_leapfrog"),
    [("fixed", 1), ("fixed", 10), ("none", 1), ("none", 10), ("none", 20)],
)
def test_the_harness_scores_a_calculated_optimum_as_calculated(tempering, n_leapfrog, variance):
    found = optimum(N, variance, n_leapfrog, tempered=tempering == "fixed")
    method = HVAE(n_leapfrog=n_leapfrog, tempering=tempering)
    scores = scored(method, TASK, 0, found)
    gap = scores["elbo_gap"]
    assert float(gap.value) == pytest.approx(found.gap, abs=5 * float(gap.error), rel=1e-3)
    evidence_gap = float(scores["evidence_gap"].value)
    assert evidence_gap == pytest.approx(found.evidence_gap, rel=1e-3)


def test_untempered_steps_are_better_the_more_they_are(variance):
    """At the optimum; where training ends is another thing. Ten of them: 15,900 nats."""
    gaps = [optimum(N, variance, K, tempered=False).total for K in (1, 2, 3, 5, 10, 20)]
    assert gaps == sorted(gaps, reverse=True)
    assert optimum(N, variance, 10, tempered=False).gap == pytest.approx(15_900, rel=0.01)


def test_no_leapfrog_passes_the_limit_of_maps_that_keep_volume(variance):
    """The limit in closed form: KL = sqrt(kappa) - 1 - log(kappa) / 2 in each dimension."""
    limit = volume_limit(N, variance)
    kappa = 1 + N / limit.sigma**2
    assert limit.gap == pytest.approx(float((np.sqrt(kappa) - 1 - np.log(kappa) / 2).sum()))
    for tempered in (False, True):
        for K in (1, 5, 20):
            assert optimum(N, variance, K, tempered).total > limit.total


def test_the_tasks_limit_is_that_of_the_calculation(variance):
    data = TASK.load(Noise(["0/data"]))
    stacked = Data({name: leaf[None] for name, leaf in data.train.items()})
    params = TASK.oracle().mle(stacked)
    metrics, limit = TASK.metrics(params, stacked), volume_limit(N, variance)
    assert float(metrics["volume_elbo_gap"]) == pytest.approx(limit.gap, rel=1e-4)
    assert float(metrics["volume_evidence_gap"]) == pytest.approx(limit.evidence_gap, rel=1e-3)
    assert float(metrics["mean_field_elbo_gap"]) == 0.0
    as_dataset = Gaussian(dim=25, batch_likelihood="as-dataset")
    assert "volume_elbo_gap" not in as_dataset.metrics(params, stacked)


def test_a_finer_search_by_other_code_finds_no_better_point(variance):
    """Brute force over step and sigma of one dimension, by the definition."""
    one = variance[:1]
    found = optimum(N, one, 3, tempered=False)
    sigma = np.sqrt(one) * np.exp(np.linspace(-0.02, 3, 1_501))[:, None]
    kappa = 1 + N / sigma**2
    theta = np.linspace(0.0, 2.0, 2_001)[1:]
    z, v = [np.ones(1), np.zeros(1)], [np.zeros(1), np.ones(1)]
    for _ in range(3):
        for i in (0, 1):
            half = v[i] - theta / 2 * z[i]
            z[i] = z[i] + theta * half
            v[i] = half - theta / 2 * z[i]
    alpha, beta = z[0] ** 2 + v[0] ** 2, z[1] ** 2 + v[1] ** 2
    gap = 0.5 * (alpha * kappa + beta) - 1 - 0.5 * np.log(kappa)
    evidence = -(N - 1) * np.log(sigma) - 0.5 * np.log(sigma**2 + N) - 0.5 * N * one / sigma**2
    assert found.total <= float(evidence.max() - (evidence - gap).max()) * (1 + 1e-3)
    assert found.total == pytest.approx(float(evidence.max() - (evidence - gap).max()), rel=0.01)


def test_the_hull_has_the_smallest_sums():
    rng = np.random.default_rng(0)
    x, y = np.exp(rng.normal(size=(2, 500)))
    corners = lower_hull(x, y)
    for weight in np.logspace(-3, 3, 50):
        assert (x * weight + y).min() == (x[corners] * weight + y[corners]).min()


def test_an_optimum_adds_its_gaps():
    assert Optimum(1.0, 2.0, np.ones(1)).total == 3.0
