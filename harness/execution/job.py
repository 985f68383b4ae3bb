"""One claimed stack of runs, from specs to stored results: load, train, save on the way, score,
store.
"""

from __future__ import annotations

import faulthandler
import hashlib
import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import ParamSpec, TypeVar

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
from harness.base.metrics import PERCENTILES, RANKS
from harness.base.spec import Plan, RunSpec, Status
from harness.base.stop_request import StopRequest
from harness.base.tracebacks import traceback_of
from harness.base.workspace import Workspace
from harness.execution import environment
from harness.execution.start_from import start_from
from harness.plan import registry
from harness.plan.plugin_source import Source, parsed
from harness.store import (
    ArtifactFile,
    CheckpointFile,
    Claim,
    Estimate,
    Outcome,
    Progress,
    ResultStore,
)
from harness.store.run_files import Stray, files_of_edition, remove_files, set_aside
from harness.training import checkpoint, devices, figures
from harness.training import loop as training
from harness.training.evaluation import Score, scoring
from harness.training.loop import State
from harness.training.model import trained

P = ParamSpec("P")
T = TypeVar("T")

STORE_PATIENCE_S, RETRY_S = 90.0, 2.0
FIRST_SAVE_S = 5.0
SAVE_SHARE = 1 / 200  # of the time between two checkpoints goes into the next
REPORT_S = 0.1  # between two reports of progress


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Options:
    """How a command wants its runs made; only `other_torch` may change a number, in its last
    bits.
    """

    save_every_s: float | None = None
    other_torch: bool = False
    time_limit_s: float | None = None
    total_limit_s: float | None = None
    memory_limit: int | None = None  # bytes a worker may take
    threads: int = field(default_factory=cores)
    device: str = "cpu"
    until: int | None = None  # the step at which runs are given back, for tuning to look at them
    plugins: tuple[str, ...] = ()  # sha256 of sources that the command named: their code may run
    any_plugin: bool = False  # so may any code that the database holds
    stuck_after_s: float | None = None  # past its time, the process of a job may be ended

    def deadline(self, now: float) -> float:
        """Return when all runs together must stop, if they start now."""
        return now + (math.inf if self.total_limit_s is None else self.total_limit_s)

    def pause(self, took_s: float) -> float:
        """Return the seconds until the next checkpoint after one that took `took_s`."""
        if self.save_every_s is not None:
            return self.save_every_s
        return max(FIRST_SAVE_S, took_s / SAVE_SHARE)


@dataclass(frozen=True)
class Began:
    """A stack starts, or goes on from `step`; its `title` is its method and its task."""

    title: str
    specs: tuple[RunSpec, ...]
    step: int


@dataclass(frozen=True)
class Advanced:
    """A stack has taken `step` steps; `bound` is the mean over its living replicates [nats]."""

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


