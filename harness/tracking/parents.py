"""A search in MLflow: a parent run with what came out of it, over the runs of its trials."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.store import ResultStore
from harness.tracking.fresh import connect
from harness.tracking.runs import experiment_of
from harness.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "bench.search"


def show_search(
    workspace: Workspace, store: ResultStore, name: str, task: str, keys: dict[str, int], result: dict[str, Any], page: str
) -> None:
    """Bring the parent run of a search to what is known of it, and put the runs of its trials under it.

    Args:
        workspace, store: where MLflow's and our results are.
        name, task: the search's name and its task's label.
        keys: the runs of its trials with the trials' numbers.
        result: what came out of it, as JSON.
        page: its figures as HTML.
    """
    client = connect(workspace, store)
    parent = _parent(client, experiment_of(client, workspace, task), name)
    rows = store.rows(list(keys))
    for key, number in keys.items():
        copy = rows[key].mlflow_run_id if key in rows else None
        if copy is not None:
            client.set_tag(copy, "mlflow.parentRunId", parent)
            client.set_tag(copy, "trial", str(number))
    _write(client, parent, result, page)


def _parent(client: MlflowClient, place: str, name: str) -> str:
    found = client.search_runs([place], f"tags.`{TAG}` = '{name}'", max_results=1)
    return (
        found[0].info.run_id
        if found
        else client.create_run(place, tags={TAG: name, "mlflow.source.name": "bench"}, run_name=name).info.run_id
    )


def _write(client: MlflowClient, parent: str, result: dict[str, Any], page: str) -> None:
    for name, value in (result["best"] or {"settings": {}})["settings"].items():
        client.set_tag(parent, f"bench.best.{name}", str(value))
    numbers = {"best_score": (result["best"] or {}).get("score"), "optimism_gap": result["optimism_gap"], "trials": result["trials"]}
    numbers |= {name: result[name]["mean"] for name in ("tuned", "untuned", "gain")}
    numbers |= {f"tuning_{name}": value for name, value in result["cost"].items()}
    for name, value in numbers.items():
        if value is not None:
            client.log_metric(parent, name, value)
    with tempfile.TemporaryDirectory(prefix="bench-mirror-") as folder:
        (Path(folder) / "figures.html").write_text(page, encoding="utf-8")
        (Path(folder) / "result.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        client.log_artifacts(parent, folder)
    client.set_terminated(parent)
