"""Progress of long work on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from harness.cli._options import duration, say
from harness.execution.job import Advanced, Began, Ended, Note
from harness.execution.local import Event, Waiting
from harness.execution.workers import Progressed

LINE_S = 10.0
ESTIMATE_S = 2.0
LONG_S = 3600.0
ADVICE = "That is long. Ctrl-C saves, and the same command goes on. Shorter: --set steps=N, or another --protocol (bench show TASK)."


@contextmanager
def display() -> Iterator[Callable[[Event | Progressed], None]]:
    """A function to show events with."""
    shown = _Bar() if sys.stderr.isatty() else _Lines()
    try:
        yield shown.show
    finally:
        shown.close()


class _Lines:
    """Plain lines: when a stack starts, an estimate, then one every ten seconds."""

    def __init__(self) -> None:
        self._waiting: tuple[str, ...] = ()
        self._advised = False
        self._began = self._next = 0.0
        self._start: tuple[float, float] | None = None

    def close(self) -> None:
        """Nothing is left to clear."""

    def say(self, text: str) -> None:
        """One line."""
        say(text, err=True)

    def show(self, event: Event | Progressed) -> None:
        """Take note of an event and print what is due."""
        if isinstance(event, Began):
            self._name, self._steps, self._first = (
                stack_name(event),
                event.specs[0].steps,
                event.step,
            )
            self._began, self._next = time.monotonic(), time.monotonic() + ESTIMATE_S
            self.begin(event)
        elif isinstance(event, Advanced):
            took = max(time.monotonic() - self._began, 1e-3)
            rate = max(event.step - self._first, 1) / took
            left = (self._steps - event.step) / rate
            self.advance(
                event,
                f"bound {event.bound:,.2f} nats, {rate:,.0f} steps/s, about {duration(left)} left",
            )
            if took > ESTIMATE_S and left > LONG_S and not self._advised:
                self._advised = True
                self.say(ADVICE)
        elif isinstance(event, Waiting) and event.owners != self._waiting:
            self._waiting = event.owners
            self.say(
                f"Waiting for {event.n_runs} runs that {', '.join(event.owners) or 'another process'} is working on"
            )
        elif isinstance(event, Progressed):
            self.overall(event, _overall(event, self._first_share(event)))
        elif isinstance(event, Note):
            self.say(event.text)

    def _first_share(self, event: Progressed) -> tuple[float, float]:
        """The share that was done at first, and the seconds since."""
        if self._start is None:
            self._start = (event.share, time.monotonic())
        return self._start[0], time.monotonic() - self._start[1]

    def overall(self, event: Progressed, text: str) -> None:
        """A line now and then about all runs together."""
        if time.monotonic() >= self._next or event.ended == event.total:
            self._next = time.monotonic() + LINE_S
            self.say(f"{event.ended} of {event.total} runs ended, {text}")

    def begin(self, event: Began) -> None:
        """Say that a stack starts."""
        self.say(
            f"{self._name}: {'going on' if event.step else 'training'} from step {event.step:,} of {self._steps:,}"
        )

    def advance(self, event: Advanced, text: str) -> None:
        """A line now and then."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_S
            frozen = f", {event.frozen} diverged" if event.frozen else ""
            self.say(f"{self._name}: step {event.step:,}/{self._steps:,}, {text}{frozen}")


class _Bar(_Lines):
    """A bar with the bound, the speed and the time left."""

    def __init__(self) -> None:
        super().__init__()
        from rich.progress import BarColumn, TimeElapsedColumn

        from harness.cli._terminal import as_it_stands, bars

        self._bar: Any = bars(
            BarColumn(), as_it_stands("{task.fields[state]}"), TimeElapsedColumn()
        )
        self._task: Any = None
        self._bar.start()

    def close(self) -> None:
        """Leave the last state of the bar on the screen."""
        self._bar.stop()

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(text)

    def show(self, event: Event | Progressed) -> None:
        """Fill the bar when a run has ended."""
        super().show(event)
        if isinstance(event, Ended) and self._task is not None and self._start is None:
            self._bar.update(self._task, completed=self._steps, state="done")

    def begin(self, event: Began) -> None:
        """A new bar for each stack."""
        self._task = self._bar.add_task(
            self._name, total=self._steps, completed=event.step, state=""
        )

    def overall(self, event: Progressed, text: str) -> None:
        """One bar for all runs together."""
        if self._task is None:
            self._task = self._bar.add_task("runs", total=1.0, state="")
        self._bar.update(
            self._task, completed=event.share, state=f"{event.ended}/{event.total} ended, {text}"
        )

    def advance(self, event: Advanced, text: str) -> None:
        """Move the bar."""
        frozen = f", {event.frozen} diverged" if event.frozen else ""
        self._bar.update(
            self._task,
            completed=event.step,
            state=f"{event.step:,}/{self._steps:,}, {text}{frozen}",
        )


def _overall(event: Progressed, since: tuple[float, float]) -> str:
    """`4 at work, 31 % of all steps, about 3 min left`."""
    first, took = since
    text = f"{event.running} at work, {event.share:.0%} of all steps"
    gained = event.share - first
    return text + (
        f", about {duration(took * (1 - event.share) / gained)} left"
        if gained > 0 and took > ESTIMATE_S
        else ""
    )


def stack_name(event: Began) -> str:
    """`hvae on gaussian-400, seed 3` or `..., 10 seeds`."""
    seeds = f"seed {event.specs[0].seed}" if len(event.specs) == 1 else f"{len(event.specs)} seeds"
    return f"{event.title}, {seeds}"
