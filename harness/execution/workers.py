"""Worker processes that share runs, on this machine or a cluster, and what the command sees of
them: the database says how far the runs are.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from harness.base.errors import BenchError, UsageError
from harness.base.spec import OPEN, Status
from harness.base.stop_request import StopRequest
from harness.base.subprocesses import Parent, Subprocess
from harness.base.tracebacks import place_in, traceback_of
from harness.base.workspace import Workspace, redact
from harness.execution.job import (
    STORE_PATIENCE_S,
    Ended,
    Note,
    Options,
    Stop,
    with_retry,
)
from harness.store import ResultStore, RunStatus

LOOK_S = 1.0
AT_ONCE = 200
IDLE_DEATHS = 3  # of each worker, while no run gets any further
LEAVE_S = 30.0
STUCK_S = 2 * STORE_PATIENCE_S
"""Seconds that a worker may go on past its time, or after it was asked to stop: longer than results
wait for their database. Then it is ended, and its runs go on from their last checkpoints."""
LIBRARIES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


# In the command


@dataclass(frozen=True)
class Progressed:
    """How far all runs together are: `share` of their steps is done."""

    ended: int
    running: int
    total: int
    share: float


@dataclass(frozen=True)
class WorkerLost(Note):
    """A worker died, and another one takes its place."""


Event = Ended | Note | Progressed


class Executor(Protocol):
    """Workers that make some runs."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def supervise(self) -> Iterator[Note]:
        """Replace the workers that died; yield what there is to report.

        Raises:
            BenchError: they cannot go on.
        """
        ...

    def is_idle(self) -> bool:
        """Say whether all workers have left because there was nothing more to do."""
        ...

    def stop(self) -> None:
        """Have the workers save and leave."""
        ...


def follow(
    store: ResultStore, keys: Sequence[str], executor: Executor, stop: StopRequest
) -> Iterator[Event]:
    """Yield what happens to these runs, until all have ended or the workers have left.

    Raises:
        Stop: `stop` was set; the workers have saved their runs.
        BenchError: the workers cannot go on, or only die.
    """
    watch, deaths = Watch(store, keys, stop), 0
    while True:
        idle = executor.is_idle()  # asked first: what an idle worker did last is in the database
        previous = watch.progress
        yield from map(Ended, watch.look(everywhere=idle))
        yield watch.progress
        if watch.progress != previous:
            deaths = 0
        for news in executor.supervise():
            deaths += isinstance(news, WorkerLost)
            if deaths > IDLE_DEATHS * len(executor):
                raise BenchError(
                    "Workers die and no run gets further. Nothing is lost. "
                    f"The last one: {news.text}"
                )
            yield news
        if not watch.open_keys or idle:
            return
        if stop.wait(LOOK_S):
            executor.stop()
            raise Stop


class Watch:
    """How far some runs are: `open_keys` have not ended. A look asks about these in order, and no
    further than to those that have not begun.
    """

    def __init__(
        self, store: ResultStore, keys: Sequence[str], stop: StopRequest | None = None
    ) -> None:
        self.open_keys = list(keys)
        self._store, self._stop = store, stop or StopRequest()
        self._total, self._running = len(keys), 0
        self._steps_of: dict[str, int] = {}
        self._steps = self._steps_taken = 0

    @property
    def progress(self) -> Progressed:
        """How far the runs were at the last look."""
        share = self._steps_taken / max(self._steps, 1)
        return Progressed(self._total - len(self.open_keys), self._running, self._total, share)

    def look(self, everywhere: bool) -> list[str]:
        """Return the runs that have ended since the last look; the first look, and one
        `everywhere`, asks about all that are open.
        """
        everywhere = everywhere or not self._steps_of
        ended: list[str] = []
        start = self._running = 0
        while start < len(self.open_keys):
            keys = self.open_keys[start : start + AT_ONCE]
            standings = with_retry(self._stop, self._store.statuses, keys)
            is_open = {key: key in standings and standings[key].status in OPEN for key in keys}
            for key, run in standings.items():
                self._count(key, run, not is_open[key])
            still_open = [key for key in keys if is_open[key]]
            self.open_keys[start : start + len(keys)] = still_open
            ended += [key for key in keys if not is_open[key]]
            start += len(still_open)
            waiting = all(run.status == Status.QUEUED for run in standings.values())
            if waiting and not everywhere:
                break
        return ended

    def _count(self, key: str, run: RunStatus, has_ended: bool) -> None:
        steps = run.steps if has_ended else run.step
        self._steps += 0 if key in self._steps_of else run.steps
        self._steps_taken += steps - self._steps_of.get(key, 0)
        self._steps_of[key] = steps
        self._running += run.status == Status.RUNNING


