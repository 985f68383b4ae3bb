"""Whole commands, one at a time or in turns: while one works the others are stopped, so that what
slows the machine slows all alike.

A machine may grow slower or faster by a tenth within a minute. Two commands of a minute each, one
after the other, then differ by more than what is to be measured; in short turns they do not. Only a
command's own turns count.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil
from timing import ROOT

BENCH = (sys.executable, "-m", "harness.cli")
SAVE_EVERY = ("--save-every", "10")
"""Where two take turns, ten seconds are five of a run's own: those after which it saves where
nobody asks for another time.
"""


def environment(folder: Path) -> dict[str, str]:
    """Neither settings of the caller nor a second thread."""
    left = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BENCH_", "MLFLOW_"))
    }
    return left | {"BENCH_HOME": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def alone(folder: Path, *words: str) -> float:
    """Seconds of a command in a workspace."""
    began = time.perf_counter()
    subprocess.run(words, env=environment(folder), cwd=folder, capture_output=True, check=True)
    return time.perf_counter() - began


@dataclass
class Worked:
    """A command that has ended: what it printed, and when it had its turns."""

    printed: str
    turns: list[tuple[float, float]]

    def seconds(self, began: float = -math.inf, ended: float = math.inf) -> float:
        """How long it worked between two readings of `time.perf_counter`, which is one clock for
        all processes.
        """
        return sum(max(0.0, min(end, ended) - max(start, began)) for start, end in self.turns)


def in_turns(turn_s: float, *commands: tuple[Path, Sequence[str]]) -> list[Worked]:
    """Run commands, each in its workspace, in turns of `turn_s` seconds until all have ended.

    A command of which several processes work at once loses some 50 ms a turn, until the system has
    them on different cores again.
    """
    at_work = [_Command(folder, words) for folder, words in commands]
    try:
        while waiting := [command for command in at_work if command.process.poll() is None]:
            for command in waiting:
                command.take_turn(turn_s)
        return [Worked(command.printed(), command.turns) for command in at_work]
    finally:
        for command in at_work:
            command.kill()


@dataclass
class _Command:
    """A command that is stopped, but for its turns, with all the processes that it starts."""

    folder: Path
    words: Sequence[str]
    turns: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._output: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115  `kill` closes it
        places = {
            "env": environment(self.folder),
            "cwd": self.folder,
            "stdout": self._output,
            "stderr": subprocess.STDOUT,
        }
        began = time.perf_counter()
        self.process = subprocess.Popen(self.words, **places)
        self.turns.append((began, self._stop()))

    def take_turn(self, seconds: float) -> None:
        """Go on for a while."""
        processes = self._processes()
        began = time.perf_counter()
        _send(processes, signal.SIGCONT)
        try:
            self.process.wait(seconds)
            self.turns.append((began, time.perf_counter()))
        except subprocess.TimeoutExpired:
            self.turns.append((began, self._stop()))

    def printed(self) -> str:
        """All that it printed.

        Raises:
            RuntimeError: it did not end well.
        """
        self._output.seek(0)
        printed = self._output.read()
        if self.process.returncode:
            raise RuntimeError(
                f"{' '.join(self.words)} ended with {self.process.returncode}:\n{printed}"
            )
        return printed

    def kill(self) -> None:
        """End it, if it has not ended."""
        _send(self._processes(), signal.SIGKILL)
        self.process.wait()
        self._output.close()

    def _stop(self) -> float:
        """Stop the command and then its helpers, until no new one is found; returns when."""
        with suppress(psutil.NoSuchProcess):
            self.process.send_signal(signal.SIGSTOP)
        now, stopped = time.perf_counter(), set[int]()
        while new := [process for process in self._processes() if process.pid not in stopped]:
            _send(new, signal.SIGSTOP)
            stopped |= {process.pid for process in new}
        return now

    def _processes(self) -> list[psutil.Process]:
        try:
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _send(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
