"""Stored results as pandas frames."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
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
    _chosen: MatchingRuns

    @cached_property
    def runs(self) -> pandas.DataFrame:
        """One row a run: how it ended, its metrics, what it cost and ran on, and all of its
        settings.
        """
        return self._frame("runs")

    @cached_property
    def metrics(self) -> pandas.DataFrame:
        """One row a run and metric."""
        return self._frame("metrics")

    @cached_property
    def curves(self) -> pandas.DataFrame:
        """One row a run, metric and step."""
        return self._frame("curves")

    def __repr__(self) -> str:
        return f"<results of {self._chosen}; frames: runs, metrics, curves>"

    def _frame(self, what: str) -> pandas.DataFrame:
        import pyarrow

        with ResultStore.open(self._url) as store, store.snapshot() as snapshot:
            table = TABLES[what](snapshot, self._chosen)
            return pyarrow.Table.from_batches(
                arrow_batches(table), arrow_schema(table.columns)
            ).to_pandas()


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
    """Stored runs, whatever became of them: all of the workspace, or those that fit everything that
    is given.

    Args:
        method: names, names with their variant, or patterns: `"vb"`, `["hvae*",
            "hvae[n_leapfrog=10]"]`.
        task: the same of tasks: `"gaussian-*"`.
        study: a study's name or file; its runs.
        protocol: a protocol's name.
        seeds: `"0-9,12"`, a number, or numbers.
        status: `"done"`, or several.
        home: the workspace; without it the current folder, or what BENCH_HOME and
            BENCH_DATABASE_URL name.
        database: the address of a result database in place of the workspace's.

    Raises:
        UsageError: no run fits, there is no database, or a value is not allowed.
        StoreError: the database cannot be used.
    """
    given = {
        "method": method,
        "task": task,
        "study": study,
        "protocol": protocol,
        "seeds": seeds,
        "status": status,
    }
    choice = RunFilter(
        methods=_several(method),
        tasks=_several(task),
        protocol=protocol,
        seeds=_seeds(seeds),
        statuses=parse_statuses(_several(status)),
        keys=None if study is None else study_keys(study),
        text=", ".join(
            f"{name}={value!r}" for name, value in given.items() if value not in (None, ())
        ),
    )
    url = (
        database
        or (
            Workspace.current() if home is None else Workspace(Path(home).expanduser().resolve())
        ).database_url
    )
    if is_missing(url):
        raise UsageError(
            f"There are no results at {redact(url)}. Name a workspace: load(home=...)."
        )
    with ResultStore.open(url) as store, store.snapshot() as snapshot:
        return Results(url, require_runs(snapshot, choice))


def _several(given: str | Sequence[str]) -> Sequence[str]:
    return [given] if isinstance(given, str) else given


def _seeds(given: str | int | Iterable[int] | None) -> Collection[int] | None:
    if given is None or isinstance(given, int):
        return None if given is None else {given}
    return set(parse_seeds(given) if isinstance(given, str) else given)
