"""`doctor --repair` in a loop beside ordinary runs, in a workspace with earlier runs: none loses
its file, none is taken over.

BENCH_TESTS=full makes it thousands of earlier runs, two minutes, and both kinds of database.
"""

from __future__ import annotations

import os
import time

import filled_store
import pytest
from runs import finished, start
from stores import gone_owner

from harness.base.spec import Status
from harness.store import CheckpointFile, Outcome, ResultStore
from harness.store import run_files as files

FULL = os.environ.get("BENCH_TESTS") == "full"
EARLIER, SECONDS, BESIDE = (5000, 120.0, 9) if FULL else (50, 0.0, 2)
AWAY = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}


def fill(workspace, count):
    """Earlier runs with a checkpoint each, that nobody trained."""
    with ResultStore.open(workspace.database_url) as store:
        for first in range(0, count, 500):
            claims = filled_store.start(store, range(first, min(first + 500, count)))
            outcomes = []
            for claim in claims:
                content, place = (
                    claim.key.encode(),
                    workspace.checkpoint_file(claim.edition, 20_000),
                )
                filled_store.write_file(workspace, place, content)
                file = filled_store.CheckpointFile(
                    "final", 20_000, filled_store.sha256(content), len(content)
                )
                outcomes.append(
                    Outcome(Status.DONE, None, 20_000, 1.0, filled_store.METRICS, checkpoint=file)
                )
            store.finish_all(claims, outcomes)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"] if FULL else ["sqlite"])
def test_repairs_beside_runs_lose_nothing(kind, tmp_path, request, record_property):
    where = (
        {}
        if kind == "sqlite"
        else {"BENCH_DATABASE_URL": request.getfixturevalue("postgres_database")()}
    )
    workspace = filled_store.workspace_in(tmp_path / "home", **where)
    fill(workspace, EARLIER)
    with ResultStore.open(workspace.database_url) as store:
        run = filled_store.new_run(
            10**6
        )  # an abandoned one, for each repair to have something to do
        store.enqueue([run])
        store.claim([run.spec.key], gone_owner())
    deadline, repairs, batch, made = time.monotonic() + SECONDS, 0, 0, 0
    repair = start(workspace.home, ["--repair"], "doctor", **AWAY, **where)
    while batch == 0 or time.monotonic() < deadline:
        running = []
        for number in range(BESIDE):
            seeds = f"{batch * 100 + number * 10}-{batch * 100 + number * 10 + 9}"
            arguments = [
                "-m",
                "vb",
                "-t",
                "gaussian-2",
                "--protocol",
                "smoke",
                "--set",
                "steps=200",
                "--seeds",
                seeds,
            ]
            running.append(start(workspace.home, arguments, **AWAY, **where))
        while any(process.poll() is None for process in running):
            if repair.poll() is not None:
                repairs += 1
                assert "Traceback" not in repair.communicate()[1]
                repair = start(workspace.home, ["--repair"], "doctor", **AWAY, **where)
            time.sleep(0.05)
        made += sum(len(finished(process)) for process in running)
        batch += 1
    repair.communicate()
    with ResultStore.open(workspace.database_url) as store:
        saved = store.files.on_record(CheckpointFile)
        done = [row.key for row in store.recent(10**9, status="done")]
        lost = [key for key in done if files.fault(workspace, saved[key][0]) is not None]
    record_property("interruptions", repairs + 1)
    record_property("losses", len(lost))
    assert (lost, len(done)) == ([], EARLIER + made)
    assert made == batch * BESIDE * 10
