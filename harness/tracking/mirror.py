"""The process that mirrors runs while others compute them, and the handle that a command holds on
it.

They speak in lines of JSON. To the process: where the workspace is, the keys to mirror, and that no
more is written. From it: that MLflow has stored something, each kind of error once, and every
second the processor time that the process has had.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from harness.base.errors import BenchError
from harness.base.gc import collect_as_usual
from harness.base.stop_request import StopRequest
from harness.base.subprocesses import end, spawn
from harness.base.workspace import Workspace
from harness.store import ResultStore
from harness.tracking.runs import sync
from harness.tracking.server import connect, one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

POLL_S, LOOK_S, PULSE_S = 2.0, 0.2, 1.0
PATIENCE_S = 8.0  # for a server that says nothing
REFUSED_S = 3.0  # for another try after an error
AT_WORK_S, MOST_WORK_S = (
    0.05,
    60.0,
    # of processor time: as much shows that the process computes; more without a result is no progress
)
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0


def behind(store: ResultStore, keys: Collection[str]) -> list[str]:
    """The runs to mirror, oldest first. One that waits for its first start has nothing to show yet,
    and nothing is made for it.
    """
    return store.behind(keys)


def repair(
    workspace: Workspace, store: ResultStore, keys: Sequence[str] | None = None
) -> dict[str, str]:
    """Mirror in this process what is behind: all runs, or those among `keys`. Returns what went
    wrong, by key.
    """
    failed: dict[str, str] = {}
    try:
        client = connect(workspace, store)
    except Exception as err:  # noqa: BLE001 - whatever MLflow raises, the results are safe
        return dict.fromkeys(
            [row.key for row in store.unmirrored(keys)], one_line(err, workspace.tracking_uri)
        )
    for row in store.unmirrored(keys):
        try:
            sync(client, store, workspace, row.key)
        except Exception as err:  # noqa: BLE001 - one run's trouble does not keep the others from being mirrored
            failed[row.key] = one_line(err, workspace.tracking_uri)
    return failed


class Mirror:
    """A running mirror of some runs: `with Mirror.start(workspace, keys) as mirror: ...; left =
    mirror.finish()`.

    It raises nothing: what cannot be mirrored stays behind in the database, for the next command.
    The process begins with the first key and ends with the one that started it, on Linux with the
    thread too.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.error: str | None = None
        self._workspace = workspace
        self._keys: list[str] = []
        self._child: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self._patience = Patience()

    @classmethod
    def start(cls, workspace: Workspace, keys: Iterable[str]) -> Self:
        """Start the process and return at once."""
        mirror = cls(workspace)
        mirror.add(keys)
        return mirror

    def add(self, keys: Iterable[str]) -> None:
        """Mirror these runs too."""
        new = list(keys)
        if new and not self._keys:
            self._spawn()
        self._keys += new
        self._say({"keys": new})

    def _spawn(self) -> None:
        try:
            self._child = spawn("harness.tracking.mirror")
        except OSError as err:
            self.error = one_line(err)
            return
        self._listener = threading.Thread(
            target=self._listen, args=(self._child.stdout,), daemon=True
        )
        self._listener.start()
        self._say(
            {"home": str(self._workspace.home), "environment": dict(self._workspace.environment)}
        )

    def finish(self, timeout_s: float = PATIENCE_S, stop: StopRequest | None = None) -> list[str]:
        """Wait until all runs are mirrored, as long as that gets on, and end the process.

        Args:
            timeout_s: how long nothing may happen.
            stop: ends the wait when it is set; where it is set already, what was interrupted has a
                moment to be shown as that.

        Returns:
            The keys that are not mirrored; `error` then says why.
        """
        if not self._keys:
            return []
        stop = stop or StopRequest()
        stopped_before = stop.is_set()
        self._patience.begin(REFUSED_S if stopped_before else timeout_s)
        self._say({"finish": True})
        while (
            self._is_alive()
            and not self._patience.is_over()
            and (stopped_before or not stop.is_set())
        ):
            pass
        died = self._child is not None and self._child.returncode is not None
        self.close()
        try:
            with ResultStore.open(self._workspace.database_url) as store:
                left = behind(store, self._keys)
        except BenchError as err:
            self.error = one_line(err)
            return self._keys
        if left and self.error is None:
            silent = (
                "the wait was ended by a signal"
                if stop.is_set()
                else f"no answer within {timeout_s:g} s"
            )
            self.error = "its process died" if died else silent
        return left

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._child is not None and self._listener is not None:
            end(self._child, self._listener)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
            if (
                "error" in message and not self._patience.refused
            ):  # the first one is the cause of those after it
                self.error = message["error"]
            self._patience.take(message)


