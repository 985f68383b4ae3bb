"""kill -9 of a command that makes results anew: what was there stays until the new result is stored."""

from __future__ import annotations

import os
import random
import shutil

import pytest
from counts import compared
from runs import FAULTY, ROOT, batter, finished, kill, opened, prepared, start, state, wait_for_checkpoint

FULL = os.environ.get("BENCH_TESTS") == "full"
AWAY = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
MOODY = f"{ROOT / 'tests' / 'plugins.py'}:Moody"
RUN = ["-m", MOODY, "-t", "gaussian-2", "--seeds", "0-2", "--protocol", "smoke", "--set", "steps=2000"]
RERUN = [*RUN, "--rerun"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A workspace with three results."""
    home = prepared(tmp_path_factory.mktemp("done"))
    finished(start(home, RUN, **AWAY))
    return home


def copy(home, target):
    shutil.copytree(home, target)
    return target


def known(home):
    """Every file on record is there, and no other one."""
    with opened(home) as store:
        files = [file for listed in (*store.all_checkpoints().values(), *store.all_artifacts().values()) for file in listed]
        waiting = store.earlier_files()
    space = workspace(home)
    on_record = {file.place(space) for file in (*files, *waiting)}
    return on_record, {path for path in (home / "checkpoints").rglob("*") if path.is_file()}


def workspace(home):
    from harness.workspace import Workspace

    return Workspace(home)


def quietly(home, *words, **environment):
    """A command's standard output; it must end well."""
    process = start(home, list(words[1:]), command=words[0], **AWAY, **environment)
    out, said = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in said) == (0, False), said
    return out


def test_killed_while_results_are_made_anew_they_wait_and_the_command_goes_on(done, tmp_path, record_property):
    home = copy(done, tmp_path / "home")
    keys = list(state(home))
    process = start(home, RERUN, **AWAY)
    wait_for_checkpoint(home, process, 0, anew=True)
    kill(process)
    record_property("interruptions", 1)
    for words in (("compare",), ("show", keys[0]), ("report", "-o", str(tmp_path / "r.html")), ("export", "-o", str(tmp_path / "runs.csv"))):
        quietly(home, *words)
    assert "that result is kept until the new one is stored" in quietly(home, "show", keys[0])
    on_record, present = known(home)
    assert on_record <= present
    assert {run["outcome"] for run in finished(start(home, RUN, **AWAY))} == {"resumed"}
    compared(record_property, state(home), state(done))
    on_record, present = known(home)
    assert on_record == present


def test_killed_and_then_impossible_everything_is_as_it_was(done, tmp_path, record_property):
    home = copy(done, tmp_path / "home")
    process = start(home, RERUN, **AWAY)
    wait_for_checkpoint(home, process, 0, anew=True)
    kill(process)
    record_property("interruptions", 1)
    process = start(home, RERUN, MOOD="raises", **AWAY)
    process.communicate(timeout=120)
    assert process.returncode == 3
    compared(record_property, state(home), state(done))
    on_record, present = known(home)
    assert on_record <= present


@pytest.mark.parametrize("mood", ["", "raises", "breaks"])
def test_killed_at_any_moment_no_result_is_lost(done, tmp_path, record_property, mood):
    dice, kills = random.Random(mood), 0
    for number in range(8 if FULL else 1):
        home = copy(done, tmp_path / f"home-{number}")
        made, process = batter(lambda: start(home, RERUN, MOOD=mood, **AWAY), dice, 4.0, 3)  # noqa: B023
        process.communicate(timeout=120)
        assert process.returncode == {"": 0, "raises": 3, "breaks": 1}[mood]
        kills += made
        compared(record_property, state(home), state(done))
        on_record, present = known(home)
        assert on_record <= present
    record_property("interruptions", kills)


@pytest.mark.parametrize("number", range(1, 60) if FULL else (3, 17))
def test_killed_before_a_statement_no_result_is_lost(done, tmp_path, record_property, number):
    """Of the transactions that put back to the start, that store and that put back."""