def error_of(exit_status: int) -> type[BenchError]:
    """Return the kind of error that ends a command with this status."""
    return UsageError if exit_status == UsageError.exit_status else BenchError


class Worker(Subprocess):
    """A process that makes the runs it was told to."""

    def __init__(self, workspace: Workspace, keys: Sequence[str], options: Options) -> None:
        super().__init__(__name__, **dict.fromkeys(LIBRARIES, str(options.threads)))
        self.send(
            home=str(workspace.home),
            environment=dict(workspace.environment),
            keys=list(keys),
            options=dataclasses.asdict(replace(options, stuck_after_s=STUCK_S)),
        )

    def notes(self) -> Iterator[Note]:
        """Yield what it has reported since the last call.

        Raises:
            BenchError: an error ended it.
        """
        for message in self.received():
            if "error" in message:
                raise error_of(message["status"])(message["error"])
            yield Note(message["note"])


class Pool:
    """`n` workers on this machine."""

    def __init__(self, workspace: Workspace, keys: Sequence[str], n: int, options: Options) -> None:
        self._workspace, self._keys = workspace, list(keys)
        self._options = replace(options, threads=max(1, options.threads // n))
        self._deadline = options.deadline(time.monotonic())
        self._workers = [self._start() for _ in range(n)]

    def _start(self) -> Worker:
        options = self._options
        if options.total_limit_s is not None:
            options = replace(options, total_limit_s=max(0.0, self._deadline - time.monotonic()))
        return Worker(self._workspace, self._keys, options)

    def __len__(self) -> int:
        return len(self._workers)

    def supervise(self) -> Iterator[Note]:
        for index, worker in enumerate(self._workers):
            status = worker.poll()
            yield from worker.notes()
            if status:
                ending = f"signal {-status}" if status < 0 else f"status {status}"
                yield WorkerLost(
                    f"Worker {worker.pid} ended with {ending}; another one takes its place, "
                    "and its runs go on."
                )
                worker.close()
                self._workers[index] = self._start()

    def is_idle(self) -> bool:
        return all(worker.poll() == 0 for worker in self._workers)

    def stop(self) -> None:
        """Have every worker save and leave; one that does not answer is ended by `close`."""
        for worker in self._workers:
            worker.terminate()
        deadline = time.monotonic() + STUCK_S
        for worker in self._workers:
            worker.wait(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Let workers that are done leave by themselves; end those that do not."""
        deadline = time.monotonic() + LEAVE_S
        while time.monotonic() < deadline and not self.is_idle():
            if any(worker.poll() for worker in self._workers):
                break
            time.sleep(0.05)
        for worker in self._workers:
            worker.close()


def run_on_workers(
    workspace: Workspace,
    store: ResultStore,
    keys: Sequence[str],
    n: int,
    stop: StopRequest,
    options: Options,
) -> Iterator[Event]:
    """Make these runs on `n` processes of this machine, which share its processors.

    Raises:
        Stop: `stop` was set; what was at work is saved.
        BenchError: a worker's error, or workers that only die.
    """
    pool = Pool(workspace, keys, n, options)
    try:
        yield from follow(store, keys, pool, stop)
    except BaseException:
        pool.stop()
        raise
    finally:
        pool.close()


# In a worker


def main(parent: Parent) -> None:
    """Make the runs that the parent names, until all have ended or SIGTERM comes."""
    stop = StopRequest()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    orders = parent.messages.get()
    options = Options(**orders["options"])
    limit_memory(options.memory_limit)
    workspace = Workspace(Path(orders["home"]), orders["environment"])
    try:
        for note in _work(workspace, orders["keys"], options, stop):
            parent.send(note=note.text)
    except BenchError as err:
        parent.send(error=str(err), status=err.exit_status)
    except Exception as err:  # noqa: BLE001 - the command is told what this program's fault is
        reason = f"{type(err).__name__}: {err} ({place_in(traceback_of(err))})"
        parent.send(error=f"A worker failed: {reason}", status=1)


def _work(
    workspace: Workspace, keys: Sequence[str], options: Options, stop: StopRequest
) -> Iterator[Note]:
    from harness.execution.local import execute
    from harness.store.database import chunks

    with ResultStore.open(workspace.database_url) as store:
        if not any(store.statuses(chunk) for chunk in chunks(keys)):
            raise UsageError(
                f"None of the runs asked for is in {redact(workspace.database_url)}. Workers need "
                "the BENCH_HOME and BENCH_DATABASE_URL of the command that sends them work."
            )
        with suppress(Stop):
            for event in execute(workspace, store, keys, stop, options):
                if isinstance(event, Note):
                    yield event


def limit_memory(limit: int | None) -> None:
    """Let this process take no more than `limit` bytes: what asks for more fails, and with it its
    run.
    """
    if limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
