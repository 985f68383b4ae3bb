"""What a command sees of runs that other processes make: the database says how far they are."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from harness.runner import Ended, Note, Stop
from harness.saving import patiently
from harness.spec import Status
from harness.store import ResultStore, Standing

LOOK_S = 1.0
OPEN = frozenset({Status.QUEUED, Status.INTERRUPTED, Status.RUNNING})


@dataclass(frozen=True)
class Progressed:
    """How far all runs together are: `share` of their steps is done."""

    ended: int
    running: int
    total: int
    share: float


Event = Ended | Note | Progressed


class Hands(Protocol):
    """Whatever makes the runs."""

    def look(self, progressed: bool) -> Iterator[str]:
        """Keep them at work; yields what is worth saying.

        Args:
            progressed: whether any run is further than it was at the last look.

        Raises:
            BenchError: they cannot go on.
        """
        ...

    def are_idle(self) -> bool:
        """Whether they have ended by themselves."""
        ...

    def stop(self) -> None:
        """Have what is at work saved, and leave."""
        ...


def follow(store: ResultStore, keys: Sequence[str], hands: Hands, stop: threading.Event) -> Iterator[Event]:
    """Yield what happens to these runs, until all have ended or the hands have.

    Raises:
        Stop: `stop` was set; the hands have saved what they were at.
    """
    ended: set[str] = set()
    before: dict[str, Standing] = {}
    while True:
        idle = hands.are_idle()  # asked first: what an idle hand did last is in the database
        now = patiently(partial(store.standings, keys))
        for key in keys:
            if key not in ended and (key not in now or now[key].status not in OPEN):
                ended.add(key)
                yield Ended(key)
        yield progress(now, ended, len(keys))
        yield from map(Note, hands.look(now != before))
        before = now
        if len(ended) == len(keys) or idle:
            return
        if stop.wait(LOOK_S):
            hands.stop()
            raise Stop


def progress(now: dict[str, Standing], ended: set[str], total: int) -> Progressed:
    """How far all runs together are."""
    steps = sum(run.steps for run in now.values())
    done = sum(run.steps if key in ended else run.step for key, run in now.items())
    running = sum(run.status == Status.RUNNING for run in now.values())
    return Progressed(len(ended), running, total, done / max(steps, 1))
