"""What goes into the result database and what comes out of it. Plain values; no SQL."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from harness.base.spec import Plan, Status
from harness.base.workspace import NOWHERE, Edition, Workspace, checkpoint_name
from harness.store.owner import Owner

Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class RunRow:
    """A stored run. Times are seconds since 1970, UTC; `wall_s` is of work over all attempts."""

    key: str
    cell: str
    method: str
    method_label: str
    method_source: str | None
    task: str
    task_source: str | None
    task_label: str
    stacks: int
    seed: int
    spec: dict[str, Any]
    status: Status
    reason: str | None
    step: int
    steps: int
    settings: dict[str, Any]
    source_hash: str
    protocol: str
    created_at: float
    started_at: float | None
    finished_at: float | None
    wall_s: float
    fence: int
    crashes: int
    owner: Owner | None
    lease_expires: float | None
    mlflow_run_id: str | None
    revision: int
    mirrored_revision: int
    traceback: str | None


@dataclass(frozen=True)
class RunStatus:
    """How far a run is."""

    status: Status
    step: int
    steps: int
    wall_s: float
    crashes: int
    source_hash: str


class OpenRun(NamedTuple):
    """A run that is still to be made; `plan` is the stored plan's hash, `holder` the living process
    that is at it.
    """

    key: str
    cell: str
    stacks: bool
    plan: str | None
    fence: int
    holder: Owner | None


@dataclass(frozen=True)
class HistoryRow:
    """One change of a run's status."""

    at: float
    status: Status
    reason: str | None
    step: int
    fence: int
    owner: str | None


@dataclass(frozen=True)
class Claim:
    """The right to write one run, until someone else's claim raises its fence. `step`, `wall_s` and
    `plan` are of the attempt before.
    """

    key: str
    fence: int
    seed: int
    step: int
    wall_s: float
    plan: Plan | None
    edition: Edition


@dataclass(frozen=True)
class Estimate:
    """A number of a result, which may be NaN or infinite, and its standard error where it has
    one.
    """

    value: float
    se: float | None = None


class Evaluation(NamedTuple):
    """How a stored run was scored: by which estimator, in which version, and what differs from the
    run's own protocol, as canonical JSON.
    """

    estimator: str
    version: int
    settings: str

    def __str__(self) -> str:
        """`evaluation 1, eval_particles=100000`."""
        differs = "".join(f", {name}={value}" for name, value in json.loads(self.settings).items())
        return f"{self.estimator} {self.version}{differs}"


@dataclass(frozen=True)
class StoredScore:
    """A metric that was computed from a stored run; `wall_s` is of its whole evaluation."""

    run: str
    name: str
    estimate: Estimate
    evaluation: Evaluation
    scored_at: float
    wall_s: float
    environment: str


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint on disk; `size` in bytes. Its folder follows from its edition."""

    role: str
    step: int
    sha256: str
    size: int
    edition: Edition = field(default=NOWHERE, compare=False)

    @property
    def name(self) -> str:
        return checkpoint_name(self.step)

    def path_in(self, workspace: Workspace) -> Path:
        """Return where it lies. Raises a `StoreError` where its row leads nowhere."""
        return workspace.checkpoint_file(self.edition, self.step)


@dataclass(frozen=True)
class ArtifactFile:
    """A picture or table on disk; `size` in bytes. Its folder follows from its edition."""

    name: str
    sha256: str
    size: int
    edition: Edition = field(default=NOWHERE, compare=False)

    def path_in(self, workspace: Workspace) -> Path:
        """Return where it lies; see `CheckpointFile.path_in`."""
        return workspace.picture_file(self.edition, self.name)


File = CheckpointFile | ArtifactFile


@dataclass(frozen=True)
class Stray:
    """A file in the folders of an edition, which may be on record or not."""

    edition: Edition
    name: str
    path: Path


@dataclass(frozen=True)
class Progress:
    """A run's progress: each curve is given whole, from its first point. `remark` is for its
    history.
    """

    step: int
    wall_s: float
    curves: dict[str, Curve] = field(default_factory=dict)
    checkpoint: CheckpointFile | None = None
    remark: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended, with everything that it leaves behind."""

    status: Status
    reason: str | None
    step: int
    wall_s: float
    metrics: dict[str, Estimate] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    checkpoint: CheckpointFile | None = None
    artifacts: list[ArtifactFile] = field(default_factory=list)
    traceback: str | None = None
