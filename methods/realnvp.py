"""RealNVP: affine couplings, half of the dimensions shifted and scaled by the other half."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from harness.api import Field

from ._couplings import Couplings


class RealNVP(Couplings, frozen=True):
    r"""Affine couplings with a bounded scale, in units of the base.

    $$f(y) = y\, e^{c \tanh s} + t, \qquad \log f' = c \tanh s$$

    with s and t from the other half of the dimensions and c = `max_log_scale`. Without a bound a
    stack of such layers grows as the exponential of an exponential.

    Source: Dinh, Sohl-Dickstein & Bengio 2017, arXiv:1605.08803. Departs: no batch normalisation.
    """

    name: ClassVar[str] = "realnvp"
    source: ClassVar[str] = "arXiv:1605.08803"
    n_outputs: ClassVar[int] = 2

    max_log_scale: float = Field(2.0, gt=0, description="bound c of a layer's log scales")

    def transform(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift."""
        log_scale = self.max_log_scale * outputs[..., 0].tanh()
        return y * log_scale.exp() + outputs[..., 1], log_scale

    def inverse(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale back."""
        log_scale = self.max_log_scale * outputs[..., 0].tanh()
        return (y - outputs[..., 1]) * (-log_scale).exp(), log_scale
