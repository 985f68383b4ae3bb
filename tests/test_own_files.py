"""Files of runs: no row of the database leads out of the workspace, each database has its own, and
repairs take nothing from the living.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import filled_store
import pytest
from bundles import cli
from conftest import json_lines
from stores import gone_owner

from harness.base.errors import StoreError
from harness.base.spec import Status
from harness.base.workspace import Edition, Workspace
from harness.cli import doctor
from harness.store import CheckpointFile, Outcome, Owner, Progress, ResultStore
from harness.store import run_files as files
from harness.store.upgrade import upgrade

pytestmark = pytest.mark.usefixtures("no_mirror")
DATA = Path(__file__).with_name("data")
OUTSIDE = (
    "../victim",
    "/etc/hostname",
    "a/../../victim",
    "..",
    ".",
    "",
    "a\0b",
    "-rf",
    ".hidden",
    "a/b",
    "x" * 300,
    7,
    None,
)
STATE = b"state"
SHA256 = hashlib.sha256(STATE).hexdigest()


@pytest.fixture(params=["sqlite", "postgresql"])
def here(request, tmp_path, monkeypatch):
    """A workspace on each kind of database; there is nothing in MLflow to ask for, and no data."""
    monkeypatch.setattr("harness.cli.doctor.mirror_faults", lambda *unused: iter(()))
    monkeypatch.setattr("harness.cli.doctor.bad_data", lambda *unused: iter(()))
    kind = (
        {}
        if request.param == "sqlite"
        else {"BENCH_DATABASE_URL": request.getfixturevalue("postgres_database")()}
    )
    return filled_store.workspace_in(tmp_path / "here", **kind)


@pytest.fixture
def living():
    """A process of this host that lives and is not this one, as an owner."""
    child = subprocess.Popen(["sleep", "600"])
    start = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
    yield dataclasses.replace(Owner.current(), pid=child.pid, process_start=start)
    child.kill()
    child.wait()


def written(here, claim, step=100, content=STATE):
    """A checkpoint of a run on disk, for its row."""
    filled_store.write_file(here, here.checkpoint_file(claim.edition, step), content)
    return CheckpointFile("last", step, hashlib.sha256(content).hexdigest(), len(content))


def left_behind(here, store, steps=(100,)):
    """A run whose process died, with these checkpoints on record, of which the files exist."""
    run = filled_store.new_run()
    store.enqueue([run])
    (claim,) = store.claim([run.spec.key], gone_owner())
    for step in steps:
        store.save([claim], [Progress(step, 1.0, checkpoint=written(here, claim, step))])
    return claim


def findings(here, store):
    """What doctor finds, by kind."""
    return {finding.kind: finding for finding in doctor.examine(here, store)}


def snapshot(folder):
    """Every file beneath a folder, with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# No path out of the database is followed


@pytest.mark.parametrize("name", OUTSIDE, ids=repr)
def test_a_name_that_is_no_file_name_leads_nowhere(name, tmp_path):
    workspace, database, key = Workspace(tmp_path), "0" * 32, "1" * 16
    for edition in (Edition(database, key, 0), Edition(database, key, 3)):
        with pytest.raises(StoreError, match="bench never wrote that") as refused:
            workspace.picture_file(edition, name)
        assert "\n" not in str(refused.value)
    for edition in (Edition(database, name, 0), Edition(database, name, 1), Edition(name, key, 1)):
        with pytest.raises(StoreError):
            workspace.checkpoint_file(edition, 100)
    if not isinstance(name, int):
        with pytest.raises(StoreError):
            workspace.checkpoint_file(Edition(database, key, 1), name)


def test_paths_in_an_old_database_are_dropped_and_nothing_outside_is_touched(tmp_path, monkeypatch):
    """What was joined to the workspace as it stood: an absolute path, and one that leads up."""
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    workspace = filled_store.workspace_in(tmp_path / "here")
    victims = [tmp_path / "key", tmp_path / "picture"]
    for victim in victims:
        victim.write_bytes(b"private")
    shutil.copyfile(DATA / "bench-0002.db", workspace.home / "bench.db")
    with closing(sqlite3.connect(workspace.home / "bench.db")) as connection, connection:
        connection.execute(
            "UPDATE checkpoints SET path = ?, sha256 = ?",
            [str(victims[0]), hashlib.sha256(b"private").hexdigest()],
        )
        connection.execute(
            "UPDATE artifacts SET path = ?, sha256 = ?",
            ["../picture", hashlib.sha256(b"private").hexdigest()],
        )
        (done,) = connection.execute("SELECT key FROM runs WHERE status = 'done'").fetchone()
    upgrade(workspace.database_url)
    assert cli(workspace, "doctor", "--repair").exit_code == 3
    assert (
        json_lines(cli(workspace, "show", done, "--json"))[0]["checkpoints"][0]["path"]
        == f"checkpoints/{done}/step-000001000.safetensors"
    )
    assert cli(workspace, "rm", done, "--yes").exit_code == 0
    assert [victim.read_bytes() for victim in victims] == [b"private"] * 2
    assert not any(content == b"private" for content in snapshot(workspace.home).values())


