"""Worker processes: they share a database, die with their command, are replaced, and keep to their
limits.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from counts import compared
from postgres import server
from runs import ROOT, batter, finished, kill, mirrored, prepared, start, state, wait_for_checkpoint
from sweeps import Place, children, states, sweep

from harness.base.errors import UsageError
from harness.base.workspace import Workspace
from harness.execution.job import Options
from harness.execution.workers import Worker
from harness.store import ResultStore

RUN = ["-m", "vb", "-m", "iwae", "-m", "hvae[n_leapfrog=1,2]", "-t", "gaussian-2", "--seeds", "0-1"]
SHORT = [*RUN, "--protocol", "smoke", "--set", "steps=1500"]
PLUGINS = ROOT / "tests" / "plugins.py"
FULL = os.environ.get("BENCH_TESTS") == "full"
OUTAGE_S = 40.0 if FULL else 6.0
AWAY = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same runs made by one process."""
    home = prepared(tmp_path_factory.mktemp("alone"))
    finished(start(home, SHORT))
    return home


def wait_until(true, process, patience_s=120.0):
    deadline = time.monotonic() + patience_s
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_give_the_numbers_of_one_process_and_a_dead_one_is_replaced(
    alone, tmp_path, record_property
):
    home = prepared(tmp_path / "home")
    process = start(home, [*SHORT, "--workers", "2"])
    wait_until(lambda: len(children(process.pid, "execution.workers")) == 2, process)
    wait_for_checkpoint(home, process, 0)
    os.kill(children(process.pid, "execution.workers")[0], signal.SIGKILL)
    errors: list[str] = []
    results = finished(process, errors)
    assert [run["status"] for run in results] == ["done"] * 8
    assert "ended with signal 9; another one takes its place" in errors[0]
    record_property("interruptions", 1)
    compared(record_property, state(home), state(alone))
    assert mirrored(home) == {key: ["FINISHED"] for key in state(home)}


STUDY = """summary: The same runs.
grids:
  - methods: [vb, iwae, "hvae[n_leapfrog=1,2]"]
    tasks: [gaussian-2]
    seeds: 0-1
    protocol: smoke
    set: {steps: 1500}
"""


def test_workers_die_with_their_coordinator_and_the_same_command_goes_on(
    alone, tmp_path, record_property
):
    home = prepared(tmp_path / "home")
    (home / "mine.yaml").write_text(STUDY)
    command = ["run", str(home / "mine.yaml"), "--workers", "2", "--save-every", "0.2", "--json"]
    sweep = lambda: start(home, command, command="study", **AWAY)  # noqa: E731
    process = sweep()
    wait_for_checkpoint(home, process, 0)
    workers = children(process.pid, "execution.workers")
    kill(process)
    kills, deadline = 1, time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    again = sweep()
    wait_until(lambda: len(children(again.pid, "execution.workers")) == 2, again)
    again.send_signal(signal.SIGINT)
    _, said = again.communicate(timeout=60)
    assert (again.returncode, "Traceback" in said) == (130, False)
    kills += 1
    finished(sweep())
    compared(record_property, state(home), state(alone))
    dice, number = random.Random(5), 0
    while FULL and kills < 9:
        number += 1
        home = prepared(tmp_path / f"home-{number}")
        (home / "mine.yaml").write_text(STUDY)
        made, process = batter(
            lambda: start(home, ["run", str(home / "mine.yaml"), *command[2:]], "study", **AWAY),  # noqa: B023
            dice,
            9.0,
            5,
        )
        finished(process)
        kills += made
        compared(record_property, state(home), state(alone))
    record_property("interruptions", kills)


def test_time_limits_save_and_the_same_command_goes_on(alone, tmp_path):
    home = prepared(tmp_path / "home")
    runs = finished(start(home, [*SHORT, "--time-limit", "0.4s"], **AWAY))
    assert {run["status"] for run in runs} <= {"timeout", "done"}
    assert "timeout" in {run["status"] for run in runs}
    assert all("time limit of 0.4 s" in run["reason"] for run in runs if run["status"] == "timeout")
    errors: list[str] = []
    runs = finished(start(home, [*SHORT, "--total-time-limit", "0.3s"], **AWAY), errors)
    assert len(runs) < 8
    assert "time for all runs together is over" in errors[0]
    finished(start(home, SHORT, **AWAY))
    assert state(home) == state(alone)


def test_a_run_that_eats_memory_ends_and_the_others_go_on(tmp_path):
    home = prepared(tmp_path / "home")
    command = [
        "-m",
        f"{PLUGINS}:Eats",
        "-m",
        "vb",
        "-t",
        "gaussian-2",
        "--protocol",
        "smoke",
        "--workers",
        "1",
        "--memory-limit",
        "2G",
    ]
    runs = {run["method"].rpartition(":")[2]: run for run in finished(start(home, command, **AWAY))}
    assert runs["vb"]["status"] == "done"
    assert runs["eats"]["status"] == "failed"
    assert "allocate" in runs["eats"]["reason"]


def test_what_goes_wrong_in_a_worker_is_said_by_the_command(tmp_path):
    home = prepared(tmp_path / "home")
    process = start(
        home,
        [
            "-m",
            f"{PLUGINS}:WrongShape",
            "-t",
            "gaussian-2",
            "--protocol",
            "smoke",
            "--workers",
            "1",
        ],
        **AWAY,
    )
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "log_w" in said
    assert "Traceback" not in said


