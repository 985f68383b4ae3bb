"""Runs in this process: claim what is free, a stack at a time, run it, wait for what others hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

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
from harness.execution.heartbeat import Heartbeat
from harness.execution.job import Ended, Job, Note, Options, Stop, new_plan, run_job, with_retry
from harness.execution.job import Event as JobEvent
from harness.store import Claim, OpenRun, Owner, ResultStore, RunRow
from harness.store.run_files import remove_files

STACK = 10
"""Replicates that are trained as one program; more seeds make more stacks."""
WAIT_S, LONGEST_WAIT_S = 0.5, 5.0
AT_ONCE, MOST_AT_ONCE = 100, 2000
PART = 500


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


Event = JobEvent | Waiting


def prepare(
    store: ResultStore, workspace: Workspace, runs: Sequence[NewRun], rerun: bool, retry: bool
) -> list[str]:
    """Queue what is missing, and return its keys; put back to the start what was withdrawn or is to
    be run anew; give what timed out, was pruned or crashed another chance. Results that are made
    anew stay until the new ones are stored.

    Args:
        store, workspace: where results and files are.
        runs: what was asked for.
        rerun: run anew whatever is there.
        retry: run anew what diverged or failed.

    Raises:
        UsageError: a living process holds a run that is to be put back.
    """
    rows = store.statuses(run.spec.key for run in runs)
    withdrawn = store.retractions.reasons(rows)
    again = {
        key
        for key, row in rows.items()
        if rerun or key in withdrawn or (retry and row.status in (Status.DIVERGED, Status.FAILED))
    }
    if again:
        remove_files(
            workspace,
            store,
            store.reset(sorted(again), [run for run in runs if run.spec.key in again]),
        )
    if any(
        row.status in (Status.FAILED, Status.TIMEOUT, Status.PRUNED) or row.crashes
        for row in rows.values()
    ):
        store.reopen(list(rows))
    missing = [run for run in runs if run.spec.key not in rows]
    return store.enqueue(missing) if missing else []


@contextmanager
def taken_back(store: ResultStore, workspace: Workspace, new: Sequence[str]) -> Iterator[None]:
    """Where runs turn out to be such that they cannot be made, take back those that are new."""
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
    """Run these runs, or whatever the database has open, in this process, until every one has ended
    or run out of time.

    Args:
        workspace, store: where results and files are.
        keys: the runs; None for all.
        stop: set it to save and leave.
        options: how the runs are made.
        stay: wait for new runs when all have ended.

    Raises:
        Stop: `stop` was set; what was at work is saved.
    """
    deadline = options.deadline(time.monotonic())
    left, waiting_since = Remaining(store, keys), time.monotonic()
    with Heartbeat(workspace.database_url) as heartbeat:
        while True:
            if stop.is_set():
                raise Stop
            open_runs = with_retry(left.next)
            if not open_runs and not stay:
                return
            if time.monotonic() >= deadline:
                yield Note(
                    "The time for all runs together is over. The same command, with more time, goes on."
                )
                return
            free = [run for run in open_runs if run.holder is None]
            taken = with_retry(partial(store.claim_first, list(stacks(free)), Owner.current()))
            yield from map(Ended, taken.given_up)
            if taken.claims:
                heartbeat.hold(taken.claims)
                for event in run_claims(
                    workspace, store, taken.claims, stop, heartbeat.lost, options, deadline
                ):
                    if isinstance(event, SetAside):
                        left.set_aside(event.keys)
                    yield event
                heartbeat.hold([])
            if any(taken):
                left.at_once, waiting_since = max(AT_ONCE, left.at_once // 2), time.monotonic()
                continue
            if (
                free and left.at_once < MOST_AT_ONCE
            ):  # others were faster: there is more behind what they took
                left.at_once *= 2
                continue
            if open_runs:
                yield Waiting(
                    tuple(sorted({str(run.holder) for run in open_runs if run.holder})),
                    len(open_runs),
                )
            waited = time.monotonic() - waiting_since
            stop.wait(min(max(WAIT_S, waited / 10), LONGEST_WAIT_S))


class Remaining:
    """The runs that are still to be made: some of those that were asked for, or whatever the
    database has open.

    The database is asked about as many as it takes to find `at_once` that are free, and never again
    about one that has ended.
    """

    def __init__(self, store: ResultStore, keys: Sequence[str] | None) -> None:
        self._store = store
        self._keys = None if keys is None else list(keys)
        self._aside: set[str] = set()
        self.at_once = AT_ONCE

    def set_aside(self, keys: Sequence[str]) -> None:
        """Leave these out from now on."""
        self._aside |= set(keys)

    def next(self) -> list[OpenRun]:
        """The next ones; those that nobody holds, as long as there are any, and nothing when all
        have ended.
        """
        if self._keys is None:
            open_runs = self._store.next_runs(self.at_once, self._aside)
            return _whole_cells(open_runs) if len(open_runs) == self.at_once else open_runs
        seen: list[OpenRun] = []
        while (
            len(self._keys) > len(seen) and sum(run.holder is None for run in seen) < self.at_once
        ):
            part = slice(len(seen), len(seen) + max(PART, self.at_once))
            found = [
                run for run in self._store.open_runs(self._keys[part]) if run.key not in self._aside
            ]
            self._keys[part] = [run.key for run in found]
            seen += found
        free = [run for run in seen if run.holder is None]
        return _whole_cells(free) if len(self._keys) > len(seen) else free or seen


def _whole_cells(free: list[OpenRun]) -> list[OpenRun]:
    """These runs without those of the last cell, of which more may follow; of one cell all of them."""
    return [run for run in free if run.cell != free[-1].cell] or free


def stacks(free: Sequence[OpenRun]) -> Iterator[list[OpenRun]]:
    """Runs that train as one program: those of one plan, or replicates of a cell whose task stacks,
    at most `STACK` of them.
    """
    units: dict[str, list[OpenRun]] = {}
    for run in free:
        units.setdefault(run.plan or run.cell, []).append(run)
    for name, members in units.items():
        size = len(members) if name == members[0].plan else STACK if members[0].stacks else 1
        yield from (members[first : first + size] for first in range(0, len(members), size))


def run_claims(
    workspace: Workspace,
    store: ResultStore,
    claims: Sequence[Claim],
    stop: StopRequest,
    lost: threading.Event,
    options: Options,
    deadline: float,
) -> Iterator[Event]:
    """Run claimed runs, each with the stack that it was planned in; those without a plan make a new
    stack.
    """
    by_plan: dict[Plan | None, list[Claim]] = {}
    for claim in claims:
        by_plan.setdefault(claim.plan, []).append(claim)
    for plan, members in by_plan.items():
        rows = with_retry(
            partial(store.rows, plan.members if plan else [claim.key for claim in members])
        )
        ours = {claim.key: claim for claim in members}
        # One thread is the fastest for small replicated problems; large ones take all that there
        # are.
        threads = 1 if rows[members[0].key].stacks else options.threads
        try:
            specs = _specs(rows, plan.members if plan else list(rows))
            job = Job(
                workspace,
                store,
                specs,
                ours,
                plan or new_plan(specs, threads, options.device),
                stop,
                lost,
                options,
                deadline,
            )
            yield from run_job(job)
        except ValidationError:
            reason = "its specification is not as bench writes it; see: bench doctor"
            with_retry(partial(store.release, members, Status.QUEUED, reason))
            error = UsageError(f"Run {members[0].key} cannot be made: {reason}.")
            yield SetAside(str(error), tuple(ours), error)
        except LeaseLost as err:
            yield Note(str(err))
        except (PluginError, DataError, UsageError) as err:
            others = f" ({len(ours)} runs)" if len(ours) > 1 else ""
            yield SetAside(f"Run {members[0].key}{others} is set aside: {err}", tuple(ours), err)


def _specs(rows: dict[str, RunRow], keys: Sequence[str]) -> list[RunSpec]:
    """The specs of a stack in order; a member that was removed since is replaced by one that nobody
    claims.
    """
    known = {key: RunSpec.from_plain(row.spec) for key, row in rows.items()}
    stand_in = next(iter(known.values()))
    return [
        known.get(key) or stand_in.model_copy(update={"seed": 2**62 + place})
        for place, key in enumerate(keys)
    ]
