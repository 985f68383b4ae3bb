"""What is wrong with a workspace, and how it is mended. Nothing is changed by looking."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from harness import tracking
from harness.base.errors import SchemaBehind, WorkspaceError
from harness.base.files import write_atomically
from harness.base.spec import TERMINAL, Status
from harness.base.workspace import Workspace
from harness.datasets.download import fetch
from harness.datasets.files import KNOWN, verify
from harness.store import ArtifactFile, CheckpointFile, File, Owner, ResultStore
from harness.store.integrity import find_edited_rows
from harness.store.run_files import (
    DAMAGED,
    SET_ASIDE,
    Stray,
    fault,
    files_of_database,
    set_aside,
    shown_path,
)
from harness.store.upgrade import upgrade

ABANDONED = "abandoned"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: what it is, and what mends it; None where nothing here can. Of what
    is `lost`, `advice` says what it is.
    """

    kind: str
    text: str
    advice: str
    mend: Callable[[], object] | None
    lost: bool = False


def old_schema(workspace: Workspace) -> Finding | None:
    """A database whose schema is older than this program's: nothing else of it can be looked at
    then.
    """
    try:
        ResultStore.open(workspace.database_url).close()
    except SchemaBehind as err:
        advice = "bench db upgrade brings it up; then the rest can be looked at"
        return Finding(
            "schema",
            str(err).partition(": run:")[0],
            advice,
            lambda: upgrade(workspace.database_url),
        )
    return None


def examine(workspace: Workspace, store: ResultStore) -> Iterator[Finding]:
    """Every fault of a workspace: claims, then files on record, then other files, then MLflow, then
    data sets.

    Where rows were edited, only those: what they say cannot be built upon.
    """
    rows = list(edited_rows(workspace))
    if rows:
        yield from rows
        return
    yield from abandoned_claims(store)
    yield from bad_files(workspace, store)
    yield from orphan_files(workspace, store)
    yield from mirror_faults(workspace, store)
    yield from bad_data()


def edited_rows(workspace: Workspace) -> Iterator[Finding]:
    """Rows of the database that hold what bench never writes."""
    for row in find_edited_rows(workspace.database_url):
        yield Finding(
            "row",
            str(row),
            "what stood there is lost: put a backup of the database in its place",
            None,
            True,
        )


def abandoned_claims(store: ResultStore) -> Iterator[Finding]:
    """Runs on record as running whose process is gone."""
    for row in store.abandoned():
        holder = f" by {row.owner}" if row.owner else ""

        text = f"run {row.key} was left{holder} at step {row.step:,}"
        give_back = partial(store.give_back, row.key, Owner.current(), ABANDONED)
        yield Finding("abandoned claim", text, "it goes on when its command is repeated", give_back)


def bad_files(workspace: Workspace, store: ResultStore) -> Iterator[Finding]:
    """Checkpoints and pictures on record whose file is missing or has other bytes."""
    for what, all_files in (
        ("checkpoint", store.files.checkpoints()),
        ("picture", store.files.artifacts()),
    ):
        for key, files in all_files.items():
            for place, file in enumerate(files):
                wrong = fault(workspace, file)
                if wrong is not None:
                    text = f"{what} {shown_path(workspace, file)} of run {key} is {wrong}"
                    yield Finding(what, text, *_remedy(workspace, store, file, place == 0))


def _remedy(
    workspace: Workspace, store: ResultStore, file: File, is_newest: bool
) -> tuple[str, Callable[[], object] | None, bool]:
    """What is advised for a bad file, what mends it, and whether it is lost."""
    row = store.rows([file.edition.key])[file.edition.key]
    if _copy_in_mirror(workspace, row.mlflow_run_id, file) is not None:
        return (
            "MLflow's copy of it is good",
            _restorer(workspace, store, row.mlflow_run_id, file),
            False,
        )
    if isinstance(file, ArtifactFile):
        return (
            "the picture is lost, the run's numbers are not; bench run --rerun makes it again",
            None,
            True,
        )
    if row.status not in TERMINAL or not is_newest:
        return (
            "the run does not need it: an older one, or the start, takes its place",
            _dropper(workspace, store, file),
            False,
        )
    return (
        "the trained state is lost, its metrics and curves are not; bench run --rerun makes it again",
        None,
        True,
    )


def bad_data() -> Iterator[Finding]:
    """Files of data sets that are there and have other bytes than they should. Nothing that trains
    would read them.
    """
    for name in KNOWN:
        for file in verify(name):
            if file.state == "wrong":
                yield Finding(
                    "data",
                    file.reason,
                    f"it is downloaded anew, as by bench data fetch {name} --force",
                    _fetcher(name),
                )


