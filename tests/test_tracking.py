"""The MLflow mirror, against a real MLflow."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import filled_store
import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

import harness.tracking
from harness.base.spec import Status
from harness.base.workspace import Workspace, sqlite_url
from harness.store import Estimate, Outcome, ResultStore
from harness.tracking import (
    Copies,
    Mirror,
    compare_copies,
    create_store,
    delete_copies,
    repair,
    sync,
    ui_command,
)

SPAWN = multiprocessing.get_context("spawn")
LARGEST = sys.float_info.max
ROOT = Path(harness.tracking.__file__).parents[2]


@pytest.fixture
def workspace(tmp_path):
    """A workspace whose path has characters that addresses quote."""
    return filled_store.workspace_in(tmp_path / "a b#c?d%20e{f}")


@pytest.fixture
def store(workspace):
    """Its result database."""
    with ResultStore.open(workspace.database_url) as opened:
        yield opened


@pytest.fixture
def connect(workspace, store):
    """A function that gives a client of whatever MLflow the workspace has now."""

    def connected():
        engine = SqlAlchemyStore._engine_map.pop(workspace.tracking_uri, None)
        if engine is not None:
            engine.dispose()  # of a file that may be gone
        return harness.tracking.connect(workspace, store)

    yield connected
    for engine in SqlAlchemyStore._engine_map.values():
        engine.dispose()


def copies(client, key):
    """The living copies of a run."""
    experiments = [found.experiment_id for found in client.search_experiments()]
    return client.search_runs(experiments, f"tags.`bench.key` = '{key}'")


def content(client, key):
    """All that MLflow shows of a run, without the names that it chose itself."""
    (run,) = copies(client, key)
    history = {
        name: [
            (repr(point.value), point.step, point.timestamp)
            for point in client.get_metric_history(run.info.run_id, name)
        ]
        for name in run.data.metrics
    }
    folder = Path(client.download_artifacts(run.info.run_id, ""))
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    info = (run.info.status, run.info.start_time, run.info.end_time, run.info.run_name)
    return info, run.data.tags, run.data.params, history, files


def mirror(workspace, keys, timeout_s=120.0):
    """What a mirror leaves behind."""
    with Mirror.start(workspace, keys) as running:
        return running.finish(timeout_s)


def finished(workspace, store, seed=0, **other):
    """The key of a finished run."""
    (claim,) = filled_store.start(store, [seed])
    filled_store.finish(workspace, store, claim, **other)
    return claim.key


# Content


def test_importing_the_mirror_imports_nothing_heavy():
    code = (
        "import harness.tracking, sys; print({'mlflow', 'pandas', 'matplotlib', 'torch'} & "
        "set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_mlflow_shows_everything_of_a_run(workspace, store, connect):
    key = finished(workspace, store)
    client = connect()
    sync(client, store, workspace, key)
    (run,) = copies(client, key)
    row = store.rows([key])[key]
    assert (row.mlflow_run_id, row.mirrored_revision) == (run.info.run_id, row.revision)
    assert client.get_experiment(run.info.experiment_id).name == "gaussian-2"
    assert run.info.run_name == "hvae[n_leapfrog=1,tempering=none] seed 0"
    assert (run.info.status, run.info.start_time) == ("FINISHED", int(1000 * row.started_at))
    assert run.info.end_time == int(1000 * row.finished_at)
    expected = {
        "bench.key": key,
        "bench.cell": row.cell,
        "bench.method": "hvae-untempered",
        "bench.task": "gaussian-2",
        "bench.seed": "0",
        "bench.status": "done",
        "bench.protocol": "standard",
        "bench.version": "0.1.0",
        "mlflow.runName": run.info.run_name,
        "mlflow.source.name": "bench",
        "mlflow.source.git.commit": filled_store.ENVIRONMENT["git_commit"],
    }
    assert expected.items() <= run.data.tags.items()
    assert set(run.data.tags) <= {*expected, "bench.database", "mlflow.user"}
    some = {
        "steps": "20000",
        "lr": "0.01",
        "method": "hvae",
        "method.n_leapfrog": "1",
        "task.dim": "2",
        "batch_size": "none",
        "shuffle": "false",
    }
    assert some.items() <= run.data.params.items()
    assert len(run.data.params) == len(row.spec) - 2 + len(row.spec["method_fields"]) + len(
        row.spec["task_fields"]
    )


def test_curves_and_scores_come_through_exactly(workspace, store, connect):
    key = finished(
        workspace,
        store,
        curves={**filled_store.curves(), "long": [(step, step / 3) for step in range(2500)]},
    )
    client = connect()
    sync(client, store, workspace, key)
    (run,) = copies(client, key)
    for name, curve in store.curves(key).items():
        history = client.get_metric_history(run.info.run_id, name)
        assert [
            (point.step, point.value) for point in sorted(history, key=lambda point: point.step)
        ] == curve
        assert all(point.timestamp == run.info.start_time + point.step for point in history)
    scores = {name: metric.value for name, metric in filled_store.METRICS.items()} | {
        "elbo_se": 0.25
    }
    assert {name: run.data.metrics[name] for name in scores} == scores
    assert [point.step for point in client.get_metric_history(run.info.run_id, "elbo")] == [20_000]


def test_files_lie_beside_the_numbers(workspace, store, connect):
    key = finished(workspace, store)
    client = connect()
    sync(client, store, workspace, key)
    *_, files = content(client, key)
    assert set(files) == {
        "spec.json",
        "environment.json",
        "curves.png",
        f"checkpoint/{key}.safetensors",
        "pictures/samples.png",
    }
    assert files[f"checkpoint/{key}.safetensors"] == b"state of " + key.encode()
    assert json.loads(files["spec.json"]) == store.rows([key])[key].spec
    about = json.loads(files["environment.json"])
    assert (about["environment"], about["plan"]["members"]) == (filled_store.ENVIRONMENT, [key])
    assert files["curves.png"].startswith(b"\x89PNG")
    assert (workspace.artifacts / store.rows([key])[key].mlflow_run_id).is_dir()


def test_a_checkpoint_that_is_elsewhere_is_left_out(workspace, store, connect):
    key = finished(workspace, store)
    shutil.rmtree(workspace.checkpoints)
    client = connect()
    sync(client, store, workspace, key)
    assert store.behind() == []


def test_syncing_twice_changes_nothing(workspace, store, connect):
    key = finished(workspace, store)
    client = connect()
    sync(client, store, workspace, key)
    before = content(client, key)
    sync(client, store, workspace, key)
    assert content(client, key) == before
    store.clear_mirror([key])  # found again by its tag
    sync(client, store, workspace, key)
    assert content(client, key) == before


def test_a_run_is_followed_from_its_start_to_its_end(workspace, store, connect):
    store.enqueue([filled_store.new_run(0)])
    key = filled_store.spec(0).key
    client = connect()
    sync(client, store, workspace, key)
    assert copies(client, key)[0].info.status == "SCHEDULED"
    (claim,) = filled_store.start(store, [0])
    sync(client, store, workspace, key)
    assert copies(client, key)[0].info.status == "RUNNING"
    store.release([claim], Status.INTERRUPTED, "stopped by the user")
    sync(client, store, workspace, key)
    (run,) = copies(client, key)
    assert (run.info.status, run.data.tags["bench.reason"]) == ("KILLED", "stopped by the user")
    assert run.info.end_time == int(1000 * store.history(key)[-1].at)
    (claim,) = filled_store.start(store, [0])
    filled_store.finish(workspace, store, claim)
    sync(client, store, workspace, key)
    (again,) = copies(client, key)
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    assert "bench.reason" not in again.data.tags


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (Status.DIVERGED, "FAILED"),
        (Status.FAILED, "FAILED"),
        (Status.TIMEOUT, "FAILED"),
        (Status.PRUNED, "KILLED"),
    ],
)
def test_an_end_without_a_result_has_its_status_and_reason(
    workspace, store, connect, status, shown
):
    key = finished(workspace, store, status=status)
    client = connect()
    sync(client, store, workspace, key)
    (run,) = copies(client, key)
    assert (run.info.status, run.data.tags["bench.status"], run.data.tags["bench.reason"]) == (
        shown,
        status.value,
        "for a test",
    )


def test_what_is_not_finite_is_shown_as_far_as_mlflow_can(workspace, store, connect):
    metrics = {
        "elbo": Estimate(math.nan, math.inf),
        "elbo_gap": Estimate(math.inf),
        "ess": Estimate(-math.inf),
        "pareto_k": Estimate(0.3),
    }
    bound = [(1, -math.inf), (2, math.nan), (3, math.inf), (4, -1.0)]
    key = finished(
        workspace, store, status=Status.DIVERGED, metrics=metrics, curves={"bound": bound}
    )
    client = connect()
    for _ in range(2):
        sync(client, store, workspace, key)
        (run,) = copies(client, key)
        history = client.get_metric_history(run.info.run_id, "bound")
        shown = [repr(point.value) for point in sorted(history, key=lambda point: point.step)]
        assert shown == [repr(value) for value in (-LARGEST, math.nan, LARGEST, -1.0)]
        assert math.isnan(run.data.metrics["elbo"])
        assert run.data.tags["bench.not_finite"] == "elbo = nan, elbo_gap = inf, ess = -inf"
    assert store.behind() == []


def test_a_name_that_is_too_long_for_mlflow_is_shortened(workspace, store, connect):
    names = ["x" * 300 + end for end in "ab"]
    key = finished(
        workspace,
        store,
        metrics={name: Estimate(float(number), 0.5) for number, name in enumerate(names)},
    )
    client = connect()
    for _ in range(2):
        sync(client, store, workspace, key)
    (run,) = copies(client, key)
    shown = {name: value for name, value in run.data.metrics.items() if name.startswith("xxx")}
    assert sorted(shown.values()) == [0.0, 0.5, 0.5, 1.0]
    assert max(map(len, shown)) == 250
    assert store.behind() == []


def test_a_run_made_anew_shows_nothing_of_the_attempt_before(workspace, store, connect):
    key = finished(workspace, store)
    client = connect()
    sync(client, store, workspace, key)
    (old,) = copies(client, key)
    store.reset([key])
    (claim,) = filled_store.start(store, [0])
    store.finish(claim, Outcome(Status.DIVERGED, "no luck", 3, 1.0, curves={"bound": [(1, -7.0)]}))
    sync(client, store, workspace, key)
    (new,) = copies(client, key)
    assert (new.info.run_id != old.info.run_id, new.data.metrics) == (True, {"bound": -7.0})
    assert store.rows([key])[key].mlflow_run_id == new.info.run_id


def test_numbers_that_are_not_in_the_database_do_not_stay(workspace, store, connect):
    key = finished(workspace, store)
    client = connect()
    sync(client, store, workspace, key)
    before = content(client, key)
    (run,) = copies(client, key)
    client.log_metric(run.info.run_id, "bound", 17.0, step=100)
    sync(client, store, workspace, key)
    assert content(client, key) == before


def test_what_was_deleted_in_mlflow_comes_back(workspace, store, connect):
    keys = [finished(workspace, store, seed) for seed in (0, 1)]
    client = connect()
    for key in keys:
        sync(client, store, workspace, key)
    before = [content(client, key) for key in keys]
    client.delete_run(store.rows(keys)[keys[0]].mlflow_run_id)
    client.delete_experiment(client.get_experiment_by_name("gaussian-2").experiment_id)
    for key in keys:
        sync(client, store, workspace, key)
    assert [content(client, key) for key in keys] == before


def test_further_copies_are_deleted(workspace, store, connect):
    key = finished(workspace, store)
    client = connect()
    sync(client, store, workspace, key)
    (run,) = copies(client, key)
    client.create_run(
        run.info.experiment_id,
        run.info.start_time,
        {"bench.key": key, "bench.database": store.database},
    )
    sync(client, store, workspace, key)
    assert [copy.info.run_id for copy in copies(client, key)] == [run.info.run_id]


def test_a_deleted_mlflow_is_rebuilt_equal(workspace, store, connect):
    keys = filled_store.fill(workspace, range(3))
    assert repair(workspace, store) == {}
    before = [content(connect(), key) for key in keys]
    for file in workspace.home.glob("mlflow.db*"):
        file.unlink()
    shutil.rmtree(workspace.artifacts)
    client = connect()  # finds no store, makes one, and knows that nothing is mirrored
    assert store.behind() == keys
    assert repair(workspace, store) == {}
    assert [content(client, key) for key in keys] == before


def test_a_run_that_cannot_be_mirrored_does_not_keep_the_others_back(workspace, store):
    good, bad = finished(workspace, store, 0), finished(workspace, store, 1)
    with closing(sqlite3.connect(workspace.home / "bench.db")) as connection, connection:
        connection.execute(
            "UPDATE runs SET task_label = '' WHERE key = ?", [bad]
        )  # MLflow has no experiment without a name
    assert repair(workspace, store).keys() == {bad}
    assert store.behind([good, bad]) == [bad]


# Whose a copy is, and where its files lie


def test_two_databases_with_one_mlflow_leave_each_others_copies_alone(workspace, store, connect):
    """The same run, made twice: mirrored in turns, looked at and removed, nothing of the other one
    goes.
    """
    other = Workspace(
        workspace.home, {"BENCH_DATABASE_URL": sqlite_url(workspace.home / "other.db")}
    )
    with ResultStore.open(other.database_url) as theirs:
        key = finished(workspace, store)
        assert finished(other, theirs) == key
        client = connect()
        for _ in range(2):
            for at, each in ((workspace, store), (other, theirs)):
                sync(client, each, at, key)
                store.clear_mirror([key])
        sync(client, store, workspace, key)
        mine, other_copy = (each.rows([key])[key].mlflow_run_id for each in (store, theirs))
        assert {copy.info.run_id for copy in copies(client, key)} == {mine, other_copy}
        for at, each in ((workspace, store), (other, theirs)):
            assert compare_copies(at, each) == Copies([], {})
            assert delete_copies(at, each, {other_copy if each is store else mine: key}) is None
        store.delete([key])
        assert compare_copies(workspace, store) == Copies([], {mine: key})
        assert compare_copies(other, theirs) == Copies([], {})
        assert delete_copies(workspace, store, {mine: key}) is None
        assert [copy.info.run_id for copy in copies(client, key)] == [other_copy]


def test_a_copy_without_a_tag_is_whose_record_names_it(workspace, store, connect):
    """MLflow's runs of before say not which database they are from."""
    key = finished(workspace, store)
    client = connect()
    sync(client, store, workspace, key)
    run_id = store.rows([key])[key].mlflow_run_id
    client.delete_tag(run_id, "bench.database")
    stranger = client.create_run(
        client.get_run(run_id).info.experiment_id, tags={"bench.key": key}
    ).info.run_id
    assert compare_copies(workspace, store) == Copies([], {})
    assert delete_copies(workspace, store, {stranger: "0" * 16}) is None
    sync(client, store, workspace, key)
    assert {
        copy.info.run_id: copy.data.tags.get("bench.database") for copy in copies(client, key)
    } == {
        run_id: store.database,
        stranger: None,
    }


