"""Result databases with queued runs, and what the tests of them share."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import store_processes as processes
from sqlalchemy import text
from store_processes import new_run, spec

from harness.base.spec import Plan, Status
from harness.base.workspace import sqlite_url
from harness.store import CheckpointFile, Outcome, Owner, ResultStore
from harness.store import upgrade as upgrade_database
from harness.store.database import Database

DATA = Path(__file__).parent / "data"
SPAWN = multiprocessing.get_context("spawn")
ME = Owner.current()
ELSEWHERE = Owner("another-host", "boot", 17, 4711)
KEYS = [spec(seed).key for seed in range(20)]
TORCH = "2.13.0"
REVISION_MODULE = upgrade_database.__module__  # the package gives its name to the function


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """An address where no database, or an empty one, is."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "bench.db")
    return request.getfixturevalue("postgres_database")()


@pytest.fixture
def file(tmp_path):
    """Where a SQLite database would be."""
    return tmp_path / "bench.db"


@pytest.fixture
def store(url):
    """An open database with twenty queued runs."""
    with ResultStore.open(url) as opened:
        opened.enqueue([new_run(seed) for seed in range(20)])
        yield opened


def execute(url, statement):
    """Run one statement behind the store's back."""
    with Database(url) as database, database.write() as connection:
        connection.execute(text(statement))


def gone_owner():
    """A process of this host that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    return dataclasses.replace(ME, pid=child.pid, process_start=ME.process_start + 1)


def stack(*members):
    """A plan for these runs as one program."""
    return Plan(members=members, threads=1, torch=TORCH)


def checkpoint(step, role="last"):
    """A checkpoint's description."""
    return CheckpointFile(role, step, f"sha-{step}", 100 + step)


def outcome(status=Status.DONE, reason=None, **other):
    """How a run ended."""
    return Outcome(status, reason, 1000, 12.5, **other)


def in_processes(number, work, *arguments):
    """What `work` returns in each of several processes that start together; `arguments` begin with
    the address.
    """
    barrier, answers = SPAWN.Barrier(number), SPAWN.Queue()
    first, *rest = arguments
    started = [
        SPAWN.Process(
            target=processes.collect,
            args=(answers, work, first, barrier, *(part[index] for part in rest)),
        )
        for index in range(number)
    ]
    for process in started:
        process.start()
    found = [answers.get(timeout=120) for _ in started]
    for process in started:
        process.join()
    return found


@contextlib.contextmanager
def in_namespace(work, *arguments):
    """What `work` prints in a process with numbers of its own, as in a container; it ends with the
    block.
    """
    code = f"import store_processes; store_processes.{work.__name__}(*{arguments!r})"
    argv = [
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        sys.executable,
        "-c",
        code,
    ]
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    if subprocess.run([*argv[:5], "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespaces here")
    child = subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    try:
        yield child.stdout
    finally:
        child.kill()
        child.communicate()


def killed(target, *arguments):
    """Run a process that kills itself, and make sure that it did."""
    process = forked.server().Process(target=target, args=arguments)
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL
