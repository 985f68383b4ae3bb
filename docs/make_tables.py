"""Write the tables of a study into its page from a workspace that has its runs.

    BENCH_HOME=... python docs/make_tables.py targets
    BENCH_HOME=... python docs/make_tables.py defaults
    BENCH_HOME=... python docs/make_tables.py annealing

What stands between `<!-- STUDY -->` and `<!-- end -->` is replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from marked import replaced, tables_of

from harness.analysis.grids import Grid, Style, Word, table_grids
from harness.analysis.published import load
from harness.analysis.selection import RunFilter, select_runs, study_keys
from harness.analysis.tables import Options, compare
from harness.base.workspace import Workspace
from harness.store import ResultStore

PAGES = {
    "targets": ("targets.md", ("elbo_gap", "eubo_gap")),
    "defaults": ("findings.md", ("elbo_gap", "delta_sq_error")),
    "annealing": ("targets.md", ("elbo",)),
}
PUBLISHED = {"annealing": ("samplers", "elbo-by-steps")}
"""The experiment of a source whose values stand below a study's tables."""


def main(study: str) -> None:
    """Replace the tables of a study."""
    name, metrics = PAGES[study]
    path = Path(__file__).with_name(name)
    with ResultStore.open(Workspace.current().database_url) as store:
        runs = select_runs(store, RunFilter(keys=study_keys(study)))
        tables = compare(runs, Options(metrics))
        grids = [grid for table in tables for grid in table_grids(table, Style(costs=False))]
    if study in PUBLISHED:
        grids += published(*PUBLISHED[study])
    path.write_text(replaced(path.read_text(), study, tables_of(grids)))


def published(source: str, experiment: str) -> Iterator[Grid]:
    """Return the values of an experiment as tables."""
    (found,) = [each for each in load(source).experiments if each.name == experiment]
    for table in found.tables:
        rows = [
            (Word(name), *(Word("" if value is None else f"{value:g}") for value in values))
            for name, values in table.values.items()
        ]
        notes = (f"Judges nothing: {found.because}",)
        title = f"{table.metric} (nats), as published: {found.rows[rows[0][0].text].source}"
        yield Grid(title, ("method", *found.tasks), tuple(rows), notes)


if __name__ == "__main__":
    main(*sys.argv[1:])
