"""One run's copy in MLflow: made to show what the result database says."""

from __future__ import annotations

import getpass
import json
import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness.base.errors import shortened
from harness.base.spec import Status, digest
from harness.base.workspace import Workspace
from harness.store import Curve, Estimate, File, ResultStore, RunRow
from harness.store.run_files import read_verified
from harness.tracking.server import DATABASE, connect, is_ours, is_remote, upload

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric as Point
    from mlflow.entities import Run

STATUSES = {
    Status.QUEUED: "SCHEDULED",
    Status.RUNNING: "RUNNING",
    Status.DONE: "FINISHED",
    Status.DIVERGED: "FAILED",
    Status.FAILED: "FAILED",
    Status.TIMEOUT: "FAILED",
    Status.PRUNED: "KILLED",
    Status.INTERRUPTED: "KILLED",
}
ONGOING = (Status.QUEUED, Status.RUNNING)
# MLflow's limits; LONGEST is below its 6,000 characters of a parameter.
POINTS_A_CALL, LONGEST, LONGEST_NAME = 1000, 5000, 250
SEARCH = "bench.search"
LARGEST = sys.float_info.max
WRITTEN_TWICE, TRIES = re.compile("unique|duplicate", re.IGNORECASE), 3


def sync(
    client: MlflowClient,
    store: ResultStore,
    workspace: Workspace,
    key: str,
    stored: Callable[[], object] = lambda: None,
) -> None:
    """Bring MLflow's copy of a run to what the database says; a run that is not stored is left
    alone.

    `stored` is called when MLflow has taken points, and when it shows all.
    """
    from mlflow.exceptions import MlflowException

    shown_revision, tries = None, TRIES
    while (row := store.rows([key]).get(key)) is not None and row.revision != shown_revision:
        try:
            run_id = _copy(client, store, workspace, row, stored)
        except MlflowException as err:
            tries -= 1
            if not tries or not WRITTEN_TWICE.search(str(err)):
                raise
            continue  # another process wrote the same at once: it is there now
        shown_revision = row.revision
        # Whoever wrote an older revision last looks again here, so the newest one stays.
        newest = store.rows([key]).get(key)
        if newest is not None and newest.mlflow_run_id == run_id:
            store.mirrored(key, row.revision)
            stored()


def _copy(
    client: MlflowClient,
    store: ResultStore,
    workspace: Workspace,
    row: RunRow,
    stored: Callable[[], object],
) -> str:
    from mlflow.entities import Param, RunTag

    curves, metrics = store.curves(row.key), store.metrics([row.key]).get(row.key, {})
    for score in store.evaluations.of([row.key]):
        metrics[f"{score.name}/{score.evaluation}"] = score.estimate
    points = list(_points(row, curves, metrics))
    run = _run_of(client, store, workspace, row)
    missing = _missing(client, run, points)
    if missing is None:  # it has numbers of an attempt that is no longer in the database
        client.delete_run(run.info.run_id)
        _forget(store, replace(row, mlflow_run_id=run.info.run_id))
        run, missing = _run_of(client, store, workspace, replace(row, mlflow_run_id=None)), points
    run_id, tags = run.info.run_id, _tags(store, row, metrics)
    params = [Param(*each) for each in params_of(row).items() if each[0] not in run.data.params]
    changed = [RunTag(*tag) for tag in tags.items() if run.data.tags.get(tag[0]) != tag[1]]
    client.log_batch(run_id, params=params, tags=changed, synchronous=True)
    for name in run.data.tags.keys() - tags.keys():
        if name.startswith("bench."):
            client.delete_tag(run_id, name)
    for start in range(0, len(missing), POINTS_A_CALL):
        chunk = missing[start : start + POINTS_A_CALL]
        client.log_batch(run_id, metrics=chunk, synchronous=True)
        stored()
    if row.status in ONGOING:
        client.update_run(run_id, STATUSES[row.status])
    else:
        _upload(client, store, workspace, row, run_id, curves)
        ended = row.finished_at or store.history(row.key)[-1].at
        client.set_terminated(run_id, STATUSES[row.status], int(1000 * ended))
    return run_id


def _start_ms(row: RunRow) -> int:
    """Return when the run began, or was asked for; an attempt that was reset has another start."""
    return int(1000 * (row.created_at if row.started_at is None else row.started_at))


