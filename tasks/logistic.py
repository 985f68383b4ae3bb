"""Bayesian logistic regression on three data sets that samplers are compared on."""

from __future__ import annotations

import math
from functools import cache
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from harness.api import Data, Field, LogZ, Metric, Params, Target

from ._targets import LIMITS, columns, gauss_hermite, limits, numbers

NODES, ITERATIONS = 200, 500
TRUTHS = {
    "ionosphere": LogZ(-111.6095, 0.001, "adaptive importance sampling, two proposals"),
    "sonar": LogZ(-108.384, 0.001, "adaptive importance sampling, two proposals"),
    "breast-cancer": LogZ(-55.223, 0.001, "adaptive importance sampling, two proposals"),
}
POSITIVE = {"ionosphere": "good", "sonar": "R"}


@cache
def design(dataset: str) -> tuple[Tensor, Tensor]:
    """Return a column of ones with the standardised columns [n, D], and labels -1 or 1 [n]."""
    if dataset == "breast-cancer":
        from sklearn.datasets import load_breast_cancer

        raw, label = load_breast_cancer(return_X_y=True)
        x, y = torch.from_numpy(raw), torch.from_numpy(label).double()
    else:
        names = [name for name in columns(dataset) if name != "Class"]
        x = torch.stack([numbers(dataset, name) for name in names], 1)
        classes = columns(dataset)["Class"]
        y = torch.tensor([float(each == POSITIVE[dataset]) for each in classes]).double()
    centred = x - x.mean(0)
    scale = centred.square().mean(0).sqrt()  # with divisor n
    standardised = centred / torch.where(scale > 0, scale, 1.0)  # a constant column stays 0
    return torch.cat([torch.ones(len(x), 1).double(), standardised], 1), 2 * y - 1


@cache
def best_gaussian(dataset: str, is_diagonal: bool) -> float:
    r"""Return the bound of the best normal $N(m, S)$, of any covariance or with independent
    dimensions, nats.

    With $\eta_i \sim N(x_i^\top m, x_i^\top S x_i)$ under it, its optimum is where

    $$m = X^\top g, \quad g_i = y_i E[\sigma(-y_i \eta_i)], \qquad
    S^{-1} = P, \quad P = I + X^\top \mathrm{diag}(h) X, \quad
    h_i = E[\sigma(\eta_i) \sigma(-\eta_i)]$$

    (of independent dimensions $S_{jj}^{-1} = P_{jj}$), which is iterated, with Newton's step for m.
    Expectations are Gauss-Hermite sums: no noise is in them.
    """
    x, sign = design(dataset)
    nodes, weights = gauss_hermite(NODES)
    m, S, elbo = x.new_zeros(x.shape[1]), torch.eye(x.shape[1]).double(), -math.inf
    for _ in range(ITERATIONS):
        spread = (x @ S * x).sum(1).sqrt()
        margin = sign[:, None] * ((x @ m)[:, None] + spread[:, None] * nodes)  # [n, nodes]
        g = sign * (torch.sigmoid(-margin) @ weights)
        h = (torch.sigmoid(margin) * torch.sigmoid(-margin)) @ weights
        P = torch.eye(len(m)).double() + x.T @ (h[:, None] * x)
        likelihood = (logsigmoid(margin) @ weights).sum()
        before, elbo = elbo, float(likelihood - 0.5 * (S.trace() + m @ m - len(m) - S.logdet()))
        if abs(elbo - before) < 1e-9:
            break
        m = m + torch.linalg.solve(P, x.T @ g - m)
        S = torch.diag(1 / P.diagonal()) if is_diagonal else torch.linalg.inv(P)
    return elbo


class Logistic(Target, frozen=True):
    r"""Bayesian logistic regression with an intercept.

    $$w \sim N(0, I), \qquad y_i \mid w \sim \mathrm{Bernoulli}(\sigma(x_i^\top w))$$

    Columns are standardised by their own mean and standard deviation *with divisor n* (with
    n - 1 it is another density), a constant column stays 0, and a column of ones comes first. y = 1
    for good, R and benign.

    Source: Sigillito et al. 1989 (ionosphere), Gorman & Sejnowski 1988 (sonar), Street, Wolberg &
    Mangasarian 1993 (breast cancer); as targets, arXiv:2208.07698 and arXiv:2302.13834.
    """

    name: ClassVar[str] = "logistic"
    source: ClassVar[str] = "arXiv:2302.13834"
    variant: ClassVar[str] = "dataset"
    metric_info: ClassVar[dict[str, Metric]] = LIMITS

    dataset: Literal["ionosphere", "sonar", "breast-cancer"] = Field(
        "ionosphere", description="data"
    )

    @property
    def latent_dim(self) -> int:
        """The columns, and the intercept."""
        return design(self.dataset)[0].shape[1]

    def truth(self) -> LogZ:
        """As importance sampling has it."""
        return TRUTHS[self.dataset]

    def data(self) -> dict[str, Tensor]:
        """`x` [n, D] and `sign` [n]."""
        x, sign = design(self.dataset)
        return {"x": x, "sign": sign}

    def log_likelihood(self, params: Params, data: dict[str, Tensor], z: Tensor) -> Tensor:
        r"""$\log \sigma(\pm x_i^\top w)$."""
        return logsigmoid(data["sign"] * (z @ data["x"].T))

    def score(self, params: Params, data: dict[str, Tensor], z: Tensor) -> Tensor:
        r"""$\sum_i y_i \sigma(-y_i x_i^\top w)\, x_i - w$ with $y_i = \pm 1$."""
        signed = data["sign"][:, None] * data["x"]
        return torch.sigmoid(-z @ signed.T) @ signed - z

    def metrics(self, params: Params, data: Data) -> dict[str, Tensor]:
        """The gaps of the best Gaussians."""
        mean_field, full_rank = (best_gaussian(self.dataset, each) for each in (True, False))
        truth = self.truth().value
        return limits(mean_field=truth - mean_field, full_rank=truth - full_rank)
