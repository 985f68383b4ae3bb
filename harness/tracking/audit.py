"""Whether MLflow still has what was mirrored to it, and what it has of this database beside that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from harness.base.spec import TERMINAL
from harness.base.workspace import Workspace
from harness.store import CheckpointFile, ResultStore, RunRow
from harness.store.run_files import read_verified
from harness.tracking.runs import params_of, sync
from harness.tracking.server import DATABASE, MirrorError, connect, is_missing, is_ours, one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PAGE = 1000


@dataclass(frozen=True)
class Copies:
    """What MLflow has: `lost` keys that it should show and does not, `orphans` (run id to key) that
    the database does not have, `edited` copies (run id to key and what differs).
    """

    lost: list[str]
    orphans: dict[str, str]
    edited: dict[str, tuple[str, str]] = field(default_factory=dict)


def look(workspace: Workspace, store: ResultStore) -> Copies | str:
    """Compare MLflow's runs with the database, changing neither; a text where MLflow cannot be
    asked.

    What others mirror meanwhile is neither lost nor an orphan: what was on record before is looked
    for, and what MLflow has is held against what is on record afterwards.
    """
    before = store.copies()
    try:
        runs = {} if is_missing(workspace) else _runs(connect(workspace, store))
    except Exception as err:  # noqa: BLE001 - whatever MLflow raises, the results are safe
        return one_line(err, workspace.tracking_uri)
    after = {row.key: row for row in store.recent(10**9)}
    ours = {
        run_id: run
        for run_id, run in runs.items()
        if is_ours(
            run,
            store,
            key := run.data.tags["bench.key"],
            after[key].mlflow_run_id if key in after else None,
        )
    }
    files = store.files.checkpoints()

    def is_lost(row: RunRow) -> bool:
        run = ours.get(row.mlflow_run_id or "")
        return before.get(row.key) == row.mlflow_run_id is not None and (
            run is None or _has_lost_files(workspace, files, row, run)
        )

    lost = sorted(row.key for row in after.values() if is_lost(row))
    keys = {run_id: run.data.tags["bench.key"] for run_id, run in ours.items()}
    named = {row.mlflow_run_id for row in after.values()}
    orphans = {
        run_id: key
        for run_id, key in keys.items()
        if run_id not in named and _is_orphan(after, run_id, key)
    }
    return Copies(lost, orphans, _edited(after.values(), ours))


def _edited(rows: Iterable[RunRow], found: dict[str, Run]) -> dict[str, tuple[str, str]]:
    """The copies whose parameters or tags are not those of their run, with the run's key and the
    first that differs.
    """
    edited = {}
    for row in rows:
        run = found.get(row.mlflow_run_id or "")
        if run is None or row.mirrored_revision < row.revision:
            continue
        wanted = {
            **params_of(row),
            "bench.key": row.key,
            "bench.cell": row.cell,
            "bench.task": row.task_label,
        }
        wanted |= {"bench.seed": str(row.seed), "bench.status": row.status.value}
        shown = run.data.params | run.data.tags
        differing = [
            f"{name} is {shown.get(name)!r} and was {value!r}"
            for name, value in wanted.items()
            if shown.get(name) != value
        ]
        if differing:
            edited[run.info.run_id] = (row.key, differing[0])
    return edited


def _is_orphan(rows: Mapping[str, RunRow], run_id: str, key: str) -> bool:
    """Whether no row has this copy. Of a run that is to be mirrored still, the mirror itself
    removes what is too much.
    """
    row = rows.get(key)
    return row is None or (row.mlflow_run_id != run_id and row.mirrored_revision >= row.revision)


def _runs(client: MlflowClient) -> dict[str, Run]:
    """Every living run with a key of ours, by its id."""
    found: dict[str, Run] = {}
    for experiment in client.search_experiments():
        token = None
        while True:
            page = client.search_runs(
                [experiment.experiment_id],
                "tags.`bench.key` LIKE '%'",
                max_results=PAGE,
                page_token=token,
            )
            found |= {run.info.run_id: run for run in page}
            token = page.token
            if not token:
                break
    return found


def _has_lost_files(
    workspace: Workspace, files: Mapping[str, list[CheckpointFile]], row: RunRow, run: Run
) -> bool:
    """Whether the local folder of an ended run's files has lost any of those that it could have."""
    parts = urlsplit(run.info.artifact_uri)
    if (
        row.status not in TERMINAL
        or parts.scheme not in ("", "file")
        or row.mirrored_revision < row.revision
    ):
        return False
    folder = Path(unquote(parts.path))
    if not (folder / "spec.json").exists() or not (folder / "environment.json").exists():
        return True
    has_checkpoint = (folder / "checkpoint" / f"{row.key}.safetensors").exists()
    return not has_checkpoint and any(
        read_verified(workspace, file) is not None for file in files.get(row.key, [])[:1]
    )


def remirror(workspace: Workspace, store: ResultStore, key: str) -> None:
    """Bring MLflow's copy of a run to what the database says.

    Raises:
        MirrorError: MLflow does not take it.
    """
    try:
        sync(connect(workspace, store), store, workspace, key)
    except Exception as err:
        raise MirrorError(
            f"MLflow does not take run {key}: {one_line(err, workspace.tracking_uri)}"
        ) from err


def delete_copies(
    workspace: Workspace, store: ResultStore, run_ids: Mapping[str, str]
) -> str | None:
    """Delete some of MLflow's runs, given with their keys, if they are this database's; returns
    what went wrong, or None.
    """
    if is_missing(workspace):
        return None
    try:
        client = connect(workspace, store)
        for run_id, key in run_ids.items():
            _delete_copy(client, store, run_id, key)
    except Exception as err:  # noqa: BLE001 - whatever MLflow raises, the database is right
        return one_line(err, workspace.tracking_uri)
    return None


def _delete_copy(client: MlflowClient, store: ResultStore, run_id: str, key: str) -> None:
    """Delete a copy that the database does not name, unless another process names it meanwhile."""
    from mlflow.exceptions import MlflowException

    def is_named() -> bool:
        row = store.rows([key]).get(key)
        return row is not None and row.mlflow_run_id == run_id

    try:
        run = client.get_run(run_id)
        ours = run.data.tags.get(DATABASE) == store.database or is_ours(run, store, key, run_id)
        if ours and run.info.lifecycle_stage == "active" and not is_named():
            client.delete_run(run_id)
            if is_named():
                client.restore_run(run_id)
    except MlflowException as err:
        if err.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
