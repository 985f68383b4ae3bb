"""Progress of runs on stderr."""

from __future__ import annotations

import time

from rich.progress import BarColumn, TimeElapsedColumn

from harness.base.text import duration, plural
from harness.cli._render import Progress, state_column
from harness.execution.job import Advanced, Began, Ended, Note
from harness.execution.local import Event, Waiting
from harness.execution.workers import Progressed
from harness.plan.grid import ranges

ESTIMATE_S = 2.0


class RunProgress(Progress):
    """Shows runs that are executed: here, stack by stack; elsewhere, all together."""

    def __init__(self) -> None:
        super().__init__(BarColumn(), state_column(), TimeElapsedColumn())
        self._owners: tuple[str, ...] = ()
        self._steps = self._start_step = 0
        self._start_s = 0.0
        self._start_share: float | None = None  # of all runs, once somebody else executes them

    def show(self, event: Event | Progressed) -> None:
        """Print or draw what an event changes."""
        match event:
            case Began():
                self._begin_stack(event)
            case Advanced():
                self._advance(event)
            case Progressed():
                self._advance_all(event)
            case Ended() if self._steps:
                self.update(self._steps, "done")
            case Waiting() if event.owners != self._owners:
                self._owners = event.owners
                owners = ", ".join(event.owners) or "another process"
                self.say(f"Waiting for {plural(event.n_runs, 'run')} that {owners} works on")
            case Note():
                self.say(event.text)

    def _begin_stack(self, event: Began) -> None:
        self._steps, self._start_step = event.specs[0].steps, event.step
        self._start_s = time.monotonic()
        seeds = ranges([spec.seed for spec in event.specs])
        name = f"{event.title}, seeds {seeds}"
        line = f"{name}: training from step {event.step:,} of {self._steps:,}"
        self.begin(name, self._steps, event.step, line)

    def _advance(self, event: Advanced) -> None:
        elapsed_s = max(time.monotonic() - self._start_s, 1e-3)
        rate = max(event.step - self._start_step, 1) / elapsed_s
        time_left = duration((self._steps - event.step) / rate)
        diverged = f", {event.frozen} diverged" if event.frozen else ""
        self.update(
            event.step,
            f"step {event.step:,}/{self._steps:,}, bound {event.bound:,.2f} nats, "
            f"{rate:,.0f} steps/s, about {time_left} left{diverged}",
        )

    def _advance_all(self, event: Progressed) -> None:
        if self._start_share is None:
            self._start_share, self._start_s = event.share, time.monotonic()
            self.begin("runs", total=1.0)
        elapsed_s = time.monotonic() - self._start_s
        gained = event.share - self._start_share
        state = (
            f"{event.ended} of {event.total} ended, {event.running} at work, "
            f"{event.share:.0%} of all steps"
        )
        if gained > 0 and elapsed_s > ESTIMATE_S:
            state += f", about {duration(elapsed_s * (1 - event.share) / gained)} left"
        self.update(event.share, state, is_last=event.ended == event.total)
