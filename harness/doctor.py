"""What is wrong with a workspace, and how it is mended. Nothing is changed by looking."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import tracking
from harness.data import KNOWN, verify
from harness.download import fetch
from harness.errors import SchemaBehind
from harness.spec import TERMINAL, Status
from harness.store import CheckpointFile, Owner, ResultStore
from harness.store.sound import edited
from harness.store.upgrade import upgrade
from harness.workspace import Workspace

ABANDONED = "abandoned"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: what it is, and what mends it; None where nothing here can. Of what is `lost`, `advice` says what it is."""

    kind: str
    text: str
    advice: str
    mend: Callable[[], object] | None
    lost: bool = False


def old_schema(workspace: Workspace) -> Finding | None:
    """A database whose schema is older than this program's: nothing else of it can be looked at then."""
    try:
        ResultStore.open(workspace.database_url).close()
    except SchemaBehind as err:
        advice = "bench db upgrade brings it up; then the rest can be looked at"
        return Finding("schema", str(err).partition(": run:")[0], advice, lambda: upgrade(workspace.database_url))
    return None


def examine(workspace: Workspace, store: ResultStore) -> Iterator[Finding]:
    """Every fault of a workspace: claims, then files on record, then other files, then MLflow, then data sets.

    Where rows were edited, only those: what they say cannot be built upon.
    """
    rows = list(edited_rows(workspace))
    if rows:
        yield from rows
        return
    yield from abandoned_claims(store)
    yield from bad_checkpoints(workspace, store)
    yield from bad_pictures(workspace, store)
    yield from orphan_files(workspace, store)
    yield from mirror_faults(workspace, store)
    yield from bad_data()


def edited_rows(workspace: Workspace) -> Iterator[Finding]:
    """Rows of the database that hold what bench never writes."""
    for row in edited(workspace.database_url):
        yield Finding("row", str(row), "what stood there is lost: put a backup of the database in its place", None, True)


def abandoned_claims(store: ResultStore) -> Iterator[Finding]:
    """Runs on record as running whose process is gone."""
    for row in store.abandoned():
        holder = f" by {row.owner}" if row.owner else ""

        def give_back(key: str = row.key) -> None:
            claims = store.claim([key], Owner.current())
            store.release(claims, Status.INTERRUPTED, ABANDONED)

        text = f"run {row.key} was left{holder} at step {row.step:,}"
        yield Finding("abandoned claim", text, "it goes on when its command is repeated", give_back)


def bad_checkpoints(workspace: Workspace, store: ResultStore) -> Iterator[Finding]:
    """Checkpoints on record whose file is missing or has other bytes."""
    files = store.all_checkpoints()
    rows = store.rows(list(files))
    for key, listed in files.items():
        for place, file in enumerate(listed):
            fault = _fault(workspace.home / file.path, file.sha256)
            if fault is None:
                continue
            text = f"checkpoint {file.path} of run {key} is {fault}"
            copy = _copy_in_mirror(workspace, f"checkpoint/{Path(file.path).parent.name}.safetensors", file.sha256)
            if copy is not None:
                yield Finding("checkpoint", text, "MLflow's copy of it is good", _restorer(copy, workspace.home / file.path))
            elif rows[key].status not in TERMINAL or place > 0:
                yield Finding(
                    "checkpoint",
                    text,
                    "the run does not need it: an older one, or the start, takes its place",
                    _dropper(store, key, file, workspace.home / file.path),
                )
            else:
                yield Finding(
                    "checkpoint",
                    text,
                    "the trained state is lost, its metrics and curves are not; bench run --rerun makes it again",
                    None,
                    True,
                )


def bad_pictures(workspace: Workspace, store: ResultStore) -> Iterator[Finding]:
    """Pictures on record whose file is missing or has other bytes."""
    for key, listed in store.all_artifacts().items():
        for file in listed:
            fault = _fault(workspace.home / file.path, file.sha256)
            if fault is None:
                continue
            text = f"picture {file.path} of run {key} is {fault}"
            copy = _copy_in_mirror(workspace, f"pictures/{Path(file.name).name}", file.sha256)
            if copy is not None:
                yield Finding("picture", text, "MLflow's copy of it is good", _restorer(copy, workspace.home / file.path))
            else:
                yield Finding(
                    "picture", text, "the picture is lost, the run's numbers are not; bench run --rerun makes it again", None, True
                )


