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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness.base.errors import BenchError, shortened
from harness.base.spec import Status, digest
from harness.base.workspace import Workspace
from harness.store import Curve, File, Metric, ResultStore, RunRow
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
ONGOING = frozenset({Status.QUEUED, Status.RUNNING})
# MLflow's limits; LONGEST is below its 6,000 characters of a parameter
PARAMS_A_CALL, POINTS_A_CALL, LONGEST, LONGEST_NAME = 100, 1000, 5000, 250
SEARCH = "bench.search"
LARGEST = sys.float_info.max
Stored = Callable[[int, int], object]  # takes the revision, and how many points were missing before
WRITTEN_TWICE, TRIES = re.compile("unique|duplicate", re.IGNORECASE), 3


def sync(
    client: MlflowClient,
    store: ResultStore,
    workspace: Workspace,
    key: str,
    stored: Stored = lambda *_: None,
) -> None:
    """Bring MLflow's copy of a run to what the database says; a run that is not stored is left
    alone.

    `stored` is called when MLflow has taken points, and when it shows all.
    """
    from mlflow.exceptions import MlflowException

    seen, tries = None, TRIES
    while (row := store.rows([key]).get(key)) is not None and row.revision != seen:
        try:
            run_id = _copy(client, store, workspace, row, stored)
        except MlflowException as err:
            tries -= 1
            if not tries or not WRITTEN_TWICE.search(str(err)):
                raise
            continue  # another process wrote the same at once: it is found there now
        seen = row.revision
        # Whoever wrote an older revision last looks again here, so the newest one stays.
        now = store.rows([key]).get(key)
        if now is not None and now.mlflow_run_id == run_id:
            store.mirrored(key, row.revision)
            stored(row.revision, 0)


def _copy(
    client: MlflowClient, store: ResultStore, workspace: Workspace, row: RunRow, stored: Stored
) -> str:
    curves, metrics = store.curves(row.key), store.metrics([row.key]).get(row.key, {})
    points = list(_points(row, curves, metrics))
    run = _run_of(client, store, workspace, row)
    missing = _missing(client, run, points)
    if missing is None:  # numbers of an attempt that is no longer in the database
        client.delete_run(run.info.run_id)
        _forget(store, replace(row, mlflow_run_id=run.info.run_id))
        run, missing = _run_of(client, store, workspace, replace(row, mlflow_run_id=None)), points
    run_id = run.info.run_id
    _write(
        client,
        run,
        params_of(row),
        _tags(store, row, metrics),
        missing,
        partial(stored, row.revision),
    )
    if row.status in ONGOING:
        client.update_run(run_id, STATUSES[row.status])
    else:
        _upload(client, store, workspace, row, run_id, curves)
        ended = row.finished_at or store.history(row.key)[-1].at
        client.set_terminated(run_id, STATUSES[row.status], int(1000 * ended))
    return run_id


def _start_ms(row: RunRow) -> int:
    """When the run began, or was asked for: a copy with another start is one of an attempt that was
    reset.
    """
    return int(1000 * (row.created_at if row.started_at is None else row.started_at))


def experiment_of(client: MlflowClient, workspace: Workspace, name: str) -> str:
    """The task's experiment, made or restored where it is missing."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        with suppress(MlflowException):  # another process may be first: asking again tells
            client.create_experiment(
                name, None if is_remote(workspace) else workspace.artifacts.as_uri()
            )
        found = client.get_experiment_by_name(name)
    if found is None:
        raise BenchError(f"MLflow makes no experiment named '{name}'.")
    if found.lifecycle_stage == "deleted":
        with suppress(MlflowException):
            client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _run_of(client: MlflowClient, store: ResultStore, workspace: Workspace, row: RunRow) -> Run:
    """The run's copy: the one the database names, else one with its tag, else a new one; further
    ones are deleted.
    """
    experiment = experiment_of(client, workspace, row.task_label)
    named = _named_run(client, store, row)
    if named is not None and row.status in ONGOING:
        return named
    tagged = f"tags.`bench.key` = '{row.key}' AND tags.`{DATABASE}` = '{store.database}'"
    copies = client.search_runs([experiment], tagged)
    fitting = sorted(copy.info.run_id for copy in copies if copy.info.start_time == _start_ms(row))
    if named is not None:
        chosen = named.info.run_id
    else:
        chosen = fitting[0] if fitting else _new_run(client, experiment, store, row)
        _forget(store, row)
    stored = store.set_mlflow_run(row.key, chosen)
    for copy in copies if named is not None else client.search_runs([experiment], tagged):
        if copy.info.run_id != stored:
            client.delete_run(copy.info.run_id)
    return client.get_run(stored)


def _named_run(client: MlflowClient, store: ResultStore, row: RunRow) -> Run | None:
    """The copy that the database names, restored where it was deleted; None where it is gone,
    another's, or of another start.
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


