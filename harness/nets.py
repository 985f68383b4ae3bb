"""Layers that know the replicate axis: weights carry a leading R, which is N (one net a problem) or
1 (one net for all).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import silu

from harness.numerics.noise import Noise

Params = dict[str, Tensor]
N_TIME = 16
"""The size of an embedded time."""


def init_linear(name: str, n_in: int, n_out: int, noise: Noise, scale: float = 1.0) -> Params:
    r"""Weights and biases of a dense layer, uniform on $\pm \text{scale} / \sqrt{n_\text{in}}$
    (LeCun et al. 1998, with torch's gain).

    Returns: `{name.weight: [n_out, n_in], name.bias: [n_out]}`, one replicate, in double precision.
    """
    like = torch.zeros((), dtype=torch.float64)
    bound = scale / math.sqrt(max(n_in, 1))  # of a layer that sees nothing only the bias counts
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


def init_mlp(name: str, sizes: Sequence[int], noise: Noise) -> Params:
    """Layers from `sizes[0]` inputs to `sizes[-1]` outputs; the last one is zero, and so is all
    that the network puts out at first.

    Returns: `{name}.{layer}.weight` and `{name}.{layer}.bias`, layers from 0.
    """
    params: Params = {}
    for layer, (n_in, n_out) in enumerate(pairwise(sizes)):
        scale = 0.0 if layer == len(sizes) - 2 else 1.0
        params |= init_linear(f"{name}.{layer}", n_in, n_out, noise, scale)
    return params


def mlp(params: Params, name: str, x: Tensor) -> Tensor:
    """Evaluate the layers, with SiLU between them: [S, N, in] -> [S, N, out]."""
    layer = 0
    while f"{name}.{layer + 1}.weight" in params:
        x = silu(linear(params, f"{name}.{layer}", x))
        layer += 1
    return linear(params, f"{name}.{layer}", x)


def appended(x: Tensor, *vectors: Tensor | None) -> Tensor:
    """Append vectors to each of x [S, N, D]: [N, C], or one for all, [C]; nothing for None."""
    given = (vector for vector in vectors if vector is not None)
    return torch.cat([x, *(vector.expand(*x.shape[:2], -1) for vector in given)], -1)


def time_features(t: float, like: Tensor) -> Tensor:
    r"""Embed a time in [0, 1]: $\cos \pi j t$ and $\sin \pi j t$ for $j = 1 \dots 8$, [16]."""
    angles = math.pi * t * torch.arange(1, N_TIME // 2 + 1)
    return torch.cat([angles.cos(), angles.sin()]).to(like)


def init_time_mlp(name: str, dim: int, n_context: int, hidden: int, noise: Noise) -> Params:
    """Two hidden layers from a position, a time and the context to D outputs, zero at first."""
    return init_mlp(name, (dim + N_TIME + n_context, hidden, hidden, dim), noise)


def time_mlp(params: Params, name: str, y: Tensor, t: float, context: Tensor | None) -> Tensor:
    """Evaluate the network at positions y [S, N, D] and the time t: [S, N, D]."""
    return mlp(params, name, appended(y, time_features(t, like=y), context))


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
