"""The result database: what was asked for, who is running it, and what came out. The only package
that imports sqlalchemy.
"""

from __future__ import annotations

from harness.store.evaluations import newest
from harness.store.leases import CRASHED, LEASE_S
from harness.store.owner import Owner
from harness.store.retractions import Retraction, Retractions
from harness.store.rows import (
    ArtifactFile,
    CheckpointFile,
    Claim,
    Curve,
    Estimate,
    Evaluation,
    File,
    HistoryRow,
    OpenRun,
    Outcome,
    Progress,
    RunRow,
    RunStatus,
    StoredScore,
)
from harness.store.scores import (
    CODE_DIGITS,
    CellRow,
    Replicate,
    Scores,
    Snapshot,
    is_newest,
    plugin_names,
)
from harness.store.store import ResultStore
from harness.store.transfer import Adoption, Result
from harness.store.upgrade import HEAD, backup, info, upgrade

__all__ = [
    "CODE_DIGITS",
    "CRASHED",
    "HEAD",
    "LEASE_S",
    "Adoption",
    "ArtifactFile",
    "CellRow",
    "CheckpointFile",
    "Claim",
    "Curve",
    "Estimate",
    "Evaluation",
    "File",
    "HistoryRow",
    "OpenRun",
    "Outcome",
    "Owner",
    "Progress",
    "Replicate",
    "Result",
    "ResultStore",
    "Retraction",
    "Retractions",
    "RunRow",
    "RunStatus",
    "Scores",
    "Snapshot",
    "StoredScore",
    "backup",
    "info",
    "is_newest",
    "newest",
    "plugin_names",
    "upgrade",
]
