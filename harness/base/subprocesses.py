"""Helper processes that end with the process that started them."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import harness
from harness.base.gc import collect_seldom

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def spawn(module: str, **environment: str) -> subprocess.Popen[str]:
    """Run a module's `main` in a process of its own, with pipes for lines of text on its standard
    input and output.

    Args:
        module: whose `main`; it is loaded there.
        environment: variables beside, or in place of, this process's own.

    Raises:
        OSError: the system cannot start it.
    """
    paths = [str(Path(harness.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "harness.base.subprocesses",
            module,
            str(os.getpid()),
        ],  # -P: a file in the current folder is not taken for a package
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,  # Ctrl-C is for the command, which then tells its helpers
    )


def end(child: subprocess.Popen[str], listener: threading.Thread) -> None:
    """Kill a helper, whatever it is doing, and leave nothing of it open; `listener` is the thread
    that reads what it says.
    """
    child.kill()
    child.wait()
    listener.join()
    for pipe in (child.stdin, child.stdout):
        with suppress(OSError):
            if pipe is not None:
                pipe.close()


def main() -> None:
    """In the helper: load the module that was named and run its `main`."""
    module, parent = sys.argv[1:]
    _die_with(int(parent))
    collect_seldom()
    importlib.import_module(module).main()


def _die_with(parent: int) -> None:
    """Ask the system to kill this process when the one that started it dies; elsewhere the end of
    standard input tells.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(0)


if __name__ == "__main__":
    main()
