"""Where asked-for runs stand in this workspace, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from harness.base.text import duration, plural
from harness.base.workspace import Workspace
from harness.cli._options import Work, open_store

if TYPE_CHECKING:
    from harness.base.spec import NewRun
    from harness.execution.forecast import Forecast

ENDED = ("done", "diverged", "failed", "crashed", "pruned")
PRINTED = {"running": "at work", "withdrawn": "retracted"}  # other counts are printed as they are


def forecast_here(runs: Sequence[NewRun], work: Work) -> Forecast:
    """Return where these runs stand in this workspace."""
    from harness.execution.forecast import forecast
    from harness.execution.local import STACK
    from harness.store import info

    workspace = Workspace.current()
    url = workspace.database_url
    is_new = not url.startswith("sqlite") and info(url)["revision"] is None
    with nullcontext() if is_new else open_store(workspace) or nullcontext() as store:
        return forecast(runs, store, STACK, rerun=work.rerun, retry=work.retry)


def in_short(forecast: Forecast, n_workers: int | None) -> str:
    """`180 runs: 20 done, 160 to run, about 3.1 h with 2 workers`.

    How many workers a cluster has is not known here: `n_workers` is None.
    """
    counts = forecast.counts
    parts = [f"{counts[status]:,} {status}" for status in ENDED if counts[status]]
    notes = [f"{counts[state]:,} {text}" for state, text in PRINTED.items() if counts[state]]
    seconds = forecast.seconds_with(n_workers or 1)
    if not forecast.remaining:
        parts.append("nothing to run")
    else:
        parts.append(f"{forecast.remaining:,} to run" + (f" ({', '.join(notes)})" if notes else ""))
        who = f"with {plural(n_workers, 'worker')}" if n_workers else "of one worker's time"
        known = f"about {duration(seconds or 0.0)} {who}"
        if forecast.unknown:
            known += f" for all but {plural(forecast.unknown, 'run')} whose time is unknown"
        parts.append("time unknown until some have ended" if seconds is None else known)
    return f"{plural(counts.total(), 'run')}: {', '.join(parts)}"
