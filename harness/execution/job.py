"""A stack's state to checkpoint files and database rows, and back."""

from __future__ import annotations

import hashlib
import math
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TypeVar

import torch

from harness.api import Method, Task
from harness.base.errors import (
    BenchError,
    CheckpointError,
    DataError,
    LeaseLost,
    PluginError,
    StoreError,
    UsageError,
    WorkspaceError,
    one_line,
)
from harness.base.files import write_atomically
from harness.base.gc import collect_as_usual
from harness.base.spec import Plan, RunSpec, Status
from harness.base.stop_request import StopRequest
from harness.base.tracebacks import traceback_of
from harness.base.workspace import Workspace
from harness.execution import environment
from harness.plan import registry
from harness.plan.plugin_source import Source, parsed
from harness.store import (
    ArtifactFile,
    CheckpointFile,
    Claim,
    Curve,
    Metric,
    Outcome,
    Progress,
    ResultStore,
)
from harness.store.run_files import Stray, files_of_edition, remove_files, set_aside
from harness.training import checkpoint, devices, validation
from harness.training import figures as gallery
from harness.training import loop as training
from harness.training.evaluation import Score, scoring
from harness.training.loop import State
from harness.training.model import trained
from harness.training.timeout import GRACE_S, Overdue, broken_off

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
    text = with_retry(partial(store.source, digest))
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
        spec.key: with_retry(partial(job.store.checkpoints, spec.key))
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
    return checkpoint.read(at_step[0].path_in(job.workspace), at_step[0].sha256, spec.key)[0]


