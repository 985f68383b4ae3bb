"""Unadjusted Langevin annealing: noisy gradient steps through annealed densities."""

from __future__ import annotations

from typing import ClassVar

from ._langevin import Langevin


class ULA(Langevin, frozen=True):
    r"""Both kernels drift along the annealed score, $f_k = b_k = s_k$.

    $$\log w = \log p(x, z_K) - \log q_0(z_0) + \sum_k \log \frac{N(y_{k-1};\, y_k + \epsilon_k
    s_k(y_k),\, 2 \epsilon_k)}{N(y_k;\, y_{k-1} + \epsilon_k s_k(y_{k-1}),\, 2 \epsilon_k)}$$

    Source: Thin et al. 2021, arXiv:2106.15921; Wu, Koehler & Noe 2020, arXiv:2002.06707.
    """

    name: ClassVar[str] = "ula"
    source: ClassVar[str] = "arXiv:2106.15921"
