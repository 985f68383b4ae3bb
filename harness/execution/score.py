"""Scores of finished runs, computed from their checkpoints: without training, each run by one
process at a time.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from harness.base.errors import BenchError, CheckpointError, PluginError, StoreError, UsageError
from harness.base.spec import RunSpec, Status, canonical_json
from harness.base.stop_request import StopRequest
from harness.base.subprocesses import Parent, Subprocess
from harness.base.text import duration
from harness.base.tracebacks import reason_and_place, traceback_of
from harness.base.workspace import Workspace
from harness.execution import environment
from harness.execution.job import Options, Stop, permitted_source, with_retry
from harness.execution.workers import LIBRARIES, error_of
from harness.plan import registry
from harness.store import CheckpointFile, Estimate, Evaluation, ResultStore
from harness.training import annealed_scores, checkpoint, evaluation
from harness.training import loop as training
from harness.training.annealed_scores import AnnealingSettings
from harness.training.evaluation import Score

BEAT_S, WAIT_S, LOOK_S, FORECAST_S = 15.0, 1.0, 0.2, 3.0


@dataclass(frozen=True)
class Scored:
    """The scores of a run are stored, by this process or another one."""

    key: str


@dataclass(frozen=True)
class NotScored:
    """A run could not be scored, and why; nothing of it is stored."""

    key: str
    error: BenchError


Event = Scored | NotScored


@dataclass(frozen=True)
class Importance:
    """Scores by the method's own draws: what is computed at the end of training, with `particles`
    in place of the run's own where they are given.
    """

    particles: int | None = None


Estimator = Importance | AnnealingSettings


def evaluation_of(spec: RunSpec, estimator: Estimator) -> Evaluation:
    """Return what a run's scores by an estimator are stored under."""
    if isinstance(estimator, AnnealingSettings):
        name, version = annealed_scores.ESTIMATOR, annealed_scores.VERSION
        changed = estimator.changed()
    else:
        is_own = estimator.particles in (None, spec.eval_particles)
        name, version = evaluation.ESTIMATOR, evaluation.VERSION
        changed = {} if is_own else {"eval_particles": estimator.particles}
    return Evaluation(name, version, canonical_json(changed))


@dataclass(frozen=True)
class Scorer:
    """Scores runs in this process by an estimator; `tell` hears how long a run will take, where
    that is long.
    """

    workspace: Workspace
    store: ResultStore
    estimator: Estimator
    options: Options
    stop: StopRequest
    tell: Callable[[str], object] = lambda text: None

    def score(self, keys: Sequence[str]) -> Iterator[Event]:
        """Score these runs, and wait for those that other processes score.

        Raises:
            Stop: `stop` was set; what was at work is not stored.
            StoreError: the database is away for too long.
        """
        waiting = list(keys)
        while waiting:
            held = []
            for key in waiting:
                if self.stop.is_set():
                    raise Stop
                event = self._score(key)
                if event is None:
                    held.append(key)
                else:
                    yield event
            if held == waiting:
                self.stop.wait(WAIT_S)
            waiting = held

    def _score(self, key: str) -> Event | None:
        """Score one run; None while another process is at it."""
        evaluations = self.store.evaluations
        row = with_retry(self.stop, self.store.rows, [key]).get(key)
        if row is None or row.status is not Status.DONE:
            return NotScored(key, UsageError(f"Run {key} is no longer done. Repeat the command."))
        spec = RunSpec.from_plain(row.spec)
        address = (key, evaluation_of(spec, self.estimator))
        if address in with_retry(self.stop, evaluations.evaluated, [key]):
            return Scored(key)
        if not with_retry(self.stop, evaluations.claim, key):
            return None
        try:
            self._score_claimed(spec)
            return Scored(key)
        except StoreError:
            raise
        except BenchError as err:
            return NotScored(key, err)
        except Stop:
            raise
        except (Exception, SystemExit) as err:  # noqa: BLE001 - a plugin may raise anything
            reason = reason_and_place(f"{type(err).__name__}: {err}", traceback_of(err))
            return NotScored(key, BenchError(f"Run {key} cannot be scored: {reason}."))
        finally:
            with suppress(StoreError):
                evaluations.release(key)

    def _score_claimed(self, spec: RunSpec) -> None:
        key, start = spec.key, time.monotonic()
        file = next(iter(self.store.checkpoints(key)), None)
        if file is None:
            raise UsageError(
                f"Run {key} has no checkpoint here. Import it with its bundle, or make it anew "
                "with bench run --rerun."
            )
        try:
            estimates = self._evaluate(spec, file)
        except CheckpointError as err:
            raise UsageError(f"{err} See: bench doctor.") from err
        is_stored = with_retry(
            self.stop,
            self.store.evaluations.add,
            key,
            file.edition.number,
            evaluation_of(spec, self.estimator),
            estimates,
            time.monotonic() - start,
            environment.describe(),
        )
        if not is_stored:
            raise UsageError(f"Run {key} was made anew meanwhile. Repeat the command.")

    def _evaluate(self, spec: RunSpec, file: CheckpointFile) -> dict[str, Estimate]:
        """Evaluate the parameters in a checkpoint as at the end of training."""
        source_of = partial(permitted_source, self.store, self.options)
        try:
            method, task = registry.load(spec, source_of)
        except PluginError as err:
            raise UsageError(str(err)) from err
        torch.set_num_threads(1 if task.stacks else self.options.threads)
        protocol = spec.protocol()
        tensors, meta = checkpoint.read(file.path_in(self.workspace), file.sha256, spec.key)
        state = training.start(method, task, protocol, [spec.seed])
        checkpoint.restore(state, [tensors], meta["step"])
        work: Generator[float | None, None, dict[str, Score]]
        if isinstance(self.estimator, AnnealingSettings):
            work = annealed_scores.annealed_scoring(task, protocol, state, self.estimator)
        else:
            n_draws = self.estimator.particles or protocol.eval_particles
            protocol = protocol.model_copy(update={"eval_particles": n_draws})
            work = evaluation.scoring(method, task, protocol, state)
        scores = self._run_to_end(spec.key, work)
        return {name: score.estimate(0) for name, score in scores.items()}

    def _run_to_end(
        self, key: str, work: Generator[float | None, None, dict[str, Score]]
    ) -> dict[str, Score]:
        """Do the work, prolonging the claim, and say once how long it will take; Stop ends it."""
        began = time.monotonic()
        next_beat, is_told = began + BEAT_S, False
        while True:
            try:
                share = next(work)
            except StopIteration as done:
                return done.value
            if self.stop.is_set():
                raise Stop
            elapsed = time.monotonic() - began
            if share and not is_told and elapsed > FORECAST_S:
                is_told = True
                self.tell(f"Run {key}: about {duration(elapsed * (1 / share - 1))}.")
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + BEAT_S
                with suppress(StoreError):  # the next one makes up for it
                    self.store.evaluations.prolong(key)


