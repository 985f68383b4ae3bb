"""From specs to ended runs: find what is done, claim what is free, run it, wait for what others hold."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from harness import registry, runner, saving
from harness.errors import LeaseLost
from harness.heartbeat import Heartbeat
from harness.saving import Options
from harness.spec import TERMINAL, Plan, RunSpec, Status
from harness.store import Claim, NewRun, Owner, ResultStore
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


def prepare(store: ResultStore, workspace: Workspace, runs: Sequence[NewRun], rerun: bool, retry: bool) -> None:
    """Queue what is missing; put back to the start what is to be run anew.

    Args:
        store, workspace: where results and files are.
        runs: what was asked for.
        rerun: run anew whatever is there.
        retry: run anew what diverged or failed.

    Raises:
        UsageError: a living process holds a run that is to be put back.
    """
    rows = store.rows([run.spec.key for run in runs])
    again = [key for key, row in rows.items() if rerun or (retry and row.status in (Status.DIVERGED, Status.FAILED))]
    if again:
        saving.remove_files(workspace, store.reset(again))
    if any(row.status == Status.FAILED or row.crashes for row in rows.values()):
        store.restart_crash_count(list(rows))
    missing = [run for run in runs if run.spec.key not in rows]
    if missing:
        store.enqueue(missing)


def execute(workspace: Workspace, store: ResultStore, runs: Sequence[NewRun], stop: threading.Event, options: Options) -> Iterator[Event]:
    """Run what is not yet ended, in this process, until every run has ended.

    Raises:
        runner.Stop: `stop` was set; what was at work is saved.
        PluginError: a method or task breaks its contract.
    """
    groups = list(stacks(runs))
    with Heartbeat(workspace.database_url) as heartbeat:
        while groups := [left for group in groups if (left := _not_ended(store, group))]:
            worked = False
            for group in groups:
                if stop.is_set():
                    raise runner.Stop
                claims = saving.patiently(partial(store.claim, [run.spec.key for run in group], Owner.current()))
                if claims:
                    worked = True
                    heartbeat.hold(claims)
                    yield from run_claims(workspace, store, claims, stop, heartbeat.lost, options)
                    heartbeat.hold([])
            if not worked:
                held = store.holders([run.spec.key for group in groups for run in group])
                yield Waiting(tuple(sorted({str(owner) for owner, _, _ in held.values()})), sum(map(len, groups)))
                stop.wait(WAIT_S)


def stacks(runs: Sequence[NewRun]) -> Iterator[list[NewRun]]:
    """The runs in groups that train as one program: replicates of a cell whose task stacks, at most `STACK` of them."""
    cells: dict[str, list[NewRun]] = {}
    for run in runs:
        cells.setdefault(run.spec.cell, []).append(run)
    for members in cells.values():
        size = STACK if registry.find("task", members[0].spec.task).cls.stacks else 1
        yield from (members[first : first + size] for first in range(0, len(members), size))


def _not_ended(store: ResultStore, group: list[NewRun]) -> list[NewRun]:
    rows = store.rows([run.spec.key for run in group])
    return [run for run in group if run.spec.key in rows and rows[run.spec.key].status not in TERMINAL]


def run_claims(
    workspace: Workspace,
    store: ResultStore,
    claims: Sequence[Claim],
    stop: threading.Event,
    lost: threading.Event,
    options: Options,
) -> Iterator[Event]:
    """Run claimed runs, each with the stack that it was planned in; those without a plan make a new stack."""
    by_plan: dict[Plan | None, list[Claim]] = {}
    for claim in claims:
        by_plan.setdefault(claim.plan, []).append(claim)
    for plan, members in by_plan.items():
        specs = _specs(store, plan.members if plan else [claim.key for claim in members])
        job = saving.Job(
            workspace, store, specs, {claim.key: claim for claim in members}, plan or saving.new_plan(specs), stop, lost, options
        )
        try:
            yield from runner.run(job)
        except LeaseLost as err:
            yield runner.Note(str(err))


def _specs(store: ResultStore, keys: Sequence[str]) -> list[RunSpec]:
    """The specs of a stack in order; a member that was removed since is replaced by one that nobody claims."""
    rows = store.rows(keys)
    known = {key: RunSpec.from_plain(row.spec) for key, row in rows.items()}
    stand_in = next(iter(known.values()))
    return [known.get(key) or stand_in.model_copy(update={"seed": 2**62 + place}) for place, key in enumerate(keys)]