class Patience:
    """How long a mirror is waited for: as long as it gets on.

    It gets on when MLflow has stored something. As long as nothing has failed since, also when the
    process has computed: on a busy machine loading MLflow takes minutes, in which it is starved and
    no server is waited for. What is only repeated moves nothing.
    """

    def __init__(self) -> None:
        self.refused = False
        self._timeout_s, self._moved = PATIENCE_S, time.monotonic()
        self._worked = self._seen = self._result_at = (
            0.0  # processor time: now, when it last counted, at the last result
        )

    def begin(self, timeout_s: float) -> None:
        """Be patient from now on, whatever was before."""
        self.refused, self._timeout_s, self._moved, self._result_at = (
            False,
            timeout_s,
            time.monotonic(),
            self._worked,
        )

    def take(self, message: dict[str, Any]) -> None:
        """Take note of what the process says."""
        self._worked = message.get("worked", self._worked)
        computes = (
            self._worked - self._seen >= AT_WORK_S and self._worked - self._result_at < MOST_WORK_S
        )
        if "error" in message:
            self.refused = True
        elif "stored" in message:
            self.refused, self._moved, self._result_at = False, time.monotonic(), self._worked
        elif computes and not self.refused:
            self._moved, self._seen = time.monotonic(), self._worked

    def is_over(self) -> bool:
        """Whether nothing has happened for too long; sooner where MLflow has refused, and nothing
        got through since.
        """
        return time.monotonic() > self._moved + (
            min(self._timeout_s, REFUSED_S) if self.refused else self._timeout_s
        )


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
    warnings.simplefilter("ignore")  # nor are its warnings errors, whatever the user's own are
    first = json.loads(sys.stdin.readline())
    orders = Orders()
    threading.Thread(target=orders.follow, args=(sys.stdin,), daemon=True).start()
    work = Work(Workspace(Path(first["home"]), first["environment"]), report)
    threading.Thread(target=work.pulse, daemon=True).start()
    try:
        with ResultStore.open(work.workspace.database_url) as store:
            work.until_done(store, orders)
    except Exception as err:  # noqa: BLE001 - the command is told, and the runs stay behind
        work.tell_error(err)
    report.close()
    os._exit(0)  # the thread that reads standard input would hold up an ordinary exit


@dataclass
class Work:
    """What the process remembers: its client, the errors that it has told, and when to try a run
    again.
    """

    workspace: Workspace
    report: IO[str]
    client: MlflowClient | None = None
    told: set[str] = field(default_factory=set)
    stored: set[tuple[str, int, int]] = field(default_factory=set)
    failures: dict[str, int] = field(default_factory=dict)
    not_before: dict[str, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def until_done(self, store: ResultStore, orders: Orders) -> None:
        """Look every two seconds for what is behind, and at once when the command speaks."""
        finishing = False
        while True:
            orders.news.clear()
            if orders.finish and not finishing:
                finishing = True
                # the last chance is taken at once, and what it meets is told
                self.not_before.clear()
                self.failures.clear()
                self.told.clear()
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
            self.client = connect(self.workspace, store)
            collect_as_usual()
        for key in keys:
            if time.monotonic() >= self.not_before.get(key, 0.0):
                self.one_run(self.client, store, key)

    def one_run(self, client: MlflowClient, store: ResultStore, key: str) -> None:
        """Mirror a run; after a failure the next attempt waits twice as long."""
        try:
            sync(client, store, self.workspace, key, partial(self.tell_stored, key))
            self.failures.pop(key, None)
        except Exception as err:  # noqa: BLE001 - one run's trouble does not keep the others from being mirrored
            self.failures[key] = self.failures.get(key, 0) + 1
            self.not_before[key] = time.monotonic() + min(
                LAST_RETRY_S, FIRST_RETRY_S * 2 ** (self.failures[key] - 1)
            )
            self.tell_error(err)

    def pulse(self) -> None:
        """Tell again and again how much processor time this process has had."""
        while True:
            time.sleep(PULSE_S)
            self.tell(worked=time.process_time())

    def tell_error(self, error: Exception) -> None:
        """Report an error, once a kind."""
        text = one_line(error, self.workspace.tracking_uri)
        if text not in self.told:
            self.told.add(text)
            self.tell(error=text)

    def tell_stored(self, key: str, revision: int, missing: int) -> None:
        """Report that MLflow has more of a run than it ever had; a fault after that is news again."""
        if (key, revision, missing) not in self.stored:
            self.stored.add((key, revision, missing))
            self.told.clear()
            self.tell(stored=True)

    def tell(self, **message: Any) -> None:
        """Send a line to the command."""
        with self.lock:
            self.report.write(json.dumps(message) + "\n")
