"""How far a set of runs is, who is at work on them, and how long the rest will take."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

from harness.base.spec import NewRun, Status
from harness.store import CRASHED, LEASE_S, ResultStore

MISSING = "missing"  # from the database
GIVEN_UP = "crashed"  # failed because its processes died: a repeated command tries again
WITHDRAWN = "withdrawn"  # it has ended, and its result is withdrawn
UNFINISHED = (Status.QUEUED, Status.INTERRUPTED, Status.TIMEOUT, Status.RUNNING)
OPEN = (MISSING, GIVEN_UP, WITHDRAWN, *UNFINISHED)
AGAIN = (Status.FAILED, Status.DIVERGED)  # made anew where the command asks for it
# Settings that leave the time of a step as it is.
FREE = {
    *("steps", "lr", "lr_method", "lr_model", "lr_base", "lr_schedule", "optimiser", "momentum"),
    *("rmsprop_decay", "weight_decay", "clip_norm", "eval_particles", "start_from"),
}


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
    """Where a set of runs stands: `parts` counts the runs of each task and method by status.
    `missing` are not in the database, `crashed` failed with their processes, `withdrawn` have a
    result that is withdrawn.

    `remaining` runs are to be made; one process would take `seconds` for those of which anything is
    known, and nothing is known of `unknown` of them. The longest stack takes `longest` seconds of
    that. `first_steps` has the step at which each run that is to be made begins, by key, and
    `statuses` the status of each run that is stored.
    """

    parts: dict[tuple[str, str], Counter[str]]
    at_work: list[AtWork]
    remaining: int
    seconds: float
    longest: float
    unknown: int
    first_steps: dict[str, int]
    statuses: dict[str, str]

    @property
    def counts(self) -> Counter[str]:
        return sum(self.parts.values(), Counter())

    @property
    def processes(self) -> int:
        return len({(run.host, run.pid) for run in self.at_work})

    def seconds_with(self, workers: int) -> float | None:
        """Return the seconds until all is made by so many processes; None where nothing is known.
        No stack is cut in two.
        """
        if self.unknown == self.remaining > 0:
            return None
        return max(self.seconds / workers, self.longest)


@dataclass(frozen=True)
class _Run:
    """A run with its names, which are hashes and take a while to make."""

    new: NewRun
    key: str
    cell: str
    label: str
    status: str = MISSING
    step: int = 0


def forecast(
    runs: Sequence[NewRun],
    store: ResultStore | None,
    stack: int,
    *,
    rerun: bool = False,
    retry: bool = False,
) -> Forecast:
    """Return where these runs stand in a database, None being one that does not exist yet; `stack`
    replicates are trained as one program. With `rerun` everything is to be made anew, with `retry`
    what diverged or failed.
    """
    all_runs = [_Run(run, run.spec.key, run.spec.cell, run.description.method) for run in runs]
    stored, at_work = (all_runs, []) if store is None else _standings(all_runs, store)
    tasks = list(dict.fromkeys(run.new.task_label for run in stored))
    parts: dict[tuple[str, str], Counter[str]] = {}
    for run in sorted(stored, key=lambda run: tasks.index(run.new.task_label)):
        parts.setdefault((run.new.task_label, run.label), Counter())[run.status] += 1
    open_statuses = OPEN + AGAIN if retry else OPEN
    to_make = [
        replace(run, step=0) if rerun or run.status in (*AGAIN, WITHDRAWN) else run
        for run in stored
        if rerun or run.status in open_statuses
    ]
    speeds = Speeds(store, [run.new for run in to_make])
    times, unknown = [], 0
    for members in _stacks(to_make, stack):
        run = members[0]
        pace = speeds.seconds_a_step(run.new, run.cell)
        if pace is None:
            unknown += len(members)
        else:
            times.append((run.new.spec.steps - run.step) * pace)
    longest = max(times, default=0.0)
    return Forecast(
        parts,
        at_work,
        len(to_make),
        math.fsum(times),
        longest,
        unknown,
        {run.key: run.step for run in to_make},
        {run.key: run.status for run in stored if run.status != MISSING},
    )


def _standings(runs: Sequence[_Run], store: ResultStore) -> tuple[list[_Run], list[AtWork]]:
    """Return the runs as the database has them, and those that a living process holds. One whose
    process died is interrupted.
    """
    standings = store.statuses([run.key for run in runs])
    keys_by_status = {
        status: [key for key, standing in standings.items() if standing.status == status]
        for status in (Status.RUNNING, Status.FAILED)
    }
    holders = store.holders(keys_by_status[Status.RUNNING])
    failed = store.rows(keys_by_status[Status.FAILED])
    marks = {key: GIVEN_UP for key, row in failed.items() if row.reason == CRASHED}
    marks |= dict.fromkeys(store.retractions.reasons(standings), WITHDRAWN)
    stored, at_work = [], []
    for run in runs:
        if standing := standings.get(run.key):
            died = standing.status == Status.RUNNING and run.key not in holders
            status = Status.INTERRUPTED if died else standing.status
            run = replace(run, status=marks.get(run.key, str(status)), step=standing.step)
        stored.append(run)
        if run.key in holders:
            owner, since, expires = holders[run.key]
            names = (run.key, run.cell, run.label, run.new.task_label, run.new.spec.seed)
            times = (since, expires - LEASE_S)
            at_work.append(
                AtWork(*names, owner.host, owner.pid, *times, run.step, run.new.spec.steps)
            )
    return stored, at_work


def _stacks(runs: Sequence[_Run], stack: int) -> Iterator[list[_Run]]:
    """Yield runs that will be one program: replicates of a cell at the same step, at most `stack`
    of them, where the task stacks.
    """
    units: dict[tuple[str, int], list[_Run]] = {}
    for run in runs:
        units.setdefault((run.cell, run.step), []).append(run)
    for members in units.values():
        size = stack if members[0].new.description.stacks else 1
        yield from (members[start : start + size] for start in range(0, len(members), size))


class Speeds:
    """Seconds a step, from what runs took so far: of the same cell, else of the nearest kind of run
    of which there are any.
    """

    def __init__(self, store: ResultStore | None, runs: Sequence[NewRun]) -> None:
        self._sums: dict[Hashable, tuple[float, int]] = {}
        methods = {run.spec.method for run in runs}
        for names, wall_s, steps in store.paces(methods) if store and methods else []:
            for kind in _kinds(*names):
                sums = self._sums.get(kind, (0.0, 0))
                self._sums[kind] = (sums[0] + wall_s, sums[1] + steps)

    def seconds_a_step(self, run: NewRun, cell: str) -> float | None:
        """Return those of a stack that this run is in; None where nothing is known of its
        method.
        """
        for kind in _kinds(cell, run.spec.method, run.spec.task, run.task_label, run.settings):
            if kind in self._sums:
                wall_s, steps = self._sums[kind]
                return wall_s / steps
        return None


def _kinds(
    cell: str, method: str, task: str, task_label: str, settings: dict[str, object]
) -> tuple[Hashable, ...]:
    """Return what a run is one of, the narrowest first: its cell, its method and settings on its
    task, the task's name, the method.
    """
    slow = sorted((name, str(value)) for name, value in settings.items() if name not in FREE)
    return cell, (method, task_label, tuple(slow)), (method, task), (method,)