def _new_run(client: MlflowClient, experiment: str, store: ResultStore, row: RunRow) -> str:
    tags = {"bench.key": row.key, DATABASE: store.database}
    with suppress(KeyError, OSError):  # a container may know no user
        tags["mlflow.user"] = getpass.getuser()
    return client.create_run(experiment, _start_ms(row), tags, _run_name(row)).info.run_id


def _forget(store: ResultStore, row: RunRow) -> None:
    """Take back the name of a copy that is of no use, unless another process has named a new one
    meanwhile.
    """
    now = store.rows([row.key]).get(row.key)
    if row.mlflow_run_id is not None and now is not None and now.mlflow_run_id == row.mlflow_run_id:
        store.clear_mirror([row.key])


def _run_name(row: RunRow) -> str:
    shown = {
        name: f"{value:.4g}" if isinstance(value, float) else _text(value)
        for name, value in row.settings.items()
    }
    settings = ",".join(
        f"{name.removeprefix('method.')}={value}" for name, value in sorted(shown.items())
    )
    return f"{row.method}{f'[{shortened(settings, 150)}]' if settings else ''} seed {row.seed}"


def title(row: RunRow) -> str:
    """What stands above a run's curves."""
    return f"{row.task_label}: {_run_name(row)}"


def _text(value: Any) -> str:
    """A plain value as one writes it: text as it stands, `none`, or JSON."""
    if value is None:
        return "none"
    return (value if isinstance(value, str) else json.dumps(value, sort_keys=True))[:LONGEST]


def params_of(row: RunRow) -> dict[str, str]:
    """Every field of the spec by its address: `steps`, `lr`, `method.n_leapfrog`, `task.dim`."""
    nested = {"method_fields": "method.", "task_fields": "task."}
    flat = {name: value for name, value in row.spec.items() if name not in nested}
    for group, prefix in nested.items():
        flat |= {prefix + name: value for name, value in row.spec.get(group, {}).items()}
    return {name: _text(value) for name, value in flat.items()}


def _tags(store: ResultStore, row: RunRow, metrics: dict[str, Metric]) -> dict[str, str]:
    environment = store.environment(row.key)
    odd = [
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
        "bench.not_finite": ", ".join(odd),  # MLflow shows an infinity as 1.8e308
        "mlflow.runName": _run_name(row),
        "mlflow.source.name": "bench",
        "mlflow.source.git.commit": environment.get("git_commit"),
    }
    return {name: shortened(str(value), LONGEST) for name, value in tags.items() if value}


def _points(row: RunRow, curves: dict[str, Curve], metrics: dict[str, Metric]) -> Iterator[Point]:
    """Every number as MLflow keeps it. The times follow from the start and the step, so that
    sending one twice is sending it once.
    """
    from mlflow.entities import Metric as Point

    scores = {name: metric.value for name, metric in metrics.items()}
    scores |= {f"{name}_se": metric.se for name, metric in metrics.items() if metric.se is not None}
    for name, curve in {
        **curves,
        **{name: [(row.step, value)] for name, value in scores.items()},
    }.items():
        allowed = _allowed(name)
        for step, value in curve:
            yield Point(
                allowed,
                value if math.isnan(value) else min(max(value, -LARGEST), LARGEST),
                _start_ms(row) + step,
                step,
            )


def _allowed(name: str) -> str:
    """The name of a number as MLflow takes it: of a longer one the beginning, and a digest that
    keeps it apart from others.
    """
    allowed = re.sub(r"[^/\w.\- ]", "_", name)
    return (
        allowed
        if len(allowed) <= LONGEST_NAME
        else f"{allowed[: LONGEST_NAME - 17]}_{digest(name)}"
    )


