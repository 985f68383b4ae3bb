"""Waiting for MLflow: as long as it gets on, never for what only repeats itself, and no longer than
the user wants.
"""

from __future__ import annotations

import http.server
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import filled_store
import pytest
from runs import finished, mirrored, prepared, start

from harness.base.errors import StoreError
from harness.base.workspace import Workspace, redact, sqlite_url, without_password
from harness.store import ResultStore
from harness.store.database import sqlite_file
from harness.tracking import Mirror, MirrorError, compare_copies, repair, ui_command
from harness.tuning.trials import _storage

RUN = ["-m", "vb", "-t", "gaussian-2", "--set", "steps=50", "--set", "eval_particles=100"]
TUNE = [
    "-m",
    "hvae",
    "-t",
    "gaussian-2",
    "--set",
    "steps=40",
    "--set",
    "eval_particles=100",
    "--trials",
    "1",
    "--seeds",
    "1000",
]


# How long


@contextmanager
def throttled(pid, share):
    """Let a process have a share of each second only, as on a busy machine."""
    over = threading.Event()

    def hold():
        while not over.is_set():
            subprocess.run(["kill", "-STOP", str(pid)], check=False, stderr=subprocess.DEVNULL)
            time.sleep(0.5 * (1 - share))
            subprocess.run(["kill", "-CONT", str(pid)], check=False, stderr=subprocess.DEVNULL)
            over.wait(0.5 * share)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_on_a_busy_machine_loading_mlflow_is_waited_for(tmp_path):
    workspace = Workspace(prepared(tmp_path))
    keys = filled_store.fill(workspace, range(2))
    with Mirror.start(workspace, keys) as running, throttled(running._process.pid, 0.3):
        assert running.finish() == [], running.error
    assert list(mirrored(tmp_path).values()) == [["FINISHED"]] * 2


# Why


class Answering(http.server.BaseHTTPRequestHandler):
    """A server that refuses with `code`, or with None never answers."""

    code: int | None = None

    def _refuse(self):
        if self.code is None:
            self.server.over.wait(120)
        else:
            self.send_error(self.code)

    do_GET = do_POST = do_PUT = do_PATCH = _refuse

    def log_message(self, *arguments):
        return


