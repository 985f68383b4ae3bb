"""A real PostgreSQL server for the tests: on loopback, in a temporary folder, gone when they end."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

USER = "bench"
ATTEMPTS = 3


def find_binary(name: str) -> str | None:
    """A program of the server, on the path or where Debian keeps it."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return str(installed[0]) if installed else shutil.which(name)


def unprivileged() -> dict[str, str | int]:
    """Arguments for subprocess: the server refuses to run as root."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            return {"user": account.pw_uid, "group": account.pw_gid}
    pytest.skip("no unprivileged account to run PostgreSQL as")


def free_port() -> int:
    """A port of the loopback interface that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder: Path, account: dict[str, str | int]) -> tuple[subprocess.Popen[bytes], str]:
    """A server that answers, and its address without a database's name; a port taken meanwhile is tried anew."""
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    for _ in range(ATTEMPTS):
        port = free_port()
        command = [find_binary("postgres"), "-D", str(folder), "-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-F"]
        with (folder.parent / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder.parent, **account)
        if answers(server, url := f"postgresql://{USER}@127.0.0.1:{port}"):
            return server, url
        server.wait()
    raise RuntimeError(f"PostgreSQL does not start: {(folder.parent / 'log').read_text()}")


def answers(server: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until the server takes connections, or has ended."""
    import psycopg

    while server.poll() is None:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(f"{url}/postgres", connect_timeout=2).close()
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of a running server, without a database's name."""
    if find_binary("postgres") is None or find_binary("initdb") is None:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL is not installed, and the variable CI is set")
        pytest.skip("PostgreSQL is not installed")
    account = unprivileged()
    home = Path(tempfile.mkdtemp(prefix="bench-postgres-"))
    try:
        if account:
            os.chown(home, int(account["user"]), int(account["group"]))
        initdb = [find_binary("initdb"), "-D", str(home / "data"), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=home, **account)
        server, url = start(home / "data", account)
        yield url
        server.send_signal(signal.SIGINT)  # a fast shutdown: clients that a failed test left behind are cut off
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(5)
        server.kill()
        server.wait()
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def postgres_database(postgres_server: str) -> Iterator[Callable[[], str]]:
    """A function that creates an empty database and returns its address."""
    import psycopg

    made: list[str] = []

    def create() -> str:
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        made.append(name)
        return f"{postgres_server}/{name}"

    yield create
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        for name in made:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
