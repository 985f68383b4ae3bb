"""The process that mirrors runs while others compute them, and the handle that a command holds on it.

They speak in lines of JSON. To the process: where the workspace is, the keys to mirror, and that no more is written. From it:
how far it has come, and each kind of error once.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from harness.child import end, spawn
from harness.collector import collect_as_usual
from harness.errors import BenchError
from harness.store import ResultStore
from harness.tracking.fresh import connect, import_mlflow
from harness.tracking.runs import sync
from harness.workspace import Workspace, redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

POLL_S, LOOK_S = 2.0, 0.2
REFUSED_S = 3.0  # for another try after an error
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0


def behind(store: ResultStore, keys: Collection[str]) -> list[str]:
    """The runs to mirror, oldest first. One that waits for its first start has nothing to show yet, and nothing is made for it."""
    return store.behind(keys)


def repair(workspace: Workspace, store: ResultStore, keys: Sequence[str] | None = None) -> dict[str, str]:
    """Mirror in this process what is behind: all runs, or those among `keys`. Returns what went wrong, by key."""
    failed: dict[str, str] = {}
    try:
        client = connect(workspace, store)
    except Exception as err:  # noqa: BLE001 - whatever MLflow raises, the results are safe
        return dict.fromkeys([row.key for row in store.unmirrored(keys)], one_line(err))
    for row in store.unmirrored(keys):
        try:
            sync(client, store, workspace, row.key)
        except Exception as err:  # noqa: BLE001 - one run's trouble does not keep the others from being mirrored
            failed[row.key] = one_line(err)
    return failed


def one_line(error: BaseException) -> str:
    """What went wrong, in one line without passwords."""
    text = (str(error).strip().splitlines() or [""])[0]
    return re.sub(r"[\w+.-]+://\S+", _redacted, f"{type(error).__name__}: {text}")[:500]


def _redacted(address: re.Match[str]) -> str:
    try:
        return redact(address[0])
    except ValueError:
        return "***"


class Mirror:
    """A running mirror of some runs: `with Mirror.start(workspace, keys) as mirror: ...; left = mirror.finish()`.

    It raises nothing: what cannot be mirrored stays behind in the database, for the next command. The process ends with the
    one that started it, and on Linux with the thread too.
    """

    def __init__(self, workspace: Workspace, keys: Iterable[str]) -> None:
        self.error: str | None = None
        self._workspace = workspace
        self._keys = list(keys)
        self._child: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self._moved = time.monotonic()

    @classmethod
    def start(cls, workspace: Workspace, keys: Iterable[str]) -> Self:
        """Start the process and return at once."""
        mirror = cls(workspace, keys)
        try:
            mirror._child = spawn("harness.tracking.process")
        except OSError as err:
            mirror.error = one_line(err)
            return mirror
        mirror._listener = threading.Thread(target=mirror._listen, args=(mirror._child.stdout,), daemon=True)
        mirror._listener.start()
        mirror._say({"home": str(workspace.home), "environment": dict(workspace.environment)})
        mirror._say({"keys": mirror._keys})
        return mirror

    def add(self, keys: Iterable[str]) -> None:
        """Mirror these runs too."""
        new = list(keys)
        self._keys += new
        self._say({"keys": new})

    def finish(self, timeout_s: float = 10.0) -> list[str]:
        """Wait until all runs are mirrored, at most `timeout_s` seconds without progress, and end the process.

        Returns:
            The keys that are not mirrored; `error` then says why, if that is known.
        """
        self._say({"finish": True})
        self._moved = time.monotonic()
        left = list(self._keys)
        try:
            with ResultStore.open(self._workspace.database_url) as store:
                while (now := behind(store, self._keys)) and self._is_alive() and time.monotonic() < self._deadline(timeout_s):
                    if len(now) < len(left):
                        self._moved = time.monotonic()
                    left = now if len(now) < len(left) else left
                self.close()
                return behind(store, self._keys)
        except BenchError as err:
            self.error = one_line(err)
            self.close()
            return left

    def _deadline(self, timeout_s: float) -> float:
        """When waiting is over: sooner where MLflow has refused already, and no run got through since."""
        return self._moved + (timeout_s if self.error is None else min(timeout_s, REFUSED_S))

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._child is not None and self._listener is not None:
            end(self._child, self._listener)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _is_alive(self) -> bool:
        """Whether the process still works, asked with a short wait."""
        if self._child is None:
            return False
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(LOOK_S)
        return self._child.returncode is None

    def _say(self, message: dict[str, Any]) -> None:
        if self._child is None or self._child.stdin is None:
            return
        with suppress(OSError, ValueError):  # it has ended: then `finish` says what is left
            self._child.stdin.write(json.dumps(message) + "\n")
            self._child.stdin.flush()

    def _listen(self, pipe: IO[str]) -> None:
        for line in pipe:
            message = json.loads(line)
            self.error = message.get("error", self.error)
            if "reached" in message:
                self._moved = time.monotonic()


# In the process


@dataclass
class Orders:
    """What the command has said so far."""

    keys: dict[str, None] = field(default_factory=dict)
    finish: bool = False
    news: threading.Event = field(default_factory=threading.Event)

    def follow(self, lines: Iterable[str]) -> None:
        """Take what is said until the command ends, and end with it."""
        for line in lines:
            message = json.loads(line)
            self.keys = {**self.keys, **dict.fromkeys(message.get("keys", ()))}
            self.finish = self.finish or "finish" in message
            self.news.set()
        os._exit(0)


def main() -> None:
    """Mirror as standard input says, until all is done or it closes."""
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever MLflow prints is no report
    first = json.loads(sys.stdin.readline())
    orders = Orders()
    threading.Thread(target=orders.follow, args=(sys.stdin,), daemon=True).start()
    work = Work(Workspace(Path(first["home"]), first["environment"]), report)
    try:
        with ResultStore.open(work.workspace.database_url) as store:
            work.until_done(store, orders)
    except Exception as err:  # noqa: BLE001 - the command is told, and the runs stay behind
        work.tell_error(err)
    report.close()
    os._exit(0)  # the thread that reads standard input would hold up an ordinary exit


@dataclass
class Work:
    """What the process remembers: its client, the errors that it has told, and when to try a run again."""

    workspace: Workspace
    report: IO[str]
    client: MlflowClient | None = None
    told: set[str] = field(default_factory=set)
    failures: dict[str, int] = field(default_factory=dict)
    not_before: dict[str, float] = field(default_factory=dict)

    def until_done(self, store: ResultStore, orders: Orders) -> None:
        """Look every two seconds for what is behind, and at once when the command speaks."""
        finishing = False
        while True:
            orders.news.clear()
            if orders.finish and not finishing:
                finishing = True
                self.not_before.clear()  # the last chance is taken at once
                self.failures.clear()
            try:
                keys = behind(store, orders.keys)
                if finishing and not keys:
                    return
                self.one_pass(store, keys)
            except Exception as err:  # noqa: BLE001 - a locked database or an absent MLflow may be back later
                self.tell_error(err)
            orders.news.wait(LOOK_S if finishing else POLL_S)

    def one_pass(self, store: ResultStore, keys: list[str]) -> None:
        """Mirror each of these runs that is due."""
        if not keys:
            return
        if self.client is None:
            import_mlflow()
            self.tell(reached="mlflow")
            self.client = connect(self.workspace, store)
            self.tell(reached="store")
            collect_as_usual()
        for key in keys:
            if time.monotonic() >= self.not_before.get(key, 0.0):
                self.one_run(self.client, store, key)

    def one_run(self, client: MlflowClient, store: ResultStore, key: str) -> None:
        """Mirror a run; after a failure the next attempt waits twice as long."""
        try:
            sync(client, store, self.workspace, key)
            self.failures.pop(key, None)
        except Exception as err:  # noqa: BLE001 - one run's trouble does not keep the others from being mirrored
            self.failures[key] = self.failures.get(key, 0) + 1
            self.not_before[key] = time.monotonic() + min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** (self.failures[key] - 1))
            self.tell_error(err)

    def tell_error(self, error: Exception) -> None:
        """Report an error, once a kind."""
        if type(error).__name__ not in self.told:
            self.told.add(type(error).__name__)
            self.tell(error=one_line(error))

    def tell(self, **message: str) -> None:
        """Send a line to the command."""
        self.report.write(json.dumps(message) + "\n")
