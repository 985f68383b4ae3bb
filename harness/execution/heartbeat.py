"""Leases kept alive by a process of its own, so that nothing that training does can starve them."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from harness.base.errors import LeaseLost, StoreError
from harness.base.subprocesses import end, spawn

if TYPE_CHECKING:
    from harness.store import Claim

BEAT_S = 15.0


class Heartbeat:
    """Prolongs the leases of the claims that it was told of: `with Heartbeat(url) as heartbeat:
    heartbeat.hold(claims)`.

    `lost` is set when another process has taken one of them over.
    """

    def __init__(self, url: str) -> None:
        self.lost = threading.Event()
        self._url = url
        self._child: Any = None

    def hold(self, claims: Iterable[Claim]) -> None:
        """Keep these claims alive, and no others."""
        if self._child is None:
            with suppress(
                OSError
                # without it leases hold for their first minute, and on this host while the process
                # lives
            ):
                self._child = spawn("harness.execution.heartbeat")
                self._listener = threading.Thread(target=self._listen, daemon=True)
                self._listener.start()
        self.lost.clear()
        listed = [{**asdict(claim), "plan": None} for claim in claims]
        if self._child is not None:
            with suppress(OSError, ValueError):
                self._child.stdin.write(json.dumps({"url": self._url, "claims": listed}) + "\n")
                self._child.stdin.flush()

    def _listen(self) -> None:
        for _ in self._child.stdout:
            self.lost.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._child is not None:
            end(self._child, self._listener)


def main() -> None:
    """In the helper: beat until standard input ends; a line on standard output says that a lease is
    lost.

    A claim is fresh for a while: before the first beat is due, loading the store would only take
    time from the run's first steps.
    """
    news, orders = threading.Event(), [json.loads(sys.stdin.readline())]

    def follow() -> None:
        for line in sys.stdin:
            orders.append(json.loads(line))
            news.set()
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()
    while True:
        news.wait(BEAT_S)
        with suppress(StoreError):  # a lease outlives several beats
            _beat(orders, news)


def _beat(orders: list[dict[str, Any]], news: threading.Event) -> None:
    """Prolong the leases of the last order, and go on.

    Raises:
        StoreError: the database is away.
    """
    from harness.store import Claim, ResultStore

    with ResultStore.open(orders[0]["url"]) as store:
        while True:
            news.clear()
            try:
                store.heartbeat([Claim(**values) for values in orders[-1]["claims"]])
            except LeaseLost:
                print("lost", flush=True)
            news.wait(BEAT_S)
