"""A workspace damaged in every way: each fault is reported, mended or named as lost, and nothing
changes unasked.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
import sqlite3
import threading
from contextlib import closing
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import filled_store
import pytest
from conftest import json_lines
from stores import gone_owner
from toy_data import CONTENT, IMAGES, TOY, ZIPPED, put

from harness.base.spec import Plan, Status
from harness.base.workspace import Workspace
from harness.datasets.files import KNOWN, DataSet, verify
from harness.store import ArtifactFile, CheckpointFile, Progress, ResultStore

pytestmark = pytest.mark.usefixtures("no_mirror")
DATA = Path(__file__).with_name("data")


@pytest.fixture
def here(workspace, monkeypatch):
    """The workspace; there is nothing in MLflow to ask for, and a data folder of its own."""
    monkeypatch.setattr("harness.cli.doctor.mirror_faults", lambda *unused: iter(()))
    monkeypatch.setenv("BENCH_DATA", str(workspace / "data"))
    for name, known in KNOWN.items():
        monkeypatch.setitem(
            KNOWN, name, dataclasses.replace(known, mirrors=("http://127.0.0.1:9/",))
        )
    return Workspace.current()


def finished(here, seed):
    """A finished run with a checkpoint and a picture; returns its key and their places."""
    with ResultStore.open(here.database_url) as store:
        (claim,) = filled_store.start(store, [seed])
        places = filled_store.places(here, claim)
        state, picture = f"state {seed}".encode(), f"picture {seed}".encode()
        filled_store.finish(
            here, store, claim,
            checkpoint=CheckpointFile("final", 20_000, filled_store.sha256(state), 9),
            artifacts=[ArtifactFile("samples.png", filled_store.sha256(picture), 9)],
        )  # fmt: skip
        for place, content in zip(
            places, (state, picture), strict=True
        ):  # `finish` writes files of its own
            filled_store.write_file(here, place, content)
        return claim.key, *(str(place.relative_to(here.home)) for place in places)


def interrupted(here, seed):
    """A run at work with a checkpoint whose process is gone; returns its key and the checkpoint's
    place.
    """
    with ResultStore.open(here.database_url) as store:
        run = filled_store.new_run(seed)
        store.enqueue([run])
        (claim,) = store.claim([run.spec.key], gone_owner())
        store.begin(
            [claim], Plan(members=(claim.key,), threads=1, torch="2.13.0"), filled_store.ENVIRONMENT
        )
        place = here.checkpoint_file(claim.edition, 100)
        filled_store.write_file(here, place, b"on its way")
        store.save(
            [claim],
            [
                Progress(
                    100,
                    1.0,
                    checkpoint=CheckpointFile("last", 100, filled_store.sha256(b"on its way"), 9),
                )
            ],
        )
        return claim.key, str(place.relative_to(here.home))


def snapshot(folder):
    """Every file with its bytes; SQLite's log and its index come and go with readers."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".db-wal", ".db-shm")
    }


def faults(bench, *options):
    """What doctor says, and its exit status."""
    done = bench("doctor", "--json", *options)
    return {line["fault"]: line["state"] for line in json_lines(done)}, done.exit_code


def test_each_damage_is_reported_and_mended_or_named_as_lost(here, bench, workspace):
    _, *whole = finished(here, 0)
    bare, state, picture = finished(here, 1)
    left, place = interrupted(here, 2)
    assert faults(bench, "--repair")[1] == 0  # the claim of a process that is gone
    with ResultStore.open(here.database_url) as store:
        assert store.rows([left])[left].status is Status.INTERRUPTED
    (workspace / state).unlink()
    (workspace / picture).write_bytes(b"another picture")
    (workspace / place).write_bytes(b"on its wax")
    strays = [
        str(Path(place).with_name(name))
        for place, name in zip(whole, ("stray.safetensors", "stray.png"), strict=True)
    ]
    for stray in strays:
        (workspace / stray).write_bytes(b"?")
    wrong = workspace / "data" / "mnist" / KNOWN["mnist"].files[0].name
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(b"no images")

    before = snapshot(workspace)
    found, status = faults(bench)
    assert status == 3
    assert snapshot(workspace) == before
    assert {text: said for text, said in found.items() if str(wrong) not in text} == {
        f"checkpoint {state} of run {bare} is missing": "lost",
        f"checkpoint {place} of run {left} is damaged": "found",
        f"picture {picture} of run {bare} is damaged": "lost",
        f"{strays[0]} belongs to no checkpoint on record": "found",
        f"{strays[1]} belongs to no picture on record": "found",
    }
    assert [said for text, said in found.items() if str(wrong) in text] == ["found"]

    backups = len(list(workspace.glob("bench-*.db")))
    mended, status = faults(bench, "--repair")
    assert (status, mended.keys()) == (3, found.keys())
    assert sorted(mended.values()) == [
        "lost",
        "lost",
        "mended",
        "mended",
        "mended",
        "not mended",
    ]  # nobody serves the data set
    assert len(list(workspace.glob("bench-*.db"))) == backups + 1
    after, status = faults(bench)
    assert sorted(after.values()) == [
        "found",
        "lost",
        "lost",
    ]  # the data set, and what only another run gives back
    assert [(workspace / stray).exists() for stray in strays] == [False, False]
    assert [(workspace / "set-aside" / path).read_bytes() for path in (*strays, place)] == [
        b"?",
        b"?",
        b"on its wax",
    ]
    with ResultStore.open(here.database_url) as store:
        assert store.checkpoints(left) == []
        assert store.metrics([bare])[bare] == filled_store.METRICS


