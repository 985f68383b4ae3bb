"""Data files of tasks: which there are, where they lie, and whether they are the right ones.

A file is known by the sha256 of its decompressed bytes, so any gzip wrapper will do, or none.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.base.errors import DataError, UnknownName
from harness.base.workspace import Workspace
from harness.datasets.catalogue import KNOWN, DataFile, DataSet

BLOCK = 2**20
GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Found:
    """A file in its place. Its time and size go along, so that equal values mean the same bytes."""

    path: Path
    expected: DataFile
    modified_ns: int
    stored_size: int


@dataclass(frozen=True)
class Checked:
    """What is to be said of a file of a data set; `path` is None where it is missing."""

    file: DataFile
    path: Path | None
    state: Literal["right", "wrong", "missing"]
    reason: str = ""


class DataStream:
    """The decompressed bytes of a file; more than it may have, or other ones, are a ValueError."""

    def __init__(self, raw: io.BufferedReader, expected: DataFile | None) -> None:
        self._source: io.BufferedIOBase = (
            gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == GZIP else raw
        )
        self._expected = expected
        self._seen = hashlib.sha256()
        self._size = 0

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end."""
        try:
            content = self._source.read(size)
        except EOFError as err:
            raise ValueError("is cut short: its compressed data have no end") from err
        except (gzip.BadGzipFile, zlib.error) as err:
            raise ValueError(f"is damaged: its compressed data cannot be read ({err})") from err
        self._size += len(content)
        if self._expected is not None:
            self._seen.update(content)
            if self._size > self._expected.size:
                raise ValueError(
                    f"is not {_title(self._expected)}: it has more than {self._expected.size:,} "
                    "bytes when decompressed"
                )
        return content

    def finish(self) -> None:
        """Where a file is expected, read what is left and compare the sha256."""
        expected = self._expected
        while expected is not None and self.read(BLOCK):
            pass
        sha256 = self._seen.hexdigest()
        if expected is None or sha256 == expected.sha256:
            return
        other = next(
            (
                file
                for registered in KNOWN.values()
                for file in registered.files
                if file.sha256 == sha256
            ),
            None,
        )
        if other is not None:
            raise ValueError(f"is not {_title(expected)}: it holds {_title(other)}")
        if self._size < expected.size:
            raise ValueError(
                f"is not {_title(expected)}: it has {self._size:,} bytes when decompressed, not "
                f"{expected.size:,}"
            )
        raise ValueError(
            f"is not {_title(expected)}: the sha256 of its decompressed bytes is {sha256[:12]}..., "
            f"not {expected.sha256[:12]}..."
        )


def _title(file: DataFile) -> str:
    return f"{file.name} of {file.data_set}"


def data_set(name: str) -> DataSet:
    """The data set called `name`.

    Raises:
        UnknownName: there is none.
    """
    if name not in KNOWN:
        raise UnknownName("data set", name, KNOWN, "bench data list")
    return KNOWN[name]


def places(registered: DataSet, folder: Path | None = None) -> list[Path]:
    """Where the files of a data set are looked for: below `folder`, or else below the workspace's
    and in Debian's.

    The first one is bench's own; the others are only read.
    """
    root = (Workspace.current().data.expanduser() if folder is None else folder).absolute()
    package = registered.package_folder if folder is None else None
    return [
        root / registered.name,
        *([root / registered.torchvision / "raw"] if registered.torchvision else []),
        *([package] if package else []),
    ]


def look(file: DataFile, folders: list[Path]) -> Path | None:
    """The first file of these folders that has one of its names.

    Raises:
        DataError: a folder may not be looked into.
    """
    for folder in folders:
        try:
            path = next((folder / name for name in file.names if (folder / name).is_file()), None)
        except OSError as err:
            raise DataError(
                f"{folder} cannot be read: {err.strerror}. Change its permissions, or set "
                "BENCH_DATA to another."
            ) from err
        if path is not None:
            return path
    return None


def in_the_way(file: DataFile, folders: list[Path]) -> tuple[Path, str] | None:
    """What stands in the place of a missing file, and what it is, as the end of a sentence."""
    for place in dict.fromkeys(
        place for folder in folders for name in file.names for place in _way_to(folder / name)
    ):
        is_end = place.parent in folders
        try:
            mode = place.stat().st_mode
        except OSError as err:
            if place.is_symlink():
                return (
                    place,
                    "is a link that leads in a circle"
                    if err.errno == errno.ELOOP
                    else "is a link that leads nowhere",
                )
            continue
        if is_end and not stat.S_ISREG(mode):
            return (
                place,
                f"is {'a folder' if stat.S_ISDIR(mode) else 'a device or a pipe'}, "
                "where a file should be",
            )
        if not is_end and not stat.S_ISDIR(mode):
            return place, "is a file, where a folder should be"
    return None


