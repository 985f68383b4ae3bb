"""Result databases with runs that nobody trained."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.base.spec import Description, NewRun, Plan, RunSpec, Status
from harness.base.workspace import Workspace
from harness.store import ArtifactFile, CheckpointFile, Estimate, Outcome, Owner, ResultStore

ENVIRONMENT = {
    "bench": "0.1.0",
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "python": "3.11.2",
}
METRICS = {
    "elbo": Estimate(-1234.5678901234567, 0.25),
    "elbo_gap": Estimate(0.1 + 0.2),
    "pareto_k": Estimate(0.3),
}


def spec(seed: int = 0, **method_fields: Any) -> RunSpec:
    """A small valid specification of a run on gaussian-2."""
    return RunSpec(
        method="hvae",
        method_version=1,
        method_fields={"n_leapfrog": 1, "tempering": "none", **method_fields},
        task="gaussian",
        task_version=1,
        task_fields={"dim": 2},
        seed=seed,
        steps=20_000,
        lr=0.01,
    )


def new_run(seed: int = 0, **method_fields: Any) -> NewRun:
    """The same as something to enqueue."""
    label = (
        "hvae-untempered"
        if spec(seed, **method_fields).method_fields["tempering"] == "none"
        else "hvae"
    )
    settings = {
        "method.n_leapfrog": 1,
        "method.tempering": "none",
        **{f"method.{name}": value for name, value in method_fields.items()},
    }
    return NewRun(
        spec(seed, **method_fields),
        "gaussian-2",
        settings,
        "source",
        "standard",
        Description(method=label, stacks=True, scores=2),
    )


def curves(seed: int = 0, points: int = 200) -> dict[str, list[tuple[int, float]]]:
    """Curves like those of a Gaussian task: a bound that comes from far below, and a gradient that
    falls.
    """
    steps = [100 * (number + 1) for number in range(points)]
    bound = [
        (
            step,
            -1234.5
            - seed
            - 1e8 * math.exp(-step / 200)
            - 900 * math.exp(-step / 3000)
            + math.sin(step),
        )
        for step in steps
    ]
    return {
        "bound": bound,
        "grad_norm": [(step, 1e5 * math.exp(-step / 1500) + 3 + math.cos(step)) for step in steps],
    }


def start(store: ResultStore, seeds: Sequence[int], **method_fields: Any) -> list[Any]:
    """Enqueue, claim and begin the runs of these seeds."""
    runs = [new_run(seed, **method_fields) for seed in seeds]
    keys = [run.spec.key for run in runs]
    store.enqueue(runs)
    claims = store.claim(keys, Owner.current())
    store.begin(claims, Plan(members=tuple(keys), threads=1, torch="2.13.0"), ENVIRONMENT)
    return claims


def write_file(workspace: Workspace, path: Path | str, content: bytes) -> None:
    """A file of the workspace."""
    target = workspace.home / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def sha256(content: bytes) -> str:
    """What a file with this content must hash to."""
    return hashlib.sha256(content).hexdigest()


def places(workspace: Workspace, claim: Any) -> tuple[Path, Path]:
    """Where a finished run's checkpoint and its picture lie."""
    return workspace.checkpoint_file(claim.edition, 20_000), workspace.picture_file(
        claim.edition, "samples.png"
    )


def finish(
    workspace: Workspace, store: ResultStore, claim: Any, status: Status = Status.DONE, **other: Any
) -> None:
    """End a run with curves, metrics, a picture and a checkpoint, of which `other` replaces
    some.
    """
    contents = [what + claim.key.encode() for what in (b"state of ", b"picture of ")]
    for place, content in zip(places(workspace, claim), contents, strict=True):
        write_file(workspace, place, content)
    state, picture = map(sha256, contents)
    left_behind = {
        "reason": None if status is Status.DONE else "for a test",
        "metrics": METRICS,
        "curves": curves(claim.seed),
        "checkpoint": CheckpointFile("final", 20_000, state, 25),
        "artifacts": [ArtifactFile("samples.png", picture, 27)],
    }
    store.finish(
        claim, Outcome(status=status, step=20_000, wall_s=12.5, **{**left_behind, **other})
    )


def fill(workspace: Workspace, seeds: Sequence[int]) -> list[str]:
    """Finished runs of these seeds in the workspace's result database; returns their keys."""
    with ResultStore.open(workspace.database_url) as store:
        claims = start(store, seeds)
        for claim in claims:
            finish(workspace, store, claim)
    return [claim.key for claim in claims]


def workspace_in(folder: Path, **environment: str) -> Workspace:
    """A workspace of its own."""
    workspace = Workspace(folder, environment)
    workspace.prepare()
    return workspace
