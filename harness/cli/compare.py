"""`bench compare`: comparison tables, on a terminal, for papers and pages, and as data."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.base.errors import UsageError, harmless
from harness.base.workspace import Workspace
from harness.cli._options import json_option, many, output_option
from harness.cli._output import print_json, say, write_out
from harness.cli._render import UNLIMITED, SafeConsole, console, print_table
from harness.cli._selection import (
    add_tuning_costs,
    open_results,
    particles_option,
    select_finished,
    selection_options,
)

if TYPE_CHECKING:
    from rich.text import Text

    from harness.analysis.grids import Grid, Word
    from harness.analysis.ranks import Ranking
    from harness.analysis.selection import RunFilter, SelectedRuns
    from harness.analysis.tables import Options, Table
    from harness.store import ResultStore

SUFFIXES = {
    ".md": "markdown",
    ".tex": "latex",
    ".html": "html",
    ".htm": "html",
    ".csv": "csv",
    ".json": "json",
    ".parquet": "parquet",
}


@click.command()
@selection_options
@many(
    *("--metric", "metrics"),
    metavar="NAME",
    help_text="A metric; repeat for more. Without it: each task's first one.",
)
@particles_option
@click.option(
    "--interval",
    type=click.Choice(["se", "t", "bca"]),
    default="se",
    help="Beside a mean: its standard error, Student's 95 % interval, or the bootstrap's.",
)
@click.option(
    "--baseline",
    metavar="ROW",
    help="The row that others are tested against: vb. Without it: the best of each column.",
)
@click.option(
    "--differences",
    is_flag=True,
    help="Also print paired differences from the baseline, with intervals and p.",
)
@click.option(
    "--test",
    type=click.Choice(["t", "wilcoxon"]),
    default="t",
    help="How paired differences are tested.",
)
@click.option("--ranks", is_flag=True, help="Also print mean ranks across tasks and their groups.")
@click.option("--costs/--no-costs", default=True, help="Include what a run and tuning cost.")
@click.option(
    "--one-table",
    is_flag=True,
    help="One table of means for all metrics and all that was scored apart, without costs.",
)
@click.option(
    "--notes",
    type=click.Choice(["full", "short"]),
    default="full",
    help="Below a table: all that a reader may ask, or what a caption needs.",
)
@click.option(
    "--label",
    metavar="LABEL",
    help="The LaTeX label of the table: tab:gaps. More tables: tab:gaps-2 and so on.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", *dict.fromkeys(SUFFIXES.values())]),
    help="Without it: what FILE ends in, or a table.",
)
@output_option
@json_option
def compare(
    selection: RunFilter,
    metrics: Sequence[str],
    particles: int | None,
    interval: str,
    baseline: str | None,
    differences: bool,
    test: Any,
    ranks: bool,
    costs: bool,
    one_table: bool,
    notes: str,
    label: str | None,
    format_: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Methods by tasks: means over seeds, failures, and which rows are shown to be the best.

    A column holds only what was scored alike; other runs have a table of their own, which says what
    differs. Training settings label the rows. Bold are the rows of a column that are shown not to
    be worse than any other by more than 5 %, or 0.1 nats; a dagger has what may still be the best.

    \b
    Examples:
      bench compare -t 'gaussian-*'
      bench compare --study smoke --ranks
      bench compare --metric sigma_sq_error --baseline vb --differences
      bench compare --interval t --one-table --notes short --label tab:gaps -o table.tex
    """
    from harness.analysis.grids import Style, joined_grid, rank_grid, table_grids
    from harness.analysis.records import records
    from harness.analysis.tables import Options

    format_ = "json" if as_json else choose_format(format_, output, SUFFIXES) or "table"
    if ranks and len(metrics) > 1:
        raise UsageError("Ranks are of one metric: give --metric once.")
    is_data = format_ in ("csv", "json", "parquet")
    _refuse_what_has_no_effect(format_, ranks, one_table, differences, label)
    options = Options(tuple(metrics), "bca" if interval == "bca" else "t", test, baseline)
    with open_results("compare") as store:
        workspace = Workspace.current() if costs or is_data else None
        runs, tables = compare_stored(store, selection, options, workspace, particles)
        ranking = _rank(tables) if ranks else None
        if is_data:
            rows = records(tables, runs)
            _write_records(rows, ranking, format_, output, as_json)
            return
        has_differences = differences or (baseline is not None and not one_table)
        style = Style(interval != "se", has_differences, costs, notes == "short")
        grids = [grid for table in tables for grid in table_grids(table, style)]
        if one_table:
            grids = [joined_grid(tables, style)]
        grids += [rank_grid(ranking)] if ranking else []
    _write_grids(grids, format_, label, output)


def _write_grids(
    grids: Sequence[Grid], format_: str, label: str | None, output: Path | None
) -> None:
    """Write tables as text of a format, or print them."""
    if format_ != "table":
        from harness.analysis import formats

        options = {} if label is None else {"label": label}
        write_out(getattr(formats, format_)(grids, **options).encode(), output)
    elif output is not None:
        write_out(plain_text(grids).encode(), output)
    else:
        print_grids(grids)
        say("Next: bench why -m METHOD -t TASK, or bench why KEY with the key of a run", err=True)


