"""kill -9 and go on: the same bits as an uninterrupted run."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from counts import compared
from forked import wait_for_words
from runs import (
    ROOT,
    batter,
    finished,
    kill,
    mirrored,
    opened,
    prepared,
    start,
    state,
    wait_for_checkpoint,
)

PLUGINS = ROOT / "tests" / "plugins.py"
FULL = os.environ.get("BENCH_TESTS") == "full"
KILLS = 40 if FULL else 5

CASES = {
    "one run": [
        "-m",
        "vb",
        "-t",
        "gaussian-2",
        "--set",
        "steps=4000",
        "--set",
        "eval_particles=500",
    ],
    "a stack of three whose second member diverges": [
        "-m",
        f"{PLUGINS}:DivergesAt50",
        "-t",
        "gaussian-3",
        "--set",
        "steps=4000",
        "--seeds",
        "0-2",
        "--set",
        "optimiser=rmsprop",
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_kill_nine_at_random_moments_changes_no_bit(case, tmp_path, record_property):
    arguments, dice = CASES[case], random.Random(case)
    whole = prepared(tmp_path / "whole")
    uninterrupted = finished(start(whole, arguments))
    kills = 0
    while kills < KILLS:
        broken = prepared(tmp_path / f"broken-{kills}")
        killed, process = batter(lambda: start(broken, arguments), dice, 1.5, KILLS - kills)  # noqa: B023  used at once
        resumed = finished(process)
        kills += killed
        compared(record_property, state(broken), state(whole))
        assert [run["metrics"] for run in resumed] == [run["metrics"] for run in uninterrupted]
        endings = {
            run["key"]: ["FINISHED" if run["status"] == "done" else "FAILED"] for run in resumed
        }
        assert mirrored(broken) == endings == mirrored(whole)
    record_property("interruptions", kills)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves_at_once(number, tmp_path):
    arguments = [*CASES["one run"], "--set", "steps=3000"]
    process = start(prepared(tmp_path), arguments)
    wait_for_checkpoint(tmp_path, process, 0)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in errors
    with opened(tmp_path) as store:
        (row,) = store.recent()
        assert (row.status, row.owner) == ("interrupted", None)
        assert store.checkpoints(row.key)[0].step == row.step > 0
    (run,) = finished(start(tmp_path, arguments))
    assert (run["status"], run["outcome"]) == ("done", "resumed")


def test_another_thread_count_uses_the_stored_plan(tmp_path):
    arguments = ["-m", "vb", "-t", "gaussian-3", "--seeds", "0-2", "--set", "steps=2500"]
    whole, broken = prepared(tmp_path / "whole"), prepared(tmp_path / "broken")
    process = start(broken, arguments, OMP_NUM_THREADS="1")
    wait_for_checkpoint(broken, process, 0)
    kill(process)
    finished(start(broken, arguments, OMP_NUM_THREADS="2"))
    finished(start(whole, arguments, OMP_NUM_THREADS="1"))
    assert state(broken) == state(whole)


def test_another_takes_over_when_the_holder_is_killed(tmp_path):
    arguments = [*CASES["one run"], "--set", "steps=4000"]
    holder = start(prepared(tmp_path), arguments)
    wait_for_checkpoint(tmp_path, holder, 0)
    others = [start(tmp_path, arguments) for _ in range(2)]
    for other in others:
        wait_for_words(other, "Waiting for 1 run")
    kill(holder)
    killed = time.time()
    results = [finished(other)[0] for other in others]
    assert sorted(run["outcome"] for run in results) == ["hit", "resumed"]
    with opened(tmp_path) as store:
        taken = [line.at for line in store.history(results[0]["key"]) if line.status == "running"][
            -1
        ]
    assert taken - killed < 5.0
