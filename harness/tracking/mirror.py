"""The process that mirrors runs while others compute them, and the handle that a command holds on
it.

The command sends where the workspace is, the keys to mirror, and that no more runs are written. The
process sends that MLflow has stored something, each kind of error once, and every second the
processor time that it has had.
"""

from __future__ import annotations

import queue
import threading
import time
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from harness.base.closing import Closing
from harness.base.errors import BenchError
from harness.base.stop_request import StopRequest
from harness.base.subprocesses import Message, Parent, Subprocess
from harness.base.workspace import Workspace
from harness.store import ResultStore
from harness.tracking.runs import sync
from harness.tracking.server import connect, one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

POLL_S, LOOK_S, PULSE_S = 2.0, 0.2, 1.0
PATIENCE_S = 8.0  # for a server that says nothing
REFUSED_S = 3.0  # for another try after an error
# Of processor time: as much shows that the process computes; more without a result is no progress.
AT_WORK_S, MOST_WORK_S = 0.05, 60.0
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0


def repair(
    workspace: Workspace, store: ResultStore, keys: Sequence[str] | None = None
) -> dict[str, str]:
    """Mirror in this process what is not mirrored: all runs, or those among `keys`; return what
    went wrong, by key.
    """
    failed: dict[str, str] = {}
    try:
        client = connect(workspace, store)
    except Exception as err:  # noqa: BLE001 - whatever MLflow raises, the results are safe
        return dict.fromkeys(store.behind(keys), one_line(err, workspace.tracking_uri))
    for key in store.behind(keys):
        try:
            sync(client, store, workspace, key)
        except Exception as err:  # noqa: BLE001 - one run's trouble does not keep the others from being mirrored
            failed[key] = one_line(err, workspace.tracking_uri)
    return failed


class Mirror(Closing):
    """A running mirror of some runs.

    `with Mirror.start(workspace, keys) as mirror: ...; missing = mirror.finish()`

    It raises nothing: what cannot be mirrored is left for the next command. The process begins with
    the first key and ends with the one that started it, on Linux with the thread too.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.error: str | None = None
        self._workspace = workspace
        self._keys: list[str] = []
        self._process: Subprocess | None = None
        self._patience = Patience()

    @classmethod
    def start(cls, workspace: Workspace, keys: Iterable[str]) -> Self:
        """Start the process and return at once."""
        mirror = cls(workspace)
        mirror.add(keys)
        return mirror

    def add(self, keys: Iterable[str]) -> None:
        """Mirror these runs too."""
        new_keys = list(keys)
        if new_keys and not self._keys:
            try:
                self._process = Subprocess(__name__)
            except OSError as err:
                self.error = one_line(err)
            self._send(
                home=str(self._workspace.home), environment=dict(self._workspace.environment)
            )
        self._keys += new_keys
        self._send(keys=new_keys)

    def _send(self, **message: object) -> None:
        if self._process is not None:
            self._process.send(**message)

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
        was_stopped = stop.is_set()
        self._hear()
        self._patience.begin(REFUSED_S if was_stopped else timeout_s)
        self._send(finish=True)
        died = False
        while self._process is not None and not died:
            died = self._process.wait(LOOK_S) is not None
            self._hear()
            if self._patience.is_over() or (stop.is_set() and not was_stopped):
                break
        self.close()
        try:
            with ResultStore.open(self._workspace.database_url) as store:
                missing = store.behind(self._keys)
        except BenchError as err:
            self.error = one_line(err)
            return self._keys
        if missing and self.error is None:
            silence = f"no answer within {timeout_s:g} s"
            silence = "the wait was ended by a signal" if stop.is_set() else silence
            self.error = "its process died" if died else silence
        return missing

    def _hear(self) -> None:
        for message in self._process.received() if self._process is not None else ():
            # The first error is the cause of those after it.
            if "error" in message and not self._patience.refused:
                self.error = message["error"]
            self._patience.take(message)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.close()


class Patience:
    """How long a mirror is waited for: as long as it gets on.

    It gets on when MLflow has stored something. As long as nothing has failed since, also when the
    process has computed: on a busy machine loading MLflow takes minutes, in which it is starved and
    no server is waited for. What is only repeated moves nothing.
    """

    def __init__(self) -> None:
        self.refused = False
        self._timeout_s, self._moved_at = PATIENCE_S, time.monotonic()
        # Processor time: now, when it was progress last, at the last result.
        self._worked = self._counted = self._worked_at_result = 0.0

    def begin(self, timeout_s: float) -> None:
        """Be patient from now on, whatever was before."""
        self._timeout_s = timeout_s
        self._move()

    def _move(self) -> None:
        self.refused, self._moved_at = False, time.monotonic()
        self._worked_at_result = self._worked

    def take(self, message: Message) -> None:
        """Take note of what the process sends."""
        self._worked = message.get("worked", self._worked)
        if "error" in message:
            self.refused = True
        elif "stored" in message:
            self._move()
        elif not self.refused:
            computes = self._worked - self._counted >= AT_WORK_S
            if computes and self._worked - self._worked_at_result < MOST_WORK_S:
                self._moved_at, self._counted = time.monotonic(), self._worked

    def is_over(self) -> bool:
        """Say whether nothing has happened for too long; sooner where MLflow has refused, and
        nothing got through since.
        """
        patience_s = min(self._timeout_s, REFUSED_S) if self.refused else self._timeout_s
        return time.monotonic() > self._moved_at + patience_s


# In the process


def main(parent: Parent) -> None:
    """Mirror as the parent says, until all is done."""
    warnings.simplefilter("ignore")  # they are not errors here, whatever the user's own are
    location = parent.messages.get()
    work = Work(Workspace(Path(location["home"]), location["environment"]), parent)
    threading.Thread(target=work.pulse, daemon=True).start()
    try:
        with ResultStore.open(work.workspace.database_url) as store:
            work.until_done(store)
    except Exception as err:  # noqa: BLE001 - the command is told, and the runs stay behind
        work.report_error(err)


@dataclass
class Work:
    """What the process remembers: its client, the keys it was given, what it has reported, and when
    to try a run again.
    """

    workspace: Workspace
    parent: Parent
    client: MlflowClient | None = None
    keys: dict[str, None] = field(default_factory=dict)
    errors: set[str] = field(default_factory=set)
    stored: set[tuple[str, int, int]] = field(default_factory=set)
    failures: dict[str, int] = field(default_factory=dict)
    not_before: dict[str, float] = field(default_factory=dict)

    def until_done(self, store: ResultStore) -> None:
        """Look every two seconds for runs to mirror, and at once when the command speaks."""
        finishing = False
        while True:
            with suppress(queue.Empty):
                message = self.parent.messages.get(timeout=LOOK_S if finishing else POLL_S)
                while True:
                    self.keys |= dict.fromkeys(message.get("keys", ()))
                    if message.get("finish"):  # the last chance is taken at once
                        finishing = True
                        self.not_before.clear()
                        self.failures.clear()
                        self.errors.clear()
                    message = self.parent.messages.get_nowait()
            try:
                unmirrored = store.behind(self.keys)
                if finishing and not unmirrored:
                    return
                for key in unmirrored:
                    if self.client is None:
                        self.client = connect(self.workspace, store)
                    if time.monotonic() >= self.not_before.get(key, 0.0):
                        self.mirror(self.client, store, key)
            except Exception as err:  # noqa: BLE001 - a locked database or an absent MLflow may be back later
                self.report_error(err)

    def mirror(self, client: MlflowClient, store: ResultStore, key: str) -> None:
        """Mirror a run; after a failure the next attempt waits twice as long."""
        try:
            sync(client, store, self.workspace, key, partial(self.report_stored, key))
            self.failures.pop(key, None)
        except Exception as err:  # noqa: BLE001 - one run's trouble does not keep the others from being mirrored
            count = self.failures[key] = self.failures.get(key, 0) + 1
            pause_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** (count - 1))
            self.not_before[key] = time.monotonic() + pause_s
            self.report_error(err)

    def pulse(self) -> None:
        """Report again and again how much processor time this process has had."""
        while True:
            time.sleep(PULSE_S)
            self.parent.send(worked=time.process_time())

    def report_error(self, error: Exception) -> None:
        """Report an error, once a kind."""
        text = one_line(error, self.workspace.tracking_uri)
        if text not in self.errors:
            self.errors.add(text)
            self.parent.send(error=text)

    def report_stored(self, key: str, revision: int, missing: int) -> None:
        """Report that MLflow has more of a run than it ever had; an error after that is news
        again.
        """
        if (key, revision, missing) not in self.stored:
            self.stored.add((key, revision, missing))
            self.errors.clear()
            self.parent.send(stored=True)
