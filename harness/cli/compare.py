"""`bench compare`: comparison tables, on a terminal, for papers and pages, and as data."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from harness.base.errors import UsageError
from harness.base.workspace import Workspace
from harness.cli._grids import plain_text, show
from harness.cli._options import json_option
from harness.cli._output import print_json, say, write_out
from harness.cli._selection import Selection, drawn, opened, selection, with_tuning

if TYPE_CHECKING:
    from harness.analysis.grids import Grid, Style
    from harness.analysis.ranks import Ranking
    from harness.analysis.selection import SelectedRuns
    from harness.analysis.tables import Options, Table

Format = Literal["table", "markdown", "latex", "html", "csv", "json", "parquet"]
SUFFIXES: dict[str, Format] = {
    ".md": "markdown", ".tex": "latex", ".html": "html", ".htm": "html", ".csv": "csv", ".json": "json", ".parquet": "parquet",
}  # fmt: skip


@click.command()
@selection
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="A metric; repeat for more. Without it: each task's first one.",
)
@click.option(
    "--interval",
    type=click.Choice(["se", "t", "bca"]),
    default="se",
    show_default=True,
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
    help="Also print paired differences to the baseline, with intervals and p.",
)
@click.option(
    "--test",
    type=click.Choice(["t", "wilcoxon"]),
    default="t",
    show_default=True,
    help="How paired differences are tested.",
)
@click.option(
    "--ranks", is_flag=True, help="Also print mean ranks across tasks, and which of them differ."
)
@click.option(
    "--costs/--no-costs", default=True, help="With what a run takes, and what tuning took."
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "markdown", "latex", "html", "csv", "json", "parquet"]),
    metavar="FORMAT",
    help="table, markdown, latex, html, csv, json or parquet. Without it: what FILE ends in, or a table.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write there, whole or not at all.",
)
@json_option
def compare(
    chosen: Selection,
    metrics: Sequence[str],
    interval: str,
    baseline: str | None,
    differences: bool,
    test: Any,
    ranks: bool,
    costs: bool,
    format_: Format | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Methods by tasks: means over seeds, what failed, and which are not told apart from the best.

    Only what was scored alike stands in one column; other runs have a table of their own, which says what differs. Training
    settings label the rows. The best of a column, and what a paired test does not tell apart from it, is bold.

    \b
    Examples:
      bench compare -t 'gaussian-*'
      bench compare --study smoke --ranks
      bench compare --metric sigma_sq_error --baseline vb --differences
      bench compare --interval t -o table.tex
    """  # fmt: skip
    from harness.analysis.grids import Style
    from harness.analysis.tables import Options

    options = Options(tuple(metrics), "bca" if interval == "bca" else "t", test, baseline)
    style = Style(interval != "se", differences or baseline is not None, costs)
    written = "json" if as_json else chosen_format(format_, output)
    if ranks and written in ("csv", "parquet"):
        raise UsageError(
            f"{written} holds one record an entry, and no ranks. Leave --ranks out, or write json."
        )
    if ranks and len(metrics) > 1:
        raise UsageError(
            "Ranks are of one metric: two of a task are not two tasks. Give --metric once."
        )
    with opened("compare") as store:
        sample = drawn(store, chosen)
        if costs or written in ("csv", "json", "parquet"):
            with_tuning(Workspace.current(), sample)
        tables = made(sample, options)
        if as_json and output is None:
            print_json(_records(tables, sample, ranks))
        elif written == "table" and output is None:
            show(_grids(tables, style, ranks))
            say(
                f"Next: {_example(tables[0])}, or bench why CELL with a cell of bench compare --json",
                err=True,
            )
        else:
            write_out(_rendered(tables, sample, written, style, ranks), output)


def made(sample: SelectedRuns, options: Options) -> list[Table]:
    """The tables of a sample.

    Raises:
        UsageError: none of the runs has the metric.
    """
    from harness.analysis.tables import compare as compared

    tables = compared(sample, options)
    if not tables:
        raise UsageError(
            f"None of these runs has the metric '{', '.join(options.metrics)}'. What a run has: bench show KEY"
        )
    return tables


def _example(table: Table) -> str:
    """The command that explains a number of the table."""
    line = table.lines[0]
    column = next(
        column
        for column, entry in zip(table.columns, line.entries, strict=True)
        if entry is not None
    )
    return shlex.join(["bench", "why", "-m", line.row.method, "-t", column])


def chosen_format(format_: Format | None, output: Path | None) -> Format:
    """The format asked for, or what the file's name ends in."""
    if format_ is not None:
        if format_ == "parquet" and output is None:
            raise UsageError("Parquet is no text. Say which file to write: -o FILE.parquet.")
        return format_
    if output is None:
        return "table"
    if output.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"What shall {output.name} be? Give it an ending ({', '.join(SUFFIXES)}), or say --format."
        )
    return SUFFIXES[output.suffix.lower()]


def _grids(tables: Sequence[Table], style: Style, ranks: bool) -> list[Grid]:
    from harness.analysis.grids import rank_grid, table_grids

    found = [grid for table in tables for grid in table_grids(table, style)]
    return [*found, rank_grid(_ranking(tables))] if ranks else found


def _ranking(tables: Sequence[Table]) -> Ranking:
    from harness.analysis.ranks import across

    if not any(table.info.better for table in tables):
        raise UsageError(
            f"'{tables[0].metric}' has no better end: it explains, and does not rank. Give another --metric."
        )
    ranking = across(tables)
    if ranking is None:
        raise UsageError(
            "No two rows stand in every column: there is nothing to rank. Pick fewer with -t, --protocol or --study."
        )
    return ranking


def _records(tables: Sequence[Table], sample: SelectedRuns, ranks: bool) -> list[dict[str, Any]]:
    from harness.analysis.records import records

    return records(tables, sample) + (
        [{"ranking": ranking_record(_ranking(tables))}] if ranks else []
    )


def ranking_record(ranking: Ranking) -> dict[str, Any]:
    """A ranking as JSON."""
    plain = {
        name: None if isinstance(value, float) and value != value else value
        for name, value in vars(ranking).items()
    }
    return plain | {"cliques": ranking.cliques}


def _rendered(
    tables: Sequence[Table], sample: SelectedRuns, chosen: Format, style: Style, ranks: bool
) -> bytes:
    """What is written, in every format."""
    from harness.analysis import formats
    from harness.analysis import records as written

    if chosen == "json":
        return (
            json.dumps(
                {
                    "schema_version": written.SCHEMA_VERSION,
                    "records": _records(tables, sample, ranks),
                },
                indent=1,
            )
            + "\n"
        ).encode()
    if chosen == "csv":
        return written.csv_text(written.records(tables, sample)).encode()
    if chosen == "parquet":
        return written.parquet_bytes(written.records(tables, sample))
    found = _grids(tables, style, ranks)
    if chosen == "table":
        return plain_text(found).encode()
    return {"markdown": formats.markdown, "latex": formats.latex, "html": formats.html}[chosen](
        found
    ).encode()
