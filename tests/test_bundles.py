"""Runs out of one workspace and into another: whole, to the bit, and never over what is there."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sqlite3
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import filled_store
import pytest
from bundles import (  # noqa: F401
    CURVE,
    ODD,
    SMOKE,
    bundle,
    cli,
    edit,
    export,
    files,
    fill,
    goal,
    here,
    pack,
    source,
    take,
    tensors,
    there,
    told,
    unpack,
)
from conftest import json_lines
from filled_store import sha256
from stores import DATA, gone_owner

import harness.execution.bundle
from harness.base.errors import LeaseLost
from harness.base.spec import Description, Plan, Status
from harness.store import CheckpointFile, Estimate, Outcome, Owner, Progress, ResultStore, upgrade

pytestmark = pytest.mark.usefixtures("no_mirror")


def test_the_public_names_are_these():
    assert sorted(harness.execution.bundle.__all__) == [
        "Bundle",
        "import_bundle",
        "open_bundle",
        "write_bundle",
    ]


# Whole and to the bit


@pytest.mark.parametrize(
    ("first", "second"), [("sqlite", "postgresql"), ("postgresql", "sqlite"), ("sqlite", "sqlite")]
)
def test_everything_on_record_arrives_to_the_bit(first, second, tmp_path, request):
    spaces = []
    for name, kind in (("a", first), ("b", second)):
        url = (
            {}
            if kind == "sqlite"
            else {"BENCH_DATABASE_URL": request.getfixturevalue("postgres_database")()}
        )
        spaces.append(filled_store.workspace_in(tmp_path / name, **url))
    keys = fill(spaces[0], metrics=ODD, curves=CURVE)
    keys += fill(spaces[0], [3], status=Status.DIVERGED, metrics={}, artifacts=[])
    keys += fill(
        spaces[0], [4], status=Status.FAILED, metrics={}, curves={}, checkpoint=None, artifacts=[]
    )
    export(spaces[0], tmp_path / "x.bench", keys)
    taken = take(spaces[1], tmp_path / "x.bench")
    assert {key: adoption.what for key, adoption in taken.items()} == dict.fromkeys(
        sorted(keys), "added"
    )
    here, there = ([text.replace("-0.0", "0.0") for text in told(space, keys)] for space in spaces)
    assert there == here  # SQLite has no -0.0
    assert {adoption.what for adoption in take(spaces[1], tmp_path / "x.bench").values()} == {
        "same"
    }
    assert {
        path: value for path, value in files(spaces[0]).items() if path in files(spaces[1])
    } == files(spaces[1])
    assert len(files(spaces[1])) == 4 + 3
    with (
        ResultStore.open(spaces[0].database_url) as a,
        ResultStore.open(spaces[1].database_url) as b,
    ):
        for key in keys:
            *before, imported = b.history(key)
            assert before == a.history(key)
            assert (imported.status, imported.step) == (before[-1].status, before[-1].step)
            assert imported.reason == f"imported; made by {Owner.current()}"
            assert str(tmp_path) not in imported.reason
        assert set(b.behind()) == set(keys)
        assert b.rows(keys)[keys[0]].created_at == a.rows(keys)[keys[0]].created_at


def test_a_bundle_is_a_result_database_with_its_files_beside_it(here, tmp_path):
    keys = fill(here, range(5))
    export(here, tmp_path / "x.bench", keys[:3])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "x.bench"]
    database, entries = unpack(tmp_path / "x.bench", tmp_path / "unpacked")
    assert set(entries) == {f"files/{sha256(content)}" for content in entries.values()}
    assert len(entries) == 6
    alone = filled_store.workspace_in(tmp_path / "alone")
    database.replace(alone.home / "bench.db")
    assert told(alone, keys, history=True) == told(here, keys[:3], history=True)


def test_texts_of_plugins_and_tracebacks_go_along(here, there, tmp_path):
    text = "class Mine: ..."
    name = sha256(text.encode())
    spec = filled_store.spec(0).model_copy(update={"method": "mine", "method_source": name})
    run = dataclasses.replace(filled_store.new_run(0), spec=spec, sources={name: text})
    with ResultStore.open(here.database_url) as store:
        store.enqueue([run])
        claims = store.claim([spec.key], Owner.current())
        store.begin(claims, Plan(members=(spec.key,), threads=1, torch="2"), {})
        store.finish(claims[0], Outcome(Status.FAILED, "it broke", 5, 1.0, traceback="line 3"))
    export(here, tmp_path / "x.bench", [spec.key])
    assert take(there, tmp_path / "x.bench")[spec.key].what == "added"
    with ResultStore.open(there.database_url) as store:
        assert store.source(name) == text
        assert store.rows([spec.key])[spec.key].traceback == "line 3"
        assert store.described([spec.key])[spec.key] == run.description


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_a_bundle_of_an_older_schema_is_upgraded_as_it_is_read(revision, there, tmp_path):
    old = filled_store.workspace_in(tmp_path / "old")
    shutil.copyfile(DATA / f"bench-{revision}.db", old.home / "bench.db")
    with closing(sqlite3.connect(old.home / "bench.db")) as connection, connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("DELETE FROM checkpoints")
        connection.execute("DELETE FROM artifacts")
        connection.execute("DELETE FROM runs WHERE status NOT IN ('done', 'diverged', 'failed')")
    pack(tmp_path / "x.bench", old.home / "bench.db", {})
    taken = take(there, tmp_path / "x.bench")
    assert {adoption.what for adoption in taken.values()} == {"added"}
    upgrade(old.database_url)
    assert told(there, list(taken)) == told(old, list(taken))


def test_a_bundle_of_the_first_format_arrives_to_the_bit(goal):
    path = DATA / "format-1.bundle"
    with zipfile.ZipFile(path) as archive:
        lines = [json.loads(line) for line in archive.read("runs.jsonl").splitlines()]
        contents = {name: archive.read(name) for name in archive.namelist()}
    taken = take(goal, path)
    assert {key: adoption.what for key, adoption in taken.items()} == {
        line["key"]: "added" for line in lines
    }
    assert {adoption.what for adoption in take(goal, path).values()} == {"same"}
    with ResultStore.open(goal.database_url) as store:
        for line in lines:
            row = store.rows([line["key"]])[line["key"]]
            for name in ("spec", "settings", "task_label", "status", "wall_s", "finished_at"):
                assert getattr(row, name) == line[name]
            metrics = {
                name: Estimate(float(value["value"]), value["se"])
                for name, value in line["metrics"].items()
            }
            assert store.metrics([row.key])[row.key] == metrics
            assert store.curves(row.key) == {
                name: list(zip(curve["steps"], curve["values"], strict=True))
                for name, curve in line["curves"].items()
            }
            assert store.provenance([row.key])[row.key] == (line["environment"], line["plan"])
            description = Description.model_validate(line["description"])
            assert store.described([row.key])[row.key] == description
            *history, imported = map(vars, store.history(row.key))
            assert history == line["history"]
            assert imported["reason"].startswith("imported; made by ")
            for file in [*store.checkpoints(row.key), *store.artifacts(row.key)]:
                content = contents[f"files/{file.sha256}"]
                assert file.path_in(goal).read_bytes() == content
    assert len(files(goal)) == len(contents) - 2


def test_no_path_of_the_workspace_is_in_a_bundle(source, bundle):
    assert str(source[0].home).encode() not in bundle.read_bytes()
    assert b"checkpoints/" not in bundle.read_bytes()


def test_a_second_import_changes_nothing(there, bundle):
    take(there, bundle)
    with ResultStore.open(there.database_url) as store:
        before = {row.key: row for row in store.find("")}
    assert {adoption.what for adoption in take(there, bundle).values()} == {"same"}
    with ResultStore.open(there.database_url) as store:
        assert {row.key: row for row in store.find("")} == before


def test_nan_equals_nan_and_each_bit_counts(here, there, tmp_path):
    keys = fill(here, [0], metrics=ODD)
    export(here, tmp_path / "x.bench", keys)
    fill(there, [0], metrics=ODD)
    assert take(there, tmp_path / "x.bench")[keys[0]].what == "same"


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"metrics": {**ODD, "zero": Estimate(5e-324)}}, "zero 5e-324 here, 0.0 there"),
        (
            {"metrics": {**ODD, "tiny": Estimate(5e-324, 0.3)}},
            "tiny 5e-324 ± 0.3 here, 5e-324 ± 0.30000000000000004 there",
        ),
        (
            {"metrics": {**ODD, "elbo": Estimate(1.0, math.inf)}},
            "elbo 1.0 ± inf here, nan ± inf there",
        ),
        ({"metrics": {}}, "elbo missing here, nan ± inf there"),
        ({"curves": {"bound": [*CURVE["bound"][:3], (2**62, 0.0)]}}, "the curve bound"),
        ({"curves": {**CURVE, "grad_norm": [(1, 1.0)]}}, "the curve grad_norm"),
        ({"content": tensors(filled_store.spec(0), extra=1)}, "the checkpoint"),
        ({"status": Status.DIVERGED}, "status diverged here, done there"),
    ],
)
def test_other_numbers_are_a_conflict_and_kept_out(other, says, here, there, tmp_path):
    odd = {"metrics": ODD, "curves": CURVE}
    (key,) = fill(here, [0], **odd)
    export(here, tmp_path / "x.bench", [key])
    fill(there, [0], **{**odd, **other})
    before, kept = told(there, [key], history=True), files(there)
    adoption = take(there, tmp_path / "x.bench")[key]
    assert adoption.what == "conflict"
    assert says in adoption.why
    assert (told(there, [key], history=True), files(there)) == (before, kept)


# What is unfinished where a bundle arrives


def test_an_unfinished_run_takes_the_result_and_one_at_work_is_left_alone(goal, here, tmp_path):
    keys = fill(here, range(5))
    export(here, tmp_path / "x.bench", keys)
    queued, interrupted, timeout, abandoned, held = keys
    with ResultStore.open(goal.database_url) as store:
        store.enqueue([filled_store.new_run(seed) for seed in range(5)])
        [left] = store.claim([interrupted], Owner.current())
        old = CheckpointFile("last", 100, "sha", 3)
        filled_store.write_file(goal, goal.checkpoint_file(left.edition, 100), b"old")
        store.save([left], [Progress(100, 1.0, {"bound": [(100, 1.0)], "gone": [(100, 1.0)]}, old)])
        store.release([left], Status.INTERRUPTED, "for a test")
        store.release(store.claim([timeout], Owner.current()), Status.TIMEOUT, "for a test")
        [stale] = store.claim([abandoned], gone_owner())
        [alive] = store.claim([held], Owner.current())
    taken = take(goal, tmp_path / "x.bench")
    assert [taken[key].what for key in keys] == ["replaced an unfinished run"] * 4 + ["held"]
    assert taken[held].why == [f"{Owner.current()} is at work on it"]
    ended = [queued, interrupted, timeout, abandoned]
    assert told(goal, ended) == told(here, ended)
    assert set(files(goal)) == {path for path in files(here) if held not in path}
    with ResultStore.open(goal.database_url) as store:
        assert store.rows([held])[held].status == Status.RUNNING
        store.heartbeat([alive])
        with pytest.raises(LeaseLost):
            store.save([stale], [Progress(5, 1.0)])
        assert [file.role for file in store.checkpoints(interrupted)] == ["final"]
        changes = [line.status for line in store.history(interrupted)]
        assert changes == ["queued", "running", "interrupted", "queued", "running", "done", "done"]


def test_two_imports_at_once_add_each_run_once(goal, bundle):
    ResultStore.open(goal.database_url).close()
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: take(goal, bundle), range(2)))
    for key in both[0]:
        assert sorted(taken[key].what for taken in both) == ["added", "same"]
    assert len(files(goal)) == 6


def test_a_file_that_cannot_be_written_leaves_no_row(there, bundle):
    (there.home / "checkpoints").write_text("no folder")
    result = cli(there, "import", bundle)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Cannot write the checkpoint" in result.stderr
    with ResultStore.open(there.database_url) as store:
        assert store.count() == {}


# The commands


def test_runs_that_were_trained_are_hits_in_another_workspace(here, there, tmp_path):
    made = json_lines(cli(here, *SMOKE))
    result = cli(here, "export", "--bundle", tmp_path / "x.bench", "--json")
    assert [(line["outcome"], line["missing"]) for line in json_lines(result)] == [
        ("exported", [])
    ] * 2
    assert [
        line["outcome"] for line in json_lines(cli(there, "import", tmp_path / "x.bench", "--json"))
    ] == ["added"] * 2
    again = json_lines(cli(there, *SMOKE))
    assert again == [{**run, "outcome": "hit"} for run in made]
    assert [run["status"] for run in again] == ["done", "done"]
    assert {line["kind"] for line in json_lines(cli(there, "doctor", "--json"))} <= {"mirror"}


def test_runs_are_chosen_by_key_method_and_task(here, tmp_path):
    keys = fill(here)
    with ResultStore.open(here.database_url) as store:
        store.enqueue([filled_store.new_run(7)])
    chosen = {
        "one": (keys[1][:6],),
        "method": ("-m", "hvae", "-t", "gaussian-2"),
        "variant": ("-m", "hvae-untempered"),
        "all": (),
    }
    found = {
        name: json_lines(cli(here, "export", "--bundle", tmp_path / name, "--json", *picked))
        for name, picked in chosen.items()
    }
    assert {name: [line["key"] for line in lines] for name, lines in found.items()} == {
        "one": [keys[1]],
        "method": sorted(keys),
        "variant": sorted(keys),
        "all": sorted(keys),
    }
    words = cli(here, "export", "--bundle", tmp_path / "words").stdout
    size = (tmp_path / "words").stat().st_size
    assert words == f"Wrote 3 runs to {tmp_path / 'words'} ({size:,} bytes).\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "bench export --bundle FILE"),
        (("--bundle", "OLD"), "exists already"),
        (("--bundle", "NEW", "-m", "iaf"), "no finished run to export"),
        (("--bundle", "NEW", "-t", "gaussian-3"), "no finished run to export"),
        (("--bundle", "NEW", "ffffffffffffffff"), "No run named 'ffffffffffffffff'"),
        (("--bundle", "NEW", ""), "No run of that key alone"),
        (("--bundle", "NEW", "QUEUED"), "is queued. Only finished runs"),
        (("--bundle", "OLD/NEW"), "Cannot write"),
    ],
)
def test_an_export_that_cannot_be_made_is_one_line_and_no_file(
    arguments, says, here, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    fill(here)
    with ResultStore.open(here.database_url) as store:
        store.enqueue([filled_store.new_run(7)])
    Path("OLD").write_text("mine")
    result = cli(
        here,
        "export",
        *(filled_store.spec(7).key if word == "QUEUED" else word for word in arguments),
    )
    assert result.exit_code == (1 if "Cannot write" in says else 2)
    assert says in result.stderr
    assert (len(result.stderr.splitlines()), result.stdout) == (1, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["OLD", "here"]
    assert Path("OLD").read_text() == "mine"


def test_an_empty_workspace_has_nothing_to_export(there, tmp_path):
    result = cli(there, "export", "--bundle", tmp_path / "x.bench")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert list(there.home.iterdir()) == []


def test_a_run_without_its_checkpoint_goes_with_its_numbers(here, there, tmp_path):
    gone, damaged, good = fill(here)
    with ResultStore.open(here.database_url) as store:
        (checkpoint,), (picture,) = store.checkpoints(gone), store.artifacts(damaged)
        database = store.database
    checkpoint.path_in(here).unlink()
    picture.path_in(here).write_bytes(b"damaged")
    result = cli(here, "export", "--bundle", tmp_path / "x.bench", "--json")
    missing = {line["key"]: line["missing"] for line in json_lines(result)}
    assert missing == {
        gone: [f"checkpoints/{database}/{gone}.1/step-000020000.safetensors"],
        damaged: [f"pictures/{database}/{damaged}.1/samples.png"],
        good: [],
    }
    assert (
        result.stderr
        == "2 runs went without files that are missing or damaged here. See: bench doctor.\n"
    )
    assert {adoption.what for adoption in take(there, tmp_path / "x.bench").values()} == {"added"}
    with ResultStore.open(there.database_url) as store:
        assert [len(store.checkpoints(key)) for key in (gone, damaged, good)] == [0, 1, 1]
        assert [len(store.artifacts(key)) for key in (gone, damaged, good)] == [1, 0, 1]
    assert {adoption.what for adoption in take(here, tmp_path / "x.bench").values()} == {"same"}


def test_a_bundle_without_files_has_every_number(here, there, tmp_path):
    keys = fill(here)
    whole, small = tmp_path / "whole.bench", tmp_path / "small.bench"
    for file, option in ((whole, ()), (small, ("--no-files",))):
        result = cli(here, "export", "--bundle", file, *option)
        assert (result.exit_code, result.stderr) == (0, "")
    assert small.stat().st_size < whole.stat().st_size
    assert {adoption.what for adoption in take(there, small).values()} == {"added"}
    with ResultStore.open(here.database_url) as one, ResultStore.open(there.database_url) as other:
        assert repr(one.metrics(keys)) == repr(other.metrics(keys))
        assert [one.curves(key) for key in keys] == [other.curves(key) for key in keys]
        assert [other.checkpoints(key) + other.artifacts(key) for key in keys] == [[], [], []]
    assert {adoption.what for adoption in take(here, small).values()} == {"same"}
    result = cli(here, "export", "-o", tmp_path / "x.csv", "--no-files")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)


def test_a_conflict_is_one_line_a_run_and_exit_status_3(there, bundle):
    keys = fill(
        there,
        [0],
        metrics={
            **filled_store.METRICS,
            "elbo": Estimate(-1.5),
            "elbo_gap": Estimate(1.0),
            "pareto_k": Estimate(2.0),
        },
        curves={},
    )
    result = cli(there, "import", bundle)
    assert result.exit_code == 3
    assert result.stdout.splitlines() == [
        f"conflict: run {keys[0]}: elbo -1.5 here, -1234.5678901234567 ± 0.25 there; elbo_gap 1.0 "
        "here, 0.30000000000000004 there; "
        "pareto_k 2.0 here, 0.3 there; the curve bound; the curve grad_norm",
        "3 runs: 2 added, 1 in conflict.",
    ]
    again = json_lines(cli(there, "import", bundle, "--json"))
    assert sorted(line["outcome"] for line in again) == ["conflict", "same", "same"]
    assert (
        next(line for line in again if line["outcome"] == "conflict")["why"][-1]
        == "the curve grad_norm"
    )
    assert cli(there, "rm", keys[0], "--yes").exit_code == 0
    assert cli(there, "import", bundle).exit_code == 0


@pytest.mark.mirror
def test_a_mirror_that_fails_does_not_fail_the_import(there, bundle, monkeypatch):
    def refuse(*unused):
        raise OSError("no processes left")

    monkeypatch.setattr("harness.tracking.mirror.Subprocess", refuse)
    result = cli(there, "import", bundle)
    assert (result.exit_code, result.stdout) == (0, "3 runs: 3 added.\n")
    assert "does not show 3 runs yet (OSError: no processes left)" in result.stderr
