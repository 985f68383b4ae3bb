"""`bench import`: results of another workspace into this one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.base.errors import one_line
from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.cli._execute import mirror_runs
from harness.cli._options import json_option
from harness.cli._output import print_json, say
from harness.cli._render import track

if TYPE_CHECKING:
    from harness.store import Adoption

NOT_ALL_IN = 3
WORDS = {
    "added": "added",
    "replaced an unfinished run": "took the place of an unfinished run",
    "same": "there already",
    "conflict": "in conflict",
    "held": "held by a process at work",
}


@click.command(name="import")
@click.argument("bundle", type=click.Path(path_type=Path), metavar="FILE")
@json_option
@click.pass_context
def transfer(ctx: click.Context, bundle: Path, as_json: bool) -> None:
    """Take the runs of a bundle into this workspace.

    The bundle is checked whole before anything is written, and nothing in it is run. Runs that are
    missing here are added, and unfinished ones that nobody is working on take the bundle's result.
    A finished run is never overwritten: other numbers are a conflict, and reported.

    \b
    Example:
      bench import results.bench
    """
    from harness.execution.bundle import import_bundle, open_bundle
    from harness.store import ResultStore

    workspace = Workspace.current()
    counts: Counter[str] = Counter()
    kept_out: list[Adoption] = []
    here: list[str] = []
    with open_bundle(bundle) as source:
        for _ in track(source.check(), len(source), "Checking"):
            pass
        workspace.prepare()
        with ResultStore.open(workspace.database_url) as store:
            for adoption in track(
                import_bundle(workspace, store, source), len(source), "Importing"
            ):
                counts[adoption.what] += 1
                if adoption.what in ("conflict", "held"):
                    kept_out.append(adoption)
                else:
                    here.append(adoption.key)
                if as_json:
                    print_json(
                        [{"key": adoption.key, "outcome": adoption.what, "why": adoption.why}]
                    )
            if not as_json:
                _print(counts, kept_out)
            mirror_runs(workspace, store, here)
    ctx.exit(NOT_ALL_IN if kept_out else 0)


def _print(counts: Counter[str], kept_out: Sequence[Adoption]) -> None:
    for adoption in kept_out:
        say(one_line(f"{adoption.what}: run {adoption.key}: {'; '.join(adoption.why)}"))
    parts = ", ".join(f"{counts[what]:,} {words}" for what, words in WORDS.items() if counts[what])
    say(f"{plural(counts.total(), 'run')}: {parts or 'nothing to take in'}.")
    if counts["conflict"]:
        say(
            "What was here is kept. To take the other result instead: bench rm KEY, and import "
            "again.",
            err=True,
        )
