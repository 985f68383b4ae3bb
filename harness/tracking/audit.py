"""Whether MLflow still has what was mirrored to it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from harness.errors import BenchError
from harness.spec import TERMINAL
from harness.store import ResultStore, RunRow
from harness.tracking.fresh import connect, is_missing
from harness.tracking.process import one_line
from harness.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

PAGE = 1000


class MirrorError(BenchError):
    """MLflow does not take what it is given."""


@dataclass(frozen=True)
class Copies:
    """What MLflow has: `lost` keys that it should show and does not, `orphans` (run id to key) that the database does not have."""

    lost: list[str]
    orphans: dict[str, str]


def look(workspace: Workspace, store: ResultStore) -> Copies | str:
    """Compare MLflow's runs with the database, changing neither; a text where MLflow cannot be asked."""
    rows = {row.key: row for row in store.recent(10**9) if row.mlflow_run_id is not None}
    if is_missing(workspace):
        return Copies(sorted(rows), {})
    try:
        found = _runs(connect(workspace, store))
    except Exception as err:  # noqa: BLE001 - whatever MLflow raises, the results are safe
        return one_line(err)
    lost = [key for key, row in rows.items() if row.mlflow_run_id not in found or _has_lost_files(store, row, found[row.mlflow_run_id])]
    known = {row.mlflow_run_id for row in rows.values()}
    return Copies(sorted(lost), {run_id: run.data.tags["bench.key"] for run_id, run in found.items() if run_id not in known})


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
        return one_line(err)
    return None