def with_retry(stop: StopRequest, act: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Return what `act` returns; wait for a database that is away, because results are in hand.

    Raises:
        StoreError: it was away for `STORE_PATIENCE_S`, or `stop` was set meanwhile.
        LeaseLost: another process has taken over.
    """
    deadline = time.monotonic() + STORE_PATIENCE_S
    while True:
        try:
            return act(*arguments, **named)
        except LeaseLost:
            raise
        except StoreError:
            if stop.is_set() or time.monotonic() > deadline:
                raise
            stop.wait(RETRY_S)


@dataclass
class Job:
    """A claimed stack: `specs` in the order of the plan, `claims` for the members that are ours to
    finish, by key; `is_lost` tells whether another process has taken one of them over.
    """

    workspace: Workspace
    store: ResultStore
    specs: list[RunSpec]
    claims: dict[str, Claim]
    plan: Plan
    stop: StopRequest
    is_lost: Callable[[], bool]
    options: Options
    deadline: float = math.inf
    began: float = field(default_factory=time.monotonic)

    def members(self) -> Iterator[tuple[int, RunSpec, Claim]]:
        """Yield our members with their index in the stack."""
        for index, spec in enumerate(self.specs):
            if spec.key in self.claims:
                yield index, spec, self.claims[spec.key]

    def unfinished(self) -> list[tuple[int, RunSpec, Claim]]:
        """Return our members whose end is not stored yet, with their index in the stack."""
        rows = self.retry(self.store.rows, list(self.claims))
        return [member for member in self.members() if rows[member[1].key].status == Status.RUNNING]

    def retry(self, act: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        return with_retry(self.stop, act, *arguments, **named)

    def wall_s(self, claim: Claim) -> float:
        """Return the seconds of work on a run, in this attempt and those before."""
        return claim.wall_s + time.monotonic() - self.began

    @cached_property
    def time_is_over(self) -> float:
        """The moment at which this attempt must stop."""
        limit = self.options.time_limit_s
        return min(self.deadline, math.inf if limit is None else self.began + limit)

    def ending(self, step: int) -> LeaseLost | Stop | OutOfTime | None:
        """Return what must end this attempt now, at this step; asked after every step."""
        if self.is_lost():
            return LeaseLost(
                "Another process has taken these runs over. Nothing more is written here."
            )
        if self.stop.is_set():
            return Stop()
        if step == self.options.until:
            return OutOfTime(f"step {step:,} is where tuning looks at it")
        if time.monotonic() < self.time_is_over:
            return None
        if self.time_is_over == self.deadline:
            return OutOfTime("the time for all runs together is over")
        return OutOfTime(f"its time limit of {self.options.time_limit_s:g} s is over")


def permitted_source(store: ResultStore, options: Options, digest: str) -> Source:
    """Return the text of a plugin that is not installed, if its code may run here.

    Raises:
        PluginError: nobody here named it, or it is not stored.
    """
    if digest in registry.named:
        return registry.named[digest]
    if not options.any_plugin and digest not in options.plugins:
        raise PluginError(
            f"Code {digest[:8]} of the database may not run here. If you trust everybody who can "
            "write there, allow it with --allow-plugins."
        )
    text = store.source(digest)
    if text is None:
        raise PluginError(
            f"The code {digest[:8]} is not in the database. Queue its runs anew from its file."
        )
    source = parsed(text)
    if source.digest != digest:
        raise PluginError(
            f"The stored code {digest[:8]} does not have that hash. "
            "Put a backup of the database in its place."
        )
    return source


def run_job(job: Job) -> Iterator[Event]:
    """Bring every claimed member of a stack to its end, yielding what happens.

    Raises:
        PluginError: the method or task breaks its contract; the runs are given back, and what they
            had before is in its place.
        Stop: the process was asked to end; the state is saved and the runs can go on.
        LeaseLost: another process has taken over.
    """
    try:
        source_of = partial(permitted_source, job.store, job.options)
        method, task = registry.load(job.specs[0], partial(job.retry, source_of))
    except BenchError as err:  # another machine may have its plugins, or may run their code
        _give_back(job, Status.QUEUED, str(err))
        raise
    try:
        devices.use(job.plan.device)
        job.retry(job.store.begin, list(job.claims.values()), job.plan, environment.describe())
        torch.set_num_threads(job.plan.threads)
        state, notes = _resume(job, method, task)
        _remove_orphans(job)
        yield from map(Note, notes)
        spec = job.specs[0]
        label = registry.method_label(type(method), spec.method, spec.method_fields)
        title = f"{label} on {registry.task_label(spec.task, task)}"
        yield Began(title, tuple(spec for _, spec, _ in job.members()), state.step)
        with _ended_when_stuck(job):
            state.to(job.plan.device)
            yield from _train(job, method, task, state)
            state.to("cpu")  # scores and files are made there
            yield from _finish(job, method, task, state)
        _remove_orphans(job)
    except (Stop, GeneratorExit, KeyboardInterrupt) as err:
        _give_back(job, Status.INTERRUPTED, "stopped by the user")
        if isinstance(err, KeyboardInterrupt):
            raise Stop from None
        raise
    except OutOfTime as err:
        claims = [claim for _, _, claim in job.unfinished()]
        job.retry(job.store.release, claims, Status.TIMEOUT, str(err))
        yield from (Ended(claim.key) for claim in claims)
    except (PluginError, DataError) as err:  # there is no result to record
        with suppress(LeaseLost, StoreError):
            files = job.store.earlier.give_up(list(job.claims.values()), one_line(str(err)))
            remove_files(job.workspace, job.store, files)
        raise
    except LeaseLost:
        raise
    except BenchError as err:
        _give_back(job, Status.INTERRUPTED, str(err))
        raise
    except (Exception, SystemExit) as err:  # noqa: BLE001 - whatever a plugin raises is a result of its run
        yield from _fail(job, err)


def _give_back(job: Job, status: Status, reason: str) -> None:
    # A lease that cannot be given back ends with this process.
    with suppress(LeaseLost, StoreError):
        job.store.release(list(job.claims.values()), status, reason)


def _fail(job: Job, error: BaseException) -> Iterator[Event]:
    reason, traceback = f"{type(error).__name__}: {error}", traceback_of(error)
    claims = [claim for _, _, claim in job.unfinished()]
    rows = job.retry(job.store.rows, [claim.key for claim in claims])
    outcomes = [
        Outcome(Status.FAILED, reason, rows[claim.key].step, job.wall_s(claim), traceback=traceback)
        for claim in claims
    ]
    yield from _store(job, claims, outcomes)


def _store(job: Job, claims: list[Claim], outcomes: list[Outcome]) -> Iterator[Event]:
    files = job.retry(job.store.finish_all, claims, outcomes)
    remove_files(job.workspace, job.store, files)
    yield from (Ended(claim.key) for claim in claims)


@contextmanager
def _ended_when_stuck(job: Job) -> Iterator[None]:
    """End the process of a job that is long past its time: nothing else stops a step that does not
    end.
    """
    options = job.options
    if options.stuck_after_s is None or job.time_is_over == math.inf:
        yield
        return
    patience_s = max(0.0, job.time_is_over - time.monotonic()) + options.stuck_after_s
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        faulthandler.dump_traceback_later(patience_s, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def _train(job: Job, method: Method, task: Task, state: State) -> Iterator[Event]:
    """Train to the end, saving on a cadence that costs under one percent of the time."""
    protocol = job.specs[0].protocol()
    next_save, next_report = time.monotonic() + job.options.pause(0.0), 0.0
    stored: set[str] = set()
    for progress in training.train(method, task, protocol, state):
        step_end = time.monotonic()
        ending = job.ending(state.step)
        saving = step_end >= next_save and state.step < protocol.steps
        if progress.warning:
            job.retry(_save, job, state, progress.warning)
            keys = ", ".join(job.claims)
            yield Note(f"{method.name} on {task.name} ({keys}): {progress.warning}.")
        if (ending or saving) and not progress.confirmed():
            continue
        if (ending or saving) and not isinstance(ending, LeaseLost):
            for index, spec, claim in job.members():  # those that were frozen since the last look
                if not bool(state.alive[index]) and spec.key not in stored:
                    yield from _store(job, [claim], [_outcome(job, state, index, spec, claim)])
                    stored.add(spec.key)
        if ending:
            yield from _leave(job, state, ending)
        if saving:
            began = time.monotonic()
            yield from _try_to_save(job, state)
            next_save = time.monotonic() + job.options.pause(time.monotonic() - began)
        if step_end >= next_report:
            next_report = step_end + REPORT_S
            alive = state.alive
            yield Advanced(progress.step, float(progress.bound[alive].mean()), int((~alive).sum()))


def _leave(job: Job, state: State, ending: LeaseLost | Stop | OutOfTime) -> Iterator[Event]:
    """Save what is still ours, and end the attempt."""
    if not isinstance(ending, LeaseLost):
        yield from _try_to_save(job, state)
    raise ending


def _finish(job: Job, method: Method, task: Task, state: State) -> Iterator[Event]:
    """Score the living members and store the end of all that have none, in one transaction."""
    scores: dict[str, Score] = {}
    if bool(state.alive.any()):
        blocks = scoring(method, task, job.specs[0].protocol(), state)
        while True:  # between two blocks of particles it can be stopped
            try:
                next(blocks)
            except StopIteration as end:
                scores = end.value
                break
            if ending := job.ending(state.step):
                yield from _leave(job, state, ending)
    outcomes, members = [], job.unfinished()
    for index, spec, claim in members:
        outcome = _outcome(job, state, index, spec, claim, scores)
        if outcome.status == Status.DONE and not task.stacks:
            pictures = yield from _pictures(job, method, task, spec, state)
            outcome = replace(outcome, artifacts=pictures)
        outcomes.append(outcome)
    yield from _store(job, [claim for _, _, claim in members], outcomes)


def _outcome(
    job: Job,
    state: State,
    index: int,
    spec: RunSpec,
    claim: Claim,
    scores: dict[str, Score] | None = None,
) -> Outcome:
    """Return how a member ended, its last checkpoint written."""
    metrics: dict[str, Estimate] = {}
    curves = training.curves(spec.protocol(), state, index)
    status, reason, step = Status.DONE, None, state.steps_taken(index)
    if bool(state.alive[index]):
        for name, score in (scores or {}).items():
            metrics[name] = score.estimate(index)
            if score.percentiles is not None:
                curves[f"{name}{PERCENTILES}"] = list(enumerate(score.percentiles.tolist()))
            if score.ranks is not None:
                curves[f"{name}{RANKS}"] = list(enumerate(score.ranks[index].tolist()))
    else:
        status = Status.DIVERGED
        reason = f"the bound or its gradient was not finite at step {step}"
    return Outcome(
        status,
        reason,
        step,
        job.wall_s(claim),
        metrics,
        curves,
        _write_checkpoint(job, state, index, spec, "final"),
    )


def _pictures(
    job: Job, method: Method, task: Task, spec: RunSpec, state: State
) -> Generator[Event, None, list[ArtifactFile]]:
    """Write the run's pictures; what keeps them from being made does not touch the result."""
    files: list[ArtifactFile] = []
    edition = job.claims[spec.key].edition
    try:
        for name, content in figures.pngs(trained(method, task, spec, state), state.data):
            write_atomically(job.workspace.picture_file(edition, name), content)
            sha256 = hashlib.sha256(content).hexdigest()
            files.append(ArtifactFile(name, sha256, len(content), edition))
    except (Exception, SystemExit) as err:  # noqa: BLE001 - a plugin may raise anything
        system_reason = err.strerror if isinstance(err, OSError) else None
        yield Note(
            f"Run {spec.key} goes without {'some of its' if files else 'its'} pictures: "
            f"{system_reason or f'{type(err).__name__}: {err}'}. Its result is complete."
        )
    return files


# Checkpoints


def _resume(job: Job, method: Method, task: Task) -> tuple[State, list[str]]:
    """Return where a stack goes on, and what is to be said of it: what was wrong with newer
    checkpoints, and from which run it starts.

    It is the state of the newest step at which every member of ours has a good checkpoint; the
    start where there is none. Members that are not ours are only there for the batch: they stay
    frozen at their start, so that the others see the same stack.
    """
    if job.plan.torch != torch.__version__ and not job.options.other_torch:
        raise UsageError(
            f"These runs began under torch {job.plan.torch} and cannot go on to the bit under "
            f"{torch.__version__}. Install torch=={job.plan.torch}, start them anew with --rerun, "
            "or go on all the same with --other-torch."
        )
    state = training.start(method, task, job.specs[0].protocol(), [spec.seed for spec in job.specs])
    warnings: list[str] = []
    files: dict[str, dict[int, CheckpointFile]] = {
        key: {file.step: file for file in reversed(job.retry(job.store.checkpoints, key))}
        for key in job.claims
    }
    starts = [checkpoint.replicate_tensors(state, index) for index in range(len(job.specs))]
    for step in sorted({step for steps in files.values() for step in steps}, reverse=True):
        if lacking := [key for key in files if step not in files[key]]:
            warnings.append(f"Run {lacking[0]} has no checkpoint at step {step}.")
            continue
        try:
            members = list(starts)
            for index, spec, _ in job.members():
                file = files[spec.key][step]
                path = file.path_in(job.workspace)
                members[index] = checkpoint.read(path, file.sha256, spec.key)[0]
            checkpoint.restore(state, members, step)
            break
        except (CheckpointError, StoreError) as err:
            warnings.append(str(err))
    if warnings:
        warnings.append(f"Going on from step {state.step:,} instead.")
    if state.step == 0 and job.specs[0].start_from is not None:
        source_of = partial(permitted_source, job.store, job.options)
        warnings.append(start_from(job.store, job.workspace, source_of, job.specs[0], state))
    for index, spec in enumerate(job.specs):
        if spec.key not in job.claims:
            state.diverged_at[index] = 0
    return state, warnings


def _save(job: Job, state: State, remark: str | None = None) -> None:
    """Write a checkpoint of every living member, and their rows in one transaction."""
    claims, saved = [], []
    for index, spec, claim in job.members():
        if bool(state.alive[index]):
            curves = training.curves(spec.protocol(), state, index)
            file = _write_checkpoint(job, state, index, spec, "last")
            claims.append(claim)
            saved.append(Progress(state.step, job.wall_s(claim), curves, file, remark))
    remove_files(job.workspace, job.store, job.store.save(claims, saved))


def _try_to_save(job: Job, state: State) -> Iterator[Event]:
    """Save, or report why not: the next checkpoint makes up for this one."""
    try:
        _save(job, state)
    except LeaseLost:
        raise
    except StoreError as err:
        yield Note(f"{err} Training goes on; the next checkpoint is tried later.")


def _write_checkpoint(
    job: Job, state: State, index: int, spec: RunSpec, role: str
) -> CheckpointFile:
    content = checkpoint.encode(state, index, spec)
    step, edition = state.steps_taken(index), job.claims[spec.key].edition
    sha256 = checkpoint.write(job.workspace.checkpoint_file(edition, step), content)
    return CheckpointFile(role, step, sha256, len(content), edition)


def _remove_orphans(job: Job) -> None:
    """Set files of our runs aside that the database does not know: a crash between file and row
    leaves them. Half-written ones are deleted.
    """

    def remove(stray: Stray) -> None:
        with suppress(WorkspaceError, OSError):
            if stray.name.startswith("."):
                stray.path.unlink()
            else:
                set_aside(job.workspace, stray.path)

    editions = [claim.edition for claim in job.claims.values()]
    files = [stray for edition in editions for stray in files_of_edition(job.workspace, edition)]
    orphans = job.retry(job.store.files.strays, files) if files else []
    if orphans:
        job.retry(job.store.files.discard, orphans, remove)
