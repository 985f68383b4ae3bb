r"""Update rules on one flat matrix of parameters [R, P], a row a replicate. They climb: bounds are
maximised.

Written as functions of (parameters, gradient, moments, step) so that everything they remember can
be saved and restored to the bit. The formulas and constants are torch's defaults.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from harness.base.spec import Protocol

EPSILON = 1e-8
BETA_1, BETA_2 = 0.9, 0.999

Moments = dict[str, Tensor]
Update = Callable[[Tensor, Tensor, Moments, int, Tensor, Protocol], None]


def adam(
    flat: Tensor, gradient: Tensor, moments: Moments, step: int, rate: Tensor, protocol: Protocol
) -> None:
    r"""$\theta \mathrel{+}= \eta\, \hat m / (\sqrt{\hat v} + \epsilon)$ (Kingma & Ba 2015,
    arXiv:1412.6980).
    """
    mean = moments["first"].lerp_(gradient, 1 - BETA_1)
    second = moments["second"].mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
    scale = second.sqrt().div_(math.sqrt(1 - BETA_2 ** (step + 1))).add_(EPSILON)
    flat.addcmul_(rate / (1 - BETA_1 ** (step + 1)), mean / scale)


def adamw(
    flat: Tensor, gradient: Tensor, moments: Moments, step: int, rate: Tensor, protocol: Protocol
) -> None:
    r"""`adam` after $\theta \mathrel{-}= \eta \lambda\, \theta$ with $\lambda$ = `weight_decay`
    (Loshchilov & Hutter 2019, arXiv:1711.05101).
    """
    flat.mul_(1 - rate * protocol.weight_decay)
    adam(flat, gradient, moments, step, rate, protocol)


def sgd(
    flat: Tensor, gradient: Tensor, moments: Moments, step: int, rate: Tensor, protocol: Protocol
) -> None:
    r"""$\theta \mathrel{+}= \eta\, b$ with $b \leftarrow \mu b + g$ and $\mu$ = `momentum`
    (Polyak 1964, as torch has it).
    """
    velocity = moments["first"].mul_(protocol.momentum).add_(gradient)
    flat.addcmul_(rate, velocity)


def adamax(
    flat: Tensor, gradient: Tensor, moments: Moments, step: int, rate: Tensor, protocol: Protocol
) -> None:
    r"""$\theta \mathrel{+}= \eta\, \hat m / u$ with $u \leftarrow \max(\beta_2 u, |g| + \epsilon)$
    (arXiv:1412.6980, Section 7.1).
    """
    mean = moments["first"].lerp_(gradient, 1 - BETA_1)
    largest = moments["second"]
    largest.copy_((BETA_2 * largest).maximum(gradient.abs() + EPSILON))
    flat.addcmul_(rate / (1 - BETA_1 ** (step + 1)), mean / largest)


def rmsprop(
    flat: Tensor, gradient: Tensor, moments: Moments, step: int, rate: Tensor, protocol: Protocol
) -> None:
    r"""$\theta \mathrel{+}= \eta\, g / (\sqrt v + \epsilon)$, $v$ a mean of $g^2$ decaying by
    `rmsprop_decay` (Tieleman & Hinton 2012).
    """
    decay = protocol.rmsprop_decay
    second = moments["second"].mul_(decay).addcmul_(gradient, gradient, value=1 - decay)
    flat.addcmul_(rate, gradient / second.sqrt().add_(EPSILON))


UPDATES: dict[str, tuple[Update, tuple[str, ...]]] = {
    "adam": (adam, ("first", "second")),
    "adamw": (adamw, ("first", "second")),
    "adamax": (adamax, ("first", "second")),
    "rmsprop": (rmsprop, ("second",)),
    "sgd": (sgd, ("first",)),
}
"""Each rule, by its name in `Protocol.optimiser`, with the names of the moments that it keeps."""


def learning_rate(protocol: Protocol, step: int) -> float:
    r"""$\eta$ at a step; `cosine`: $\tfrac\eta2 (1 + \cos(\pi t / T))$ (Loshchilov & Hutter 2017,
    arXiv:1608.03983).
    """
    if protocol.lr_schedule == "constant":
        return protocol.lr
    return 0.5 * protocol.lr * (1 + math.cos(math.pi * step / protocol.steps))


def total_travel(protocol: Protocol, steps: int) -> float:
    """The sum of the learning rates of the first `steps` steps: about the furthest that a parameter
    can have moved.
    """
    if protocol.lr_schedule == "constant":
        return protocol.lr * steps
    return math.fsum(learning_rate(protocol, step) for step in range(steps))
