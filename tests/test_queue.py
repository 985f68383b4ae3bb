"""Sweeps of many runs: what a command asks of the database does not grow with them, and every run
has its turn.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import event
from store_processes import new_run
from stores import ELSEWHERE, ME, gone_owner, outcome, url  # noqa: F401

from harness.base.spec import Description, RunSpec, Status, canonical_json, digest
from harness.base.workspace import Workspace, sqlite_url
from harness.execution import local, workers
from harness.execution.local import Remaining, stacks
from harness.execution.workers import Watch
from harness.plan.grid import expand
from harness.store import Progress, ResultStore

pytestmark = pytest.mark.usefixtures("no_mirror")

CELLS, SEEDS = 20, 3
AT_ONCE = 7  # less than a stack or two: cells lie across the borders
STACKING = Description(method="hvae", stacks=True)
RUNS = [
    replace(new_run(seed, steps=100 + cell), description=STACKING)
    for cell in range(CELLS)
    for seed in range(SEEDS)
]
KEYS = [run.spec.key for run in RUNS]


@pytest.fixture
def store(url, monkeypatch):  # noqa: F811
    """An open database with sixty queued runs, of which few are asked about at once."""
    monkeypatch.setattr(local, "AT_ONCE", AT_ONCE)
    monkeypatch.setattr(local, "ASK_AT_ONCE", AT_ONCE)
    monkeypatch.setattr(workers, "AT_ONCE", AT_ONCE)
    with ResultStore.open(url) as opened:
        opened.enqueue(RUNS)
        yield opened


@pytest.fixture
def asked(store, monkeypatch):
    """How many runs each question was about."""
    counts = []
    for name in ("open_runs", "statuses"):
        ask = getattr(store, name)
        monkeypatch.setattr(
            store, name, lambda keys, ask=ask: counts.append(len(keys)) or ask(keys)
        )
    return counts


@pytest.mark.parametrize("wanted", [KEYS, None])
def test_a_sweep_is_made_stack_by_stack_in_the_order_of_asking(store, asked, wanted):
    left, made = Remaining(store, wanted), []
    while open_runs := left.next():
        asked.clear()
        claims = store.claim_first(list(stacks(open_runs)), ME)[0]
        made.append([claim.key for claim in claims])
        store.finish_all(claims, [outcome()] * len(claims))
        assert sum(asked) <= 3 * AT_ONCE
    assert made == [KEYS[first : first + SEEDS] for first in range(0, len(KEYS), SEEDS)]


@pytest.mark.parametrize("wanted", [KEYS, None])
def test_runs_behind_many_that_are_held_or_set_aside_have_their_turn(store, wanted):
    store.claim(KEYS[:30], ELSEWHERE)
    left = Remaining(store, wanted)
    left.set_aside(KEYS[30:45])
    assert {run.key for run in left.next()} <= set(KEYS[45:])
    assert [claim.key for claim in store.claim_first(list(stacks(left.next())), ME)[0]] == KEYS[
        45:48
    ]
    left.set_aside(KEYS[45:])
    assert {run.holder for run in left.next()} == {ELSEWHERE}  # these are waited for


def test_a_command_makes_none_but_its_own(store):
    left = Remaining(store, [KEYS[40], KEYS[5], "0" * 16])
    assert [run.key for run in left.next()] == [KEYS[5], KEYS[40]]
    store.claim([KEYS[40], KEYS[5]], ELSEWHERE)
    assert {run.holder for run in left.next()} == {ELSEWHERE}
    for key in (KEYS[40], KEYS[5]):
        store.prune([key], "by hand")
    store.heartbeat([], 1.0)
    assert len(left.next()) == 2  # they are held still


def test_each_end_is_told_once_and_few_runs_are_asked_about(store, asked):
    watch = Watch(store, KEYS)
    assert watch.look(everywhere=False) == []
    assert (watch.progress.ended, watch.progress.total, watch.progress.share, sum(asked)) == (
        0,
        60,
        0.0,
        60,
    )
    told = []
    for first in range(0, 60, SEEDS):
        claims = store.claim(KEYS[first : first + SEEDS], ME)
        store.save(claims[:1], [Progress(50, 1.0)])
        asked.clear()
        told += watch.look(everywhere=False)
        assert watch.progress.running == SEEDS
        store.finish_all(claims, [outcome()] * SEEDS)
        told += watch.look(everywhere=False)
        assert sum(asked) <= 6 * AT_ONCE
    assert (told, watch.open_keys, watch.progress.share) == (KEYS, [], 1.0)


def test_an_end_far_behind_is_told_when_all_hands_have_left(store):
    watch = Watch(store, KEYS)
    watch.look(everywhere=False)
    store.finish(store.claim(KEYS[50:51], ME)[0], outcome())
    assert watch.look(everywhere=False) == []
    assert watch.look(everywhere=True) == KEYS[50:51]


def test_the_mirror_is_behind_with_what_there_is_to_show(store):
    assert store.behind(KEYS) == []
    store.claim(KEYS[5:7], ME)
    store.set_mlflow_run(KEYS[0], "shown before it was put back")
    assert store.behind(KEYS) == [KEYS[0], *KEYS[5:7]]
    assert (
        store.behind(KEYS[6:])
        == store.behind(set(KEYS[6:] + [f"{number:016x}" for number in range(1000)]))
        == [KEYS[6]]
    )
    store.mirrored(KEYS[5], store.rows(KEYS)[KEYS[5]].revision)
    assert store.behind(KEYS) == [KEYS[0], KEYS[6]]


def test_questions_about_the_queue_are_answered_from_indices(tmp_path):
    plans = []

    def explain(connection, cursor, statement, parameters, *_):
        if statement.startswith("SELECT"):
            found = connection.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[3] for row in found if " runs " in row[3])

    def asked(question, *arguments):
        plans.clear()
        question(*arguments)
        return {plan.partition(" USING ")[2].replace("COVERING ", "") for plan in plans}

    with ResultStore.open(sqlite_url(tmp_path / "bench.db")) as opened:
        opened.enqueue(RUNS)
        event.listen(opened._database.engine, "before_cursor_execute", explain)
        by_key = {"INDEX sqlite_autoindex_runs_1 (key=?)"}
        assert asked(opened.statuses, KEYS) == asked(opened.open_runs, KEYS) == by_key
        assert asked(opened.claim_first, list(stacks(opened.next_runs(10))), ME) == by_key
        assert (
            asked(opened.next_runs, 10)
            == asked(opened.holders, KEYS)
            == {"INDEX ix_runs_status_created_at_key (status=?)"}
        )
        assert asked(opened.behind, [f"{number:016x}" for number in range(1000)]) == {
            "INDEX ix_runs_unmirrored"
        }


def test_replicates_have_the_names_and_the_text_of_their_values():
    (first,) = expand(["hvae"], ["gaussian-25"], [5], "smoke", {})
    for spec in first.spec.replicates([0, 7, 10**17]):
        plain = RunSpec.from_plain(spec.plain())
        assert (plain, spec.text, spec.key) == (
            spec,
            canonical_json(plain.model_dump() and spec.plain()),
            digest(spec.plain()),
        )
        assert (
            spec.cell
            == first.spec.cell
            == digest({name: value for name, value in spec.plain().items() if name != "seed"})
        )
    other = first.spec.model_copy(update={"steps": 7})
    assert (other.key, other.cell) == (
        digest(other.plain()),
        digest({k: v for k, v in other.plain().items() if k != "seed"}),
    )


def test_a_worker_that_only_sees_runs_given_up_does_not_exit_with_0(bench):
    bench("run", "-m", "vb", "-t", "gaussian-2", "--protocol", "smoke", "--queue")
    with ResultStore.open(Workspace.current().database_url) as opened:
        (run,) = opened.next_runs(5)
        for _ in range(3):
            opened.claim([run.key], gone_owner())
        result = bench("worker", "--drain")
        assert opened.rows([run.key])[run.key].status == Status.FAILED
    assert (result.exit_code, "Ended 1 run, 0 of them done." in result.stderr) == (3, True)
