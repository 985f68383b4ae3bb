"""Files of runs on disk: read with their hash checked, removed, and set aside. What no row of the
database knows is deleted by nobody.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.base.errors import StoreError, WorkspaceError
from harness.base.workspace import KEY, Edition, Workspace
from harness.store.rows import File, Stray
from harness.store.store import ResultStore

MISSING, DAMAGED = "missing", "damaged"
SET_ASIDE = "set-aside"
"""The folder of the workspace for files that no row knows."""


def read_verified(workspace: Workspace, file: File) -> bytes | None:
    """Read a file on record; None where its bytes are missing or others."""
    content = _read(workspace, file)
    return content if isinstance(content, bytes) else None


def fault(workspace: Workspace, file: File) -> str | None:
    """Say what is wrong with a file on record: "missing", "damaged" and so on; None where it is as
    it should be.
    """
    content = _read(workspace, file)
    return content if isinstance(content, str) else None


def _read(workspace: Workspace, file: File) -> bytes | str:
    try:
        content = file.path_in(workspace).read_bytes()
    except FileNotFoundError:
        return MISSING
    except StoreError as err:
        return f"out of reach ({err})"
    except OSError as err:
        return f"unreadable ({err.strerror})"
    return content if hashlib.sha256(content).hexdigest() == file.sha256 else DAMAGED


def shown_path(workspace: Workspace, file: File) -> str:
    """Say where a file lies in the workspace, for people."""
    try:
        return str(file.path_in(workspace).relative_to(workspace.home))
    except StoreError:
        return repr(file.name)


def file_facts(workspace: Workspace, file: File) -> dict[str, Any]:
    """Describe a file on record by plain values, with where it lies in the workspace."""
    return {name: value for name, value in vars(file).items() if name != "edition"} | {
        "path": shown_path(workspace, file)
    }


def remove_files(workspace: Workspace, store: ResultStore, files: Sequence[File]) -> None:
    """Delete files that are no longer on record, and folders that are empty after that.

    What has come on record again, or is another process's meanwhile, stays; so does what cannot be
    deleted now: `bench doctor` finds it.
    """

    def remove(file: File) -> None:
        # In folders of before databases had an id, another one may have a file of this name.
        if file.edition.number == 0 and fault(workspace, file) is not None:
            return
        with suppress(StoreError, OSError):
            path = file.path_in(workspace)
            path.unlink(missing_ok=True)
            path.parent.rmdir()

    if files:
        with suppress(StoreError):
            store.files.discard(files, remove)


def files_of_edition(workspace: Workspace, edition: Edition) -> Iterator[Stray]:
    """List the folders of an edition. In those of before databases had an id nothing says whose a
    file is: they are left alone.
    """
    if edition.number == 0:
        return
    for folder in workspace.folders(edition):
        yield from _listed(edition, folder)


def files_of_database(workspace: Workspace, database: str) -> Iterator[Stray]:
    """List the folders of a database. Other databases over the workspace have theirs, and those of
    before databases had an id are nobody's.
    """
    for top in (workspace.checkpoints, workspace.pictures):
        with suppress(FileNotFoundError, NotADirectoryError):
            for folder in sorted(os.scandir(top / database), key=lambda entry: entry.name):
                key, _, number = folder.name.partition(".")
                if re.fullmatch(f"{KEY}[.][1-9][0-9]{{0,8}}", folder.name) and folder.is_dir(
                    follow_symlinks=False
                ):
                    yield from _listed(Edition(database, key, int(number)), Path(folder.path))


def _listed(edition: Edition, folder: Path) -> Iterator[Stray]:
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in sorted(folder.iterdir()):
            yield Stray(edition, path.name, path)


def set_aside(workspace: Workspace, path: Path) -> Path:
    """Move a file out of the way, into the folder `set-aside` of the workspace; returns where it is
    then.

    Raises:
        WorkspaceError: it cannot be moved.
    """
    plain_target = workspace.home / SET_ASIDE / path.relative_to(workspace.home)
    target, number = plain_target, 1
    while os.path.lexists(target):
        number += 1
        target = plain_target.with_name(f"{plain_target.name}.{number}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
    except OSError as err:
        raise WorkspaceError(f"Cannot move {path} to {target}: {err.strerror or err}.") from err
    with suppress(OSError):
        path.parent.rmdir()
    return target
