"""What several commands share: options, the workspace, printing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from harness.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console

    from harness.store import ResultStore

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")(command)


def matrix_options(command: Command) -> Command:
    """What picks runs: methods, tasks, seeds, protocol, settings."""
    options = [
        click.option(
            "-m", "--method", "methods", multiple=True, required=True, metavar="METHOD",
            help="A method: hvae, hvae-untempered, 'hvae[n_leapfrog=1,10][tempering=fixed,none]' or ./mine.py:Mine. Repeat to cross.",
        ),
        click.option("-t", "--task", "tasks", multiple=True, required=True, metavar="TASK", help="A task: gaussian-400. Repeat to cross."),
        click.option("--seeds", default="0", show_default=True, metavar="SEEDS", help="Replicates: 0-9,12. Each seed is a run."),
        click.option("--protocol", metavar="NAME", help="How runs train and are scored; each task has its own. See: bench show TASK."),
        click.option(
            "--set", "sets", multiple=True, metavar="FIELD=VALUE",
            help="Set a field: lr=1e-3, method.n_leapfrog=5, task.n_data=1000. Repeat for more.",
        ),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def open_store(workspace: Workspace) -> ResultStore | None:
    """The result database for reading; None where the workspace has none yet."""
    from harness.store import ResultStore

    url = workspace.database_url
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return None
    return ResultStore.open(url)


def print_json(values: Iterable[Any]) -> None:
    """One JSON object a line on stdout."""
    for value in values:
        click.echo(json.dumps(value, ensure_ascii=False))


def console(stderr: bool = False) -> Console:
    """A rich console; wide where nobody's screen is the limit, and plain where it is not a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 160, highlight=False, soft_wrap=not stream.isatty())


def number(value: float, error: float | None = None) -> str:
    """A number to four digits, with its standard error to two.

    >>> number(0.020312), number(-123456.789, 0.034)
    ('0.02031', '-123456.789 ± 0.034')
    """
    import math

    if not math.isfinite(value):
        return str(value)
    if error and math.isfinite(error):
        digits = max(0, min(6, 1 - math.floor(math.log10(error))))
        return f"{value:.{digits}f} ± {error:.{digits}f}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "run"), plural(2, "run")
    ('1 run', '2 runs')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def duration(seconds: float) -> str:
    """Seconds as one would say them.

    >>> duration(4.2), duration(200), duration(9000)
    ('4 s', '3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
