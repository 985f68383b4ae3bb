"""`bench invalidate`: results that do not stand."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from harness.base.errors import UsageError
from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.cli._execute import mirror_runs
from harness.cli._options import json_option, open_store
from harness.cli._output import print_json, say
from harness.cli._render import print_table
from harness.cli._selection import pattern_options, run_of

if TYPE_CHECKING:
    from harness.store import CellRow, Replicate, ResultStore

COMPARED: dict[str, Callable[[int, int], bool]] = {
    "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


class Condition(click.ParamType):
    """Versions that fit: `<2`, `==1`, `>=2,<4`."""

    name = "condition"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Callable[[int], bool]:
        """A test of a version."""
        parts = [
            re.fullmatch(r"(<=|>=|==|!=|<|>)\s*(\d{1,9})", part.strip())
            for part in str(value).split(",")
        ]
        if not all(parts):
            self.fail(
                f"'{value}' is no condition on versions, which are whole numbers. Write '<2', '==1' or '>=2,<4'.",
                param,
                ctx,
            )
        tests = [(COMPARED[part[1]], int(part[2])) for part in parts if part]
        return lambda version: all(fits(version, bound) for fits, bound in tests)


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
@click.option("--reason", metavar="TEXT", help="Why they do not stand, in one line: tables say so.")
@click.option("--lift", is_flag=True, help="Take marks back: these results stand after all.")
@click.option("--dry-run", is_flag=True, help="Print what would be marked; write nothing.")
@json_option
def invalidate(
    keys: Sequence[str],
    methods: Sequence[str],
    tasks: Sequence[str],
    version: Callable[[int], bool] | None,
    task_version: Callable[[int], bool] | None,
    reason: str | None,
    lift: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Withdraw results that do not stand. Nothing is deleted.

    Runs that have ended are picked by key, or the first digits of it, by method, task and version; all that is given must fit.
    A withdrawn result is in no mean, and tables say why. bench run and bench study run make such runs anew; the
    mark stays on record then, the earlier result does not.

    \b
    Examples:
      bench invalidate --method pnf --version '<2' --reason "log-determinant of tied layers counted once"
      bench invalidate 3f9c2a --reason "the machine's memory was faulty"
    """  # fmt: skip
    if not (keys or methods or tasks or version or task_version):
        raise UsageError(
            "Say which results: a KEY, -m METHOD, -t TASK or --version CONDITION. What there is: bench list runs"
        )
    said = _checked(reason, lift)
    workspace = Workspace.current()
    store = open_store(workspace)
    if store is None:
        raise UsageError("There are no results here.")
    with store:
        found = list(_ended(store, keys, methods, tasks, version, task_version))
        before = store.retractions.reasons([run.key for _, run in found])
        chosen = [(cell, run) for cell, run in found if (run.key in before) == lift]
        if not chosen:
            already = (
                f" that is {'' if lift else 'not '}withdrawn ({plural(len(found), 'other one')} fit)"
                if found
                else ""
            )
            raise UsageError(f"No ended run fits{already}. What there is: bench list runs")
        if not dry_run:
            changed = [run.key for _, run in chosen]
            _ = store.retractions.lift(changed) if lift else store.retractions.add(changed, said)
        _tell(chosen, said, lift, dry_run, as_json)
        if not dry_run:
            mirror_runs(workspace, store, [run.key for _, run in chosen])


def _checked(reason: str | None, lift: bool) -> str:
    """The reason in one line.

    Raises:
        UsageError: there is none, or it is no text that a table could show.
    """
    if lift:
        if reason is not None:
            raise UsageError("--lift takes marks back, and needs no reason: leave --reason out.")
        return ""
    said = " ".join((reason or "").split())
    if not said:
        raise UsageError(
            'Say why, for whoever reads the tables: --reason "log-determinant counted twice".'
        )
    if not said.isprintable() or len(said) > 500:
        raise UsageError("--reason is one line of at most 500 printable characters.")
    return said


def _ended(
    store: ResultStore,
    keys: Sequence[str],
    methods: Sequence[str],
    tasks: Sequence[str],
    version: Callable[[int], bool] | None,
    task_version: Callable[[int], bool] | None,
) -> Iterator[tuple[CellRow, Replicate]]:
    """The runs that have ended and that everything given fits, by cell and seed."""
    from harness.base.spec import TERMINAL
    from harness.plan.grid import matches_any

    def fits(cell: CellRow) -> bool:
        return (
            matches_any(methods, cell.method_names, cell.spec["method_fields"])
            and matches_any(tasks, cell.task_names, cell.spec["task_fields"])
            and (version is None or version(cell.spec["method_version"]))
            and (task_version is None or task_version(cell.spec["task_version"]))
        )

    named = {run_of(store, prefix).key for prefix in keys}
    cells = {cell.cell: cell for cell in store.scores.cells() if fits(cell)}
    for run in store.scores.replicates(list(cells)):
        if run.status in TERMINAL and (not named or run.key in named):
            yield cells[run.cell], run


def _tell(
    chosen: Sequence[tuple[CellRow, Replicate]],
    reason: str,
    lift: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    from harness.base.spec import settings_text
    from harness.plan.grid import ranges

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
            for cell, run in chosen
        )
        return
    seeds: dict[str, list[int]] = {}
    for cell, run in chosen:
        seeds.setdefault(cell.cell, []).append(run.seed)
    cells = {cell.cell: cell for cell, _ in chosen}
    rows = [
        (cell.description.method, settings_text(cell.settings), cell.task_label, cell.protocol,
         str(cell.spec["method_version"]), ranges(seeds[name]))
        for name, cell in cells.items()
    ]  # fmt: skip
    print_table(("method", "settings", "task", "protocol", "version", "seeds"), rows, left=4)
    marks = "marks" if lift else "results"
    say(f"{plural(len(chosen), 'result')} {outcome}{f': {reason}' if reason else ''}.")
    if not dry_run and not lift:
        say(
            f"Next: the commands that made these {marks} make them anew; bench invalidate --lift takes this back",
            err=True,
        )
