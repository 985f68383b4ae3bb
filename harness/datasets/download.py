"""Data files from public mirrors: each one whole and right, or not there at all."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError

import harness
from harness.base.errors import BenchError, DataError, InvalidSetting, WorkspaceError, one_line
from harness.base.files import atomic_file, make_folder, remove_partial_files
from harness.base.locks import file_lock
from harness.base.workspace import redact
from harness.datasets.files import BLOCK, Checked, DataFile, data_set, fault_of, places, verify

TIMEOUT_S = 20.0  # for the connection, and for each read
ADDRESS = re.compile(r"https?://[\w.-]+(:[1-9]\d*)?(/[\w.~%/=+-]*)?", re.ASCII)

# The file's name, the address, the bytes so far, and how many there will be where that is known.
Progress = Callable[[str, str, int, int | None], None]


class FetchFailed(BenchError):
    """No mirror gave a file."""


class _Fault(Exception):
    """Why a mirror is given up."""


@dataclass(frozen=True)
class Fetched:
    """A file that is in its place now; `new` where it was not before."""

    path: Path
    new: bool


def fetch(
    name: str,
    folder: Path | None = None,
    mirrors: Sequence[str] | None = None,
    force: bool = False,
    progress: Progress = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Fetched]:
    """Download the files of a data set that are missing, yielding each when it is in its place.

    Of several processes at once, one downloads and the others wait and find the files.

    Args:
        name: the data set.
        folder: the one that holds a folder of that name; None: the workspace's data folder.
        mirrors: addresses that serve the files as `NAME.gz`, tried in turn; None: the public ones.
        force: whether wrong files in that folder are replaced.
        progress: is called as bytes arrive.
        say: is called with a line about what else is worth knowing.

    Raises:
        UnknownName: there is no such data set.
        InvalidSetting: a mirror is not an address.
        DataError: a file that is there is wrong; nothing was downloaded.
        FetchFailed: no mirror gave a file.
        WorkspaceError: the folder cannot be written.
    """
    known = data_set(name)
    for mirror in mirrors or ():
        if not ADDRESS.fullmatch(mirror):
            raise InvalidSetting(
                f"'{redact(mirror)}' is not a mirror's address. It begins with https:// or "
                "http://, ends before the file's name, and has no user, query or fragment."
            )
    target = places(known, folder)[0]
    checked = list(verify(name, folder))
    if any(item.state != "right" for item in checked):
        with _alone_in(target, say):
            checked = list(verify(name, folder))
            wrong = [item.reason for item in checked if _is_replaced(item, target)]
            if wrong and not force:
                raise DataError(
                    f"{'; '.join(wrong)}. Nothing was downloaded. "
                    "To replace what is wrong, repeat the command with --force."
                )
            for item in checked:
                if item.state != "right":
                    path = _fetch(item, target, mirrors or known.mirrors, progress, say)
                    yield Fetched(path, True)
    yield from (
        Fetched(item.path, False) for item in checked if item.path and item.state == "right"
    )


def _is_replaced(item: Checked, folder: Path) -> bool:
    """Whether a wrong file gives way: those of other programs stay."""
    return item.state == "wrong" and item.path is not None and item.path.parent == folder


@contextmanager
def _alone_in(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes that fetch out of a folder."""
    lock = folder / ".fetch.lock"
    try:
        make_folder(folder)
        with ExitStack() as stack:
            if not stack.enter_context(file_lock(lock, wait=False)):
                say(f"Another process fetches into {folder}; waiting for it.")
                stack.enter_context(file_lock(lock, wait=True))
            stack.callback(lock.unlink, missing_ok=True)
            yield
    except OSError as err:
        raise WorkspaceError(
            f"Cannot write to {folder}: {err.strerror or err}. "
            "Free some space or choose another folder: --data DIR, or BENCH_DATA."
        ) from err


def _fetch(
    item: Checked,
    folder: Path,
    mirrors: Sequence[str],
    progress: Progress,
    say: Callable[[str], None],
) -> Path:
    """Bring one file from the first mirror that has it, in place of a wrong one."""
    file, faults = item.file, []
    path = folder / f"{file.name}.gz"
    remove_partial_files(path)  # of processes that were killed
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{path.name}"
        try:
            with atomic_file(path) as target:
                _download(url, target, file, progress)
        except _Fault as err:
            faults.append(one_line(f"{url} {err}"))
            if len(faults) < len(mirrors):
                say(f"{faults[-1]}. Trying the next mirror.")
            continue
        if item.path and item.path != path and _is_replaced(item, folder):
            item.path.unlink(missing_ok=True)
        return path
    raise FetchFailed(
        f"No mirror gives {file.name} of {file.data_set}: {'; '.join(faults)}. "
        f"Try again, name another mirror (bench data fetch {file.data_set} --mirror URL), or put "
        f"a copy into {folder}."
    )


def _download(url: str, target: BinaryIO, file: DataFile, progress: Progress) -> None:
    n_bytes = 0
    for block, total in _blocks(url, file):
        target.write(block)
        n_bytes += len(block)
        progress(file.name, url, n_bytes, total)
    target.flush()
    if fault := fault_of(Path(target.name), file):
        raise _Fault(f"serves a file that {fault}")


def _blocks(url: str, file: DataFile) -> Iterator[tuple[bytes, int | None]]:
    """What an address serves, block by block, with its length where that is known."""
    # What gzip makes of incompressible bytes is within it.
    limit = file.size + file.size // 1000 + 1024
    request = urllib.request.Request(url, headers={"User-Agent": f"bench/{harness.__version__}"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            total, n_bytes = response.length, 0
            while block := response.read1(BLOCK):
                n_bytes += len(block)
                if n_bytes > limit:
                    raise _Fault(f"serves more than {limit:,} bytes, the most that can be right")
                yield block, total
    except (OSError, HTTPException, ValueError) as err:
        if isinstance(err, HTTPError):
            err.close()
        raise _Fault(f"fails: {err}") from err
