"""Objectives of a method's own: sticking the landing and doubly reparameterised gradients, as the
harness has them and as a plugin would write them; the checks refuse wrong ones.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

import harness
from harness.api import DiagNormal, Noise, Particles, Problem, log_std_normal
from harness.base.errors import UsageError
from harness.conformance.gradient_checks import Repeated, surrogates_have_the_gradient
from harness.densities import LOG_2PI
from harness.numerics.bounds import BOUNDS
from harness.training.surrogates import surrogate
from methods.iwae import IWAE
from methods.vb import VB


class Landing(VB, frozen=True):
    """Sticking the landing, as a user would write it."""

    name: ClassVar[str] = "landing"
    gradient: ClassVar[str] = "unbiased"
    sign: ClassVar[float] = 1.0
    of_model: ClassVar[float] = 1.0

    def particles(self, params, problem, noise, n_particles, trace=False):
        drawn = super().particles(params, problem, noise, n_particles, trace)
        fixed = DiagNormal(problem.base.mean.detach(), problem.base.log_scale.detach())
        log_w = problem.log_joint(drawn.z) - self.sign * fixed.log_prob(drawn.z)
        return replace(drawn, surrogate=log_w.mean(0))


class DReG(Landing, frozen=True):
    """Doubly reparameterised gradients, as a user would write them."""

    name: ClassVar[str] = "own-dreg"
    bound: ClassVar[str] = "iwae"

    def particles(self, params, problem, noise, n_particles, trace=False):
        drawn = VB.particles(self, params, problem, noise, n_particles, trace)
        fixed = DiagNormal(problem.base.mean.detach(), problem.base.log_scale.detach())
        w = drawn.log_w.detach().softmax(0)
        of_q = w**2 * (problem.log_joint(drawn.z) - self.sign * fixed.log_prob(drawn.z))
        of_model = (w - w**2) * problem.log_joint(drawn.z.detach())
        return replace(drawn, surrogate=(of_q + self.of_model * of_model).sum(0))


class Half(VB, frozen=True):
    """The bound itself as a surrogate: exact."""

    name: ClassVar[str] = "half"
    share: ClassVar[float] = 1.0

    def particles(self, params, problem, noise, n_particles, trace=False):
        drawn = super().particles(params, problem, noise, n_particles, trace)
        return replace(drawn, surrogate=self.share * drawn.log_w.mean(0) + 7.0)


@pytest.mark.parametrize("cls", [VB, IWAE, Landing, DReG, Half])
def test_right_surrogates_pass(cls):
    holds, detail = surrogates_have_the_gradient(cls, 0, 1.0)
    assert holds, detail


def wrong(cls: type, **changes: object) -> type:
    return type("Wrong", (cls,), {"__module__": __name__, **changes}, frozen=True)


@pytest.mark.parametrize(
    "cls",
    [
        pytest.param(wrong(Landing, sign=-1.0), id="sign of log q in sticking the landing"),
        pytest.param(wrong(Landing, sign=0.0), id="sticking the landing without log q"),
        pytest.param(wrong(DReG, sign=-1.0), id="sign of log q in DReG"),
        pytest.param(wrong(DReG, of_model=-1.0), id="sign of the model's term in DReG"),
        pytest.param(wrong(DReG, of_model=0.0), id="DReG without the model's term"),
        pytest.param(wrong(Half, share=0.5), id="half the bound, called exact"),
        pytest.param(wrong(Landing, gradient="exact"), id="an unbiased one, called exact"),
    ],
)
def test_wrong_surrogates_are_refused(cls):
    holds, detail = surrogates_have_the_gradient(cls, 0, 1.0)
    assert not holds, detail


@pytest.mark.parametrize(("cls", "name", "bound"), [(VB, "path", "elbo"), (IWAE, "dreg", "iwae")])
def test_the_mean_gradient_is_the_total_one_for_q_and_for_the_model(cls, name, bound):
    """Over 10^4 draws, for each parameter of q and of the model, as a mean with its error; and with
    less variance for q where q is good.
    """
    repeated = Repeated(cls(), 10_000, 3)
    problem = repeated.problem()
    particles = cls().particles({}, problem, repeated.noise, 5)
    total = repeated.gradients(BOUNDS[bound](particles.log_w))
    other = repeated.gradients(surrogate(name, cls(), {}, problem, repeated.problem, particles))
    assert set(repeated.leaves) == {"base.mean", "base.log_scale", "model.mean"}
    for gradient in (total, other):
        assert gradient.shape == (10_000, 6)
        assert (gradient.std(0) > 0).all()
    error = (total - other).std(0) / 100
    assert ((total - other).mean(0).abs() < 5 * error + 1e-12).all()
    # the true gradient is not zero: the two agree on something
    assert (total.mean(0).abs() > 10 * total.std(0) / 100).any()


def test_at_the_optimum_the_path_gradient_of_q_has_no_variance():
    """z ~ N(0, I), x ~ N(z + mean, I): the posterior is N((x - mean) / 2, 1/2), in the family."""
    mean = torch.full((500, 2), 0.4, dtype=torch.float64, requires_grad=True)
    centre = ((1.3 - mean) / 2).detach().requires_grad_()
    log_scale = torch.full_like(mean, -0.5 * math.log(2.0)).detach()
    log_scale.requires_grad_()

    def log_joint(z):
        return log_std_normal(z) + log_std_normal(1.3 - z - mean)

    problem = Problem(log_joint, lambda z: 1.3 - mean - 2 * z, DiagNormal(centre, log_scale))
    particles = VB().particles({}, problem, Noise(["0"]), 7)
    path = surrogate("path", VB(), {}, problem, lambda: problem, particles)
    of_q = torch.autograd.grad(path.sum(), [centre, log_scale], retain_graph=True)
    (of_model,) = torch.autograd.grad(path.sum(), mean)
    assert max(float(slope.abs().max()) for slope in of_q) < 1e-14
    assert float(of_model.std()) > 0.01
    total = torch.autograd.grad(particles.log_w.mean(0).sum(), log_scale)[0]
    assert float(total.std()) > 0.1
    exact = -0.25 * (1.3 - 0.4) ** 2 * 2 - LOG_2PI - math.log(2.0)  # log N(1.3; 0.4, 2 I)
    assert float((particles.log_w - exact).detach().abs().max()) < 1e-12


@pytest.mark.parametrize(("method", "gradient"), [("vb", "path"), ("iwae", "dreg")])
def test_both_gradients_train_to_the_same_optimum(method, gradient):
    normal = torch.distributions.Normal(2.0, 0.5)
    target = harness.api.target(lambda z: normal.log_prob(z).sum(-1), 2, log_z=0.0, name="normal")
    for name in ("total", gradient):
        settings = {"gradient": name, "steps": 500}
        fitted = harness.fit(method, target, protocol="smoke", settings=settings)
        assert (fitted.params["task.base_mean"] - 2.0).abs().max() < 0.4
        assert abs(fitted.score()["log_evidence"]) < 0.1


def test_an_own_surrogate_is_what_training_climbs():
    settings = {"steps": 100}
    bound = harness.fit(VB(), "gaussian-2", protocol="smoke", settings=settings)
    plain = harness.fit(Half(), "gaussian-2", protocol="smoke", settings=settings)
    landing = harness.fit(Landing(), "gaussian-2", protocol="smoke", settings=settings)
    for name, leaf in bound.params.items():
        assert torch.allclose(plain.params[name], leaf, rtol=1e-9)
    # the curve is the bound's, whatever is climbed
    assert plain.curve[0] == pytest.approx(bound.curve[0])
    assert any(not torch.equal(landing.params[n], leaf) for n, leaf in bound.params.items())


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("hvae", {"gradient": "path"}, "method 'hvae' does not give"),
        ("vb", {"gradient": "dreg"}, "is not one of bound=elbo"),
        ("iwae", {"gradient": "path"}, "is not one of bound=iwae"),
        ("vb", {"bound": "log-variance", "gradient": "path"}, "is not one of bound=log-variance"),
        ("vb", {"bound": "log-variance", "particles": 1}, "set particles to 2 or more"),
        ("hvae", {"bound": "log-variance"}, "Use bound=elbo"),
        ("dds", {"base": "learned"}, "does not use the base"),
    ],
)
def test_gradients_that_do_not_go_together_are_refused(method, settings, message):
    with pytest.raises(UsageError, match=message):
        harness.fit(method, "gaussian-2", protocol="smoke", settings=settings)


def test_a_surrogate_of_another_shape_is_said():
    class Scalar(VB, frozen=True):
        name: ClassVar[str] = "scalar"

        def particles(self, params, problem, noise, n_particles, trace=False):
            drawn = super().particles(params, problem, noise, n_particles, trace)
            return Particles(drawn.z, drawn.log_w, surrogate=drawn.log_w.mean())

    with pytest.raises(harness.base.errors.PluginError, match=r"surrogate of shape \[\]"):
        harness.fit(Scalar(), "gaussian-2", protocol="smoke")
