"""The result database, over SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import select
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import store_processes as processes
from sqlalchemy import inspect
from store_processes import new_run, spec
from stores import (  # noqa: F401
    DATA,
    KEYS,
    ME,
    REVISION_MODULE,
    checkpoint,
    execute,
    file,
    in_namespace,
    in_processes,
    killed,
    outcome,
    stack,
    store,
    url,
)

import harness.store
from harness.base.errors import LeaseLost, SchemaMismatch, StoreError, UsageError
from harness.base.spec import Status
from harness.base.workspace import redact, sqlite_url
from harness.store import (
    ArtifactFile,
    Estimate,
    Progress,
    ResultStore,
    backup,
    create,
    info,
)
from harness.store import upgrade as upgrade_database
from harness.store.database import Database
from harness.store.schema import metadata
from harness.store.upgrade import REVISIONS

# Names and imports


PUBLIC = """
Adoption ArtifactFile CODE_DIGITS CRASHED CellRow CheckpointFile Claim Curve Estimate Evaluation
File HEAD HistoryRow LEASE_S OpenRun Outcome Owner Progress Replicate Result ResultStore Retraction
Retractions RunRow RunStatus Scores Snapshot StoredScore backup info is_newest newest plugin_names
upgrade
"""


def test_the_public_names_are_these():
    assert set(harness.store.__all__) == set(PUBLIC.split())
    assert all(hasattr(harness.store, name) for name in harness.store.__all__)


def test_reading_a_stored_run_imports_neither_alembic_nor_the_orm(file):
    ResultStore.open(sqlite_url(file)).close()
    program = (
        "import sys; from harness.store import ResultStore\n"
        f"with ResultStore.open({sqlite_url(file)!r}) as store: store.rows(['a']), "
        "store.behind(['a'])\n"
        "print([name for name in ('alembic', 'sqlalchemy.orm', 'torch', 'mlflow') if name in "
        "sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=DATA.parent.parent,
    )
    assert done.stdout.strip() == "[]"


# Runs and results


def test_a_run_comes_back_as_it_was_put_in(store):
    row = store.rows([KEYS[3]])[KEYS[3]]
    wanted = spec(3)
    assert (row.key, row.cell, row.method, row.task, row.task_label, row.seed) == (
        wanted.key,
        wanted.cell,
        "hvae",
        "gaussian",
        "gaussian-25",
        3,
    )
    assert row.spec == wanted.plain()
    assert (row.status, row.step, row.steps, row.settings, row.protocol) == (
        Status.QUEUED,
        0,
        1000,
        {"n_leapfrog": 10},
        "standard",
    )
    assert (row.owner, row.started_at, row.fence, row.mlflow_run_id) == (None, None, 0, None)


def test_rows_keep_the_order_of_the_keys_and_leave_out_the_unknown(store):
    wanted = [KEYS[5], "0" * 16, KEYS[1], KEYS[5]]
    assert list(store.rows(wanted)) == [KEYS[5], KEYS[1]]


def test_more_keys_than_one_in_list_holds_are_found(store):
    many = [f"{number:016x}" for number in range(40_000)]
    assert set(store.rows(many + KEYS)) == set(KEYS)


def test_enqueueing_again_changes_nothing(store):
    before = store.rows(KEYS)
    store.enqueue([new_run(seed) for seed in range(20)] * 2)
    assert store.rows(KEYS) == before
    assert [len(store.history(key)) for key in KEYS] == [1] * 20


def test_runs_are_found_by_the_beginning_of_their_keys(store):
    assert [row.key for row in store.find(KEYS[0][:6])] == [
        key for key in sorted(KEYS) if key.startswith(KEYS[0][:6])
    ]
    assert [row.key for row in store.find("")] == sorted(KEYS)
    assert [row.key for row in store.find(KEYS[0].upper())] == [KEYS[0]]
    assert store.find("%") == []
    for digit in "0123456789abcdef":
        assert [row.key for row in store.find(digit)] == [
            key for key in sorted(KEYS) if key.startswith(digit)
        ]


def test_recent_runs_come_newest_first_and_can_be_filtered(store):
    store.enqueue([new_run(99, method="vb")])
    (claim,) = store.claim(KEYS[:1], ME)
    assert [row.seed for row in store.recent(3)] == [99, 19, 18]
    assert [row.key for row in store.recent(status=Status.RUNNING)] == [claim.key]
    assert [row.method for row in store.recent(method="vb", task_label="gaussian-25")] == ["vb"]
    assert store.recent(task_label="mnist") == []
    assert store.count() == {"queued": 20, "running": 1}


def test_nan_and_infinities_survive_in_metrics_and_curves(store):
    (claim,) = store.claim(KEYS[:1], ME)
    values = {
        "nan": math.nan,
        "up": math.inf,
        "down": -math.inf,
        "third": 1 / 3,
        "tiny": 5e-324,
        "huge": -1.7976931348623157e308,
        "n": 3,
    }
    metrics = {name: Estimate(value, se=value) for name, value in values.items()} | {
        "bare": Estimate(0.1)
    }
    curves = {
        "bound": [(step, float(value)) for step, value in enumerate(values.values())],
        "empty": [],
    }
    store.finish(claim, outcome(metrics=metrics, curves=curves))
    # repr tells every float apart, and is the same for two NaNs
    stored = store.metrics([claim.key])[claim.key]
    assert {name: repr(metric) for name, metric in stored.items()} == {
        name: repr(Estimate(float(metric.value), None if metric.se is None else float(metric.se)))
        for name, metric in metrics.items()
    }
    assert repr(store.curves(claim.key)) == repr(dict(sorted(curves.items())))


def test_finishing_stores_everything_and_lets_go(store):
    (claim,) = store.claim(KEYS[:1], ME)
    files = [ArtifactFile("path.html", "sha", 7)]
    store.finish(
        claim, outcome(reason="as planned", checkpoint=checkpoint(1000, "final"), artifacts=files)
    )
    row = store.rows([claim.key])[claim.key]
    assert (row.status, row.reason, row.step, row.wall_s) == (Status.DONE, "as planned", 1000, 12.5)
    assert (row.owner, row.lease_expires) == (None, None)
    assert row.created_at <= row.started_at <= row.finished_at
    assert store.checkpoints(claim.key) == [checkpoint(1000, "final")]
    assert store.artifacts(claim.key) == files
    assert [(line.status, line.reason, line.fence) for line in store.history(claim.key)] == [
        ("queued", None, 0),
        ("running", None, 1),
        ("done", "as planned", 1),
    ]
    assert store.claim([claim.key], ME) == []


def test_plan_and_environment_are_stored_when_a_run_begins(store):
    claims = store.claim(KEYS[:2], ME)
    assert store.provenance(KEYS[:1]) == {KEYS[0]: ({}, {})}
    store.begin(claims, stack(*KEYS[:2]), {"cpu": "first"})
    store.begin(claims, stack(KEYS[0]), {"cpu": "second"})
    plan = stack(*KEYS[:2]).model_dump(mode="json")
    assert store.provenance(KEYS[:2]) == dict.fromkeys(KEYS[:2], ({"cpu": "second"}, plan))
    store.release(claims, Status.INTERRUPTED, "ctrl-c")
    assert [claim.plan for claim in store.claim(KEYS[:2], ME)] == [stack(*KEYS[:2])] * 2


def test_the_last_two_checkpoints_are_kept_and_the_others_handed_back(store):
    claims = store.claim(KEYS[:2], ME)
    dropped = [
        store.save(
            claims,
            [Progress(step, 1.0, {"bound": [(step, -1.0)]}, checkpoint(step)), Progress(step, 2.0)],
        )
        for step in (10, 20, 30)
    ]
    assert dropped == [[], [], [checkpoint(10)]]
    assert store.checkpoints(KEYS[0]) == [checkpoint(30), checkpoint(20)]
    assert (
        store.save(
            claims[:1], [Progress(20, 1.0, {}, dataclasses.replace(checkpoint(20), sha256="new"))]
        )
        == []
    )
    assert [(file.step, file.sha256) for file in store.checkpoints(KEYS[0])] == [
        (20, "new"),
        (30, "sha-30"),
    ]
    assert store.curves(KEYS[0]) == {"bound": [(30, -1.0)]}
    assert [(row.step, row.wall_s) for row in store.rows(KEYS[:2]).values()] == [
        (20, 1.0),
        (30, 2.0),
    ]


def test_a_reset_run_starts_from_nothing_and_keeps_its_history(store):
    (claim,) = store.claim(KEYS[:1], ME)
    store.begin([claim], stack(KEYS[0]), {"cpu": "x"})
    store.save([claim], [Progress(10, 1.0, {"bound": [(10, -1.0)]}, checkpoint(10))])
    with pytest.raises(UsageError, match=f"pid {ME.pid}"):
        store.reset(KEYS[:1])
    store.finish(claim, outcome(metrics={"elbo": Estimate(-1.0)}))
    assert store.reset([*KEYS[:1], "0" * 16]) == []  # its result waits
    row = store.rows(KEYS)[KEYS[0]]
    assert (row.status, row.step, row.wall_s, row.fence, row.started_at, row.finished_at) == (
        Status.QUEUED,
        0,
        0.0,
        2,
        None,
        None,
    )
    assert (
        store.metrics(KEYS),
        store.curves(KEYS[0]),
        store.checkpoints(KEYS[0]),
        store.provenance(KEYS[:1]),
    ) == ({}, {}, [], {KEYS[0]: ({}, {})})
    assert [line.status for line in store.history(KEYS[0])] == [
        "queued",
        "running",
        "done",
        "queued",
    ]


def test_a_removed_run_leaves_nothing_behind(store):
    (claim,) = store.claim(KEYS[:1], ME)
    with pytest.raises(UsageError, match=claim.key):
        store.delete(KEYS)
    assert len(store.rows(KEYS)) == 20
    store.finish(
        claim, outcome(metrics={"elbo": Estimate(-1.0)}, checkpoint=checkpoint(1000, "final"))
    )
    assert store.delete(KEYS) == [checkpoint(1000, "final")]
    assert (
        store.rows(KEYS),
        store.metrics(KEYS),
        store.history(KEYS[0]),
        store.checkpoints(KEYS[0]),
    ) == ({}, {}, [], [])
    with pytest.raises(LeaseLost, match="removed"):
        store.heartbeat([claim])


def test_a_plan_of_another_release_is_refused_in_words(store, url):
    store.begin(store.claim(KEYS[:1], ME), stack(KEYS[0]), {})
    execute(url, "UPDATE plans SET plan = '{\"nodes\"\\:3}'")
    with pytest.raises(StoreError, match="--rerun"):
        store.claim(KEYS[:1], ME)


# The mirror


def test_the_mirror_follows_revisions_and_never_goes_back(store):
    assert store.behind() == []  # what waits for its first start has nothing to show
    (claim,) = store.claim(KEYS[:1], ME)
    assert store.behind() == store.behind(KEYS) == [claim.key]
    behind = store.rows(KEYS)[claim.key].revision
    store.save([claim], [Progress(1, 1.0)])
    store.mirrored(claim.key, behind)
    assert store.behind() == [claim.key]
    store.finish(claim, outcome())
    ended = store.rows(KEYS)[claim.key].revision
    assert ended > behind
    store.mirrored(claim.key, ended)
    store.mirrored(claim.key, behind)
    assert store.behind() == []


def test_the_first_mirror_of_a_run_stays_until_it_is_cleared(store):
    assert [store.set_mlflow_run(KEYS[0], name) for name in ("one", "two")] == ["one", "one"]
    store.clear_mirror(KEYS[1:])
    assert store.rows(KEYS)[KEYS[0]].mlflow_run_id == "one"
    store.clear_mirror(None)
    row = store.rows(KEYS)[KEYS[0]]
    assert (row.mlflow_run_id, row.mirrored_revision) == (None, -1)
    with pytest.raises(StoreError, match="not in the database"):
        store.set_mlflow_run("0" * 16, "one")


# Creation, revisions, damage


def test_six_processes_open_a_fresh_database_at_once(url):
    assert in_processes(6, processes.open_together, url, list(range(6))) == ["opened"] * 6
    with ResultStore.open(url) as store:
        assert store.count() == {"queued": 6}


@pytest.mark.parametrize("number", [1, 2, 4, 8, 16])
def test_a_process_killed_while_it_creates_the_schema_does_no_harm(url, number):
    assert killed(processes.die_at_statement, url, number)
    with ResultStore.open(url) as store:
        store.enqueue([new_run()])
        assert store.count() == {"queued": 1}


@pytest.mark.parametrize(("call", "after"), [("fsync", False), ("link", False), ("link", True)])
def test_a_process_killed_while_it_publishes_the_file_does_no_harm(file, call, after):
    assert killed(processes.die_at_call, sqlite_url(file), call, after)
    assert file.exists() == after
    with ResultStore.open(sqlite_url(file)) as store:
        store.enqueue([new_run()])
    left = list(file.parent.glob(".bench.db~*"))
    assert bool(left) == after  # whoever builds the file next removes what the dead left
    file.unlink()
    ResultStore.open(sqlite_url(file)).close()
    assert [path.name for path in file.parent.iterdir()] == ["bench.db"]


def test_a_database_is_built_by_one_process_at_a_time_in_every_namespace(file):
    with contextlib.ExitStack() as stack:
        builder = in_namespace(processes.build_and_wait, str(file))
        part = builder.__enter__().readline().strip()
        waiting = stack.enter_context(in_namespace(processes.open_alone, sqlite_url(file), 0))
        assert not select.select([waiting], [], [], 2)[0]
        assert [path.name for path in file.parent.glob(".bench.db~*")] == [part]
        builder.__exit__(None, None, None)  # killed
        assert waiting.readline() == "opened\n"
    assert [path.name for path in file.parent.iterdir()] == ["bench.db"]


def test_first_starts_in_namespaces_open_one_database(file):
    with contextlib.ExitStack() as opened:
        starts = [
            opened.enter_context(in_namespace(processes.open_alone, sqlite_url(file), seed))
            for seed in range(4)
        ]
        assert [start.readline() for start in starts] == ["opened\n"] * 4
    with ResultStore.open(sqlite_url(file)) as store:
        assert store.count() == {"queued": 4}


def test_an_empty_file_and_a_file_system_without_links_are_built_in_place(file, monkeypatch):
    file.touch()
    ResultStore.open(sqlite_url(file)).close()
    file.unlink()

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(create.os, "link", refuse)
    with ResultStore.open(sqlite_url(file)) as store:
        assert store.count() == {}


def test_sqlite_is_set_up_for_several_writers(file):
    ResultStore.open(sqlite_url(file)).close()
    engine = Database(sqlite_url(file)).engine
    with engine.connect() as connection:
        asked = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    engine.dispose()
    assert asked == ["wal", 2, 1, 30_000]


def differences_from_the_declared_schema(url):
    """What Alembic would change in a database to make it as it is declared."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    engine = Database(url).engine
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": "bench_alembic_version",
                "compare_type": True,
                "compare_server_default": True,
            },
        )
        differences = compare_metadata(context, metadata)
        indexes = {index["name"] for index in inspect(connection).get_indexes("runs")}
    engine.dispose()
    return differences, indexes ^ {index.name for index in metadata.tables["runs"].indexes}


