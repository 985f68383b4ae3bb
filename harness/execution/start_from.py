"""The first parameters of a run that starts from another's: `bench run --from KEY`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from harness.api import Params
from harness.base.errors import UsageError
from harness.base.spec import NewRun, RunSpec, Status
from harness.base.workspace import Workspace
from harness.plan import registry
from harness.plan.plugin_source import Source
from harness.store import ResultStore
from harness.training import model
from harness.training.loop import State, initial_leaves

SourceOf = Callable[[str], Source]


def find_start_run(store: ResultStore, key: str) -> RunSpec:
    """Return the spec of a run from which others may start.

    Args:
        key: the run's key, or as much of it as is one run's alone.

    Raises:
        UnknownName: there is no such run, or there are several.
        UsageError: it has no result, is retracted, or has no checkpoint.
    """
    row = store.find_one(key)
    remedy = "Start from a run that is done: bench list runs --status done."
    if row.status is not Status.DONE:
        raise UsageError(f"Run {row.key} is {row.status.value}, not done. {remedy}")
    if reason := store.retractions.reasons([row.key]).get(row.key):
        raise UsageError(f"Run {row.key} is retracted ({reason}). {remedy}")
    if not store.checkpoints(row.key):
        raise UsageError(f"Run {row.key} has no checkpoint here. {remedy}")
    return RunSpec.from_plain(row.spec)


def check_start_runs(
    store: ResultStore, workspace: Workspace, source_of: SourceOf, runs: Iterable[NewRun]
) -> None:
    """Refuse runs that cannot start from the run they name, before anything is queued.

    Raises: as `start_from`.
    """
    cells = {run.spec.cell: run.spec for run in runs if run.spec.start_from is not None}
    for spec in cells.values():
        method, task = registry.load(spec, source_of)
        leaves = initial_leaves(method, task, spec.base, spec.seed)
        _shared_leaves(
            store, workspace, source_of, spec, {name: leaves[name].shape for name in leaves}
        )


def _shared(spec: RunSpec, start_run: RunSpec) -> tuple[str, ...]:
    """Return which parameters a run takes: those of the task, those of the method, or both."""
    same = {"task.": spec.task == start_run.task, "method.": spec.method == start_run.method}
    shared = tuple(prefix for prefix, is_same in same.items() if is_same)
    if not shared:
        raise UsageError(
            f"Run {start_run.key} is of {start_run.method} on {start_run.task}: {spec.method} on "
            f"{spec.task} shares no parameters with it. Start from a run of the same method or "
            "the same task."
        )
    return shared


def _shared_leaves(
    store: ResultStore,
    workspace: Workspace,
    source_of: SourceOf,
    spec: RunSpec,
    shapes: dict[str, torch.Size],
) -> Params:
    """Return the parameters that a run takes, [1, *event], of those that it has."""
    start_run = find_start_run(store, spec.start_from or "")
    shared = _shared(spec, start_run)
    file = store.checkpoints(start_run.key)[0]
    method, task = registry.load(start_run, source_of)
    trained = model.stored(start_run, method, task, file.path_in(workspace), file.sha256)
    leaves = {f"task.{name}": leaf for name, leaf in trained.theta.items()}
    leaves |= {f"method.{name}": leaf for name, leaf in trained.phi.items()}
    shared_leaves = {
        name: leaf for name, leaf in leaves.items() if name in shapes and name.startswith(shared)
    }
    for name, leaf in shared_leaves.items():
        if leaf.shape[1:] != shapes[name]:
            raise UsageError(
                f"{spec.method} on {spec.task} cannot start from run {start_run.key}: {name} is "
                f"{list(leaf.shape[1:])} there and {list(shapes[name])} here. Give both the same "
                "fields."
            )
    return shared_leaves


def start_from(
    store: ResultStore, workspace: Workspace, source_of: SourceOf, spec: RunSpec, state: State
) -> str:
    """Give a state before its first step the parameters of `spec.start_from` that are scored, and
    return a sentence that says which.

    It takes `task.*` where the task is the same and `method.*` where the method is, as far as both
    runs have a parameter: with `base=prior` there is none of a learned base.

    Args:
        source_of: the text of a plugin that is not installed.

    Raises:
        UsageError: that run is missing, or a parameter has another shape there.
        CheckpointError: its file is missing or damaged.
        PluginError: its code may not run here.
    """
    shapes = state.layout.shapes
    replaced = _shared_leaves(store, workspace, source_of, spec, shapes)
    values, R = state.layout.views(state.flat) | replaced, len(state.flat)
    columns = [values[name].expand(R, *shape).reshape(R, -1) for name, shape in shapes.items()]
    state.flat = torch.cat([column.to(state.flat) for column in columns], -1)
    state.start, state.is_warm = state.flat.clone(), True
    state.window_start = state.flat[: len(state.window_start)].clone()
    unchanged = [name for name in shapes if name not in replaced]
    return f"Starts from {', '.join(replaced)} of run {spec.start_from}." + (
        f" {', '.join(unchanged)}: as without it." if unchanged else ""
    )