# By workers


def score_on_workers(scorer: Scorer, keys: Sequence[str], n: int) -> Iterator[Event]:
    """Score these runs on `n` processes of this machine, which share its processors.

    Raises:
        Stop: `stop` was set; what was at work is not stored.
        BenchError: a worker's error, or the death of all.
    """
    threads = max(1, scorer.options.threads // n)
    options = dataclasses.replace(scorer.options, threads=threads)
    workers = [Subprocess(__name__, **dict.fromkeys(LIBRARIES, str(threads))) for _ in range(n)]
    ended: set[str] = set()
    try:
        for number, worker in enumerate(workers):
            worker.send(
                home=str(scorer.workspace.home),
                environment=dict(scorer.workspace.environment),
                keys=[*keys[number:], *keys[:number]],  # each begins with another one
                estimator=dataclasses.asdict(scorer.estimator),
                options=dataclasses.asdict(options),
            )
        while len(ended) < len(keys):
            statuses = [worker.poll() for worker in workers]
            for message in (message for worker in workers for message in worker.received()):
                if "says" in message:
                    scorer.tell(str(message["says"]))
                    continue
                if "failure" in message:
                    raise error_of(message["status"])(message["failure"])
                if message["key"] not in ended:
                    ended.add(message["key"])
                    yield _event(message)
            if all(status is not None for status in statuses) and len(ended) < len(keys):
                raise BenchError("All workers died. What is stored stays; repeat the command.")
            if scorer.stop.wait(LOOK_S):
                raise Stop
    finally:
        for worker in workers:
            worker.close()


def _event(message: dict[str, str | int]) -> Event:
    if "error" not in message:
        return Scored(str(message["key"]))
    error = error_of(int(message["status"]))(str(message["error"]))
    return NotScored(str(message["key"]), error)


def _say(parent: Parent, text: str) -> None:
    parent.send(says=text)


def main(parent: Parent) -> None:
    """Score the runs that the parent names."""
    stop = StopRequest()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    orders = parent.messages.get()
    workspace = Workspace(Path(orders["home"]), orders["environment"])
    options = Options(**orders["options"])
    try:
        with ResultStore.open(workspace.database_url) as store:
            fields = orders["estimator"]
            estimator = (
                Importance(**fields) if "particles" in fields else AnnealingSettings(**fields)
            )
            tell = partial(_say, parent)
            scorer = Scorer(workspace, store, estimator, options, stop, tell)
            for event in scorer.score(orders["keys"]):
                error = event.error if isinstance(event, NotScored) else None
                about = {"error": str(error), "status": error.exit_status} if error else {}
                parent.send(key=event.key, **about)
    except BenchError as err:
        parent.send(failure=str(err), status=err.exit_status)
