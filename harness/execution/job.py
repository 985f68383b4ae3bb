"""A stack's state to checkpoint files and database rows, and back."""

from __future__ import annotations

import hashlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeVar

import torch

from harness.api import Method, Task
from harness.base.errors import (
    CheckpointError,
    LeaseLost,
    PluginError,
    StoreError,
    UsageError,
    WorkspaceError,
)
from harness.base.spec import Plan, RunSpec
from harness.base.stop_request import StopRequest
from harness.base.workspace import Workspace
from harness.plan import registry
from harness.plan.plugin_source import Source, parsed
from harness.store import ArtifactFile, CheckpointFile, Claim, Curve, ResultStore, Saved
from harness.store.run_files import Stray, listed_in, remove_files, set_aside
from harness.training import checkpoint, validation
from harness.training import loop as training
from harness.training.loop import State

T = TypeVar("T")
STORE_PATIENCE_S = 90.0
FIRST_SAVE_S = 5.0
SAVE_SHARE = 1 / 200  # of the time between two checkpoints goes into the next


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Options:
    """How a command wants its runs made; nothing here changes a number (other_torch gives up
    equality to the bit).
    """

    save_every_s: float | None = None
    other_torch: bool = False
    time_limit_s: float | None = None
    total_limit_s: float | None = None
    memory_limit: int | None = None  # bytes a worker may take
    threads: int = field(default_factory=cores)
    device: str = "cpu"
    until: int | None = None  # the step at which runs are given back, for tuning to look at them
    plugins: tuple[
        str, ...
    ] = ()  # by sha256, the sources that the command named: their code may run
    any_plugin: bool = False  # so may any code that the database holds

    def deadline(self, now: float) -> float:
        """When all runs together must stop, if they start now."""
        return now + (math.inf if self.total_limit_s is None else self.total_limit_s)

    def pause(self, took_s: float) -> float:
        """Seconds until the next checkpoint after one that took `took_s`: as asked, else so that
        saving takes about `SAVE_SHARE`.
        """
        return (
            max(FIRST_SAVE_S, took_s / SAVE_SHARE)
            if self.save_every_s is None
            else self.save_every_s
        )


@dataclass
class Job:
    """A claimed stack: `specs` in the order of the plan, `claims` for the members that are ours to
    finish, by key.
    """

    workspace: Workspace
    store: ResultStore
    specs: list[RunSpec]
    claims: dict[str, Claim]
    plan: Plan
    stop: StopRequest
    lost: threading.Event
    options: Options
    deadline: float = math.inf
    began: float = field(default_factory=time.monotonic)

    def members(self) -> Iterator[tuple[int, RunSpec, Claim]]:
        """Our members with their place in the stack."""
        for place, spec in enumerate(self.specs):
            if spec.key in self.claims:
                yield place, spec, self.claims[spec.key]

    def wall_s(self, claim: Claim) -> float:
        """Seconds of work on a run, this attempt and those before."""
        return claim.wall_s + time.monotonic() - self.began

    def must_leave(self, step: int) -> bool:
        """Whether this attempt must stop, for whatever reason; asked after every step."""
        return self.stop.is_set() or self.lost.is_set() or self.out_of_time(step) is not None

    @cached_property
    def time_is_over(self) -> float:
        """When this attempt must stop."""
        limit = self.options.time_limit_s
        return min(self.deadline, math.inf if limit is None else self.began + limit)

    def out_of_time(self, step: int) -> str | None:
        """Why this attempt must stop now, at this step, if it must."""
        if step == self.options.until:
            return f"step {step:,} is where tuning looks at it"
        if time.monotonic() < self.time_is_over:
            return None
        if self.time_is_over == self.deadline:
            return "the time for all runs together is over"
        return f"its time limit of {self.options.time_limit_s:g} s is over"


def permitted_source(store: ResultStore, options: Options, digest: str) -> Source:
    """The text of a plugin that is not installed, if its code may run here.

    Raises:
        PluginError: nobody here named it, or it is not stored.
    """
    if digest in registry.named:
        return registry.named[digest]
    if not options.any_plugin and digest not in options.plugins:
        raise PluginError(
            f"Code {digest[:8]} of the database may not run here. Let it with --allow-plugins, if you trust all who can write there."
        )
    text = patiently(partial(store.source, digest))
    if text is None:
        raise PluginError(
            f"The code {digest[:8]} is not in the database. Queue its runs anew from its file."
        )
    source = parsed(text)
    if source.digest != digest:
        raise PluginError(
            f"The stored code {digest[:8]} is not the code of that name. Put a backup of the database in its place."
        )
    return source


def new_plan(specs: Sequence[RunSpec], threads: int, device: str = "cpu") -> Plan:
    """How a stack is computed from now on, whoever goes on with it."""
    return Plan(
        members=tuple(spec.key for spec in specs),
        threads=threads,
        device=device,
        torch=torch.__version__,
    )


