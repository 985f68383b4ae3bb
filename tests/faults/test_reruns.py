"""kill -9 of a command that makes results anew: what was there stays until the new result is
stored.
"""

from __future__ import annotations

import os
import random
import shutil
import time

import pytest
import store_processes as processes
from counts import compared
from runs import ROOT, batter, finished, kill, opened, prepared, start, state
from store_processes import new_run
from stores import KEYS, ME, killed, outcome, stack

from harness.base.spec import Status
from harness.base.workspace import Workspace, checkpoint_name, sqlite_url
from harness.store import CheckpointFile, ResultStore

FULL = os.environ.get("BENCH_TESTS") == "full"
AWAY = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
MOODY = f"{ROOT / 'tests' / 'plugins.py'}:Moody"
RUN = [
    "-m",
    MOODY,
    "-t",
    "gaussian-2",
    "--seeds",
    "0-2",
    "--protocol",
    "smoke",
    "--set",
    "steps=4000",
]
RERUN = [*RUN, "--rerun"]
STATUSES = {"": 0, "raises": 3, "breaks": 1}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A workspace with three results."""
    home = prepared(tmp_path_factory.mktemp("done") / "home")
    finished(start(home, RUN, **AWAY))
    return home


def half_made(done, home):
    """A copy in which making the results anew was killed after a checkpoint."""
    shutil.copytree(done, home)
    process = start(home, RERUN, **AWAY)
    with opened(home) as store:
        keys = [row.key for row in store.recent()]
        while not all(store.earlier.of(key) and store.checkpoints(key) for key in keys):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
    kill(process)
    return home


def files(home):
    """The files on record, those of results that wait among them; and the files that are there."""
    with opened(home) as store:
        on_record = {
            file.path_in(Workspace(home))
            for found in store.files.on_record(CheckpointFile).values()
            for file in found
        }
        (database,) = {path.parent.parent for path in on_record}
        waiting = {
            key: result
            for key in store.files.on_record(CheckpointFile)
            if (result := store.earlier.of(key))
        }
    for key, result in waiting.items():
        on_record |= {
            database / f"{key}.{result['edition']}" / checkpoint_name(file["step"])
            for file in result["checkpoints"]
        }
    return on_record, {path for path in (home / "checkpoints").rglob("*") if path.is_file()}


def quietly(home, command, *words):
    """A command's standard output; it must end well."""
    process = start(home, list(words), command=command, **AWAY)
    out, said = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in said) == (0, False), said
    return out


def test_killed_while_results_are_made_anew_they_wait_and_the_command_goes_on(
    done, tmp_path, record_property
):
    home = half_made(done, tmp_path / "home")
    record_property("interruptions", 1)
    (key, *_) = state(done)
    process = start(home, [], command="compare", **AWAY)
    assert (
        "(3 being rerun: their earlier results are kept until then)"
        in process.communicate(timeout=120)[1]
    )
    quietly(home, "export", "-o", str(tmp_path / "runs.csv"))
    assert "that result is kept until the new one is stored" in quietly(home, "show", key)
    on_record, present = files(home)
    assert on_record <= present
    assert {run["outcome"] for run in finished(start(home, RUN, **AWAY))} == {"resumed"}
    compared(record_property, state(home), state(done))
    on_record, present = files(home)
    assert on_record == present


@pytest.mark.parametrize("mood", ["raises", "breaks"])
def test_killed_and_then_impossible_everything_is_as_it_was(done, tmp_path, record_property, mood):
    home = half_made(done, tmp_path / "home")
    record_property("interruptions", 1)
    process = start(home, RERUN, MOOD=mood, **AWAY)
    process.communicate(timeout=120)
    assert process.returncode == STATUSES[mood]
    compared(record_property, state(home), state(done))
    on_record, present = files(home)
    assert on_record == present


@pytest.mark.skipif(
    not FULL, reason="at chosen places above and below; at random moments with BENCH_TESTS=full"
)
@pytest.mark.parametrize("mood", STATUSES)
def test_killed_at_random_moments_no_result_is_lost(done, tmp_path, record_property, mood):
    dice, kills = random.Random(mood), 0
    for number in range(8):
        home = tmp_path / f"home-{number}"
        shutil.copytree(done, home)
        made, process = batter(lambda: start(home, RERUN, MOOD=mood, **AWAY), dice, 3.0, 3)  # noqa: B023
        process.communicate(timeout=120)
        assert process.returncode == STATUSES[mood]
        kills += made
        compared(record_property, state(home), state(done))
        on_record, present = files(home)
        assert on_record <= present
    record_property("interruptions", kills)


def make(url, status=Status.DONE):
    """Make a run, or make it anew."""
    with ResultStore.open(url) as store:
        store.reset(KEYS[:1])
        claims = store.claim(KEYS[:1], ME)
        store.begin(claims, stack(*KEYS[:1]), {})
        store.finish_all(claims, [outcome(status, "a reason")])


def fail(url):
    """The same, to no good end."""
    make(url, Status.FAILED)


@pytest.mark.parametrize("work", [make, fail])
def test_killed_before_a_statement_there_is_one_result(tmp_path, record_property, work):
    """In the row, or waiting; never both, never none."""
    kills = 0
    for number in range(1, 100) if FULL else (9, 16, 28):
        url = sqlite_url(tmp_path / f"{number}.db")
        with ResultStore.open(url) as store:
            store.enqueue([new_run(0)])
        make(url)
        died = killed(processes.die_at_statement, url, number, work)
        kills += died
        with ResultStore.open(url) as store:
            assert (store.rows(KEYS)[KEYS[0]].status == Status.DONE) != bool(
                store.earlier.of(KEYS[0])
            )
        if not died:
            break
    assert kills > (10 if FULL else 2)
    record_property("interruptions", kills)
