"""Affine layers of a decoder, with what its gradient is made of.

What goes from layer to layer is flat, [M, units] for M latents, with the maps of a convolution
innermost, as it likes them best on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, linear, pad


class Affine(Protocol):
    """A layer W h + b. M inputs at a time."""

    @property
    def weight(self) -> Tensor:
        """What W is made of."""
        ...

    @property
    def bias(self) -> Tensor:
        """What b is made of."""
        ...

    def __call__(self, h: Tensor) -> Tensor:
        """W h + b: [M, in] -> [M, out]."""
        ...

    def linear(self, h: Tensor) -> Tensor:
        """W h."""
        ...

    def transposed(self, g: Tensor) -> Tensor:
        r"""$W^\top g$: [M, out] -> [M, in]."""
        ...

    def grad_weight(self, h: Tensor, g: Tensor) -> Tensor:
        r"""The gradient of $\sum_m g_m \cdot W h_m$ in the weights."""
        ...

    def grad_bias(self, g: Tensor) -> Tensor:
        r"""The gradient of $\sum_m g_m \cdot b$ in b."""
        ...


@dataclass(frozen=True)
class Dense:
    """Weights [out, in], biases [out]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, h: Tensor) -> Tensor:
        return linear(h, self.weight, self.bias)

    def linear(self, h: Tensor) -> Tensor:
        return linear(h, self.weight)

    def transposed(self, g: Tensor) -> Tensor:
        return g @ self.weight

    def grad_weight(self, h: Tensor, g: Tensor) -> Tensor:
        return g.T @ h

    def grad_bias(self, g: Tensor) -> Tensor:
        return g.sum(0)


@dataclass(frozen=True)
class Widening:
    """A transposed convolution: the transpose of a convolution from maps of side `made` to maps of
    side `side`.

    Args:
        weight: [in, out, k, k], k odd.
        bias: [out].
        side, made: rows, and columns, of the maps it gets and of those it makes.
        stride: of the convolution, 1 or 2.
        blocks: as `in_blocks` makes it, where `made` is even: a convolution that makes two by two
            places at once takes half the time.
    """

    weight: Tensor
    bias: Tensor
    side: int
    made: int
    stride: int = 2
    blocks: Tensor | None = None

    def __call__(self, h: Tensor) -> Tensor:
        return Widened.apply(self, h, self.weight, self.bias)  # pyright: ignore[reportReturnType]

    def linear(self, h: Tensor) -> Tensor:
        if self.blocks is not None:
            at_once = conv2d(maps(h, self.side), self.blocks, None, 2 // self.stride, 1).permute(
                0, 2, 3, 1
            )
            return at_once.unflatten(3, (2, 2, -1)).transpose(2, 3).flatten(1)
        extra = self.made - 1 - self.stride * (self.side - 1)
        return flat(
            conv_transpose2d(
                maps(h, self.side),
                self.weight,
                None,
                self.stride,
                self.weight.shape[-1] // 2,
                extra,
            )
        )

    def transposed(self, g: Tensor) -> Tensor:
        return flat(
            conv2d(maps(g, self.made), self.weight, None, self.stride, self.weight.shape[-1] // 2)
        )

    def grad_weight(self, h: Tensor, g: Tensor) -> Tensor:
        """As the convolution's: it gets g, and h is the gradient in what it makes."""
        stride, padding, dilation, extra = (
            (n, n) for n in (self.stride, self.weight.shape[-1] // 2, 1, 0)
        )
        given = (
            maps(h, self.side),
            maps(g, self.made),
            self.weight,
            None,
            stride,
            padding,
            dilation,
            False,
            extra,
            1,
        )
        return torch.ops.aten.convolution_backward(*given, [False, True, False])[1]

    def grad_bias(self, g: Tensor) -> Tensor:
        return g.view(-1, len(self.bias)).sum(0)


class Widened(torch.autograd.Function):
    """A `Widening` whose gradient goes through the convolution, whichever way the numbers were
    made.
    """

    @staticmethod
    def forward(ctx: Any, layer: Widening, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """h [M, in]; `weight` and `bias` are the layer's own."""
        ctx.layer = layer
        ctx.save_for_backward(h)
        made = layer.linear(h)
        made.view(-1, len(bias)).add_(bias)
        return made

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
        """The gradients in h, in the weights and in the biases."""
        (h,), layer = ctx.saved_tensors, ctx.layer
        return None, layer.transposed(*grads), layer.grad_weight(h, *grads), layer.grad_bias(*grads)


def phases(weight: Tensor) -> Tensor:
    """A transposed convolution of stride 2 as one of stride 1 that makes two by two places at once,
    as maps of their own.

    At row 2m + p, `conv_transpose2d(x, weight, stride=2, padding=2, output_padding=1)` sums over
    tap 2d + p of row m + 1 - d of x. So, with one map to make, it is
    `pixel_shuffle(conv_transpose2d(x, phases(weight), padding=1), 2)`, in a third of the time.

    Args:
        weight: [in, out, 5, 5].

    Returns: [in, 4 out, 3, 3]: for each parity of row and column all maps.
    """
    taps = (
        pad(weight, (0, 1, 0, 1)).unflatten(3, (3, 2)).unflatten(2, (3, 2))
    )  # [in, out, d, p, d, p]
    return taps.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


def in_blocks(weight: Tensor, stride: int) -> Tensor:
    """A transposed convolution as a convolution of stride 2 / `stride`, padding 1, that makes two
    by two places as maps of their own.

    Args:
        weight: [in, out, k, k]: k is 5 with stride 2, and 3 with stride 1, where place 2m + p is
            what any place is, seen from 2m.

    Returns: [4 out, in, 3, 3], or [4 out, in, 4, 4].
    """
    kernel = (
        (phases(weight) if stride == 2 else weight).flip(2, 3).transpose(0, 1)
    )  # a transposed convolution of stride 1 is one of these
    if stride == 2:
        return kernel
    return torch.cat(
        [pad(kernel, (column, 1 - column, row, 1 - row)) for row in (0, 1) for column in (0, 1)]
    )


def maps(x: Tensor, side: int) -> Tensor:
    """[M, side * side * C] -> [M, C, side, side], the maps innermost in memory."""
    return x.unflatten(1, (side, side, -1)).permute(0, 3, 1, 2)


def flat(x: Tensor) -> Tensor:
    """The inverse."""
    return x.permute(0, 2, 3, 1).flatten(1)
