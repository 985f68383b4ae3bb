r"""What is climbed in place of a bound: its value is of no use, its gradient is that of the bound
in expectation, with less noise.

Both need the log-weight of a *given* draw under given parameters, `Method.log_weight`. Written
below
as $\log w_{\bar q}(z) = \log p(x, z) - \log q_{\mathrm{sg}}(z)$, where sg stops the gradient: q's
parameters are constants in the density, and act through z alone; the model's stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from harness.api import DiagNormal, Method, Params, Particles, Problem
from harness.base.errors import PluginError

LogWeight = Callable[[Tensor], Tensor]
"""z [S, N, D] -> log w [S, N] with q's parameters as constants, nats."""


def path(particles: Particles, log_weight: LogWeight) -> Tensor:
    r"""Return the surrogate of the ELBO without the score of q ("sticking the landing"), [N].

    $$\frac1S \sum_s \log w_{\bar q}(z_s)$$

    At q = p(z | x) its gradient in q's parameters is zero for every draw.

    Source: Roeder, Wu & Duvenaud 2017, arXiv:1703.09194.
    """
    return log_weight(particles.z).mean(0)


def doubly_reparameterised(particles: Particles, log_weight: LogWeight) -> Tensor:
    r"""Return the doubly reparameterised surrogate of the importance-weighted bound, [N], with the
    self-normalised weights $\tilde w_s = w_s / \sum_t w_t$.

    $$\sum_s \mathrm{sg}(\tilde w_s^2) \log w_{\bar q}(z_s)
    + \mathrm{sg}(\tilde w_s - \tilde w_s^2) \log w_{\bar q}(\mathrm{sg}(z_s))$$

    The squares are for q's parameters only: the second term gives the model's the weight
    $\tilde w_s$ in all.

    Source: Tucker, Lawson, Gu & Maddison 2019, arXiv:1810.04152.
    """
    weights = particles.log_w.detach().softmax(0)
    of_q = weights.square() * log_weight(particles.z)
    of_model = (weights - weights.square()) * log_weight(particles.z.detach())
    return (of_q + of_model).sum(0)


SURROGATES: dict[str, tuple[str, Callable[[Particles, LogWeight], Tensor]]] = {
    "path": ("elbo", path),
    "dreg": ("iwae", doubly_reparameterised),
}
"""Each value of the protocol's `gradient` but `total`, with the bound that it is of."""


def surrogate(
    name: str,
    method: Method,
    params: Params,
    problem: Problem,
    constant_problem: Callable[[], Problem],
    particles: Particles,
) -> Tensor:
    """Return a surrogate of the bound, [N], from `particles` that the method drew, traced where it
    has a `log_path`.

    Args:
        constant_problem: the same problem at parameters that are constants. Forward kernels take
            it, as a score in them depends on the model.

    Raises:
        PluginError: the method cannot give the log-weight of a given draw.
    """
    constants = {name: leaf.detach() for name, leaf in params.items()}
    if method.weighs_paths():
        fixed, particles = constant_problem(), replace(particles, z=particles.path)
    else:
        base = DiagNormal(problem.base.mean.detach(), problem.base.log_scale.detach())
        context = None if problem.context is None else problem.context.detach()
        fixed = replace(problem, base=base, context=context)  # with the model as it is

    def log_weight(draw: Tensor) -> Tensor:
        if not method.weighs_paths():
            return given_draw(method, constants, fixed, draw)
        # the backward kernels are no part of q: their parameters stay, as the model's do
        log_forward, _ = given_path(method, constants, fixed, draw)
        _, log_backward = given_path(method, params, problem, draw)
        return log_backward - log_forward

    return SURROGATES[name][1](particles, log_weight)


def log_weights_of_constants(
    method: Method, params: Params, problem: Problem, particles: Particles
) -> Tensor:
    """Evaluate the log-weights [S, N] of draws, or of traced paths, that are constants: parameters
    act through the densities alone. `bound=log-variance` is a reduction of these.
    """
    if not method.weighs_paths():
        return given_draw(method, params, problem, particles.z.detach())
    path = None if particles.path is None else particles.path.detach()
    log_forward, log_backward = given_path(method, params, problem, path)
    return log_backward - log_forward


def given_draw(method: Method, params: Params, problem: Problem, z: Tensor) -> Tensor:
    """Evaluate the log-weight of a given draw: [S, N, D] -> [S, N].

    Raises:
        PluginError: the method cannot.
    """
    log_w = method.log_weight(params, problem, z)
    if log_w is None:
        raise PluginError(f"Method '{method.name}' has no log_weight() and no log_path().")
    return log_w


def given_path(
    method: Method, params: Params, problem: Problem, path: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Evaluate log F and log B of a given path: [K + 1, S, N, D] -> [S, N] each.

    Raises:
        PluginError: the method has a `log_path`, and no path when traced.
    """
    kernels = None if path is None else method.log_path(params, problem, path)
    if kernels is None:
        raise PluginError(f"Method '{method.name}' has a log_path(), and gave no path.")
    return kernels
