"""`bench invalidate`: retract results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from harness.base.errors import UsageError
from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.cli._execute import mirror_runs
from harness.cli._options import json_option
from harness.cli._output import print_json, say
from harness.cli._render import print_table
from harness.cli._selection import open_results, pattern_options

if TYPE_CHECKING:
    from harness.store import CellRow, Replicate, ResultStore

LONGEST_REASON = 500


def _condition(ctx: click.Context, param: click.Parameter, value: str | None) -> SpecifierSet:
    try:
        return SpecifierSet(value or "")
    except InvalidSpecifier:
        raise UsageError(
            f"'{value}' is not a condition on versions. Write '<2', '==1' or '>=2,<4'."
        ) from None


@click.command()
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@pattern_options
@click.option(
    "--version",
    callback=_condition,
    metavar="CONDITION",
    help="Made by these versions of the method only: '<2'.",
)
@click.option(
    "--task-version",
    callback=_condition,
    metavar="CONDITION",
    help="On these versions of the task only: '<2'.",
)
@click.option("--reason", metavar="TEXT", help="Why they are retracted, in one line for tables.")
@click.option("--lift", is_flag=True, help="Lift retractions: these results are valid after all.")
@click.option("--dry-run", is_flag=True, help="Print what would be retracted; write nothing.")
@json_option
def invalidate(
    keys: Sequence[str],
    methods: Sequence[str],
    tasks: Sequence[str],
    version: SpecifierSet,
    task_version: SpecifierSet,
    reason: str | None,
    lift: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Retract results that are wrong. Nothing is deleted.

    Runs that have ended are selected by key, or the first digits of it, by method, task and
    version; all conditions must hold. A retracted result is in no mean, and tables say why.
    bench run and bench study run repeat such runs.

    \b
    Examples:
      bench invalidate --method pnf --version '<2' --reason "log-determinant counted once"
      bench invalidate 3f9c2a --reason "the machine's memory was faulty"
    """
    from harness.analysis.selection import RunFilter

    if not (keys or methods or tasks or str(version) or str(task_version)):
        raise UsageError(
            "Say which results: a KEY, -m METHOD, -t TASK or --version CONDITION. "
            "What there is: bench list runs"
        )
    reason = "" if lift else " ".join((reason or "").split())
    if not lift and not (reason.isprintable() and 0 < len(reason) <= LONGEST_REASON):
        raise UsageError(
            f"Say why in one line of at most {LONGEST_REASON} printable characters: "
            '--reason "log-determinant counted twice".'
        )
    patterns = RunFilter(methods, tasks)

    def matches(cell: CellRow) -> bool:
        return (
            patterns.has_cell(cell)
            and version.contains(str(cell.spec["method_version"]))
            and task_version.contains(str(cell.spec["task_version"]))
        )

    with open_results("retract") as store:
        runs = _choose(store, {store.find_one(prefix).key for prefix in keys}, matches, lift)
        changed = [run.key for _, run in runs]
        if not dry_run:
            store.retractions.lift(changed) if lift else store.retractions.add(changed, reason)
        _print_changes(runs, "would be " if dry_run else "", reason, as_json)
        if not dry_run:
            mirror_runs(Workspace.current(), store, changed)


def _choose(
    store: ResultStore, keys: set[str], matches: Callable[[CellRow], bool], lift: bool
) -> list[tuple[CellRow, Replicate]]:
    """Return the ended runs of these keys and matching cells, those that are to be changed.

    Raises:
        UsageError: there are none.
    """
    from harness.base.spec import TERMINAL

    cells = {cell.cell: cell for cell in store.scores.cells() if matches(cell)}
    runs = [
        run
        for run in store.scores.replicates(list(cells))
        if run.status in TERMINAL and (not keys or run.key in keys)
    ]
    retracted = store.retractions.reasons([run.key for run in runs])
    changing = [(cells[run.cell], run) for run in runs if (run.key in retracted) == lift]
    if not changing:
        state = "not retracted" if lift else "already retracted"
        raise UsageError(
            f"No run that has ended matches other than {plural(len(runs), 'run')} {state}. "
            "What there is: bench list runs"
        )
    return changing


def _print_changes(
    runs: Sequence[tuple[CellRow, Replicate]], would_be: str, reason: str, as_json: bool
) -> None:
    """Print what is retracted, for which there is a reason, or lifted."""
    from harness.base.spec import settings_text
    from harness.plan.grid import ranges

    if as_json:
        print_json(
            {
                "key": run.key,
                "method": cell.method,
                "task": cell.task_label,
                "seed": run.seed,
                "outcome": would_be + ("withdrawn" if reason else "lifted"),
                "reason": reason or None,
            }
            for cell, run in runs
        )
        return
    seeds: dict[tuple[str, ...], list[int]] = {}
    for cell, run in runs:
        version, settings = str(cell.spec["method_version"]), settings_text(cell.settings)
        name = (cell.description.method, settings, cell.task_label, cell.protocol, version)
        seeds.setdefault(name, []).append(run.seed)
    columns = ("method", "settings", "task", "protocol", "version", "seeds")
    rows = [(*name, ranges(members)) for name, members in seeds.items()]
    print_table(columns, rows, 4, blocks=True)
    outcome = f"retracted: {reason}" if reason else "lifted"
    say(f"{plural(len(runs), 'result')} {would_be}{outcome}.")
    if reason and not would_be:
        say(
            "Next: the commands that made these runs repeat them; "
            "bench invalidate --lift takes this back",
            err=True,
        )