def resume(job: Job, method: Method, task: Task) -> tuple[State, list[str]]:
    """Where a stack goes on, and what was wrong with newer checkpoints.

    It is the state of the newest step at which every member of ours has a good checkpoint; the
    start where there is none. Members that are not ours are dead weight: they stay frozen at their
    start, so that the others see the same stack.
    """
    if job.plan.torch != torch.__version__ and not job.options.other_torch:
        raise UsageError(
            f"These runs began under torch {job.plan.torch} and cannot go on to the bit under {torch.__version__}. "
            f"Install torch=={job.plan.torch}, start them anew with --rerun, or go on all the same with --other-torch."
        )
    state = training.start(method, task, job.specs[0].protocol(), [spec.seed for spec in job.specs])
    fresh = checkpoint_members(state)
    warnings: list[str] = []
    files = {
        spec.key: patiently(partial(job.store.checkpoints, spec.key))
        for _, spec, _ in job.members()
    }
    for step in sorted({file.step for listed in files.values() for file in listed}, reverse=True):
        try:
            members = [
                _saved_member(job, spec, files, step, fresh[place])
                for place, spec in enumerate(job.specs)
            ]
            checkpoint.restore(state, members, step)
            break
        except (CheckpointError, StoreError) as err:
            warnings.append(str(err))
    if warnings:
        warnings.append(f"Going on from step {state.step:,} instead.")
    for place, spec in enumerate(job.specs):
        if spec.key not in job.claims:
            state.diverged_at[place] = 0
    return state, warnings


def checkpoint_members(state: State) -> list[dict[str, torch.Tensor]]:
    """Every replicate's tensors, as a checkpoint holds them."""
    return [checkpoint.member_tensors(state, place) for place in range(len(state.seeds))]


def _saved_member(
    job: Job,
    spec: RunSpec,
    files: dict[str, list[CheckpointFile]],
    step: int,
    fresh: dict[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    if spec.key not in job.claims:
        return fresh
    at_step = [file for file in files[spec.key] if file.step == step]
    if not at_step:
        raise CheckpointError(f"Run {spec.key} has no checkpoint at step {step}.")
    return checkpoint.read(at_step[0].place(job.workspace), at_step[0].sha256, spec.key)[0]


def save(job: Job, state: State, remark: str | None = None) -> float:
    """Write a checkpoint of every living member and one transaction with their rows; returns the
    seconds it took.
    """
    began = time.monotonic()
    living = [
        (place, spec, claim) for place, spec, claim in job.members() if bool(state.alive[place])
    ]
    saved = [
        Saved(
            state.step,
            job.wall_s(claim),
            all_curves(state, place, spec),
            write_member(job, state, place, spec, "last"),
            remark,
        )
        for place, spec, claim in living
    ]
    remove_files(job.workspace, job.store, job.store.save([claim for _, _, claim in living], saved))
    return time.monotonic() - began


def all_curves(state: State, place: int, spec: RunSpec) -> dict[str, Curve]:
    """A replicate's curves: of training, and of the looks at validation data."""
    return training.curves(state, place, spec.steps) | validation.curve(spec, state)


def write_member(job: Job, state: State, place: int, spec: RunSpec, role: str) -> CheckpointFile:
    """Write one replicate's checkpoint."""
    content = checkpoint.encode(state, place, spec)
    step, edition = state.reached(place), job.claims[spec.key].edition
    sha256 = checkpoint.write(job.workspace.checkpoint_file(edition, step), content)
    return CheckpointFile(role, step, sha256, len(content), edition)


def write_picture(job: Job, key: str, name: str, content: bytes) -> ArtifactFile:
    """Write one picture of a run.

    Raises:
        OSError: it cannot be written.
    """
    edition = job.claims[key].edition
    checkpoint.put(job.workspace.picture_file(edition, name), content)
    return ArtifactFile(name, hashlib.sha256(content).hexdigest(), len(content), edition)


def tidy(job: Job) -> None:
    """Set files of our runs aside that the database does not know: a crash between file and row
    leaves them. Half-written ones go.
    """
    present = [
        stray for _, _, claim in job.members() for stray in listed_in(job.workspace, claim.edition)
    ]

    def put_aside(stray: Stray) -> None:
        with suppress(WorkspaceError, OSError):
            stray.path.unlink() if stray.name.startswith(".") else set_aside(
                job.workspace, stray.path
            )

    left = patiently(partial(job.store.files.strays, present)) if present else []
    if left:
        patiently(partial(job.store.files.discard, left, put_aside))


def patiently(act: Callable[[], T]) -> T:
    """What `act` returns; a database that is away or locked is waited for, because results are in
    hand.
    """
    deadline = time.monotonic() + STORE_PATIENCE_S
    while True:
        try:
            return act()
        except LeaseLost:
            raise
        except StoreError:
            if time.monotonic() > deadline:
                raise
            time.sleep(2.0)
