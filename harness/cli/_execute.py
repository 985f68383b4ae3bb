"""From runs to a closing table and an exit status: what every command that makes runs does with
them.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    from harness.store import ResultStore, RunStatus
    from harness.tracking import Mirror

INTERRUPTED = 130
NOT_ALL_DONE = 3
KEPT = "kept"
"""The outcome of a run that could not be made anew: its earlier result is in its place."""


def carry_out(runs: list[NewRun], work: Work, as_json: bool) -> int:
    """Make what is not there yet, print all results, and return the exit status."""
    from harness.store import ResultStore

    workspace = Workspace.current()
    with signals() as stop:
        client = cluster(work)
        workspace.prepare()
        with ResultStore.open(workspace.database_url) as store:
            return _carry_out(workspace, store, runs, work, client, as_json, stop)


def cluster(work: Work) -> Any:
    """The Dask cluster asked for, found before anything is written."""
    if work.scheduler is None:
        return None
    from harness.execution.dask import connect

    return connect(work.scheduler)


def _carry_out(
    workspace: Workspace,
    store: ResultStore,
    runs: list[NewRun],
    work: Work,
    client: Any,
    as_json: bool,
    stop: StopRequest,
) -> int:
    from harness.base.spec import TERMINAL
    from harness.execution import local as executors
    from harness.tracking import Mirror

    keys = [run.spec.key for run in runs]
    before = {} if work.rerun else store.statuses(keys)
    withdrawn = store.retractions.reasons(keys)
    new = executors.prepare(store, workspace, runs, work.rerun, work.retry)
    if withdrawn:
        say(
            f"{plural(len(withdrawn), 'withdrawn run')} made anew; what was withdrawn is kept all the while: bench show KEY",
            err=True,
        )
    _warn_of_other_source(runs, before)
    ended = {key for key, run in store.statuses(keys).items() if run.status in TERMINAL}
    if work.queue:
        return _leave_queued(store, keys, len(keys) - len(ended), as_json)
    outcomes = dict.fromkeys(ended, "hit")
    unfinished = [key for key in keys if key not in ended]
    with Mirror.start(workspace, unfinished) as mirror:
        with executors.taken_back(store, workspace, new):
            stopped = _work(workspace, store, unfinished, outcomes, work, client, stop)
        given_up = store.earlier.given_up(unfinished)
        outcomes |= dict.fromkeys(given_up, KEPT)
        status = _print_results(store, runs, outcomes, given_up, stopped, work.rerun, as_json)
        mirror.add(_leftovers(workspace, store, list(ended)))
        finish_mirror(workspace, mirror, stop)
    return status


def _print_results(
    store: ResultStore,
    runs: list[NewRun],
    outcomes: dict[str, str],
    given_up: dict[str, str],
    stopped: bool,
    rerun: bool,
    as_json: bool,
) -> int:
    """Print what became of the runs and return the exit status; `given_up` says why some could not
    be made anew.
    """
    from harness.base.spec import Status
    from harness.cli._summary import runs_as_dicts

    keys = [run.spec.key for run in runs]
    results = runs_as_dicts(store, keys, outcomes)
    if as_json:
        print_json(result for result in results if result["key"] in outcomes)
    else:
        from harness.cli._summary import print_summary

        print_summary([result for result in results if result["key"] in outcomes], runs, given_up)
    if given_up:
        say(
            f"{plural(len(given_up), 'run')} could not be made anew: the earlier results stay as they were. Why: bench show KEY",
            err=True,
        )
    if stopped:
        say(
            f"Interrupted. Everything is saved; the same command{' without --rerun' if rerun else ''} goes on.",
            err=True,
        )
        return INTERRUPTED
    n_done = sum(
        result["status"] == Status.DONE and result["key"] not in given_up for result in results
    )
    return 0 if n_done == len(keys) else NOT_ALL_DONE


def _leave_queued(store: ResultStore, keys: list[str], n_open: int, as_json: bool) -> int:
    from harness.cli._summary import runs_as_dicts

    if as_json:
        print_json(runs_as_dicts(store, keys))
    say(
        f"{plural(n_open, 'run')} to make. Start any number of workers, here or elsewhere: bench worker --drain",
        err=True,
    )
    return 0


def _work(
    workspace: Workspace,
    store: ResultStore,
    keys: list[str],
    outcomes: dict[str, str],
    work: Work,
    client: Any,
    stop: StopRequest,
) -> bool:
    """Run what has not ended, filling in `outcomes`; says whether it was interrupted."""
    if not keys:
        return False
    from harness.base.spec import TERMINAL
    from harness.cli._progress import RunProgress
    from harness.execution.job import Began, Ended, Stop
    from harness.execution.local import SetAside

    held = store.holders(keys)
    ours = {
        key: "hit" if key in held else "resumed" if run.step else "ran"
        for key, run in store.statuses(keys).items()
    }
    try:
        with RunProgress() as progress:
            for event in events(workspace, store, keys, work, work.options(), client, stop):
                if isinstance(event, SetAside) and len(event.keys) == len(
                    keys
                ):  # there is nothing else to make
                    raise event.error
                progress.show(event)
                if isinstance(event, Began):
                    ours |= {spec.key: "resumed" if event.step else "ran" for spec in event.specs}
                if isinstance(event, Ended):
                    outcomes[event.key] = ours[event.key]
    except Stop:
        return True
    now = store.statuses(keys)
    outcomes |= {
        key: "hit"
        for key in keys
        if key not in outcomes and key in now and now[key].status in TERMINAL
    }
    return False


def events(
    workspace: Workspace,
    store: ResultStore,
    keys: Sequence[str],
    work: Work,
    options: Options,
    client: Any,
    stop: StopRequest,
) -> Iterator[Event | Progressed]:
    """What happens while the runs are made: here, by workers, or on a cluster."""
    if client is not None:
        from harness.execution.dask import run_on_cluster

        return run_on_cluster(store, client, keys, stop, options)
    if work.workers is not None:
        from harness.execution.workers import run_on_workers

        return run_on_workers(workspace, store, keys, work.workers, stop, options)
    from harness.execution.local import execute

    return execute(workspace, store, keys, stop, options)


def _leftovers(workspace: Workspace, store: ResultStore, keys: list[str]) -> list[str]:
    """Which of these ended runs MLflow does not show."""
    from harness.tracking.server import is_missing

    if is_missing(workspace):  # deleted meanwhile: everything is to be mirrored anew
        return keys
    return store.behind(keys) if keys else []


def mirror_leftovers(workspace: Workspace, store: ResultStore, keys: list[str]) -> None:
    """Have MLflow show these ended runs as they are now."""
    from harness.tracking import Mirror

    with signals() as stop, Mirror.start(workspace, _leftovers(workspace, store, keys)) as mirror:
        finish_mirror(workspace, mirror, stop)


def finish_mirror(workspace: Workspace, mirror: Mirror, stop: StopRequest) -> bool:
    """Wait until MLflow shows the runs, as long as that gets on; whether it shows all, and a line
    where it does not.
    """
    left = mirror.finish(stop=stop)
    if left:
        say(
            f"MLflow at {redact(workspace.tracking_uri)} does not show {plural(len(left), 'run')} yet ({mirror.error}). "
            "Nothing is lost: the same command, or bench doctor --repair, mirrors what is missing.",
            err=True,
        )
    return not left


def _warn_of_other_source(runs: list[NewRun], before: dict[str, RunStatus]) -> None:
    from harness.base.spec import TERMINAL

    other = [
        run
        for run in runs
        if (row := before.get(run.spec.key))
        and row.status in TERMINAL
        and row.source_hash != run.source_hash
    ]
    if other:
        names = ", ".join(sorted({run.spec.method for run in other}))
        say(
            f"{len(other)} of these runs ({names}) were made with other source code of the method or task. To make them anew: --rerun",
            err=True,
        )


@contextmanager
def signals() -> Iterator[StopRequest]:
    """An event that the first SIGINT or SIGTERM sets; the second one ends the process as usual."""
    stop = StopRequest()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
