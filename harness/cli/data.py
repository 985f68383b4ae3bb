"""`bench data`: the files of data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

from harness.cli._options import json_option, many
from harness.cli._output import print_json, say
from harness.cli._render import Progress

FAULTY = 3

data_option = click.option(
    "--data",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The folder that holds a folder for each data set. Without it: BENCH_DATA, or data/ in "
    "the workspace.",
)


@click.group()
def data() -> None:
    """Fetch, verify or list the files of data sets.

    \b
    Example:
      bench data list
    """


def _print(record: dict[str, Any], line: str, as_json: bool) -> None:
    print_json([record]) if as_json else say(line)


@data.command()
@click.argument("name")
@data_option
@many(
    *("--mirror", "mirrors"),
    metavar="URL",
    help_text="Where the files are served. Repeat for more, tried in turn.",
)
@click.option("--force", is_flag=True, help="Replace files whose content is wrong.")
@json_option
def fetch(
    name: str, folder: Path | None, mirrors: Sequence[str], force: bool, as_json: bool
) -> None:
    """Download the missing files of a data set: mnist or fashion.

    The sha256 of every file is compared. Files that are already there and right stay as they are.

    \b
    Example:
      bench data fetch mnist
    """
    from harness.datasets.download import fetch as fetch_files

    with _Downloads() as downloads:
        for file in fetch_files(name, folder, mirrors, force, downloads.advance, downloads.say):
            record = {"data_set": name, "path": str(file.path), "fetched": file.new}
            _print(record, f"{'fetched' if file.new else 'present':<8} {file.path}", as_json)


@data.command()
@click.argument("name", required=False)
@data_option
@json_option
@click.pass_context
def verify(ctx: click.Context, name: str | None, folder: Path | None, as_json: bool) -> None:
    """Compare the sha256 of every file of a data set, or of all that are here.

    \b
    Example:
      bench data verify mnist
    """
    from harness.datasets.files import KNOWN
    from harness.datasets.files import verify as verify_files

    checks = []
    for data_set in [name] if name else KNOWN:
        for check in verify_files(data_set, folder):
            checks.append(check)
            record = {
                "data_set": check.file.data_set,
                "file": check.file.name,
                "state": check.state,
                "path": str(check.path) if check.path else None,
                "reason": check.reason or None,
                "sha256": check.file.sha256,
                "needed": check.file.needed,
            }
            _print(record, f"{check.state:<8} {check.reason or check.path}", as_json)
    present = {check.file.data_set for check in checks if check.state != "missing"}
    expected = {name} if name else present or set(KNOWN)
    wrong = {check.file.data_set for check in checks if check.state == "wrong"}
    missing = {c.file.data_set for c in checks if c.state == "missing" and c.file.needed}
    faulty = sorted(wrong | (missing & expected))
    for data_set in faulty:
        where = f" --data {folder}" if folder else ""
        force = " --force" if data_set in wrong else ""
        say(f"To repair it: bench data fetch {data_set}{where}{force}", err=True)
    ctx.exit(FAULTY if faulty else 0)


@data.command(name="list")
@data_option
@json_option
def listing(folder: Path | None, as_json: bool) -> None:
    """List the known data sets and where their files are. The content of files is not read.

    \b
    Example:
      bench data list
    """
    from harness.datasets.files import KNOWN, look, places

    for data_set in KNOWN.values():
        folders = places(data_set, folder)
        paths = [path for file in data_set.files if (path := look(file, folders))]
        record = {
            "data_set": data_set.name,
            "title": data_set.title,
            "files": len(data_set.files),
            "found": [str(path) for path in paths],
            "looked_in": [str(path) for path in folders],
            "mirrors": data_set.mirrors,
        }
        state = f"not here; to get it: bench data fetch {data_set.name}"
        if paths:
            parents = " and ".join(dict.fromkeys(str(path.parent) for path in paths))
            state = f"{len(paths)} of {len(data_set.files)} files in {parents}"
        _print(record, f"{data_set.name:<8} {data_set.title}: {state}", as_json)


class _Downloads(Progress):
    """A bar a file, with the bytes, the speed and the time left; or a line for each address."""

    def __init__(self) -> None:
        super().__init__(
            BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
        )
        self._current = ("", "")

    def advance(self, name: str, url: str, n_bytes: int, total: int | None) -> None:
        """Show how many bytes of a file have come from an address."""
        if self._current != (name, url):
            self._current = (name, url)
            size = f", {total:,} bytes" if total else ""
            self.begin(name, total, line=f"{name} from {url}{size}")
        self.update(n_bytes)
