"""Finished runs in one file, which another workspace can take in.

A bundle is a zip archive of `bench.db`, a result database of these runs alone, and their
checkpoints and pictures as `files/SHA256`. Nothing in a bundle is believed before it is checked, no
name in it is ever a path, and nothing in it is run.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sqlite3
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from zipfile import ZIP_STORED, BadZipFile, ZipFile

from harness.base.errors import BenchError, UsageError, WorkspaceError, one_line
from harness.base.files import atomic_file, remove_partial_files
from harness.base.workspace import Edition, Workspace, sqlite_url
from harness.store import Adoption, CheckpointFile, File, Result, ResultStore
from harness.store.old_bundle import convert
from harness.store.run_files import read_verified, remove_files, shown_path
from harness.store.transfer import require_result_tables
from harness.training import checkpoint

__all__ = ["Bundle", "import_bundle", "open_bundle", "write_bundle"]

DATABASE, FILES = "bench.db", "files/"
OLD_LINES, OLD_HEAD = "runs.jsonl", "bundle.json"
"""What bundles of the first format have in place of the database."""
LARGEST = 4 * 2**30
"""Bytes of a file: it is held in memory."""
# What the readers of zip archives, databases, JSON and tensors raise when their input makes no
# sense.
NONSENSE = (
    *(BenchError, BadZipFile, sqlite3.Error, EOFError, struct.error, ValueError, TypeError),
    *(LookupError, ArithmeticError, AttributeError, RuntimeError, MemoryError),
)


class Exported(NamedTuple):
    """A run that was to be written: which of its files are missing or damaged, and why it is left
    out where no bundle can have it.
    """

    key: str
    missing: list[str]
    fault: str


def write_bundle(
    target: Path, workspace: Workspace, results: Iterable[Result]
) -> Iterator[Exported]:
    """Write a bundle of finished runs; it is at `target` whole, or not at all.

    Raises:
        UsageError: there is such a file, or no result that can be written.
        WorkspaceError: the file cannot be written.
    """
    _refuse_existing(target)
    faults = []
    try:
        remove_partial_files(target)
        with (
            TemporaryDirectory() as folder,
            atomic_file(target) as file,
            ZipFile(file, "w") as archive,
        ):
            database = Path(folder) / DATABASE
            with ResultStore.open(sqlite_url(database)) as store:
                for result in results:
                    exported = _export(result, workspace, store, archive)
                    faults.append(exported.fault)
                    yield exported
            if "" not in faults:
                why = f": {faults[-1]}" if faults else ""
                raise UsageError(f"There is no finished run to export{why}. See: bench list runs.")
            archive.write(database, DATABASE)
            _refuse_existing(target)
    except OSError as err:
        raise WorkspaceError(f"Cannot write {target}: {err.strerror or err}.") from err


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise UsageError(f"{target} exists already. Give the bundle another name.")


def _export(result: Result, workspace: Workspace, store: ResultStore, archive: ZipFile) -> Exported:
    contents = {file: read_verified(workspace, file) for file in result.files}
    missing = [file for file, value in contents.items() if value is None]
    lost = [shown_path(workspace, file) for file in missing]
    result = result.without(missing)
    try:
        result.check()
    except ValueError as err:
        return Exported(result.key, lost, str(err))
    store.adopt(result, lambda _: None, remark=None)
    for file, value in contents.items():
        if value is not None and FILES + file.sha256 not in archive.NameToInfo:
            archive.writestr(FILES + file.sha256, value)
    return Exported(result.key, lost, "")


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turn whatever is wrong with a bundle into one line."""
    try:
        yield
    except UsageError:
        raise
    except OSError as err:
        raise UsageError(f"Cannot read {path}: {err.strerror or err}.") from err
    except NONSENSE as err:
        why = one_line(str(err) or type(err).__name__, 300).rstrip(".")
        raise UsageError(f"{path} is not a bundle that can be imported: {why}.") from err


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Open a bundle, its names and its tables checked.

    Raises:
        UsageError: it cannot be read, or has what no bundle has.
    """
    with TemporaryDirectory() as folder:
        database = Path(folder) / DATABASE
        with _refusals(path):
            archive = ZipFile(path)
        with archive:
            with _refusals(path):
                _check_entries(archive, path.stat().st_size)
                if OLD_LINES in archive.namelist():
                    with archive.open(OLD_LINES) as lines:
                        convert(lines, database)
                else:
                    with archive.open(DATABASE) as source, database.open("wb") as file:
                        shutil.copyfileobj(source, file)
                keys = require_result_tables(database)
            with ResultStore.open(sqlite_url(database)) as store:
                yield Bundle(path, archive, store, keys)


def _check_entries(archive: ZipFile, size: int) -> None:
    """Make sure that the entries are those of a bundle and hold no more than the file's bytes."""
    entries = archive.infolist()
    for entry in entries:
        name = entry.orig_filename
        if not re.fullmatch(rf"bench\.db|runs\.jsonl|bundle\.json|{FILES}[0-9a-f]{{64}}", name):
            raise ValueError(f"{name[:80]!r} is not the name of anything in a bundle")
        if entry.compress_type != ZIP_STORED:
            raise ValueError(f"{name} is compressed")
        if name.startswith(FILES) and entry.file_size > LARGEST:
            raise ValueError(f"{name} is larger than {LARGEST:,} bytes")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its entries are longer than the file")
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("two of its entries have one name")


