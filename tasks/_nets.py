"""Encoders and decoders of images whose weights carry R = 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from harness.api import Noise, Params
from harness.nets import init_linear

from ._decoder import softplus
from ._layers import Affine, Dense, Widening, in_blocks, phases


def dense(params: Params, name: str, x: Tensor) -> Tensor:
    """A dense layer: x [M, in] -> [M, out]."""
    return torch.nn.functional.linear(x, params[f"{name}.weight"][0], params[f"{name}.bias"][0])


def init_conv(name: str, shape: tuple[int, int, int, int], maps: int, noise: Noise) -> Params:
    r"""Weights and biases of a convolution, uniform on $\pm 1 / \sqrt{\text{inputs}}$ each."""
    like = torch.zeros((), dtype=torch.float64)
    bound = 1 / math.sqrt(shape[1] * shape[2] * shape[3])
    return {
        f"{name}.weight": bound * (2 * noise.uniform(*shape, like=like) - 1),
        f"{name}.bias": bound * (2 * noise.uniform(maps, like=like) - 1),
    }


def innermost(maps: Tensor) -> Tensor:
    """The same with the maps innermost in memory: a convolution of many maps takes half the time on
    a CPU.
    """
    return maps.contiguous(memory_format=torch.channels_last)


def kernel(params: Params, name: str) -> Tensor:
    """A convolution's weights."""
    return innermost(params[f"{name}.weight"][0])


def widening(weight: Tensor, bias: Tensor, side: int, made: int, stride: int = 2) -> Widening:
    """A transposed convolution by its weights [in, out, k, k], in the way that takes the least
    time.
    """
    blocks = None if made % 2 else innermost(in_blocks(weight.detach(), stride))
    return Widening(innermost(weight), bias, side, made, stride, blocks)


class Nets(Protocol):
    """An encoder's trunk and a decoder. M images or latents at a time; P pixels."""

    @property
    def n_hidden(self) -> int:
        """Units of the encoder's last hidden layer."""
        ...

    def init(self, noise: Noise) -> Params:
        """Weights of both, one replicate; the last bias of the decoder is called
        `decoder.out.bias`.
        """
        ...

    def hidden(self, params: Params, x: Tensor) -> Tensor:
        """What the encoder sees in images: [M, P] -> [M, hidden]."""
        ...

    def own_order(self, pixels: Tensor) -> Tensor:
        """Pixels given row by row, in the order in which the decoder gives them: [..., P] -> [...,
        P].
        """
        ...

    def row_order(self, pixels: Tensor) -> Tensor:
        """The inverse: [..., P] -> [..., P]."""
        ...

    def decoder(self, params: Params) -> Sequence[Affine]:
        """The decoder's layers, from z [M, D] to logits [M, P] in its own order."""
        ...


@dataclass(frozen=True)
class DenseNets:
    """One hidden layer each."""

    pixels: int
    latent: int
    n_hidden: int

    def init(self, noise: Noise) -> Params:
        """Dense layers only."""
        sizes = {
            "encoder.in": (self.pixels, self.n_hidden),
            "decoder.in": (self.latent, self.n_hidden),
        }
        sizes["decoder.out"] = (self.n_hidden, self.pixels)
        return {
            name: leaf
            for layer, size in sizes.items()
            for name, leaf in init_linear(layer, *size, noise).items()
        }

    def hidden(self, params: Params, x: Tensor) -> Tensor:
        """[M, P] -> [M, hidden]."""
        return softplus(dense(params, "encoder.in", x))

    def own_order(self, pixels: Tensor) -> Tensor:
        """Row by row."""
        return pixels

    row_order = own_order

    def decoder(self, params: Params) -> Sequence[Affine]:
        """Two."""
        return [
            Dense(params[f"{name}.weight"][0], params[f"{name}.bias"][0])
            for name in ("decoder.in", "decoder.out")
        ]


@dataclass(frozen=True)
class ConvNets:
    """The nets of the HVAE authors for images of 28 x 28: 5 x 5 convolutions of stride 2 with
    softplus, and dense layers of 450.
    """

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
        params |= init_linear("decoder.in", self.latent, self.n_hidden, noise) | init_linear(
            "decoder.spread", self.n_hidden, flat, noise
        )
        params |= init_conv("decoder.conv0", (third, second, 5, 5), second, noise)
        params |= init_conv("decoder.conv1", (second, first, 5, 5), first, noise)
        return params | init_conv("decoder.out", (first, 1, 5, 5), 1, noise)

    def hidden(self, params: Params, x: Tensor) -> Tensor:
        """[M, 784] -> [M, 450]."""
        x = x.unflatten(-1, (1, 28, 28))
        for name in ("encoder.conv0", "encoder.conv1", "encoder.conv2"):
            x = softplus(
                conv2d(x, kernel(params, name), params[f"{name}.bias"][0], stride=2, padding=2)
            )
        return softplus(dense(params, "encoder.in", x.flatten(1)))

    def own_order(self, pixels: Tensor) -> Tensor:
        """Squares of two by two pixels, row by row: what the last layer makes at a place lies
        together.
        """
        return pixels.unflatten(-1, (14, 2, 14, 2)).transpose(-3, -2).flatten(-4)

    def row_order(self, pixels: Tensor) -> Tensor:
        """Row by row."""
        return pixels.unflatten(-1, (14, 14, 2, 2)).transpose(-3, -2).flatten(-4)

    def decoder(self, params: Params) -> Sequence[Affine]:
        """Two dense layers and three transposed convolutions."""
        leaf = {name: value[0] for name, value in params.items() if name.startswith("decoder.")}
        grid = (self.maps[2], self.side, self.side)
        spread = [
            leaf[f"decoder.spread.{kind}"].unflatten(0, grid).movedim(0, 2).flatten(0, 2)
            for kind in ("weight", "bias")
        ]
        return (
            Dense(leaf["decoder.in.weight"], leaf["decoder.in.bias"]),
            Dense(*spread),
            widening(leaf["decoder.conv0.weight"], leaf["decoder.conv0.bias"], 4, 7),
            widening(leaf["decoder.conv1.weight"], leaf["decoder.conv1.bias"], 7, 14),
            widening(
                phases(leaf["decoder.out.weight"]),
                leaf["decoder.out.bias"].repeat(4),
                14,
                14,
                stride=1,
            ),
        )