def experiment_of(client: MlflowClient, workspace: Workspace, name: str) -> str:
    """Return the task's experiment, made or restored where it is missing."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = None if is_remote(workspace) else workspace.artifacts.as_uri()
        try:
            return client.create_experiment(name, location)
        except MlflowException:
            experiment = client.get_experiment_by_name(name)
            if experiment is None:  # no other process was faster
                raise
    if experiment.lifecycle_stage == "deleted":
        with suppress(MlflowException):
            client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def _run_of(client: MlflowClient, store: ResultStore, workspace: Workspace, row: RunRow) -> Run:
    """Return the run's copy: the one the database names, else one with its tag, else a new one, and
    delete further ones.
    """
    experiment = experiment_of(client, workspace, row.task_label)
    named = _named_run(client, store, row)
    if named is not None and row.status in ONGOING:
        return named
    has_tags = f"tags.`bench.key` = '{row.key}' AND tags.`{DATABASE}` = '{store.database}'"
    copies = client.search_runs([experiment], has_tags)
    if named is not None:
        run_id = store.set_mlflow_run(row.key, named.info.run_id)
    else:
        start = _start_ms(row)
        fitting = sorted(copy.info.run_id for copy in copies if copy.info.start_time == start)
        if not fitting:
            tags = {"bench.key": row.key, DATABASE: store.database}
            with suppress(KeyError, OSError):  # a container may know no user
                tags["mlflow.user"] = getpass.getuser()
            created = client.create_run(experiment, start, tags, _run_name(row))
            fitting = [created.info.run_id]
        _forget(store, row)
        run_id = store.set_mlflow_run(row.key, fitting[0])
        copies = client.search_runs([experiment], has_tags)
    for copy in copies:
        if copy.info.run_id != run_id:
            client.delete_run(copy.info.run_id)
    return client.get_run(run_id)


def _named_run(client: MlflowClient, store: ResultStore, row: RunRow) -> Run | None:
    """Return the copy that the database names, restored where it was deleted; None where it is
    gone, another's, or of another start.
    """
    from mlflow.exceptions import MlflowException

    if row.mlflow_run_id is None:
        return None
    try:
        run = client.get_run(row.mlflow_run_id)
    except MlflowException as err:
        if err.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if run.info.start_time != _start_ms(row) or not is_ours(run, store, row.key, row.mlflow_run_id):
        return None
    if run.info.lifecycle_stage == "deleted":
        client.restore_run(run.info.run_id)
    return run


def _forget(store: ResultStore, row: RunRow) -> None:
    """Take back the name of a copy that is of no use, unless another process has named a new one
    meanwhile.
    """
    current = store.rows([row.key]).get(row.key)
    if current is not None and current.mlflow_run_id == row.mlflow_run_id is not None:
        store.clear_mirror([row.key])


def _run_name(row: RunRow) -> str:
    settings = ",".join(
        f"{name.removeprefix('method.')}="
        + (f"{value:.4g}" if isinstance(value, float) else _text(value))
        for name, value in sorted(row.settings.items())
    )
    return f"{row.method}{f'[{shortened(settings, 150)}]' if settings else ''} seed {row.seed}"


def title(row: RunRow) -> str:
    """Return what stands above a run's curves."""
    return f"{row.task_label}: {_run_name(row)}"


def _text(value: Any) -> str:
    """Return a plain value as one writes it: text as it stands, `none`, or JSON."""
    if value is None:
        return "none"
    return (value if isinstance(value, str) else json.dumps(value, sort_keys=True))[:LONGEST]


def params_of(row: RunRow) -> dict[str, str]:
    """Return every field of the spec by its address: `steps`, `lr`, `method.n_leapfrog`,
    `task.dim`.
    """
    prefixes = {"method_fields": "method.", "task_fields": "task."}
    params = {name: value for name, value in row.spec.items() if name not in prefixes}
    for group, prefix in prefixes.items():
        params |= {prefix + name: value for name, value in row.spec.get(group, {}).items()}
    return {name: _text(value) for name, value in params.items()}


def _tags(store: ResultStore, row: RunRow, metrics: dict[str, Estimate]) -> dict[str, str]:
    environment, _ = store.provenance([row.key])[row.key]
    not_finite = [
        f"{name} = {metric.value}"
        for name, metric in metrics.items()
        if not math.isfinite(metric.value)
    ]
    tags = {
        "bench.key": row.key,
        DATABASE: store.database,
        "bench.cell": row.cell,
        "bench.method": row.method_label,
        "bench.task": row.task_label,
        "bench.seed": str(row.seed),
        "bench.status": row.status.value,
        "bench.reason": row.reason,
        "bench.withdrawn": store.retractions.reasons([row.key]).get(row.key),
        "bench.protocol": row.protocol,
        "bench.version": str(environment.get("bench", harness.__version__)),
        "bench.not_finite": ", ".join(not_finite),  # MLflow shows an infinity as 1.8e308
        "mlflow.runName": _run_name(row),
        "mlflow.source.name": "bench",
        "mlflow.source.git.commit": environment.get("git_commit"),
    }
    return {name: shortened(str(value), LONGEST) for name, value in tags.items() if value}


