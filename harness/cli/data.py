"""`bench data`: the files of data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

from harness.cli._options import json_option
from harness.cli._output import print_json, say
from harness.cli._render import Progress

if TYPE_CHECKING:
    from harness.datasets.files import Checked

NOT_ALL_RIGHT = 3

data_option = click.option(
    "--data", "folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="The folder that holds a folder for each data set; BENCH_DATA, or data/ in the workspace, where none is given.",
)  # fmt: skip


@click.group()
def data() -> None:
    """Fetch, verify or list the files of data sets.

    \b
    Example:
      bench data list
    """


@data.command()
@click.argument("name")
@data_option
@click.option(
    "--mirror",
    "mirrors",
    multiple=True,
    metavar="URL",
    help="Where the files are served. Repeat for more, tried in turn.",
)
@click.option("--force", is_flag=True, help="Replace files that are there and wrong.")
@json_option
def fetch(
    name: str, folder: Path | None, mirrors: Sequence[str], force: bool, as_json: bool
) -> None:
    """Download what is missing of a data set: mnist or fashion.

    The sha256 of every file is compared. Files that are there and right stay as they are.

    \b
    Example:
      bench data fetch mnist
    """
    from harness.datasets.download import fetch as bring

    with _Downloads() as downloads:
        for fetched in bring(name, folder, mirrors, force, downloads.advance, downloads.say):
            if as_json:
                print_json([{"data_set": name, "path": str(fetched.path), "fetched": fetched.new}])
            else:
                say(f"{'fetched' if fetched.new else 'kept':<8} {fetched.path}")


@data.command()
@click.argument("name", required=False)
@data_option
@json_option
@click.pass_context
def verify(ctx: click.Context, name: str | None, folder: Path | None, as_json: bool) -> None:
    """Compare the sha256 of every file of a data set, or of all that are here.

    Exit status 3 when a file is wrong, or one that runs need is missing.

    \b
    Example:
      bench data verify mnist
    """
    from harness.datasets.files import KNOWN
    from harness.datasets.files import verify as check

    checked = []
    for known in [name] if name else KNOWN:
        for item in check(known, folder):
            checked.append(item)
            if as_json:
                print_json([_plain(item)])
            else:
                say(f"{item.state:<8} {item.reason or item.path}")
    here = {item.file.data_set for item in checked if item.state != "missing"}
    expected = {name} if name else here or KNOWN
    faulty = [
        item
        for item in checked
        if item.state == "wrong"
        or (item.state == "missing" and item.file.needed and item.file.data_set in expected)
    ]
    for known in dict.fromkeys(item.file.data_set for item in faulty):
        where = f" --data {folder}" if folder else ""
        force = (
            " --force"
            if any(item.state == "wrong" for item in faulty if item.file.data_set == known)
            else ""
        )
        say(f"To mend it: bench data fetch {known}{where}{force}", err=True)
    ctx.exit(NOT_ALL_RIGHT if faulty else 0)


def _plain(item: Checked) -> dict[str, Any]:
    return {
        "data_set": item.file.data_set, "file": item.file.name, "state": item.state,
        "path": str(item.path) if item.path else None, "reason": item.reason or None, "sha256": item.file.sha256,
        "needed": item.file.needed,
    }  # fmt: skip


@data.command(name="list")
@data_option
@json_option
def listing(folder: Path | None, as_json: bool) -> None:
    """Every data set that is known, and where its files were found. Their content is not read.

    \b
    Example:
      bench data list
    """
    from harness.datasets.files import KNOWN, look, places

    for known in KNOWN.values():
        folders = places(known, folder)
        found = [path for file in known.files if (path := look(file, folders))]
        if as_json:
            lines = {
                "data_set": known.name,
                "title": known.title,
                "files": len(known.files),
                "found": [str(path) for path in found],
            }
            print_json(
                [lines | {"looked_in": [str(place) for place in folders], "mirrors": known.mirrors}]
            )
            continue
        where = " and ".join(dict.fromkeys(str(path.parent) for path in found))
        state = (
            f"{len(found)} of {len(known.files)} files in {where}"
            if found
            else f"not here; to have it: bench data fetch {known.name}"
        )
        say(f"{known.name:<8} {known.title}: {state}")


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
