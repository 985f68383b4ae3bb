"""Encoders and decoders of images whose weights carry R = 1, and the score through a decoder written out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, pad

from harness.api import Noise, Params
from harness.nets import init_linear

LINEAR_ABOVE = 40.0  # there softplus(a) = a and its slope is 1 to double precision


def softplus(a: Tensor) -> Tensor:
    r"""$\log(1 + e^a)$, whose slope is the logistic function of a."""
    return torch.nn.functional.softplus(a, threshold=LINEAR_ABOVE)


def dense(params: Params, name: str, x: Tensor) -> Tensor:
    """A dense layer: x [M, in] -> [M, out]."""
    return torch.nn.functional.linear(x, params[f"{name}.weight"][0], params[f"{name}.bias"][0])


def init_conv(name: str, shape: tuple[int, int, int, int], maps: int, noise: Noise) -> Params:
    r"""Weights and biases of a convolution, uniform on $\pm 1 / \sqrt{\text{inputs of an output}}$."""
    like = torch.zeros((), dtype=torch.float64)
    bound = 1 / math.sqrt(shape[1] * shape[2] * shape[3])
    return {
        f"{name}.weight": bound * (2 * noise.uniform(*shape, like=like) - 1),
        f"{name}.bias": bound * (2 * noise.uniform(maps, like=like) - 1),
    }


def innermost(maps: Tensor) -> Tensor:
    """The same with the maps innermost in memory: a convolution of many maps takes half the time on a CPU."""
    return maps.contiguous(memory_format=torch.channels_last)


def kernel(params: Params, name: str) -> Tensor:
    """A convolution's weights."""
    return innermost(params[f"{name}.weight"][0])


def phases(weight: Tensor) -> Tensor:
    """A transposed convolution of stride 2 as a convolution of stride 1 with a map for each parity of row and column.

    `conv_transpose2d(x, weight, stride=2, padding=2, output_padding=1) = pixel_shuffle(conv2d(x, phases(weight), padding=1), 2)`:
    at row 2m + p it sums over tap 2d + p + 2 of row m - d of x. With one map to make it is three times as fast.

    Args:
        weight: [in, out, 5, 5].

    Returns: [4 out, in, 3, 3].
    """
    taps = pad(weight, (0, 1, 0, 1)).unflatten(3, (3, 2)).unflatten(2, (3, 2))  # [in, out, d, p, d, p]
    return taps.flip(2, 4).permute(1, 3, 5, 0, 2, 4).flatten(0, 2)