class Bundle:
    """An open bundle. `check` must have come to its end before anything else is used."""

    def __init__(self, path: Path, archive: ZipFile, store: ResultStore, keys: list[str]) -> None:
        self._path, self._archive, self._store, self._keys = path, archive, store, keys

    def __len__(self) -> int:
        return len(self._keys)

    def results(self) -> Iterator[Result]:
        """Read the runs one at a time."""
        with _refusals(self._path):
            for key in self._keys:
                results = self._store.results([key])
                if not results:
                    raise ValueError(f"run {key} is not finished")
                yield results[0]

    def content(self, file: File) -> bytes:
        """Read a file.

        Raises:
            UsageError: the bundle does not have it, or has other bytes in its place.
        """
        with _refusals(self._path):
            value = self._archive.read(FILES + file.sha256)
            if hashlib.sha256(value).hexdigest() != file.sha256 or len(value) != file.size:
                raise ValueError(f"{FILES}{file.sha256} has other bytes than its name says")
            return value

    def check(self) -> Iterator[str]:
        """Read the bundle from end to end, and yield the key of each run that is whole.

        Raises:
            UsageError: something in it is damaged, missing, too much, or not what it says.
        """
        names = {DATABASE, OLD_LINES, OLD_HEAD}
        for result in self.results():
            with _refusals(self._path):
                result.check()
                for file in result.files:
                    names.add(FILES + file.sha256)
                    value = self.content(file)
                    if isinstance(file, CheckpointFile):
                        meta = checkpoint.decode(value, f"of run {result.key}", result.key)[1]
                        if (meta["step"], meta["spec"]) != (file.step, result.spec.plain()):
                            raise ValueError(
                                f"the checkpoint of run {result.key} is of another step or spec"
                            )
            yield result.key
        with _refusals(self._path):
            if not names.issuperset(self._archive.namelist()):
                raise ValueError("it has files that belong to none of its runs")


def import_bundle(workspace: Workspace, store: ResultStore, bundle: Bundle) -> Iterator[Adoption]:
    """Take the runs of a checked bundle into a workspace, each in one transaction with its files in
    place before it ends.

    Raises:
        CheckpointError: a file cannot be written; what was taken in before stays, and the same call
            goes on.
    """
    for result in bundle.results():
        adoption = store.adopt(result, partial(_write_files, workspace, bundle, result))
        remove_files(workspace, store, adoption.dropped)
        yield adoption


def _write_files(workspace: Workspace, bundle: Bundle, result: Result, edition: Edition) -> None:
    for file in result.files:
        path = replace(file, edition=edition).path_in(workspace)
        remove_partial_files(path)
        checkpoint.write(path, bundle.content(file))
