"""What goes into the result database and what comes out of it. Plain values; no SQL."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from harness.base.spec import Plan, Status
from harness.base.workspace import NOWHERE, Edition, Workspace, checkpoint_name

Curve = list[tuple[int, float]]


def _boot_id() -> str:
    """The name of the machine's present boot; empty where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str | None:
    """The name of the space in which this process's number means something; None where the system
    has none.
    """
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return None


def _process(pid: int) -> tuple[str, int] | None:
    """The state letter and the start time (clock ticks since boot) of a process, or None where
    /proc does not show it.
    """
    try:
        if Path("/proc/self").readlink().name != str(os.getpid()):
            return None  # it is another namespace's, where the number is another process's
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[
        2
    ].split()  # the name in parentheses may hold spaces; field 3 comes after it
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
    """A process that holds runs: its host, the host's boot, its number, its start time, and the
    namespace of its number.
    """

    host: str
    boot_id: str
    pid: int
    process_start: int
    pid_namespace: str | None = None  # as releases left it that did not ask

    @classmethod
    def current(cls) -> Owner:
        """This process."""
        shown = _process(os.getpid())
        return cls(
            socket.gethostname(),
            _boot_id(),
            os.getpid(),
            shown[1] if shown else 0,
            _pid_namespace(),
        )

    def lives(self) -> bool | None:
        """Whether the process lives; None where that cannot be seen from here, and only its lease
        tells.

        A process's number means something in one PID namespace of one boot of one machine.
        Containers have their machine's boot and often its name, and machines may have the same
        name: nothing less than all three shows that a number is looked up where it was given.
        """
        if (self.host, self.boot_id, self.pid_namespace) != (
            socket.gethostname(),
            _boot_id(),
            _pid_namespace(),
        ):
            return None
        if self.boot_id and self.pid_namespace is None:
            return None  # Linux, and the number may be of any container
        shown = _process(self.pid)
        if shown is None:
            return None if _exists(self.pid) else False
        if shown[0] in "ZX" or self.process_start not in (0, shown[1]):
            return False
        return (
            True if self.process_start else None
        )  # without its start it may be another process of the same number

    def __str__(self) -> str:
        return f"{self.host} pid {self.pid}"


@dataclass(frozen=True)
class RunRow:
    """A stored run. Times are seconds since 1970, UTC; `wall_s` is seconds of work over all
    attempts.
    """

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


class OpenRun(NamedTuple):
    """A run that is still to be made, as far as choosing the next stack needs it; `plan` is the
    stored plan's name, `holder` is at it.
    """

    key: str
    cell: str
    stacks: bool
    plan: str | None
    fence: int
    holder: Owner | None


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands: `wall_s` is seconds of work so far."""

    status: Status
    step: int
    steps: int
    wall_s: float
    crashes: int
    source_hash: str


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


class Taken(NamedTuple):
    """What became of runs that were to be claimed: the claims, and the runs that were given up
    because their processes died too often.
    """

    claims: list[Claim]
    given_up: list[str]


@dataclass(frozen=True)
class Metric:
    """A number of a result, which may be NaN or infinite, and its standard error where there is
    one.
    """

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

    def path_in(self, workspace: Workspace) -> Path:
        """Where it lies. Raises a `StoreError` where its row leads nowhere."""
        return workspace.checkpoint_file(self.edition, self.step)


@dataclass(frozen=True)
class ArtifactFile:
    """A picture or table on disk; `size` in bytes. In which folder it lies follows from its
    edition.
    """

    name: str
    sha256: str
    size: int
    edition: Edition = field(default=NOWHERE, compare=False)

    def path_in(self, workspace: Workspace) -> Path:
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
    metrics: dict[str, Metric] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    checkpoint: CheckpointFile | None = None
    artifacts: list[ArtifactFile] = field(default_factory=list)
    traceback: str | None = None
