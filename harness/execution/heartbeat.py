"""The heartbeat: leases kept alive by a process of its own.

A thread would starve: many calls hold Python's interpreter lock until they return
(docs/decisions/0014-leases-in-a-process.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from harness.base.closing import Closing
from harness.base.errors import LeaseLost, StoreError
from harness.base.subprocesses import Parent, Subprocess

if TYPE_CHECKING:
    from harness.store import Claim


class Leases(Closing):
    """Prolongs the leases of claims: `with Leases(url) as leases: leases.hold(claims)`."""

    def __init__(self, url: str, beat_s: float | None = None) -> None:
        from harness.store import LEASE_S  # not where the process starts, which needs no store yet

        self._url, self._beat_s = url, LEASE_S / 4 if beat_s is None else beat_s
        self._process: Subprocess | None = None
        self._holding = 0  # counts the calls of `hold`
        self._lost = False

    def hold(self, claims: Iterable[Claim]) -> None:
        """Keep these claims alive, and no others."""
        self._lost, self._holding = False, self._holding + 1
        if self._process is None:
            # Without it, leases hold for their first minute, and on this host while this process
            # lives.
            with suppress(OSError):
                self._process = Subprocess(__name__)
        if self._process is not None:
            listed = [{**asdict(claim), "plan": None} for claim in claims]
            self._process.send(
                url=self._url, beat_s=self._beat_s, holding=self._holding, claims=listed
            )

    def are_lost(self) -> bool:
        """Say whether another process has taken one of the held runs over."""
        for message in self._process.received() if self._process is not None else ():
            self._lost = self._lost or message["holding"] == self._holding
        return self._lost

    def close(self) -> None:
        """End the process that keeps the leases."""
        if self._process is not None:
            self._process.close()


# In the process


def main(parent: Parent) -> None:
    """Prolong the leases of the newest message; answer when one of them is lost.

    Claims are fresh at first: the store is loaded when the first beat is due, not during the first
    steps of a run.
    """
    message = parent.messages.get()
    while True:
        time.sleep(message["beat_s"])
        while not parent.messages.empty():
            message = parent.messages.get()
        from harness.store import Claim, ResultStore

        with suppress(StoreError), ResultStore.open(message["url"]) as store:
            try:
                store.heartbeat([Claim(**claim) for claim in message["claims"]])
            except LeaseLost:
                parent.send(holding=message["holding"])
