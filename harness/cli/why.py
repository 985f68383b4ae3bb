"""`bench why`: where a number of a table comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from harness.base.errors import UnknownName, UsageError
from harness.base.spec import plain_number, settings_text
from harness.base.text import number, plural
from harness.base.tracebacks import reason_and_place
from harness.base.workspace import Workspace
from harness.cli._options import json_option
from harness.cli._output import print_json, say
from harness.cli._render import console, print_table
from harness.cli._selection import (
    open_results,
    particles_option,
    select_finished,
    selection_options,
)

if TYPE_CHECKING:
    from harness.analysis.provenance import ContributingRun, Provenance
    from harness.analysis.selection import RunFilter, SelectedRuns
    from harness.store import ResultStore

MOST_NUMBERS = 12
"""How many numbers are explained on a terminal."""
COMPARING = ("best", "reference", "test", "difference_", "p_holm")
"""How fields begin that compare a number with others of its column."""


@click.command()
@click.argument("cells", nargs=-1, metavar="[CELL]...")
@selection_options
@click.option("--metric", metavar="NAME", help="Another metric than the task's first one.")
@particles_option
@json_option
def why(
    cells: Sequence[str],
    selection: RunFilter,
    metric: str | None,
    particles: int | None,
    as_json: bool,
) -> None:
    """Say where a number of a table comes from: its runs, their specification, code, machine, and
    pages in MLflow.

    A number is named by its cell, which `bench compare --json` has, by the key of one of its runs,
    or by the first digits of either; or select it as for bench compare. Of several numbers it also
    says where they differ.

    \b
    Examples:
      bench why -m hvae -t gaussian-25
      bench why 3f9c2a 81d0c4 --metric sigma_sq_error
    """
    if not cells and not selection.text:
        raise UsageError(
            "Say which number: bench why -m METHOD -t TASK, or bench why CELL. "
            "Cells: bench compare --json"
        )
    from harness.analysis.provenance import provenances

    with open_results("explain") as store:
        named = {_find_cell(store, prefix) for prefix in cells}
        selection = dataclasses.replace(selection, cells=named or None)
        runs = select_finished(store, selection, particles)
        numbers = provenances(runs, metric)
        if as_json:
            print_json(_records(numbers, runs))
        elif len(numbers) > MOST_NUMBERS:
            raise UsageError(
                f"{len(numbers)} numbers match; at most {MOST_NUMBERS} are explained together. "
                "Select fewer with -m and -t, or add --json."
            )
        else:
            _print_numbers(numbers, runs)


def _find_cell(store: ResultStore, prefix: str) -> str:
    """Return the cell of that name, or that of the run of that key."""
    cells = store.scores.cells_named(prefix)
    if len(cells) != 1:
        kind = "cell or run of that name alone" if cells else "cell or run"
        raise UnknownName(kind, prefix, cells, "bench compare --json")
    return cells[0]


def _records(numbers: Sequence[Provenance], runs: SelectedRuns) -> Iterator[dict[str, Any]]:
    """Yield the record that `bench compare` has of each number, with everything behind it."""
    from harness.analysis.provenance import environments_differ, specs_differ
    from harness.analysis.records import records

    differing = specs_differ(numbers)
    for index, table_number in enumerate(numbers):
        (record,) = (
            record
            for record in records([table_number.table], runs)
            if record.get("cell") == table_number.entry.cell
        )
        spec = table_number.group.cell.spec
        yield {
            **{name: value for name, value in record.items() if not name.startswith(COMPARING)},
            "notes": table_number.notes,
            "withdrawn": table_number.withdrawn,
            "left_out": runs.left_out,
            "spec": {name: value for name, value in spec.items() if name != "seed"},
            "differs": {address: values[index] for address, values in differing.items()},
            "runs": [_run_record(contribution) for contribution in table_number.runs],
            "environments": table_number.environments,
            "environments_differ": environments_differ([table_number]),
        }


def _run_record(contribution: ContributingRun) -> dict[str, Any]:
    from harness.store.run_files import file_facts
    from harness.tracking.server import run_page

    run, score, plan = contribution.run, contribution.score, contribution.plan
    file, mlflow_run_id = contribution.checkpoint, contribution.mlflow_run_id
    workspace, se = Workspace.current(), None if score is None else score.se
    return {
        "key": run.key,
        "seed": run.seed,
        "status": run.status.value,
        "reason": run.reason,
        "traceback": run.traceback,
        "value": None if score is None else plain_number(score.value),
        "se": None if se is None else plain_number(se),
        "step": run.step,
        "seconds": round(run.wall_s, 3),
        "checkpoint": None if file is None else file_facts(workspace, file),
        "source_hash": run.source_hash,
        "environment": contribution.environment,
        "plan": plan | {"members": len(plan["members"])} if plan else None,
        "mlflow_run_id": mlflow_run_id,
        "mlflow_page": None if mlflow_run_id is None else run_page(workspace, mlflow_run_id),
    }


def _print_numbers(numbers: Sequence[Provenance], runs: SelectedRuns) -> None:
    from harness.analysis.provenance import environments_differ, specs_differ

    out = console()
    for table_number in numbers:
        _print_number(table_number)
    if len(numbers) > 1:
        rows = [(name, *map(str, values)) for name, values in specs_differ(numbers).items()]
        columns = ("differs in", *(table_number.entry.cell for table_number in numbers))
        print_table(columns, rows, blocks=True)
        for line in _difference_lines(environments_differ(numbers)):
            out.print(line)
    for reason, count in sorted(runs.left_out.items()):
        out.print(f"Left out: {plural(count, 'run')} ({reason}).")
    say("Next: bench show KEY · bench ui, for pages in MLflow", err=True)


def _print_number(table_number: Provenance) -> None:
    """Print facts, a table of runs, and what the table has no room for."""
    from harness.analysis.provenance import environments_differ
    from harness.tracking.server import run_page

    out, workspace = console(), Workspace.current()
    table, group, listed = table_number.table, table_number.group, table_number.runs
    comparison = settings_text({"protocol": group.cell.protocol} | table.apart)
    out.print(f"{table_number.name} on {group.column.task}, {comparison}", style="bold")
    facts = [(name, value) for name, value in _facts(table_number) if value]
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        out.print(f"  {name:<{width}}  {value}")
    sign = table_number.entry.sign
    rows = [
        (
            contribution.run.key,
            str(contribution.run.seed),
            contribution.run.status.value,
            number(score.value, None if sign else score.se)
            if (score := contribution.score)
            else "-",
            f"step {file.step:,}" if (file := contribution.checkpoint) else "-",
            contribution.environment or "-",
        )
        for contribution in listed
    ]
    columns = ("key", "seed", "status", table.metric, "checkpoint", "on")
    print_table(columns, rows, 1, blocks=True)
    lines = [f"{key} retracted: {reason}" for key, reason in table_number.withdrawn.items()]
    for run in (contribution.run for contribution in listed):
        if run.reason:
            reason = reason_and_place(run.reason, run.traceback)
            lines.append(f"seed {run.seed} {run.status.value}: {reason}")
    lines += _difference_lines(environments_differ([table_number]))
    for contribution in listed:
        if contribution.mlflow_run_id and (page := run_page(workspace, contribution.mlflow_run_id)):
            lines.append(f"seed {contribution.run.seed} in MLflow: {page}")
    for line in lines:
        out.print(f"  {line}", soft_wrap=True)
    out.print()


def _difference_lines(differences: dict[str, dict[str, Any]]) -> Iterator[str]:
    for address, values in differences.items():
        yield f"{address} differs: {', '.join(f'{name} {value}' for name, value in values.items())}"


def _facts(table_number: Provenance) -> Iterator[tuple[str, str]]:
    from harness.analysis.grids import estimate
    from harness.analysis.provenance import environment_summary
    from harness.plan.grid import ranges

    entry, cell, table = table_number.entry, table_number.group.cell, table_number.table
    n = entry.interval.n
    unit = table.info.unit
    mean = f"{entry.sign} {estimate(entry.interval, False)} {unit}".strip()
    yield table.metric, mean if n else "none"
    if n:
        runs = f"{n} of {plural(entry.total, 'run')}, seeds {ranges(entry.seeds)}"
        yield "mean of", runs if entry.sign else f"{runs}; ± is one standard error"
    if n > 1 and not entry.sign:
        yield "95 %", f"{estimate(entry.interval, True)}, Student's t"
    failures = [f"{count}/{entry.total} {status}" for status, count in entry.failures.items()]
    yield "failed", ", ".join(failures)
    for note in table_number.notes:
        yield "note", note
    yield "cell", cell.cell
    yield "set", settings_text(cell.settings) or "nothing: the defaults"
    spec = {name: value for name, value in cell.spec.items() if name != "seed"}
    for kind in ("method", "task"):
        name, version = spec.pop(kind), spec.pop(f"{kind}_version")
        yield kind, f"{name}, version {version}: {settings_text(spec.pop(f'{kind}_fields'))}"
    yield "training", settings_text(spec)
    for source, seeds in table_number.sources.items():
        yield "code", source + (f", seeds {ranges(seeds)}" if len(table_number.sources) > 1 else "")
    for name, environment in table_number.environments.items():
        summary = environment_summary(environment)
        machine = summary.pop("machine")
        packages = [f"{package} {version}" for package, version in summary.items()]
        yield f"on {name}", ", ".join([*packages, machine])
