"""A bundle that came from somewhere: nothing of it is believed before it was checked, and no name
in it is ever a path.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, cast
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from harness.base.errors import CheckpointError, UsageError, one_line
from harness.execution.bundle.lines import LONGEST_LINE, decode_line
from harness.store import Result
from harness.training import checkpoint

FORMAT = 1
HEAD, LINES, FILES = "bundle.json", "runs.jsonl", "files/"
LONGEST_HEAD = 10_000
ENTRY_HEADER = 30  # bytes before an entry's name
END_MARK, END_LENGTH = b"PK\x05\x06", 22  # of an archive without a comment
# What the readers of zip archives, JSON and tensors raise when their input makes no sense.
NONSENSE = (
    BadZipFile, EOFError, struct.error, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, MemoryError,
)  # fmt: skip


@contextmanager
def refusals(shown: str) -> Iterator[None]:
    """Turn whatever is wrong with a bundle into one line.

    Raises:
        UsageError: it cannot be read, or is not whole, or not what bench writes.
    """
    try:
        yield
    except OSError as err:
        raise UsageError(f"Cannot read {shown}: {err.strerror or err}.") from err
    except NONSENSE as err:
        why = one_line(str(err) or type(err).__name__, 300).rstrip(".")
        raise UsageError(f"{shown} is not a bundle that can be taken in: {why}.") from err


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """A bundle, its list of entries checked.

    Raises:
        UsageError: it cannot be read, or holds what no bundle holds.
    """
    with refusals(str(path)):
        archive = ZipFile(path)
    with archive:
        with refusals(str(path)):
            bundle = Bundle(archive, str(path), _entries(archive))
        yield bundle


def _entries(archive: ZipFile) -> dict[str, ZipInfo]:
    """The entries by name, in the archive's order.

    Each lies behind the one before it and takes as many bytes as it says: nothing is compressed,
    nothing is there twice.
    """
    entries = archive.infolist()
    names = [entry.orig_filename for entry in entries]
    if names[:2] != [HEAD, LINES]:
        raise ValueError(f"it does not begin with {HEAD} and {LINES}")
    _check_end(archive)
    for entry in entries:
        _check_entry(entry)
    for name, following in pairwise(names[2:]):
        if name >= following:
            raise ValueError(f"{following} is there twice, or out of order")
    ends = [
        entry.header_offset + ENTRY_HEADER + len(entry.filename) + entry.file_size
        for entry in entries
    ]
    starts = [*(entry.header_offset for entry in entries), archive.start_dir]
    if starts[0] != 0 or any(end > start for end, start in zip(ends, starts[1:], strict=True)):
        raise ValueError("its entries lie in one another, or are longer than the file")
    return dict(zip(names, entries, strict=True))


def _check_end(archive: ZipFile) -> None:
    file = cast("IO[bytes]", archive.fp)
    file.seek(-END_LENGTH, io.SEEK_END)
    if file.read(len(END_MARK)) != END_MARK:
        raise ValueError("something follows its end")


def _check_entry(entry: ZipInfo) -> None:
    shown = repr(entry.orig_filename[:80])
    if entry.orig_filename not in (HEAD, LINES) and not re.fullmatch(
        f"{FILES}[0-9a-f]{{64}}", entry.orig_filename
    ):
        raise ValueError(f"{shown} is not the name of anything in a bundle")
    if (
        entry.compress_type != ZIP_STORED
        or entry.compress_size != entry.file_size
        or entry.flag_bits
    ):
        raise ValueError(f"{shown} is compressed or encrypted")
    if entry.external_attr >> 28 != 0o10:
        raise ValueError(f"{shown} is a link, or no ordinary file")


class Bundle:
    """An open bundle. `check` must have come to its end before anything else is used."""

    def __init__(self, archive: ZipFile, shown: str, entries: dict[str, ZipInfo]) -> None:
        self._archive = archive
        self._shown = shown
        self._entries = entries
        head = json.loads(self._read(HEAD, LONGEST_HEAD))
        if head["format"] != FORMAT:
            raise ValueError(
                f"it has format {str(head['format'])[:20]}, and this release reads {FORMAT}; install the release that made it"
            )
        self.count = int(head["count"])

    def _read(self, name: str, longest: int) -> bytes:
        if self._entries[name].file_size > longest:
            raise ValueError(f"{name} is too long")
        return self._archive.read(self._entries[name])

    def results(self) -> Iterator[Result]:
        """The runs, one at a time, sorted by key."""
        with refusals(self._shown), self._archive.open(self._entries[LINES]) as entry:
            lines, before = io.BufferedReader(cast(Any, entry)), ""
            while line := lines.readline(LONGEST_LINE + 1):
                result = decode_line(line)
                if result.key <= before:
                    raise ValueError(f"run {result.key} is there twice, or out of order")
                before = result.key
                yield result

    def content(self, sha256: str) -> bytes:
        """A file's bytes.

        Raises:
            UsageError: the bundle has not that file, or has other bytes in its place.
        """
        with refusals(self._shown):
            name = FILES + sha256
            if name not in self._entries:
                raise ValueError(f"{name} is missing")
            found = self._archive.read(self._entries[name])
            if hashlib.sha256(found).hexdigest() != sha256:
                raise ValueError(f"the sha256 of {name} is not its name")
            return found

    def check(self) -> Iterator[str]:
        """Read the bundle from end to end, yielding the key of each run that is whole.

        Raises:
            UsageError: something in it is damaged, missing, too much, or not what it says.
        """
        count, named = 0, set[str]()
        for result in self.results():
            with refusals(self._shown):
                self._check_files(result, named)
            count += 1
            yield result.key
        with refusals(self._shown):
            if count != self.count:
                raise ValueError(f"it has {count} runs and says {self.count}")
            if len(named) != len(self._entries) - 2:
                raise ValueError("it has files that belong to none of its runs")

    def _check_files(self, result: Result, named: set[str]) -> None:
        saved = result.outcome.checkpoint
        for file in [*([saved] if saved else []), *result.outcome.artifacts]:
            named.add(file.sha256)
            content = _Content(self.content(file.sha256), f"of run {result.key}")
            if len(content.value) != file.size:
                raise ValueError(f"a file of run {result.key} has another size than the run says")
            if file is saved:
                _check_checkpoint(content, result)


@dataclass(frozen=True)
class _Content:
    """Bytes where a checkpoint's reader expects a path, of which it asks no more than this."""

    value: bytes
    shown: str

    def read_bytes(self) -> bytes:
        return self.value

    def __str__(self) -> str:
        return self.shown


def _check_checkpoint(content: _Content, result: Result) -> None:
    saved = result.outcome.checkpoint
    try:
        meta = checkpoint.read(cast(Path, content), key=result.key)[1]
        fits = (
            saved is not None
            and meta["step"] == saved.step
            and meta["spec"] == result.run.spec.plain()
        )
    except (CheckpointError, *NONSENSE) as err:
        raise ValueError(
            str(err)
            if isinstance(err, CheckpointError)
            else f"the checkpoint of run {result.key} is none"
        ) from err
    if not fits:
        raise ValueError(f"the checkpoint of run {result.key} is of another step or spec")
