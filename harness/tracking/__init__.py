"""The MLflow mirror: MLflow shows what the result database says, and nothing else is kept there.
The only package that imports mlflow.

`sync` brings MLflow's copy of one run to what the database says; doing it twice changes nothing.
`Mirror` does it in a process of its own beside the runs, so that an MLflow that is locked, slow or
away never holds up a run.
"""

from __future__ import annotations

from harness.tracking.audit import Copies, compare_copies, delete_copies, remirror
from harness.tracking.mirror import Mirror, repair
from harness.tracking.runs import sync
from harness.tracking.server import (
    MirrorError,
    connect,
    create_store,
    local_copy,
    start_page,
    ui_command,
)

__all__ = [
    "Copies",
    "Mirror",
    "MirrorError",
    "compare_copies",
    "connect",
    "create_store",
    "delete_copies",
    "local_copy",
    "remirror",
    "repair",
    "start_page",
    "sync",
    "ui_command",
]
