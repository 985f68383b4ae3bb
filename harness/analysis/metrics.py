"""What each metric means, and what is stored of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from harness.base.metrics import MLE_PREFIX
from harness.store import ResultStore

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Meaning:
    """A metric's name, what it says, its unit, and its better end; None where it explains and never
    ranks.
    """

    name: str
    says: str
    unit: str
    better: Better | None


KNOWN = {
    meaning.name: meaning
    for meaning in (
        Meaning("elbo", "evidence lower bound", "nats", "higher"),
        Meaning(
            "log_evidence", "importance-sampling estimate of the log-evidence", "nats", "higher"
        ),
        Meaning("validation_elbo", "bound on validation data", "nats an example", "higher"),
        Meaning(
            "nll", "negative log-likelihood, by importance sampling", "nats an example", "lower"
        ),
        Meaning(
            "elbo_gap",
            "exact log-evidence at the learned parameters less the bound",
            "nats",
            "lower",
        ),
        Meaning(
            "evidence_gap",
            "log-evidence at the maximum less that at the learned parameters",
            "nats",
            "lower",
        ),
        Meaning(
            "theta_sq_error",
            "squared distance of all model parameters from the truth",
            "squared units",
            "lower",
        ),
        Meaning(
            "delta_sq_error", "squared distance of delta from the truth", "squared units", "lower"
        ),
        Meaning(
            "sigma_sq_error", "squared distance of sigma from the truth", "squared units", "lower"
        ),
        Meaning(
            "excess_theta_sq_error",
            "squared error less that of the exact maximum-likelihood fit",
            "squared units",
            None,
        ),
        Meaning(
            "mean_field_gap", "the best gap that a mean-field posterior can have", "nats", None
        ),
        Meaning("ess", "effective sample size of the importance weights", "particles", "higher"),
        Meaning(
            "pareto_k",
            "shape of the tail of the importance weights; above 0.7 estimates are not to be trusted",
            "",
            "lower",
        ),
        Meaning(
            "bound_trend_z",
            "slope of the bound over its standard error at the end of training",
            "",
            None,
        ),
        Meaning("travel_used", "share of the way that parameters could travel", "", None),
    )
}


def meaning(name: str) -> Meaning:
    """What a metric means. Of one that nobody has described, errors, gaps and losses are better
    low; others do not rank.

    >>> meaning("elbo").better, meaning("my_gap").better, meaning("colour").better
    ('higher', 'lower', None)
    """
    if name in KNOWN:
        return KNOWN[name]
    lower = name.endswith(("_error", "_gap", "_loss", "_nll")) and not name.startswith(MLE_PREFIX)
    return Meaning(name, "", "", "lower" if lower else None)


class MetricCache:
    """What a database holds of each metric when it is first asked for; without a database, nothing."""

    def __init__(self, store: ResultStore | None) -> None:
        self._store = store
        self._read: dict[str, dict[str, float]] = {}

    @cached_property
    def names(self) -> list[str]:
        """The names of all stored metrics, sorted."""
        return [] if self._store is None else self._store.scores.metric_names()

    def of(self, name: str) -> dict[str, float]:
        """A metric by run, of all runs that have it."""
        if name not in self._read:
            self._read[name] = (
                {}
                if self._store is None or name not in self.names
                else self._store.scores.metric(name)
            )
        return self._read[name]
