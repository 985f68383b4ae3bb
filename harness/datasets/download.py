"""Data files from public mirrors: each one whole and right, or not there at all."""

from __future__ import annotations

import fcntl
import os
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from uuid import uuid4

import harness
from harness.base.errors import BenchError, DataError, InvalidSetting, WorkspaceError
from harness.base.files import make_folder, sync_folder
from harness.base.workspace import redact
from harness.datasets.files import (
    BLOCK,
    GZIP,
    Checked,
    DataFile,
    data_set,
    fault_of,
    places,
    verify,
)

TIMEOUT_S = 20.0  # for the connection, and for each read
STALL_S = 30.0  # how long a mirror may be slower than LEAST_RATE
LEAST_RATE = 1024  # bytes a second
LOCK = ".fetch.lock"

# The file's name, the address, the bytes so far, and how many there will be where that is known.
Progress = Callable[[str, str, int, int | None], None]


class FetchFailed(BenchError):
    """No mirror gave a file."""


class _Fault(Exception):
    """Why a mirror is given up, in one line: a mirror may answer anything."""

    def __init__(self, text: str) -> None:
        super().__init__(
            "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
        )


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
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Iterator[Fetched]:
    """Download the files of a data set that are missing, one after the other; right ones stay.

    Of several processes that do so at once, one downloads and the others wait and find the files.

    Args:
        name: the data set.
        folder: the one that holds a folder of that name; the workspace's data folder where none is
            given.
        mirrors: addresses that serve the files as `NAME.gz`, tried in turn; the public ones where
            none are given.
        force: whether wrong files in that folder are replaced.
        progress: is called as bytes arrive.
        say: is called with a line about what else is worth knowing.

    Yields:
        Each file, when it is in its place.

    Raises:
        UnknownName: there is no such data set.
        InvalidSetting: a mirror is not an address.
        DataError: a file that is there is wrong; nothing was downloaded.
        FetchFailed: no mirror gave a file.
        WorkspaceError: the folder cannot be written.
    """
    registered = data_set(name)
    addresses = _addresses(mirrors or registered.mirrors)
    say = say or (lambda text: None)
    target = places(registered, folder)[0]
    checked = list(verify(name, folder))
    if any(item.state != "right" for item in checked):
        with _alone_in(target, say):
            checked = list(verify(name, folder))
            _refuse_wrong(
                [
                    item
                    for item in checked
                    if item.state == "wrong" and item.path and item.path.parent == target
                ],
                force,
            )
            for item in checked:
                if item.state != "right":
                    yield Fetched(_fetch(item, target, addresses, progress, say), True)
    yield from (
        Fetched(item.path, False) for item in checked if item.path and item.state == "right"
    )


def _addresses(mirrors: Sequence[str]) -> list[str]:
    for mirror in mirrors:
        try:
            printed_mirror, valid = redact(mirror), _is_address(mirror)
        except ValueError:
            printed_mirror, valid = mirror, False
        if not valid:
            allowed = (
                "It begins with https:// or http://, ends before the file's name, and has no "
                "user, query or fragment."
            )
            raise InvalidSetting(f"'{printed_mirror}' is not a mirror's address. {allowed}")
    return [mirror.rstrip("/") for mirror in mirrors]


def _is_address(text: str) -> bool:
    """Whether a file's name can be put behind it; a ValueError where its parts cannot even be told
    apart.
    """
    url_parts = urlsplit(text)
    plain = text.isascii() and text.isprintable() and " " not in text
    whole = (
        url_parts.scheme in ("http", "https") and bool(url_parts.hostname) and url_parts.port != 0
    )
    return (
        plain and whole and not (url_parts.query or url_parts.fragment or "@" in url_parts.netloc)
    )


def _refuse_wrong(wrong: list[Checked], force: bool) -> None:
    if wrong and not force:
        reasons = "; ".join(item.reason for item in wrong)
        raise DataError(
            f"{reasons}. Nothing was downloaded. To replace what is wrong, repeat the command with "
            "--force."
        )


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        remedy = "Free some space or choose another folder: --data DIR, or BENCH_DATA."
        raise WorkspaceError(f"Cannot write to {folder}: {err.strerror or err}. {remedy}") from err


