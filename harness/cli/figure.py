"""`bench figure`: figures for papers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.base.errors import UsageError
from harness.base.spec import settings_text
from harness.cli._output import say, write_out
from harness.cli._selection import open_results, select_finished, selection_options

if TYPE_CHECKING:
    from harness.analysis.selection import RunFilter

KINDS = ("scores", "gap", "dimension", "curves")
SUFFIXES = {".pdf": "pdf", ".svg": "svg", ".png": "png"}


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write: .pdf, .svg or .png.",
)
@selection_options
@click.option("--metric", metavar="NAME", help="Without it: each task's first one.")
@click.option(
    "--width",
    type=click.Choice(["single", "double"]),
    default="single",
    show_default=True,
    help="One column of a page, or both.",
)
def figure(kind: str, output: Path, selection: RunFilter, metric: str | None, width: str) -> None:
    """A figure of stored runs, for a paper.

    scores: the mean of each method with its 95 % interval, a panel a task. gap: gaps to the exact
    log-evidence, task by task. dimension: a metric against the size of a task. curves: the gap of
    the training bound, or the bound where the truth is not known; medians over seeds with the
    middle half. Exact maximum-likelihood fits are dashed.

    \b
    Examples:
      bench figure scores -t gaussian-25 -o scores.pdf
      bench figure dimension --metric sigma_sq_error -t 'gaussian-*' --width double -o size.pdf
    """
    from harness.analysis.selection import shared_settings
    from harness.report import paper
    from harness.report.view import View, basis

    format_ = SUFFIXES.get(output.suffix.lower())
    if format_ is None:
        raise UsageError(
            f"Cannot tell the format of '{output.name}'. Give it an ending: {', '.join(SUFFIXES)}."
        )
    with open_results("draw") as store:
        view = View(select_finished(store, selection))
        content = paper.file(kind, view, metric, width, format_)
    write_out(content, output)
    protocols = ", ".join(dict.fromkeys(group.row.protocol for group in view.groups))
    shared = settings_text(dict(shared_settings({group.row for group in view.groups})))
    say(
        f"For the caption: {basis(view.groups)} Protocol {protocols} {shared}".strip(),
        err=True,
    )
