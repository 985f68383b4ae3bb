"""The dynamics of hvae and the determinants of the flows."""

from __future__ import annotations

import warnings

import pytest
import torch
from defects import AsPrinted

from harness.api import DiagNormal, LinearScore, Problem, Trajectory, autograd_score
from harness.densities import half_squares
from harness.methods.hvae import HVAE
from harness.methods.hvae_iaf import HVAEIAF
from harness.methods.iaf import IAF
from harness.methods.pnf import PlanarFlow, planar
from harness.nets import autoregressive_masks
from harness.numerics.noise import Noise
from harness.numerics.trajectory import harmonic_leapfrog

LIKE = torch.zeros((), dtype=torch.float64)
D = 3


class Given:
    """Noise that hands out given draws in turn."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def normal(self, *shape, like):
        drawn = self.draws.pop(0)
        assert drawn.shape == shape
        return drawn


def curved() -> Problem:
    """A smooth density that is neither normal nor separable."""

    def log_joint(z):
        return -0.5 * z.square().sum(-1) + torch.cos(z.sum(-1)) - 0.1 * z.pow(4).sum(-1)

    zeros = torch.zeros(1, D, dtype=torch.float64)
    return Problem(log_joint, autograd_score(log_joint), DiagNormal(zeros, zeros))


def steps(method, size):
    """Parameters of `method`, with every step size `size`, and of the first temperature 5."""
    leaves = {name: leaf[None] for name, leaf in method.init(D, Noise(["0/init"])).items()}
    logit = torch.logit(torch.tensor(size / method.max_step, dtype=torch.float64))
    return leaves | {"step": torch.full_like(leaves["step"], float(logit))}


def jittered(method, dim, noise, scale):
    leaves = method.init(dim, Noise(["0/init"]))
    return {
        name: leaf[None] + scale * noise.normal(1, *leaf.shape, like=LIKE)
        for name, leaf in leaves.items()
    }


def flow(method, params, problem, z, g):
    """(z_0, g) -> (z_K, v_K), both [S, 1, D]."""
    path, v, _ = method.evolve(params, problem, Given(z, g), len(z))
    return path[-1], v


def draws(n=4, name="draws"):
    noise = Noise([f"0/{name}"])
    return noise.normal(n, 1, D, like=LIKE), noise.normal(n, 1, D, like=LIKE)


def jacobian(function, z, g):
    """The Jacobian of one particle's (z, g) -> (z, v), [2 D, 2 D]."""

    def joint(row):
        return torch.cat(function(row[:D].view(1, 1, D), row[D:].view(1, 1, D)), -1).flatten()

    return torch.autograd.functional.jacobian(joint, torch.cat([z.flatten(), g.flatten()]))