def _points(row: RunRow, curves: dict[str, Curve], metrics: dict[str, Estimate]) -> Iterator[Point]:
    """Yield every number as MLflow keeps it. Times follow from start and step, so that sending one
    twice is sending it once.
    """
    from mlflow.entities import Metric as Point

    numbers = dict(curves)
    numbers |= {name: [(row.step, metric.value)] for name, metric in metrics.items()}
    for name, metric in metrics.items():
        if metric.se is not None:
            numbers[f"{name}_se"] = [(row.step, metric.se)]
    for name, curve in numbers.items():
        allowed = re.sub(r"[^/\w.\- ]", "_", name)
        if len(allowed) > LONGEST_NAME:  # a digest keeps it apart from others
            allowed = f"{allowed[: LONGEST_NAME - 17]}_{digest(name)}"
        for step, value in curve:
            value = value if math.isnan(value) else min(max(value, -LARGEST), LARGEST)
            yield Point(allowed, value, _start_ms(row) + step, step)


def _missing(client: MlflowClient, run: Run, points: Sequence[Point]) -> list[Point] | None:
    """Return the points that MLflow does not have; None where it has one that is not among them and
    no later one either.
    """
    missing = {(point.key, point.step): point for point in points}
    expected = dict(missing)
    last_step = {point.key: point.step for point in sorted(points, key=lambda point: point.step)}
    for name in last_step.keys() & run.data.metrics.keys():
        for mirrored in client.get_metric_history(run.info.run_id, name):
            point = expected.get((mirrored.key, mirrored.step))
            if point is None:
                # Later points were read from a newer state of the database.
                if mirrored.step <= last_step[name]:
                    return None
            # As text NaN equals itself.
            elif (repr(mirrored.value), mirrored.timestamp) != (
                repr(point.value),
                point.timestamp,
            ):
                return None
            missing.pop((mirrored.key, mirrored.step), None)
    return list(missing.values())


def _upload(
    client: MlflowClient,
    store: ResultStore,
    workspace: Workspace,
    row: RunRow,
    run_id: str,
    curves: dict[str, Curve],
) -> None:
    """Put the run's files beside its numbers."""
    from harness.training.curve_figures import learning_curves

    environment, plan = store.provenance([row.key])[row.key]
    about = {"environment": environment, "plan": plan or None}
    with tempfile.TemporaryDirectory(prefix="bench-mirror-") as name:
        folder = Path(name)
        _write_json(folder / "spec.json", row.spec)
        _write_json(folder / "environment.json", about)
        if any(curves.values()):
            (folder / "curves.png").write_bytes(learning_curves(curves, title(row)))
        files: dict[Path, File] = {
            folder / "pictures" / file.name: file for file in store.artifacts(row.key)
        }
        if checkpoints := store.checkpoints(row.key):
            files[folder / "checkpoint" / f"{row.key}.safetensors"] = checkpoints[0]
        for path, file in files.items():
            content = read_verified(workspace, file)
            if content is not None:  # the database may be shared, the file on another machine
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
        upload(client, workspace, run_id, folder)


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


# Searches


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
    it: `keys` has the trials' numbers, `result` is JSON, and `page` its figures as HTML.
    """
    client = connect(workspace, store)
    rows = store.rows(list(keys))
    copies = {key: run_id for key, row in rows.items() if (run_id := row.mlflow_run_id) is not None}
    experiment = experiment_of(client, workspace, task)
    is_parent = f"tags.`{SEARCH}` = '{name}' AND tags.`{DATABASE}` = '{store.database}'"
    parents = client.search_runs([experiment], is_parent, max_results=1)
    if not parents:
        tags = {SEARCH: name, DATABASE: store.database, "mlflow.source.name": "bench"}
        parents = [client.create_run(experiment, tags=tags, run_name=name)]
    parent = parents[0].info.run_id
    for key, run_id in copies.items():
        client.set_tag(run_id, "mlflow.parentRunId", parent)
        client.set_tag(run_id, "trial", str(keys[key]))
    best = result["best"] or {"settings": {}}
    for setting, value in best["settings"].items():
        client.set_tag(parent, f"bench.best.{setting}", str(value))
    numbers = {
        "best_score": best.get("score"),
        "optimism_gap": result["optimism_gap"],
        "trials": result["trials"],
        **{metric: result[metric]["mean"] for metric in ("tuned", "untuned", "gain")},
        **{f"tuning_{metric}": value for metric, value in result["cost"].items()},
    }
    for metric, value in numbers.items():
        if value is not None:
            client.log_metric(parent, metric, value)
    with tempfile.TemporaryDirectory(prefix="bench-mirror-") as folder:
        (Path(folder) / "figures.html").write_text(page, encoding="utf-8")
        _write_json(Path(folder) / "result.json", result)
        upload(client, workspace, parent, Path(folder))
    client.set_terminated(parent)
