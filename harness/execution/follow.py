"""What a command sees of runs that other processes make: the database says how far they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from harness.base.errors import BenchError
from harness.base.spec import OPEN, Status
from harness.base.stop_request import StopRequest
from harness.execution.job import patiently
from harness.execution.runner import Ended, Note, Stop
from harness.store import ResultStore, Standing

LOOK_S = 1.0
AT_ONCE = 200
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


def follow(
    store: ResultStore, keys: Sequence[str], hands: Hands, stop: StopRequest
) -> Iterator[Event]:
    """Yield what happens to these runs, until all have ended or the hands have.

    Raises:
        Stop: `stop` was set; the hands have saved what they were at.
        BenchError: the hands cannot go on, or only die.
    """
    watch, deaths = Watch(store, keys), 0
    while True:
        idle = hands.are_idle()  # asked first: what an idle hand did last is in the database
        before = watch.progress
        yield from map(Ended, watch.look(everywhere=idle))
        yield watch.progress
        deaths = 0 if watch.progress != before else deaths
        for news in hands.look():
            deaths += isinstance(news, Lost)
            if deaths > IDLE_DEATHS * len(hands):
                raise BenchError(
                    f"Workers die and no run gets further. Nothing is lost. The last one: {news.text}"
                )
            yield Note(news.text)
        if not watch.left or idle:
            return
        if stop.wait(LOOK_S):
            hands.stop()
            raise Stop


class Watch:
    """How far some runs are: `left` are those that have not ended, in the order in which they are
    made.

    A look asks about these from the first one on, and no further than to those that have not begun.
    """

    def __init__(self, store: ResultStore, keys: Sequence[str]) -> None:
        self.left = list(keys)
        self._store, self._total, self._running = store, len(keys), 0
        self._taken: dict[str, int] = {}
        self._steps = self._steps_taken = 0

    @property
    def progress(self) -> Progressed:
        """As far as the last look has seen."""
        return Progressed(
            self._total - len(self.left),
            self._running,
            self._total,
            self._steps_taken / max(self._steps, 1),
        )

    def look(self, everywhere: bool) -> list[str]:
        """The runs that have ended since the last look; the first look, and one `everywhere`, asks
        about all that are left.
        """
        everywhere = everywhere or not self._taken
        ended: list[str] = []
        place = self._running = 0
        while place < len(self.left):
            part = self.left[place : place + AT_ONCE]
            now = patiently(partial(self._store.standings, part))
            over = {key for key in part if key not in now or now[key].status not in OPEN}
            for key, run in now.items():
                self._count(key, run, key in over)
            self.left[place : place + len(part)] = [key for key in part if key not in over]
            ended += [key for key in part if key in over]
            place += len(part) - len(over)
            if not everywhere and all(run.status == Status.QUEUED for run in now.values()):
                break
        return ended

    def _count(self, key: str, run: Standing, has_ended: bool) -> None:
        taken = run.steps if has_ended else run.step
        self._steps += 0 if key in self._taken else run.steps
        self._steps_taken += taken - self._taken.get(key, 0)
        self._taken[key] = taken
        self._running += run.status == Status.RUNNING
