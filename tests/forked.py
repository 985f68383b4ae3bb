"""`bench` in processes forked from one that has imported what it needs: they start in a tenth of a
second, not in three.

Everything else is as in a process by hand: its own memory, environment, exit status, and a death by
kill -9.
"""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import subprocess
import sys
import tempfile
import time
import uuid
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
IMPORTS = [
    *("forked", "store_processes", "alembic.command", "alembic.config"),
    *(
        "harness.execution.bundle",
        "harness.cli.run",
        "harness.cli.study",
        "harness.execution.local",
        "harness.execution.job",
    ),
]


@cache
def _folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="bench-said-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@cache
def server() -> Any:
    """The context of multiprocessing whose processes are forked from one with `IMPORTS`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def _work(
    arguments: list[str], environment: dict[str, str], folder: str, outputs: tuple[str, str]
) -> None:
    """In the process: become `bench ARGUMENTS`."""
    for number, path in enumerate(outputs, 1):
        with open(path, "wb") as file:  # noqa: PTH123
            os.dup2(file.fileno(), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.sched_getaffinity = lambda pid: {0}  # as in the tests themselves: one core each
    sys.argv = ["bench", *arguments]
    first = Path(environment["PYTHONPATH"].partition(os.pathsep)[0]) / "sitecustomize.py"
    if first.exists():
        runpy.run_path(str(first))
    from harness.cli import main

    main(arguments, prog_name="bench")


class Forked:
    """A process with the parts of `subprocess.Popen` that tests use."""

    def __init__(
        self, arguments: list[str], environment: dict[str, str], folder: Path | None = None
    ) -> None:
        name = uuid.uuid4().hex
        self._outputs = str(_folder() / f"{name}.out"), str(_folder() / f"{name}.err")
        self._process = server().Process(
            target=_work, args=(arguments, environment, str(folder or Path.cwd()), self._outputs)
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status; minus the signal's number after a death by signal."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def said(self) -> tuple[str, str]:
        """What it has printed so far."""
        out, err = (Path(path).read_text() if Path(path).exists() else "" for path in self._outputs)
        return out, err

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end and return what it printed."""
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("bench", timeout or 0.0)
        return self.said()


def wait_for_words(process: Forked, words: str, patience_s: float = 60.0) -> None:
    """Wait until a process has said this on stderr."""
    deadline = time.monotonic() + patience_s
    while words not in process.said()[1]:
        assert process.poll() is None, process.said()
        assert time.monotonic() < deadline
        time.sleep(0.02)