FIRST_SCHEMA = (
    *(f"DROP TABLE {name}" for name in ("scores", "scoring", "errata", "earlier_results")),
    *(f"DROP TABLE {name}" for name in ("database", "sources")),
    *(
        f"ALTER TABLE runs DROP COLUMN {name}"
        for name in (
            *("description", "method_label", "method_source", "task_source"),
            *("stacks", "edition", "owner_pid_namespace", "traceback"),
        )
    ),
    "DROP TABLE descriptions",
    "ALTER TABLE checkpoints ADD COLUMN path TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE artifacts ADD COLUMN path TEXT NOT NULL DEFAULT ''",
    "DROP INDEX ix_runs_status_created_at_key",
    "CREATE INDEX ix_runs_status ON runs (status)",
    "DROP INDEX ix_runs_unmirrored",
    "CREATE INDEX ix_runs_unmirrored ON runs (key) WHERE mirrored_revision < revision",
    "UPDATE bench_alembic_version SET version_num = '0001'",
)
"""From the newest schema back to the first one."""


def test_an_upgraded_schema_is_the_declared_one(store, url):
    assert differences_from_the_declared_schema(url) == ([], set())
    if url.startswith("postgresql"):  # of SQLite there are saved databases
        store.close()
        for statement in FIRST_SCHEMA:
            execute(url, statement)
        assert upgrade_database(url) == "0001"
        assert differences_from_the_declared_schema(url) == ([], set())
        with ResultStore.open(url) as upgraded:
            assert len(upgraded.find("")) == 20


