"""`bench run` as a process of its own, and what it leaves behind."""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from forked import Forked

from harness import tracking
from harness.base.workspace import Workspace, sqlite_url
from harness.store import ResultStore
from harness.tracking.server import DATABASE

ROOT = Path(__file__).parent.parent
PATIENCE_S = 600
SAVE_S = "0.2"


@cache
def _fresh_mlflow() -> Path:
    """An empty MLflow database, made once: its migrations take longer than most tests."""
    folder = tempfile.TemporaryDirectory(prefix="bench-mlflow-")
    atexit.register(folder.cleanup)
    tracking.create_store(Workspace(Path(folder.name)))
    return Path(folder.name) / "mlflow.db"


def prepared(home: Path) -> Path:
    """A workspace with an empty MLflow database."""
    home.mkdir(exist_ok=True)
    shutil.copyfile(_fresh_mlflow(), home / "mlflow.db")
    return home


Process = subprocess.Popen[str] | Forked


def start(home: Path, arguments: list[str], command: str = "run", **environment: str) -> Any:
    """Start `bench COMMAND` over the workspace `home`; what torch reads when it is loaded takes an
    interpreter of its own.
    """
    known = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BENCH_", "MLFLOW_"))
    }
    extra = ["--json", "--save-every", SAVE_S] if command == "run" else []
    path = os.pathsep.join(filter(None, [environment.pop("PATH_FIRST", ""), str(ROOT)]))
    fresh = "OMP_NUM_THREADS" in environment
    words, environment = (
        [command, *arguments, *extra],
        {**known, "BENCH_HOME": str(home), "PYTHONPATH": path, **environment},
    )
    if not fresh:
        return Forked(words, environment)
    argv = [sys.executable, "-m", "harness.cli", *words]
    return subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def kill(process: Process) -> None:
    """kill -9, and wait for the end."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


def batter(
    make: Callable[[], Process], dice: random.Random, longest_s: float, most: int
) -> tuple[int, Process]:
    """Repeat a command, killed after a random time up to `longest_s` seconds each but `most` times
    at most, until it ends by itself.

    Every third time may be before its first checkpoint, no more often: what dies three times in a
    row before one is given up.

    Returns:
        How often it was killed, and the process that ended.
    """
    kills = 0
    while True:
        process = make()
        if kills == most:
            return kills, process
        soonest = 0.0 if kills % 3 == 0 else longest_s / 3
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=dice.uniform(soonest, longest_s))
            return kills, process
        kill(process)
        if process.returncode != -signal.SIGKILL:  # it was faster
            return kills, process
        kills += 1


def finished(process: Process, errors: list[str] | None = None) -> list[dict[str, Any]]:
    """The runs that a command printed, by seed, once it has ended; its stderr goes to `errors`."""
    out, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode in (0, 3), said
    assert "Traceback" not in said
    if errors is not None:
        errors.append(said)
    return sorted((json.loads(line) for line in out.splitlines()), key=lambda run: run["seed"])


def opened(home: Path) -> ResultStore:
    """The workspace's result database."""
    return ResultStore.open(sqlite_url(home / "bench.db"))


def steps_saved(home: Path) -> int:
    """The step of the newest checkpoint on record; 0 before the first."""
    if not (home / "bench.db").exists():
        return 0
    with opened(home) as store:
        files = [
            file
            for row in store.recent()
            for file in store.checkpoints(row.key)
            if file.role == "last"
        ]
    return max((file.step for file in files), default=0)


def wait_for_checkpoint(home: Path, process: Process, beyond: int) -> None:
    """Wait until a checkpoint later than `beyond` is on record."""
    while steps_saved(home) <= beyond:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def state(home: Path) -> dict[str, tuple[Any, ...]]:
    """All of a workspace that a re-run must reproduce: statuses, metrics, curves, checkpoint
    hashes, by key.
    """
    with opened(home) as store:
        rows = {row.key: row for row in store.recent(1000)}
        metrics = store.metrics(list(rows))
        return {
            key: (
                row.status,
                row.step,
                row.reason,
                metrics.get(key),
                repr(store.curves(key)),
                store.checkpoints(key)[0].sha256,
            )
            for key, row in rows.items()
        }


def mirrored(home: Path) -> dict[str, list[str]]:
    """The statuses of MLflow's runs by our key."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    found: dict[str, list[str]] = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            found.setdefault(run.data.tags["bench.key"], []).append(run.info.status)
    return found


def copies(home: Path) -> dict[str, tuple[Any, ...]]:
    """All that MLflow shows of each run: parameters, tags, metrics, curves point for point, and the
    bytes of every file.

    Asked in a process of its own: MLflow keeps connections to a database that was deleted
    meanwhile.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_copies, home).result()


def _copies(home: Path) -> dict[str, tuple[Any, ...]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    found = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            history = {
                name: [
                    (point.step, repr(point.value), point.timestamp)
                    for point in client.get_metric_history(run.info.run_id, name)
                ]
                for name in run.data.metrics
            }
            folder = home / "mlruns" / run.info.run_id / "artifacts"
            files = {
                str(path.relative_to(folder)): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file()
            }
            times = (run.info.start_time, run.info.end_time, run.info.status)
            tags = {
                name: value
                for name, value in run.data.tags.items()
                if name.startswith("bench.") and name != DATABASE
            }
            found[run.data.tags["bench.key"]] = (run.data.params, tags, history, files, times)
    return found