def bad_data() -> Iterator[Finding]:
    """Files of data sets that are there and have other bytes than they should. Nothing that trains would read them."""
    for name in KNOWN:
        for file in verify(name):
            if file.state == "wrong":
                yield Finding("data", file.reason, f"it is downloaded anew, as by bench data fetch {name} --force", _fetcher(name))


def _fetcher(name: str) -> Callable[[], None]:
    def bring() -> None:
        for _ in fetch(name, force=True):
            pass

    return bring


def _fault(path: Path, sha256: str) -> str | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return "missing"
    except OSError as err:
        return f"unreadable ({err.strerror})"
    return None if hashlib.sha256(content).hexdigest() == sha256 else "damaged"


def _copy_in_mirror(workspace: Workspace, name: str, sha256: str) -> Path | None:
    """A file of that name among MLflow's local artifacts with the right bytes."""
    return next((copy for copy in workspace.artifacts.glob(f"*/artifacts/{name}") if _fault(copy, sha256) is None), None)


def _restorer(source: Path, target: Path) -> Callable[[], None]:
    def restore() -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(source, temporary)
        temporary.replace(target)

    return restore


def _dropper(store: ResultStore, key: str, file: CheckpointFile, path: Path) -> Callable[[], None]:
    def drop() -> None:
        store.drop_checkpoints(key, [file.path])
        path.unlink(missing_ok=True)

    return drop


def orphan_files(workspace: Workspace, store: ResultStore) -> Iterator[Finding]:
    """Files in the folders of checkpoints and pictures that the database does not know; those of runs at work are theirs."""
    known = {workspace.home / file.path for files in store.all_checkpoints().values() for file in files}
    known |= {workspace.home / file.path for files in store.all_artifacts().values() for file in files}
    present = sorted(path for folder in (workspace.checkpoints, workspace.pictures) for path in folder.glob("*/*") if path not in known)
    held = store.holders(sorted({path.parent.name for path in present}))
    for path in present:
        if path.parent.name not in held:
            what = "picture" if path.is_relative_to(workspace.pictures) else "checkpoint"
            text = f"{path.relative_to(workspace.home)} belongs to no {what} on record"
            yield Finding("orphan file", text, "it is removed", path.unlink)


def mirror_faults(workspace: Workspace, store: ResultStore) -> Iterator[Finding]:
    """Runs that MLflow does not show as they are, and runs that it shows and the database does not have."""
    seen = tracking.look(workspace, store)
    if isinstance(seen, str):
        yield Finding(
            "mirror", f"MLflow cannot be asked: {seen}", "results are safe; mirror them when it answers: bench doctor --repair", None
        )
        return
    for key in seen.lost:
        yield Finding("mirror", f"MLflow lost its copy of run {key}", "it is made again", _remirror(workspace, store, key, forget=True))
    for row in store.unmirrored():
        if row.key not in seen.lost and row.status in TERMINAL | {Status.INTERRUPTED}:
            yield Finding("mirror", f"MLflow does not show run {row.key} as it is", "it is mirrored", _remirror(workspace, store, row.key))
    for run_id, (key, difference) in seen.edited.items():
        text = f"MLflow's copy of run {key} was edited: {difference}"
        yield Finding("mirror", text, "it is made again", _remirror(workspace, store, key, edited=run_id))
    for run_id, key in seen.orphans.items():
        text = f"MLflow's run {run_id} ({key}) has no run in the database"
        yield Finding("mirror", text, "it is deleted there", _deleter(workspace, store, run_id))


def _deleter(workspace: Workspace, store: ResultStore, run_id: str) -> Callable[[], None]:
    def delete() -> None:
        fault = tracking.delete_copies(workspace, store, [run_id])
        if fault:
            raise tracking.MirrorError(f"MLflow does not delete its run {run_id}: {fault}")

    return delete


def _remirror(workspace: Workspace, store: ResultStore, key: str, forget: bool = False, edited: str | None = None) -> Callable[[], None]:
    def mirror() -> None:
        if edited is not None:
            _deleter(workspace, store, edited)()
        if forget or edited is not None:
            store.clear_mirror([key])
        failed = tracking.repair(workspace, store, [key])
        if failed:
            raise tracking.MirrorError(f"MLflow does not take run {key}: {failed[key]}")

    return mirror
