"""What several commands share: options, the workspace, printing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from harness.base.errors import harmless
from harness.base.text import number as number
from harness.base.workspace import Workspace
from harness.cli._streams import results

if TYPE_CHECKING:
    from rich.console import Console

    from harness.store import ResultStore

Command = TypeVar("Command", bound=Callable[..., Any])
Item = TypeVar("Item")


def json_option(command: Command) -> Command:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")(
        command
    )


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
    from harness.store.fresh import is_missing

    url = workspace.database_url
    return None if is_missing(url) else ResultStore.open(url)


def say(text: object, err: bool = False, nl: bool = True) -> None:
    """Print a text, from whomever its names and reasons come: it cannot steer a terminal."""
    click.echo(harmless(str(text)), None if err else results(), err=err, nl=nl)


def print_json(values: Iterable[Any]) -> None:
    """One JSON object a line on stdout."""
    for value in values:
        text = json.dumps(value, ensure_ascii=False)
        click.echo(text if text.isprintable() else json.dumps(value), results())


def console(stderr: bool = False) -> Console:
    """A rich console; wide where nobody's screen is the limit, and plain where it is not a
    terminal.
    """
    from harness.cli._terminal import Harmless

    stream = sys.stderr if stderr else results()
    width = None if stream.isatty() else 160
    return Harmless(
        stderr=stderr, file=None if stderr else stream, width=width, soft_wrap=not stream.isatty()
    )


def write_out(content: bytes, output: Path | None) -> None:
    """Write a file whole or not at all, or print where none is named.

    Raises:
        UsageError: it cannot be written.
    """
    with out_file(output) as file:
        file.write(content)


@contextmanager
def out_file(output: Path | None) -> Iterator[BinaryIO]:
    """A file to fill piece by piece, there whole when the block has ended well or not at all;
    stdout where none, or it, is named.

    Raises:
        UsageError: it cannot be written.
    """
    if output is None or str(output) in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        results().flush()
        yield results().buffer
        results().buffer.flush()
        return
    from harness.base.errors import UsageError
    from harness.base.files import atomic_file

    special = output.exists() and not output.is_file()  # a pipe or a device is not replaced
    try:
        with output.open("wb") if special else atomic_file(output) as file:
            yield file
            size = "" if special else f" ({file.tell():,} bytes)"
    except OSError as err:
        raise UsageError(f"Cannot write {output}: {err.strerror or err}.") from err
    say(f"Wrote {output}{size}.", err=True)


def watched(items: Iterable[Item], total: int | None, doing: str) -> Iterator[Item]:
    """The items, with a bar on a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.progress import BarColumn, TimeRemainingColumn

    from harness.cli._terminal import bars

    with bars(BarColumn(), TimeRemainingColumn(), transient=True) as shown:
        yield from shown.track(items, total, description=doing)


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