def test_a_copy_that_is_named_meanwhile_is_no_orphan(workspace, store, connect):
    """Another process makes a copy, and notes it after doctor has asked MLflow, or after doctor has
    read the rows.
    """
    key = finished(workspace, store)
    client = connect()
    sync(client, store, workspace, key)
    (copy,) = copies(client, key)
    store.clear_mirror([key])
    assert compare_copies(workspace, store) == Copies([], {})  # it is to be mirrored still
    assert store.set_mlflow_run(key, copy.info.run_id) == copy.info.run_id
    assert delete_copies(workspace, store, {copy.info.run_id: key}) is None
    assert len(copies(client, key)) == 1


def test_a_copied_workspace_keeps_its_files_to_itself(workspace, store, connect, tmp_path):
    first, second = finished(workspace, store, 0), finished(workspace, store, 1)
    sync(connect(), store, workspace, first)
    shutil.copytree(workspace.home, tmp_path / "copy")
    before = sorted(workspace.artifacts.rglob("*"))
    there = Workspace(tmp_path / "copy")
    with ResultStore.open(there.database_url) as copied:
        client = harness.tracking.connect(there, copied)
        for key in (first, second):
            sync(client, copied, there, key)
            run = client.get_run(copied.rows([key])[key].mlflow_run_id)
            folder = there.artifacts / run.info.run_id / "artifacts"
            assert run.info.artifact_uri == folder.as_uri()
            assert (
                folder / "checkpoint" / f"{key}.safetensors"
            ).read_bytes() == b"state of " + key.encode()
            assert "spec.json" in {file.path for file in client.list_artifacts(run.info.run_id)}
        shutil.rmtree(workspace.artifacts)
        assert compare_copies(there, copied) == Copies([], {})
    assert before


