"""`bench why`: where a number of a table comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from harness.base.errors import UnknownName, UsageError
from harness.base.workspace import Workspace
from harness.cli._options import json_option
from harness.cli._output import print_json
from harness.cli._selection import Selection, drawn, opened, selection

if TYPE_CHECKING:
    from harness.analysis.provenance import Provenance
    from harness.store import ResultStore

MOST = 12
"""How many numbers are explained on a terminal."""


@click.command()
@click.argument("cells", nargs=-1, metavar="[CELL]...")
@selection
@click.option("--metric", metavar="NAME", help="Another metric than the task's first one.")
@json_option
def why(cells: Sequence[str], chosen: Selection, metric: str | None, as_json: bool) -> None:
    """Say where a number of a table comes from: its runs, their specification, code, machine, and
    pages in MLflow.

    A number is named by its cell, which `bench compare` writes in JSON, CSV and Parquet and shows
    in HTML; by the key of one of its runs; or by the first digits of either. Or pick it as for
    bench compare. Of several numbers it also says where their specifications differ.

    \b
    Examples:
      bench why -m hvae -t gaussian-25
      bench why 3f9c2a 81d0c4 --metric sigma_sq_error
    """
    if not cells and not str(chosen):
        raise UsageError(
            "Say which number: bench why -m METHOD -t TASK, or bench why CELL. Cells: bench compare --json"
        )
    from harness.analysis.provenance import provenances
    from harness.cli._whys import described, show

    with opened("explain") as store:
        named = [_cell(store, name) for name in cells]
        sample = drawn(store, chosen, set(named) or None)
        found = provenances(sample, metric)
        if as_json:
            print_json(described(found, sample, Workspace.current()))
        else:
            show(_few(found), sample.left_out, Workspace.current())


def _cell(store: ResultStore, prefix: str) -> str:
    """The cell of that name, or the one of the run of that key."""
    found = store.scores.cells_named(prefix)
    if len(found) != 1:
        raise UnknownName(
            "cell or run of that name alone" if found else "cell or run",
            prefix,
            found,
            "bench compare --json",
        )
    return found[0]


def _few(found: Sequence[Provenance]) -> Sequence[Provenance]:
    if len(found) > MOST:
        raise UsageError(
            f"That are {len(found)} numbers; at most {MOST} are explained together. Pick fewer with -m and -t, or say --json."
        )
    return found
