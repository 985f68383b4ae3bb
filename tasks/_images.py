"""Binary images with a latent each: what the image tasks share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from harness.api import (
    Batch,
    Data,
    DataError,
    DiagNormal,
    Field,
    Noise,
    Params,
    Problem,
    Task,
    abstractmethod,
)
from harness.nets import init_linear

from ._decoder import Likelihood, decoded
from ._idx import Split
from ._idx import read as read_idx
from ._nets import Nets, dense
from .gaussian import mini_batch

PART = 10  # images that are scored at a time: it bounds memory and touches no number
RECOMMENDED: dict[str, dict[str, Any]] = {
    "vb": {"particles": 1},
    "iwae": {"particles": 40},
    "pnf": {"particles": 1},
    "iaf": {"particles": 1},
    "hvae": {
        "particles": 1,
        "method.init_step": 0.2,
        "method.init_T0": math.sqrt(1.5),
        "method.tempering": "fixed-variance",
    },
    "hvae-iaf": {
        "particles": 1,
        "method.init_step": 0.2,
        "method.init_T0": math.sqrt(1.5),
        "method.tempering": "fixed-variance",
    },
}
"""The HVAE authors' MNIST code: first step size 0.2 below 0.5, T_0^2 = 1.5 cooled in the variance;
IWAE with the 2020 report's k.
"""


def binarised(images: Tensor, how: str, stream: str) -> Tensor:
    """Grey images [n, P], 0 to 255, as zeros and ones: above one half, or drawn from a constant
    stream with their value as probability.
    """
    if how == "threshold":
        return (images > 127).to(torch.uint8)
    drawn = Noise([f"images/{stream}"]).uniform(
        *images.shape, like=torch.zeros((), dtype=torch.float32)
    )
    return (drawn * 255 < images).to(torch.uint8)


class BinaryImages(Task, frozen=True):
    r"""Binary images $x$ of P pixels under a latent Gaussian and a decoder net.

    $$z \sim N(0, I), \qquad x_p \mid z \sim \mathrm{Bernoulli}(\mathrm{logistic}(l_p(z))), \qquad
      \log p(x, z) = \log N(z) + \textstyle\sum_p \big[x_p l_p - \log(1 + e^{l_p})\big]$$

    The base is an encoder's normal; its last hidden layer is the context that flows are amortised
    with.
    """

    stacks: ClassVar[bool] = False
    default_base: ClassVar[str] = "learned"
    score_to_tune: ClassVar[str] = "validation_elbo"
    headline: ClassVar[tuple[str, ...]] = ("nll", "elbo", "ess", "pareto_k")
    recommended: ClassVar[dict[str, dict[str, Any]]] = RECOMMENDED

    binarisation: Literal["dynamic", "threshold", "fixed"] = Field(
        "dynamic", description="how grey pixels become zeros and ones"
    )
    latent: int = Field(64, ge=1, description="latent dimensions")
    n_train: int = Field(
        50_000, ge=1, description="images to learn from: the first ones of the training files"
    )
    n_validation: int = Field(
        10_000, ge=1, description="images after those, for early stopping and tuning"
    )
    n_test: int = Field(
        10_000, ge=1, description="images to score: the first ones of the test files"
    )

    @abstractmethod
    def grey(self, split: Split) -> np.ndarray:
        """All images of a split, "train" or "test": uint8 [n, P]."""

    @property
    @abstractmethod
    def nets(self) -> Nets:
        """The encoder's trunk and the decoder."""

    @property
    def latent_dim(self) -> int:
        """D."""
        return self.latent

    @property
    def n_context(self) -> int:
        """The encoder's last hidden units."""
        return self.nets.n_hidden

    def load(self, noise: Noise) -> Data:
        """`x` uint8 [n, P] of each split: zeros and ones, but grey where training draws them anew
        at every step.
        """
        return splits(self)

    def init(self, base: str, noise: Noise) -> Params:
        """The weights of both nets; the last bias is the mean pixel's logit."""
        nets = self.nets
        params = nets.init(noise)
        mean = self.grey("train")[: self.n_train].mean() / 255
        params["decoder.out.bias"] = torch.full_like(
            params["decoder.out.bias"], math.log(mean / (1 - mean))
        )
        if base == "learned":
            params |= init_linear("encoder.mean", nets.n_hidden, self.latent, noise)
            params |= init_linear("encoder.scale", nets.n_hidden, self.latent, noise)
        return params

    def batch(self, data: Data, step: int, batch_size: int | None, noise: Noise) -> Batch:
        """`x` uint8 [N, P]: all images, or those of a mini-batch."""
        x = data.train["x"]
        x = x if batch_size is None else mini_batch(x[None], step, batch_size, noise)[0]
        if self.binarisation != "dynamic":
            return {"x": x}
        drawn = noise.at(step).uniform(*x.shape, like=x.new_zeros((), dtype=torch.float32))
        return {"x": (drawn * 255 < x).to(torch.uint8)}

    def scored_batches(self, data: Data, batch_size: int | None, noise: Noise) -> Iterator[Batch]:
        """The test images, in parts."""
        return parts(data.test)

    def validation_batches(self, data: Data) -> Iterator[Batch]:
        """The validation images, in parts."""
        return parts(data.validation)

    def problem(self, params: Params, batch: Batch, base: str, training: bool = False) -> Problem:
        """The joint density of each image and its latent; the score is written out: no automatic
        differentiation of it is needed.
        """
        nets, layers = self.nets, self.nets.decoder(params)
        x = batch["x"].to(params["decoder.out.bias"].dtype)  # [N, P]
        hidden = nets.hidden(params, x)
        likelihood = Likelihood(layers, nets.own_order(x))

        def log_joint(z: Tensor) -> Tensor:
            return log_prior(z) + likelihood(z)

        def score(z: Tensor) -> Tensor:
            return likelihood.score(z) - z

        return Problem(log_joint, score, self.base(params, hidden, base), hidden)

    def simulate(self, params: Params, batch: Batch, noise: Noise) -> tuple[Batch, Tensor]:
        """As many images as in the batch, pixels drawn from the decoder's probabilities."""
        x = batch["x"]
        z = noise.normal(1, len(x), self.latent, like=params["decoder.out.bias"])[0]
        probability = self.decode(params, z).flatten(1)
        drawn = noise.uniform(1, *x.shape, like=probability)[0]
        return {"x": (drawn < probability).to(torch.uint8)}, z

    def base(self, params: Params, hidden: Tensor, base: str) -> DiagNormal:
        """The prior N(0, I), or the encoder's mean and softplus scale: [N, D] each."""
        if base == "prior":
            zeros = hidden.new_zeros(len(hidden), self.latent)
            return DiagNormal(zeros, zeros)
        return DiagNormal(
            dense(params, "encoder.mean", hidden),
            softplus(dense(params, "encoder.scale", hidden)).log(),
        )

    def decode(self, params: Params, z: Tensor) -> Tensor:
        """The probability of each pixel: z [..., D] -> [..., side, side]."""
        logits = decoded(self.nets.decoder(params), z.reshape(-1, self.latent))
        pixels = squares(self.nets.row_order(logits.sigmoid()))
        return pixels.reshape(*z.shape[:-1], *pixels.shape[-2:])

    def originals(self, batch: Batch) -> Tensor:
        """Zeros and ones [N, side, side]."""
        return squares(batch["x"]).to(torch.get_default_dtype())

    def read_images(self, path: Path) -> np.ndarray:
        """An IDX file, gzipped or not: uint8 [n, height, width]."""
        return read_idx(path, 3)

    def observe(self, images: Tensor) -> Batch:
        """`x` uint8 [n, P], binarised as the test images are: the first test images become the same
        zeros and ones again.
        """
        return {"x": binarised(images.flatten(1), self.binarisation, "test")}


