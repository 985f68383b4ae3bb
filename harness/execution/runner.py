"""One stack of claimed runs, from specs to stored results: load, train, save on the way, score,
store.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch

from harness.api import Method, Task
from harness.base.errors import BenchError, DataError, LeaseLost, PluginError, StoreError, one_line
from harness.base.gc import collect_as_usual
from harness.base.spec import RunSpec, Status
from harness.base.tracebacks import traceback_of
from harness.execution import environment
from harness.execution.job import (
    Job,
    all_curves,
    patiently,
    permitted_source,
    resume,
    save,
    tidy,
    write_member,
    write_picture,
)
from harness.plan import registry
from harness.store import ArtifactFile, Claim, Metric, Outcome
from harness.store.run_files import remove_files
from harness.training import devices, validation
from harness.training import figures as gallery
from harness.training.evaluation import Score, scoring
from harness.training.loop import State
from harness.training.model import trained
from harness.training.timeout import GRACE_S, Overdue, broken_off

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


def run(job: Job) -> Iterator[Event]:
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
        patiently(
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
            patiently(partial(save, job, state, progress.remark))
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
    return patiently(lambda: job.store.rows([key]))[key].status == Status.RUNNING


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
        job.workspace, job.store, patiently(lambda: job.store.finish_all(claims, outcomes))
    )


def _give_back(job: Job, status: Status, reason: str) -> None:
    with suppress(
        LeaseLost, StoreError
    ):  # a lease that cannot be given back ends with this process
        job.store.release(list(job.claims.values()), status, reason)


def _time_out(job: Job, reason: str) -> Iterator[Event]:
    left = [claim for _, spec, claim in job.members() if _is_running(job, spec.key)]
    patiently(lambda: job.store.release(left, Status.TIMEOUT, reason))
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
    steps = patiently(lambda: job.store.rows([claim.key for claim in left]))
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
