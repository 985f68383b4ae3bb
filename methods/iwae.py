"""Importance-weighted autoencoder: mean-field draws trained on the importance-weighted bound."""

from __future__ import annotations

from typing import ClassVar

from .vb import MeanField


class IWAE(MeanField, frozen=True):
    r"""Mean-field draws trained on the bound of `k = particles` importance samples.

    $$\mathcal L_k = E\Big[\log \tfrac1k \textstyle\sum_{s=1}^k w_s\Big], \qquad
    w_s = p(x, z_s) / q_0(z_s \mid x)$$

    Source: Burda, Grosse & Salakhutdinov 2015, arXiv:1509.00519.
    """

    name: ClassVar[str] = "iwae"
    source: ClassVar[str] = "arXiv:1509.00519"
    bound: ClassVar[str] = "iwae"
