"""What a search is where nobody says otherwise. Plain values, for whoever must not wait for
anything to be imported.
"""

from __future__ import annotations

from typing import Literal

Sampler = Literal["tpe", "gp", "random", "grid"]
Pruner = Literal["none", "median", "hyperband", "wilcoxon"]
TRIALS = 30
SEEDS, REPORT_SEEDS = "1000-1002", "0-9"
SAMPLER: Sampler = "tpe"
