"""What goes into the result database and what comes out of it. Plain values; no SQL."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.spec import Plan, RunSpec, Status
from harness.workspace import NOWHERE, Edition, Workspace, checkpoint_name

Curve = list[tuple[int, float]]


def _boot_id() -> str:
    """The name of the machine's present boot; empty where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _process(pid: int) -> tuple[str, int] | None:
    """The state letter and the start time (clock ticks since boot) of a process, or None where /proc does not show it."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name in parentheses may hold spaces; field 3 comes after it
    return fields[0], int(fields[19])


def _exists(pid: int) -> bool:
    """Whether a process of this number exists, by the portable test."""
    if os.name != "posix":
        return True  # signal 0 is not a question there: only the lease's end tells
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@dataclass(frozen=True)
class Owner:
    """A process that holds runs: its host, the host's boot, its number and its start time."""

    host: str
    boot_id: str
    pid: int
    process_start: int

    @classmethod
    def current(cls) -> Owner:
        """This process."""
        shown = _process(os.getpid())
        return cls(socket.gethostname(), _boot_id(), os.getpid(), shown[1] if shown else 0)

    def is_gone(self) -> bool:
        """Whether the process is known to have ended. Of another host nothing is known: False."""
        if self.host != socket.gethostname():
            return False
        boot = _boot_id()
        if not boot or not self.boot_id:
            return not _exists(self.pid)
        if boot != self.boot_id:
            return True
        shown = _process(self.pid)
        if shown is None:
            return not _exists(self.pid)
        return shown[0] in "ZX" or (self.process_start != 0 and shown[1] != self.process_start)

    def __str__(self) -> str:
        return f"{self.host} pid {self.pid}"


@dataclass(frozen=True)
class NewRun:
    """A run to be made: its spec, and the labels that are stored beside it but are no part of its key."""

    spec: RunSpec
    task_label: str
    settings: dict[str, Any]
    source_hash: str
    protocol: str


@dataclass(frozen=True)
class RunRow:
    """A stored run. Times are seconds since 1970, UTC; `wall_s` is seconds of work over all attempts."""

    key: str
    cell: str
    method: str
    task: str
    task_label: str
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
class OpenRun:
    """A run that is still to be made, as far as choosing the next stack needs it; `plan` is the stored plan's name."""

    key: str
    cell: str
    task: str
    plan: str | None
    held: bool


@dataclass(frozen=True)
class Standing:
    """Where a run stands: `wall_s` is seconds of work so far."""

    status: Status
    step: int
    steps: int
    wall_s: float


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
    """The right to write one run, until someone else's claim raises its fence.

    `step`, `wall_s` and `plan` are what the attempt before left behind.
    """

    key: str
    fence: int
    seed: int
    step: int
    wall_s: float
    plan: Plan | None
    edition: Edition


@dataclass(frozen=True)
class Metric:
    """A number of a result, which may be NaN or infinite, and its standard error where there is one."""

    value: float
    se: float | None = None


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint on disk; `size` in bytes. In which folder it lies follows from its edition."""

    role: str
    step: int
    sha256: str
    size: int
    edition: Edition = field(default=NOWHERE, compare=False)

    @property
    def name(self) -> str:
        """The file's name."""
        return checkpoint_name(self.step)

    def place(self, workspace: Workspace) -> Path:
        """Where it lies. Raises a `StoreError` where its row leads nowhere."""
        return workspace.checkpoint_file(self.edition, self.step)


@dataclass(frozen=True)
class ArtifactFile:
    """A picture or table on disk; `size` in bytes. In which folder it lies follows from its edition."""

    name: str
    sha256: str
    size: int
    edition: Edition = field(default=NOWHERE, compare=False)

    def place(self, workspace: Workspace) -> Path:
        """Where it lies. Raises a `StoreError` where its row leads nowhere."""
        return workspace.picture_file(self.edition, self.name)


File = CheckpointFile | ArtifactFile


class OnDisk(Protocol):
    """A file in the folders of an edition."""

    @property
    def edition(self) -> Edition:
        """Whose it is."""
        ...

    @property
    def name(self) -> str:
        """Its name there."""
        ...


@dataclass(frozen=True)
class Saved:
    """A run's progress: each curve is given whole, from its first point."""

    step: int
    wall_s: float
    curves: dict[str, Curve] = field(default_factory=dict)
    checkpoint: CheckpointFile | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended, with everything that it leaves behind."""

    status: Status
    reason: str | None
    step: int
    wall_s: float
    metrics: dict[str, Metric] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    checkpoint: CheckpointFile | None = None
    artifacts: list[ArtifactFile] = field(default_factory=list)
    traceback: str | None = None