@pytest.mark.parametrize("name", ["../../../victim", "/VICTIM", "a/../../../../victim"])
def test_a_hostile_row_harms_no_command(name, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    workspace = filled_store.workspace_in(tmp_path / "here")
    victim = tmp_path / "victim"
    victim.write_bytes(b"private")
    (key,) = filled_store.fill(workspace, [0])
    with closing(sqlite3.connect(workspace.home / "bench.db")) as connection, connection:
        values = [name.replace("/VICTIM", str(victim)), hashlib.sha256(b"private").hexdigest()]
        connection.execute("UPDATE artifacts SET name = ?, sha256 = ?", values)
    found = json_lines(cli(workspace, "doctor", "--repair", "--json"))
    assert [line["kind"] for line in found] == ["row"]
    assert cli(workspace, "export", "--bundle", tmp_path / "x.bench").exit_code == 0
    assert b"private" not in (tmp_path / "x.bench").read_bytes()
    assert cli(workspace, "show", key, "--pictures", tmp_path / "shown").exit_code == 0
    assert not any(content == b"private" for content in snapshot(tmp_path / "shown").values())
    assert cli(workspace, "rm", key, "--yes").exit_code == 0
    assert victim.read_bytes() == b"private"


def test_links_out_of_the_workspace_are_not_followed(here, tmp_path):
    outside = tmp_path / "outside"
    (key,) = filled_store.fill(here, [0])
    with ResultStore.open(here.database_url) as store:
        (checkpoint,), (picture,) = store.checkpoints(key), store.artifacts(key)
        places = checkpoint.path_in(here), picture.path_in(here)
        shutil.move(places[0].parent, outside)  # a folder, and a file
        places[0].parent.symlink_to(outside)
        shutil.move(places[1], outside / "samples.png")
        places[1].symlink_to(outside / "samples.png")
        before = snapshot(outside)
        assert [files.read_verified(here, file) for file in (checkpoint, picture)] == [None, None]
        found = list(doctor.examine(here, store))
        assert [
            ("is reached by a link" in finding.text, finding.lost)
            for finding in found
            if finding.lost
        ] == [(True, True)] * 2
        for finding in found:
            if finding.repair is not None:
                finding.repair()
        files.remove_files(here, store, store.delete([key]))
    assert snapshot(outside) == before


# Each database knows what is its own


def test_two_databases_over_one_folder_leave_each_other_alone(here):
    """The layout of the cluster page, with a shell that lacks the variable: the same runs, made
    twice.
    """
    other = Workspace(here.home, {"BENCH_DATABASE_URL": f"sqlite:///{here.home}/other.db"})
    for workspace in (here, other):
        filled_store.fill(workspace, [0, 1])
    with (
        ResultStore.open(here.database_url) as store,
        ResultStore.open(other.database_url) as theirs,
    ):
        keys = list(theirs.rows([row.key for row in theirs.recent()]))
        (claim,) = filled_store.start(theirs, [2])  # at work, with a file that is on no record yet
        written(other, claim)
        before = {
            path: content
            for path, content in snapshot(here.home).items()
            if theirs.database in path
        }
        assert len(before) == 5
        (mine,) = filled_store.start(store, [2])
        filled_store.write_file(here, here.checkpoint_file(mine.edition, 300), STATE)
        store.release([mine], Status.INTERRUPTED, "for a test")
        found = list(doctor.examine(here, store))
        assert [finding.kind for finding in found] == ["orphan file"]
        found[0].repair()
        files.remove_files(here, store, store.delete(keys))
        assert {
            path: content
            for path, content in snapshot(here.home).items()
            if theirs.database in path
        } == before
        assert [files.fault(other, file) for key in keys for file in theirs.checkpoints(key)] == [
            None,
            None,
        ]
        theirs.release([claim], Status.INTERRUPTED, "for a test")


def test_what_is_on_no_record_is_moved_aside_and_never_over_another(here):
    with ResultStore.open(here.database_url) as store:
        claim = left_behind(here, store)
        claims = store.claim([claim.key], Owner.current())
        store.release(claims, Status.INTERRUPTED, "for a test")
        for content in (b"first", b"second"):
            path = here.checkpoint_file(claim.edition, 900)
            filled_store.write_file(here, path, content)
            found = findings(here, store)
            assert found.keys() == {"orphan file"}
            found["orphan file"].repair()
            assert not path.exists()
        place = here.home / "set-aside" / path.relative_to(here.home)
        assert (place.read_bytes(), place.with_name(place.name + ".2").read_bytes()) == (
            b"first",
            b"second",
        )
        assert store.checkpoints(claim.key)[0].path_in(here).read_bytes() == STATE


def test_in_folders_of_before_only_what_is_on_record_here_is_touched(tmp_path):
    """Nothing there says whose a file is."""
    workspace = filled_store.workspace_in(tmp_path)
    with ResultStore.open(workspace.database_url) as store:
        (key,) = filled_store.fill(workspace, [0])
        with closing(sqlite3.connect(tmp_path / "bench.db")) as connection, connection:
            connection.execute("UPDATE runs SET edition = 0")
        (checkpoint,), (picture,) = store.checkpoints(key), store.artifacts(key)
        assert (
            checkpoint.path_in(workspace)
            == workspace.checkpoints / key / "step-000020000.safetensors"
        )
        filled_store.write_file(
            workspace, checkpoint.path_in(workspace), b"state of " + key.encode()
        )
        filled_store.write_file(workspace, picture.path_in(workspace), b"of another database")
        stray = checkpoint.path_in(workspace).with_name("step-000000100.safetensors")
        stray.write_bytes(b"of another database")
        assert not any(
            "orphan" in finding.kind and key + "/" in finding.text
            for finding in doctor.orphan_files(workspace, store)
        )
        files.remove_files(workspace, store, store.delete([key]))
        assert not checkpoint.path_in(workspace).exists()
        assert [path.read_bytes() for path in (stray, picture.path_in(workspace))] == [
            b"of another database"
        ] * 2


# Repair while others work


def test_a_file_that_comes_on_record_while_doctor_looks_is_no_orphan(here, living, monkeypatch):
    """Between its list of files and its look at the rows, or before both, a run stores its result
    and ends.
    """
    with ResultStore.open(here.database_url) as store:
        run = filled_store.new_run()
        store.enqueue([run])
        (claim,) = store.claim([run.spec.key], living)
        file = written(here, claim)
        assert findings(here, store) == {}  # it is at work: its file is its own

        present = files.files_of_database

        def listed(*arguments):
            yield from list(present(*arguments))
            store.finish(claim, Outcome(Status.DONE, None, 100, 1.0, checkpoint=file))

        monkeypatch.setattr(files, "files_of_database", listed)
        assert findings(here, store) == {}
        assert files.fault(here, store.checkpoints(claim.key)[0]) is None


def test_an_orphan_that_has_come_on_record_since_stays(here, living):
    with ResultStore.open(here.database_url) as store:
        claim = left_behind(here, store)
        claims = store.claim([claim.key], Owner.current())
        store.release(claims, Status.INTERRUPTED, "for a test")
        file = written(here, claim, 200)
        orphan = findings(here, store)["orphan file"]
        (resumed,) = store.claim([claim.key], living)
        orphan.repair()  # it is at work again
        store.finish(resumed, Outcome(Status.DONE, None, 200, 1.0, checkpoint=file))
        orphan.repair()
        assert files.fault(here, store.checkpoints(claim.key)[0]) is None


def test_an_orphan_of_a_run_that_was_removed_and_asked_for_again_stays(here, living):
    with ResultStore.open(here.database_url) as store:
        claim = left_behind(here, store)
        claims = store.claim([claim.key], Owner.current())
        store.release(claims, Status.INTERRUPTED, "for a test")
        dropped = store.delete([claim.key])
        orphan = findings(here, store)["orphan file"]
        run = filled_store.new_run()
        store.enqueue([run])
        (again,) = store.claim([claim.key], living)
        file = written(here, again)
        orphan.repair()
        files.remove_files(here, store, dropped)  # of whoever removed it, late
        store.finish(again, Outcome(Status.DONE, None, 100, 1.0, checkpoint=file))
        assert files.fault(here, store.checkpoints(claim.key)[0]) is None


def test_a_claim_that_was_taken_over_since_is_not_given_back(here, living):
    with ResultStore.open(here.database_url) as store:
        claim = left_behind(here, store)
        abandoned = findings(here, store)["abandoned claim"]
        (resumed,) = store.claim([claim.key], living)
        abandoned.repair()
        assert store.rows([claim.key])[claim.key].status is Status.RUNNING
        store.release([resumed], Status.INTERRUPTED, "stopped by the user")
        abandoned.repair()
        row = store.rows([claim.key])[claim.key]
        assert (row.status, row.reason) == (Status.INTERRUPTED, "stopped by the user")


@pytest.mark.parametrize("damage", [None, b"damaged"], ids=["missing", "damaged"])
def test_a_checkpoint_that_is_good_again_stays_on_record(damage, here):
    with ResultStore.open(here.database_url) as store:
        claim = left_behind(here, store)
        claims = store.claim([claim.key], Owner.current())
        store.release(claims, Status.INTERRUPTED, "for a test")
        (file,) = store.checkpoints(claim.key)
        place = file.path_in(here)
        place.unlink()
        if damage:
            place.write_bytes(damage)
        bad = findings(here, store)["checkpoint"]
        place.write_bytes(STATE)
        bad.repair()
        assert (store.checkpoints(claim.key), place.read_bytes()) == ([file], STATE)
        os.truncate(place, 2)
        bad.repair()
        assert store.checkpoints(claim.key) == []