def test_the_last_words_of_a_worker_are_heard_however_late_they_are_read(tmp_path, monkeypatch):
    read = Worker._listen

    def late(self):
        while not hasattr(self, "_process") or self.poll() is None:
            time.sleep(0.01)
        time.sleep(0.5)
        read(self)

    monkeypatch.setattr(Worker, "_listen", late)
    workspace = Workspace(prepared(tmp_path / "home"), {"BENCH_HOME": str(tmp_path / "home")})
    worker = Worker(workspace, ["0" * 16], Options())
    try:
        assert worker.wait() == 0
        with pytest.raises(UsageError, match="None of the runs asked for"):
            list(worker.notes())
    finally:
        worker.close()


def test_a_scheduler_that_is_not_there_is_one_line_within_ten_seconds(tmp_path):
    began = time.monotonic()
    process = start(tmp_path, [*SHORT, "--scheduler", "tcp://127.0.0.1:9"])
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "No Dask scheduler answers at tcp://127.0.0.1:9" in said
    assert "Traceback" not in said
    assert time.monotonic() - began < 20  # ten, on a machine with nothing else to do
    assert not (tmp_path / "bench.db").exists()


def test_a_worker_drains_the_database_whatever_its_clock_says(tmp_path, postgres_database):
    """One of two workers lives an hour ahead: it takes nothing from the other, because the server's
    clock counts.
    """
    runs, place = sweep(3, 2_000), Place(prepared(tmp_path / "home"), postgres_database())
    keys = [run.spec.key for run in runs]
    with place.store() as store:
        store.enqueue(runs)
    ahead = {"PATH_FIRST": str(ROOT / "tests" / "faulty"), "CLOCK_AHEAD_S": "3600"}
    workers = [
        start(place.home, ["--drain"], command="worker", **place.environment, **extra)
        for extra in ({}, ahead)
    ]
    for worker in workers:
        _, said = worker.communicate(timeout=120)
        assert worker.returncode == 0, said
    with ResultStore.open(place.url) as store:
        lines = [[line.status.value for line in store.history(key)] for key in keys]
        at = [store.history(key)[-1].at for key in keys]
    assert lines == [["queued", "running", "done"]] * 3
    assert max(at) - min(at) < 600


@pytest.mark.skipif(
    not FULL, reason="four workers with interpreters of their own, with BENCH_TESTS=full"
)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_workers_in_containers_of_one_host_leave_each_other_their_runs(kind, tmp_path, request):
    """The host's name and its boot are those of all of them, and each has the process number of the
    others.
    """
    argv = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*argv, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespaces here")
    place = Place.sqlite(tmp_path / "home")
    if kind == "postgresql":
        place = Place(place.home, request.getfixturevalue("postgres_database")())
    runs = sweep(6, 20_000)
    with place.store() as store:
        store.enqueue(runs)
    environment = {
        **os.environ,
        **place.environment,
        "BENCH_HOME": str(place.home),
        "PYTHONPATH": str(ROOT),
    }
    command = [*argv, sys.executable, "-m", "harness.cli", "worker", "--drain"]
    workers = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = [worker.communicate(timeout=600)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, said
    with place.store() as store:
        assert [[line.status.value for line in store.history(run.spec.key)] for run in runs] == [
            ["queued", "running", "done"]
        ] * 6


def test_a_server_that_goes_away_in_mid_sweep_is_waited_for(tmp_path, record_property):
    runs = sweep(2, 5_000)
    places = [Place.sqlite(tmp_path / "whole")]
    with server() as running:
        with psycopg.connect(f"{running.url}/postgres", autocommit=True) as connection:
            connection.execute("CREATE DATABASE bench")
        places.append(Place(prepared(tmp_path / "home"), f"{running.url}/bench"))
        for place in places:
            with place.store() as store:
                store.enqueue(runs)
        processes = [
            start(
                place.home,
                ["--drain", "--save-every", "0.5"],
                command="worker",
                **place.environment,
            )
            for place in places
        ]
        wait_until(lambda: list((places[1].home / "checkpoints").glob("*/*")), processes[1])
        running.stop()
        time.sleep(OUTAGE_S)
        running.start()
        errors = [process.communicate(timeout=300)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], errors
        assert "Training goes on" in errors[1]
        record_property("faults", 1)
        compared(record_property, states(places[1]), states(places[0]))
        with places[1].store() as store:
            histories = [
                [line.status.value for line in store.history(run.spec.key)] for run in runs
            ]
        assert histories == [["queued", "running", "done"]] * 2


def test_a_signal_while_the_server_is_away_ends_the_command_soon(tmp_path, record_property):
    """Not after the minute and a half for which results wait; what is saved goes on."""
    runs = sweep(1, 3_000)
    places = [Place.sqlite(tmp_path / "whole")]
    with server() as running:
        with psycopg.connect(f"{running.url}/postgres", autocommit=True) as connection:
            connection.execute("CREATE DATABASE bench")
        places.append(Place(prepared(tmp_path / "home"), f"{running.url}/bench"))
        arguments = ["--drain", "--save-every", "0.5"]
        for place in places:
            with place.store() as store:
                store.enqueue(runs)
        whole, broken = (
            start(place.home, arguments, command="worker", **place.environment) for place in places
        )
        wait_until(lambda: list((places[1].home / "checkpoints").glob("*/*")), broken)
        running.stop()
        whole.communicate(timeout=300)
        time.sleep(OUTAGE_S)  # training has ended there too: its results wait
        broken.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, errors = broken.communicate(timeout=300)
        assert time.monotonic() - began < 60
        assert broken.returncode in (1, 130), errors
        assert "Traceback" not in errors
        running.start()
        again = start(places[1].home, arguments, command="worker", **places[1].environment)
        _, errors = again.communicate(timeout=300)
        assert again.returncode == 0, errors
        record_property("faults", 1)
        compared(record_property, states(places[1]), states(places[0]))