def _missing(client: MlflowClient, run: Run, points: Sequence[Point]) -> list[Point] | None:
    """The points that MLflow has not; None where it has one that is not among them and no later one
    either.
    """
    wanted = {(point.key, point.step): point for point in points}
    last = {point.key: point.step for point in sorted(points, key=lambda point: point.step)}
    seen = set()
    for name in last.keys() & run.data.metrics.keys():
        for has in client.get_metric_history(run.info.run_id, name):
            point = wanted.get((has.key, has.step))
            # As text NaN equals itself. Later points were read from a newer state of the database.
            if (
                (has.step <= last[name])
                if point is None
                else (repr(has.value), has.timestamp) != (repr(point.value), point.timestamp)
            ):
                return None
            seen.add((has.key, has.step))
    return [point for place, point in wanted.items() if place not in seen]


def _write(
    client: MlflowClient,
    run: Run,
    params: dict[str, str],
    tags: dict[str, str],
    points: Sequence[Point],
    stored: Callable[[int], object],
) -> None:
    from mlflow.entities import Param, RunTag

    run_id = run.info.run_id
    new = [Param(name, value) for name, value in params.items() if name not in run.data.params]
    changed = [RunTag(*tag) for tag in tags.items() if run.data.tags.get(tag[0]) != tag[1]]
    client.log_batch(run_id, params=new[:PARAMS_A_CALL], tags=changed, synchronous=True)
    for start in range(PARAMS_A_CALL, len(new), PARAMS_A_CALL):
        client.log_batch(run_id, params=new[start : start + PARAMS_A_CALL], synchronous=True)
    for start in range(0, len(points), POINTS_A_CALL):
        client.log_batch(run_id, metrics=points[start : start + POINTS_A_CALL], synchronous=True)
        stored(len(points) - start)
    for name in run.data.tags.keys() - tags.keys():
        if name.startswith("bench."):
            client.delete_tag(run_id, name)


def _upload(
    client: MlflowClient,
    store: ResultStore,
    workspace: Workspace,
    row: RunRow,
    run_id: str,
    curves: dict[str, Curve],
) -> None:
    """Put the run's files beside its numbers: spec, environment and plan, learning curves, the last
    checkpoint, its pictures.
    """
    from harness.training.figures import learning_curves

    plan = store.plan(row.key)
    about = {
        "environment": store.environment(row.key),
        "plan": plan.model_dump(mode="json") if plan else None,
    }
    with tempfile.TemporaryDirectory(prefix="bench-mirror-") as name:
        folder = Path(name)
        for file, value in (("spec.json", row.spec), ("environment.json", about)):
            (folder / file).write_text(
                json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n",
                encoding="utf-8",
            )
        if any(curves.values()):
            (folder / "curves.png").write_bytes(learning_curves(curves, title(row)))
        kept: dict[str, File] = {
            f"checkpoint/{row.key}.safetensors": file for file in store.checkpoints(row.key)[:1]
        }
        kept |= {f"pictures/{file.name}": file for file in store.artifacts(row.key)}
        for target, file in kept.items():
            found = read_verified(workspace, file)
            if found is not None:  # the database may be shared, the file on another machine
                (folder / target).parent.mkdir(exist_ok=True)
                (folder / target).write_bytes(found)
        upload(client, workspace, run_id, folder)


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
    _write_search(client, workspace, parent, result, page)


def _parent(
    client: MlflowClient, place: str, store: ResultStore, name: str, copies: dict[str, str]
) -> str:
    """The parent run that bears this database's id, else one from before it had an id that is above
    a trial of ours, else a new one.
    """
    ours = client.search_runs(
        [place],
        f"tags.`{SEARCH}` = '{name}' AND tags.`{DATABASE}` = '{store.database}'",
        max_results=1,
    )
    if ours:
        return ours[0].info.run_id
    above = {
        client.get_run(copy).data.tags.get("mlflow.parentRunId")
        for copy in list(copies.values())[:1]
    }
    for run in client.search_runs([place], f"tags.`{SEARCH}` = '{name}'"):
        if run.info.run_id in above and DATABASE not in run.data.tags:
            client.set_tag(run.info.run_id, DATABASE, store.database)
            return run.info.run_id
    tags = {SEARCH: name, DATABASE: store.database, "mlflow.source.name": "bench"}
    return client.create_run(place, tags=tags, run_name=name).info.run_id


def _write_search(
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
