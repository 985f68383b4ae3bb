"""Write the Gaussian tables of docs/findings.md from a workspace that has runs of the studies
`report-gaussian`, `corrected-gaussian` and `gaussian-limits`; a table whose runs are not there
stays as it is.

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
from typing import Any

from hamiltonian_limits import optimum, volume_limit
from marked import replaced, tables_of

from harness.analysis import published
from harness.analysis.grids import Grid, Style, Word, table_grids
from harness.analysis.reproduction import ClosedFormValue, Judgement, ReplicateMean, judge
from harness.analysis.selection import RunFilter, SelectedRuns, select_runs, study_keys
from harness.analysis.statistics import t_interval
from harness.analysis.tables import Options, compare
from harness.base.text import number
from harness.base.workspace import Workspace
from harness.numerics.noise import Noise
from harness.plan.studies import runs_of
from harness.store import ResultStore
from tasks.gaussian import Gaussian

PAGE = Path(__file__).with_name("findings.md")
ERRORS = ("sigma_sq_error", "delta_sq_error")
STYLE = Style(costs=False)
MEANT = ("sigma_sq_error", "evidence_gap", "elbo_gap")


def main(tasks: Sequence[str]) -> None:
    """Replace the tables."""
    page = PAGE.read_text()
    with ResultStore.open(Workspace.current().database_url) as store:
        judged = judge(store, published.load("report2020"), cache(runs_of), set(tasks))
        if any(value.ours and value.ours.interval.n for value in judged):
            page = published_tables(page, judged)
        for name, study, test in (
            ("corrected", "corrected-gaussian", "wilcoxon"),
            ("limits", "gaussian-limits", "t"),
        ):
            runs = select_runs(store, RunFilter(tasks=tasks, keys=study_keys(study)))
            if runs.groups:
                metrics = MEANT if name == "corrected" else (*MEANT[1:], "delta_sq_error")
                tables = compare(runs, Options(metrics, test=test))
                grids = [grid for table in tables for grid in table_grids(table, STYLE)]
                page = replaced(page, name, tables_of(grids))
            if runs.groups and name == "limits":
                page = replaced(page, "optima", tables_of([optima(runs)]))
    PAGE.write_text(page)


def published_tables(page: str, judged: Sequence[Judgement]) -> str:
    """Replace the tables of published values, and what is said of their verdicts."""
    for metric in ERRORS:
        grid = published_grid(metric, [value for value in judged if value.metric == metric])
        page = replaced(page, metric, tables_of([grid]))
    corrected = [
        value for value in judged if value.metric == ERRORS[0] and value.corrected is not None
    ]
    page = replaced(page, "objective", tables_of([objectives(corrected)]))
    verdicts = Counter(str(value.verdict) for value in judged)
    return re.sub(
        r"(<!-- verdicts -->).*?(<!-- end -->)", rf"\g<1>{said(verdicts)}\2", page, flags=re.DOTALL
    )


def optima(runs: SelectedRuns) -> Grid:
    """HVAE's runs beside the exact optimum of their family on the same data sets."""
    rows = []
    for group in sorted(runs.groups, key=lambda group: (group.cell.task_label, group.row.order)):
        fields = group.cell.spec["method_fields"]
        tempering = fields.get("tempering")
        if group.cell.spec["base"] != "prior" or tempering not in ("fixed", "none"):
            continue
        gaps = runs.values(group, "elbo_gap")
        exact = [limit_of(group.cell.spec["task_fields"]["dim"], seed, fields) for seed in gaps]
        best, ours = t_interval(exact), t_interval(list(gaps.values()))
        texts = (
            group.row.text,
            group.cell.task_label,
            "volume-preserving limit" if fields["vary_steps"] else "the family's optimum",
            number(best.mean, best.se),
            number(ours.mean, ours.se),
            f"{ours.mean / best.mean:.3f}",
        )
        rows.append(tuple(map(Word, texts)))
    heading = ("method", "task", "held against", "its elbo_gap", "of the runs", "ratio")
    return Grid("elbo_gap (nats): runs beside what their family can reach", heading, tuple(rows))


def limit_of(dim: int, seed: int, fields: dict[str, Any]) -> float:
    """The ELBO gap at the exact optimum on a seed's data, nats."""
    task = Gaussian.model_validate({"dim": dim})
    variance = task.load(Noise([f"{seed}/data"])).train["variance"].numpy()
    n = float(task.n_data)
    if fields["vary_steps"]:
        return volume_limit(n, variance).gap
    return optimum(n, variance, fields["n_leapfrog"], fields["tempering"] == "fixed").gap


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
