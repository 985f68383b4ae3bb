"""Write the tables of a study into its page from a workspace that has its runs.

    BENCH_HOME=... python docs/make_tables.py targets
    BENCH_HOME=... python docs/make_tables.py defaults

What stands between `<!-- STUDY -->` and `<!-- end -->` is replaced.
"""

from __future__ import annotations

import sys
from pathlib import Path

from marked import replaced, tables_of

from harness.analysis.grids import Style, table_grids
from harness.analysis.selection import RunFilter, select_runs, study_keys
from harness.analysis.tables import Options, compare
from harness.base.workspace import Workspace
from harness.store import ResultStore

PAGES = {
    "targets": ("targets.md", ("elbo_gap", "eubo_gap")),
    "defaults": ("findings.md", ("elbo_gap", "delta_sq_error")),
}


def main(study: str) -> None:
    """Replace the tables of a study."""
    name, metrics = PAGES[study]
    path = Path(__file__).with_name(name)
    with ResultStore.open(Workspace.current().database_url) as store:
        runs = select_runs(store, RunFilter(keys=study_keys(study)))
        tables = compare(runs, Options(metrics))
        grids = [grid for table in tables for grid in table_grids(table, Style(costs=False))]
    path.write_text(replaced(path.read_text(), study, tables_of(grids)))


if __name__ == "__main__":
    main(*sys.argv[1:])
