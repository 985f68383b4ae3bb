"""Worker processes on this machine that share runs, and what a command sees of runs that other processes
make.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from harness.base.errors import BenchError, UsageError
from harness.base.spec import OPEN, Status
from harness.base.stop_request import StopRequest
from harness.base.subprocesses import end, spawn
from harness.base.tracebacks import place_in, traceback_of
from harness.base.workspace import Workspace, redact
from harness.execution.job import Ended, Note, Options, Stop, with_retry
from harness.store import ResultStore, RunStatus

LOOK_S = 1.0
AT_ONCE = 200
IDLE_DEATHS = 3  # of each hand, with no run further than before


@dataclass(frozen=True)
class Progressed:
    """How far all runs together are: `share` of their steps is done."""

    ended: int
    running: int
    total: int
    share: float


@dataclass(frozen=True)
class Lost:
    """One of the hands died, and another takes its place."""

    text: str


Event = Ended | Note | Progressed


class Hands(Protocol):
    """Whatever makes the runs."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def look(self) -> Iterator[Note | Lost]:
        """Keep them at work; yields what is worth saying.

        Raises:
            BenchError: they cannot go on.
        """
        ...

    def are_idle(self) -> bool:
        """Whether they have ended by themselves."""
        ...

    def stop(self) -> None:
        """Have what is at work saved, and leave."""
        ...


def follow(
    store: ResultStore, keys: Sequence[str], hands: Hands, stop: StopRequest
) -> Iterator[Event]:
    """Yield what happens to these runs, until all have ended or the hands have.

    Raises:
        Stop: `stop` was set; the hands have saved what they were at.
        BenchError: the hands cannot go on, or only die.
    """
    watch, deaths = Watch(store, keys), 0
    while True:
        idle = hands.are_idle()  # asked first: what an idle hand did last is in the database
        before = watch.progress
        yield from map(Ended, watch.look(everywhere=idle))
        yield watch.progress
        deaths = 0 if watch.progress != before else deaths
        for news in hands.look():
            deaths += isinstance(news, Lost)
            if deaths > IDLE_DEATHS * len(hands):
                raise BenchError(
                    f"Workers die and no run gets further. Nothing is lost. The last one: {news.text}"
                )
            yield Note(news.text)
        if not watch.left or idle:
            return
        if stop.wait(LOOK_S):
            hands.stop()
            raise Stop


class Watch:
    """How far some runs are: `left` are those that have not ended, in the order in which they are
    made.

    A look asks about these from the first one on, and no further than to those that have not begun.
    """

    def __init__(self, store: ResultStore, keys: Sequence[str]) -> None:
        self.left = list(keys)
        self._store, self._total, self._running = store, len(keys), 0
        self._taken: dict[str, int] = {}
        self._steps = self._steps_taken = 0

    @property
    def progress(self) -> Progressed:
        """As far as the last look has seen."""
        return Progressed(
            self._total - len(self.left),
            self._running,
            self._total,
            self._steps_taken / max(self._steps, 1),
        )

    def look(self, everywhere: bool) -> list[str]:
        """The runs that have ended since the last look; the first look, and one `everywhere`, asks
        about all that are left.
        """
        everywhere = everywhere or not self._taken
        ended: list[str] = []
        place = self._running = 0
        while place < len(self.left):
            part = self.left[place : place + AT_ONCE]
            now = with_retry(partial(self._store.statuses, part))
            over = {key for key in part if key not in now or now[key].status not in OPEN}
            for key, run in now.items():
                self._count(key, run, key in over)
            self.left[place : place + len(part)] = [key for key in part if key not in over]
            ended += [key for key in part if key in over]
            place += len(part) - len(over)
            if not everywhere and all(run.status == Status.QUEUED for run in now.values()):
                break
        return ended

    def _count(self, key: str, run: RunStatus, has_ended: bool) -> None:
        taken = run.steps if has_ended else run.step
        self._steps += 0 if key in self._taken else run.steps
        self._steps_taken += taken - self._taken.get(key, 0)
        self._taken[key] = taken
        self._running += run.status == Status.RUNNING


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
            "harness.execution.workers", **dict.fromkeys(LIBRARIES, str(options.threads))
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
    from harness.store.reading import chunks

    with ResultStore.open(workspace.database_url) as store:
        if not any(store.statuses(part) for part in chunks(keys)):
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


LEAVE_S = 30.0


class Pool:
    """`n` workers; one that dies is replaced."""

    def __init__(self, workspace: Workspace, keys: Sequence[str], n: int, options: Options) -> None:
        self._workspace, self._keys = workspace, list(keys)
        self._options = replace(options, threads=max(1, options.threads // n))
        self._deadline = options.deadline(time.monotonic())
        self.workers = [self._start() for _ in range(n)]

    def _start(self) -> Worker:
        left = (
            None
            if self._options.total_limit_s is None
            else max(0.0, self._deadline - time.monotonic())
        )
        return Worker(self._workspace, self._keys, replace(self._options, total_limit_s=left))

    def __len__(self) -> int:
        """How many workers."""
        return len(self.workers)

    def look(self) -> Iterator[Note | Lost]:
        """Replace the dead; yields what the workers say.

        Raises:
            BenchError: a worker's error.
        """
        for place, worker in enumerate(self.workers):
            status = worker.poll()
            yield from map(Note, worker.said())
            if status:
                yield Lost(
                    f"Worker {worker.pid} ended with {_ending(status)}; another one takes its place, and its runs go on."
                )
                worker.close()
                self.workers[place] = self._start()

    def are_idle(self) -> bool:
        """Whether every worker has found nothing more to do."""
        return all(worker.poll() == 0 for worker in self.workers)

    def stop(self) -> None:
        """Have every worker save and leave."""
        for worker in self.workers:
            worker.ask_to_stop()
        for worker in self.workers:
            worker.wait()

    def close(self) -> None:
        """Let workers that are done leave by themselves; end those that do not."""
        deadline = time.monotonic() + LEAVE_S
        while (
            not self.are_idle()
            and time.monotonic() < deadline
            and not any(worker.poll() for worker in self.workers)
        ):
            time.sleep(0.05)
        for worker in self.workers:
            worker.close()


def _ending(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"


@contextmanager
def pool(workspace: Workspace, keys: Sequence[str], n: int, options: Options) -> Iterator[Pool]:
    """`n` workers over these runs; after an error what they were at is saved."""
    workers = Pool(workspace, keys, n, options)
    try:
        yield workers
    except BaseException:
        workers.stop()
        raise
    finally:
        workers.close()


def run_on_workers(
    workspace: Workspace,
    store: ResultStore,
    keys: Sequence[str],
    n: int,
    stop: StopRequest,
    options: Options,
) -> Iterator[Event]:
    """Run these runs on `n` processes of this machine, which share its processors.

    Raises:
        Stop: `stop` was set; what was at work is saved.
        BenchError: a worker's error, or workers that only die.
    """
    with pool(workspace, keys, n, options) as workers:
        yield from follow(store, keys, workers, stop)
