"""A process that runs what it is told to, and the handle that a command holds on it.

They speak in lines of JSON. To the process: where the workspace is, the keys, how runs are made.
From it: notes, and the error that ended it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.base.errors import BenchError, UsageError
from harness.base.stop_request import StopRequest
from harness.base.subprocesses import end, spawn
from harness.base.tracebacks import place_in, traceback_of
from harness.base.workspace import Workspace, redact
from harness.execution.job import Options
from harness.store import ResultStore

LIBRARIES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerFailed(BenchError):
    """What ended a worker, said where the command can hear it."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class Worker:
    """A running worker process: `notes` holds what it said, `poll()` its exit status once it has
    ended.
    """

    def __init__(self, workspace: Workspace, keys: Sequence[str], options: Options) -> None:
        self.notes: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._child = spawn(
            "harness.execution.worker", **dict.fromkeys(LIBRARIES, str(options.threads))
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        orders = {
            "home": str(workspace.home),
            "environment": dict(workspace.environment),
            "keys": list(keys),
        }
        pipe = self._child.stdin
        with suppress(OSError):  # it has ended already: poll() tells
            if pipe is not None:
                pipe.write(json.dumps(orders | {"options": dataclasses.asdict(options)}) + "\n")
                pipe.flush()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._child.pid

    def poll(self) -> int | None:
        """The exit status; None while it works."""
        return self._child.poll()

    def wait(self) -> int:
        """Wait for its end; returns the exit status."""
        return self._child.wait()

    def ask_to_stop(self) -> None:
        """Have it save and leave."""
        with suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End it, whatever it is doing."""
        end(self._child, self._listener)

    def said(self) -> Iterator[str]:
        """What it said since the last call; once it has ended, all of it.

        Raises:
            WorkerFailed: an error ended it.
        """
        if self._child.poll() is not None:
            self._listener.join()
        while not self.notes.empty():
            message = self.notes.get()
            if "error" in message:
                raise WorkerFailed(message["error"], message["status"])
            yield message["note"]

    def _listen(self) -> None:
        for line in self._child.stdout or ():
            self.notes.put(json.loads(line))


# In the process


def main() -> None:
    """Run what standard input names, until all has ended, SIGTERM comes or the parent dies."""
    stop = StopRequest()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a plugin prints is no report
    orders = json.loads(sys.stdin.readline())
    if sys.platform != "linux":
        threading.Thread(target=_end_with_input, daemon=True).start()
    options = Options(**orders["options"])
    limit_memory(options.memory_limit)
    try:
        for note in _work(
            Workspace(Path(orders["home"]), orders["environment"]), orders["keys"], options, stop
        ):
            report.write(json.dumps({"note": note}) + "\n")
    except BenchError as err:
        report.write(json.dumps({"error": str(err), "status": err.exit_status}) + "\n")
    except Exception as err:  # noqa: BLE001 - the command is told what this program's fault is
        report.write(
            json.dumps(
                {
                    "error": f"A worker failed: {type(err).__name__}: {err} ({place_in(traceback_of(err))})",
                    "status": 1,
                }
            )
            + "\n"
        )
    report.close()
    os._exit(0)  # a thread that reads standard input would hold up an ordinary exit


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def _work(
    workspace: Workspace, keys: Sequence[str], options: Options, stop: StopRequest
) -> Iterator[str]:
    """Run these runs and yield what is worth saying."""
    from harness.execution.local import execute
    from harness.execution.runner import Note, Stop
    from harness.store.reading import chunks

    with ResultStore.open(workspace.database_url) as store:
        if not any(store.standings(part) for part in chunks(keys)):
            raise UsageError(
                f"None of the runs asked for is in {redact(workspace.database_url)}. "
                "Workers need the BENCH_HOME and BENCH_DATABASE_URL of the command that sends them work."
            )
        with suppress(Stop):
            for event in execute(workspace, store, keys, stop, options):
                if isinstance(event, Note):
                    yield event.text


def limit_memory(limit: int | None) -> None:
    """Let this process take no more than `limit` bytes: what asks for more fails, and with it its
    run.
    """
    if limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
