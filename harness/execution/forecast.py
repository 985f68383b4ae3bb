"""How far a set of runs is, who is at work on them, and how long the rest will take."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

from harness.base.spec import NewRun, Status
from harness.store import Owner, ResultStore, RunStatus
from harness.store.claims import CRASHED
from harness.store.store import LEASE_S

MISSING = "missing"  # from the database
GIVEN_UP = "crashed"  # failed because its processes died: a repeated command tries again
WITHDRAWN = "withdrawn"  # it has ended, and its result does not stand
OPEN = (
    MISSING,
    GIVEN_UP,
    WITHDRAWN,
    Status.QUEUED,
    Status.INTERRUPTED,
    Status.TIMEOUT,
    Status.RUNNING,
)
AGAIN = (Status.FAILED, Status.DIVERGED)  # made anew where the command asks for it
# Settings that leave the time of a step as it is.
FREE = {"steps", "lr", "lr_schedule", "rmsprop_decay", "optimiser", "clip_norm", "eval_particles"}


@dataclass(frozen=True)
class Part:
    """The runs of one method on one task, counted by status; `missing` are not in the database,
    `crashed` failed with their processes, results that are `withdrawn` do not stand.
    """

    task: str
    method: str
    counts: dict[str, int]

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class AtWork:
    """A run that a living process holds. Times are seconds since 1970, `step` is that of the last
    checkpoint.
    """

    key: str
    cell: str
    method: str
    task: str
    seed: int
    host: str
    pid: int
    since: float
    heartbeat: float
    step: int
    steps: int


@dataclass(frozen=True)
class Forecast:
    """Where a set of runs stands.

    `remaining` runs are to be made; one process would take `seconds` for those of which anything is
    known, and nothing is known of `unknown` of them. The longest stack takes `longest` seconds of
    that.
    """

    parts: list[Part]
    at_work: list[AtWork]
    remaining: int
    seconds: float
    longest: float
    unknown: int

    @property
    def counts(self) -> Counter[str]:
        """All runs by status."""
        return sum((Counter(part.counts) for part in self.parts), Counter())

    @property
    def processes(self) -> int:
        """The processes at work."""
        return len({(run.host, run.pid) for run in self.at_work})

    def seconds_with(self, workers: int) -> float | None:
        """Seconds until all is made by so many processes; None where nothing is known. No stack is
        cut in two.
        """
        return (
            None
            if self.unknown == self.remaining > 0
            else max(self.seconds / workers, self.longest)
        )


@dataclass(frozen=True)
class _Run:
    """A run with its names, which are hashes and take a while; what it is, where it stands, and how
    many steps it has made.
    """

    new: NewRun
    key: str
    cell: str
    label: str
    state: str = MISSING
    step: int = 0


def forecast(
    runs: Sequence[NewRun],
    store: ResultStore | None,
    stack: int,
    *,
    rerun: bool = False,
    retry: bool = False,
) -> Forecast:
    """Where these runs stand in a database; None is one that does not exist yet.

    Args:
        runs, store: what was asked for, and where it is kept.
        stack: replicates that are trained as one program.
        rerun: everything is to be made anew.
        retry: so is what diverged or failed.
    """
    named = [_Run(run, run.spec.key, run.spec.cell, run.description.method) for run in runs]
    standings = store.statuses([run.key for run in named]) if store else {}
    holders = (
        store.holders([key for key, run in standings.items() if run.status == Status.RUNNING])
        if store
        else {}
    )
    failed = (
        store.rows([key for key, run in standings.items() if run.status == Status.FAILED])
        if store
        else {}
    )
    marked = dict.fromkeys((key for key, row in failed.items() if row.reason == CRASHED), GIVEN_UP)
    marked |= dict.fromkeys(store.retractions.reasons(standings) if store else (), WITHDRAWN)
    stored = [
        _standing(run, standings.get(run.key), run.key in holders, marked.get(run.key))
        for run in named
    ]
    anew = (*AGAIN, WITHDRAWN)
    left = [
        replace(run, step=0) if rerun or run.state in anew else run
        for run in stored
        if rerun or run.state in _to_make(retry)
    ]
    times, unknown = _times(left, Speeds(store, [run.new for run in left]), stack)
    return Forecast(
        _parts(stored),
        list(_at_work(stored, holders)),
        len(left),
        math.fsum(times),
        max(times, default=0.0),
        unknown,
    )


def _to_make(retry: bool) -> tuple[str, ...]:
    return OPEN + AGAIN if retry else OPEN


def _standing(run: _Run, standing: RunStatus | None, held: bool, mark: str | None) -> _Run:
    """A run as it is for whoever waits for it: one whose process died is interrupted."""
    if standing is None:
        return run
    died = standing.status == Status.RUNNING and not held
    return replace(
        run, state=mark or str(Status.INTERRUPTED if died else standing.status), step=standing.step
    )


def _at_work(
    runs: Sequence[_Run], holders: dict[str, tuple[Owner, float, float]]
) -> Iterator[AtWork]:
    for run in runs:
        if run.key in holders:
            owner, since, expires = holders[run.key]
            names = (run.key, run.cell, run.label, run.new.task_label, run.new.spec.seed)
            yield AtWork(
                *names,
                owner.host,
                owner.pid,
                since,
                expires - LEASE_S,
                run.step,
                run.new.spec.steps,
            )


def _parts(runs: Sequence[_Run]) -> list[Part]:
    counts: dict[tuple[str, str], Counter[str]] = {}
    for run in runs:
        counts.setdefault((run.new.task_label, run.label), Counter())[run.state] += 1
    tasks = list(dict.fromkeys(task for task, _ in counts))
    ordered = sorted(counts, key=lambda name: tasks.index(name[0]))
    return [Part(*name, dict(counts[name])) for name in ordered]


def _times(left: Sequence[_Run], speeds: Speeds, stack: int) -> tuple[list[float], int]:
    """Seconds that each stack still takes, and the number of runs of which nothing is known."""
    times, unknown = [], 0
    for members in _stacks(left, stack):
        pace = speeds.seconds_a_step(members[0].new, members[0].cell)
        if pace is None:
            unknown += len(members)
        else:
            times.append((members[0].new.spec.steps - members[0].step) * pace)
    return times, unknown


def _stacks(left: Sequence[_Run], stack: int) -> Iterator[list[_Run]]:
    """Runs that will be one program: replicates of a cell at the same step, at most `stack` of
    them, where the task stacks.
    """
    units: dict[tuple[str, int], list[_Run]] = {}
    for run in left:
        units.setdefault((run.cell, run.step), []).append(run)
    for members in units.values():
        size = stack if members[0].new.description.stacks else 1
        yield from (members[first : first + size] for first in range(0, len(members), size))


class Speeds:
    """Seconds a step, from what runs took so far: of the same cell, else of the nearest kind of run
    of which there are any.
    """

    def __init__(self, store: ResultStore | None, runs: Sequence[NewRun]) -> None:
        self._sums: dict[Hashable, tuple[float, int]] = {}
        methods = {run.spec.method for run in runs}
        for pace in store.paces(methods) if store and methods else []:
            kinds = _kinds(
                pace.cell, pace.method, pace.task, pace.task_label, json.loads(pace.settings)
            )
            for kind in kinds:
                wall_s, steps = self._sums.get(kind, (0.0, 0))
                self._sums[kind] = (wall_s + pace.wall_s, steps + pace.steps)

    def seconds_a_step(self, run: NewRun, cell: str) -> float | None:
        """Of a stack that this run is in; None where nothing is known of its method."""
        for kind in _kinds(cell, run.spec.method, run.spec.task, run.task_label, run.settings):
            if kind in self._sums:
                wall_s, steps = self._sums[kind]
                return wall_s / steps
        return None


def _kinds(
    cell: str, method: str, task: str, task_label: str, settings: dict[str, object]
) -> tuple[Hashable, ...]:
    """What a run is of, the narrowest first: its cell, its method and settings on its task, the
    task's name, the method.
    """
    weighty = tuple(
        sorted((name, str(value)) for name, value in settings.items() if name not in FREE)
    )
    return cell, (method, task_label, weighty), (method, task), (method,)