@pytest.mark.parametrize("vary_steps", [False, True])
@pytest.mark.parametrize("tempering", ["none", "fixed", "fixed-variance", "free"])
def test_the_leapfrog_is_the_papers(tempering, vary_steps):
    """Algorithm 1 of arXiv:1805.11328, printed in other variables: the same path, momentum and
    weights up to rounding.
    """
    ours, printed = (
        cls(n_leapfrog=5, tempering=tempering, vary_steps=vary_steps) for cls in (HVAE, AsPrinted)
    )
    params = jittered(ours, D, Noise(["0/jitter"]), 0.3)
    z, g = draws()
    one, other = (
        method.evolve(params, curved(), Given(z, g), len(z)) for method in (ours, printed)
    )
    torch.testing.assert_close(torch.stack(one[0]), torch.stack(other[0]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one[1:], other[1:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("vary_steps", [False, True])
@pytest.mark.parametrize("tempering", ["none", "fixed", "fixed-variance", "free"])
def test_a_linear_score_is_integrated_as_it_is_step_by_step(tempering, vary_steps):
    """The closed form gives the same ends, momenta and gradients up to rounding."""
    method = HVAE(n_leapfrog=5, tempering=tempering, vary_steps=vary_steps)
    params, noise = jittered(method, D, Noise(["0/jitter"]), 0.3), Noise(["0/springs"])
    centre, precision = noise.normal(1, D, like=LIKE), noise.uniform(1, D, like=LIKE) + 0.5
    leaves = [leaf.requires_grad_() for leaf in (centre, precision, *params.values())]
    base = DiagNormal(torch.zeros_like(centre), torch.zeros_like(centre))
    z, g = draws()
    ends = []
    for score in (LinearScore(centre, precision), lambda z: precision * (centre - z)):
        path, v, log_start = method.evolve(
            params, Problem(lambda z: z.sum(-1), score, base), Given(z, g), len(z)
        )
        weight = noise.at(1).normal(2, *z.shape, like=z)
        ends.append(
            [
                path[-1],
                v,
                log_start,
                *torch.autograd.grad((torch.stack([path[-1], v]) * weight).sum(), leaves),
            ]
        )
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)
    traced = method.evolve(
        params,
        Problem(lambda z: z.sum(-1), LinearScore(centre, precision), base),
        Given(z, g),
        len(z),
        trace=True,
    )
    assert len(traced[0]) == 6
    torch.testing.assert_close((traced[0][-1], traced[1]), (path[-1], v), rtol=0, atol=0)


@pytest.mark.parametrize("vary", [False, True])
def test_any_chain_of_operations_is_what_it_would_be_one_by_one(vary):
    """Other chains than the leapfrog, with temperatures within a step, for problems that share
    their step sizes, under a linear score and under one that does not say so.
    """
    noise = Noise(["0/chain"])
    z, v = noise.normal(2, 4, 3, 2, like=LIKE)
    centre, precision = noise.normal(2, 3, 2, like=LIKE)
    epsilon, T = noise.uniform(2, 4, 1, 2, like=LIKE), noise.uniform(4, 1, 1, like=LIKE) + 0.5
    linear = LinearScore(centre, precision.square())
    chains = [
        Trajectory(score, z, v) for score in (linear, lambda z: precision.square() * (centre - z))
    ]
    now = torch.tensor(1.0, dtype=torch.float64)
    for k in range(4):
        a, b = epsilon[:, k if vary else 0]
        for chain in chains:
            chain.drift(a, 0.3)
            chain.kick(b)
            chain.temper(T[k])
            chain.kick(b, 0.5)
            chain.drift(a, 0.7)
        z = z + 0.3 * a * v
        v = (v + b * linear(z)) * T[k] / now
        v, now = v + 0.5 * b * linear(z), T[k]
        z = z + 0.7 * a * v
    for chain in chains:
        (*_, end), momentum = chain.run()
        torch.testing.assert_close((end, momentum), (z, v), rtol=1e-11, atol=1e-11)
    assert len(chains[0].run(trace=True)[0]) == 9


def test_gradients_written_out_are_those_of_finite_differences():
    """And where they say so, their gradients too."""
    noise, shapes = Noise(["0/written"]), ((2, 2, 3), (2, 2, 3), (4, 2, 3), (5, 2, 3), (2, 3))
    z, u, drifts, kicks, centre = (
        noise.normal(*shape, like=LIKE).requires_grad_() for shape in shapes
    )
    assert torch.autograd.gradcheck(harmonic_leapfrog, (z, u, drifts, kicks, centre))
    precision = (noise.uniform(2, 3, like=LIKE) + 0.5).requires_grad_()
    for function, given in (
        (half_squares, (z,)),
        (lambda z, c, k: LinearScore(c, k).log_density(z), (z, centre, precision)),
    ):
        assert torch.autograd.gradcheck(function, given)
        assert torch.autograd.gradgradcheck(function, given)
    density = LinearScore(centre, precision)
    torch.testing.assert_close(
        density(z), autograd_score(density.log_density)(z), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("vary_steps", [False, True])
def test_the_leapfrog_reverses(vary_steps):
    method, problem = HVAE(n_leapfrog=10, tempering="none", vary_steps=vary_steps), curved()
    params, (z, g) = steps(method, 0.1), draws()
    end, v = flow(method, params, problem, z, g)
    back, minus_g = flow(method, params, problem, end, -v)
    torch.testing.assert_close(back, z, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(-minus_g, g, rtol=1e-12, atol=1e-12)
    assert float((end - z).detach().abs().amax()) > 0.1  # it went somewhere


@pytest.mark.parametrize("tempering", ["none", "fixed", "fixed-variance", "free"])
def test_the_flow_from_the_drawn_momentum_keeps_volume(tempering):
    method, problem = HVAE(n_leapfrog=4, tempering=tempering), curved()
    params, (z, g) = steps(method, 0.1), draws(1)
    matrix = jacobian(lambda z, g: flow(method, params, problem, z, g), z, g)
    assert abs(float(torch.linalg.slogdet(matrix).logabsdet)) < 1e-12 * torch.linalg.cond(matrix)


@pytest.mark.parametrize("tempering", ["fixed", "fixed-variance", "free"])
def test_cooling_contracts_volume_by_T0_to_the_minus_D(tempering):
    method, problem = HVAE(n_leapfrog=4, tempering=tempering), curved()
    params, (z, v) = steps(method, 0.1), draws(1)
    T0 = method.temperatures(params)[0]
    matrix = jacobian(
        lambda z, v: flow(method, params, problem, z, v / T0), z, v
    )  # from v_0 = T_0 g
    measured, expected = torch.linalg.slogdet(matrix).logabsdet, -D * T0.log().squeeze()
    assert float(T0.log()) > 0.1
    torch.testing.assert_close(measured, expected, rtol=1e-12, atol=1e-12)


def test_the_energy_error_falls_with_slope_two():
    problem, (z, g) = curved(), draws(200)
    step_sizes, errors = [0.1, 0.05, 0.025, 0.0125], []
    for step in step_sizes:
        method = HVAE(n_leapfrog=round(0.8 / step), tempering="none")
        end, v = flow(method, steps(method, step), problem, z, g)
        energy = [0.5 * p.square().sum(-1) - problem.log_joint(q) for q, p in ((z, g), (end, v))]
        errors.append((energy[1] - energy[0]).detach().square().mean().sqrt())
    logs = torch.log(torch.tensor(step_sizes, dtype=torch.float64)), torch.stack(errors).log()
    slopes = logs[1].diff() / logs[0].diff()
    # the next term of the error is of order step^4, so the slope's own error falls fourfold with
    # each halving
    change = slopes.diff().abs()
    assert abs(float(slopes[-1]) - 2) < 2 * float(change[-1]) + 1e-3 * float(slopes[-1])
    assert float(change[-1]) < float(change[0])


@pytest.mark.parametrize("tempering", ["none", "fixed"])
def test_leapfrog_steps_keep_volume_tempered_or_not(tempering):
    """Volume in (z, v) is kept whatever the steps: to reach a target of width 1e-3, draws must
    leave the momentum's density. The powers of T_0 cancel.
    """
    width = 1e-3
    base = DiagNormal(
        torch.zeros(1, D, dtype=torch.float64), torch.zeros(1, D, dtype=torch.float64)
    )
    target = DiagNormal(base.mean, base.mean + torch.log(torch.tensor(width, dtype=torch.float64)))
    problem = Problem(target.log_prob, lambda z: -z / width**2, base)
    z, g = draws(2_000)
    for size in (width / 10, width / 2, width):
        method = HVAE(n_leapfrog=10, tempering=tempering)
        end, v = flow(method, steps(method, size), problem, z, g)
        spread = torch.cat([end, v], -1)[:, 0]
        log_volume = 0.5 * torch.linalg.slogdet(torch.cov(spread.T)).logabsdet
        error = (
            2 * D / (2 * len(z))
        ) ** 0.5  # half a log-determinant of a sample covariance has variance 2 D / (2 n)
        assert abs(float(log_volume)) < 5 * error


@pytest.mark.parametrize(
    "method", [IAF(n_layers=2), PlanarFlow(n_layers=3)], ids=lambda method: method.name
)
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_a_flows_log_determinant_equals_autograds(method, dim):
    noise, zeros = Noise(["0/flow"]), torch.zeros(1, dim, dtype=torch.float64)
    params = jittered(method, dim, noise, 0.2)
    problem = Problem(lambda z: z.sum(-1) * 0, lambda z: z * 0, DiagNormal(zeros, zeros))
    z = noise.normal(1, 1, dim, like=LIKE)

    def image(row):
        return method.particles(params, problem, Given(row.view(1, 1, dim)), 1).z.flatten()

    expected = torch.linalg.slogdet(
        torch.autograd.functional.jacobian(image, z.flatten())
    ).logabsdet
    measured = (
        method.particles(params, problem, Given(z), 1).log_w + problem.base.log_prob(z)
    ).squeeze()
    torch.testing.assert_close(measured, expected, rtol=1e-12, atol=1e-13)


def test_hvae_iafs_joint_map_has_the_determinant_that_it_states():
    method, problem, noise = HVAEIAF(n_layers=2, n_leapfrog=3), curved(), Noise(["0/joint"])
    params = jittered(method, D, noise, 0.05)
    z, g = draws(1)

    def image(z, g):
        path, v, _ = method.evolve(params, problem, Given(z, g), 1)
        return method.flow(params, torch.cat([path[-1], v], -1), None)[-1][0].chunk(2, -1)

    path, v, _ = method.evolve(params, problem, Given(z, g), 1)
    stated = sum(log_det for _, log_det in method.flow(params, torch.cat([path[-1], v], -1), None))
    measured = torch.linalg.slogdet(jacobian(image, z, g)).logabsdet
    torch.testing.assert_close(stated.squeeze(), measured, rtol=1e-11, atol=1e-12)


def test_planar_equals_pyros():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pyro.distributions.transforms import Planar
    noise, reference = Noise(["0/planar"]), Planar(4).double()
    z, w, u, b = (
        noise.normal(6, 1, 4, like=LIKE),
        *(noise.normal(1, size, like=LIKE) for size in (4, 4, 1)),
    )
    with torch.no_grad():
        for leaf, value in ((reference.w, w), (reference.u, u), (reference.bias, b)):
            leaf.copy_(value[0])
    ours, log_det = planar(z, w, u, b)
    theirs = reference(z)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(
        log_det, reference.log_abs_det_jacobian(z, theirs), rtol=1e-12, atol=1e-13
    )


def test_iaf_equals_zukos():
    from torch.distributions import AffineTransform
    from zuko.flows.autoregressive import MaskedAutoregressiveTransform

    dim, hidden = 4, 12
    method, noise = IAF(hidden=hidden), Noise(["0/iaf"])
    params = jittered(method, dim, noise, 0.3)
    reference = MaskedAutoregressiveTransform(
        dim,
        hidden_features=[hidden],
        activation=torch.nn.ELU,
        univariate=lambda m, s: AffineTransform(m, s.exp()),
        shapes=((), ()),
    ).double()
    first, last = (layer for layer in reference.hyper if hasattr(layer, "mask"))
    masks = autoregressive_masks(dim, hidden, 0, 2, like=LIKE)
    interleaved = torch.arange(2 * dim).view(2, dim).T.flatten()  # zuko keeps m_j and s_j together
    with torch.no_grad():
        for layer, name, mask, order in (
            (first, "hidden", masks[0], slice(None)),
            (last, "last", masks[1], interleaved),
        ):
            layer.weight.copy_(params[f"iaf0.{name}.weight"][0][order])
            layer.bias.copy_(params[f"iaf0.{name}.bias"][0][order])
            layer.mask.copy_(mask[order].bool())
    z = noise.normal(6, 1, dim, like=LIKE)
    ((ours, log_det),) = method.flow(params, z, None)
    theirs, their_log_det = reference().call_and_ladj(z)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(
        log_det, their_log_det.detach().reshape(log_det.shape), rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_masks_let_each_output_see_what_comes_before_and_nothing_else(dim):
    first, second = autoregressive_masks(dim, 20, 2, 1, like=LIKE)
    seen = (second @ first) > 0  # [D, D + C]
    assert torch.equal(seen[:, :dim], torch.ones(dim, dim).tril(-1).bool())
    assert bool(seen[1:, dim:].all())


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_the_trajectory_through_reversed_layers_keeps_the_order_of_the_dimensions(n_layers):
    """Layers start near the identity, so every point of the way is near the last one, dimension for
    dimension.
    """
    method, base = (
        IAF(n_layers=n_layers),
        DiagNormal(torch.zeros(1, D, dtype=torch.float64), torch.zeros(1, D, dtype=torch.float64)),
    )
    problem = Problem(lambda z: -z.square().sum(-1), lambda z: -2 * z, base)
    params = {name: leaf[None] for name, leaf in method.init(D, Noise(["0/init"])).items()}
    drawn = method.particles(params, problem, Noise(["0/z"]), 50, trace=True)
    assert drawn.path.shape == (n_layers + 1, 50, 1, D)
    assert torch.equal(drawn.path[-1], drawn.z)
    assert (
        float((drawn.path - drawn.z).abs().max())
        < 0.1
        < float((drawn.path - drawn.z.flip(-1)).abs().max())
    )


def test_a_linear_score_takes_the_word_of_earlier_releases():
    centre, precision = torch.randn(2, 3), torch.rand(2, 3)
    z = torch.randn(4, 2, 3)
    earlier, now = LinearScore(centre, stiffness=precision), LinearScore(centre, precision)
    assert torch.equal(earlier(z), now(z))
