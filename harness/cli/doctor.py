"""`bench doctor`: find what is wrong with a workspace, and repair it when asked."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from harness.base.errors import BenchError, SchemaBehind
from harness.base.files import write_atomically
from harness.base.spec import TERMINAL, Status
from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.cli._options import json_option
from harness.cli._output import print_json, say

if TYPE_CHECKING:
    from harness.store import File, ResultStore, RunRow

FAULTS_LEFT = 3
Repair = Callable[[], object]


@dataclass(frozen=True)
class Finding:
    """A fault, and what repairs it: None where nothing here can. Where something is `lost`,
    `advice` says what.
    """

    kind: str
    text: str
    advice: str
    repair: Repair | None = None
    lost: bool = False


@click.command()
@click.option(
    "--repair", is_flag=True, help="Mend what can be mended, after a backup of the database."
)
@json_option
@click.pass_context
def doctor(ctx: click.Context, repair: bool, as_json: bool) -> None:
    """Look for an old schema, edited rows, abandoned claims, damaged, missing or orphan files, an
    MLflow that is behind, wrong data sets.

    Nothing is changed without --repair.

    \b
    Example:
      bench doctor --repair
    """
    from harness.store import ResultStore
    from harness.store.create import is_missing

    workspace = Workspace.current()
    if is_missing(workspace.database_url):
        say("There is no database here yet, so nothing can be wrong with it.", err=True)
        return
    schema = old_schema(workspace)
    lines = _treat(schema, workspace, repair)
    if not schema or lines[0]["state"] == "mended":
        with ResultStore.open(workspace.database_url) as store:
            lines += _treat(list(examine(workspace, store)), workspace, repair)
    if as_json:
        print_json(lines)
    for line in [] if as_json else lines:
        say(f"{line['state']}: {line['fault']}; {line['advice']}")
    if not as_json and not lines:
        say("Nothing is wrong here.")
    elif not as_json and not repair:
        count = plural(len(lines), "fault")
        say(f"{count}. To mend what can be mended: bench doctor --repair", err=True)
    ctx.exit(FAULTS_LEFT if any(line["state"] != "mended" for line in lines) else 0)


def _treat(findings: Sequence[Finding], workspace: Workspace, repair: bool) -> list[dict[str, Any]]:
    """Tell of each finding; repair them, after a backup, where that was asked for."""
    if findings and repair:
        from harness.cli.db import backup_file

        if workspace.database_url.startswith("sqlite"):
            say(f"Backed up to {backup_file(workspace, None)}", err=True)
        else:
            say("The database is on a server, and is not backed up from here.", err=True)
    lines = []
    for finding in findings:
        state, advice = "lost" if finding.lost else "found", finding.advice
        if repair and finding.repair is not None:
            try:
                finding.repair()
                state = "mended"
            except (BenchError, OSError) as err:
                state, advice = "not mended", str(err)
        lines.append(
            {"kind": finding.kind, "fault": finding.text, "advice": advice, "state": state}
        )
    return lines


def old_schema(workspace: Workspace) -> list[Finding]:
    """Find a schema that is older than this program's: nothing else can be looked at then."""
    from harness.store import ResultStore
    from harness.store.upgrade import upgrade

    try:
        ResultStore.open(workspace.database_url).close()
    except SchemaBehind as err:
        advice = "bench db upgrade brings it up; then the rest can be looked at"
        fault = str(err).partition(": run:")[0]
        return [Finding("schema", fault, advice, partial(upgrade, workspace.database_url))]
    return []


def examine(workspace: Workspace, store: ResultStore) -> Iterator[Finding]:
    """Find every fault. Where rows were edited, only those: what they say cannot be built upon."""
    from harness.store.integrity import find_edited_rows

    rows = list(find_edited_rows(workspace.database_url))
    for row in rows:
        advice = "what stood there is lost: put a backup of the database in its place"
        yield Finding("row", row, advice, lost=True)
    if not rows:
        yield from abandoned_claims(store)
        yield from bad_files(workspace, store)
        yield from orphan_files(workspace, store)
        yield from mirror_faults(workspace, store)
        yield from bad_data()


def abandoned_claims(store: ResultStore) -> Iterator[Finding]:
    """Find the runs on record as running whose process is gone."""
    from harness.store import Owner

    def give_back(key: str) -> None:
        if any(row.key == key for row in store.abandoned()):
            claims = store.claim([key], Owner.current())
            store.release(claims, Status.INTERRUPTED, "abandoned")

    for row in store.abandoned():
        holder = f" by {row.owner}" if row.owner else ""
        text = f"run {row.key} was left{holder} at step {row.step:,}"
        advice = "it goes on when its command is repeated"
        yield Finding("abandoned claim", text, advice, partial(give_back, row.key))


def bad_files(workspace: Workspace, store: ResultStore) -> Iterator[Finding]:
    """Find the checkpoints and pictures on record whose file is missing or has other bytes."""
    from harness.store import ArtifactFile, CheckpointFile
    from harness.store.run_files import fault, shown_path

    for kind, cls in (("checkpoint", CheckpointFile), ("picture", ArtifactFile)):
        for key, files in store.files.on_record(cls).items():
            for age, file in enumerate(files):
                wrong = fault(workspace, file)
                if wrong is not None:
                    text = f"{kind} {shown_path(workspace, file)} of run {key} is {wrong}"
                    remedy = _remedy(workspace, store, file, store.rows([key])[key], age == 0)
                    yield Finding(kind, text, *remedy)