@lru_cache(maxsize=2)
def splits(task: BinaryImages) -> Data:
    """The three splits of an image task, the same for every seed."""
    seen, unseen = torch.tensor(task.grey("train")), torch.tensor(task.grey("test"))
    end = task.n_train + task.n_validation
    if end > len(seen) or task.n_test > len(unseen):
        available = (
            f"{len(seen):,} for n_train and n_validation together, {len(unseen):,} for n_test"
        )
        raise DataError(f"Task '{task.name}' has fewer images than asked for: {available}.")
    train = seen[: task.n_train]
    train = (
        train if task.binarisation == "dynamic" else binarised(train, task.binarisation, "train")
    )
    validation = binarised(seen[task.n_train : end], task.binarisation, "validation")
    test = binarised(unseen[: task.n_test], task.binarisation, "test")
    return Data({"x": train}, {"x": validation}, {"x": test})


def squares(images: Tensor) -> Tensor:
    """[n, P] -> [n, side, side]."""
    return images.unflatten(-1, (math.isqrt(images.shape[-1]),) * 2)


def log_prior(z: Tensor) -> Tensor:
    """log N(z; 0, I): [S, N, D] -> [S, N]."""
    return DiagNormal(torch.zeros_like(z[0]), torch.zeros_like(z[0])).log_prob(z)


def parts(split: dict[str, Tensor] | None) -> Iterator[Batch]:
    """A split's images, a few at a time."""
    return ({"x": part} for part in (split or {"x": torch.zeros(0, 1)})["x"].split(PART))
