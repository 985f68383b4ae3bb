"""`bench export`: results out of a workspace, as tables to analyse or as a bundle for another
workspace.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.base.errors import UsageError
from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.cli._options import json_option, many, output_option
from harness.cli._output import out_file, print_json, say
from harness.cli._render import track
from harness.cli._selection import open_results, selection_options
from harness.cli.compare import choose_format

if TYPE_CHECKING:
    from harness.analysis.selection import RunFilter
    from harness.store import ResultStore, RunRow

SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


@click.command()
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@output_option
@click.option(
    "--what",
    type=click.Choice(["runs", "metrics", "scores", "curves"]),
    default="runs",
    help="What a row is.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["csv", "jsonl", "parquet"]),
    help="Without it: what FILE ends in.",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a bundle instead; there must be no such file.",
)
@click.option(
    "--no-files", is_flag=True, help="Leave checkpoints and figures out of the bundle: it is small."
)
@selection_options
@many(
    *("--status", "statuses"),
    metavar="STATUS",
    help_text="Of this status only: done, diverged, ... Repeat for more.",
)
@json_option
def export(
    keys: Sequence[str],
    output: Path | None,
    what: str,
    format_: str | None,
    bundle: Path | None,
    no_files: bool,
    selection: RunFilter,
    statuses: Sequence[str],
    as_json: bool,
) -> None:
    """Write results to a file: a table to analyse, or a bundle for `bench import` in another
    workspace.

    A table has all runs, whatever became of them: a row a run with its metrics, costs, versions and
    settings, or with --what a row a run and metric, a row a run and score of bench score, or a row
    a run, metric and step. docs/results.md explains the columns. Without FILE it is printed.

    A bundle holds finished runs with their last checkpoints and figures: a zip archive with a
    result database in it. A run is named by its key or the first digits of it; without names all
    are written.

    \b
    Examples:
      bench export -o results.parquet
      bench export --what curves --study smoke -o curves.csv
      bench export -t 'gaussian-*' --format csv
      bench export --bundle results.bench -t gaussian-25
      bench export --bundle numbers.bench --study smoke --no-files
    """
    from harness.analysis.selection import parse_statuses

    if no_files and bundle is None:
        raise UsageError("Tables hold no files. Leave out --no-files, or write a --bundle FILE.")
    if bundle is not None and (output, what, format_) != (None, "runs", None):
        raise UsageError("Write a table (-o, --what, --format) or a bundle (--bundle), not both.")
    for key in keys:
        if Path(key).suffix in SUFFIXES:
            raise UsageError(
                f"'{key}' is not the key of a run. To write a file of that name: "
                f"bench export -o {key}"
            )
    format_ = choose_format("jsonl" if as_json else format_, output, SUFFIXES)
    if format_ is None and bundle is None:
        raise UsageError(
            "Say what to write: a table with -o FILE.csv (.jsonl, .parquet) or --format csv to "
            "print it, or bench export --bundle FILE."
        )
    with open_results("export") as store:
        rows = [store.find_one(key) for key in dict.fromkeys(keys)]
        named = {row.key for row in rows}
        filter_ = dataclasses.replace(
            selection,
            statuses=parse_statuses(statuses),
            keys=named.intersection(selection.keys or named) if named else selection.keys,
            text=" ".join([selection.text, *(f"--status {name}" for name in statuses)]).strip(),
        )
        if bundle is None:
            _write_table(store, filter_, what, str(format_), output)
        else:
            _write_bundle(store, rows, filter_, bundle, no_files, as_json)


def _write_table(
    store: ResultStore, filter_: RunFilter, what: str, format_: str, output: Path | None
) -> None:
    from harness.analysis.export import TABLES, require_runs
    from harness.analysis.files import FORMATS

    with store.snapshot() as snapshot:
        runs = require_runs(snapshot, filter_)
        table = TABLES[what](snapshot, runs)
        blocks = track(table.blocks, table.n_blocks, "Writing")
        with out_file(output) as file:
            FORMATS[format_](dataclasses.replace(table, blocks=blocks), file)
    if output is not None:
        say(f"{runs}. What the columns mean: docs/results.md", err=True)


def _write_bundle(
    store: ResultStore,
    rows: Sequence[RunRow],
    filter_: RunFilter,
    bundle: Path,
    no_files: bool,
    as_json: bool,
) -> None:
    from harness.analysis.export import find_runs
    from harness.base.spec import TERMINAL
    from harness.execution.bundle import write_bundle

    for row in rows:
        if row.status not in TERMINAL:
            raise UsageError(f"Run {row.key} is {row.status}. Only finished runs can be exported.")
    finished = dataclasses.replace(
        filter_, statuses=TERMINAL.intersection(filter_.statuses or TERMINAL)
    )
    with store.snapshot() as snapshot:
        found = find_runs(snapshot, finished).keys
        withdrawn = snapshot.retractions.reasons(found)
    if withdrawn:
        say(f"{plural(len(withdrawn), 'retracted run')} left out.", err=True)
    keys = sorted(key for key in found if key not in withdrawn)
    results = (result for key in keys for result in store.results([key]))
    if no_files:
        results = (result.without(result.files) for result in results)
    lines: list[dict[str, Any]] = []
    written = incomplete = 0
    for key, missing, fault in track(
        write_bundle(bundle, Workspace.current(), results), len(keys), "Writing"
    ):
        outcome = "left out" if fault else "exported"
        lines.append({"key": key, "outcome": outcome, "missing": missing})
        if fault:
            say(f"Run {key} is left out: {fault}.", err=True)
        else:
            written += 1
            incomplete += bool(missing)
    if as_json:
        print_json(lines)
    else:
        say(f"Wrote {plural(written, 'run')} to {bundle} ({bundle.stat().st_size:,} bytes).")
    if incomplete:
        say(
            f"{plural(incomplete, 'run')} went without files that are missing or damaged here. "
            "See: bench doctor.",
            err=True,
        )
