"""Which process holds a run, and whether it lives."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil

TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
"""Clock ticks in a second: the unit in which Linux gives the start of a process."""


@dataclass(frozen=True)
class Owner:
    """A process that holds runs.

    Its host and the host's boot (empty where the system does not name boots), its number, its
    start in clock ticks since boot (0: unknown), and the PID namespace in which its number counts
    (None: unknown, or a system without namespaces).
    """

    host: str
    boot_id: str
    pid: int
    process_start: int
    pid_namespace: str | None = None

    @classmethod
    def current(cls) -> Owner:
        """Describe this process."""
        return _this_process(os.getpid())

    def lives(self) -> bool | None:
        """Tell whether the process lives; None where that cannot be seen from here, and only its
        lease tells.

        A process's number counts in one PID namespace of one boot of one machine. Containers have
        their machine's boot and often its name, and machines may have the same name: nothing less
        than all three shows that a number is looked up where it was given.
        """
        here = Owner.current()
        origin = (self.host, self.boot_id, self.pid_namespace)
        if origin != (here.host, here.boot_id, here.pid_namespace):
            return None
        if self.boot_id and self.pid_namespace is None:
            return None  # Linux, and the number may be of any container
        if not _exists(self.pid):
            return False
        try:
            if here.process_start == 0:
                return None  # /proc shows another namespace's processes
            if psutil.Process(self.pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                return False
            # Of an unknown start, it may be another process that got the number.
            return _start(self.pid) == self.process_start if self.process_start else None
        except psutil.ZombieProcess:
            return False
        except psutil.Error:
            return None  # it exists, and is hidden from this user

    def __str__(self) -> str:
        return f"{self.host} pid {self.pid}"


@lru_cache(maxsize=1)
def _this_process(pid: int) -> Owner:
    boot_id, pid_namespace, start = "", None, 0
    with suppress(OSError):
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        pid_namespace = str(Path("/proc/self/ns/pid").stat().st_ino)
    with suppress(OSError, psutil.Error):
        if not psutil.LINUX or Path("/proc/self").readlink().name == str(pid):
            start = _start(pid)
    return Owner(socket.gethostname(), boot_id, pid, start, pid_namespace)


def _start(pid: int) -> int:
    """Read when a process started; of the kernel's exact ticks, psutil makes seconds since 1970."""
    boot_time = psutil.boot_time()
    start = round((psutil.Process(pid).create_time() - boot_time) * TICKS)
    return start if psutil.boot_time() == boot_time else _start(pid)  # else the clock was set


def _exists(pid: int) -> bool:
    """Tell whether a process of this number exists, also where other users' are hidden."""
    if os.name != "posix":
        return psutil.pid_exists(pid)  # signal 0 would end it there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