@contextmanager
def serving(code):
    """The address of a server that answers with this code."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (Answering,), {"code": code})
    )
    server.over = threading.Event()
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://ada:s3c@ret@127.0.0.1:{server.server_port}"
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def hanging():
    """The address of a server that never answers."""
    with serving(None) as address:
        yield address


def reason_at(home, address):
    """Why MLflow takes no run there."""
    workspace = filled_store.workspace_in(home, MLFLOW_TRACKING_URI=address)
    (key,) = filled_store.fill(workspace, [0])
    with ResultStore.open(workspace.database_url) as store:
        return repair(workspace, store)[key]


@pytest.mark.parametrize("code", [401, 403, 404, 500])
def test_what_a_server_answers_is_told_apart(code, tmp_path):
    with serving(code) as address:
        reason = reason_at(tmp_path, address)
    assert str(code) in reason
    assert "s3c" not in reason
    assert "ret@" not in reason


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://127.0.0.1:9", "refused"),
        ("file:./mlruns", "MLFLOW_ALLOW_FILE_STORE=true"),
        ("foo://bar", "'sqlite'"),
        ("postgresql://ada:s3c@ret@127.0.0.1:9/mlflow", "***@127.0.0.1"),
    ],
)
def test_a_place_that_mlflow_cannot_use_is_named_with_the_whole_reason(address, says, tmp_path):
    reason = reason_at(tmp_path, address)
    assert says in reason
    assert "s3c" not in reason
    assert "ret@" not in reason
    assert "\n" not in reason


def test_a_broken_database_ends_the_wait_and_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"garbage" * 1000)
    workspace = Workspace(tmp_path)
    keys = filled_store.fill(workspace, range(2))
    with Mirror.start(workspace, keys) as running:
        assert running.finish() == keys
    assert "not a database" in running.error


def test_where_warnings_are_errors_the_mirror_works(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    workspace = Workspace(prepared(tmp_path))
    with Mirror.start(workspace, filled_store.fill(workspace, [0])) as running:
        assert running.finish(60.0) == [], running.error


def test_a_store_that_cannot_be_opened_is_said_every_time(tmp_path):
    for outcome in ("ran", "hit"):
        errors = []
        (run,) = finished(start(tmp_path, RUN, MLFLOW_TRACKING_URI="file:./mlruns"), errors)
        assert (run["status"], run["outcome"]) == ("done", outcome)
        (line,) = [line for line in errors[0].splitlines() if line.startswith("MLflow at")]
        assert "MLFLOW_ALLOW_FILE_STORE=true" in line
        assert "Nothing is lost" in line


# Ending the wait


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """A workspace with a finished run and its bundle."""
    home = tmp_path_factory.mktemp("bundled")
    finished(start(prepared(home), RUN))
    made = start(home, ["--bundle", str(home / "results.bench")], command="export")
    made.communicate(timeout=300)
    assert made.returncode == 0, made.said()
    return home


COMMANDS = {
    "run": RUN,
    "worker": ["--drain"],
    "tune": [*TUNE, "--json"],
    "invalidate": ["-m", "vb", "--reason", "for a test"],
    "import": [],
}


@pytest.mark.parametrize(
    ("command", "number"),
    [(name, (signal.SIGTERM, signal.SIGINT)[place % 2]) for place, name in enumerate(COMMANDS)],
)
def test_the_first_signal_ends_the_wait_for_mlflow_after_the_results_were_printed(
    command, number, bundled, hanging, tmp_path
):
    arguments, home = COMMANDS[command], tmp_path / "home"
    if command == "invalidate":
        shutil.copytree(bundled, home)
    elif command == "worker":
        start(home, [*RUN, "--queue"]).communicate(timeout=300)
    if command == "import":
        arguments = [str(bundled / "results.bench")]
    process = start(
        home,
        arguments,
        command=command,
        MLFLOW_TRACKING_URI=hanging,
        MLFLOW_HTTP_REQUEST_TIMEOUT="60",
    )
    deadline = time.monotonic() + 300
    while not process.said()[0] and "Ended 1 run, 1 of them done." not in process.said()[1]:
        assert process.poll() is None, process.said()
        assert time.monotonic() < deadline, process.said()
        time.sleep(0.02)
    while not Path(
        f"/proc/{process.pid}/task/{process.pid}/children"
    ).read_text():  # `invalidate` and `import` start the mirror then
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "the wait was ended by a signal" in errors
    assert "Traceback" not in errors


# Where


def test_mlflow_and_results_in_one_database_are_refused_both_ways(postgres_database, tmp_path):
    url = postgres_database()
    workspace = filled_store.workspace_in(tmp_path, BENCH_DATABASE_URL=url, MLFLOW_TRACKING_URI=url)
    (key,) = filled_store.fill(workspace, [0])
    with ResultStore.open(url) as store:
        assert "MLflow needs a database of its own" in repair(workspace, store)[key]
    with pytest.raises(MirrorError, match="MLflow needs a database of its own"):
        ui_command(workspace)
    prepared(tmp_path)
    with pytest.raises(StoreError, match="MLflow made its tables"):
        ResultStore.open(sqlite_url(tmp_path / "mlflow.db"))


def test_a_folder_of_any_name_holds_all_three_databases(tmp_path):
    home = tmp_path / "50%20 what?{x}#"
    workspace = filled_store.workspace_in(home)
    (key,) = filled_store.fill(workspace, [0])
    assert sqlite_file(workspace.database_url) == home / "bench.db"
    shutil.copyfile(prepared(tmp_path / "fresh") / "mlflow.db", home / "mlflow.db")
    with ResultStore.open(workspace.database_url) as store:
        assert repair(workspace, store) == {}
        assert (
            workspace.artifacts / store.rows([key])[key].mlflow_run_id / "artifacts" / "spec.json"
        ).exists()
    with _storage(workspace.study_url):
        pass
    assert {path.name for path in home.iterdir()} >= {
        "bench.db",
        "mlflow.db",
        "studies.db",
        "mlruns",
    }
    assert {path.name for path in tmp_path.iterdir()} == {home.name, "fresh"}


@pytest.mark.parametrize(
    "edit",
    ["tags SET value = '0' WHERE key = 'bench.key'", "params SET value = '7' WHERE key = 'seed'"],
)
def test_a_copy_with_an_edited_key_or_seed_is_found_and_made_again(edit, tmp_path):
    workspace = Workspace(prepared(tmp_path))
    keys = filled_store.fill(workspace, range(2))
    with ResultStore.open(workspace.database_url) as store:
        assert repair(workspace, store) == {}
        assert compare_copies(workspace, store).edited == {}
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
            run_id = store.rows(keys)[keys[0]].mlflow_run_id
            connection.execute(f"UPDATE {edit} AND run_uuid = ?", (run_id,))
        seen = compare_copies(workspace, store)
        assert {run_id: key for run_id, (key, _) in seen.edited.items()} == {run_id: keys[0]}
        assert (seen.lost, seen.orphans) == ([], {})
        from harness.cli.doctor import mirror_faults

        (finding,) = mirror_faults(workspace, store)
        assert "was edited" in finding.text
        finding.repair()
        assert list(mirror_faults(workspace, store)) == []
    assert mirrored(tmp_path) == {key: ["FINISHED"] for key in keys}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:s3c@ret@localhost/bench",
        "postgresql://ada:s3c@r@ret@localhost:5432/bench",
        "postgresql://localhost:5432/bench?user=ada&password=s3c@ret",
        "postgresql://ada:s3c%40ret@localhost/bench",
    ],
)
def test_no_piece_of_a_password_is_shown(url):
    said = (
        f"cannot reach {url}: no host 'ret@localhost', nor 'r@ret@localhost', and s3c@ret is wrong"
    )
    for text in (redact(url), without_password(said, url)):
        assert "s3c" not in text
        assert "ret" not in text
        assert "localhost" in text