def test_copies_in_mlflow_give_files_back(here, bench, workspace):
    key, state, picture = finished(here, 0)
    kept = {place: (workspace / place).read_bytes() for place in (state, picture)}
    with ResultStore.open(here.database_url) as store:
        store.set_mlflow_run(key, "1" * 32)
    copies = workspace / "mlruns" / ("1" * 32) / "artifacts"
    for target, place in (
        (copies / "checkpoint" / f"{key}.safetensors", state),
        (copies / "pictures" / "samples.png", picture),
    ):
        target.parent.mkdir(parents=True)
        target.write_bytes(kept[place])
        (workspace / place).unlink()
    assert set(faults(bench)[0].values()) == {"found"}
    assert faults(bench, "--repair")[1] == 0
    assert {place: (workspace / place).read_bytes() for place in (state, picture)} == kept
    assert faults(bench) == ({}, 0)


def test_a_schema_that_is_behind_is_brought_up_after_a_backup(here, bench, workspace):
    shutil.copyfile(DATA / "bench-0001.db", workspace / "bench.db")
    with closing(sqlite3.connect(workspace / "bench.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # as the program leaves it
    before = snapshot(workspace)
    found, status = faults(bench)
    assert (status, list(found.values())) == (3, ["found"])
    assert "has schema 0001, this program needs 0004" in next(iter(found))
    assert "bench db upgrade" in bench("doctor").stdout
    assert snapshot(workspace) == before
    mended, _ = faults(bench, "--repair")
    assert (next(iter(mended)), mended[next(iter(found))]) == (next(iter(found)), "mended")
    assert not any("schema" in text for text in faults(bench)[0])
    assert bench("list", "runs").exit_code == 0
    kept = []
    for backup in workspace.glob(
        "bench-*.db"
    ):  # before the upgrade, and before the repairs in the same second
        with closing(sqlite3.connect(backup)) as connection:
            kept += connection.execute("SELECT version_num FROM bench_alembic_version").fetchone()
    assert sorted(kept) == ["0001", "0004"]


def test_a_wrong_data_set_is_downloaded_anew(here, bench, workspace, monkeypatch):
    served = workspace / "served"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    put(served, {f"{name}.gz": zipped for name, zipped in ZIPPED.items()})
    handler = functools.partial(SimpleHTTPRequestHandler, directory=served)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setitem(
            KNOWN, "toy", DataSet("toy", "A toy", TOY, (f"http://127.0.0.1:{server.server_port}/",))
        )
        put(workspace / "data" / "toy", CONTENT | {IMAGES: b"no images"})
        finished(here, 0)
        found, status = faults(bench)
        assert (status, list(found.values())) == (3, ["found"])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mended, status = faults(bench, "--repair")
        server.shutdown()
    assert (status, list(mended.values())) == (0, ["mended"])
    assert [file.state for file in verify("toy")] == ["right", "right"]
    assert faults(bench) == ({}, 0)


def test_what_doctor_says_is_harmless(here, bench, workspace):
    """A file's name cannot write to the terminal."""
    _, state, _ = finished(here, 0)
    (workspace / state).with_name("stray\x1b[2J\r\u202efox").write_bytes(b"?")
    said = bench("doctor")
    assert said.exit_code == 3
    assert "stray\\x1b[2J\\r\\u202efox belongs to no checkpoint" in said.stdout
    assert (said.stdout + said.stderr).replace("\n", "").isprintable()
