"""Storage that fails: no space, read-only, and a database that is another one. Nothing is lost, and
it is put right.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing

import pytest
from counts import compared
from runs import ROOT, finished, prepared, start, state, wait_for_checkpoint

FULL = os.environ.get("BENCH_TESTS") == "full"
RUN = ["-m", "vb", "-t", "gaussian-2", "--set", "steps=1200", "--set", "eval_particles=500"]
AWAY = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
KIB = 1024
FREE_KIB = [0, 16, 96, 128, 160, 224, 288, 352] if FULL else [0, 96, 192]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A workspace in which nothing went wrong."""
    home = prepared(tmp_path_factory.mktemp("whole"))
    finished(start(home, RUN, **AWAY))
    return home


@pytest.fixture
def small(tmp_path):
    """A file system of eight MiB, which may be filled or made read-only."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, free_kib=0):
    """Fill a file system but for so many KiB."""
    ballast = folder / "ballast"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    try:
        ballast.write_bytes(bytes(free - free_kib * KIB))
    except OSError as err:  # who writes at the same time leaves less room: then it is full as well
        if err.errno != errno.ENOSPC:
            raise
    return ballast


def refused(process, *words):
    """A command that ended with one line that says what to do."""
    out, said = process.communicate(timeout=120)
    assert process.returncode in (1, 2), (out, said)
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("bench: ")]
    assert any(word in line for word in words), line
    return line


ROOM = ("space", "room", "disk is full")


@pytest.mark.parametrize("free_kib", FREE_KIB)
def test_no_space_at_any_write_loses_nothing(free_kib, whole, small, record_property):
    ballast = fill(small, free_kib)
    refused(start(small / "home", RUN, **AWAY), *ROOM)
    ballast.unlink()
    finished(start(small / "home", RUN, **AWAY))
    record_property("faults", 1)
    compared(record_property, state(small / "home"), state(whole))


def test_no_space_in_mid_run_loses_nothing(whole, small, record_property):
    home = small / "home"
    process = start(home, RUN, **AWAY)
    while not (home / "bench.db").exists():
        assert process.poll() is None, process.communicate()
    wait_for_checkpoint(home, process, 0)
    ballast = fill(small)
    refused(process, *ROOM)
    ballast.unlink()
    (run,) = finished(start(home, RUN, **AWAY))
    assert run["outcome"] == "resumed"
    record_property("faults", 1)
    compared(record_property, state(home), state(whole))


def remounted(folder, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def test_a_read_only_workspace_says_so(whole, small, record_property):
    home = small / "home"
    shutil.copytree(whole, home)
    remounted(small, "ro")
    refused(start(home, [*RUN, "--seeds", "1"], **AWAY), "read-only", "Read-only", "readonly")
    refused(start(home, ["runs"], command="list"), "you may write there")
    remounted(small, "rw")
    (run,) = finished(start(home, RUN, **AWAY))
    assert run["outcome"] == "hit"
    record_property("faults", 1)
    compared(record_property, state(home), state(whole))


def other_text(path):
    path.write_text("results of last week\n" * 200)


def other_older(path):
    shutil.copyfile(ROOT / "tests" / "data" / "bench-0001.db", path)


def other_newer(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE bench_alembic_version SET version_num = '9999'")
        connection.commit()


def on_record(home):
    """All that a database holds; the bytes of a file that is none."""
    with closing(sqlite3.connect(home / "bench.db")) as connection:
        try:
            return list(connection.iterdump())
        except sqlite3.DatabaseError:
            return (home / "bench.db").read_bytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_text, "Move the file away"),
        (other_older, "run: bench db upgrade"),
        (other_newer, "a newer release made it"),
    ],
)
def test_a_database_that_is_another_one_is_refused_and_left_alone(
    change, says, whole, tmp_path, record_property
):
    home, kept = tmp_path / "home", tmp_path / "kept.db"
    shutil.copytree(whole, home)
    with closing(sqlite3.connect(home / "bench.db")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    shutil.copyfile(home / "bench.db", kept)
    change(home / "bench.db")
    found = on_record(home)
    for command, arguments in (("run", RUN), ("list", ["runs"]), ("doctor", [])):
        if (command, change) != (
            "doctor",
            other_older,
        ):  # to doctor it is a fault that can be mended
            refused(start(home, arguments, command=command, **AWAY), says)
        assert on_record(home) == found
    shutil.copyfile(kept, home / "bench.db")
    (run,) = finished(start(home, RUN, **AWAY))
    assert run["outcome"] == "hit"
    record_property("faults", 1)
    compared(record_property, state(home), state(whole))


def test_the_log_of_a_database_that_is_gone_is_not_taken_for_that_of_a_new_one(
    whole, tmp_path, record_property
):
    home, away = tmp_path / "home", tmp_path / "away"
    shutil.copytree(whole, home)
    away.mkdir()
    with closing(sqlite3.connect(home / "bench.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("UPDATE runs SET wall_s = 1")
        connection.commit()
        (home / "bench.db").rename(away / "bench.db")
        log = (home / "bench.db-wal").read_bytes()
        assert log
        refused(start(home, RUN, **AWAY), "bench.db-wal")
        assert not (home / "bench.db").exists()
        assert (home / "bench.db-wal").read_bytes() == log
    record_property("faults", 1)
