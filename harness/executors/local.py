"""Runs in this process: claim what is free, a stack at a time, run it, wait for what others hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from harness import registry, runner, saving
from harness.errors import DataError, LeaseLost, PluginError, one_line
from harness.files import remove_files
from harness.heartbeat import Heartbeat
from harness.saving import Options
from harness.spec import Plan, RunSpec, Status
from harness.stopping import StopRequest
from harness.store import Claim, NewRun, OpenRun, Owner, ResultStore
from harness.workspace import Workspace

STACK = 10
"""Replicates that are trained as one program; more seeds make more stacks."""
WAIT_S = 0.5


@dataclass(frozen=True)
class Waiting:
    """Runs are held by living processes elsewhere; they are waited for."""

    owners: tuple[str, ...]
    n_runs: int


Event = runner.Event | Waiting


@dataclass(frozen=True)
class Asked:
    """What a command has asked the database for: keys of runs that are new, and of those that are made anew."""

    new: list[str]
    anew: list[str]


def prepare(store: ResultStore, workspace: Workspace, runs: Sequence[NewRun], rerun: bool, retry: bool) -> Asked:
    """Queue what is missing; put back to the start what was withdrawn or is to be run anew; give what timed out, was pruned or crashed
    another chance. Results that are made anew stay until the new ones are stored.

    Args:
        store, workspace: where results and files are.
        runs: what was asked for.
        rerun: run anew whatever is there.
        retry: run anew what diverged or failed.

    Raises:
        UsageError: a living process holds a run that is to be put back.
    """
    rows = store.rows([run.spec.key for run in runs])
    withdrawn = store.errata.reasons(rows)
    again = [key for key, row in rows.items() if rerun or key in withdrawn or (retry and row.status in (Status.DIVERGED, Status.FAILED))]
    if again:
        remove_files(workspace, store, store.reset(again))
    if any(row.status in (Status.FAILED, Status.TIMEOUT, Status.PRUNED) or row.crashes for row in rows.values()):
        store.reopen(list(rows))
    missing = [run for run in runs if run.spec.key not in rows]
    return Asked(store.enqueue(missing) if missing else [], again)


@contextmanager
def taken_back(store: ResultStore, workspace: Workspace, asked: Asked) -> Iterator[None]:
    """Where a plugin or its data turn out not to be as they must be, what was asked for and not begun is as it was before."""
    try:
        yield
    except (PluginError, DataError) as err:
        remove_files(workspace, store, store.earlier.take_back(asked.new, asked.anew, one_line(str(err))))
        raise


def execute(
    workspace: Workspace, store: ResultStore, keys: Sequence[str] | None, stop: StopRequest, options: Options, stay: bool = False
) -> Iterator[Event]:
    """Run these runs, or whatever the database has open, in this process, until every one has ended or run out of time.

    Args:
        workspace, store: where results and files are.
        keys: the runs; None for all.
        stop: set it to save and leave.
        options: how the runs are made.
        stay: wait for new runs when all have ended.

    Raises:
        runner.Stop: `stop` was set; what was at work is saved.
        PluginError: a method or task breaks its contract.
    """
    deadline = options.deadline(time.monotonic())
    with Heartbeat(workspace.database_url) as heartbeat:
        while True:
            if stop.is_set():
                raise runner.Stop
            left = saving.patiently(partial(store.open_runs, keys))
            if not left and not stay:
                return
            if time.monotonic() >= deadline:
                yield runner.Note("The time for all runs together is over. The same command, with more time, goes on.")
                return
            claims = _first_claim(store, left)
            if claims:
                heartbeat.hold(claims)
                yield from run_claims(workspace, store, claims, stop, heartbeat.lost, options, deadline)
                heartbeat.hold([])
                continue
            if left:
                yield _waiting(store, [run.key for run in left])
            stop.wait(WAIT_S)


def _first_claim(store: ResultStore, left: Sequence[OpenRun]) -> list[Claim]:
    """The claims on the first stack that nobody holds."""
    for group in stacks([run for run in left if not run.held]):
        claims = saving.patiently(partial(store.claim, group, Owner.current()))
        if claims:
            return claims
    return []


def _waiting(store: ResultStore, keys: Sequence[str]) -> Waiting:
    held = saving.patiently(partial(store.holders, keys))
    return Waiting(tuple(sorted({str(owner) for owner, _, _ in held.values()})), len(keys))


def stacks(free: Sequence[OpenRun]) -> Iterator[list[str]]:
    """The keys of runs that train as one program: those of one plan, or replicates of a cell whose task stacks, at most `STACK` of them."""
    units: dict[str, list[OpenRun]] = {}
    for run in free:
        units.setdefault(run.plan or run.cell, []).append(run)
    for name, members in units.items():
        size = len(members) if name == members[0].plan else _stack_size(members[0].task)
        yield from ([run.key for run in members[first : first + size]] for first in range(0, len(members), size))


def _stack_size(task: str) -> int:
    return STACK if registry.find("task", task).cls.stacks else 1


def run_claims(
    workspace: Workspace,
    store: ResultStore,
    claims: Sequence[Claim],
    stop: StopRequest,
    lost: threading.Event,
    options: Options,
    deadline: float,
) -> Iterator[Event]:
    """Run claimed runs, each with the stack that it was planned in; those without a plan make a new stack."""
    by_plan: dict[Plan | None, list[Claim]] = {}
    for claim in claims:
        by_plan.setdefault(claim.plan, []).append(claim)
    for plan, members in by_plan.items():
        specs = _specs(store, plan.members if plan else [claim.key for claim in members])
        ours = {claim.key: claim for claim in members}
        job = saving.Job(workspace, store, specs, ours, plan or _new_plan(specs, options), stop, lost, options, deadline)
        try:
            yield from runner.run(job)
        except LeaseLost as err:
            yield runner.Note(str(err))


def _new_plan(specs: Sequence[RunSpec], options: Options) -> Plan:
    """How a stack is computed here: one thread, which is the fastest for small replicated problems; all that there are for large ones."""
    threads = 1 if registry.find("task", specs[0].task).cls.stacks else options.threads
    return saving.new_plan(specs, threads, options.device)


def _specs(store: ResultStore, keys: Sequence[str]) -> list[RunSpec]:
    """The specs of a stack in order; a member that was removed since is replaced by one that nobody claims."""
    rows = saving.patiently(partial(store.rows, keys))
    known = {key: RunSpec.from_plain(row.spec) for key, row in rows.items()}
    stand_in = next(iter(known.values()))
    return [known.get(key) or stand_in.model_copy(update={"seed": 2**62 + place}) for place, key in enumerate(keys)]