def test_what_has_other_bytes_than_on_record_is_not_uploaded(workspace, store, connect):
    key = finished(workspace, store)
    store.checkpoints(key)[0].path_in(workspace).write_bytes(b"-----BEGIN PRIVATE KEY-----")
    client = connect()
    sync(client, store, workspace, key)
    assert set(content(client, key)[-1]) == {
        "spec.json",
        "environment.json",
        "curves.png",
        "pictures/samples.png",
    }


# Making the store


def wait_and_create(workspace, barrier, answers):
    """Create the store at the same moment as the others."""
    barrier.wait()
    answers.put(create_store(workspace))


def die_before_linking(workspace, wal):
    """Create the store and be killed when it is built, or in the midst of building it."""

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    if wal:
        sqlite3.connect = die
    else:
        os.link = die
    create_store(workspace)


def hidden(workspace):
    """What is left of attempts."""
    return list(workspace.home.glob(".mlflow.db*"))


def integrity(workspace):
    """What SQLite says of the store, and how it writes."""
    with closing(sqlite3.connect(workspace.home / "mlflow.db")) as connection:
        checks = (
            connection.execute("PRAGMA integrity_check").fetchone(),
            connection.execute("PRAGMA journal_mode").fetchone(),
        )
    return [check[0] for check in checks]


