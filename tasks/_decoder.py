r"""A decoder of Bernoulli logits as a chain of affine layers with softplus between them; its score,
and the gradient of that, written out.

With $h_0 = z$, $a_l = W_l h_{l-1} + b_l$, $h_l = \mathrm{softplus}(a_l)$, $\sigma_l =
\mathrm{logistic}(a_l)$, and $a_L$ the logits:

$$g_L = x - \sigma_L, \qquad g_l = \sigma_l \odot W_{l+1}^\top g_{l+1}, \qquad
\nabla_z \log p(x \mid z) = W_1^\top g_1$$
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._layers import Affine

AT_ONCE = 1024
"""Images that go through the layers together: what one layer gives stays in a processor's cache
until the next asks for it.
"""
LINEAR_ABOVE = 40.0  # there softplus(a) = a and its slope is 1 to double precision


def softplus(a: Tensor) -> Tensor:
    r"""$\log(1 + e^a)$, whose slope is the logistic function of a."""
    return torch.nn.functional.softplus(a, threshold=LINEAR_ABOVE)


def decoded(layers: Sequence[Affine], z: Tensor) -> Tensor:
    """Logits: z [M, D] -> [M, P]."""
    h = z
    for layer in layers[:-1]:
        h = softplus(layer(h))
    return layers[-1](h)


class Scored(torch.autograd.Function):
    r"""Logits $a_L$ and the likelihood's score; z [S, N, D] and x [N, P] to [S, N, P] and [S, N,
    D].

    With $\lambda$ the gradient in the score and $\bar a_L$ that in the logits, one way up and one
    way down give all others:

    $$u_1 = W_1 \lambda, \qquad \tau_l = \sigma_l \odot u_l, \qquad u_{l+1} = W_{l+1} \tau_l$$
    $$\bar a_L \mathrel{-}= \sigma_L (1 - \sigma_L) \odot u_L, \qquad
      \bar a_l = \sigma_l \odot W_{l+1}^\top \bar a_{l+1} + (1 - \sigma_l) \odot g_l \odot u_l,
      \qquad \bar z = W_1^\top \bar a_1$$

    $\bar W_l$ sums $g_l \tau_{l-1}^\top$ and $\bar a_l h_{l-1}^\top$. Automatic differentiation of
    the same operations gives the same, but goes over each layer's numbers twice as often.
    """

    @staticmethod
    def forward(
        ctx: Any, layers: Sequence[Affine], x: Tensor, z: Tensor, *leaves: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`leaves` are the weights and biases of the layers, in their order: the gradient is theirs
        too.
        """
        h, slopes = [z.flatten(0, 1)], []
        for layer in layers[:-1]:
            a = layer(h[-1])
            slopes.append(a.sigmoid())
            h.append(torch.ops.aten.softplus.out(a, 1, LINEAR_ABOVE, out=a))
        logits = layers[-1](h[-1]).unflatten(0, z.shape[:2])
        slopes.append(logits.sigmoid())
        g = [(x - slopes[-1]).flatten(0, 1)]
        for layer, slope in zip(layers[:0:-1], slopes[-2::-1], strict=True):
            g.insert(0, layer.transposed(g[0]).mul_(slope))
        ctx.layers, ctx.activations = layers, (h, slopes, g)
        return logits, layers[0].transposed(g[0]).unflatten(0, z.shape[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """From the gradients in logits and score to those in z and in the leaves."""
        grad_logits, grad_score = grads
        if ctx.activations is None:
            raise RuntimeError(
                "the gradient of a decoder's score cannot be taken twice: ask for the score anew"
            )
        layers, (h, slopes, g) = ctx.layers, ctx.activations
        ctx.activations = None  # what follows writes into it
        tau, weights = grad_score.flatten(0, 1), []
        for layer, slope, bend in zip(layers[:-1], slopes, g, strict=False):
            weights.append(layer.grad_weight(tau, bend))
            u = layer.linear(tau)
            bend.mul_(u)
            tau = u.mul_(slope)
            bend.addcmul_(bend, slope, value=-1)  # (1 - sigma) g u, in the place of g
        weights.append(layers[-1].grad_weight(tau, g[-1]))
        u = layers[-1].linear(tau).view_as(grad_logits)
        grad_a = (grad_logits - slopes[-1] * (1 - slopes[-1]) * u).flatten(0, 1)
        grad_leaves: list[Tensor] = []
        for i in reversed(range(len(layers))):
            grad_leaves[:0] = (
                weights[i].add_(layers[i].grad_weight(h[i], grad_a)),
                layers[i].grad_bias(grad_a),
            )
            grad_h = layers[i].transposed(grad_a)
            grad_a = g[i - 1].addcmul_(grad_h, slopes[i - 1]) if i else grad_h
        return None, None, grad_a.view_as(grad_score), *grad_leaves


class Likelihood:
    r"""$\log p(x \mid z) = \sum_p x_p l_p - \log(1 + e^{l_p})$ of images x [N, P] under logits
    l(z), and its score; a few images at a time.

    Logits are kept where the score was asked for last: a leapfrog ends where it asked for the last
    score, and needs the density there.
    """

    def __init__(self, layers: Sequence[Affine], x: Tensor) -> None:
        self._layers, self._x = layers, x
        self._leaves = [leaf for layer in layers for leaf in (layer.weight, layer.bias)]
        self._last: tuple[Tensor, tuple[int, bool], tuple[Tensor, ...]] | None = None

    def __call__(self, z: Tensor) -> Tensor:
        """z [S, N, D] -> [S, N], nats."""
        parts = self._parts(z)
        logits = self._known(z) or (
            decoded(self._layers, some.flatten(0, 1)).unflatten(0, some.shape[:2])
            for _, some in parts
        )
        return torch.cat(
            [
                (x * given - softplus(given)).sum(-1)
                for (x, _), given in zip(parts, logits, strict=True)
            ],
            1,
        )

    def score(self, z: Tensor) -> Tensor:
        r"""$\nabla_z \log p(x \mid z)$: z [S, N, D] -> [S, N, D]. Its gradient has no gradient."""
        found: Any = [Scored.apply(self._layers, *part, *self._leaves) for part in self._parts(z)]
        logits, scores = zip(*found, strict=True)
        self._last = (z, state_of(z), logits)
        return torch.cat(scores, 1)

    def _known(self, z: Tensor) -> tuple[Tensor, ...] | None:
        if self._last is None or self._last[0] is not z or self._last[1] != state_of(z):
            return None
        return self._last[2]

    def _parts(self, z: Tensor) -> list[tuple[Tensor, Tensor]]:
        few = max(1, AT_ONCE // len(z))
        return list(zip(self._x.split(few), z.split(few, 1), strict=True))


def state_of(z: Tensor) -> tuple[int, bool]:
    """How often z was written into, and whether gradients are wanted: what is known at one state is
    not known at another.
    """
    return z._version, torch.is_grad_enabled()
