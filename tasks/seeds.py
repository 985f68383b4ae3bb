"""Seeds: a logistic regression with an effect of each plate."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from harness.api import LogZ, Noise, Params, Target, log_integral
from harness.densities import LOG_2PI

from ._targets import gauss_hermite, numbers

PLATES = 21
SHAPE = RATE = 0.01
NODES = 60


class Seeds(Target, frozen=True):
    r"""Crowder's seeds, as in BUGS.

    $$r_i \sim \mathrm{Binomial}(n_i, \sigma(a_0 + a_1 x_1 + a_2 x_2 + a_{12} x_1 x_2 + b_i)),
    \quad a \sim N(0, 10^2), \quad b_i \sim N(0, 1 / \tau), \quad
    \tau \sim \mathrm{Gamma}(0.01, 0.01)$$

    The latent vector is $(a_0, a_1, a_2, a_{12}, \log \tau, b_1, \dots, b_{21})$; $\tau$ is a
    precision, of shape and rate 0.01, with the Jacobian of the logarithm. Binomial coefficients are
    included.

    Source: Crowder 1978, Applied Statistics 27; Geffner & Domke 2021, arXiv:2107.04150.
    """

    name: ClassVar[str] = "seeds"
    source: ClassVar[str] = "arXiv:2107.04150"

    @property
    def latent_dim(self) -> int:
        """Four coefficients, a precision and 21 plates."""
        return 26

    def truth(self) -> LogZ:
        """As importance sampling has it."""
        return LogZ(-73.407, 0.002, "quadrature over plates, importance sampling over the rest")

    def data(self) -> dict[str, Tensor]:
        """`germinated` and `plates`, [21] each, and `x`, [21, 4]."""
        x_1, x_2 = numbers("seeds", "x1"), numbers("seeds", "x2")
        return {
            "germinated": numbers("seeds", "germinated"),
            "plates": numbers("seeds", "plates"),
            "x": torch.stack([torch.ones_like(x_1), x_1, x_2, x_1 * x_2], 1),
        }

    def log_joint(self, params: Params, data: dict[str, Tensor], z: Tensor) -> Tensor:
        r"""The densities of a, $\log \tau$ and b, and the binomial one of each plate."""
        a, log_tau, b = z[..., :4], z[..., 4], z[..., 5:]
        of_a = (-0.5 * ((a / 10).square() + LOG_2PI) - math.log(10)).sum(-1)
        of_tau = SHAPE * math.log(RATE) - math.lgamma(SHAPE) + SHAPE * log_tau
        of_tau = of_tau - RATE * log_tau.exp()
        of_b = 0.5 * (PLATES * (log_tau - LOG_2PI) - log_tau.exp() * b.square().sum(-1))
        r, n = data["germinated"], data["plates"]
        logit = a @ data["x"].T + b
        choose = torch.lgamma(n + 1) - torch.lgamma(r + 1) - torch.lgamma(n - r + 1)
        likelihood = choose + r * logsigmoid(logit) + (n - r) * logsigmoid(-logit)
        return of_a + of_tau + of_b + likelihood.sum(-1)

    def score(self, params: Params, data: dict[str, Tensor], z: Tensor) -> Tensor:
        r"""With $e_i = r_i - n_i \sigma(x_i^\top a + b_i)$: $X^\top e - a / 10^2$,
        $0.01 (1 - \tau) + \tfrac{21}{2} - \tfrac\tau2 |b|^2$ and $e - \tau b$.
        """
        a, tau, b = z[..., :4], z[..., 4:5].exp(), z[..., 5:]
        logit = a @ data["x"].T + b
        error = data["germinated"] - data["plates"] * torch.sigmoid(logit)
        of_log_tau = SHAPE - RATE * tau + 0.5 * (PLATES - tau * b.square().sum(-1, keepdim=True))
        return torch.cat([error @ data["x"] - a / 100, of_log_tau, error - tau * b], -1)

    def certify(self, noise: Noise) -> LogZ:
        r"""Integrate each plate's effect out by Gauss-Hermite quadrature, and what is left, a and
        $\log \tau$, by importance sampling.
        """
        data, (nodes, weights) = self.data(), gauss_hermite(NODES)
        r, n, x = (data[name] for name in ("germinated", "plates", "x"))
        of_a = torch.distributions.Normal(0.0, 10.0)
        of_tau = torch.distributions.Gamma(SHAPE, RATE)

        def log_marginal(z: Tensor) -> Tensor:  # [n, 5] -> [n]
            tau = z[:, 4].exp()
            logit = (z[:, :4] @ x.T)[..., None] + tau.rsqrt()[:, None, None] * nodes
            plate = torch.distributions.Binomial(n[:, None], logits=logit, validate_args=False)
            log_p = plate.log_prob(r[:, None]) + weights.log()
            likelihood = log_p.logsumexp(-1).sum(-1)
            return of_a.log_prob(z[:, :4]).sum(-1) + of_tau.log_prob(tau) + z[:, 4] + likelihood

        found = log_integral(log_marginal, 5, 5.0, noise.streams[0], 100_000)
        return LogZ(found.value, found.error, "Gauss-Hermite over plates, then importance sampling")
