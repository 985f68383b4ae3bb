"""From runs to their results and an exit status: what every command that executes runs does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.base.stop_request import StopRequest
from harness.base.text import plural
from harness.base.workspace import Workspace, redact
from harness.cli._options import Work
from harness.cli._output import print_json, say

if TYPE_CHECKING:
    from harness.base.spec import NewRun
    from harness.execution.job import Options
    from harness.execution.local import Event
    from harness.execution.workers import Progressed
    from harness.store import ResultStore
    from harness.tracking import Mirror

INTERRUPTED = 130
NOT_ALL_DONE = 3


@dataclass(frozen=True)
class Session:
    """A workspace whose runs are executed: in this process, by workers, or on a Dask cluster."""

    workspace: Workspace
    store: ResultStore
    work: Work
    client: Any
    stop: StopRequest

    def execute(self, keys: Sequence[str], options: Options) -> Iterator[Event | Progressed]:
        """Execute these runs; yields what happens."""
        if self.client is not None:
            from harness.execution.dask import run_on_cluster

            return run_on_cluster(self.store, self.client, keys, self.stop, options)
        if self.work.workers is not None:
            from harness.execution.workers import run_on_workers

            n_workers = self.work.workers
            return run_on_workers(self.workspace, self.store, keys, n_workers, self.stop, options)
        from harness.execution.local import execute

        return execute(self.workspace, self.store, keys, self.stop, options)


@contextmanager
def open_session(work: Work) -> Iterator[Session]:
    """Open the workspace for work; a Dask cluster is connected before anything is written."""
    from harness.store import ResultStore

    workspace, client = Workspace.current(), None
    with stop_on_signals() as stop:
        if work.scheduler is not None:
            from harness.execution.dask import connect

            client = connect(work.scheduler)
        workspace.prepare()
        with ResultStore.open(workspace.database_url) as store:
            yield Session(workspace, store, work, client, stop)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Yield a request that the first SIGINT or SIGTERM makes; the second one ends the process.

    In another thread than the main one nothing makes it.
    """
    stop, restore = StopRequest(), ExitStack()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, frame: Any) -> None:
        stop.set()
        restore.close()

    with restore:
        for number in (signal.SIGINT, signal.SIGTERM):
            restore.callback(signal.signal, number, signal.signal(number, request))
        yield stop


def execute_runs(runs: list[NewRun], work: Work, as_json: bool | None) -> int:
    """Execute what has no result yet, print all results, and return the exit status.

    `as_json`: whether they are printed as JSON; None prints none.
    """
    with open_session(work) as session:
        return _execute_runs(session, runs, as_json)


def _execute_runs(session: Session, runs: list[NewRun], as_json: bool | None) -> int:
    from harness.base.spec import TERMINAL
    from harness.cli._summary import runs_as_dicts
    from harness.execution import local
    from harness.tracking import Mirror

    workspace, store, work = session.workspace, session.store, session.work
    keys = [run.spec.key for run in runs]
    previous = {} if work.rerun else store.statuses(keys)
    retracted = store.retractions.reasons(keys)
    new = local.prepare(store, workspace, runs, work.rerun, work.retry)
    if retracted:
        say(f"{plural(len(retracted), 'retracted run')} executed again.", err=True)
    outdated = {
        run.spec.method
        for run in runs
        if (row := previous.get(run.spec.key))
        and row.status in TERMINAL
        and row.source_hash != run.source_hash
    }
    if outdated:
        say(
            f"Results of {', '.join(sorted(outdated))} came from other source code of the "
            "method or task. To run them again: --rerun",
            err=True,
        )
    ended = {key for key, run in store.statuses(keys).items() if run.status in TERMINAL}
    if work.queue:
        if as_json:
            print_json(runs_as_dicts(store, keys))
        say(
            f"{plural(len(keys) - len(ended), 'run')} to execute. "
            "Start any number of workers, here or elsewhere: bench worker --drain",
            err=True,
        )
        return 0
    outcomes = dict.fromkeys(ended, "hit")
    unfinished = [key for key in keys if key not in ended]
    with Mirror.start(workspace, unfinished) as mirror:
        with local.taken_back(store, workspace, new):
            is_complete = not unfinished or _execute(session, unfinished, outcomes)
        status = _print_results(session, runs, unfinished, outcomes, as_json)
        if not is_complete:
            status = INTERRUPTED
            command = "command without --rerun" if work.rerun else "command"
            say(f"Interrupted. Everything is saved; the same {command} continues.", err=True)
        mirror.add(_not_mirrored(workspace, store, list(ended)))
        finish_mirror(workspace, mirror, session.stop)
    return status


