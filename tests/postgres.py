"""A real PostgreSQL server for the tests: on loopback, in a temporary folder, gone when they
end.
"""

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
from dataclasses import dataclass
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


@dataclass
class Server:
    """A server in a folder of its own, which can be stopped and started again at the same
    address.
    """

    home: Path
    account: dict[str, str | int]
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address, without a database's name."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, at a free port the first time; one that was taken meanwhile is tried anew."""
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        first = self.port == 0
        for _ in range(ATTEMPTS):
            self.port = free_port() if first else self.port
            command = [
                find_binary("postgres"),
                "-D",
                str(self.home / "data"),
                "-h",
                "127.0.0.1",
                "-p",
                str(self.port),
            ]
            with (self.home / "log").open("ab") as log:
                self.process = subprocess.Popen(
                    [*command, "-k", str(self.home), "-F"],
                    stdout=log,
                    stderr=log,
                    env=environment,
                    cwd=self.home,
                    **self.account,
                )
            if answers(self.process, self.url):
                return
            self.process.wait()
        raise RuntimeError(f"PostgreSQL does not start: {(self.home / 'log').read_text()}")

    def stop(self) -> None:
        """A fast shutdown: clients are cut off."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            self.process.kill()
            self.process.wait()


def answers(server: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until the server takes connections, or has ended."""
    import psycopg

    while server.poll() is None:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(f"{url}/postgres", connect_timeout=2).close()
            return True
        time.sleep(0.05)
    return False


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A running server, or a skipped test where there is none; a failed one where CI is set."""
    if find_binary("postgres") is None or find_binary("initdb") is None:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL is not installed, and the variable CI is set")
        pytest.skip("PostgreSQL is not installed")
    account = unprivileged()
    home = Path(tempfile.mkdtemp(prefix="bench-postgres-"))
    try:
        if account:
            os.chown(home, int(account["user"]), int(account["group"]))
        initdb = [
            find_binary("initdb"),
            "-D",
            str(home / "data"),
            "-U",
            USER,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "-N",
        ]
        subprocess.run(initdb, check=True, capture_output=True, cwd=home, **account)
        running = Server(home, account)
        running.start()
        yield running
        running.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of a running server, without a database's name."""
    with server() as running:
        yield running.url


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
