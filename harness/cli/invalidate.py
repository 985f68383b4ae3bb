"""`bench invalidate`: retract results."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from harness.base.errors import UsageError
from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.cli._execute import mirror_runs
from harness.cli._options import json_option
from harness.cli._output import print_json, say
from harness.cli._render import print_table
from harness.cli._selection import find_run, open_results, pattern_options

if TYPE_CHECKING:
    from harness.store import CellRow, Replicate, ResultStore

OPERATORS: dict[str, Callable[[int, int], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
}
LONGEST_REASON = 500

VersionTest = Callable[[int], bool]


class Condition(click.ParamType):
    """A condition on versions: `<2`, `==1`, `>=2,<4`."""

    name = "condition"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> VersionTest:
        """Return a test of a version."""
        tests: list[tuple[Callable[[int, int], bool], int]] = []
        for text in str(value).split(","):
            match = re.fullmatch(r"(<=|>=|==|!=|<|>)\s*(\d{1,9})", text.strip())
            if match is None:
                self.fail(
                    f"'{value}' is not a condition on versions, which are whole numbers. "
                    "Write '<2', '==1' or '>=2,<4'.",
                    param,
                    ctx,
                )
            tests.append((OPERATORS[match[1]], int(match[2])))
        return lambda version: all(test(version, bound) for test, bound in tests)


@click.command()
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@pattern_options
@click.option(
    "--version",
    type=Condition(),
    metavar="CONDITION",
    help="Made by these versions of the method only: '<2'.",
)
@click.option(
    "--task-version",
    type=Condition(),
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
    version: VersionTest | None,
    task_version: VersionTest | None,
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
    if not (keys or methods or tasks or version or task_version):
        raise UsageError(
            "Say which results: a KEY, -m METHOD, -t TASK or --version CONDITION. "
            "What there is: bench list runs"
        )
    reason = _check_reason(reason, lift)

    def matches(cell: CellRow) -> bool:
        from harness.plan.grid import matches_any

        return (
            matches_any(methods, cell.method_names, cell.spec["method_fields"])
            and matches_any(tasks, cell.task_names, cell.spec["task_fields"])
            and (version is None or version(cell.spec["method_version"]))
            and (task_version is None or task_version(cell.spec["task_version"]))
        )

    with open_results("retract") as store:
        runs = _choose(store, {find_run(store, prefix).key for prefix in keys}, matches, lift)
        changed = [run.key for _, run in runs]
        if not dry_run:
            store.retractions.lift(changed) if lift else store.retractions.add(changed, reason)
        outcome = ("would be " if dry_run else "") + ("lifted" if lift else "withdrawn")
        if as_json:
            print_json(
                {
                    "key": run.key,
                    "method": cell.method,
                    "task": cell.task_label,
                    "seed": run.seed,
                    "outcome": outcome,
                    "reason": reason or None,
                }
                for cell, run in runs
            )
        else:
            _print_cells(runs)
            verb = "lifted" if lift else "retracted"
            ending = f": {reason}" if reason else ""
            say(f"{plural(len(runs), 'result')} {'would be ' if dry_run else ''}{verb}{ending}.")
            if not dry_run and not lift:
                say(
                    "Next: the commands that made these runs repeat them; "
                    "bench invalidate --lift takes this back",
                    err=True,
                )
        if not dry_run:
            mirror_runs(Workspace.current(), store, changed)


def _check_reason(reason: str | None, lift: bool) -> str:
    """Return the reason in one line; none is needed to lift.

    Raises:
        UsageError: there is none, or it is not a text that a table could show.
    """
    if lift:
        if reason is not None:
            raise UsageError("--lift needs no reason: leave out --reason.")
        return ""
    line = " ".join((reason or "").split())
    if not line:
        raise UsageError(
            'Say why, for readers of the tables: --reason "log-determinant counted twice".'
        )
    if not line.isprintable() or len(line) > LONGEST_REASON:
        raise UsageError(f"--reason is one line of at most {LONGEST_REASON} printable characters.")
    return line


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
        ending = f" other than {plural(len(runs), 'run')} {state}" if runs else ""
        raise UsageError(f"No run that has ended matches{ending}. What there is: bench list runs")
    return changing


def _print_cells(runs: Sequence[tuple[CellRow, Replicate]]) -> None:
    from harness.base.spec import settings_text
    from harness.plan.grid import ranges

    seeds: dict[str, list[int]] = {}
    for cell, run in runs:
        seeds.setdefault(cell.cell, []).append(run.seed)
    rows = [
        (
            cell.description.method,
            settings_text(cell.settings),
            cell.task_label,
            cell.protocol,
            str(cell.spec["method_version"]),
            ranges(seeds[cell.cell]),
        )
        for cell in {cell.cell: cell for cell, _ in runs}.values()
    ]
    columns = ("method", "settings", "task", "protocol", "version", "seeds")
    print_table(columns, rows, 4, blocks=True)
