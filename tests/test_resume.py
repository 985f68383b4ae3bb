"""kill -9 and go on: the same bits as an uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.store import ResultStore
from harness.workspace import sqlite_url

ROOT = Path(__file__).parent.parent
PLUGINS = Path(__file__).with_name("plugins.py")
SAVE_S = "0.2"
KILLS = 5

CASES = {
    "one run": ["-m", "hvae[n_leapfrog=1]", "-t", "gaussian-2", "--set", "steps=20000", "--set", "eval_particles=500"],
    "a stack of three": ["-m", "vb", "-t", "gaussian-3", "--set", "steps=20000", "--seeds", "0-2", "--set", "optimiser=rmsprop"],
    "a stack whose second member diverges": ["-m", f"{PLUGINS}:DivergesAt50", "-t", "gaussian-2", "--set", "steps=20000", "--seeds", "0-2"],
}


def start(home: Path, arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("BENCH_", "MLFLOW_"))}
    command = [sys.executable, "-m", "harness.cli", "run", *arguments, "--json", "--save-every", SAVE_S]
    return subprocess.Popen(
        command,
        env={**known, "BENCH_HOME": str(home), "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def finished(process: subprocess.Popen[str]) -> list[dict]:
    out, errors = process.communicate(timeout=600)
    assert process.returncode in (0, 3), errors
    assert "Traceback" not in errors
    return sorted((json.loads(line) for line in out.splitlines()), key=lambda run: run["seed"])


def steps_saved(home: Path) -> int:
    """The step of the newest checkpoint on record; 0 before the first."""
    database = home / "bench.db"
    if not database.exists():
        return 0
    with ResultStore.open(sqlite_url(database)) as store:
        files = [file for row in store.recent() for file in store.checkpoints(row.key) if file.role == "last"]
    return max((file.step for file in files), default=0)


def wait_for_checkpoint(home: Path, process: subprocess.Popen[str], beyond: int) -> None:
    while steps_saved(home) <= beyond:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def state(home: Path) -> dict[str, tuple]:
    """All of a workspace that a re-run must reproduce: statuses, metrics, curves, checkpoint hashes, by key."""
    with ResultStore.open(sqlite_url(home / "bench.db")) as store:
        rows = {row.key: row for row in store.recent(1000)}
        metrics = store.metrics(list(rows))
        return {
            key: (row.status, row.step, row.reason, metrics.get(key), repr(store.curves(key)), store.checkpoints(key)[0].sha256)
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


@pytest.mark.parametrize("case", CASES)
def test_kill_nine_five_times_changes_no_bit(case, tmp_path, capsys):
    arguments, chance = CASES[case], random.Random(case)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    uninterrupted = finished(start(whole, arguments))
    kills = 0
    while kills < KILLS:
        process = start(broken, arguments)
        wait_for_checkpoint(broken, process, steps_saved(broken))
        time.sleep(chance.uniform(0, 0.3))
        if process.poll() is not None:
            pytest.fail(f"the run ended before kill {kills + 1}: {process.communicate()}")
        kill(process)
        kills += 1
    resumed = finished(start(broken, arguments))
    with capsys.disabled():
        print(f"\n{case}: {kills} kills at -9; sha256, metrics and curves compared")
    assert {run["outcome"] for run in resumed if run["status"] == "done"} == {"resumed"}
    assert state(broken) == state(whole)
    assert [run["metrics"] for run in resumed] == [run["metrics"] for run in uninterrupted]
    endings = {run["key"]: ["FINISHED" if run["status"] == "done" else "FAILED"] for run in resumed}
    assert mirrored(broken) == endings == mirrored(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves_at_once(number, tmp_path):
    arguments = CASES["one run"]
    process = start(tmp_path, arguments)
    wait_for_checkpoint(tmp_path, process, 0)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in errors
    with ResultStore.open(sqlite_url(tmp_path / "bench.db")) as store:
        (row,) = store.recent()
        assert (row.status, row.owner) == ("interrupted", None)
        assert store.checkpoints(row.key)[0].step == row.step > 0
    (run,) = finished(start(tmp_path, arguments))
    assert (run["status"], run["outcome"]) == ("done", "resumed")


def test_another_thread_count_uses_the_stored_plan(tmp_path):
    arguments = CASES["a stack of three"]
    process = start(tmp_path / "broken", arguments, OMP_NUM_THREADS="1")
    wait_for_checkpoint(tmp_path / "broken", process, 0)
    kill(process)
    finished(start(tmp_path / "broken", arguments, OMP_NUM_THREADS="2"))
    finished(start(tmp_path / "whole", arguments, OMP_NUM_THREADS="1"))
    assert state(tmp_path / "broken") == state(tmp_path / "whole")


def test_another_takes_over_when_the_holder_is_killed(tmp_path):
    arguments = [*CASES["one run"], "--set", "steps=60000"]
    holder = start(tmp_path, arguments)
    wait_for_checkpoint(tmp_path, holder, 0)
    others = [start(tmp_path, arguments) for _ in range(2)]
    for other in others:
        assert "Waiting for 1 runs" in (other.stderr.readline() if other.stderr else "")
    kill(holder)
    killed = time.time()
    results = [finished(other)[0] for other in others]
    assert sorted(run["outcome"] for run in results) == ["hit", "resumed"]
    with ResultStore.open(sqlite_url(tmp_path / "bench.db")) as store:
        taken = [line.at for line in store.history(results[0]["key"]) if line.status == "running"][-1]
    assert taken - killed < 5.0
