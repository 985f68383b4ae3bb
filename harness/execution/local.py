"""Runs in this process: claim what is free, a stack at a time, run it, wait for what others
hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import torch
from pydantic import ValidationError

from harness.base.errors import (
    BenchError,
    DataError,
    LeaseLost,
    PluginError,
    StoreError,
    UsageError,
)
from harness.base.spec import NewRun, Plan, RunSpec, Status
from harness.base.stop_request import StopRequest
from harness.base.workspace import Workspace
from harness.execution import job as jobs
from harness.execution.heartbeat import Leases
from harness.execution.job import Ended, Job, Note, Options, Stop, run_job, with_retry
from harness.execution.start_from import check_start_runs
from harness.store import Claim, OpenRun, Owner, ResultStore
from harness.store.run_files import remove_files

STACK = 10
"""Replicates that are trained as one program; more seeds make more stacks."""
WAIT_S, LONGEST_WAIT_S = 0.5, 5.0
AT_ONCE, MOST_AT_ONCE = 100, 2000
ASK_AT_ONCE = 500


@dataclass(frozen=True)
class Waiting:
    """Runs are held by living processes elsewhere; they are waited for."""

    owners: tuple[str, ...]
    n_runs: int


@dataclass(frozen=True)
class SetAside(Note):
    """Runs that cannot be made here, and why; the others go on."""

    keys: tuple[str, ...]
    error: BenchError


Event = jobs.Event | Waiting


def prepare(
    store: ResultStore, workspace: Workspace, runs: Sequence[NewRun], rerun: bool, retry: bool
) -> list[str]:
    """Queue what is missing, and return its keys; put back to the start what was withdrawn, with
    `rerun` everything, with `retry` what diverged or failed; give what timed out, was pruned or
    crashed another chance. Results that are made anew stay until the new ones are stored.

    Raises:
        UsageError: a living process holds a run that is to be put back, or a run is to start from
            one that it cannot start from.
    """
    rows = store.statuses(run.spec.key for run in runs)
    to_reset = set(store.retractions.reasons(rows))
    for key, row in rows.items():
        if rerun or (retry and row.status in (Status.DIVERGED, Status.FAILED)):
            to_reset.add(key)
    from_start = [run for run in runs if run.spec.key in to_reset or run.spec.key not in rows]
    source_of = partial(jobs.permitted_source, store, Options())
    check_start_runs(store, workspace, source_of, from_start)
    if to_reset:
        files = store.reset(sorted(to_reset), [run for run in runs if run.spec.key in to_reset])
        remove_files(workspace, store, files)
    given_up = (Status.FAILED, Status.TIMEOUT, Status.PRUNED)
    if any(row.status in given_up or row.crashes for row in rows.values()):
        store.reopen(list(rows))
    missing = [run for run in runs if run.spec.key not in rows]
    return store.enqueue(missing) if missing else []


@contextmanager
def taken_back(store: ResultStore, workspace: Workspace, new: Sequence[str]) -> Iterator[None]:
    """Take back those of the `new` runs that turned out to be such that they cannot be made."""
    try:
        yield
    finally:
        with suppress(StoreError):
            remove_files(workspace, store, store.earlier.take_back(new))


def execute(
    workspace: Workspace,
    store: ResultStore,
    keys: Sequence[str] | None,
    stop: StopRequest,
    options: Options,
    stay: bool = False,
) -> Iterator[Event]:
    """Make these runs, or whatever the database has open, in this process, until every one has
    ended or run out of time; with `stay`, wait for new runs then.

    Raises:
        Stop: `stop` was set; what was at work is saved.
    """
    deadline = options.deadline(time.monotonic())
    remaining, waiting_since = Remaining(store, keys), time.monotonic()
    with Leases(workspace.database_url) as leases:
        while True:
            if stop.is_set():
                raise Stop
            open_runs = with_retry(stop, remaining.next)
            if not open_runs and not stay:
                return
            if time.monotonic() >= deadline:
                yield Note(
                    "The time for all runs together is over. "
                    "The same command, with more time, goes on."
                )
                return
            free = [run for run in open_runs if run.holder is None]
            claims, given_up = with_retry(
                stop, store.claim_first, list(stacks(free)), Owner.current()
            )
            yield from map(Ended, given_up)
            if claims:
                leases.hold(claims)
                for event in _run_claims(
                    workspace, store, claims, stop, leases.are_lost, options, deadline
                ):
                    if isinstance(event, SetAside):
                        remaining.set_aside(event.keys)
                    yield event
                leases.hold([])
            if claims or given_up:
                remaining.at_once = max(AT_ONCE, remaining.at_once // 2)
                waiting_since = time.monotonic()
            elif free and remaining.at_once < MOST_AT_ONCE:
                remaining.at_once *= 2  # others were faster: there is more behind what they took
            else:
                if open_runs:
                    owners = {str(run.holder) for run in open_runs if run.holder}
                    yield Waiting(tuple(sorted(owners)), len(open_runs))
                waited = time.monotonic() - waiting_since
                stop.wait(min(max(WAIT_S, waited / 10), LONGEST_WAIT_S))


class Remaining:
    """The runs that are still to be made: of those that were asked for, or whatever is open.

    The database is asked about as many as it takes to find `at_once` that are free, and never again
    about one that has ended.
    """

    def __init__(self, store: ResultStore, keys: Sequence[str] | None) -> None:
        self._store = store
        self._keys = None if keys is None else list(keys)
        self._excluded: set[str] = set()
        self.at_once = AT_ONCE

    def set_aside(self, keys: Sequence[str]) -> None:
        self._excluded |= set(keys)

    def next(self) -> list[OpenRun]:
        """Return the next ones: those that nobody holds, as long as there are any, and nothing when
        all have ended.
        """
        if self._keys is None:
            open_runs = self._store.next_runs(self.at_once, self._excluded)
            return _whole_cells(open_runs) if len(open_runs) == self.at_once else open_runs
        runs: list[OpenRun] = []
        free: list[OpenRun] = []
        while len(self._keys) > len(runs) and len(free) < self.at_once:
            start, end = len(runs), len(runs) + max(ASK_AT_ONCE, self.at_once)
            open_runs = self._store.open_runs(self._keys[start:end])
            runs += [run for run in open_runs if run.key not in self._excluded]
            self._keys[start:end] = [run.key for run in runs[start:]]
            free = [run for run in runs if run.holder is None]
        return _whole_cells(free) if len(self._keys) > len(runs) else free or runs


def _whole_cells(free: list[OpenRun]) -> list[OpenRun]:
    """Leave out the last cell, of which more runs may follow, unless it is the only one."""
    return [run for run in free if run.cell != free[-1].cell] or free


def stacks(free: Sequence[OpenRun]) -> Iterator[list[OpenRun]]:
    """Yield runs that train as one program: those of one plan, or replicates of a cell whose task
    stacks, at most `STACK` of them.
    """
    units: dict[str, list[OpenRun]] = {}
    for run in free:
        units.setdefault(run.plan or run.cell, []).append(run)
    for name, members in units.items():
        size = len(members) if name == members[0].plan else STACK if members[0].stacks else 1
        yield from (members[start : start + size] for start in range(0, len(members), size))


def _run_claims(
    workspace: Workspace,
    store: ResultStore,
    claims: Sequence[Claim],
    stop: StopRequest,
    is_lost: Callable[[], bool],
    options: Options,
    deadline: float,
) -> Iterator[Event]:
    """Make claimed runs, each with the stack that it was planned in; those without a plan make a
    new stack.
    """
    by_plan: dict[Plan | None, dict[str, Claim]] = {}
    for claim in claims:
        by_plan.setdefault(claim.plan, {})[claim.key] = claim
    for plan, members in by_plan.items():
        keys = list(plan.members if plan else members)
        rows = with_retry(stop, store.rows, keys)
        key = next(iter(members))
        try:
            specs = {name: RunSpec.from_plain(row.spec) for name, row in rows.items()}
            # A member that was removed since is replaced by one that nobody claims.
            stand_in = next(iter(specs.values()))
            stack = [
                specs.get(name) or stand_in.model_copy(update={"seed": 2**62 + index})
                for index, name in enumerate(keys if plan else rows)
            ]
            # One thread is the fastest for small replicated problems; large ones take all.
            threads = 1 if rows[key].stacks else options.threads
            plan = plan or Plan(
                members=tuple(spec.key for spec in stack),
                threads=threads,
                device=options.device,
                torch=torch.__version__,
            )
            yield from run_job(
                Job(workspace, store, stack, members, plan, stop, is_lost, options, deadline)
            )
        except ValidationError:
            reason = "its specification is not as bench writes it; see: bench doctor"
            with_retry(stop, store.release, list(members.values()), Status.QUEUED, reason)
            error = UsageError(f"Run {key} cannot be made: {reason}.")
            yield SetAside(str(error), tuple(members), error)
        except LeaseLost as err:
            yield Note(str(err))
        except (PluginError, DataError, UsageError) as err:
            count = f" ({len(members)} runs)" if len(members) > 1 else ""
            yield SetAside(f"Run {key}{count} is set aside: {err}", tuple(members), err)
