"""Where MLflow keeps its runs, how that comes into being, and how it is reached."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from harness.base.errors import BenchError, UsageError
from harness.base.errors import one_line as on_one_line
from harness.base.workspace import Workspace, leads_straight, redact, sqlite_url, without_password
from harness.store import ResultStore
from harness.store.create import create_file
from harness.store.upgrade import holds_results

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
# No retrying for minutes, and nothing printed; what the user has set stays.
ENVIRONMENT = QUIET | {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
}
DATABASE = "bench.database"
"""The tag that says which database a run of MLflow is a copy from."""
UI_HOST, UI_PORT = "127.0.0.1", 5000
RUNS_AND_CHARTS = "workflowType=machine_learning&compareRunsMode=CHART"
LONGEST_REASON = 1000
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
CONNECT_S = 5


class MirrorError(BenchError):
    """MLflow cannot be used, or does not take what it is given."""


def one_line(error: BaseException, address: str = "") -> str:
    """Return what went wrong in one line without passwords; `address` is where MLflow is."""
    text = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
    noise = r"<\S+ object at 0x[0-9a-f]+>(: )?|\(Background on this error at: \S+\)"
    text = re.sub(noise, "", text).strip().rstrip(".")
    return on_one_line(without_password(text, address), LONGEST_REASON)


def import_mlflow() -> None:
    """Import mlflow, which takes seconds, after setting what it reads then."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401


def connect(workspace: Workspace, store: ResultStore) -> MlflowClient:
    """Return a client of the workspace's MLflow; where a missing local store is created, all runs
    are to be mirrored anew.
    """
    if create_store(workspace):
        store.clear_mirror(None)
    check_database(workspace)
    import_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(workspace.tracking_uri)


def check_database(workspace: Workspace) -> None:
    """Ask MLflow's database once, where it is one: MLflow itself goes on asking one that is away
    for minutes.

    Raises:
        MirrorError: it cannot be asked, or holds results, which MLflow's tables would spoil.
    """
    uri = workspace.tracking_uri
    try:
        is_taken = uri.startswith(DATABASES) and holds_results(uri, CONNECT_S)
    except Exception as err:
        raise MirrorError(one_line(err, uri)) from err
    if is_taken:
        raise MirrorError(
            f"{redact(uri)} holds the results, and MLflow needs a database of its own: "
            "name another one with MLFLOW_TRACKING_URI."
        )


def is_remote(workspace: Workspace) -> bool:
    """Say whether MLflow is a server, which keeps the artifacts where it wants."""
    return workspace.tracking_uri.startswith(("http:", "https:", "databricks"))


def _local_file(workspace: Workspace) -> Path | None:
    """Return the path of MLflow's SQLite file; None where it keeps its runs elsewhere."""
    address = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", workspace.tracking_uri)
    return None if address is None or address[1] == ":memory:" else Path(unquote(address[1]))


def is_missing(workspace: Workspace) -> bool:
    """Say whether MLflow's SQLite file is not there (yet, or any more)."""
    file = _local_file(workspace)
    return file is not None and not file.exists()


def is_ours(run: Run, store: ResultStore, key: str, on_record: str | None) -> bool:
    """Say whether a run of MLflow is this database's copy of its run `key`; one from before
    databases had an id is, if it is `on_record`.
    """
    tags = run.data.tags
    database = store.database if run.info.run_id == on_record else None
    return tags.get("bench.key") == key and tags.get(DATABASE, database) == store.database


def _files_of(workspace: Workspace, run_id: str) -> Path:
    return workspace.artifacts / run_id / "artifacts"


def upload(client: MlflowClient, workspace: Workspace, run_id: str, folder: Path) -> None:
    """Put the files of a folder beside a run's numbers; those of a local store always go to this
    workspace. MLflow has another place on record where the workspace was moved or copied.
    """
    on_record = client.get_run(run_id).info.artifact_uri
    if is_remote(workspace) or urlsplit(on_record).scheme not in ("", "file"):
        client.log_artifacts(run_id, str(folder))
        return
    target = _files_of(workspace, run_id)
    shutil.copytree(folder, target, dirs_exist_ok=True)
    if on_record != target.as_uri():
        from mlflow.store.tracking.dbmodels.models import SqlRun

        with client._tracking_client.store.ManagedSessionMaker(read_only=False) as session:
            rows = session.query(SqlRun).filter(SqlRun.run_uuid == run_id)
            rows.update({"artifact_uri": target.as_uri()})


def local_copy(workspace: Workspace, run_id: str | None, name: str) -> bytes | None:
    """Return the bytes of a file that was mirrored into the workspace, if there is one."""
    if run_id is None or not re.fullmatch("[0-9a-f]{32}", run_id):
        return None
    path = _files_of(workspace, run_id) / name
    if not leads_straight(path, workspace.artifacts):
        return None
    try:
        return path.read_bytes()
    except OSError:
        return None


def create_store(workspace: Workspace) -> bool:
    """Create MLflow's SQLite file where it is missing, whole or not at all, and tell whether this
    call did it. Stores on a server are left alone.
    """

    def build(part: Path) -> None:
        import_mlflow()
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        SqlAlchemyStore(sqlite_url(part), workspace.artifacts.as_uri()).engine.dispose()
        with closing(sqlite3.connect(part)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    file = _local_file(workspace)
    if file is None or file.exists():
        return False
    file = file.absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    return create_file(file, build)


def run_page(workspace: Workspace, run_id: str) -> str | None:
    """Return where MLflow shows a run: on its server, or once `bench ui` runs; None where it has no
    page of this kind.
    """
    if workspace.tracking_uri.startswith("databricks"):
        return None
    server = redact(workspace.tracking_uri).rstrip("/")
    local = f"http://{UI_HOST}:{UI_PORT}"
    return f"{server if is_remote(workspace) else local}/#/runs/{run_id}"


def start_page(workspace: Workspace, port: int = UI_PORT) -> str:
    """Return where `bench ui` is best opened: the runs and the charts of metrics of the task whose
    runs were mirrored last; the list of tasks before there are any.
    """
    import_mlflow()
    from mlflow import MlflowClient

    client = MlflowClient(workspace.tracking_uri)
    experiments = client.search_experiments(order_by=["last_update_time DESC"])
    ids = [task.experiment_id for task in experiments if task.experiment_id != "0"]
    path = f"/{ids[0]}/runs?{RUNS_AND_CHARTS}" if ids else ""
    return f"http://{UI_HOST}:{port}/#/experiments{path}"


def ui_command(
    workspace: Workspace, host: str = UI_HOST, port: int = UI_PORT
) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment that serve MLflow's pages over the workspace: one
    worker, no job runner. The addresses are in the environment, where other users of the machine
    see no password.

    Raises:
        UsageError: MLflow is a server already.
        MirrorError: its database cannot be used.
    """
    if is_remote(workspace):
        raise UsageError(
            f"MLflow is served at {redact(workspace.tracking_uri)} already: open that in a browser."
        )
    create_store(workspace)
    check_database(workspace)
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1"]
    return [*command, "--host", host, "--port", str(port)], {
        **os.environ,
        **workspace.environment,
        **QUIET,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": workspace.tracking_uri,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": workspace.artifacts.as_uri(),
    }
