"""Runs on a Dask cluster. The only file that imports dask, which is an extra: `bench-vi[dask]`."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

from harness.base.errors import BenchError, UsageError
from harness.base.stop_request import StopRequest
from harness.base.workspace import Workspace
from harness.execution.job import Note, Options
from harness.execution.local import stacks
from harness.execution.workers import Event, Worker, WorkerLost, error_of, follow
from harness.store import ResultStore

CONNECT_S = 4.0


def connect(address: str) -> Any:
    """Return a client of the scheduler at `address`.

    Raises:
        UsageError: no scheduler answers there, or dask is not installed.
    """
    try:
        from distributed import Client
        from distributed.core import rpc
        from distributed.security import Security
    except ImportError as err:
        raise UsageError("--scheduler needs Dask: pip install 'bench-vi[dask]'.") from err

    async def ask() -> None:
        arguments = Security().get_connection_args("client")
        async with rpc(address, connection_args=arguments) as scheduler:
            await scheduler.identity()

    try:
        asyncio.run(asyncio.wait_for(ask(), CONNECT_S))
    except Exception as err:
        raise UsageError(
            f"No Dask scheduler answers at {address} ({type(err).__name__}: {err}). Start one "
            "(dask scheduler) and give its address: tcp://HOST:8786, or tls://HOST:8786 with the "
            "certificates that docs/cluster.md names."
        ) from err
    return Client(address, timeout=CONNECT_S, set_as_default=False)


def run_keys(keys: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """Make these runs on the cluster, in a process of their own, with the workspace that this
    machine's environment names.

    A task that the scheduler gives out twice finds its runs claimed or done.

    Returns: the `error` that ended the process with its `status`; or empty.
    """
    worker = Worker(Workspace.current(), keys, Options(**options))
    try:
        status = worker.wait()
        list(worker.notes())
    except BenchError as err:
        return {"error": str(err), "status": err.exit_status}
    finally:
        worker.close()
    return {"error": f"its process ended with status {status}", "status": None} if status else {}


class Cluster:
    """The stacks of some runs as tasks of a Dask cluster."""

    def __init__(
        self, client: Any, store: ResultStore, keys: Sequence[str], options: Options
    ) -> None:
        self._executor, self._store = client.get_executor(pure=False), store
        sent = dataclasses.replace(options, threads=1, total_limit_s=None)
        self._options = dataclasses.asdict(sent)
        self._deadline = options.deadline(time.monotonic())
        self._futures: dict[Any, list[str]] = {}
        self._send(keys)

    def _send(self, keys: Sequence[str]) -> None:
        for stack in stacks(self._store.open_runs(keys)):
            group = [run.key for run in stack]
            self._futures[self._executor.submit(run_keys, group, self._options)] = group

    def __len__(self) -> int:
        return len(self._futures)

    def supervise(self) -> Iterator[Note]:
        done = [future for future in self._futures if future.done()]
        groups = [self._futures.pop(future) for future in done]
        faults = [_fault(*pair) for pair in zip(done, groups, strict=True)]
        if done and time.monotonic() < self._deadline:
            self._send([key for group in groups for key in group])
        yield from filter(None, faults)

    def is_idle(self) -> bool:
        return not self._futures or time.monotonic() >= self._deadline

    def stop(self) -> None:
        """Cancel what has not begun; what has, ends on the cluster."""
        for future in self._futures:
            future.cancel()


def _fault(future: Any, group: list[str]) -> WorkerLost | None:
    """Return what became of a task that is over, where it was lost with its worker.

    Raises:
        BenchError: an error of a run ended it.
    """
    error = future.exception()
    fault: dict[str, Any] = (
        future.result() if error is None else {"error": f"{type(error).__name__}: {error}"}
    )
    if not fault:
        return None
    if (status := fault.get("status")) is not None:
        raise error_of(status)(f"The cluster cannot run {group[0]}: {fault['error']}")
    return WorkerLost(
        f"A worker of the cluster was lost ({fault['error']}); its runs go on elsewhere."
    )


def run_on_cluster(
    store: ResultStore, client: Any, keys: Sequence[str], stop: StopRequest, options: Options
) -> Iterator[Event]:
    """Make these runs on the cluster of `client`: only their keys travel, and its workers claim
    them in the database.

    Raises:
        Stop: `stop` was set; what the cluster has begun goes on there.
        BenchError: an error of a run.
    """
    cluster = Cluster(client, store, keys, options)
    try:
        yield from follow(store, keys, cluster, stop)
    finally:
        cluster.stop()
