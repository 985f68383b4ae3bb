"""Whether MLflow still has what was mirrored to it, and what it has of this database beside
that.
"""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True)
class Copies:
    """What MLflow has: `lost` keys that it should show and does not, `orphans` (run id to key) that
    the database does not have, `edited` copies (run id to key and what differs).
    """

    lost: list[str]
    orphans: dict[str, str]
    edited: dict[str, tuple[str, str]] = field(default_factory=dict)


def compare_copies(workspace: Workspace, store: ResultStore) -> Copies | str:
    """Compare MLflow's runs with the database, changing neither; return a text where MLflow cannot
    be asked.

    What was on record at the start is looked for, and what MLflow has is held against what is on
    record at the end: what others mirror meanwhile is neither lost nor an orphan.
    """
    recorded = store.copies()
    try:
        runs = {} if is_missing(workspace) else _all_runs(connect(workspace, store))
    except Exception as err:  # noqa: BLE001 - whatever MLflow raises, the results are safe
        return one_line(err, workspace.tracking_uri)
    rows = {row.key: row for row in store.recent(10**9)}
    keys: dict[str, str] = {}  # of the runs of MLflow that are this database's
    for run_id, run in runs.items():
        key = run.data.tags["bench.key"]
        if is_ours(run, store, key, rows[key].mlflow_run_id if key in rows else None):
            keys[run_id] = key
    files = store.files.on_record(CheckpointFile)
    lost: list[str] = []
    edited: dict[str, tuple[str, str]] = {}
    for key, row in rows.items():
        run_id = row.mlflow_run_id or ""
        if recorded.get(key) == row.mlflow_run_id is not None and (
            run_id not in keys or _has_lost_files(workspace, files.get(key, []), row, runs[run_id])
        ):
            lost.append(key)
        if run_id in keys and _is_mirrored(row) and (edit := _difference(row, runs[run_id])):
            edited[run_id] = (key, edit)
    # Of a run that is to be mirrored still, the mirror itself removes what is too much.
    named = {row.mlflow_run_id for row in rows.values()}
    orphans = {
        run_id: key
        for run_id, key in keys.items()
        if run_id not in named and (key not in rows or _is_mirrored(rows[key]))
    }
    return Copies(sorted(lost), orphans, edited)


def _all_runs(client: MlflowClient) -> dict[str, Run]:
    """Return every living run with a key of ours, by its id."""
    runs: dict[str, Run] = {}
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    token: str | None = ""
    while token is not None:
        has_key = "tags.`bench.key` LIKE '%'"
        page = client.search_runs(experiments, has_key, max_results=1000, page_token=token or None)
        runs |= {run.info.run_id: run for run in page}
        token = page.token or None
    return runs


def _is_mirrored(row: RunRow) -> bool:
    return row.mirrored_revision >= row.revision


def _difference(row: RunRow, run: Run) -> str | None:
    """Return the first parameter or tag of a copy that is not that of its run."""
    expected = {
        **params_of(row),
        "bench.key": row.key,
        "bench.cell": row.cell,
        "bench.task": row.task_label,
        "bench.seed": str(row.seed),
        "bench.status": row.status.value,
    }
    copied = run.data.params | run.data.tags
    for name, value in expected.items():
        if copied.get(name) != value:
            return f"{name} is {copied.get(name)!r} and was {value!r}"
    return None


def _has_lost_files(
    workspace: Workspace, checkpoints: list[CheckpointFile], row: RunRow, run: Run
) -> bool:
    """Say whether the local folder of an ended run has lost a file that it could have."""
    address = urlsplit(run.info.artifact_uri)
    if row.status not in TERMINAL or address.scheme not in ("", "file") or not _is_mirrored(row):
        return False
    folder = Path(unquote(address.path))
    if not (folder / "spec.json").exists() or not (folder / "environment.json").exists():
        return True
    if not checkpoints or (folder / "checkpoint" / f"{row.key}.safetensors").exists():
        return False
    return read_verified(workspace, checkpoints[0]) is not None


def remirror(workspace: Workspace, store: ResultStore, key: str) -> None:
    """Bring MLflow's copy of a run to what the database says.

    Raises:
        MirrorError: MLflow does not take it.
    """
    try:
        sync(connect(workspace, store), store, workspace, key)
    except Exception as err:
        reason = one_line(err, workspace.tracking_uri)
        raise MirrorError(f"MLflow does not take run {key}: {reason}") from err


def delete_copies(
    workspace: Workspace, store: ResultStore, run_ids: Mapping[str, str]
) -> str | None:
    """Delete some of MLflow's runs, given with their keys, if they are this database's; return what
    went wrong.
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
