"""`harness.run` and `harness.compare`: what `bench run` and `bench compare` do, for a notebook."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.analysis import formats
from harness.analysis.grids import Grid, Style, table_grids
from harness.analysis.records import Record, records
from harness.analysis.results import Results, results_of, run_filter_of
from harness.analysis.selection import RunFilter
from harness.analysis.tables import Options
from harness.api import Method, Task
from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.cli._execute import execute_runs
from harness.cli._options import Work
from harness.cli.compare import compare_stored, plain_text
from harness.execution.fit import open_store
from harness.plan.grid import expand, parse_seeds

if TYPE_CHECKING:
    import pandas

MethodLike = str | Method | type[Method]
TaskLike = str | Task | type[Task]


def run(
    method: MethodLike | Sequence[MethodLike],
    task: TaskLike | Sequence[TaskLike],
    *,
    seeds: str | int | Iterable[int] = 0,
    protocol: str | None = None,
    settings: dict[str, Any] | None = None,
    workers: int | None = None,
    rerun: bool = False,
    retry: bool = False,
) -> Results:
    """Run methods on tasks as `bench run` does: stored in the workspace, shown by MLflow, resumed
    where they were interrupted, and not made again where they have a result.

    A class of a notebook is stored as its text, with the functions, imports and values of the
    notebook that it refers to. Runs that did not end well warn, and are among the results.

    Args:
        method: names, classes or instances, one or several.
        task: the same of tasks.
        seeds: `range(5)`, a number or `"0-4,7"`.
        protocol: one of the tasks'; their default where none is given.
        settings: what `--set` would say: `{"steps": 500, "lr": 1e-2}`.
        workers: so many processes, in place of this one.
        rerun: run again what has a result.
        retry: run again what diverged or failed.

    Returns: the runs, as the frames `runs`, `metrics` and `curves`.

    Raises:
        UsageError: a name, field or value that is not allowed.
        PluginError: the text of a class is not known, or refers to what cannot be stored.
    """
    runs = expand(
        _several(method),
        _several(task),
        _seeds(seeds),
        protocol,
        settings,
    )
    execute_runs(runs, Work(rerun=rerun, retry=retry, workers=workers), as_json=None)
    keys = {run.spec.key for run in runs}
    text = f"the {plural(len(keys), 'run')} of this call"
    results = results_of(Workspace.current().database_url, RunFilter(keys=keys, text=text))
    if count := len(results.not_done):
        warnings.warn(
            f"{plural(count, 'run')} of {len(keys)} did not end well. Which: .not_done",
            stacklevel=2,
        )
    return results


def _several(selectors: Any) -> Sequence[Any]:
    return selectors if isinstance(selectors, list | tuple) else [selectors]


def _seeds(seeds: str | int | Iterable[int]) -> list[int]:
    if isinstance(seeds, str):
        return parse_seeds(seeds)
    distinct = [seeds] if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    return parse_seeds(",".join(str(int(seed)) for seed in distinct))


@dataclass(frozen=True)
class Comparison:
    """The tables of `bench compare`: `frame` has their entries, and a notebook shows them."""

    grids: list[Grid]
    records: list[Record]

    @cached_property
    def frame(self) -> pandas.DataFrame:
        """One row an entry of a table: the columns of `bench compare --format csv`."""
        import pandas

        return pandas.DataFrame(self.records)

    def __repr__(self) -> str:
        """Show the tables as text; an asterisk stands for bold."""
        return plain_text(self.grids).rstrip()

    def _repr_html_(self) -> str:
        return formats.html(self.grids, page=False)


def compare(
    *,
    method: str | Sequence[str] = (),
    task: str | Sequence[str] = (),
    study: str | None = None,
    protocol: str | None = None,
    seeds: str | int | Iterable[int] | None = None,
    metric: str | Sequence[str] = (),
    interval: Literal["se", "t", "bca"] = "se",
    baseline: str | None = None,
    differences: bool = False,
    test: Literal["t", "wilcoxon"] = "t",
    home: str | Path | None = None,
) -> Comparison:
    """Compare stored runs as `bench compare` does: means over seeds, failures, and which rows are
    shown to be the best.

    Args:
        method, task: names or patterns: `"vb"`, `["hvae*", "gaussian-*"]`.
        study: a study's name or file; its runs.
        protocol: a protocol's name.
        seeds: `"0-9,12"`, a number, or numbers.
        metric: one or several; each task's first one without it.
        interval: beside a mean its standard error, Student's 95 % interval or the bootstrap's.
        baseline: the row that others are tested against; the best of each column without it.
        differences: show paired differences from the baseline too.
        test: how they are tested.
        home: the workspace; without it the current folder, or what BENCH_HOME and
            BENCH_DATABASE_URL name.

    Raises:
        UsageError: no run matches, there is no database, or a value is not allowed.
    """
    workspace = Workspace.current(home)
    metrics = (metric,) if isinstance(metric, str) else tuple(metric)
    options = Options(metrics, "bca" if interval == "bca" else "t", test, baseline)
    selection = run_filter_of(method, task, study, protocol, seeds)
    with open_store(workspace) as store:
        runs, tables = compare_stored(store, selection, options, workspace)
        style = Style(interval != "se", differences or baseline is not None)
        grids = [grid for table in tables for grid in table_grids(table, style)]
        return Comparison(grids, records(tables, runs))
