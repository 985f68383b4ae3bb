"""The targets with a known log Z: their densities, exact draws and limits are what is published and
what other code computes.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import json_lines

from harness.api import Noise
from harness.conformance.certify import certify, density_of
from harness.plan.grid import parse_selector
from harness.plan.registry import build
from harness.tasks import logistic, ppca
from harness.tasks._targets import maximum
from harness.training.loop import load_data

EXACT = [
    *("funnel", "funnel-4", "banana", "banana-5", "many-well", "many-well-4", "gmm", "gmm-3"),
    *("student-mixture", "student-mixture-3", "brownian[known_scales=true]", "eight-schools"),
    *("bayes-linear", "bayes-linear-4"),
]
SAMPLED = ["brownian", "seeds", "logistic-ionosphere", "logistic-sonar", "logistic-breast-cancer"]
DENSITIES = {
    "logistic-ionosphere": (-275.457509, -240.996874),
    "logistic-sonar": (-200.229864, -360.792552),
    "logistic-breast-cancer": (-422.887840, -986.671436),
}
"""At w = 0 and at w = 0.1 everywhere, by other code."""
LIMITS = {
    "funnel": {"mean_field": 1.862847, "full_rank": 1.862847},
    "banana": {"mean_field": 0.725837},
    "logistic-ionosphere": {"mean_field": -111.6095 + 123.5813, "full_rank": -111.6095 + 112.1171},
    "logistic-sonar": {"mean_field": -108.384 + 137.9060, "full_rank": -108.384 + 108.9316},
    "logistic-breast-cancer": {"mean_field": -55.223 + 67.4634, "full_rank": -55.223 + 55.4651},
}


def built(text):
    ((setting,),) = [parse_selector("task", text)]
    return build(setting.plugin.cls, text, setting.values)


def limits_of(task):
    metrics = task.metrics({}, load_data(task, [0], torch.float64))
    return {name.removesuffix("_elbo_gap"): float(value) for name, value in metrics.items()}


@pytest.mark.parametrize("name", EXACT)
def test_the_stored_log_z_is_what_other_code_computes(name):
    certificate = certify(built(name))
    assert certificate.agrees, (certificate.difference, certificate.allowed)
    assert certificate.allowed < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLED)
def test_the_stored_log_z_is_what_sampling_finds(name):
    certificate = certify(built(name))
    assert certificate.agrees, (certificate.difference, certificate.allowed)
    assert certificate.allowed < 0.03


@pytest.mark.parametrize("name", DENSITIES)
def test_densities_are_those_of_other_code(name):
    log_joint = density_of(built(name))
    points = [torch.full((1, built(name).latent_dim), at, dtype=torch.float64) for at in (0.0, 0.1)]
    assert [float(log_joint(z)) for z in points] == pytest.approx(DENSITIES[name], abs=1e-6)


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_the_published_ones(name):
    limits = limits_of(built(name))
    assert {name: limits[name] for name in LIMITS[name]} == pytest.approx(LIMITS[name], abs=1e-4)


def test_the_best_normals_of_a_logistic_regression_are_what_ascent_finds():
    """The fixed point against L-BFGS on the bound, with independent dimensions."""
    x, sign = logistic.design("ionosphere")
    D = x.shape[1]
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    nodes, weights = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())

    def elbo(point):
        m, log_s = point.split(D)
        s2 = torch.exp(2 * log_s)
        margin = (sign * (x @ m))[:, None] + (x.square() @ s2).sqrt()[:, None] * nodes
        kl = 0.5 * (s2.sum() + m.square().sum() - D) - log_s.sum()
        return (torch.nn.functional.logsigmoid(margin) @ weights).sum() - kl

    _, best = maximum(elbo, torch.zeros(2 * D))
    assert logistic.best_gaussian("ionosphere", True) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("name", ["funnel-3", "banana", "many-well-2", "bayes-linear-3"])
def test_no_normal_with_independent_dimensions_has_a_smaller_gap_than_the_limit(name):
    """L-BFGS on the bound over fixed draws, evaluated on others: never above the limit by more than
    five standard errors, and near it.
    """
    task = built(name)
    log_joint, D = density_of(task), task.latent_dim
    epsilon = Noise(["train"]).normal(4_000, D)
    epsilon = torch.cat([epsilon, -epsilon])

    def bound(point, noise):
        m, log_s = point.split(D)
        entropy = log_s.sum() + 0.5 * D * math.log(2 * math.pi * math.e)
        return log_joint(m + log_s.exp() * noise) + entropy

    start = torch.zeros(2 * D)
    if name.startswith("many"):
        start[0], start[2] = 1.7, -1.0  # in the right well
    at, _ = maximum(lambda point: bound(point, epsilon).mean(), start)
    fresh = bound(at, Noise(["test"]).normal(200_000, D))
    error = float(fresh.std()) / math.sqrt(len(fresh))
    gap = task.truth().value - float(fresh.mean())
    limit = limits_of(task)["mean_field"]
    assert limit - 5 * error < gap < limit + 5 * error + 0.02


def test_exact_draws_have_the_known_moments():
    n = 200_000
    log_tau = built("eight-schools").draws(Noise(["a"]), n)[:, 1]
    assert float(log_tau.mean()) == pytest.approx(0.802139, abs=5 * float(log_tau.std()) / n**0.5)
    scales = built("brownian").draws(Noise(["b"]), n)[:, :2].exp()
    for scale, mean, sd in zip(scales.T, (0.11553, 0.11266), (0.04030, None), strict=True):
        assert float(scale.mean()) == pytest.approx(mean, abs=5 * float(scale.std()) / n**0.5)
        if sd is not None:
            assert float(scale.std()) == pytest.approx(sd, rel=0.02)
    right = (built("many-well").draws(Noise(["c"]), 20_000)[:, ::2] > 0).double()
    error = (0.844307 * 0.155693 / right.numel()) ** 0.5
    assert float(right.mean()) == pytest.approx(0.844307, abs=5 * error)


def test_ppca_has_the_evidence_of_scipy_and_recovers_its_truth():
    from scipy.stats import multivariate_normal

    task = ppca.PPCA()
    data = load_data(task, [3], torch.float64)
    oracle = task.oracle()
    best = oracle.mle(data)
    evidence = oracle.log_evidence(best, {"x": data.test["x"]})
    W, sigma = best["weights"][0].numpy(), math.exp(float(best["log_noise"]))
    covariance = W @ W.T + sigma**2 * np.eye(10)
    mean = best["mean"][0].numpy()
    expected = multivariate_normal.logpdf(data.test["x"].numpy(), mean, covariance)
    assert torch.allclose(evidence, torch.from_numpy(expected), rtol=1e-12)
    assert sigma == pytest.approx(0.5, abs=0.02)
    singular = torch.linalg.svdvals(best["weights"][0])
    assert singular.tolist() == pytest.approx([3, 2, 1.5, 1], rel=0.1)
    turned = {**best, "weights": best["weights"] @ torch.linalg.qr(torch.rand(4, 4).double())[0]}
    assert float(task.metrics(turned, data)["subspace_angle"]) < 1e-5


BAD = """
import torch
from harness.api import LogDensity, log_std_normal