def _fetcher(name: str) -> Callable[[], None]:
    def bring() -> None:
        for _ in fetch(name, force=True):
            pass

    return bring


def _copy_in_mirror(workspace: Workspace, run_id: str | None, file: File) -> bytes | None:
    """The bytes of MLflow's local copy of a file, if they are the right ones."""
    name = (
        f"checkpoint/{file.edition.key}.safetensors"
        if isinstance(file, CheckpointFile)
        else f"pictures/{file.name}"
    )
    copy = tracking.local_copy(workspace, run_id, name)
    return copy if copy is not None and hashlib.sha256(copy).hexdigest() == file.sha256 else None


def _restorer(
    workspace: Workspace, store: ResultStore, run_id: str | None, file: File
) -> Callable[[], None]:
    def restore() -> None:
        copy = _copy_in_mirror(workspace, run_id, file)
        if copy is not None and fault(workspace, file) is not None:
            try:
                write_atomically(file.path_in(workspace), copy)
            except OSError as err:
                raise WorkspaceError(
                    f"Cannot write {shown_path(workspace, file)}: {err.strerror or err}."
                ) from err

    return lambda: store.files.restore(file, restore)


def _dropper(workspace: Workspace, store: ResultStore, file: CheckpointFile) -> Callable[[], None]:
    def is_bad() -> bool:
        wrong = fault(workspace, file)
        if wrong == DAMAGED:
            set_aside(workspace, file.path_in(workspace))
        return wrong is not None

    return lambda: store.files.drop_checkpoint(file, is_bad)


def orphan_files(workspace: Workspace, store: ResultStore) -> Iterator[Finding]:
    """Files in this database's folders that it does not know; those of runs at work are theirs.

    They are listed before the rows are read: what a run that ends meanwhile leaves is on record
    then.
    """
    present = list(files_of_database(workspace, store.database))
    for stray in sorted(store.files.strays(present), key=lambda stray: stray.path):
        what = "picture" if stray.path.is_relative_to(workspace.pictures) else "checkpoint"
        text = f"{stray.path.relative_to(workspace.home)} belongs to no {what} on record"
        yield Finding(
            "orphan file",
            text,
            f"it is moved into the folder {SET_ASIDE}",
            _mover(workspace, store, stray),
        )


def _mover(workspace: Workspace, store: ResultStore, stray: Stray) -> Callable[[], None]:
    return lambda: store.files.discard([stray], lambda still: set_aside(workspace, still.path))


def mirror_faults(workspace: Workspace, store: ResultStore) -> Iterator[Finding]:
    """Runs that MLflow does not show as they are, and runs that it shows and the database does not
    have.
    """
    seen = tracking.look(workspace, store)
    if isinstance(seen, str):
        yield Finding(
            "mirror",
            f"MLflow cannot be asked: {seen}",
            "results are safe; mirror them when it answers: bench doctor --repair",
            None,
        )
        return
    for key in seen.lost:
        yield Finding(
            "mirror",
            f"MLflow lost its copy of run {key}",
            "it is made again",
            partial(tracking.remirror, workspace, store, key),
        )
    for row in store.unmirrored():
        if row.key not in seen.lost and row.status in TERMINAL | {Status.INTERRUPTED}:
            text = f"MLflow does not show run {row.key} as it is"
            yield Finding(
                "mirror",
                text,
                "it is mirrored",
                partial(tracking.remirror, workspace, store, row.key),
            )
    for run_id, (key, difference) in seen.edited.items():
        text = f"MLflow's copy of run {key} was edited: {difference}"
        yield Finding("mirror", text, "it is made again", _remaker(workspace, store, run_id, key))
    for run_id, key in seen.orphans.items():
        text = f"MLflow's run {run_id} ({key}) has no run in the database"
        yield Finding(
            "mirror", text, "it is deleted there", _deleter(workspace, store, run_id, key)
        )


def _deleter(workspace: Workspace, store: ResultStore, run_id: str, key: str) -> Callable[[], None]:
    def delete() -> None:
        wrong = tracking.delete_copies(workspace, store, {run_id: key})
        if wrong:
            raise tracking.MirrorError(f"MLflow does not delete its run {run_id}: {wrong}")

    return delete


def _remaker(workspace: Workspace, store: ResultStore, run_id: str, key: str) -> Callable[[], None]:
    def remake() -> None:
        store.clear_mirror([key])
        _deleter(workspace, store, run_id, key)()
        tracking.remirror(workspace, store, key)

    return remake
