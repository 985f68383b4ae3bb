"""A search in MLflow: a parent run with what came out of it, over the runs of its trials."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.base.workspace import Workspace
from harness.store import ResultStore
from harness.tracking.fresh import DATABASE, connect, upload
from harness.tracking.runs import experiment_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "bench.search"


def show_search(
    workspace: Workspace,
    store: ResultStore,
    name: str,
    task: str,
    keys: dict[str, int],
    result: dict[str, Any],
    page: str,
) -> None:
    """Bring the parent run of a search to what is known of it, and put the runs of its trials under
    it.

    Args:
        workspace, store: where MLflow's and our results are.
        name, task: the search's name and its task's label.
        keys: the runs of its trials with the trials' numbers.
        result: what came out of it, as JSON.
        page: its figures as HTML.
    """
    client = connect(workspace, store)
    rows = store.rows(list(keys))
    copies = {key: copy for key, row in rows.items() if (copy := row.mlflow_run_id) is not None}
    parent = _parent(client, experiment_of(client, workspace, task), store, name, copies)
    for key, number in keys.items():
        if key in copies:
            client.set_tag(copies[key], "mlflow.parentRunId", parent)
            client.set_tag(copies[key], "trial", str(number))
    _write(client, workspace, parent, result, page)


def _parent(
    client: MlflowClient, place: str, store: ResultStore, name: str, copies: dict[str, str]
) -> str:
    """The parent run that bears this database's id, else one from before it had an id that is above
    a trial of ours, else a new one.
    """
    ours = client.search_runs(
        [place],
        f"tags.`{TAG}` = '{name}' AND tags.`{DATABASE}` = '{store.database}'",
        max_results=1,
    )
    if ours:
        return ours[0].info.run_id
    above = {
        client.get_run(copy).data.tags.get("mlflow.parentRunId")
        for copy in list(copies.values())[:1]
    }
    for run in client.search_runs([place], f"tags.`{TAG}` = '{name}'"):
        if run.info.run_id in above and DATABASE not in run.data.tags:
            client.set_tag(run.info.run_id, DATABASE, store.database)
            return run.info.run_id
    tags = {TAG: name, DATABASE: store.database, "mlflow.source.name": "bench"}
    return client.create_run(place, tags=tags, run_name=name).info.run_id


def _write(
    client: MlflowClient, workspace: Workspace, parent: str, result: dict[str, Any], page: str
) -> None:
    for name, value in (result["best"] or {"settings": {}})["settings"].items():
        client.set_tag(parent, f"bench.best.{name}", str(value))
    numbers = {
        "best_score": (result["best"] or {}).get("score"),
        "optimism_gap": result["optimism_gap"],
        "trials": result["trials"],
    }
    numbers |= {name: result[name]["mean"] for name in ("tuned", "untuned", "gain")}
    numbers |= {f"tuning_{name}": value for name, value in result["cost"].items()}
    for name, value in numbers.items():
        if value is not None:
            client.log_metric(parent, name, value)
    with tempfile.TemporaryDirectory(prefix="bench-mirror-") as folder:
        (Path(folder) / "figures.html").write_text(page, encoding="utf-8")
        (Path(folder) / "result.json").write_text(
            json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        upload(client, workspace, parent, Path(folder))
    client.set_terminated(parent)