class Bad(LogDensity):
    "A density that is wrong."

    dim = 3

    def log_density(self, z):
        return {}
"""
FAULTS = {
    "z": "it must be [20000, 1]",
    "log_std_normal(z).sum()": "it must be",
    "torch.where(z[..., 0] > 1, torch.nan, log_std_normal(z))": "the log density is NaN at z = (",
    "log_std_normal(z).to(torch.complex128)": "real",
    "log_std_normal(z).long()": "real",
    "-(z[..., 0] / 10).square() - 9 * (z[..., 1] - z[..., 0].square()).square()": (
        "an effective sample size is"
    ),
}


@pytest.mark.parametrize("density", FAULTS)
def test_a_wrong_density_is_refused_in_one_line(density, bench, workspace):
    (workspace / "bad.py").write_text(BAD.format(density))
    result = bench("certify", "./bad.py")
    assert result.exit_code in (1, 2), result.output
    (line,) = result.stderr.splitlines()
    assert FAULTS[density].split(" [")[0] in line, line
    assert "Traceback" not in result.output


@pytest.mark.usefixtures("no_mirror")
@pytest.mark.parametrize(
    "draws", ["noise.normal(n)", "noise.normal(n, 2)", "torch.ones(n, 3).int()"]
)
def test_exact_draws_of_another_shape_are_refused_in_one_line(draws, bench, workspace):
    text = BAD.format("log_std_normal(z)") + "    log_z = 0.0\n"
    (workspace / "bad.py").write_text(
        f"{text}\n    def draws(self, noise, n):\n        return {draws}\n"
    )
    result = bench("run", "-m", "vb", "-t", "./bad.py", "--protocol", "smoke", "--json")
    assert result.exit_code == 1
    assert "exact draws of shape" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.output


def test_a_target_without_a_stored_value_is_integrated(bench, workspace):
    (workspace / "bad.py").write_text(BAD.format("log_std_normal(z) + 2"))
    (line,) = json_lines(bench("certify", "./bad.py", "--json"))
    assert line["log_z"]["value"] == pytest.approx(2, abs=5 * line["log_z"]["error"])
    assert line["stored"] is None
    assert len(line["samples"]) == 2
    (workspace / "bad.py").write_text(BAD.format("log_std_normal(z)") + "    log_z = 0.1\n")
    result = bench("certify", "./bad.py")
    assert result.exit_code == 3
    assert result.stdout.startswith("DIFFERS bad: log Z ")


def test_where_there_is_no_one_integral_it_says_so(bench):
    result = bench("certify", "ppca")
    assert result.exit_code == 2
    assert "has no one log Z" in result.stderr


def test_show_tells_a_target_from_others_of_its_name(bench):
    shown = bench("show", "logistic-sonar").stdout
    assert "log joint at z = 0.1 everywhere: -360.792552" in shown
    assert "log Z: -108.384000 ± 0.001" in shown
    (record,) = json_lines(bench("show", "gmm", "--json"))
    assert record["has_exact_draws"]
    assert record["log_z"]["value"] == 0


def test_mini_batches_are_refused_where_there_are_none(bench):
    result = bench("run", "-m", "vb", "-t", "brownian", "--set", "batch_size=10")
    assert result.exit_code == 2
    assert "has no mini-batches" in result.stderr
