"""Result databases to compare: finished runs with invented scores."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import filled_store

from harness.base.spec import NewRun, Plan, Status
from harness.base.workspace import Workspace
from harness.plan.grid import expand
from harness.store import Estimate, Outcome, Owner, ResultStore

HOSTILE = ("a_b", "50%", "a|b", "=1+1", "<script>alert(1)</script>", "`x` $y$ \\z {w} ~#^&\"'")
Scores = Callable[[NewRun], dict[str, float] | str]


def scores(run: NewRun) -> dict[str, float]:
    """Metrics like those of a Gaussian task: the same for the same run, another for another
    seed.
    """
    noise = random.Random(run.spec.key)
    dim = run.spec.task_fields.get("dim", 1)
    worse = {"vb": 0.0, "iaf": 0.1, "hvae": 1.0}.get(run.spec.method, 2.0) * dim
    data = random.Random(run.spec.seed).gauss(0, 0.2)
    return {
        "elbo": -1000.0 * dim - worse + data + noise.gauss(0, 0.01),
        "elbo_gap": 0.1 + worse + noise.gauss(0, 0.01),
        "sigma_sq_error": 0.01 * dim + 0.1 * worse + abs(noise.gauss(0, 0.001)),
        "theta_sq_error": dim + worse + data + noise.gauss(0, 0.01),
        "mle_theta_sq_error": dim + data,
        "mle_sigma_sq_error": 0.01 * dim,
        "pareto_k": 0.3,
    }


def store_runs(workspace: Workspace, runs: Sequence[NewRun], score: Scores = scores) -> list[str]:
    """Finish these runs with the metrics that `score` gives, or as diverged with the reason that it
    gives; returns their keys.
    """
    keys = [run.spec.key for run in runs]
    with ResultStore.open(workspace.database_url) as store:
        store.enqueue(runs)
        claims = {claim.key: claim for claim in store.claim(keys, Owner.current())}
        for run in runs:
            claim, found = claims[run.spec.key], score(run)
            store.begin(
                [claim],
                Plan(members=(claim.key,), threads=1, torch="2.13.0"),
                filled_store.ENVIRONMENT,
            )
            steps = run.spec.steps
            curve = [
                (step, -1000.0 - 1e6 / step) for step in range(steps // 20, steps + 1, steps // 20)
            ]
            ended = {"step": steps, "wall_s": 2.5, "curves": {"bound": curve}}
            if isinstance(found, str):
                store.finish(claim, Outcome(status=Status.DIVERGED, reason=found, **ended))
            else:
                metrics = {name: Estimate(value) for name, value in found.items()}
                store.finish(
                    claim, Outcome(status=Status.DONE, reason=None, metrics=metrics, **ended)
                )
    return keys


def gaussian_runs(
    seeds: Sequence[int] = range(4),
    tasks: Sequence[str] = ("gaussian-2", "gaussian-25", "gaussian-100"),
) -> list[NewRun]:
    """Four methods, one of them with two depths."""
    return expand(
        ["vb", "iaf", "hvae[n_leapfrog=1,10]", "hvae-untempered[n_leapfrog=1,10]"],
        tasks,
        seeds,
        "smoke",
    )


def renamed(run: NewRun, method: str) -> NewRun:
    """The run as if a plugin of another name had made it."""
    from dataclasses import replace

    told = type(run.description)(**run.description.model_dump() | {"method": method})
    return replace(run, spec=run.spec.model_copy(update={"method": method}), description=told)