def _remedy(
    workspace: Workspace, store: ResultStore, file: File, row: RunRow, is_newest: bool
) -> tuple[str, Repair | None, bool]:
    """Return what is advised for a bad file, what repairs it, and whether it is lost."""
    from harness import tracking
    from harness.store import ArtifactFile
    from harness.store.run_files import DAMAGED, fault, set_aside

    name = f"checkpoint/{row.key}.safetensors"
    if isinstance(file, ArtifactFile):
        name = f"pictures/{file.name}"

    def copy_in_mirror() -> bytes | None:
        copy = tracking.local_copy(workspace, row.mlflow_run_id, name)
        is_right = copy is not None and hashlib.sha256(copy).hexdigest() == file.sha256
        return copy if is_right else None

    def restore() -> None:
        copy = copy_in_mirror()
        if copy is not None and fault(workspace, file) is not None:
            write_atomically(file.path_in(workspace), copy)

    def set_aside_if_bad() -> bool:
        wrong = fault(workspace, file)
        if wrong == DAMAGED:
            set_aside(workspace, file.path_in(workspace))
        return wrong is not None

    anew = "bench run --rerun makes it again"
    if copy_in_mirror() is not None:
        repair = partial(store.files.restore, file, restore)
        return "MLflow's copy of it is good", repair, False
    if isinstance(file, ArtifactFile):
        return f"the picture is lost, the run's numbers are not; {anew}", None, True
    if row.status not in TERMINAL or not is_newest:
        advice = "the run does not need it: an older one, or the start, takes its place"
        return advice, partial(store.files.drop_checkpoint, file, set_aside_if_bad), False
    return f"the trained state is lost, its metrics and curves are not; {anew}", None, True


def orphan_files(workspace: Workspace, store: ResultStore) -> Iterator[Finding]:
    """Find the files in this database's folders that it does not know; those of runs at work are
    theirs.
    """
    from harness.store.run_files import SET_ASIDE, Stray, files_of_database, set_aside

    def move(stray: Stray) -> None:
        set_aside(workspace, stray.path)

    # before the rows are read: what a run that ends meanwhile leaves is on record then
    present = list(files_of_database(workspace, store.database))
    for stray in sorted(store.files.strays(present), key=lambda stray: stray.path):
        kind = "picture" if stray.path.is_relative_to(workspace.pictures) else "checkpoint"
        text = f"{stray.path.relative_to(workspace.home)} belongs to no {kind} on record"
        advice = f"it is moved into the folder {SET_ASIDE}"
        yield Finding("orphan file", text, advice, partial(store.files.discard, [stray], move))


def mirror_faults(workspace: Workspace, store: ResultStore) -> Iterator[Finding]:
    """Find where MLflow and the database differ."""
    from harness import tracking

    remirror = partial(tracking.remirror, workspace, store)

    def delete(run_id: str, key: str) -> None:
        wrong = tracking.delete_copies(workspace, store, {run_id: key})
        if wrong:
            raise tracking.MirrorError(f"MLflow does not delete its run {run_id}: {wrong}")

    def make_again(run_id: str, key: str) -> None:
        store.clear_mirror([key])
        delete(run_id, key)
        remirror(key)

    seen = tracking.compare_copies(workspace, store)
    if isinstance(seen, str):
        advice = "results are safe; mirror them when it answers: bench doctor --repair"
        yield Finding("mirror", f"MLflow cannot be asked: {seen}", advice)
        return
    for key in seen.lost:
        text = f"MLflow lost its copy of run {key}"
        yield Finding("mirror", text, "it is made again", partial(remirror, key))
    for row in store.rows(store.behind()).values():
        if row.key not in seen.lost and row.status in TERMINAL | {Status.INTERRUPTED}:
            text = f"MLflow does not show run {row.key} as it is"
            yield Finding("mirror", text, "it is mirrored", partial(remirror, row.key))
    for run_id, (key, difference) in seen.edited.items():
        text = f"MLflow's copy of run {key} was edited: {difference}"
        yield Finding("mirror", text, "it is made again", partial(make_again, run_id, key))
    for run_id, key in seen.orphans.items():
        text = f"MLflow's run {run_id} ({key}) has no run in the database"
        yield Finding("mirror", text, "it is deleted there", partial(delete, run_id, key))


def bad_data() -> Iterator[Finding]:
    """Find the files of data sets that have other bytes than they should: nothing that trains
    would read them.
    """
    from harness.datasets.download import fetch
    from harness.datasets.files import KNOWN, verify

    def fetch_again(name: str) -> None:
        deque(fetch(name, force=True), maxlen=0)

    for name in KNOWN:
        for file in verify(name):
            if file.state == "wrong":
                advice = f"it is downloaded anew, as by bench data fetch {name} --force"
                yield Finding("data", file.reason, advice, partial(fetch_again, name))