def test_six_processes_create_one_store(workspace, connect):
    barrier, answers = SPAWN.Barrier(6), SPAWN.Queue()
    started = [
        SPAWN.Process(target=wait_and_create, args=(workspace, barrier, answers)) for _ in range(6)
    ]
    for process in started:
        process.start()
    made = [answers.get(timeout=300) for _ in started]
    for process in started:
        process.join()
    assert sorted(made) == [False] * 5 + [True]
    assert integrity(workspace) == ["ok", "wal"]
    assert hidden(workspace) == []
    assert [found.name for found in connect().search_experiments()] == ["Default"]


@pytest.mark.parametrize("wal", [True, False])
def test_a_process_killed_while_creating_leaves_no_broken_store(workspace, wal):
    process = SPAWN.Process(target=die_before_linking, args=(workspace, wal))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (workspace.home / "mlflow.db").exists()
    assert hidden(workspace)
    assert create_store(workspace)
    assert integrity(workspace) == ["ok", "wal"]
    assert hidden(workspace) == []
    assert not create_store(workspace)


def test_a_store_on_a_server_is_left_alone(tmp_path):
    assert not create_store(
        filled_store.workspace_in(tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:1")
    )
    assert list(tmp_path.iterdir()) == []


# The process


def test_a_mirror_follows_runs_and_says_when_all_is_shown(workspace, store, connect):
    claims = filled_store.start(store, range(3))
    with Mirror.start(workspace, [claims[0].key]) as running:
        running.add([claim.key for claim in claims[1:]])
        for claim in claims:
            filled_store.finish(workspace, store, claim)
        assert running.finish(120.0) == []
    assert running.error is None
    client = connect()
    assert [copies(client, claim.key)[0].info.status for claim in claims] == ["FINISHED"] * 3


def test_two_mirrors_of_the_same_runs_make_one_copy_each(workspace, store, connect):
    keys = filled_store.fill(workspace, range(6))
    with Mirror.start(workspace, keys) as one, Mirror.start(workspace, keys) as other:
        assert one.finish(120.0) == []
        assert other.finish(120.0) == []
    client = connect()
    found = [content(client, key) for key in keys]
    assert [info[0] for info, *_ in found] == ["FINISHED"] * 6
    sync(client, store, workspace, keys[0])
    assert content(client, keys[0]) == found[0]


def test_finishing_with_nothing_to_do_starts_no_mlflow(workspace, store):
    store.enqueue([filled_store.new_run(0)])  # a run that waits has nothing to show
    assert mirror(workspace, [filled_store.spec(0).key]) == []
    assert not (workspace.home / "mlflow.db").exists()


@pytest.fixture
def deaf_server():
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def closed_port():
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    return f"http://ada:secret@127.0.0.1:{port}"


@pytest.mark.parametrize("place", ["deaf_server", "closed_port"])
def test_an_mlflow_that_is_away_costs_nothing_but_the_wait(tmp_path, request, place):
    workspace = filled_store.workspace_in(
        tmp_path, MLFLOW_TRACKING_URI=request.getfixturevalue(place)
    )
    keys = filled_store.fill(workspace, range(2))
    with Mirror.start(workspace, keys) as running:
        assert running.finish(5.0) == keys
    assert "secret" not in (running.error or "")


def test_a_mirror_that_dies_leaves_its_runs_behind(workspace):
    keys = filled_store.fill(workspace, range(2))
    with Mirror.start(workspace, keys) as running:
        os.kill(running._process.pid, signal.SIGKILL)
        assert running.finish(120.0) == keys


def test_a_mirror_that_cannot_start_leaves_its_runs_behind(workspace, monkeypatch):
    keys = filled_store.fill(workspace, range(2))
    monkeypatch.setattr(sys, "executable", str(workspace.home / "no-python"))
    with Mirror.start(workspace, keys) as running:
        assert running.finish(120.0) == keys
    assert "No such file" in running.error


def test_an_mlflow_that_cannot_be_imported_is_named(workspace, monkeypatch):
    keys = filled_store.fill(workspace, range(2))
    broken = workspace.home / "site"
    broken.mkdir()
    (broken / "mlflow.py").write_text("raise ImportError('half installed')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    with Mirror.start(workspace, keys) as running:
        assert running.finish(10.0) == keys
    assert running.error == "ImportError: half installed"


def start_mirror_and_die(workspace, keys, answers):
    """Start a mirror and be killed."""
    running = Mirror.start(workspace, keys)
    answers.put(running._process.pid)
    answers.close()
    answers.join_thread()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_mirror_dies_with_its_command(workspace):
    keys = filled_store.fill(workspace, range(2))
    answers = SPAWN.Queue()
    process = SPAWN.Process(target=start_mirror_and_die, args=(workspace, keys, answers))
    process.start()
    pid = answers.get(timeout=120)
    process.join()
    deadline = time.monotonic() + 120
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(pid)


def is_alive(pid):
    """Whether a process works."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


# Pages


def test_the_pages_are_served_lean_and_without_passwords_in_the_command(workspace):
    argv, environment = ui_command(workspace, "127.0.0.1", 5001)
    assert (workspace.home / "mlflow.db").exists()
    served = ["-m", "mlflow", "ui", "--workers", "1", "--host", "127.0.0.1", "--port", "5001"]
    assert argv[1:] == served
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_BACKEND_STORE_URI"] == workspace.tracking_uri


def test_the_pages_of_a_server_are_not_served_twice(tmp_path):
    from harness.base.errors import UsageError

    workspace = filled_store.workspace_in(
        tmp_path, MLFLOW_TRACKING_URI="https://ada:secret@example.org"
    )
    with pytest.raises(UsageError, match=r"https://ada:\*\*\*@example.org"):
        ui_command(workspace)
