"""Data files of tasks: which there are, where they lie, and whether they are the right ones.

A file is known by the sha256 of its decompressed bytes, so any gzip wrapper will do, or none.
"""

from __future__ import annotations

import gzip
import hashlib
import io
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


def places(known: DataSet, folder: Path | None = None) -> list[Path]:
    """Where the files of a data set are looked for: below `folder`, or else below the workspace's
    and in Debian's. The first one is bench's own; the others are only read.
    """
    root = (Workspace.current().data.expanduser() if folder is None else folder).absolute()
    package = known.package_folder if folder is None else None
    return [
        root / known.name,
        *([root / known.torchvision / "raw"] if known.torchvision else []),
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


def find_data(name: str, file_name: str) -> Found:
    """Find a file of a data set, named without `.gz`; its bytes are not looked at.

    Raises:
        UnknownName: there is no such data set or file.
        DataError: the file is missing; the message says what to do.
    """
    known = data_set(name)
    file = next((file for file in known.files if file.name == file_name), None)
    if file is None:
        raise UnknownName(f"file of {name}", file_name, [file.name for file in known.files])
    folders = places(known)
    path = look(file, folders)
    if path is None:
        package = f" On Debian: apt-get install {known.package}." if known.package else ""
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
    """A file for reading, decompressed where its content is gzip, and checked at the end of the
    block where it must be a known one: its size bounds what is read, and its sha256 is compared.

    A ValueError in the block says what is wrong with the file, and becomes a DataError with its
    path and a remedy.

    Raises:
        DataError: the file cannot be read, is damaged, or is another one.
    """
    remedy = "Put a good copy in its place."
    if expected is not None:
        remedy = f"Replace it: bench data fetch {expected.data_set} --force"
    try:
        with path.open("rb") as raw:
            stream = DataStream(raw, expected)
            yield stream
            stream.finish()
    except ValueError as err:
        raise DataError(f"{path} {err}. {remedy}") from err
    except OSError as err:
        raise DataError(f"{path} cannot be read: {err.strerror or err}. {remedy}") from err


def fault_of(path: Path, expected: DataFile) -> str | None:
    """What is wrong with a file, as the end of a sentence about it; None where it is the expected
    one.
    """
    try:
        with path.open("rb") as raw:
            DataStream(raw, expected).finish()
    except ValueError as err:
        return str(err)
    except OSError as err:
        return f"cannot be read: {err.strerror or err}"
    return None


def verify(name: str, folder: Path | None = None) -> Iterator[Checked]:
    """Read every file of a data set, in `folder` or all the places where tasks look, and compare
    its sha256.

    Raises:
        UnknownName: there is no such data set.
    """
    known = data_set(name)
    folders = places(known, folder)
    for file in known.files:
        path = look(file, folders)
        if path is None:
            reason = f"{_title(file)} is not in {' or '.join(map(str, folders))}"
            yield Checked(
                file, None, "missing", reason + ("" if file.needed else "; no run needs it")
            )
        elif fault := fault_of(path, file):
            yield Checked(file, path, "wrong", f"{path} {fault}")
        else:
            yield Checked(file, path, "right")
