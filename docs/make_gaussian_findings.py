"""Write the Gaussian tables of docs/findings.md from a workspace that has runs of `report-gaussian`
and `corrected-gaussian`.

    BENCH_HOME=... PYTHONPATH=. python docs/make_gaussian_findings.py gaussian-25 gaussian-50

What stands between `<!-- NAME -->` and `<!-- end -->` is replaced.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from marked import replaced

from harness.analysis import published
from harness.analysis.formats import markdown
from harness.analysis.grids import Grid, Style, Word, table_grids
from harness.analysis.reproduction import ClosedFormValue, Judgement, ReplicateMean, judge
from harness.analysis.selection import RunFilter, select_runs
from harness.analysis.tables import Options, compare
from harness.base.text import number
from harness.base.workspace import Workspace
from harness.plan.studies import load, runs_of
from harness.store import ResultStore

PAGE = Path(__file__).with_name("findings.md")
ERRORS = ("sigma_sq_error", "delta_sq_error")
MEANT = ("sigma_sq_error", "evidence_gap", "elbo_gap")


def main(tasks: Sequence[str]) -> None:
    """Replace the tables."""
    page = PAGE.read_text()
    with ResultStore.open(Workspace.current().database_url) as store:
        judged = judge(store, published.load("report2020"), cache(runs_of), set(tasks))
        for metric in ERRORS:
            grid = published_grid(metric, [value for value in judged if value.metric == metric])
            page = replaced(page, metric, tables_of([grid]))
        corrected = [
            value for value in judged if value.metric == ERRORS[0] and value.corrected is not None
        ]
        page = replaced(page, "objective", tables_of([objectives(corrected)]))
        keys = {run.spec.key for run in load("corrected-gaussian").runs()}
        tables = compare(
            select_runs(store, RunFilter(tasks=tasks, keys=keys)), Options(MEANT, test="wilcoxon")
        )
        grids = [grid for table in tables for grid in table_grids(table, Style(costs=False))]
        page = replaced(page, "corrected", tables_of(grids))
    verdicts = Counter(str(value.verdict) for value in judged)
    page = re.sub(
        r"(<!-- verdicts -->).*?(<!-- end -->)", rf"\g<1>{said(verdicts)}\2", page, flags=re.DOTALL
    )
    PAGE.write_text(page)


def tables_of(grids: Sequence[Grid]) -> str:
    """Return tables as the page has them."""
    return markdown(grids).replace("### ", "#### ").strip()


def said(verdicts: Counter[str]) -> str:
    """`48 reproduced`, and whatever else there is."""
    return ", ".join(f"{count} {name}" for name, count in verdicts.most_common())


def published_grid(metric: str, judged: Sequence[Judgement]) -> Grid:
    """Methods by dimensions: the published value, and ours."""
    tasks = list(dict.fromkeys(value.task for value in judged))
    heading = (
        "method",
        *(text for task in tasks for text in (f"d = {task.rpartition('-')[2]}, published", "ours")),
        "verdict",
    )
    rows = []
    for name in dict.fromkeys(value.row for value in judged):
        values = [value for value in judged if value.row == name]
        counts = Counter(str(value.verdict) for value in values)
        cells = [text for value in values for text in (f"{value.published:.7g}", mean(value.ours))]
        rows.append(
            tuple(
                map(Word, (name, *cells, said(counts) if len(counts) > 1 else next(iter(counts))))
            )
        )
    return Grid(metric, heading, tuple(rows))


def objectives(judged: Sequence[Judgement]) -> Grid:
    """Flows with the objective as it was released, and with the density itself."""
    heading = ("method", "d", "as released", "closed form", "exact density", "closed form")
    rows = []
    for value in judged:
        released = mean(value.ours), form(value.closed_form)
        rows.append(
            (
                value.row,
                value.task.rpartition("-")[2],
                *released,
                mean(value.corrected),
                form(value.corrected_closed_form),
            )
        )
    return Grid(
        "sigma_sq_error of the flows", heading, tuple(tuple(map(Word, row)) for row in rows)
    )


def mean(found: ReplicateMean | None) -> str:
    """A mean with its standard error over data sets."""
    return "" if found is None else number(found.interval.mean, found.interval.se)


def form(found: ClosedFormValue | None) -> str:
    """What calculation says."""
    return "" if found is None else number(found.value)


if __name__ == "__main__":
    main(sys.argv[1:])
