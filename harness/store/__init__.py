"""The result database: what was asked for, who is running it, and what came out. The only package
that imports sqlalchemy.
"""

from __future__ import annotations

from harness.store.errata import Errata, Erratum
from harness.store.rows import (
    ArtifactFile,
    CheckpointFile,
    Claim,
    Curve,
    File,
    HistoryRow,
    Metric,
    OpenRun,
    Outcome,
    Owner,
    RunRow,
    Saved,
    Standing,
)
from harness.store.scores import CODE, CellRow, Replicate, Scores, is_newest
from harness.store.snapshot import Snapshot
from harness.store.store import ResultStore
from harness.store.transfer import Adoption, Result
from harness.store.upgrade import HEAD, backup, current_revision, info, upgrade

__all__ = [
    "CODE",
    "HEAD",
    "Adoption",
    "ArtifactFile",
    "CellRow",
    "CheckpointFile",
    "Claim",
    "Curve",
    "Errata",
    "Erratum",
    "File",
    "HistoryRow",
    "Metric",
    "OpenRun",
    "Outcome",
    "Owner",
    "Replicate",
    "Result",
    "ResultStore",
    "RunRow",
    "Saved",
    "Scores",
    "Snapshot",
    "Standing",
    "backup",
    "current_revision",
    "info",
    "is_newest",
    "upgrade",
]
