"""Stored results for analysis: `load` gives pandas frames, and `bench export` writes the same tables to files.

>>> frames = load(method="hvae*", task="gaussian-25")  # doctest: +SKIP
>>> frames.runs.groupby(["method", "settings"])["metrics.elbo_gap"].mean()  # doctest: +SKIP
"""

from __future__ import annotations

from harness.results.frames import Results, load

__all__ = ["Results", "load"]
