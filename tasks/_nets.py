"""Encoders and decoders of images whose weights carry R = 1, and the score through a decoder written out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d

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

    def logits(self, params: Params, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The decoder: z [M, D] -> logits [M, P], and what each layer got before its softplus."""
        ...

    def pull_back(self, params: Params, inner: list[Tensor], gradient: Tensor) -> Tensor:
        r"""$J^\top g$ for the decoder's Jacobian where it gave `inner`: g [M, P] -> [M, D]."""
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
        for layer in range(3):
            weight, bias = params[f"encoder.conv{layer}.weight"][0], params[f"encoder.conv{layer}.bias"][0]
            x = softplus(conv2d(x, weight, bias, stride=2, padding=2))
        return softplus(dense(params, "encoder.in", x.flatten(1)))

    def logits(self, params: Params, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """z [M, D] -> [M, 784]."""
        a = dense(params, "decoder.in", z)
        spread = dense(params, "decoder.spread", softplus(a))
        inner, x = [a, spread], spread
        for name, extra in (("conv0", 0), ("conv1", 1), ("out", 1)):  # sides 4 -> 7 -> 14 -> 28
            x = softplus(x) if len(inner) > 2 else softplus(x).unflatten(-1, (self.maps[2], self.side, self.side))
            weight, bias = params[f"decoder.{name}.weight"][0], params[f"decoder.{name}.bias"][0]
            x = conv_transpose2d(x, weight, bias, stride=2, padding=2, output_padding=extra)
            inner.append(x)
        return inner.pop().flatten(1), inner

    def pull_back(self, params: Params, inner: list[Tensor], gradient: Tensor) -> Tensor:
        """g [M, 784] -> [M, D]: a transposed convolution's transpose is the convolution."""
        a, spread, first, second = inner
        g = gradient.unflatten(-1, (1, 28, 28))
        for name, before in (("out", second), ("conv1", first)):
            g = conv2d(g, params[f"decoder.{name}.weight"][0], stride=2, padding=2) * before.sigmoid()
        g = conv2d(g, params["decoder.conv0.weight"][0], stride=2, padding=2).flatten(1) * spread.sigmoid()
        return (g @ params["decoder.spread.weight"][0] * a.sigmoid()) @ params["decoder.in.weight"][0]
