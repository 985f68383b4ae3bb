"""`bench export` and `bench import`: results out of a workspace, and into another one."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from harness.cli._options import console, json_option, open_store, plural, print_json
from harness.errors import UnknownName, UsageError
from harness.workspace import Workspace, redact

if TYPE_CHECKING:
    from harness.store import Adoption, Result, ResultStore, RunRow

Item = TypeVar("Item")

NOT_ALL_IN = 3
WORDS = {
    "added": "added",
    "replaced an unfinished run": "took the place of an unfinished run",
    "same": "there already",
    "conflict": "in conflict",
    "held": "held by a process at work",
}
DIFFERENCES = 3  # of a run that are named in words


@click.command()
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--bundle", type=click.Path(path_type=Path), metavar="FILE", help="The file to write; there must be none of that name.")
@click.option("-m", "--method", "methods", multiple=True, metavar="METHOD", help="Of this method only. Repeat for more.")
@click.option("-t", "--task", "tasks", multiple=True, metavar="TASK", help="Of this task only: gaussian-400. Repeat for more.")
@json_option
def export(keys: Sequence[str], bundle: Path | None, methods: Sequence[str], tasks: Sequence[str], as_json: bool) -> None:
    """Write finished runs into one file, for `bench import` in another workspace.

    A bundle holds their specs, metrics, curves, history, plans, environments, last checkpoints and pictures. The same runs
    give the same file, to the byte. A run is named by its key or the first digits of it; without names all are written.

    \b
    Example:
      bench export --bundle results.bench -t gaussian-25
    """
    if bundle is None:
        raise UsageError("Say which file to write: bench export --bundle FILE.")
    workspace = Workspace.current()
    store = open_store(workspace)
    if store is None:
        raise UsageError("There are no runs here to export. Make one: bench run -m vb -t gaussian-25 --protocol smoke")
    from harness.bundle import write

    lines: list[dict[str, Any]] = []
    count = incomplete = 0
    with store:
        rows = _named(store, keys) if keys else _pages(store)
        total = None if methods or tasks else len(keys) or None
        for key, missing in _watched(write(bundle, workspace.home, _results(store, rows, methods, tasks)), total, "Writing"):
            count, incomplete = count + 1, incomplete + bool(missing)
            if as_json:
                lines.append({"key": key, "outcome": "exported", "missing": missing})
    print_json(lines)
    if not as_json:
        click.echo(f"Wrote {plural(count, 'run')} to {bundle} ({bundle.stat().st_size:,} bytes).")
    if incomplete:
        click.echo(f"{plural(incomplete, 'run')} went without files that are missing or damaged here. See: bench doctor.", err=True)


def _named(store: ResultStore, prefixes: Sequence[str]) -> Iterator[list[RunRow]]:
    """The finished runs of these keys, sorted by key."""
    from harness.spec import TERMINAL

    rows: dict[str, RunRow] = {}
    for prefix in prefixes:
        found = store.find(prefix)
        if len(found) != 1:
            raise UnknownName("run of that key alone" if found else "run", prefix, [row.key for row in found[:10]], "bench list runs")
        if found[0].status not in TERMINAL:
            raise UsageError(f"Run {found[0].key} is {found[0].status}. Only finished runs can be exported.")
        rows[found[0].key] = found[0]
    yield [row for _, row in sorted(rows.items())]


def _pages(store: ResultStore) -> Iterator[list[RunRow]]:
    """All finished runs, sorted by key, some at a time."""
    after = ""
    while page := store.finished(after):
        yield page
        after = page[-1].key


def _results(store: ResultStore, pages: Iterable[list[RunRow]], methods: Sequence[str], tasks: Sequence[str]) -> Iterator[Result]:
    from harness.registry import method_and_variant

    wanted = [method_and_variant(method) for method in methods]
    for page in pages:
        fitting = [row.key for row in page if _is_of(row, wanted) and (not tasks or row.task_label in tasks)]
        withdrawn = store.errata.reasons(fitting)
        if withdrawn:
            click.echo(f"{plural(len(withdrawn), 'withdrawn run')} left out.", err=True)
        yield from store.results([key for key in fitting if key not in withdrawn])


def _is_of(row: RunRow, wanted: Sequence[tuple[str, dict[str, Any]]]) -> bool:
    own = row.spec["method_fields"].items()
    return not wanted or any(row.method == name and fields.items() <= own for name, fields in wanted)


def _watched(items: Iterable[Item], total: int | None, doing: str) -> Iterator[Item]:
    """The items, with a bar on a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.progress import track

    yield from track(items, doing, total=total, console=console(stderr=True), transient=True)


@click.command(name="import")
@click.argument("bundle", type=click.Path(path_type=Path), metavar="FILE")
@json_option
@click.pass_context
def import_(ctx: click.Context, bundle: Path, as_json: bool) -> None:
    """Take the runs of a bundle into this workspace.

    The bundle is checked whole before anything is written. Runs that are missing here are added, and unfinished ones that
    nobody is working on take the bundle's result. A finished run is never overwritten: with the same numbers it is left as it
    is, with others it is a conflict, and is reported. Repeating the command goes on after a crash. Exit status: 0 all are in,
    2 not a bundle, 3 some are in conflict, or held by a process at work.

    \b
    Example:
      bench import results.bench
    """
    from harness.bundle import opened, read_in
    from harness.store import ResultStore

    workspace = Workspace.current()
    counts: Counter[str] = Counter()
    kept_out: list[Adoption] = []
    here: list[str] = []
    with opened(bundle) as source:
        for _ in _watched(source.check(), source.count, "Checking"):
            pass
        workspace.prepare()
        with ResultStore.open(workspace.database_url) as store:
            for adoption in _watched(read_in(workspace, store, source), source.count, "Importing"):
                counts[adoption.what] += 1
                if adoption.what in ("conflict", "held"):
                    kept_out.append(adoption)
                else:
                    here.append(adoption.key)
                if as_json:
                    print_json([{"key": adoption.key, "outcome": adoption.what, "why": adoption.why}])
            _mirror(workspace, store, here)
    if not as_json:
        _print(counts, kept_out)
    ctx.exit(NOT_ALL_IN if kept_out else 0)


def _print(counts: Counter[str], kept_out: Sequence[Adoption]) -> None:
    for adoption in kept_out:
        named = "; ".join(adoption.why[:DIFFERENCES])
        more = len(adoption.why) - DIFFERENCES
        click.echo(f"{adoption.what}: run {adoption.key}: {named}{f'; and {more} more' if more > 0 else ''}")
    parts = ", ".join(f"{counts[what]:,} {words}" for what, words in WORDS.items() if counts[what])
    click.echo(f"{plural(counts.total(), 'run')}: {parts or 'nothing to take in'}.")
    if counts["conflict"]:
        click.echo("What was here is kept. To take the other result instead: bench rm KEY, and import again.", err=True)


def _mirror(workspace: Workspace, store: ResultStore, keys: list[str]) -> None:
    """Show the runs in MLflow, where it answers."""
    behind = [row.key for row in store.unmirrored(keys)] if keys else []
    if not behind:
        return
    from harness.tracking import Mirror

    with Mirror.start(workspace, behind) as mirror:
        left = mirror.finish()
    if left:
        click.echo(
            f"MLflow at {redact(workspace.tracking_uri)} does not show {len(left)} of these runs yet "
            f"({(mirror.error or 'no answer')[:100]}). Nothing is lost: bench doctor --repair mirrors them.",
            err=True,
        )
