"""Worker processes on this machine, which pull from the database and die with this process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from harness.base.stop_request import StopRequest
from harness.base.workspace import Workspace
from harness.execution.follow import Event, Lost, follow
from harness.execution.job import Options
from harness.execution.runner import Note
from harness.execution.worker import Worker
from harness.store import ResultStore

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
