"""Layers that know the replicate axis: weights carry a leading R, which is N (one net a problem) or
1 (one net for all).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from harness.numerics.noise import Noise

Params = dict[str, Tensor]


def init_linear(name: str, n_in: int, n_out: int, noise: Noise, scale: float = 1.0) -> Params:
    r"""Weights and biases of a dense layer, uniform on $\pm \text{scale} / \sqrt{n_\text{in}}$
    (LeCun et al. 1998, with torch's gain).

    Returns: `{name.weight: [n_out, n_in], name.bias: [n_out]}`, one replicate, in double precision.
    """
    like = torch.zeros((), dtype=torch.float64)
    bound = scale / math.sqrt(n_in)
    return {
        f"{name}.weight": bound * (2 * noise.uniform(n_out, n_in, like=like) - 1),
        f"{name}.bias": bound * (2 * noise.uniform(n_out, like=like) - 1),
    }


def linear(params: Params, name: str, x: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""A dense layer $x W^\top + b$, with its weights multiplied by `mask` where one is given.

    Shapes: `x` [S, N, in], weight [R, out, in], bias [R, out] with R either N or 1; returns [S, N,
    out].
    """
    weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
    if mask is not None:
        weight = weight * mask
    if weight.shape[0] == 1:
        return torch.nn.functional.linear(x, weight[0], bias[0])
    return torch.baddbmm(bias[:, None], x.transpose(0, 1), weight.transpose(1, 2)).transpose(
        0, 1
    )  # [N, S, out] -> [S, N, out]


def autoregressive_masks(
    dim: int, hidden: int, n_context: int, outputs: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Masks of a one-hidden-layer network whose output j sees inputs before j only, and all of the
    context.

    Source: Germain et al. 2015, MADE, arXiv:1502.03509, with degrees dealt in turn.

    Shapes: first mask [hidden, dim + n_context], second mask [outputs * dim, hidden]; outputs are
    blocks of `dim`.
    """
    degree_in = torch.cat([torch.arange(1, dim + 1), torch.zeros(n_context, dtype=torch.long)])
    degree_hidden = torch.arange(hidden) % max(dim - 1, 1) + (
        1 if dim > 1 else 0
    )  # with one dimension only the context is seen
    degree_out = torch.arange(1, dim + 1).repeat(outputs)
    first = degree_hidden[:, None] >= degree_in[None, :]
    second = degree_out[:, None] > degree_hidden[None, :]
    return first.to(like), second.to(like)