def _way_to(path: Path) -> list[Path]:
    return [*reversed(path.parents), path]


def find_data(name: str, file_name: str) -> Found:
    """Find a file of a data set; its bytes are not looked at.

    Args:
        name: of the data set, as `bench data list` shows it.
        file_name: without `.gz`.

    Raises:
        UnknownName: there is no such data set or file.
        DataError: the file is missing; the message says what to do.
    """
    registered = data_set(name)
    file = next((file for file in registered.files if file.name == file_name), None)
    if file is None:
        raise UnknownName(f"file of {name}", file_name, [file.name for file in registered.files])
    folders = places(registered)
    path = look(file, folders)
    if path is None and (obstacle := in_the_way(file, folders)):
        raise DataError(
            f"{_title(file)} is missing: {obstacle[0]} {obstacle[1]}. Move that away, or set "
            "BENCH_DATA to "
            "another folder."
        )
    if path is None:
        package = f" On Debian: apt-get install {registered.package}." if registered.package else ""
        raise DataError(
            f"{_title(file)} is missing: looked in {' and '.join(map(str, folders))}. Fetch it: "
            f"bench data fetch {name}.{package} "
            f"Or put {file.name}.gz (or {file.name}) into {folders[0]}; BENCH_DATA names another "
            f"folder with {name}/ in it."
        )
    status = path.stat()
    return Found(path, file, status.st_mtime_ns, status.st_size)


@contextmanager
def open_data(path: Path, expected: DataFile | None = None) -> Iterator[DataStream]:
    """A file for reading, decompressed where it is gzip; what was read is checked at the end of the
    block.

    A ValueError in the block says what is wrong with the file, and becomes a DataError with its
    path and a remedy.

    Args:
        path: the file; whether it is compressed is seen from its content.
        expected: the known file that it must be; then its size bounds what is read, and its sha256
            is compared.

    Raises:
        DataError: the file cannot be read, is damaged, or is another one.
    """
    try:
        with _stream(path, expected) as stream:
            yield stream
            stream.finish()
    except ValueError as err:
        raise DataError(f"{path} {err}. {_remedy(path, expected)}") from err
    except OSError as err:
        raise DataError(
            f"{path} cannot be read: {err.strerror or err}. {_remedy(path, expected)}"
        ) from err


@contextmanager
def _stream(path: Path, expected: DataFile | None) -> Iterator[DataStream]:
    with path.open("rb") as raw:
        yield DataStream(raw, expected)


def _remedy(path: Path, expected: DataFile | None) -> str:
    if expected is None:
        return "Put a good copy in its place."
    folder = path.parent
    usual = folder in places(data_set(expected.data_set)) or folder.name != expected.data_set
    return (
        f"Replace it: bench data fetch {expected.data_set} "
        f"--force{'' if usual else f' --data {folder.parent}'}"
    )


def fault_of(path: Path, expected: DataFile) -> str | None:
    """What is wrong with a file, as the end of a sentence about it; None where it is the expected
    one.
    """
    try:
        with _stream(path, expected) as stream:
            stream.finish()
    except ValueError as err:
        return str(err)
    except OSError as err:
        return f"cannot be read: {err.strerror or err}"
    return None


def verify(name: str, folder: Path | None = None) -> Iterator[Checked]:
    """Read every file of a data set and compare its sha256.

    Args:
        name: of the data set.
        folder: the one that holds a folder of that name; where none is given, all the places where
            tasks look.

    Raises:
        UnknownName: there is no such data set.
    """
    registered = data_set(name)
    folders = places(registered, folder)
    for file in registered.files:
        path = look(file, folders)
        if path is None:
            obstacle = in_the_way(file, folders)
            missing = (
                f"{_title(file)} is not in "
                f"{' or '.join(map(str, folders))}{'' if file.needed else '; no run needs it'}"
            )
            yield (
                Checked(file, obstacle[0], "wrong", " ".join(map(str, obstacle)))
                if obstacle
                else Checked(file, None, "missing", missing)
            )
            continue
        fault = fault_of(path, file)
        yield (
            Checked(file, path, "right")
            if fault is None
            else Checked(file, path, "wrong", f"{path} {fault}")
        )
