"""What a command sees of runs that other processes make: the database says how far they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from harness.errors import BenchError
from harness.runner import Ended, Note, Stop
from harness.saving import patiently
from harness.spec import OPEN, Status
from harness.stopping import StopRequest
from harness.store import ResultStore, Standing

LOOK_S = 1.0
IDLE_DEATHS = 3  # of each hand, with no run further than before


@dataclass(frozen=True)
class Progressed:
    """How far all runs together are: `share` of their steps is done."""

    ended: int
    running: int
    total: int
    share: float


@dataclass(frozen=True)
class Lost:
    """One of the hands died, and another takes its place."""

    text: str


Event = Ended | Note | Progressed


class Hands(Protocol):
    """Whatever makes the runs."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def look(self) -> Iterator[Note | Lost]:
        """Keep them at work; yields what is worth saying.

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


def follow(store: ResultStore, keys: Sequence[str], hands: Hands, stop: StopRequest) -> Iterator[Event]:
    """Yield what happens to these runs, until all have ended or the hands have.

    Raises:
        Stop: `stop` was set; the hands have saved what they were at.
        BenchError: the hands cannot go on, or only die.
    """
    ended: set[str] = set()
    deaths = 0
    before: dict[str, Standing] = {}
    while True:
        idle = hands.are_idle()  # asked first: what an idle hand did last is in the database
        now = patiently(partial(store.standings, keys))
        for key in keys:
            if key not in ended and (key not in now or now[key].status not in OPEN):
                ended.add(key)
                yield Ended(key)
        yield progress(now, ended, len(keys))
        deaths = 0 if now != before else deaths
        before = now
        for news in hands.look():
            deaths += isinstance(news, Lost)
            if deaths > IDLE_DEATHS * len(hands):
                raise BenchError(f"Workers die and no run gets further. Nothing is lost. The last one: {news.text}")
            yield Note(news.text)
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
