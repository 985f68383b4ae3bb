"""Runs out of a workspace into a bundle, and out of a bundle into a workspace."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from stat import S_IFREG
from typing import IO
from zipfile import ZipFile, ZipInfo

import harness
from harness.base.errors import UsageError, WorkspaceError
from harness.base.files import remove_partial_files, sync_folder
from harness.base.spec import canonical_json
from harness.base.workspace import Edition, Workspace
from harness.execution.bundle.lines import encode_line
from harness.execution.bundle.reading import FILES, FORMAT, HEAD, LINES, Bundle
from harness.store import Adoption, File, Result, ResultStore
from harness.store.create import part_beside
from harness.store.run_files import fault, remove_files, shown_path
from harness.training import checkpoint

BLOCK = 2**20
# The earliest date that a zip archive can hold.
DATE = (1980, 1, 1, 0, 0, 0)


def write(
    target: Path, workspace: Workspace, results: Iterable[Result]
) -> Iterator[tuple[str, list[str], str]]:
    """Write a bundle; it is at `target` whole, or not at all.

    Args:
        target: a file that does not exist yet.
        workspace: where the results come from.
        results: finished runs, sorted by key.

    Yields:
        Each run's key, the files that it goes without because they are missing or damaged, and why
        it is left out, where it cannot be held.

    Raises:
        UsageError: there is such a file, or no result that can be held.
        WorkspaceError: the file cannot be written.
    """
    _refuse_existing(target)
    with _writing_to(target):
        temporary = part_beside(target)
    files: dict[str, Path] = {}
    count = 0
    with _writing_to(target, temporary), tempfile.TemporaryFile(dir=target.parent) as lines:
        left_out = ""
        for result in results:
            own: dict[str, Path] = {}
            whole, missing = _without_missing(result, workspace, own)
            try:
                lines.write(encode_line(whole))
            except ValueError as err:
                left_out = str(err)
                yield result.key, missing, left_out
                continue
            files |= own
            count += 1
            yield result.key, missing, ""
        if count == 0:
            raise UsageError(
                f"There is no finished run to export{f': {left_out}' if left_out else ''}. See: bench list runs."
            )
        with temporary.open("wb") as file:
            _fill(file, lines, count, files)
            file.flush()
            os.fsync(file.fileno())
        _refuse_existing(target)
        temporary.replace(target)
        sync_folder(target.parent)


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise UsageError(f"{target} exists already. Give a bundle a name of its own.")


@contextmanager
def _writing_to(target: Path, temporary: Path | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise WorkspaceError(f"Cannot write {target}: {err.strerror or err}.") from err
    finally:
        with suppress(OSError):
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def _files_of(result: Result) -> list[File]:
    saved = result.outcome.checkpoint
    return [*([saved] if saved else []), *result.outcome.artifacts]


def _without_missing(
    result: Result, workspace: Workspace, files: dict[str, Path]
) -> tuple[Result, list[str]]:
    """The result without files that are not what the record says, and their paths; the others go
    into `files`.
    """
    missing = {}
    for file in _files_of(result):
        if fault(workspace, file) is None:
            files[file.sha256] = file.path_in(workspace)
        else:
            missing[file] = shown_path(workspace, file)
    saved = result.outcome.checkpoint
    kept = replace(
        result.outcome,
        checkpoint=None if saved in missing else saved,
        artifacts=[file for file in result.outcome.artifacts if file not in missing],
    )
    return replace(result, outcome=kept), list(missing.values())


def _fill(file: IO[bytes], lines: IO[bytes], count: int, files: dict[str, Path]) -> None:
    with ZipFile(file, "w") as archive:
        head = {"format": FORMAT, "bench": harness.__version__, "count": count}
        archive.writestr(_entry(HEAD), canonical_json(head) + "\n")
        size = lines.tell()
        lines.seek(0)
        _copy(lines, archive, _entry(LINES, size))
        for sha256, path in sorted(files.items()):
            with path.open("rb") as source:
                if _copy(source, archive, _entry(FILES + sha256, path.stat().st_size)) != sha256:
                    raise UsageError(
                        f"{path} has changed while it was exported. Repeat the command."
                    )


def _entry(name: str, size: int = 0) -> ZipInfo:
    """An entry that is the same on every system and every day."""
    entry = ZipInfo(name, DATE)
    entry.create_system = 3
    entry.external_attr = (S_IFREG | 0o644) << 16
    entry.file_size = size
    return entry


def _copy(source: IO[bytes], archive: ZipFile, entry: ZipInfo) -> str:
    """Copy a file block by block; returns the sha256 of what was copied."""
    seen = hashlib.sha256()
    with archive.open(entry, "w") as target:
        while block := source.read(BLOCK):
            seen.update(block)
            target.write(block)
    return seen.hexdigest()


def read_in(workspace: Workspace, store: ResultStore, bundle: Bundle) -> Iterator[Adoption]:
    """Take the runs of a checked bundle into a workspace, each in one transaction with its files in
    place before it ends.

    Raises:
        CheckpointError: a file cannot be written; what was taken in before stays, and the same call
            goes on.
    """
    for result in bundle.results():
        adoption = store.adopt(result, partial(_settle, workspace, bundle, result))
        remove_files(workspace, store, adoption.dropped)
        yield adoption


def _settle(workspace: Workspace, bundle: Bundle, result: Result, edition: Edition) -> None:
    for file in _files_of(result):
        path = replace(file, edition=edition).path_in(workspace)
        remove_partial_files(path)
        checkpoint.write(path, bundle.content(file.sha256))
