"""Full-rank Gaussian: all covariances, or a diagonal and a few directions."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from harness.api import Field, Method, Noise, Params, Particles, Problem, log_std_normal

INIT_DIRECTIONS = 0.1  # scale of the first U: at U = 0 its gradient is 0


class FullRank(Method, frozen=True):
    r"""A Gaussian with a covariance matrix, in units of the base $N(\mu, \mathrm{diag}(\sigma^2))$.

    $$z = \mu + \sigma \odot L \epsilon, \qquad
    \log w = \log p(x, z) - \log N(z; \mu, S L L^\top S), \quad S = \mathrm{diag}(\sigma)$$

    L is lower triangular with a diagonal of ones: the scales are the base's, and L = I is
    mean-field VB, where it starts. With `rank` = r it is $N(\mu, S (I + U U^\top) S)$, U [D, r],
    whose density takes the Woodbury identity and $|I + U U^\top| = |I + U^\top U|$. Where problems
    share weights, L or U is one for all of them.

    Source: Opper & Archambeau 2009, Neural Computation 21; Kucukelbir et al. 2017,
    arXiv:1603.00788; with `rank`, Ong, Nott & Smith 2018, arXiv:1701.03208.
    """

    name: ClassVar[str] = "fullrank"
    source: ClassVar[str] = "arXiv:1603.00788"
    base: ClassVar[str] = "learned"
    variants: ClassVar[dict[str, dict[str, int]]] = {"lowrank": {"rank": 5}}

    rank: int | None = Field(None, ge=1, description="directions beside a diagonal; none: all")

    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        """`lower` [D (D - 1) / 2], the rows of L left of its diagonal, or `directions` [D, r]."""
        if self.rank is not None:
            return {"directions": INIT_DIRECTIONS * noise.normal(dim, self.rank)}
        n = dim * (dim - 1) // 2
        return {"lower": torch.zeros(n, dtype=torch.float64)} if n else {}

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        """Draw from the Gaussian. Shapes: z [S, N, D], log_w [S, N]."""
        mean = problem.base.mean
        epsilon = noise.normal(n_particles, *mean.shape, like=mean)
        if self.rank is None:  # to solve for the epsilon of a draw loses digits where D is large
            z = problem.base.scaled(matvec(self.triangle(params, mean), epsilon))
            log_q = log_std_normal(epsilon) - problem.base.log_scale.sum(-1)
            return Particles(z, problem.log_joint(z) - log_q)
        of_directions = noise.normal(*epsilon.shape[:2], self.rank, like=mean)
        z = problem.base.scaled(epsilon + matvec(params["directions"], of_directions))
        return Particles(z, self.log_weight(params, problem, z))

    def log_weight(self, params: Params, problem: Problem, z: Tensor) -> Tensor:
        """Evaluate log p(x, z) - log q(z) at a given draw. Shapes: [S, N, D] -> [S, N]."""
        y = problem.base.standardised(z)
        log_q = self.log_density(params, y) - problem.base.log_scale.sum(-1)
        return problem.log_joint(z) - log_q

    def log_density(self, params: Params, y: Tensor) -> Tensor:
        r"""Evaluate $\log N(y; 0, L L^\top)$ or $\log N(y; 0, I + U U^\top)$, [S, N]."""
        if self.rank is None:
            L, columns = self.triangle(params, y), y.permute(1, 2, 0)
            solved = torch.linalg.solve_triangular(L, columns, upper=False, unitriangular=True)
            return log_std_normal(solved.permute(2, 0, 1))
        U = params["directions"]
        C = torch.linalg.cholesky(torch.eye(U.shape[-1]).to(U) + U.mT @ U)  # C C' = I + U' U
        projected = torch.linalg.solve_triangular(C, U.mT, upper=False)  # C^-1 U'
        along = matvec(projected, y)  # y' (I + U U')^-1 y = |y|^2 - |C^-1 U' y|^2
        log_det = C.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return log_std_normal(y) + 0.5 * along.square().sum(-1) - log_det

    def triangle(self, params: Params, like: Tensor) -> Tensor:
        """Return L [R, D, D]."""
        dim = like.shape[-1]
        if "lower" not in params:
            return torch.eye(dim).to(like)[None]
        row, column = torch.tril_indices(dim, dim, -1)
        L = torch.eye(dim).to(like).repeat(len(params["lower"]), 1, 1)
        return L.index_put((torch.arange(len(L))[:, None], row, column), params["lower"])


def matvec(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiply each problem's vectors: [R, m, n] and [S, N, n] -> [S, N, m]."""
    return torch.einsum("rmn,srn->srm", matrix.expand(x.shape[1], -1, -1), x)
