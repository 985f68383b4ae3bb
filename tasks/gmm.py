"""Forty equal normals, far apart: which of its modes does a method find?"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from harness.api import Data, LogDensity, LogZ, Metric, Noise, Params, Particles, log_std_normal

COMPONENTS = 40
HALF_WIDTH = 40.0
COVERED = Metric("modes", "higher", "modes that at least one draw is nearest to", margin=1.0)
COVERAGE = Metric(
    "", "higher", "entropy of the modes that draws are nearest to, over log 40", margin=0.02
)


@cache
def means(dim: int) -> Tensor:
    """The means, [40, D], uniform on [-40, 40]^d from a fixed stream."""
    return HALF_WIDTH * (2 * Noise([f"gmm-{dim}/means"]).uniform(COMPONENTS, dim) - 1)


class GMM(LogDensity, frozen=True):
    r"""Forty equal normals of scale 1.

    $$\log p(z) = \log \tfrac1{40} \sum_k N(z; \mu_k, I), \qquad \mu_k \sim U[-40, 40]^d$$

    with means from a fixed stream of this benchmark: public code has at least three other densities
    under the name GMM-40.

    Source: Midgley et al. 2023, arXiv:2208.01893, with other means.
    """

    name: ClassVar[str] = "gmm"
    source: ClassVar[str] = "arXiv:2208.01893"
    # knowledge of the target: where its modes are
    recommended: ClassVar[dict[str, dict[str, Any]]] = {
        **LogDensity.recommended,
        "mixture": {"method.n_components": 100, "method.box": HALF_WIDTH},
    }
    metric_info: ClassVar[dict[str, Metric]] = {"modes": COVERED, "mode_coverage": COVERAGE}

    dim = 2

    def truth(self) -> LogZ:
        """0: a mean of normalised densities."""
        return LogZ(0.0, 0.0, "normalised by definition")

    def log_density(self, z: Tensor) -> Tensor:
        """The mixture's, all of its components in the sum."""
        components = log_std_normal(z.unsqueeze(-2) - means(self.dim).to(z))
        return components.logsumexp(-1) - math.log(COMPONENTS)

    def draws(self, noise: Noise, n: int) -> Tensor:
        """A mean, and a standard normal around it."""
        chosen = (COMPONENTS * noise.uniform(n)).long()
        return means(self.dim)[chosen] + noise.normal(n, self.dim)

    def posterior_metrics(
        self, particles: Particles, params: Params, data: Data, noise: Noise
    ) -> dict[str, Tensor]:
        """How many modes the draws, as they are, are nearest to, and how evenly, [R] each."""
        z = particles.z.double()  # [S, R, D]
        nearest = torch.stack(
            [torch.cdist(of_one, means(self.dim)).argmin(-1) for of_one in z.unbind(1)]
        )
        counts = torch.nn.functional.one_hot(nearest, COMPONENTS).double().mean(1)  # [R, 40]
        entropy = torch.special.entr(counts).sum(-1)
        return {
            "modes": (counts > 0).double().sum(-1),
            "mode_coverage": entropy / math.log(COMPONENTS),
        }

    def certify(self, noise: Noise) -> LogZ:
        """The sum over components of products of integrals in one dimension."""
        x = np.linspace(-HALF_WIDTH - 12, HALF_WIDTH + 12, 20_001)
        centres = means(self.dim).numpy()
        factors = np.trapezoid(
            np.exp(-((x - centres[..., None]) ** 2) / 2) / math.sqrt(2 * math.pi), x, axis=-1
        )
        return LogZ(math.log(factors.prod(1).mean()), 1e-9, "trapezoid rule")
