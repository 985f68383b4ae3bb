"""Controlled Monte Carlo diffusion: Langevin annealing with a learned drift in both directions."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from harness.api import Params

from ._langevin import Bridge, Controlled, Point


class CMCD(Controlled, frozen=True):
    r"""Forwards $f_k = s_k + u_k$, backwards $b_k = s_k - u_k$.

    With the right control the particles keep to the annealed densities however fast these change,
    and the weights are constant. It starts as `ula`.

    Source: Vargas, Padhy, Blessing & Nuesken 2023, arXiv:2307.01050.
    """

    name: ClassVar[str] = "cmcd"
    source: ClassVar[str] = "arXiv:2307.01050"

    def forward_drift(self, params: Params, bridge: Bridge, k: int, point: Point) -> Tensor:
        """Return s_k + u_k."""
        return bridge.score(k, point) + self.control(params, bridge, k, point)

    def backward_drift(self, params: Params, bridge: Bridge, k: int, point: Point) -> Tensor:
        """Return s_k - u_k."""
        return bridge.score(k, point) - self.control(params, bridge, k, point)
