"""Neural spline flow: couplings whose transforms are monotonic rational-quadratic splines."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ._couplings import Couplings

BOUND = 5.0
MAX_LOG_SLOPE = -math.log(1e-3)
"""Of a slope at a knot, and of the ratio of two bins."""


class Bin(NamedTuple):
    """The piece of a spline that each number falls into: its ends, the slopes there, and whether
    there is one.
    """

    inside: Tensor
    x0: Tensor
    width: Tensor
    y0: Tensor
    height: Tensor
    slope0: Tensor
    slope1: Tensor


class NSF(Couplings, frozen=True):
    r"""Rational-quadratic couplings of 8 bins on [-5, 5] in units of the base, identity outside.

    In the bin from $(x_0, y_0)$ with width w, height h, mean slope $s = h / w$ and slopes $d_0,
    d_1$ at its ends, with $\theta = (x - x_0) / w$ and $\bar\theta = 1 - \theta$:

    $$f = y_0 + h\, \frac{s \theta^2 + d_0 \theta \bar\theta}{q}, \qquad
    f' = s^2\, \frac{d_1 \theta^2 + 2 s \theta \bar\theta + d_0 \bar\theta^2}{q^2}, \qquad
    q = s + (d_0 + d_1 - 2 s)\, \theta \bar\theta$$

    Widths and heights are a softmax and slopes an exponential of network outputs, each bounded: no
    slope at a knot is above 1000 or below its reciprocal.

    Source: Durkan, Bekasov, Murray & Papamakarios 2019, arXiv:1906.04032. Departs: permutations
    between layers, no linear maps.
    """

    name: ClassVar[str] = "nsf"
    source: ClassVar[str] = "arXiv:1906.04032"
    n_bins: ClassVar[int] = 8
    n_outputs: ClassVar[int] = 3 * 8 - 1

    def transform(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate the spline and the logarithm of its slope."""
        bin = find_bin(*self.knots(outputs), y)
        theta = torch.where(bin.inside, (y - bin.x0) / bin.width, 0.5)
        value, log_slope = evaluate(bin, theta)
        return torch.where(bin.inside, value, y), torch.where(bin.inside, log_slope, 0.0)

    def inverse(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        r"""Solve the quadratic $a \theta^2 + b \theta + c = 0$ of f = y in the bin of y."""
        x_knots, y_knots, slopes = self.knots(outputs)
        bin = find_bin(x_knots, y_knots, slopes, y, by_value=True)
        rise = torch.where(bin.inside, (y - bin.y0) / bin.height, 0.5)
        s = bin.height / bin.width
        excess = bin.slope0 + bin.slope1 - 2 * s
        a = s - bin.slope0 + rise * excess
        b = bin.slope0 - rise * excess
        c = -s * rise
        theta = 2 * c / (-b - (b.square() - 4 * a * c).sqrt())
        _, log_slope = evaluate(bin, theta)
        x = bin.x0 + theta * bin.width
        return torch.where(bin.inside, x, y), torch.where(bin.inside, log_slope, 0.0)

    def knots(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the knots in x and in y, and the slopes there, [..., 9] each."""
        widths, heights, slopes = outputs.split([self.n_bins, self.n_bins, self.n_bins - 1], -1)
        shares = (bounded(each, MAX_LOG_SLOPE / 2).softmax(-1) for each in (widths, heights))
        x, y = (BOUND * (2 * pad(share.cumsum(-1), (1, 0)) - 1) for share in shares)
        return x, y, pad(bounded(slopes, MAX_LOG_SLOPE), (1, 1)).exp()


def bounded(x: Tensor, limit: float) -> Tensor:
    """Squash numbers into (-limit, limit), by x / (1 + |x| / limit)."""
    return x / (1 + x.abs() / limit)


def find_bin(x: Tensor, y: Tensor, slopes: Tensor, at: Tensor, by_value: bool = False) -> Bin:
    """Find the bins of numbers [...], by knots in x or in y, [..., 9] each."""
    knots = (y if by_value else x).detach().contiguous()
    left = torch.searchsorted(knots, at.detach()[..., None]) - 1
    inside = (left >= 0) & (left < x.shape[-1] - 1)
    left = left.clamp(0, x.shape[-1] - 2)
    x0, x1 = (x.gather(-1, each)[..., 0] for each in (left, left + 1))
    y0, y1 = (y.gather(-1, each)[..., 0] for each in (left, left + 1))
    slope0, slope1 = (slopes.gather(-1, each)[..., 0] for each in (left, left + 1))
    return Bin(inside[..., 0], x0, x1 - x0, y0, y1 - y0, slope0, slope1)


def evaluate(bin: Bin, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate f and log f' in a bin at a fraction of its width."""
    s, product = bin.height / bin.width, theta * (1 - theta)
    q = s + (bin.slope0 + bin.slope1 - 2 * s) * product
    value = bin.y0 + bin.height * (s * theta.square() + bin.slope0 * product) / q
    ends = bin.slope1 * theta.square() + bin.slope0 * (1 - theta).square()
    return value, (ends + 2 * s * product).log() + 2 * (s.log() - q.log())