def test_every_revision_has_a_migration_and_a_saved_database():
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    folder = Path(harness.store.__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    steps = [step.revision for step in ScriptDirectory.from_config(config).walk_revisions()][::-1]
    assert tuple(steps) == REVISIONS
    assert {path.stem for path in DATA.glob("bench-*.db")} == {f"bench-{step}" for step in steps}


@pytest.mark.parametrize("saved", sorted(DATA.glob("bench-*.db")), ids=lambda path: path.stem)
def test_each_saved_database_upgrades_and_reads(saved, file):
    shutil.copyfile(saved, file)
    assert upgrade_database(sqlite_url(file)) == saved.stem.removeprefix("bench-")
    assert differences_from_the_declared_schema(sqlite_url(file)) == ([], set())
    with ResultStore.open(sqlite_url(file)) as store:
        done, interrupted, queued = sorted(store.find(""), key=lambda row: row.seed)
        assert (done.status, interrupted.status, queued.status) == (
            Status.DONE,
            Status.INTERRUPTED,
            Status.QUEUED,
        )
        assert (done.method, done.spec["method"], done.settings) == (
            "hvae",
            "hvae",
            {"n_leapfrog": 10},
        )
        assert repr(store.metrics([done.key])) == repr(
            {done.key: {"elbo": Estimate(-2.5, 0.1), "pareto_k": Estimate(math.nan)}}
        )
        assert store.curves(done.key)["bound"] == [(0, -math.inf), (500, -2.5)]
        assert [file.role for file in store.checkpoints(done.key)] == ["final", "last"]
        assert store.retractions.reasons() == (
            {} if saved.stem == "bench-0001" else {done.key: "the machine's memory was faulty"}
        )
        claims = store.claim([done.key, interrupted.key, queued.key], ME)
        assert [(claim.key, claim.plan) for claim in claims] == [
            (interrupted.key, stack(done.key, interrupted.key)),
            (queued.key, None),
        ]


def test_other_revisions_are_refused_and_only_upgraded_on_request(store, url, monkeypatch):
    revisions = sys.modules[REVISION_MODULE]
    monkeypatch.setattr(revisions, "REVISIONS", (*REVISIONS, "0005"))
    monkeypatch.setattr(revisions, "HEAD", "0005")
    with pytest.raises(SchemaMismatch, match="run: bench db upgrade"):
        ResultStore.open(url)
    monkeypatch.undo()
    execute(url, "UPDATE bench_alembic_version SET version_num = '9999'")
    for attempt in (ResultStore.open, upgrade_database):
        with pytest.raises(SchemaMismatch, match=r"9999.*newer release"):
            attempt(url)
    assert info(url)["revision"] == "9999"


def test_another_programs_tables_are_left_alone(url):
    execute(url, "CREATE TABLE runs (id INTEGER)")
    with pytest.raises(StoreError, match="not a result database"):
        ResultStore.open(url)
    engine = Database(url).engine
    assert inspect(engine).get_table_names() == ["runs"]
    engine.dispose()


def one_line(raised):
    """The message, which has to be a single line."""
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_garbage_is_refused_in_one_line(file):
    file.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError) as raised:
        ResultStore.open(sqlite_url(file))
    assert "not a database" in one_line(raised)
    assert file.read_bytes() == b"not a database at all" * 100


