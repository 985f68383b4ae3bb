"""kill -9 of what is short: an upgrade of the schema, an export, an import, the first start of
MLflow's database, a sweep.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import sqlite3
import time
from contextlib import closing

import bundles
import filled_store
import pytest
import store_processes as processes
from bundles import bundle, source  # noqa: F401
from conftest import json_lines
from counts import compared
from runs import ROOT, batter, copies, finished, mirrored, opened, prepared, start, state
from stores import DATA, killed

from harness.base.workspace import Workspace, sqlite_url
from harness.store import upgrade

FULL = os.environ.get("BENCH_TESTS") == "full"
FAULTY = str(ROOT / "tests" / "faulty")
AWAY = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}


def quietly(home, arguments, command):
    """A command that must end well, and the seconds that it takes."""
    began = time.monotonic()
    process = start(home, arguments, command=command, **AWAY)
    out, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return out, time.monotonic() - began


# An upgrade


def old_database(home):
    """A workspace with the database of the first schema."""
    home.mkdir()
    shutil.copyfile(DATA / "bench-0001.db", home / "bench.db")
    return home


def dumped(home):
    with closing(sqlite3.connect(home / "bench.db")) as connection:
        return {
            number: line
            for number, line in enumerate(connection.iterdump())
            if 'INTO "database"' not in line
        }  # each has its id


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory):
    """What the old database holds after the upgrade, and the seconds that the command takes."""
    home = old_database(tmp_path_factory.mktemp("upgraded") / "home")
    quietly(home, ["upgrade"], "db")
    (home / "bench.db").unlink()
    shutil.copyfile(DATA / "bench-0001.db", home / "bench.db")
    _, took_s = quietly(home, ["upgrade"], "db")
    return dumped(home), took_s


def test_killed_before_a_statement_the_upgrade_is_repeated(upgraded, tmp_path, record_property):
    statements = range(1, 100) if FULL else (2, 7)
    for number in statements:
        home = old_database(tmp_path / str(number))
        if not killed(processes.die_at_statement, sqlite_url(home / "bench.db"), number, upgrade):
            assert FULL  # past the last statement
            break
        quietly(home, ["upgrade"], "db")
        record_property("interruptions", 1)
        compared(record_property, dumped(home), upgraded[0])


def test_killed_at_random_moments_the_upgrade_is_repeated(upgraded, tmp_path, record_property):
    dice, kills, wanted = random.Random(1), 0, 40 if FULL else 3
    for number in itertools.count():
        if kills == wanted:
            break
        home = old_database(tmp_path / str(number))
        made, process = batter(
            lambda: start(home, ["upgrade"], command="db"),  # noqa: B023
            dice,
            upgraded[1],
            wanted - kills,
        )
        process.communicate(timeout=60)
        assert process.returncode == 0
        kills += made
        compared(record_property, dumped(home), upgraded[0])
    record_property("interruptions", kills)


# Bundles


def test_killed_while_it_exports_the_same_command_gives_the_same_results(tmp_path, record_property):
    home = filled_store.workspace_in(tmp_path / "home").home
    bundles.fill(filled_store.workspace_in(home), range(30 if FULL else 5))
    whole, broken = tmp_path / "whole" / "x.bench", tmp_path / "broken" / "x.bench"
    for path in (whole, broken):
        path.parent.mkdir()
    _, took_s = quietly(home, ["--bundle", str(whole)], "export")
    command = ["--bundle", str(broken)]
    kills = 0
    for place in ("fsync:x.bench:1", "replace:x.bench:1", "-replace:x.bench:1"):
        fault = {
            "PATH_FIRST": FAULTY,
            "FAULT": place,
            "FAULT_MARK": str(tmp_path / f"mark-{kills}"),
        }
        process = start(home, command, command="export", **fault)
        process.communicate(timeout=60)
        kills += process.returncode == -9
    assert kills == 3
    compared(
        record_property, {"bundle": bundles.checked(broken)}, {"bundle": bundles.checked(whole)}
    )
    dice = random.Random(2)
    for _ in range(20 if FULL else 1):
        broken.unlink(missing_ok=True)
        made, process = batter(lambda: start(home, command, command="export"), dice, took_s, 5)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0 or "exists already" in said  # killed after the last write
        kills += made
        compared(
            record_property, {"bundle": bundles.checked(broken)}, {"bundle": bundles.checked(whole)}
        )
    quietly(home, ["--bundle", str(broken.with_name("y.bench"))], "export")
    broken.unlink()
    quietly(home, command, "export")
    assert sorted(path.name for path in broken.parent.iterdir()) == ["x.bench", "y.bench"]
    record_property("interruptions", kills)


def test_killed_at_chosen_places_the_same_import_goes_on(source, bundle, tmp_path, record_property):
    home = prepared(tmp_path / "home")
    places = ("fsync:checkpoints/.*tmp:1", "-replace:pictures/.*png:2")
    for number, place in enumerate(places):
        fault = {
            "PATH_FIRST": FAULTY,
            "FAULT": place,
            "FAULT_MARK": str(tmp_path / f"fault-{number}"),
        }
        killed = start(home, [str(bundle), "--json"], command="import", **fault)
        killed.communicate(timeout=300)
        assert killed.returncode == -9
        with opened(home) as store:
            assert all(store.checkpoints(row.key) for row in store.find(""))
            assert sum(store.count().values()) == number
    kinds = {line["kind"] for line in json_lines(bundles.cli(Workspace(home), "doctor", "--json"))}
    assert kinds == {"orphan file", "mirror"}
    process = start(home, [str(bundle), "--json"], command="import")
    out, said = process.communicate(timeout=300)
    assert (process.returncode, said) == (0, "")
    assert [json.loads(line)["outcome"] for line in out.splitlines()] == ["same", "added", "added"]
    found, wanted = (
        dict(zip(sorted(state(home)), bundles.told(space, state(home)), strict=True))
        for space in (Workspace(home), source[0])
    )
    record_property("interruptions", len(places))
    compared(record_property, found, wanted)
    assert list(mirrored(home).values()) == [["FINISHED"]] * 3
    assert set(bundles.files(Workspace(home))) == set(
        bundles.files(source[0])
    )  # nothing half-written is left
    assert bundles.cli(Workspace(home), "doctor").exit_code == 0


@pytest.mark.skipif(
    not FULL, reason="at chosen places above; at random moments with BENCH_TESTS=full"
)
def test_killed_while_it_imports_the_same_command_goes_on(tmp_path, record_property):
    source = filled_store.workspace_in(tmp_path / "source")
    keys = bundles.fill(source, range(30))
    bundles.export(source, tmp_path / "x.bench", keys)
    dice, kills = random.Random(3), 0
    for number in itertools.count():
        if kills >= 20:
            break
        goal = filled_store.workspace_in(tmp_path / f"goal-{number}")
        made, process = batter(
            lambda: start(goal.home, [str(tmp_path / "x.bench")], "import", **AWAY),  # noqa: B023
            dice,
            1.5,
            5,
        )
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        kills += made
        found, wanted = (
            dict(zip(sorted(keys), bundles.told(space, keys), strict=True))
            for space in (goal, source)
        )
        compared(record_property, found, wanted)
        compared(record_property, bundles.files(goal), bundles.files(source))
    record_property("interruptions", kills)


# The first start of MLflow


@pytest.mark.skipif(
    not FULL, reason="at chosen places in test_faults.py; at random moments with BENCH_TESTS=full"
)
def test_killed_in_mlflows_first_start_the_same_command_goes_on(tmp_path, record_property):
    command = ["-m", "vb", "-t", "gaussian-2", "--set", "steps=400", "--set", "eval_particles=500"]
    whole, broken = prepared(tmp_path / "whole"), tmp_path / "broken"
    finished(start(whole, command))
    dice, kills = random.Random(4), 0
    while kills < 5:
        shutil.rmtree(broken, ignore_errors=True)
        made, process = batter(lambda: start(broken, command), dice, 9.0, 4)
        finished(process)
        kills += made
        compared(record_property, state(broken), state(whole))
        assert list(mirrored(broken).values()) == [["FINISHED"]]
        assert copies(broken).keys() == copies(whole).keys()
    record_property("interruptions", kills)
