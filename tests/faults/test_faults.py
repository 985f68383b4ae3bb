"""Faults at chosen places, and the same command again."""

from __future__ import annotations

import http.server
import os
import shutil
import socket
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from counts import compared
from runs import (
    ROOT,
    copies,
    finished,
    kill,
    mirrored,
    opened,
    prepared,
    start,
    state,
    steps_saved,
    wait_for_checkpoint,
)

from harness.base.workspace import Workspace
from harness.store import CheckpointFile

RUN = ["-m", "vb", "-t", "gaussian-2", "--set", "steps=1500", "--set", "eval_particles=500"]
LONGER = [*RUN, "--set", "steps=3000"]
FULL = os.environ.get("BENCH_TESTS") == "full"
LOCKED_S = 60.0 if FULL else 8.0
FAULTY = str(ROOT / "tests" / "faulty")

PLACES = {
    "inside a checkpoint write": "fsync:checkpoints/.*tmp:2",
    "between a checkpoint's file and its row": "-replace:checkpoints/.*step:2",
    "inside the first creation of the result database": "link:bench.db:1",
    "inside the first creation of MLflow's database": "link:mlflow.db:1",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A workspace in which nothing went wrong."""
    home = prepared(tmp_path_factory.mktemp("whole"))
    finished(start(home, RUN))
    return home


@pytest.mark.parametrize("place", PLACES)
def test_killed_there_the_same_command_goes_on(place, whole, tmp_path, record_property):
    mark = tmp_path / "fault"
    fault = {"PATH_FIRST": FAULTY, "FAULT": PLACES[place], "FAULT_MARK": str(mark)}
    first = start(tmp_path / "home", RUN, **fault)
    first.communicate(timeout=300)
    assert mark.exists()
    assert first.returncode == -9
    finished(start(tmp_path / "home", RUN, **fault))
    record_property("interruptions", 1)
    compared(record_property, state(tmp_path / "home"), state(whole))
    assert list(mirrored(tmp_path / "home").values()) == [["FINISHED"]]
    assert not [
        path for path in (tmp_path / "home").rglob("*") if path.name.endswith((".tmp", ".new"))
    ]
    assert sum(path.is_file() for path in (tmp_path / "home" / "checkpoints").rglob("*")) <= 3


def test_killed_while_mlflow_is_written(whole, tmp_path, record_property):
    """The files of the run are being copied to MLflow when both processes die."""
    shutil.copytree(whole, tmp_path / "home")
    with opened(tmp_path / "home") as store:
        store.clear_mirror(None)
    for database in (tmp_path / "home").glob("mlflow.db*"):
        database.unlink()
    shutil.rmtree(tmp_path / "home" / "mlruns")
    mark = tmp_path / "fault"
    first = start(
        tmp_path / "home", RUN, PATH_FIRST=FAULTY, FAULT="mkdir:mlruns:1", FAULT_MARK=str(mark)
    )
    first.communicate(timeout=300)
    assert (mark.exists(), first.returncode) == (True, -9)
    (run,) = finished(start(tmp_path / "home", RUN))
    assert run["outcome"] == "hit"
    assert list(mirrored(tmp_path / "home").values()) == [["FINISHED"]]
    record_property("interruptions", 1)
    compared(
        record_property, dict.fromkeys(copies(tmp_path / "home")), dict.fromkeys(copies(whole))
    )


def damage(home: Path, kind: str, other: Path) -> CheckpointFile:
    """Harm the newest checkpoint of the only run; `other` is a checkpoint of another one."""
    with opened(home) as store:
        (row,) = store.recent()
        file = store.checkpoints(row.key)[0]
    path = file.path_in(Workspace(home))
    content = bytearray(path.read_bytes())
    if kind == "flipped":
        content[-3] ^= 8
        path.write_bytes(content)
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "another run's":
        path.write_bytes(other.read_bytes())
    else:
        path.unlink()
    return file


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """The same with more steps."""
    home = prepared(tmp_path_factory.mktemp("longer"))
    finished(start(home, LONGER))
    return home


@pytest.mark.parametrize("kind", ["flipped", "truncated", "another run's", "missing"])
def test_a_bad_checkpoint_falls_back_to_the_one_before_and_says_so(
    kind, longer, whole, tmp_path, record_property
):
    process = start(prepared(tmp_path), LONGER)
    wait_for_checkpoint(tmp_path, process, 0)
    wait_for_checkpoint(tmp_path, process, steps_saved(tmp_path))
    kill(process)
    damage(tmp_path, kind, next((whole / "checkpoints").rglob("*.safetensors")))
    errors: list[str] = []
    finished(start(tmp_path, LONGER), errors)
    assert ("damaged" if kind != "missing" else "Cannot read") in errors[0]
    assert "Going on from step" in errors[0]
    record_property("faults", 1)
    compared(record_property, state(tmp_path), state(longer))


def test_with_mlflow_away_the_run_is_done_and_doctor_mirrors_it_later(
    whole, tmp_path, record_property
):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    errors: list[str] = []
    (run,) = finished(start(tmp_path, RUN, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}"), errors)
    assert run["status"] == "done"
    assert "does not show 1 run yet" in errors[0]
    looked = start(tmp_path, [], command="doctor")
    assert "MLflow does not show run" in looked.communicate(timeout=120)[0]
    assert looked.returncode == 3
    mended = start(tmp_path, ["--repair"], command="doctor")
    out, _ = mended.communicate(timeout=120)
    assert (mended.returncode, out.count("mended: ")) == (0, 1)
    record_property("faults", 1)
    compared(record_property, state(tmp_path), state(whole))
    (copy,), (expected,) = copies(tmp_path).values(), copies(whole).values()
    assert copy[0] == expected[0]
    curves, wanted = (
        {name: [point[:2] for point in points] for name, points in each[2].items()}
        for each in (copy, expected)
    )
    assert curves == wanted
    assert copy[3]["spec.json"] == expected[3]["spec.json"]


class _Broken(http.server.BaseHTTPRequestHandler):
    def _refuse(self) -> None:
        self.send_error(500)

    do_GET = do_POST = do_PUT = do_PATCH = _refuse

    def log_message(self, *arguments) -> None:
        return


class _Hanging(_Broken):
    def _hang(self) -> None:
        time.sleep(60)  # longer than anybody waits

    do_GET = do_POST = do_PUT = do_PATCH = _hang


@pytest.mark.parametrize("how", [_Broken, _Hanging])
def test_an_mlflow_that_answers_500_or_nothing_costs_nothing_but_its_copy(
    how, whole, tmp_path, record_property
):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), how)
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    errors: list[str] = []
    (run,) = finished(
        start(tmp_path, RUN, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{server.server_port}"), errors
    )
    server.shutdown()
    server.server_close()
    assert run["status"] == "done"
    assert "Nothing is lost" in errors[0]
    finished(start(prepared(tmp_path), RUN))
    assert list(mirrored(tmp_path).values()) == [["FINISHED"]]
    record_property("faults", 1)
    compared(record_property, state(tmp_path), state(whole))


def test_mlflows_files_deleted_are_made_again_equal(whole, tmp_path, record_property):
    home = tmp_path / "home"
    shutil.copytree(whole, home)
    with opened(home) as store:
        store.clear_mirror(None)
    for path in home.glob("mlflow.db*"):
        path.unlink()
    shutil.rmtree(home / "mlruns")

    def mend():
        process = start(home, ["--repair"], command="doctor")
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, out + errors

    mend()
    before = copies(home)
    for path in home.glob("mlflow.db*"):
        path.unlink()
    shutil.rmtree(home / "mlruns")
    mend()
    assert copies(home) == before
    shutil.rmtree(home / "mlruns")
    mend()
    assert copies(home) == before
    assert list(home.glob("bench-*.db"))
    record_property("faults", 3)
    compared(record_property, state(home), state(whole))


def test_a_database_locked_for_a_while_loses_nothing(longer, tmp_path, record_property):
    process = start(prepared(tmp_path), LONGER)
    wait_for_checkpoint(tmp_path, process, 0)
    lock = sqlite3.connect(tmp_path / "bench.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    time.sleep(LOCKED_S)
    lock.execute("COMMIT")
    lock.close()
    finished(process)
    record_property("faults", 1)
    compared(record_property, state(tmp_path), state(longer))


def test_a_run_that_starves_every_thread_keeps_its_lease(tmp_path):
    """Leases are kept by another process: one that is stopped altogether still holds its runs."""
    process = start(prepared(tmp_path), [*RUN, "--set", "steps=20000"])
    wait_for_checkpoint(tmp_path, process, 0)
    with opened(tmp_path) as store:
        (row,) = store.recent()
        process.send_signal(19)  # SIGSTOP
        deadline = time.monotonic() + 60
        while store.rows([row.key])[row.key].lease_expires == row.lease_expires:
            assert time.monotonic() < deadline
            time.sleep(0.5)
    process.send_signal(18)  # SIGCONT
    kill(process)


def test_doctor_finds_and_mends(whole, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(whole, home)
    other = [*LONGER, "--seeds", "1"]
    process = start(home, other)
    wait_for_checkpoint(home, process, steps_saved(home))
    kill(process)
    with opened(home) as store:
        (done,) = store.recent(status="done")
        path = store.checkpoints(done.key)[0].path_in(Workspace(home))
    path.write_bytes(b"junk")
    path.with_name("stray").write_text("?")

    def doctor(*arguments: str) -> tuple[int, str]:
        child = start(home, list(arguments), command="doctor")
        out, errors = child.communicate(timeout=120)
        assert "Traceback" not in errors
        return child.returncode, out

    status, before = doctor()
    assert status == 3
    for fault in ("was left by", "is damaged", "stray belongs to no checkpoint"):
        assert fault in before
    assert path.read_bytes() == b"junk"
    status, _ = doctor("--repair")
    assert status in (0, 3)
    status, after = doctor()
    with opened(home) as store:
        (left,) = store.recent(status="interrupted")
    assert left.reason == "abandoned"
    assert "was left by" not in after
    assert "stray" not in after
    (again,) = finished(start(home, other))
    assert again["outcome"] == "resumed"


def test_rm_removes_a_run_everywhere(whole, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(whole, home)
    with opened(home) as store:
        (row,) = store.recent()
    process = start(home, [row.key[:6], "--yes"], command="rm")
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, "Removed 1 run." in out) == (0, True), errors
    assert state(home) == {}
    assert not list((home / "checkpoints").glob("*/*"))
    assert mirrored(home) == {}