def test_places_that_cannot_be_opened_are_refused_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file" / "bench.db", tmp_path / "nowhere" / "bench.db"):
        with pytest.raises(StoreError) as raised:
            ResultStore.open(sqlite_url(place))
        assert str(place) in one_line(raised)


def test_a_locked_database_is_refused_in_one_line(file, monkeypatch):
    ResultStore.open(sqlite_url(file)).close()
    monkeypatch.setattr("harness.store.database.WAIT_MS", 10)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with ResultStore.open(sqlite_url(file)) as store:
        assert store.count() == {}
        with pytest.raises(StoreError) as raised:
            store.enqueue([new_run()])
    other.close()
    assert "database is locked" in one_line(raised)


def test_a_server_that_is_away_is_refused_without_its_password():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for url in (
            f"postgresql://ada:secret@{address}/bench",
            f"postgresql://{address}/bench?user=ada&password=secret",
        ):
            with pytest.raises(StoreError) as raised:
                ResultStore.open(url)
            assert address in one_line(raised)
            assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://ada:secret@h/b",
        "nonsense secret",
        "postgresql://a:secret@h:port/b",
    ],
)
def test_other_addresses_are_refused(url):
    with pytest.raises(UsageError) as raised:
        ResultStore.open(url)
    assert ":secret" not in one_line(raised)


