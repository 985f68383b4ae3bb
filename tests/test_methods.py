"""What the successors of the first methods are at their limits: mean field, one another, and
formulas written anew.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import zuko

import harness
from harness.api import DiagNormal, Noise, Problem, autograd_score, log_std_normal
from harness.conformance.gradient_checks import Repeated
from harness.conformance.problems import conjugate, method_leaves
from harness.methods.cmcd import CMCD
from harness.methods.dds import DDS
from harness.methods.fullrank import FullRank
from harness.methods.hvae import HVAE
from harness.methods.mcd import MCD
from harness.methods.mixture import Mixture
from harness.methods.nsf import NSF
from harness.methods.realnvp import RealNVP
from harness.methods.uha import UHA
from harness.methods.ula import ULA
from harness.methods.vb import VB
from harness.numerics.bounds import elbo, log_variance
from harness.training.surrogates import log_weights_of_constants

ANNEALED = (ULA, MCD, CMCD, UHA)
DIM = 3


def drawn(method, params=None, n=50, target=None, jitter=0.0):
    """Particles of four problems, and the problem."""
    target = target or conjugate(4, DIM, "problems")
    params = method_leaves(method, DIM, "leaves", 4, jitter=jitter) if params is None else params
    return method.particles(params, target.problem(), Noise(["noise"]), n, trace=True)


def same(a, b, tolerance=1e-12):
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("cls", ANNEALED)
def test_without_steps_a_path_is_mean_field(cls):
    method = cls(n_steps=0)
    assert method.init(DIM, Noise(["init"])) == {}
    path, plain = drawn(method, {}), drawn(VB(), {})
    assert torch.equal(path.z, plain.z)
    assert same(path.log_w, plain.log_w)


def test_without_steps_dds_draws_from_its_own_normal():
    particles = drawn(DDS(n_steps=0, scale=2.0), {})
    problem = conjugate(4, DIM, "problems").problem()
    zeros = torch.zeros(4, DIM, dtype=torch.float64)
    own = DiagNormal(zeros, zeros + math.log(2.0))
    assert same(particles.log_w, problem.log_joint(particles.z) - own.log_prob(particles.z))


@pytest.mark.parametrize("method", [*(cls(n_steps=5) for cls in ANNEALED), DDS(n_steps=5)])
def test_a_path_costs_what_its_page_says(method):
    """One evaluation of the joint density, and K + 1 scores; K where it starts without one."""
    problem, counts = conjugate(4, DIM, "problems").problem(), {"log_joint": 0, "score": 0}

    def counted(name):
        def evaluate(z):
            counts[name] += 1
            return getattr(problem, name)(z)

        return evaluate

    params = method_leaves(method, DIM, "leaves", 4)
    watched = replace(problem, log_joint=counted("log_joint"), score=counted("score"))
    method.particles(params, watched, Noise(["noise"]), 3)
    assert counts == {"log_joint": 1, "score": 5 if isinstance(method, DDS) else 6}


@pytest.mark.parametrize("cls", [MCD, CMCD])
def test_without_control_a_controlled_path_is_ula(cls):
    settings = {"n_steps": 5, "init_step": 0.1, "vary_steps": True}
    method = cls(**settings)
    params = method_leaves(method, DIM, "leaves", 4)
    plain = {name: leaf for name, leaf in params.items() if not name.startswith("net")}
    assert set(plain) == {"step", "annealing"}
    a, b = drawn(method, params), drawn(ULA(**settings), plain)
    assert torch.equal(a.z, b.z)
    assert torch.equal(a.log_w, b.log_w)
    z = conjugate(4, DIM, "problems").posterior.sample(Noise(["exact"]), 50)
    problem = conjugate(4, DIM, "problems").problem()
    back = [
        each.backward(leaves, problem, z, Noise(["back"]))
        for each, leaves in ((method, params), (ULA(**settings), plain))
    ]
    assert torch.equal(*back)


def test_one_step_without_refreshment_is_hvae():
    """At K = 1 and h = 1, where the base is N(0, I)."""
    target = conjugate(4, DIM, "problems")
    zeros = torch.zeros(4, DIM).double()
    target = type(target)(DiagNormal(zeros, zeros), target.posterior, target.log_evidence)
    method = UHA(n_steps=1, init_step=0.2, vary_steps=False)
    params = method_leaves(method, DIM, "leaves", 4, jitter=0.1)
    params["damping"] = torch.full((4, 1), 50.0).double()
    other = HVAE(n_leapfrog=1, tempering="none", init_step=0.2)
    a = drawn(method, params, target=target)
    b = drawn(other, {"step": params["step"]}, target=target)
    assert same(a.z, b.z)
    assert same(a.log_w, b.log_w)


def test_uha_without_refreshment_is_a_leapfrog_on_the_annealed_densities():
    """Kicks, drifts and densities written from the paper, in z: steps are those in units of the
    base times its variance, momenta those over its scale.
    """
    K, target = 4, conjugate(4, DIM, "problems")
    method = UHA(n_steps=K, init_step=0.2)
    params = method_leaves(method, DIM, "leaves", 4, jitter=0.3)
    params["damping"] = torch.full((4, K), 50.0).double()
    found, problem = drawn(method, params, target=target), target.problem()
    scale = target.base.log_scale.exp()
    beta = torch.nn.functional.softplus(params["annealing"]).cumsum(-1)
    beta = beta / beta[:, -1:]
    noise = Noise(["noise"])
    z = target.base.sample(noise, 50)
    v = noise.normal(50, 4, DIM) / scale
    log_w = -target.base.log_prob(z)
    for k in range(K):
        step = 0.5 * torch.sigmoid(params["step"][:, k]) * scale**2

        def log_g(z, b=beta[:, k]):
            return b * problem.log_joint(z) + (1 - b) * target.base.log_prob(z)

        score, before = autograd_score(log_g), v
        v = v + 0.5 * step / scale**2 * score(z)
        z = z + step * v
        v = v + 0.5 * step / scale**2 * score(z)
        log_w = log_w + log_std_normal(v * scale) - log_std_normal(before * scale)
    assert same(found.z, z, 1e-10)
    assert same(found.log_w, log_w + problem.log_joint(z), 1e-10)


def test_ula_has_the_annealed_law_of_a_gaussian_target():
    """One dimension, base N(0, 1), target N(m, s^2): each marginal and E log w are known."""
    K, m, s2, S = 6, 1.5, 0.25, 200_000
    method = ULA(n_steps=K, init_step=0.1)
    params = method_leaves(method, 1, "leaves", 1)
    zeros = torch.zeros(1, 1).double()

    def log_joint(z):
        return log_std_normal((z - m) / math.sqrt(s2)) - 0.5 * math.log(s2)

    problem = Problem(log_joint, autograd_score(log_joint), DiagNormal(zeros, zeros))
    with torch.no_grad():
        path = method.particles(params, problem, Noise(["path"]), S, trace=True).path[:, :, 0, 0]
    mean, variance = 0.0, 1.0
    for k in range(1, K + 1):
        beta = k / K
        precision = beta / s2 + (1 - beta)
        mean += 0.1 * (beta * m / s2 - precision * mean)
        variance = (1 - 0.1 * precision) ** 2 * variance + 0.2
        assert float(path[k].mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / S))
        assert float(path[k].var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / S))


@pytest.mark.parametrize(
    "method",
    [
        ULA(init_step=0.1),
        MCD(init_step=0.1, n_steps=3),
        CMCD(init_step=0.1, vary_steps=True),
        DDS(n_steps=5),
        DDS(n_steps=0),
        ULA(n_steps=0),
    ],
    ids=lambda method: f"{method.name} {method.n_steps}",
)
def test_a_given_path_has_the_weight_that_it_was_drawn_with(method):
    params = method_leaves(method, DIM, "leaves", 4, jitter=0.3)
    particles, problem = drawn(method, params), conjugate(4, DIM, "problems").problem()
    log_forward, log_backward = method.log_path(params, problem, particles.path)
    assert same(log_backward - log_forward, particles.log_w, 1e-9)
    # and F is a density: its log less that of the noise is the determinant of the map from it
    if method.n_steps == 0 and isinstance(method, ULA):
        assert same(log_forward, problem.base.log_prob(particles.z))


@pytest.mark.parametrize("method", [RealNVP(n_layers=3, hidden=16), NSF(n_layers=3, hidden=16)])
def test_couplings_equal_those_of_a_library(method):
    """Values, log-determinants and inverses, with the same weights."""
    from harness.methods._couplings import halves
    from harness.nets import mlp

    dim = 5
    params = method_leaves(method, dim, "leaves", 1, jitter=0.7)
    y = 3 * Noise(["points"]).normal(200, 1, dim)
    for layer in range(method.n_layers):
        seen, moved = halves(layer, dim)

        def f(given, layer=layer, moved=moved, seen=seen):
            outputs = mlp(params, f"net{layer}", given[..., seen.argsort().argsort()])
            outputs = outputs.unflatten(-1, (len(moved), method.n_outputs))
            outputs = outputs[..., moved.argsort(), :]  # the library keeps dimensions in order
            if isinstance(method, NSF):
                return zuko.transforms.MonotonicRQSTransform(*outputs.split([8, 8, 7], -1))
            scale = (method.max_log_scale * outputs[..., 0].tanh()).exp()
            return torch.distributions.AffineTransform(outputs[..., 1], scale)

        mask = torch.zeros(dim, dtype=torch.bool)
        mask[seen] = True
        theirs = zuko.transforms.CouplingTransform(f, mask)
        value, log_det = method.layer(params, layer, y, None)
        expected = theirs(y)
        assert same(value, expected, 1e-10)
        by_dimension = theirs.log_abs_det_jacobian(y, expected)
        assert same(log_det, by_dimension.sum(-1), 1e-10)
        back, again = method.layer(params, layer, value, None, backwards=True)
        assert same(back, y, 1e-8)
        assert same(again, log_det, 1e-8)
        y = value


@pytest.mark.parametrize("cls", [RealNVP, NSF])
def test_couplings_start_as_the_base(cls):
    a, b = drawn(cls()), drawn(VB(), {})
    assert same(a.z, b.z)
    assert same(a.log_w, b.log_w, 1e-10)


def test_a_mixture_of_one_is_mean_field_in_the_same_place():
    method = Mixture(n_components=1)
    zeros = torch.zeros(4, 1, DIM, dtype=torch.float64)
    particles = drawn(method, {"centre": zeros, "log_scale": zeros})
    target = conjugate(4, DIM, "problems")
    expected = target.problem().log_joint(particles.z) - target.base.log_prob(particles.z)
    assert same(particles.log_w, expected)


@pytest.mark.parametrize("method", [FullRank(), FullRank(rank=2)], ids=["full", "low rank"])
def test_a_gaussian_has_the_density_of_its_covariance(method):
    target = conjugate(4, DIM, "problems")
    params = method_leaves(method, DIM, "leaves", 4, jitter=0.5)
    particles = drawn(method, params, target=target)
    S = torch.diag_embed(target.base.log_scale.exp())
    if method.rank is None:
        L = method.triangle(params, target.base.mean)
        covariance = S @ L @ L.mT @ S
    else:
        U = params["directions"]
        covariance = S @ (torch.eye(DIM) + U @ U.mT) @ S
    q = torch.distributions.MultivariateNormal(target.base.mean, covariance)
    expected = target.problem().log_joint(particles.z) - q.log_prob(particles.z)
    assert same(particles.log_w, expected, 1e-10)


def test_a_bound_is_one_where_the_matrix_of_a_gaussian_is_ill_conditioned():
    """Solving for epsilon gave a bound of 1e62 nats here."""
    method, target = FullRank(), conjugate(1, 100, "wide")
    params = method_leaves(method, 100, "leaves", 1, jitter=3.0)
    particles = method.particles(params, target.problem(), Noise(["noise"]), 100)
    assert float((particles.log_w - target.log_evidence).max()) < 0
    solved = method.log_weight(params, target.problem(), particles.z)
    assert not same(solved, particles.log_w, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["gaussian-ar1", "bayes-linear"])
def test_a_full_rank_gaussian_reaches_a_gaussian_posterior(task):
    assert harness.fit("fullrank", task).score()["elbo_gap"] < 0.02


def test_the_log_variance_has_the_gradient_of_the_elbo_in_what_draws_alone_depend_on():
    """Richter et al. 2020, proposition 1: in expectation, for the parameters of q."""
    repeated = Repeated(VB(), 20_000, 1)
    problem = repeated.problem()
    particles = VB().particles({}, problem, repeated.noise, 5)
    total = repeated.gradients(elbo(particles.log_w))[:, :4]
    other = repeated.gradients(
        log_variance(log_weights_of_constants(VB(), {}, problem, particles))
    )[:, :4]
    error = (total - other).std(0) / math.sqrt(len(total))
    assert ((total - other).mean(0).abs() < 5 * error).all()
    assert (total.mean(0).abs() > 10 * total.std(0) / math.sqrt(len(total))).any()


@pytest.mark.parametrize(
    ("method", "task"),
    [(VB(), "gaussian-2"), (CMCD(n_steps=4, max_step=0.05, init_step=0.02), "banana-2")],
)
def test_the_log_variance_trains(method, task):
    """Half of the gap that it starts with is gone."""

    def gap(steps):
        settings = {"steps": steps, "base": "learned", "lr": 1e-2, "bound": "log-variance"}
        return harness.fit(method, task, protocol="smoke", settings=settings).score()["elbo_gap"]

    assert gap(600) < 0.5 * gap(1)
