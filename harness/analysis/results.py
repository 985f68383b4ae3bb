"""Stored results as pandas frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.analysis.export import TABLES, MatchingRuns, require_runs
from harness.analysis.files import arrow_batches, arrow_schema
from harness.analysis.selection import RunFilter, parse_statuses, study_keys
from harness.base.errors import UsageError
from harness.base.workspace import Workspace, redact
from harness.plan.grid import parse_seeds
from harness.store import ResultStore
from harness.store.create import is_missing

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Results:
    """Stored runs as pandas frames, each read when it is first asked for. Their columns are those
    of `bench export`.
    """

    _url: str
    _runs: MatchingRuns

    @cached_property
    def runs(self) -> pandas.DataFrame:
        """One row a run: how it ended, its metrics, what it cost and ran on, and its settings."""
        return self._frame("runs")

    @property
    def not_done(self) -> pandas.DataFrame:
        """The rows of `runs` that have no result: failed, diverged, timed out, not ended."""
        return self.runs.query("status != 'done'")

    @cached_property
    def metrics(self) -> pandas.DataFrame:
        """One row a run and metric."""
        return self._frame("metrics")

    @cached_property
    def scores(self) -> pandas.DataFrame:
        """One row a run and score that `bench score` computed."""
        return self._frame("scores")

    @cached_property
    def curves(self) -> pandas.DataFrame:
        """One row a run, metric and step."""
        return self._frame("curves")

    def __repr__(self) -> str:
        return f"<results of {self._runs}; frames: runs, metrics, scores, curves>"

    def _frame(self, name: str) -> pandas.DataFrame:
        import pyarrow

        with ResultStore.open(self._url) as store, store.snapshot() as snapshot:
            table = TABLES[name](snapshot, self._runs)
            batches, schema = arrow_batches(table), arrow_schema(table.columns)
            return pyarrow.Table.from_batches(batches, schema).to_pandas()


def load(
    *,
    method: str | Sequence[str] = (),
    task: str | Sequence[str] = (),
    study: str | None = None,
    protocol: str | None = None,
    seeds: str | int | Iterable[int] | None = None,
    status: str | Sequence[str] = (),
    home: str | Path | None = None,
    database: str | None = None,
) -> Results:
    """Load stored runs, whatever became of them: all of the workspace, or those that match every
    argument.

    Args:
        method: names, names with their variant, or patterns: `"vb"`, `["hvae*", "iaf"]`.
        task: the same of tasks: `"gaussian-*"`.
        study: a study's name or file; its runs.
        protocol: a protocol's name.
        seeds: `"0-9,12"`, a number, or numbers.
        status: `"done"`, or several.
        home: the workspace; without it the current folder, or what BENCH_HOME and
            BENCH_DATABASE_URL name.
        database: the address of a result database in place of the workspace's.

    Raises:
        UsageError: no run matches, there is no database, or a value is not allowed.
        StoreError: the database cannot be used.
    """
    run_filter = run_filter_of(method, task, study, protocol, seeds, status)
    return results_of(database or Workspace.current(home).database_url, run_filter)


def results_of(database: str, run_filter: RunFilter) -> Results:
    """Return the runs of a database that a filter asks for.

    Raises:
        UsageError: there is none, or no database.
    """
    if is_missing(database):
        raise UsageError(
            f"There are no results at {redact(database)}. Name a workspace: load(home=...)."
        )
    with ResultStore.open(database) as store, store.snapshot() as snapshot:
        return Results(database, require_runs(snapshot, run_filter))


def run_filter_of(
    method: str | Sequence[str] = (),
    task: str | Sequence[str] = (),
    study: str | None = None,
    protocol: str | None = None,
    seeds: str | int | Iterable[int] | None = None,
    status: str | Sequence[str] = (),
) -> RunFilter:
    """Return the filter of the arguments of `load`.

    Raises:
        UsageError: a value is not allowed.
    """
    arguments = {
        "method": method,
        "task": task,
        "study": study,
        "protocol": protocol,
        "seeds": seeds,
        "status": status,
    }
    if isinstance(seeds, str):
        seeds = parse_seeds(seeds)
    return RunFilter(
        methods=[method] if isinstance(method, str) else method,
        tasks=[task] if isinstance(task, str) else task,
        protocol=protocol,
        seeds={seeds} if isinstance(seeds, int) else None if seeds is None else set(seeds),
        statuses=parse_statuses([status] if isinstance(status, str) else status),
        keys=None if study is None else study_keys(study),
        text=", ".join(
            f"{name}={value!r}" for name, value in arguments.items() if value not in (None, ())
        ),
    )
