"""Sweeps under attack: runs queued in a database, workers that are killed while they make them, and
what is left in the end.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from runs import kill, prepared, start

from harness.base.spec import NewRun, Status
from harness.base.workspace import sqlite_url
from harness.plan.grid import expand
from harness.store import ResultStore

PATIENCE_S = 1800


@dataclass(frozen=True)
class Place:
    """A workspace and its database."""

    home: Path
    url: str

    @classmethod
    def sqlite(cls, home: Path) -> Place:
        """With a file of its own."""
        return cls(prepared(home), sqlite_url(home / "bench.db"))

    @property
    def environment(self) -> dict[str, str]:
        """What a command over it needs to know; nothing is mirrored."""
        return {"BENCH_DATABASE_URL": self.url, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}

    def store(self) -> ResultStore:
        """The database."""
        return ResultStore.open(self.url)


def sweep(n_runs: int, steps: int) -> list[NewRun]:
    """Runs that no stack holds together: each has a learning rate of its own."""
    settings = {"steps": steps, "eval_particles": 500}
    return [
        run
        for number in range(n_runs)
        for run in expand(
            ["vb"], ["gaussian-2"], [0], "smoke", settings | {"lr": 0.01 + 1e-4 * number}
        )
    ]


def states(place: Place) -> dict[str, tuple[object, ...]]:
    """All of a database that an uninterrupted sweep would have too."""
    with place.store() as store:
        rows = {row.key: row for row in store.recent(1000)}
        metrics = store.metrics(list(rows))
        return {
            key: (
                row.status,
                row.step,
                metrics.get(key),
                repr(store.curves(key)),
                store.checkpoints(key)[0].sha256,
            )
            for key, row in rows.items()
            if row.status in (Status.DONE, Status.DIVERGED)
        }


def all_ended(place: Place, keys: list[str]) -> bool:
    """Whether nothing is left to do."""
    with place.store() as store:
        return not store.open_runs(keys)


def attack(
    place: Place,
    keys: list[str],
    every_s: float,
    victims: Callable[[], list[int]],
    dice: random.Random,
    most: int,
) -> int:
    """Kill a process now and then, `most` times at most, until all runs have ended; returns how
    many were killed.
    """
    killed, deadline = 0, time.monotonic() + PATIENCE_S
    while not is_at_work(place, keys):
        assert time.monotonic() < deadline
        victims()
        time.sleep(0.1)
    while not all_ended(place, keys):
        assert time.monotonic() < deadline
        alive = victims()
        if alive and killed < most and not is_given_up_next(place, keys):
            os.kill(dice.choice(alive), signal.SIGKILL)
            killed += 1
        time.sleep(every_s * dice.uniform(0.5, 1.5))
    return killed


def is_given_up_next(place: Place, keys: list[str]) -> bool:
    """Whether one more death would be some run's third in a row without a checkpoint: it is
    promised that it fails then.
    """
    with place.store() as store:
        return any(row.crashes > 1 for row in store.rows(keys).values())


def children(pid: int, text: str) -> list[int]:
    """The processes that a process started, of whose command line `text` is a part."""
    with suppress(psutil.Error):
        return [
            child.pid
            for child in psutil.Process(pid).children()
            if text in " ".join(child.cmdline())
        ]
    return []


def is_at_work(place: Place, keys: list[str]) -> bool:
    """Whether the first run is being made."""
    with place.store() as store:
        return any(run.step > 0 for run in store.statuses(keys).values())


@contextmanager
def drainers(place: Place, n: int) -> Iterator[Callable[[], list[int]]]:
    """`n` workers by hand; a function that replaces the dead and names those alive."""
    start_one = lambda: start(  # noqa: E731
        place.home, ["--drain", "--save-every", "0.5"], command="worker", **place.environment
    )
    workers = [start_one() for _ in range(n)]

    def alive() -> list[int]:
        for number, worker in enumerate(workers):
            if worker.poll() is not None:
                worker.communicate()
                workers[number] = start_one()
        return [worker.pid for worker in workers]

    try:
        yield alive
    finally:
        for worker in workers:
            kill(worker)


@contextmanager
def dask_cluster(place: Place, n: int) -> Iterator[tuple[str, Callable[[], list[int]]]]:
    """A scheduler with `n` workers in processes of their own: its address, and a function that
    names the workers' processes.
    """
    environment = {
        **os.environ,
        **place.environment,
        "BENCH_HOME": str(place.home),
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    address_file = place.home / "scheduler.json"
    python = [
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler",
        "--port",
        "0",
        "--dashboard-address",
        "127.0.0.1:0",
    ]
    scheduler = subprocess.Popen(
        [*python, "--host", "127.0.0.1", "--scheduler-file", str(address_file)],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    while not address_file.exists():
        assert scheduler.poll() is None
        time.sleep(0.1)
    command = [
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        "--scheduler-file",
        str(address_file),
        "--nworkers",
        str(n),
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    workers = subprocess.Popen(
        [
            *command,
            "--nthreads",
            "1",
            "--no-dashboard",
            "--local-directory",
            str(place.home / "dask"),
        ],
        env=environment,
        **quiet,
    )

    def alive() -> list[int]:
        return children(workers.pid, "spawn_main")

    try:
        yield json.loads(address_file.read_text())["address"], alive
    finally:
        for process in (workers, scheduler):
            process.terminate()
        for process in (workers, scheduler):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def faults(place: Place, keys: list[str]) -> dict[str, int]:
    """How often a promise was broken: runs not done, or done twice; results under another fence
    than the last claim's; metric rows.
    """
    with place.store() as store:
        rows, metrics = store.rows(keys), store.metrics(keys)
        histories = {key: store.history(key) for key in keys}
    n_metrics = max(len(found) for found in metrics.values())
    endings = {
        key: [line for line in lines if line.status == Status.DONE]
        for key, lines in histories.items()
    }
    return {
        "not done exactly once": sum(
            rows[key].status != Status.DONE or len(endings[key]) != 1 for key in keys
        ),
        "fence violations": sum(
            any(line.fence != rows[key].fence for line in endings[key])
            or [line.fence for line in lines] != sorted(line.fence for line in lines)
            for key, lines in histories.items()
        ),
        "lost or duplicated metric rows": sum(
            len(metrics.get(key, {})) != n_metrics for key in keys
        ),
    }