def test_info_tells_what_is_there(store, url):
    store.claim(KEYS[:1], ME)
    shown = info(url)
    assert shown.pop("size_bytes") > 0
    assert shown == {
        "url": redact(url),
        "revision": REVISIONS[-1],
        "head": REVISIONS[-1],
        "runs": {"queued": 19, "running": 1},
    }


def test_a_backup_is_a_whole_database(file, tmp_path):
    url, copy = sqlite_url(file), tmp_path / "copy.db"
    with ResultStore.open(url) as store:
        store.enqueue([new_run(0)])
        copy.write_text("an older backup")
        backup(url, copy)
        store.enqueue([new_run(1)])
    assert not list(tmp_path.glob("*.part"))
    with ResultStore.open(sqlite_url(copy)) as store:
        assert list(store.rows(KEYS)) == [KEYS[0]]


def test_backups_that_cannot_be_made_are_refused(file, tmp_path):
    for attempt in (
        lambda: backup(sqlite_url(file), tmp_path / "copy.db"),
        lambda: upgrade_database(sqlite_url(file)),
        lambda: info(sqlite_url(file)),
    ):
        with pytest.raises(StoreError, match="no result database"):
            attempt()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="pg_dump"):
        backup("postgresql://localhost/bench", file)
    ResultStore.open(sqlite_url(file)).close()
    with pytest.raises(UsageError, match="itself"):
        backup(sqlite_url(file), file)
    with pytest.raises(StoreError):
        backup(sqlite_url(file), tmp_path / "nowhere" / "copy.db")