class Nets(Protocol):
    """An encoder's trunk and a decoder. M images or latents at a time; P pixels."""

    @property
    def n_hidden(self) -> int:
        """Units of the encoder's last hidden layer."""
        ...

    def init(self, noise: Noise) -> Params:
        """Weights of both, one replicate; the last bias of the decoder is called `decoder.out.bias`."""
        ...

    def hidden(self, params: Params, x: Tensor) -> Tensor:
        """What the encoder sees in images: [M, P] -> [M, hidden]."""
        ...

    def own_order(self, pixels: Tensor) -> Tensor:
        """Pixels given row by row, in the order in which the decoder gives them: [..., P] -> [..., P]."""
        ...

    def row_order(self, pixels: Tensor) -> Tensor:
        """The inverse: [..., P] -> [..., P]."""
        ...

    def logits(self, params: Params, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The decoder: z [M, D] -> logits [M, P] in its own order, and what each layer got before its softplus."""
        ...

    def pull_back(self, params: Params, inner: list[Tensor], gradient: Tensor) -> Tensor:
        r"""$J^\top g$ for the decoder's Jacobian where it gave `inner`: g [M, P], in its own order, -> [M, D]."""
        ...


@dataclass(frozen=True)
class DenseNets:
    """One hidden layer each."""

    pixels: int
    latent: int
    n_hidden: int

    def init(self, noise: Noise) -> Params:
        """Dense layers only."""
        sizes = {"encoder.in": (self.pixels, self.n_hidden), "decoder.in": (self.latent, self.n_hidden)}
        sizes["decoder.out"] = (self.n_hidden, self.pixels)
        return {name: leaf for layer, size in sizes.items() for name, leaf in init_linear(layer, *size, noise).items()}

    def hidden(self, params: Params, x: Tensor) -> Tensor:
        """[M, P] -> [M, hidden]."""
        return softplus(dense(params, "encoder.in", x))

    def own_order(self, pixels: Tensor) -> Tensor:
        """Row by row."""
        return pixels

    row_order = own_order

    def logits(self, params: Params, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """z [M, D] -> [M, P]."""
        a = dense(params, "decoder.in", z)
        return dense(params, "decoder.out", softplus(a)), [a]

    def pull_back(self, params: Params, inner: list[Tensor], gradient: Tensor) -> Tensor:
        """g [M, P] -> [M, D]."""
        return (gradient @ params["decoder.out.weight"][0] * inner[0].sigmoid()) @ params["decoder.in.weight"][0]


@dataclass(frozen=True)
class ConvNets:
    """The nets of the HVAE authors for images of 28 x 28: 5 x 5 convolutions of stride 2 with softplus, and dense layers of 450."""

    latent: int
    n_hidden: int = 450
    maps: tuple[int, int, int] = (16, 32, 32)
    side: int = 4  # of the smallest maps: 28, 14, 7, 4

    def init(self, noise: Noise) -> Params:
        """Convolutions [out, in, 5, 5], transposed ones [in, out, 5, 5], dense layers."""
        first, second, third = self.maps
        flat = third * self.side**2
        params = init_conv("encoder.conv0", (first, 1, 5, 5), first, noise)
        params |= init_conv("encoder.conv1", (second, first, 5, 5), second, noise)
        params |= init_conv("encoder.conv2", (third, second, 5, 5), third, noise)
        params |= init_linear("encoder.in", flat, self.n_hidden, noise)
        params |= init_linear("decoder.in", self.latent, self.n_hidden, noise) | init_linear("decoder.spread", self.n_hidden, flat, noise)
        params |= init_conv("decoder.conv0", (third, second, 5, 5), second, noise)
        params |= init_conv("decoder.conv1", (second, first, 5, 5), first, noise)
        return params | init_conv("decoder.out", (first, 1, 5, 5), 1, noise)

    def hidden(self, params: Params, x: Tensor) -> Tensor:
        """[M, 784] -> [M, 450]."""
        x = x.unflatten(-1, (1, 28, 28))
        for name in ("encoder.conv0", "encoder.conv1", "encoder.conv2"):
            x = softplus(conv2d(x, kernel(params, name), params[f"{name}.bias"][0], stride=2, padding=2))
        return softplus(dense(params, "encoder.in", x.flatten(1)))

    def own_order(self, pixels: Tensor) -> Tensor:
        """Squares of two by two pixels, row by row: what the last layer makes at a place lies together."""
        return pixels.unflatten(-1, (14, 2, 14, 2)).transpose(-3, -2).flatten(-4)

    def row_order(self, pixels: Tensor) -> Tensor:
        """Row by row."""
        return pixels.unflatten(-1, (14, 14, 2, 2)).transpose(-3, -2).flatten(-4)

    def logits(self, params: Params, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """z [M, D] -> [M, 784]."""
        a = dense(params, "decoder.in", z)
        spread = dense(params, "decoder.spread", softplus(a))
        first = self.enlarge(params, "decoder.conv0", softplus(spread).unflatten(-1, (self.maps[2], self.side, self.side)), extra=0)
        second = self.enlarge(params, "decoder.conv1", softplus(first), extra=1)
        kernels = innermost(phases(params["decoder.out.weight"][0]))
        four = conv2d(softplus(second), kernels, params["decoder.out.bias"][0].expand(4), padding=1)
        return four.permute(0, 2, 3, 1).flatten(1), [a, spread, first, second]

    def enlarge(self, params: Params, name: str, x: Tensor, extra: int) -> Tensor:
        """A transposed convolution: maps of side s become maps of side 2 s - 1 + extra."""
        bias = params[f"{name}.bias"][0]
        return conv_transpose2d(innermost(x), kernel(params, name), bias, stride=2, padding=2, output_padding=extra)

    def pull_back(self, params: Params, inner: list[Tensor], gradient: Tensor) -> Tensor:
        """g [M, 784] -> [M, D]: a transposed convolution's transpose is the convolution."""
        a, spread, first, second = inner
        four = innermost(gradient.unflatten(-1, (14, 14, 4)).permute(0, 3, 1, 2))
        kernels = innermost(phases(params["decoder.out.weight"][0]).flip(2, 3).transpose(0, 1))
        g = conv2d(four, kernels, padding=1) * second.sigmoid()
        g = conv2d(g, kernel(params, "decoder.conv1"), stride=2, padding=2) * first.sigmoid()
        g = conv2d(g, kernel(params, "decoder.conv0"), stride=2, padding=2).flatten(1) * spread.sigmoid()
        return (g @ params["decoder.spread.weight"][0] * a.sigmoid()) @ params["decoder.in.weight"][0]
