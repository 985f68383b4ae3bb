"""Monte Carlo diffusion: Langevin annealing whose backward kernels are learned."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from harness.api import Params

from ._langevin import Bridge, Controlled, Point


class MCD(Controlled, frozen=True):
    r"""Forwards as `ula`, $f_k = s_k$; backwards with a correction, $b_k = s_k + 2 u_k$.

    The reverse of a diffusion drifts along the score of its own marginal, which a network learns.
    It starts as `ula`, and u changes the weights only, never the draws.

    Source: Doucet, Grathwohl, Matthews & Strathmann 2022, arXiv:2208.07698.
    """

    name: ClassVar[str] = "mcd"
    source: ClassVar[str] = "arXiv:2208.07698"

    def backward_drift(self, params: Params, bridge: Bridge, k: int, point: Point) -> Tensor:
        """Return s_k + 2 u_k."""
        return bridge.score(k, point) + 2 * self.control(params, bridge, k, point)