@contextmanager
def _alone_in(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes that fetch out of a folder; where the file system has no locks, they are
    let in.
    """
    with _writing_to(folder):
        make_folder(folder)
        descriptor, locked = _lock(folder / LOCK, say)
    try:
        with _writing_to(folder):
            # of processes that were killed
            for leftover in folder.glob(".*.part") if locked else ():
                leftover.unlink(missing_ok=True)
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink(
                missing_ok=True
            )  # before it is given back: who waits for it sees that and makes another
        os.close(descriptor)


def _lock(path: Path, say: Callable[[str], None]) -> tuple[int, bool]:
    """An open lock file, and whether it is locked."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locked = _take(
                descriptor,
                lambda: say(f"Another process fetches into {path.parent}; waiting for it."),
            )
            if not locked or _is_at(descriptor, path):
                return descriptor, locked
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _take(descriptor: int, busy: Callable[[], None]) -> bool:
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _fetch(
    item: Checked,
    folder: Path,
    mirrors: list[str],
    progress: Progress | None,
    say: Callable[[str], None],
) -> Path:
    """Bring one file from the first mirror that has it; a wrong one of another name is removed
    then.
    """
    file, faults = item.file, []
    partial_file = folder / f".{file.name}.{uuid4().hex}.part"
    for mirror in mirrors:
        url = f"{mirror}/{file.name}.gz"
        try:
            _download(url, partial_file, file, progress)
            with _writing_to(folder):
                path = _publish(partial_file, folder, file)
                if (
                    item.path is not None
                    and item.path.parent == folder
                    and item.path != path
                    and not item.path.is_dir()
                ):
                    item.path.unlink(missing_ok=True)
            return path
        except _Fault as err:
            faults.append(f"{url} {err}")
            if len(faults) < len(mirrors):
                say(f"{faults[-1]}. Trying the next mirror.")
        finally:
            with suppress(OSError):
                partial_file.unlink(missing_ok=True)
    raise FetchFailed(
        f"No mirror gives {file.name} of {file.data_set}: {'; '.join(faults)}. "
        "Try again, name another mirror "
        f"(bench data fetch {file.data_set} --mirror URL), or put a copy into {folder}."
    )


def _download(url: str, partial_file: Path, file: DataFile, progress: Progress | None) -> None:
    """Write what an address serves to `part`, to the disk, and check it."""
    got = 0
    with _writing_to(partial_file.parent), partial_file.open("wb") as target:
        for block, total in _blocks(url, file):
            target.write(block)
            got += len(block)
            if progress is not None:
                progress(file.name, url, got, total)
        target.flush()
        os.fsync(target.fileno())
    if fault := fault_of(partial_file, file):
        raise _Fault(f"serves a file that {fault}")


def _publish(partial_file: Path, folder: Path, file: DataFile) -> Path:
    with partial_file.open("rb") as content:
        zipped = content.read(2) == GZIP
    path = folder / (f"{file.name}.gz" if zipped else file.name)
    partial_file.replace(path)
    sync_folder(folder)
    return path


def _blocks(url: str, file: DataFile) -> Iterator[tuple[bytes, int | None]]:
    """What an address serves, block by block, with its length where that is known."""
    limit = (
        file.size + file.size // 1000 + 1024
    )  # what gzip makes of incompressible bytes is within it
    request = urllib.request.Request(url, headers={"User-Agent": f"bench/{harness.__version__}"})
    try:
        with _opener().open(request, timeout=TIMEOUT_S) as response:
            total, got = response.length, 0
            if total is not None and total > limit:
                raise _Fault(
                    f"serves {total:,} bytes, where {limit:,} are the most that can be right"
                )
            for block in _steadily(response):
                got += len(block)
                if got > limit:
                    raise _Fault(f"serves more than {limit:,} bytes, the most that can be right")
                yield block, total
            if total is not None and got < total:
                raise _Fault(f"broke off after {got:,} of {total:,} bytes")
    except HTTPError as err:
        err.close()
        raise _Fault(f"answers {err.code} {err.reason}") from err
    except (OSError, HTTPException, ValueError) as err:
        raise _Fault(_described(err)) from err


def _steadily(response: HTTPResponse) -> Iterator[bytes]:
    """The blocks of a response as they come, as long as they keep coming."""
    since, got = time.monotonic(), 0
    while block := response.read1(BLOCK):
        yield block
        got += len(block)
        took = time.monotonic() - since
        if took >= STALL_S:
            if got < took * LEAST_RATE:
                raise _Fault(f"stalls: {got:,} bytes came in {took:.1f} s")
            since, got = time.monotonic(), 0


def _described(err: Exception) -> str:
    reason = err.reason if isinstance(err, URLError) else err
    if isinstance(reason, TimeoutError):
        return f"does not answer within {TIMEOUT_S:g} s"
    return f"fails: {getattr(reason, 'strerror', None) or reason or type(reason).__name__}"


def _opener() -> urllib.request.OpenerDirector:
    """What follows redirections, and speaks HTTP and nothing else."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener
