"""The process that mirrors runs while others compute them, and the handle that a command holds on
it.

The command sends where the workspace is, the keys to mirror, and that no more runs are written. The
process sends that MLflow is loaded, that it has stored something, and errors.
"""

from __future__ import annotations

import queue
import time
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from harness.base.closing import Closing
from harness.base.errors import BenchError
from harness.base.stop_request import StopRequest
from harness.base.subprocesses import Parent, Subprocess
from harness.base.workspace import Workspace
from harness.store import ResultStore
from harness.tracking.runs import sync
from harness.tracking.server import connect, one_line

POLL_S, LOOK_S = 2.0, 0.2
PATIENCE_S = 8.0  # for a server that says nothing
REFUSED_S = 3.0  # for another try after an error
RETRY_S, LAST_RETRY_S = 30.0, 1.0


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
        self._is_connected = self._is_refused = False
        self._moved_at = 0.0

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
        """Wait until all runs are mirrored, as long as that gets on, and end the process; return
        the keys that are not mirrored: `error` then says why.

        Args:
            timeout_s: how long nothing may happen.
            stop: ends the wait when it is set; where it is set already, what was interrupted has a
                moment to be shown as that.
        """
        if not self._keys:
            return []
        stop = stop or StopRequest()
        was_stopped = stop.is_set()
        self._hear()
        self._is_refused, self._moved_at = False, time.monotonic()
        self._send(finish=True)
        died = False
        while self._process is not None and not died:
            died = self._process.wait(LOOK_S) is not None
            self._hear()
            # Loading MLflow takes minutes on a busy machine, and waits for no server.
            is_short = self._is_refused or was_stopped
            patience_s = min(timeout_s, REFUSED_S) if is_short else timeout_s
            is_silent = time.monotonic() > self._moved_at + patience_s
            if (is_silent and (self._is_connected or is_short)) or (
                stop.is_set() and not was_stopped
            ):
                break
        self.close()
        try:
            with ResultStore.open(self._workspace.database_url) as store:
                missing = store.behind(self._keys)
        except BenchError as err:
            self.error = one_line(err)
            return self._keys
        if missing and self.error is None:
            self.error = f"no answer within {timeout_s:g} s"
            if died or stop.is_set():
                self.error = "its process died" if died else "the wait was ended by a signal"
        return missing

    def _hear(self) -> None:
        for message in self._process.received() if self._process is not None else ():
            if "error" not in message:
                self._is_connected, self._is_refused = True, False
                self._moved_at = time.monotonic()
            elif not self._is_refused:  # the first error is the cause of those after it
                self._is_refused, self.error = True, message["error"]

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.close()


# In the process


def main(parent: Parent) -> None:
    """Mirror as the parent says, until all is done."""
    warnings.simplefilter("ignore")  # they are not errors here, whatever the user's own are
    location = parent.messages.get()
    workspace = Workspace(Path(location["home"]), location["environment"])
    try:
        with ResultStore.open(workspace.database_url) as store:
            _mirror_until_done(workspace, store, parent)
    except Exception as err:  # noqa: BLE001 - the command is told, and the runs stay behind
        parent.send(error=one_line(err, workspace.tracking_uri))


def _mirror_until_done(workspace: Workspace, store: ResultStore, parent: Parent) -> None:
    """Look every two seconds for runs to mirror, and at once when the command speaks."""
    from harness.training.curve_figures import learning_curves

    keys: dict[str, None] = {}
    not_before: dict[str, float] = {}
    client, is_finishing = None, False
    while True:
        with suppress(queue.Empty):
            message = parent.messages.get(timeout=LOOK_S if is_finishing else POLL_S)
            while True:
                keys |= dict.fromkeys(message.get("keys", ()))
                if message.get("finish"):  # the last chance is taken at once
                    is_finishing = True
                    not_before.clear()
                message = parent.messages.get_nowait()
        key = ""
        try:
            unmirrored = store.behind(keys)
            if is_finishing and not unmirrored:
                return
            if unmirrored and client is None:
                client = connect(workspace, store)
                learning_curves({}, "")  # loads matplotlib and its fonts
                parent.send(connected=True)
            for key in unmirrored:
                if client and time.monotonic() >= not_before.get(key, 0.0):
                    sync(client, store, workspace, key, lambda: parent.send(stored=True))
        except Exception as err:  # noqa: BLE001 - a locked database or an absent MLflow may be back later
            not_before[key] = time.monotonic() + (LAST_RETRY_S if is_finishing else RETRY_S)
            parent.send(error=one_line(err, workspace.tracking_uri))