def _execute(session: Session, keys: list[str], outcomes: dict[str, str]) -> bool:
    """Execute runs, filling in `outcomes`; False where it was interrupted."""
    from harness.base.spec import TERMINAL
    from harness.cli._progress import RunProgress
    from harness.execution.job import Began, Ended, Stop
    from harness.execution.local import SetAside

    store = session.store
    held = store.holders(keys)
    expected = {
        key: "hit" if key in held else "resumed" if run.step else "ran"
        for key, run in store.statuses(keys).items()
    }
    try:
        with RunProgress() as progress:
            for event in session.execute(keys, session.work.options()):
                if isinstance(event, SetAside) and len(event.keys) == len(keys):
                    raise event.error  # there is nothing else to execute
                progress.show(event)
                if isinstance(event, Began):
                    outcome = "resumed" if event.step else "ran"
                    expected |= {spec.key: outcome for spec in event.specs}
                if isinstance(event, Ended):
                    outcomes[event.key] = expected[event.key]
    except Stop:
        return False
    for key, run in store.statuses(keys).items():
        if run.status in TERMINAL:
            outcomes.setdefault(key, "hit")
    return True


def _print_results(
    session: Session,
    runs: list[NewRun],
    unfinished: list[str],
    outcomes: dict[str, str],
    as_json: bool | None,
) -> int:
    """Print what became of the runs, and return the exit status."""
    from harness.cli._summary import print_summary, runs_as_dicts

    not_replaced = session.store.earlier.given_up(unfinished)
    outcomes |= dict.fromkeys(not_replaced, "kept")
    results = runs_as_dicts(session.store, [run.spec.key for run in runs], outcomes)
    printed = [result for result in results if result["key"] in outcomes]
    if as_json is not None:
        print_json(printed) if as_json else print_summary(printed, runs, not_replaced)
    if not_replaced:
        say(
            f"{plural(len(not_replaced), 'rerun')} failed: the earlier results stay as they were. "
            "Why: bench show KEY",
            err=True,
        )
    done = {result["key"] for result in results if result["status"] == "done"}
    is_complete = done - not_replaced.keys() >= {run.spec.key for run in runs}
    return 0 if is_complete else NOT_ALL_DONE


def _not_mirrored(workspace: Workspace, store: ResultStore, keys: list[str]) -> list[str]:
    """Return which of these ended runs MLflow does not show."""
    from harness.tracking.server import is_missing

    if is_missing(workspace):  # deleted meanwhile: everything has to be mirrored again
        return keys
    return store.behind(keys) if keys else []


def mirror_runs(workspace: Workspace, store: ResultStore, keys: list[str]) -> None:
    """Have MLflow show these ended runs as they are now."""
    from harness.tracking import Mirror

    missing = _not_mirrored(workspace, store, keys)
    with stop_on_signals() as stop, Mirror.start(workspace, missing) as mirror:
        finish_mirror(workspace, mirror, stop)


def finish_mirror(workspace: Workspace, mirror: Mirror, stop: StopRequest) -> bool:
    """Wait for MLflow as long as it makes progress, and return whether it shows all runs."""
    missing = mirror.finish(stop=stop)
    if missing:
        say(
            f"MLflow at {redact(workspace.tracking_uri)} does not show "
            f"{plural(len(missing), 'run')} yet ({mirror.error}). Nothing is lost: "
            "the same command, or bench doctor --repair, mirrors what is missing.",
            err=True,
        )
    return not missing
