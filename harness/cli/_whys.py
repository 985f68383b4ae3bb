"""Where numbers come from, on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from harness.base.spec import plain_number, settings_text
from harness.base.text import number, plural
from harness.base.tracebacks import reason_and_place
from harness.base.workspace import Workspace
from harness.cli._render import console, print_table

if TYPE_CHECKING:
    from harness.analysis.provenance import ContributingRun, Provenance
    from harness.analysis.selection import SelectedRuns

SHOWN = 20
"""How many runs of a number are listed on a terminal."""


AMONG_OTHERS = ("best", "reference", "test", "difference_", "p_holm")
"""What a record says of a number beside the others of its column."""


def described(
    found: Sequence[Provenance], sample: SelectedRuns, workspace: Workspace
) -> Iterator[dict[str, Any]]:
    """Each number as the record that `bench compare` has of it, with all that is behind it."""
    from harness.analysis.provenance import environments_differ, specs_differ
    from harness.analysis.records import records

    differing = specs_differ(found)
    for place, origin in enumerate(found):
        record = next(
            one for one in records([origin.table], sample) if one.get("cell") == origin.entry.cell
        )
        yield {
            name: value for name, value in record.items() if not name.startswith(AMONG_OTHERS)
        } | {
            "notes": origin.notes,
            "withdrawn": origin.withdrawn,
            "left_out": sample.left_out,
            "spec": {
                name: value for name, value in origin.group.cell.spec.items() if name != "seed"
            },
            "differs": {address: values[place] for address, values in differing.items()},
            "runs": [_run(made, workspace) for made in origin.runs],
            "environments": origin.environments,
            "environments_differ": environments_differ([origin]),
        }


def _run(made: ContributingRun, workspace: Workspace) -> dict[str, Any]:
    from harness.store.run_files import file_facts
    from harness.tracking.server import run_page

    run, score, plan = made.run, made.score, made.plan
    return {
        "key": run.key,
        "seed": run.seed,
        "status": run.status.value,
        "reason": run.reason,
        "traceback": run.traceback,
        "value": None if score is None else plain_number(score.value),
        "se": None if score is None or score.se is None else plain_number(score.se),
        "step": run.step,
        "seconds": round(run.wall_s, 3),
        "checkpoint": None if made.checkpoint is None else file_facts(workspace, made.checkpoint),
        "source_hash": run.source_hash,
        "environment": made.environment,
        "plan": plan | {"members": len(plan["members"])} if plan else None,
        "mlflow_run_id": made.mlflow_run_id,
        "mlflow_page": None
        if made.mlflow_run_id is None
        else run_page(workspace, made.mlflow_run_id),
    }


def show(found: Sequence[Provenance], left_out: dict[str, int], workspace: Workspace) -> None:
    """A block a number, and where several differ."""
    for origin in found:
        _print(origin, workspace)
    if len(found) > 1:
        _print_differences(found)
    out = console()
    for why, count in sorted(left_out.items()):
        out.print(f"Left out: {plural(count, 'run')} ({why}).", markup=False)
    mirrored = any(made.mlflow_run_id for origin in found for made in origin.runs)
    console(stderr=True).print(
        f"Next: bench show KEY{' · bench ui, for the pages above' if mirrored else ''}",
        markup=False,
    )


def _print(origin: Provenance, workspace: Workspace) -> None:
    out = console()
    apart = settings_text({"protocol": origin.group.cell.protocol} | origin.table.apart)
    out.print(f"{origin.name} on {origin.group.column.task}, {apart}", style="bold", markup=False)
    facts = [(name, value) for name, value in _facts(origin) if value]
    indent = 4 + max(len(name) for name, _ in facts)
    for name, value in facts:
        line = f"  {name:<{indent - 4}}  {value}"
        out.print(
            fill(line, out.width, subsequent_indent=indent * " ", break_on_hyphens=False)
            if out.is_terminal
            else line,
            markup=False,
        )
    print_table(
        ("key", "seed", "status", origin.table.metric, "checkpoint", "on"),
        _rows(origin),
        left=1,
    )
    if len(origin.runs) > SHOWN:
        out.print(
            f"  and {plural(len(origin.runs) - SHOWN, 'more run')}: --json lists all", markup=False
        )
    for line in (*_afterwards(origin), *_pages(origin, workspace)):
        out.print(f"  {line}", markup=False, soft_wrap=True)
    out.print()


def _facts(origin: Provenance) -> Iterator[tuple[str, str]]:
    from harness.analysis.grids import estimate
    from harness.analysis.provenance import environment_summary
    from harness.plan.grid import ranges

    entry, cell, table = origin.entry, origin.group.cell, origin.table
    unit = f" {table.info.unit}" if table.info.unit else ""
    yield table.metric, estimate(entry.interval, False) + unit if entry.interval.n else "none"
    if entry.interval.n:
        yield (
            "mean of",
            f"{entry.interval.n} of {plural(entry.total, 'run')}, seeds {ranges(entry.seeds)}; ± is one standard error",
        )
    if entry.interval.n > 1:
        yield "95 %", f"{estimate(entry.interval, True)}, Student's t"
    yield (
        "failed",
        ", ".join(f"{count}/{entry.total} {status}" for status, count in entry.failures.items()),
    )
    for note in origin.notes:
        yield "note", note
    yield "cell", cell.cell
    yield "set", settings_text(cell.settings) or "nothing: the defaults"
    spec = {
        name: value for name, value in cell.spec.items() if name not in ("method", "task", "seed")
    }
    for kind in ("method", "task"):
        fields = settings_text(spec.pop(f"{kind}_fields"))
        yield (
            kind,
            f"{cell.spec[kind]}, version {spec.pop(f'{kind}_version')}: {fields or 'no fields'}",
        )
    yield "training", settings_text(spec)
    for source, seeds in origin.sources.items():
        yield "code", source + (f", seeds {ranges(seeds)}" if len(origin.sources) > 1 else "")
    for name, environment in origin.environments.items():
        yield (
            f"on {name}",
            ", ".join(
                f"{part} {value}" if part != "machine" else value
                for part, value in environment_summary(environment).items()
            ),
        )


def _rows(origin: Provenance) -> Iterator[tuple[str, ...]]:
    for made in origin.runs[:SHOWN]:
        run, score, file = made.run, made.score, made.checkpoint
        value = "-" if score is None else number(score.value, score.se)
        yield (
            run.key,
            str(run.seed),
            run.status.value,
            value,
            f"step {file.step:,}" if file else "-",
            made.environment or "-",
        )


def _afterwards(origin: Provenance) -> Iterator[str]:
    """What the table of runs has no room for: what was withdrawn, why runs failed, where
    environments differ.
    """
    from harness.analysis.provenance import environments_differ

    for key, reason in origin.withdrawn.items():
        yield f"{key} withdrawn: {reason}"
    for made in origin.runs[:SHOWN]:
        if made.run.reason:
            yield f"seed {made.run.seed} {made.run.status.value}: {reason_and_place(made.run.reason, made.run.traceback)}"
    for address, values in environments_differ([origin]).items():
        yield f"{address} differs: {', '.join(f'{name} {value}' for name, value in values.items())}"


def _pages(origin: Provenance, workspace: Workspace) -> Iterator[str]:
    """Where MLflow shows the runs."""
    from harness.tracking.server import run_page

    mirrored = [
        (made.run.seed, made.mlflow_run_id) for made in origin.runs[:SHOWN] if made.mlflow_run_id
    ]
    pages = [(seed, page) for seed, name in mirrored if (page := run_page(workspace, name))]
    if pages:
        yield "in MLflow:"
    for seed, page in pages:
        yield f"  seed {seed:<4} {page}"


def _print_differences(found: Sequence[Provenance]) -> None:
    from harness.analysis.provenance import environments_differ, specs_differ

    out = console()
    differing = specs_differ(found)
    heading = ("differs in", *(origin.entry.cell for origin in found))
    rows = [
        (address, *(_value(value) for value in values)) for address, values in differing.items()
    ]
    if rows:
        print_table(heading, rows)
    else:
        out.print("Their specifications differ in nothing.", markup=False)
    for address, values in environments_differ(found).items():
        out.print(
            f"{address} differs: {', '.join(f'{name} {value}' for name, value in values.items())}",
            markup=False,
        )


def _value(value: Any) -> str:
    return "none" if value is None else str(value)
