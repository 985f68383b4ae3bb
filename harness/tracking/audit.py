"""Whether MLflow still has what was mirrored to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from harness.spec import TERMINAL
from harness.store import ResultStore, RunRow
from harness.tracking.fresh import connect, is_missing, one_line
from harness.tracking.runs import params_of
from harness.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

PAGE = 1000


@dataclass(frozen=True)
class Copies:
    """What MLflow has: `lost` keys that it should show and does not, `orphans` (run id to key) that the database does not have,
    `edited` copies (run id to key and what differs)."""

    lost: list[str]
    orphans: dict[str, str]
    edited: dict[str, tuple[str, str]] = field(default_factory=dict)


def look(workspace: Workspace, store: ResultStore) -> Copies | str:
    """Compare MLflow's runs with the database, changing neither; a text where MLflow cannot be asked."""
    rows = {row.key: row for row in store.recent(10**9) if row.mlflow_run_id is not None}
    if is_missing(workspace):
        return Copies(sorted(rows), {})
    try:
        found = _runs(connect(workspace, store))
    except Exception as err:  # noqa: BLE001 - whatever MLflow raises, the results are safe
        return one_line(err, workspace.tracking_uri)
    lost = [key for key, row in rows.items() if row.mlflow_run_id not in found or _has_lost_files(store, row, found[row.mlflow_run_id])]
    known = {row.mlflow_run_id for row in rows.values()}
    orphans = {run_id: run.data.tags["bench.key"] for run_id, run in found.items() if run_id not in known}
    return Copies(sorted(lost), orphans, _edited(rows.values(), found))


def _edited(rows: Iterable[RunRow], found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """The copies whose parameters or tags are not those of their run, with the run's key and the first that differs."""
    edited = {}
    for row in rows:
        run = found.get(row.mlflow_run_id or "")
        if run is None or row.mirrored_revision < row.revision:
            continue
        wanted = {**params_of(row), "bench.key": row.key, "bench.cell": row.cell, "bench.task": row.task_label}
        wanted |= {"bench.seed": str(row.seed), "bench.status": row.status.value}
        shown = run.data.params | run.data.tags
        differing = [f"{name} is {shown.get(name)!r} and was {value!r}" for name, value in wanted.items() if shown.get(name) != value]
        if differing:
            edited[run.info.run_id] = (row.key, differing[0])
    return edited


def _runs(client: MlflowClient) -> dict[str, Any]:
    """Every living run of ours, by its id."""
    found: dict[str, Any] = {}
    for experiment in client.search_experiments():
        token = None
        while True:
            page = client.search_runs([experiment.experiment_id], "tags.`bench.key` LIKE '%'", max_results=PAGE, page_token=token)
            found |= {run.info.run_id: run for run in page}
            token = page.token
            if not token:
                break
    return found


def _has_lost_files(store: ResultStore, row: RunRow, run: Any) -> bool:
    """Whether the local folder of an ended run's files has lost any of the files that every ended run has."""
    parts = urlsplit(run.info.artifact_uri)
    if row.status not in TERMINAL or parts.scheme not in ("", "file") or row.mirrored_revision < row.revision:
        return False
    folder = Path(unquote(parts.path))
    wanted = [folder / "spec.json", folder / "environment.json"]
    wanted += [folder / "checkpoint" / f"{row.key}.safetensors" for _ in store.checkpoints(row.key)[:1]]
    return not all(path.exists() for path in wanted)


def delete_copies(workspace: Workspace, store: ResultStore, run_ids: Sequence[str]) -> str | None:
    """Delete some of MLflow's runs; returns what went wrong, or None."""
    if is_missing(workspace):
        return None
    try:
        client = connect(workspace, store)
        from mlflow.exceptions import MlflowException

        for run_id in run_ids:
            with suppress(MlflowException):  # gone already
                client.delete_run(run_id)
    except Exception as err:  # noqa: BLE001 - whatever MLflow raises, the database is right
        return one_line(err, workspace.tracking_uri)
    return None
