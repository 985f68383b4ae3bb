r"""What errors on the Gaussian task must be, by calculation, where an optimum is known: each from
the true sigma alone.

Per dimension let $v$ be the variance of the data, near $\sigma^2$, and $m = \bar x - \delta$. With
draws $z \sim q$ the data's part of the bound is $-n \log s - \tfrac{n}{2 s^2} \big[v + E_q (m -
z)^2\big]$ as a function of the fitted $s$. The objective that was released for the flows lacks a
factor 1/2 on $\sum_i (x_i - \delta)^2 / s^2$: it has a further $-\tfrac{n}{2 s^2} \big[v +
m^2\big]$. Either is largest at $m = 0$ with draws around 0; what is left is a choice of $s$. Terms
of order $1/n$ are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.api import ClosedForm


def closed_forms(sigma: Sequence[float], n_data: int) -> dict[str, ClosedForm]:
    """Return every closed form, by name, for a true sigma and the points of a data set."""
    return {
        "missing-half": ClosedForm(
            missing_half(sigma), "sigma_hat = sqrt(2) sigma, as the objective lacks a factor 1/2"
        ),
        "no-contraction-missing-half": ClosedForm(
            no_contraction_missing_half(sigma),
            "sigma_hat^2 = 2 sigma^2 + 1, as the objective lacks a factor 1/2 and the flow "
            "cannot contract the prior",
        ),
        "no-contraction": ClosedForm(
            no_contraction(sigma),
            "sigma_hat^2 = sigma^2 + 1, as the draws stay as wide as the prior",
        ),
        "fit-of-sigma": ClosedForm(
            fit_of_sigma(sigma, n_data), "the exact maximum-likelihood fit: sigma^2 / (2 n)"
        ),
        "drawn-latent": ClosedForm(
            drawn_latent(sigma, n_data),
            "the exact maximum-likelihood fit, which is off by the drawn latent: "
            "about 1 a dimension",
            drawn_latent_deviation(sigma, n_data),
        ),
    }


def missing_half(sigma: Sequence[float]) -> float:
    r"""$\sum_j (\sqrt2 - 1)^2 \sigma_j^2$: the released objective, for a method that follows the
    posterior.

    The draws become as narrow as the posterior, so $E_q z^2$ is of order $s^2 / n$. What is left,
    $-n \log s - n \sigma^2 / s^2$, is largest at $s^2 = 2 \sigma^2$, so $\hat\sigma = \sqrt2\,
    \sigma$.
    """
    return math.fsum((math.sqrt(2) * s - s) ** 2 for s in sigma)


def no_contraction_missing_half(sigma: Sequence[float]) -> float:
    r"""$\sum_j \big(\sqrt{2 \sigma_j^2 + 1} - \sigma_j\big)^2$: the released objective, for a flow
    that cannot contract.

    The draws stay $N(0, 1)$ in nearly every dimension, so $E_q z^2 = 1$, which keeps its factor
    1/2: $-n \log s - \tfrac{n}{2 s^2} (2 \sigma^2 + 1)$ is largest at $s^2 = 2 \sigma^2 + 1$.
    """
    return math.fsum((math.sqrt(2 * s * s + 1) - s) ** 2 for s in sigma)


def no_contraction(sigma: Sequence[float]) -> float:
    r"""$\sum_j \big(\sqrt{\sigma_j^2 + 1} - \sigma_j\big)^2$: the density itself, for draws that
    stay $N(0, 1)$.

    $-n \log s - \tfrac{n}{2 s^2} (\sigma^2 + 1)$ is largest at $s^2 = \sigma^2 + 1$: what the draws
    cannot give up goes into the noise.
    """
    return math.fsum((math.sqrt(s * s + 1) - s) ** 2 for s in sigma)


def fit_of_sigma(sigma: Sequence[float], n_data: int) -> float:
    r"""$\sum_j \sigma_j^2 / (2 n)$: the exact maximum-likelihood fit.

    $\hat\sigma^2$ is $\sigma^2 \chi^2_{n-1} / (n - 1)$ up to $O(1/n)$, of variance $2 \sigma^4 /
    n$; by the delta method that of $\hat\sigma$ is $\sigma^2 / (2 n)$.
    """
    return math.fsum(s * s for s in sigma) / (2 * n_data)


def drawn_latent(sigma: Sequence[float], n_data: int) -> float:
    r"""$\sum_j (1 + \sigma_j^2 / n)$, which is about d: the exact maximum-likelihood fit of delta.

    It is the sample mean, $\hat\delta - \delta = z + \sigma \bar\varepsilon \sim N(0, 1 + \sigma^2
    / n)$: the one drawn latent cannot be told from delta.
    """
    return math.fsum(1 + s * s / n_data for s in sigma)


def drawn_latent_deviation(sigma: Sequence[float], n_data: int) -> float:
    r"""$\big(\sum_j 2 (1 + \sigma_j^2 / n)^2\big)^{1/2}$, about $\sqrt{2 d}$: a squared normal of
    variance $v$ has the variance $2 v^2$.
    """
    return math.sqrt(math.fsum(2 * (1 + s * s / n_data) ** 2 for s in sigma))
