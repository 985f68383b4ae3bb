"""Tuning studies whose coordinator, or a worker of it, is killed: the trials and their runs are the
same.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import suppress

import pytest
from runs import prepared, start
from sweeps import children

from harness.base.workspace import Workspace
from harness.store import ResultStore
from harness.tuning.result import best_of
from harness.tuning.search import run_keys
from harness.tuning.trials import read_log, stored_searches

STUDY = """summary: S.
tune:
  methods: ["hvae[n_leapfrog=2]"]
  tasks: [gaussian-25]
  protocol: smoke
  set: {{steps: {steps}, eval_particles: 50}}
  space: [method.max_step, method.init_step, "lr=1e-4:1e-1:log"]
  trials: {trials}
  seeds: 1000-1001
  report_seeds: 0-1
  pruner: {pruner}
"""
FULL = os.environ.get("BENCH_TESTS") == "full"


def study_command(folder, workers):
    return start(
        folder, ["run", str(folder / "mine.yaml"), *workers, "--save-every", "0.2"], command="study"
    )


def everything(folder):
    """The trials of a study with what their runs left."""
    environment = {**os.environ, "BENCH_HOME": str(folder)}
    workspace = Workspace(folder, environment)
    (search,) = stored_searches(workspace.study_url, "mine")
    with read_log(workspace.study_url, search) as log:
        trials = log.trials()
    with ResultStore.open(workspace.database_url) as store:
        keys = [key for trial in trials for key in run_keys(trial.spec, search.seeds)]
        keys += run_keys(best_of(trials).spec, search.report_seeds)
        rows, metrics = store.rows(keys), store.metrics(keys)
        runs = {
            key: (
                row.status,
                row.step,
                repr(metrics.get(key)),
                repr(store.curves(key)),
                store.checkpoints(key)[0].sha256,
            )
            for key, row in rows.items()
        }
    return trials, runs


@pytest.mark.parametrize(
    ("pruner", "workers", "trials", "kills"),
    [
        ("median", (), 7, 2),
        ("none", ("--workers", "2"), 3, 2),
        *([("median", ("--workers", "2"), 6, 5)] if FULL else []),
    ],
)
def test_a_study_whose_processes_are_killed_has_the_same_trials(
    pruner, workers, trials, kills, tmp_path, record_property
):
    draw, died = random.Random(7), 0
    results = []
    for name, deaths in (("calm", 0), ("killed", kills)):
        folder = tmp_path / name
        prepared(folder)
        (folder / "mine.yaml").write_text(
            STUDY.format(steps=900 if workers else 360, trials=trials, pruner=pruner)
        )
        for attempt in range(deaths + 1):
            process = study_command(folder, workers)
            timer = threading.Timer(
                draw.uniform(4, 9), _kill, (process, bool(workers) and attempt % 2 == 1)
            )
            if attempt < deaths:
                timer.start()
            _, said = process.communicate(timeout=300)
            timer.cancel()
            died += process.returncode < 0 or "ended with signal 9" in said
        assert process.returncode == 0, said
        results.append(everything(folder))
    record_property("interruptions", died)
    record_property("losses", int(results[0] != results[1]))
    assert results[0] == results[1]
    assert died >= 1


def _kill(process, worker):
    """The coordinator, or one of its workers."""
    workers = children(process.pid, "execution.workers")
    with suppress(ProcessLookupError):
        os.kill(workers[0] if worker and workers else process.pid, signal.SIGKILL)
    time.sleep(0.1)