def save(job: Job, state: State, remark: str | None = None) -> float:
    """Write a checkpoint of every living member and one transaction with their rows; returns the
    seconds it took.
    """
    began = time.monotonic()
    living = [
        (place, spec, claim) for place, spec, claim in job.members() if bool(state.alive[place])
    ]
    saved = [
        Progress(
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
    write_atomically(job.workspace.picture_file(edition, name), content)
    return ArtifactFile(name, hashlib.sha256(content).hexdigest(), len(content), edition)


def tidy(job: Job) -> None:
    """Set files of our runs aside that the database does not know: a crash between file and row
    leaves them. Half-written ones go.
    """
    present = [
        stray
        for _, _, claim in job.members()
        for stray in files_of_edition(job.workspace, claim.edition)
    ]

    def put_aside(stray: Stray) -> None:
        with suppress(WorkspaceError, OSError):
            stray.path.unlink() if stray.name.startswith(".") else set_aside(
                job.workspace, stray.path
            )

    left = with_retry(partial(job.store.files.strays, present)) if present else []
    if left:
        with_retry(partial(job.store.files.discard, left, put_aside))


def with_retry(act: Callable[[], T]) -> T:
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


T = TypeVar("T")
LOOK_S = 0.1  # between two reports of progress


@dataclass(frozen=True)
class Began:
    """A stack starts, or goes on from `step`; its `title` is its method and its task."""

    title: str
    specs: tuple[RunSpec, ...]
    step: int


@dataclass(frozen=True)
class Advanced:
    """A stack has taken `step` steps; `bound` is the mean over its living replicates, nats."""

    step: int
    bound: float
    frozen: int


@dataclass(frozen=True)
class Ended:
    """A run's result is stored, or its time is over and it was given back."""

    key: str


@dataclass(frozen=True)
class Note:
    """A sentence for whoever watches."""

    text: str


Event = Began | Advanced | Ended | Note


class Stop(Exception):
    """Save and leave: raised between two steps when the process was asked to end."""


class OutOfTime(Exception):
    """Save and give the runs back: raised between two steps when their time is over."""


def run_job(job: Job) -> Iterator[Event]:
    """Bring every claimed member of a stack to its end, yielding what happens.

    Raises:
        PluginError: the method or task breaks its contract; the runs are given back, and what they
            had before is in its place.
        Stop: the process was asked to end; the state is saved and the runs can go on.
        LeaseLost: another process has taken over.
    """
    try:
        method, task = registry.load(
            job.specs[0], partial(permitted_source, job.store, job.options)
        )
    except BenchError as err:  # another machine may have its plugins, or may run their code
        _give_back(job, Status.QUEUED, str(err))
        raise
    try:
        devices.use(job.plan.device)
        collect_as_usual()
        with_retry(
            lambda: job.store.begin(list(job.claims.values()), job.plan, environment.describe())
        )
        torch.set_num_threads(job.plan.threads)
        state, warnings = resume(job, method, task)
        tidy(job)
        yield from map(Note, warnings)
        yield Began(
            _title(method, task, job.specs[0]),
            tuple(spec for _, spec, _ in job.members()),
            state.step,
        )
        state.to(job.plan.device)
        yield from _train(job, method, task, state)
        state.to("cpu")  # scores and files are made there
        yield from _finish(job, method, task, state)
        tidy(job)
    except (Stop, GeneratorExit):
        _give_back(job, Status.INTERRUPTED, "stopped by the user")
        raise
    except OutOfTime as err:
        yield from _time_out(job, str(err))
    except (PluginError, DataError) as err:
        _forget(job, str(err))
        raise
    except LeaseLost:
        raise
    except BenchError as err:
        _give_back(job, Status.INTERRUPTED, str(err))
        raise
    except KeyboardInterrupt:
        _give_back(job, Status.INTERRUPTED, "stopped by the user")
        raise Stop from None
    except (Exception, SystemExit) as err:  # noqa: BLE001 - whatever a plugin raises is a result of its run
        yield from _fail(job, err)


def _title(method: Method, task: Task, spec: RunSpec) -> str:
    label = registry.method_label(type(method), spec.method, spec.method_fields)
    return f"{label} on {registry.task_label(spec.task, task)}"


def _train(job: Job, method: Method, task: Task, state: State) -> Iterator[Event]:
    """Train to the end, saving on a cadence that costs under one percent of the time."""
    protocol = job.specs[0].protocol()
    next_save, next_look, ended = time.monotonic() + job.options.pause(0.0), 0.0, set[str]()
    step = partial(next, validation.train(method, task, protocol, state), None)
    while progress := _in_time(job, step):
        now = time.monotonic()
        leaving, saving = (
            job.must_leave(state.step),
            now >= next_save and state.step < protocol.steps,
        )
        if progress.remark:
            with_retry(partial(save, job, state, progress.remark))
            yield Note(
                f"{method.name} on {task.name} ({', '.join(job.claims)}): {progress.remark}."
            )
        if (leaving or saving) and not progress.holds():
            continue
        if (leaving or saving) and not job.lost.is_set():
            yield from _finish_diverged(job, state, ended)
        if leaving:
            yield from _leave_if_asked(job, state)
        if saving:
            took = yield from _save(job, state)
            next_save = time.monotonic() + job.options.pause(took)
        if now >= next_look:
            next_look = now + LOOK_S
            alive = state.alive
            yield Advanced(progress.step, float(progress.bound[alive].mean()), int((~alive).sum()))


def _in_time(job: Job, step: Callable[[], T]) -> T:
    """One step.

    Raises:
        OutOfTime: it had not ended long after the time was over. What was made since the last
            checkpoint is lost: it may be half done.
    """
    if job.time_is_over == math.inf:
        return step()
    try:
        with broken_off(job.time_is_over):
            return step()
    except Overdue:
        raise OutOfTime(
            f"its time was over, and {GRACE_S:g} s later its step had not ended; it goes on from its last checkpoint"
        ) from None


def _leave_if_asked(job: Job, state: State) -> Iterator[Event]:
    """Save and stop, where somebody asked for it."""
    if job.lost.is_set():
        raise LeaseLost("Another process has taken these runs over. Nothing more is written here.")
    if job.stop.is_set():
        yield from _save(job, state)
        raise Stop
    if reason := job.out_of_time(state.step):
        yield from _save(job, state)
        raise OutOfTime(reason)


def _save(job: Job, state: State) -> Generator[Event, None, float]:
    """Save, or say why not: training goes on, and the next checkpoint makes up for this one."""
    began = time.monotonic()
    try:
        return save(job, state)
    except LeaseLost:
        raise
    except StoreError as err:
        yield Note(f"{err} Training goes on; the next checkpoint is tried later.")
        return time.monotonic() - began


def _finish_diverged(job: Job, state: State, ended: set[str]) -> Iterator[Event]:
    """Record the members that were frozen since the last look; the others go on."""
    for place, spec, claim in job.members():
        if not bool(state.alive[place]) and spec.key not in ended:
            _store(job, [claim], [_diverged(job, state, place, spec, claim)])
            ended.add(spec.key)
            yield Ended(spec.key)


def _diverged(job: Job, state: State, place: int, spec: RunSpec, claim: Claim) -> Outcome:
    step = state.reached(place)
    return Outcome(
        Status.DIVERGED,
        f"the bound or its gradient was not finite at step {step}",
        step,
        job.wall_s(claim),
        curves=all_curves(state, place, spec),
        checkpoint=write_member(job, state, place, spec, "final"),
    )


def _finish(job: Job, method: Method, task: Task, state: State) -> Iterator[Event]:
    """Score the living members and store how all that are left ended, in one transaction."""
    scores = (yield from _score(job, method, task, state)) if bool(state.alive.any()) else {}
    left = [
        (place, spec, claim) for place, spec, claim in job.members() if _is_running(job, spec.key)
    ]
    outcomes = [
        _done(job, state, place, spec, claim, scores)
        if bool(state.alive[place])
        else _diverged(job, state, place, spec, claim)
        for place, spec, claim in left
    ]
    for number, (place, spec, _) in enumerate(left):
        if bool(state.alive[place]):
            outcomes[number] = replace(
                outcomes[number], artifacts=(yield from _pictures(job, method, task, spec, state))
            )
    _store(job, [claim for _, _, claim in left], outcomes)
    for _, spec, _ in left:
        yield Ended(spec.key)


def _pictures(
    job: Job, method: Method, task: Task, spec: RunSpec, state: State
) -> Generator[Event, None, list[ArtifactFile]]:
    """The run's pictures on disk. What keeps them from being made or written is said, and does not
    touch the result.
    """
    files: list[ArtifactFile] = []
    if task.stacks:
        return files
    try:
        for name, content in gallery.pngs(trained(method, task, spec, state), state.data):
            files.append(write_picture(job, spec.key, name, content))
    except (Exception, SystemExit) as err:  # noqa: BLE001 - a plugin may raise anything
        reason = (
            err.strerror
            if isinstance(err, OSError) and err.strerror
            else f"{type(err).__name__}: {err}"
        )
        yield Note(
            f"Run {spec.key} goes without {'some of its' if files else 'its'} pictures: {reason}. Its result is whole."
        )
    return files


def _score(
    job: Job, method: Method, task: Task, state: State
) -> Generator[Event, None, dict[str, Score]]:
    """The scores; between two blocks of particles it can be stopped, and then goes on from the end
    of training.
    """
    steps = scoring(method, task, job.specs[0].protocol(), state)
    while True:
        try:
            _in_time(job, partial(next, steps))
        except StopIteration as done:
            return done.value
        yield from _leave_if_asked(job, state)


def _is_running(job: Job, key: str) -> bool:
    return with_retry(lambda: job.store.rows([key]))[key].status == Status.RUNNING


def _done(
    job: Job, state: State, place: int, spec: RunSpec, claim: Claim, scores: dict[str, Score]
) -> Outcome:
    return Outcome(
        Status.DONE,
        None,
        state.step,
        job.wall_s(claim),
        metrics={
            name: Metric(float(s.value[place]), None if s.error is None else float(s.error[place]))
            for name, s in scores.items()
        },
        curves=all_curves(state, place, spec),
        checkpoint=write_member(job, state, place, spec, "final"),
    )


def _store(job: Job, claims: list[Claim], outcomes: list[Outcome]) -> None:
    remove_files(
        job.workspace, job.store, with_retry(lambda: job.store.finish_all(claims, outcomes))
    )


def _give_back(job: Job, status: Status, reason: str) -> None:
    with suppress(
        LeaseLost, StoreError
    ):  # a lease that cannot be given back ends with this process
        job.store.release(list(job.claims.values()), status, reason)


def _time_out(job: Job, reason: str) -> Iterator[Event]:
    left = [claim for _, spec, claim in job.members() if _is_running(job, spec.key)]
    with_retry(lambda: job.store.release(left, Status.TIMEOUT, reason))
    for claim in left:
        yield Ended(claim.key)


def _forget(job: Job, reason: str) -> None:
    """Give back runs whose plugin or data are not as they must be: there is no result to record."""
    with suppress(LeaseLost, StoreError):
        remove_files(
            job.workspace,
            job.store,
            job.store.earlier.give_up(list(job.claims.values()), one_line(reason)),
        )


def _fail(job: Job, error: BaseException) -> Iterator[Event]:
    reason, traceback = f"{type(error).__name__}: {error}", traceback_of(error)
    left = [claim for _, spec, claim in job.members() if _is_running(job, spec.key)]
    steps = with_retry(lambda: job.store.rows([claim.key for claim in left]))
    _store(
        job,
        left,
        [
            Outcome(
                Status.FAILED, reason, steps[claim.key].step, job.wall_s(claim), traceback=traceback
            )
            for claim in left
        ],
    )
    for claim in left:
        yield Ended(claim.key)