def compare_stored(
    store: ResultStore,
    selection: RunFilter,
    options: Options,
    workspace: Workspace | None,
    particles: int | None = None,
) -> tuple[SelectedRuns, list[Table]]:
    """Compare the finished runs that are selected; with what tuning cost in a workspace.

    Raises:
        UsageError: no run matches, or none has such a metric.
    """
    from harness.analysis.tables import compare

    runs = select_finished(store, selection, particles)
    if particles is not None and not any(runs.values(group, "elbo") for group in runs.groups):
        raise UsageError(
            f"None of these runs is evaluated with {particles:,} particles. "
            f"To do it: bench score --particles {particles}"
        )
    if workspace is not None:
        add_tuning_costs(runs, workspace)
    tables = compare(runs, options)
    if not tables:
        raise UsageError(
            f"None of these runs has the metric '{', '.join(options.metrics)}'. "
            "What a run has: bench show KEY"
        )
    return runs, tables


def _refuse_what_has_no_effect(
    format_: str, ranks: bool, one_table: bool, differences: bool, label: str | None
) -> None:
    if ranks and format_ in ("csv", "parquet"):
        raise UsageError(
            f"{format_} holds one record an entry and no ranks. Leave out --ranks, or write json."
        )
    if one_table and format_ in ("csv", "json", "parquet"):
        raise UsageError(f"{format_} holds one record an entry. Leave out --one-table.")
    if one_table and differences:
        raise UsageError("--one-table holds means alone. Leave out --differences.")
    if label is None:
        return
    if format_ != "latex":
        raise UsageError(f"{format_} has no labels. Add --format latex, or -o FILE.tex.")
    if not re.fullmatch(r"[A-Za-z0-9:._/+-]+", label):
        raise UsageError(
            f"'{label}' is no label of LaTeX. Use letters, digits and : . _ / + -, as tab:gaps."
        )


def choose_format(format_: str | None, output: Path | None, suffixes: dict[str, str]) -> str | None:
    """Return the format that is asked for, else that of the file's name, else None.

    Raises:
        UsageError: the name does not tell, or the format cannot be printed.
    """
    if format_ == "parquet" and output is None:
        raise UsageError("Parquet is a binary format. Say which file to write: -o FILE.parquet.")
    if format_ is not None or output is None:
        return format_
    if output.suffix.lower() not in suffixes:
        raise UsageError(
            f"Cannot tell the format of '{output.name}'. Give it an ending "
            f"({', '.join(suffixes)}), or add --format."
        )
    return suffixes[output.suffix.lower()]


def _rank(tables: Sequence[Table]) -> Ranking:
    from harness.analysis.ranks import across

    if not any(table.info.better for table in tables):
        raise UsageError(
            f"Neither high nor low values of '{tables[0].metric}' are better, so it does not "
            "rank. Give another --metric."
        )
    ranking = across(tables)
    if ranking is None:
        raise UsageError(
            "There is nothing to rank: no two rows have a value in every column. "
            "Select fewer with -t, --protocol or --study."
        )
    return ranking


def _write_records(
    rows: list[dict[str, Any]],
    ranking: Ranking | None,
    format_: str,
    output: Path | None,
    as_json: bool,
) -> None:
    from harness.analysis import records

    if ranking is not None:
        fields = vars(ranking) | {"cliques": ranking.cliques}
        fields = {name: None if value != value else value for name, value in fields.items()}
        rows = [*rows, {"ranking": fields}]
    if as_json and output is None:
        print_json(rows)
    elif format_ == "json":
        document = {"schema_version": records.SCHEMA_VERSION, "records": rows}
        write_out(f"{json.dumps(document, indent=1)}\n".encode(), output)
    elif format_ == "csv":
        write_out(records.csv_text(rows).encode(), output)
    else:
        write_out(records.parquet_bytes(rows), output)


def print_grids(grids: Sequence[Grid]) -> None:
    """Print each grid as a table where it fits, else as a block a row."""
    out = console()
    if not out.is_terminal:
        say(plain_text(grids), nl=False)
        return
    for grid in grids:
        _print_grid(out, grid)


def plain_text(grids: Sequence[Grid]) -> str:
    """Return the grids as for a file, however wide; an asterisk stands for bold."""
    text = io.StringIO()
    out = SafeConsole(file=text, width=UNLIMITED, plain=True)
    for grid in grids:
        _print_grid(out, grid)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _print_grid(out: SafeConsole, grid: Grid) -> None:
    is_plain = out.color_system is None
    out.print(grid.title, style="bold")
    rows = [[_text(word, is_plain) for word in row] for row in grid.rows]
    print_table(grid.heading, rows, 1, blocks=True, out=out)
    for note in grid.notes:
        out.print(note, style="dim")
    if is_plain and any(word.bold for row in grid.rows for word in row):
        out.print("*: bold.", style="dim")
    out.print()


def _text(word: Word, is_plain: bool) -> Text:
    from rich.text import Text

    mark = "*" if word.bold and is_plain else ""
    text = Text(mark + harmless(word.text), style="bold" if word.bold else "")
    return text.append(f" [{','.join(word.marks)}]", style="not bold dim") if word.marks else text
