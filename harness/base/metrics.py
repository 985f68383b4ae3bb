"""What metrics mean: a unit, which end is better, a description; those of the harness itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Better = Literal["lower", "higher"]
PARETO_K_LIMIT = 0.7
"""Above this shape of the weights' tail, estimates by importance sampling are not to be trusted.

Source: Vehtari et al. 2024, "Pareto smoothed importance sampling", JMLR 25.
"""
DRAWS_FOR_INTERVAL = 10_000
"""Of fewer draws an interval of such an estimate covers too seldom, also where Pareto k is below
the limit (tests/test_coverage.py).
"""
IMPORTANCE_ESTIMATES = {"log_evidence": "\u2265", "nll": "\u2264"}
"""The metrics that are estimated by importance sampling: the truth is at least, or at most, what is
estimated, in expectation.
"""
MLE_PREFIX = "mle_"
"""What the name of a metric begins with where it is that of the exact maximum-likelihood fit to the
same data.
"""

PERCENTILES = "_percentiles"
"""Ends the name of a curve of a metric over problems: p % of them have a value up to its point p.
"""
RANKS = "_ranks"
"""Ends the name of a curve of how frequent each rank is, 1 where all are as likely."""
NATS = 0.1
"""The difference in nats of two bounds that does not matter."""
MLE_ROW = "exact MLE"
"""The row of a table that has these metrics."""
RISING_Z = 3.0
"""`bound_trend_z` above which the bound still rose at the end of training."""


@dataclass(frozen=True)
class Metric:
    """The meaning of a metric; `better` is None where it explains and does not rank. Within
    `margin`, in its unit, two values are as good as one another; None: within 5 % of the value.
    One that is a limit of another metric, `limit_of`, is a row of that one's tables, called `row`.
    """

    unit: str = ""
    better: Better | None = None
    description: str = ""
    margin: float | None = None
    limit_of: str | None = None
    row: str = ""

    def __post_init__(self) -> None:
        """Raises: ValueError: `better` is another word."""
        if self.better not in (None, *get_args(Better)):
            raise ValueError(f"better={self.better!r} is not 'lower', 'higher' or None")


def why_one_sided(name: str, metrics: Mapping[str, float], n_draws: int) -> str | None:
    """Return why an estimate has no interval and is a bound only; None where it has one.

    Args:
        name: the metric's.
        metrics: all of the run.
        n_draws: the draws of each problem, `eval_particles`.
    """
    if name not in IMPORTANCE_ESTIMATES:
        return None
    pareto_k = metrics.get("pareto_k", math.nan)
    if math.isnan(pareto_k):
        return "Pareto k is not known"
    if pareto_k > PARETO_K_LIMIT:
        return f"Pareto k is above {PARETO_K_LIMIT}"
    return f"fewer than {DRAWS_FOR_INTERVAL:,} draws" if n_draws < DRAWS_FOR_INTERVAL else None


HARNESS_METRICS = {
    "elbo": Metric("nats", "higher", "evidence lower bound", NATS),
    "log_evidence": Metric(
        "nats", "higher", "importance-sampling estimate of the log-evidence", NATS
    ),
    "validation_elbo": Metric("nats an example", "higher", "bound on validation data", NATS),
    "nll": Metric(
        "nats an example", "lower", "negative log-likelihood, by importance sampling", NATS
    ),
    "log_evidence_ais": Metric(
        "nats", "higher", "log-evidence by annealed importance sampling: a lower bound", NATS
    ),
    "nll_ais": Metric(
        "nats an example",
        "lower",
        "negative log-likelihood by annealed importance sampling: an upper bound",
        NATS,
    ),
    "bdmc_gap": Metric(
        "nats",
        None,
        "upper less lower bound by annealed importance sampling, in both directions",
    ),
    "ess_ais": Metric("chains", None, "effective sample size of the annealed chains"),
    "nll_ais_se_examples": Metric(
        "nats an example", None, "standard error of nll_ais over the test examples"
    ),
    "elbo_gap": Metric(
        "nats", "lower", "exact log-evidence at the learned parameters less the bound"
    ),
    "evidence_gap": Metric(
        "nats", "lower", "log-evidence at the maximum less that at the learned parameters"
    ),
    "eubo": Metric("nats", "lower", "evidence upper bound, over exact draws", NATS),
    "eubo_gap": Metric("nats", "lower", "evidence upper bound less the exact log-evidence"),
    "reciprocal_log_evidence": Metric(
        "nats", None, "estimate of the log-evidence by the reciprocal weights of exact draws"
    ),
    "forward_ess": Metric(
        "",
        "higher",
        "effective sample size over draws, as exact draws have it: it sees modes that are missed",
    ),
    "mmd2": Metric("", "lower", "squared maximum mean discrepancy from exact draws"),
    "mmd2_weighted": Metric("", "lower", "mmd2 of the draws resampled by their weights"),
    "sliced_wasserstein": Metric(
        "units of z", "lower", "sliced Wasserstein distance to exact draws, less that of exact ones"
    ),
    "sliced_wasserstein_weighted": Metric(
        "units of z", "lower", "sliced_wasserstein of the draws resampled by their weights"
    ),
    "mean_z": Metric("standard errors", "lower", "error of the means of the draws; 1 is exact"),
    "variance_z": Metric(
        "standard errors", "lower", "error of the variances of the draws; 1 is exact"
    ),
    "quantile_z": Metric(
        "standard errors", "lower", "error of the quantiles of the draws; 1 is exact"
    ),
    "sbc_chi2": Metric(
        "", "lower", "unevenness of the ranks of exact draws among the draws; 1 is calibrated", 0.05
    ),
    "sbc_chi2_weighted": Metric(
        "", "lower", "sbc_chi2 of the draws resampled by their weights", 0.05
    ),
    "ess": Metric("particles", "higher", "effective sample size of the importance weights"),
    "pareto_k": Metric(
        "",
        "lower",
        "shape of the tail of the importance weights; "
        f"above {PARETO_K_LIMIT} estimates are not to be trusted",
    ),
    "pareto_k_share": Metric(
        "", "lower", f"share of the problems whose Pareto k is above {PARETO_K_LIMIT}"
    ),
    "elbo_se_examples": Metric(
        "nats an example", None, "standard error of the bound over the test examples"
    ),
    "nll_se_examples": Metric(
        "nats an example", None, "standard error of nll over the test examples"
    ),
    "bound_trend_z": Metric(
        "", None, "slope of the bound over its standard error at the end of training"
    ),
    "scored_step": Metric(
        "steps", None, "steps before the parameters that are scored: fewer than all after a spike"
    ),
    "last_elbo": Metric("nats", None, "evidence lower bound of the last parameters"),
    "travel_used": Metric("", None, "share of the way that parameters could travel"),
}
"""The metrics that the harness computes for every task, or for every task with an oracle."""


def metric_by_name(name: str) -> Metric:
    """Return what a metric means that no task declares, by its name or its ending.

    >>> metric_by_name("elbo").better, metric_by_name("my_gap").better, metric_by_name("hue").better
    ('higher', 'lower', None)
    """
    is_loss = name.endswith(("_error", "_gap", "_loss", "_nll")) and not name.startswith(MLE_PREFIX)
    return HARNESS_METRICS.get(name) or Metric(better="lower" if is_loss else None)
