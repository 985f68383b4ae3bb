"""What is known of metrics whatever computes them."""

from __future__ import annotations

PARETO_K_LIMIT = 0.7
"""Above this shape of the weights' tail, estimates by importance sampling are not to be trusted.

Source: Vehtari et al. 2024, "Pareto smoothed importance sampling", JMLR 25.
"""
IMPORTANCE_ESTIMATES = ("log_evidence", "nll")
"""The metrics that are estimated by importance sampling."""
MLE_PREFIX = "mle_"
"""What the name of a metric begins with where it is that of the exact maximum-likelihood fit to the
same data.
"""
