"""Imported by every Python that has this folder on its path: kills the process, and its parent, at
a chosen call.

FAULT is `CALL:PATTERN:COUNT`: at the COUNT-th call of os.CALL on a path that the pattern fits,
before it is made (`-replace`: after). FAULT_MARK names a file that is made first, so that each
fault happens once. CLOCK_AHEAD_S sets the clock of this process ahead. AUDIT names a file that gets
a line for each class that is unpickled, each address that is connected to, and each file that is
written.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

FAULT, MARK = os.environ.get("FAULT", ""), os.environ.get("FAULT_MARK", "")


def _die() -> None:
    if Path(MARK).exists():
        return
    Path(MARK).touch()
    if "harness.tracking" in " ".join(
        sys.orig_argv
    ):  # a helper takes the command that it helps along
        os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _install(call: str, pattern: str, count: int) -> None:
    after, name = call.startswith("-"), call.lstrip("-")
    original, seen = getattr(os, name), [0]

    def watched(first, *rest, **named):
        path = (
            str(Path(f"/proc/self/fd/{first}").readlink())
            if isinstance(first, int)
            else str(rest[0] if rest and isinstance(rest[0], str | Path) else first)
        )
        fits = re.search(pattern, path) is not None
        seen[0] += fits
        now = fits and seen[0] == count
        if now and not after:
            _die()
        result = original(first, *rest, **named)
        if now and after:
            _die()
        return result

    setattr(os, name, watched)


if FAULT:
    _call, _pattern, _count = FAULT.split(":")
    _install(_call, _pattern, int(_count))

if AHEAD := float(os.environ.get("CLOCK_AHEAD_S", "0")):
    _time = time.time
    time.time = lambda: _time() + AHEAD


if AUDIT := os.environ.get("AUDIT"):
    _audited = os.open(AUDIT, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    _WRITING = os.O_WRONLY | os.O_RDWR

    def _hear(event, values):
        if (
            event == "open"
            and isinstance(values[0], str | bytes)
            and isinstance(values[2], int)
            and values[2] & _WRITING
        ):
            said = os.path.abspath(os.fsdecode(values[0]))  # noqa: PTH100
        elif event == "pickle.find_class":
            said = f"{values[0]}.{values[1]}"
        elif event == "socket.connect":
            said = str(values[1][0] if isinstance(values[1], tuple) else "unix")
        else:
            return
        os.write(_audited, f"{event} {said}\n".encode(errors="replace"))

    sys.addaudithook(_hear)