# Much at a time


def test_a_snapshot_is_of_one_moment_while_others_write(store, url):
    with store.snapshot() as snapshot:
        before = list(snapshot.each_cell())
        with ResultStore.open(url) as other:
            (claim,) = other.claim(KEYS[:1], ME)
            other.finish(claim, outcome(metrics={"elbo": Estimate(1.0)}))
            other.enqueue([new_run(99)])
        assert snapshot.rows(KEYS)[KEYS[0]].status is Status.QUEUED
        assert snapshot.has_errors(KEYS) == snapshot.metrics(KEYS) == {}
        assert len(snapshot.replicates([cell.cell for cell in before])) == 20
    with store.snapshot() as snapshot:
        assert snapshot.rows(KEYS)[KEYS[0]].status is Status.DONE
        assert snapshot.has_errors(KEYS) == {"elbo": False}
        assert len(snapshot.replicates([cell.cell for cell in before])) == 21


def test_what_goes_wrong_with_a_snapshot_in_hand_is_not_the_database_s_fault(store):
    def fill_the_disk():
        with store.snapshot() as snapshot:
            list(snapshot.each_cell())
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fill_the_disk()


def test_cells_are_found_by_their_names_and_by_their_runs(store):
    (cell,) = {run.cell for run in store.rows(KEYS).values()}
    assert store.scores.cells_named(cell[:6]) == store.scores.cells_named(KEYS[3]) == [cell]
    assert store.scores.cells_named("") == [cell]
    assert store.scores.cells_named("vb") == store.scores.cells_named("f" * 16) == []
