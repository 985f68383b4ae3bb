"""The result database: what was asked for, who is running it, and what came out. The only package that imports sqlalchemy."""

from __future__ import annotations

from harness.store.rows import (
    ArtifactFile,
    CheckpointFile,
    Claim,
    Curve,
    HistoryRow,
    Metric,
    NewRun,
    Outcome,
    Owner,
    RunRow,
    Saved,
)
from harness.store.store import ResultStore
from harness.store.upgrade import HEAD, backup, current_revision, info, upgrade

__all__ = [
    "HEAD",
    "ArtifactFile",
    "CheckpointFile",
    "Claim",
    "Curve",
    "HistoryRow",
    "Metric",
    "NewRun",
    "Outcome",
    "Owner",
    "ResultStore",
    "RunRow",
    "Saved",
    "backup",
    "current_revision",
    "info",
    "upgrade",
]
