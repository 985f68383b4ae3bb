"""Who may write a run, over SQLite and PostgreSQL."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import store_processes as processes
from store_processes import new_run, spec
from stores import (
    ELSEWHERE,
    KEYS,
    ME,
    SPAWN,
    checkpoint,
    execute,
    file,  # noqa: F401  fixture
    gone_owner,
    in_namespace,
    in_processes,
    outcome,
    stack,
    store,  # noqa: F401  fixture
    url,  # noqa: F401  fixture
)

from harness.base.errors import LeaseLost, UsageError
from harness.base.spec import Status
from harness.base.workspace import sqlite_url
from harness.execution.heartbeat import Leases
from harness.store import Estimate, Evaluation, Progress, ResultStore, newest
from harness.store.leases import lock


def test_claims_keep_the_order_of_the_keys(store):
    wanted = [KEYS[7], KEYS[2], KEYS[11], KEYS[2], "0" * 16]
    claims = store.claim(wanted, ME)
    assert [(claim.key, claim.fence, claim.seed) for claim in claims] == [
        (KEYS[7], 1, 7),
        (KEYS[2], 1, 2),
        (KEYS[11], 1, 11),
    ]
    assert all(row.owner == ME for row in store.rows(wanted).values())


def test_processes_that_claim_together_share_the_runs(store, url):
    store.enqueue([new_run(seed) for seed in range(120)])
    keys = [spec(seed).key for seed in range(120)]
    answers = in_processes(5, processes.claim_together, url, [keys] * 5)
    assert sorted(pair for taken in answers for pair in taken) == sorted((key, 1) for key in keys)


def test_processes_that_enqueue_together_add_each_run_once(url):
    ResultStore.open(url).close()
    orders = [list(range(start, 40)) + list(range(start)) for start in (0, 10, 20, 30)]
    assert in_processes(4, processes.enqueue_together, url, orders) == ["enqueued"] * 4
    with ResultStore.open(url) as store:
        assert store.count() == {"queued": 40}
        assert [len(store.history(spec(seed).key)) for seed in range(40)] == [1] * 40


def test_a_lost_lease_writes_nothing(store):
    old = store.claim(KEYS[:2], ELSEWHERE, lease_s=-1.0)
    (new,) = store.claim(KEYS[1:2], ME)
    before = store.rows(KEYS)
    late = [
        lambda: store.heartbeat(old),
        lambda: store.begin(old, stack(KEYS[0]), {}),
        lambda: store.save(old, [Progress(5, 1.0, {"bound": [(5, 1.0)]}, checkpoint(5))] * 2),
        lambda: store.finish_all(old, [outcome(metrics={"elbo": Estimate(1.0)})] * 2),
        lambda: store.release(old, Status.INTERRUPTED, None),
    ]
    for write in late:
        with pytest.raises(LeaseLost, match=KEYS[1]):
            write()
    assert store.rows(KEYS) == before
    assert (
        store.metrics(KEYS),
        store.curves(KEYS[0]),
        store.checkpoints(KEYS[0]),
        store.provenance(KEYS[:1]),
    ) == ({}, {}, [], {KEYS[0]: ({}, {})})
    store.finish(new, outcome())


def test_a_run_that_was_given_back_takes_no_more_writes(store):
    claims = store.claim(KEYS[:1], ME)
    store.release(claims, Status.TIMEOUT, "an hour")
    row = store.rows(KEYS)[KEYS[0]]
    assert (row.status, row.reason, row.owner) == (Status.TIMEOUT, "an hour", None)
    with pytest.raises(LeaseLost, match="given back"):
        store.save(claims, [Progress(5, 1.0, {"bound": [(5, 1.0)]}, checkpoint(5))])
    assert (store.rows(KEYS)[KEYS[0]], store.checkpoints(KEYS[0])) == (row, [])
    with pytest.raises(LeaseLost):
        store.finish(claims[0], outcome())
    (again,) = store.claim(KEYS[:1], ME)
    assert (again.fence, store.rows(KEYS)[KEYS[0]].started_at) == (2, row.started_at)


def test_members_that_ended_stay_as_they_are(store):
    claims = store.claim(KEYS[:2], ME)
    store.finish(claims[0], outcome(Status.DIVERGED, "bound is NaN"))
    store.heartbeat(claims)
    store.save(claims, [Progress(7, 1.0, {"bound": [(7, 0.0)]})] * 2)
    store.release(claims, Status.INTERRUPTED, None)
    assert [(row.status, row.step) for row in store.rows(KEYS[:2]).values()] == [
        ("diverged", 1000),
        ("interrupted", 7),
    ]
    assert store.curves(KEYS[0]) == {}
    with pytest.raises(LeaseLost):
        store.finish(claims[0], outcome())


def test_a_living_holder_is_respected_until_its_lease_expires(store):
    held = store.claim(KEYS[:1], ELSEWHERE, lease_s=1000.0)
    assert store.claim(KEYS[:1], ME) == []
    owner, since, expires = store.holders(KEYS)[KEYS[0]]
    assert (owner, expires - since) == (ELSEWHERE, pytest.approx(1000.0))
    with pytest.raises(UsageError, match="another-host"):
        store.reset(KEYS)
    store.heartbeat(held, lease_s=-1.0)
    assert store.holders(KEYS) == {}
    (claim,) = store.claim(KEYS[:1], ME)
    assert (claim.fence, store.rows(KEYS)[KEYS[0]].crashes) == (2, 1)
    assert "another-host pid 17" in store.history(KEYS[0])[-1].reason


def test_a_helper_keeps_leases_alive_and_tells_of_a_lost_one(store, url):
    claims = store.claim(KEYS[:2], ELSEWHERE, lease_s=5.0)
    before = {key: expires for key, (_, _, expires) in store.holders(KEYS).items()}
    with Leases(url, beat_s=0.2) as leases:
        leases.hold(claims[:1])
        leases.hold(claims)
        patience = time.monotonic() + 60
        while time.monotonic() < patience and any(
            store.holders(KEYS)[key][2] < before[key] + 30 for key in before
        ):
            time.sleep(0.05)
        assert {
            key: expires > before[key] + 30 for key, (_, _, expires) in store.holders(KEYS).items()
        } == dict.fromkeys(before, True)
        assert not leases.are_lost()
        store.heartbeat(claims, lease_s=-1.0)
        store.claim(KEYS[:1], ME)
        patience = time.monotonic() + 60
        while not leases.are_lost():
            assert time.monotonic() < patience
            time.sleep(0.05)
        leases.hold(claims[1:])
        time.sleep(1.0)
        assert not leases.are_lost()


def test_leases_outlive_a_call_that_holds_the_interpreter(store, url):
    """A thread of this process gets no turn until it returns, and would lose the lease."""
    lease_s = 2.0
    claims = store.claim(KEYS[:1], ELSEWHERE, lease_s=lease_s)
    turns: list[float] = []
    over = threading.Event()

    def take_turns():
        while not over.wait(0.01):
            turns.append(time.monotonic())

    with Leases(url, beat_s=0.2) as leases:
        leases.hold(claims)
        patience = time.monotonic() + 60
        while store.holders(KEYS)[KEYS[0]][2] < time.time() + 30:  # the process is at work
            assert time.monotonic() < patience
            time.sleep(0.01)
        store.heartbeat(claims, lease_s)
        thread = threading.Thread(target=take_turns)
        thread.start()
        time.sleep(0.1)
        began, n = time.monotonic(), 10_000_000
        while time.monotonic() < began + 1.5 * lease_s:
            began, n = time.monotonic(), 2 * n
            sum(range(n))
        ended = time.monotonic()
        over.set()
        thread.join()
        assert store.holders(KEYS)[KEYS[0]][0] == ELSEWHERE
        assert not leases.are_lost()
    # Every 0.01 s, were it let; at the ends of the call it may be.
    assert sum(began < moment < ended for moment in turns) < 5


def test_a_run_of_a_killed_process_is_free_at_once(store, url):
    report = SPAWN.Queue()
    holder = SPAWN.Process(target=processes.claim_and_stay, args=(url, KEYS[:2], report))
    holder.start()
    assert report.get(timeout=60) == KEYS[:2]
    assert [claim.key for claim in store.claim(KEYS[:3], ME)] == [KEYS[2]]
    assert {owner.pid for owner, _, _ in store.holders(KEYS[:2]).values()} == {holder.pid}
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert store.holders(KEYS[:2]) == {}
    assert [(claim.key, claim.fence) for claim in store.claim(KEYS[:2], ME)] == [
        (KEYS[0], 2),
        (KEYS[1], 2),
    ]


def test_the_third_death_without_a_checkpoint_fails_the_run(store):
    gone = gone_owner()
    assert [len(store.claim(KEYS[:1], gone)) for _ in range(4)] == [1, 1, 1, 0]
    row = store.rows(KEYS)[KEYS[0]]
    assert (row.status, row.reason, row.owner, row.crashes) == (Status.FAILED, "crashed", None, 3)
    assert store.history(KEYS[0])[-1].status == Status.FAILED
    assert store.claim(KEYS[:1], ME) == []
    store.reopen(KEYS)
    assert store.count() == {"queued": 20}
    assert [len(store.claim(KEYS[:1], gone)) for _ in range(4)] == [1, 1, 1, 0]


def test_a_checkpoint_starts_the_count_of_deaths_anew(store):
    gone = gone_owner()
    store.claim(KEYS[:1], gone)
    store.claim(KEYS[:1], gone)
    (third,) = store.claim(KEYS[:1], gone)
    store.save([third], [Progress(5, 1.0)])
    assert store.rows(KEYS)[KEYS[0]].crashes == 2
    store.save([third], [Progress(10, 1.0, {}, checkpoint(10))])
    assert [len(store.claim(KEYS[:1], gone)) for _ in range(3)] == [1, 1, 0]


def test_a_repeated_command_forgets_deaths_but_not_those_of_a_held_run(store):
    gone = gone_owner()
    for _ in range(3):
        store.claim(KEYS[:1], gone)
        store.reopen(KEYS)
    assert store.rows(KEYS)[KEYS[0]].crashes == 0
    store.claim(KEYS[:1], ME)
    store.reopen(KEYS)
    assert store.rows(KEYS)[KEYS[0]].crashes == 1


def test_a_run_that_failed_otherwise_is_not_queued_again(store):
    (claim,) = store.claim(KEYS[:1], ME)
    store.finish(claim, outcome(Status.FAILED, "ValueError"))
    store.reopen(KEYS)
    assert store.rows(KEYS)[KEYS[0]].status == Status.FAILED


def test_a_stack_is_claimed_as_a_unit(store):
    members = [KEYS[4], KEYS[1], KEYS[9]]
    claims = store.claim(members, ME)
    store.begin(claims, stack(*members), {})
    store.finish(claims[1], outcome())
    store.release(claims, Status.INTERRUPTED, None)
    again = store.claim([KEYS[0], KEYS[9]], ME)
    assert [claim.key for claim in again] == [KEYS[0], KEYS[9], KEYS[4]]
    assert [claim.plan for claim in again] == [None, stack(*members), stack(*members)]


def test_no_member_is_taken_while_one_is_held(store, url):
    claims = store.claim(KEYS[:3], ME)
    store.begin(claims, stack(*KEYS[:3]), {})
    store.release(claims, Status.INTERRUPTED, None)
    store.claim(KEYS[:1], ELSEWHERE)
    execute(url, f"UPDATE runs SET status = 'interrupted' WHERE key IN ('{KEYS[1]}', '{KEYS[2]}')")
    assert store.claim([KEYS[1], KEYS[2], KEYS[5]], ME)[0].key == KEYS[5]
    assert store.rows(KEYS)[KEYS[1]].status == Status.INTERRUPTED


def test_a_member_that_was_reset_goes_its_own_way(store):
    claims = store.claim(KEYS[:2], ME)
    store.begin(claims, stack(*KEYS[:2]), {})
    store.release(claims, Status.INTERRUPTED, None)
    store.reset(KEYS[:1])
    assert [claim.key for claim in store.claim(KEYS[1:2], ME)] == [KEYS[1]]
    assert [(claim.key, claim.plan) for claim in store.claim(KEYS[:1], ME)] == [(KEYS[0], None)]


def test_the_next_runs_are_those_that_nobody_holds_in_the_order_of_asking(store, url):
    store.claim(KEYS[:2], ELSEWHERE)
    store.claim(KEYS[2:4], gone_owner())
    store.release(store.claim(KEYS[6:7], ME), Status.INTERRUPTED, None)
    assert [(run.key, run.holder) for run in store.next_runs(5)] == [
        (key, None) for key in KEYS[2:7]
    ]
    assert [run.key for run in store.next_runs(3, without=KEYS[2:5])] == KEYS[5:8]
    for key in KEYS[2:]:
        store.finish(store.claim([key], ME)[0], outcome())
    assert [(run.key, run.holder) for run in store.next_runs(5)] == [
        (key, ELSEWHERE) for key in KEYS[:2]
    ]
    assert store.next_runs(5) == store.open_runs(KEYS)


def test_the_first_stack_that_is_still_free_is_claimed(store):
    groups = [store.open_runs(KEYS[start : start + 2]) for start in range(0, 20, 2)]
    assert [claim.key for claim in store.claim_first(groups, ELSEWHERE)[0]] == KEYS[:2]
    assert [claim.key for claim in store.claim_first(groups, ME)[0]] == KEYS[2:4]
    for key in KEYS[:19]:
        store.prune([key], "by hand")
    assert [claim.key for claim in store.claim_first(groups, ME)[0]] == KEYS[19:]
    assert store.claim_first(groups, ME) == ([], [])


def test_claiming_tells_which_runs_it_gave_up(store):
    gone = gone_owner()
    for _ in range(3):
        store.claim(KEYS[:2], gone)
    assert store.claim_first([store.open_runs(KEYS[:2])], ME) == ([], KEYS[:2])


def test_a_claimer_waits_for_no_other_writer(postgres_database):
    with ResultStore.open(postgres_database()) as store:
        store.enqueue([new_run(seed) for seed in range(20)])
        members = store.claim(KEYS[:2], ME)
        store.begin(members, stack(*KEYS[:2]), {})
        store.release(members, Status.INTERRUPTED, None)
        groups = [store.open_runs(KEYS[start : start + 2]) for start in range(0, 6, 2)]
        with store._write() as other:
            lock(other, [KEYS[1], KEYS[2]])
            assert (
                store.claim(KEYS[:3], ME) == []
            )  # no part of a stack, and nothing that is held already
            assert [claim.key for claim in store.claim_first(groups, ME)[0]] == KEYS[4:6]


def test_only_what_can_be_seen_is_known_of_an_owner():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    while dataclasses.replace(ME, pid=child.pid, process_start=0).lives() is None:
        pass  # it ends by itself, and is a zombie until it is waited for
    child.wait()
    assert ME.lives() is True
    assert dataclasses.replace(ME, process_start=ME.process_start + 1).lives() is False
    assert dataclasses.replace(ME, pid=child.pid).lives() is False
    unseen = {"host": ME.host + "x", "boot_id": "before", "pid_namespace": "4026530000"}
    for name, value in {**unseen, "pid_namespace": None, "process_start": 0}.items():
        assert dataclasses.replace(ME, **{name: value}).lives() is None, name
        assert dataclasses.replace(ME, **unseen | {name: value}, pid=child.pid).lives() is None, (
            name
        )


def test_owners_in_other_pid_namespaces_have_their_lease(store, url):
    with in_namespace(processes.claim_and_wait, url, KEYS[:2]) as said:
        assert said.readline().split() == KEYS[:2]
        (owner, *_), _ = store.holders(KEYS).values()
        assert (owner.host, owner.boot_id, owner.lives()) == (ME.host, ME.boot_id, None)
        assert owner.pid_namespace != ME.pid_namespace
        assert [claim.key for claim in store.claim(KEYS[:3], ME)] == [KEYS[2]]
        with in_namespace(processes.claim_and_wait, url, KEYS[:4]) as others:
            assert others.readline().split() == [
                KEYS[3]
            ]  # neither the neighbour's nor this process's
    assert [row.crashes for row in store.rows(KEYS[:4]).values()] == [0, 0, 0, 0]
    execute(url, f"UPDATE runs SET lease_expires = 0 WHERE key = '{KEYS[0]}'")
    assert [claim.key for claim in store.claim(KEYS[:4], ME)] == [KEYS[0]]


def test_runs_of_a_release_that_knew_no_namespaces_have_their_lease(store, url):
    store.claim(KEYS[:2], gone_owner())
    execute(url, "UPDATE runs SET owner_pid_namespace = NULL")
    assert store.claim(KEYS[:2], ME) == []
    execute(url, f"UPDATE runs SET lease_expires = 0 WHERE key = '{KEYS[0]}'")
    assert [claim.key for claim in store.claim(KEYS[:2], ME)] == [KEYS[0]]


def test_a_clock_that_jumps_takes_no_run_from_a_living_process(file, monkeypatch):
    report = SPAWN.Queue()
    with ResultStore.open(sqlite_url(file)) as store:  # a server's clock is not this machine's
        store.enqueue([new_run(seed) for seed in range(3)])
        holder = SPAWN.Process(
            target=processes.claim_and_stay, args=(sqlite_url(file), KEYS[:2], report)
        )
        holder.start()
        assert report.get(timeout=60) == KEYS[:2]
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 120)
        assert [claim.key for claim in store.claim(KEYS[:3], ME)] == [KEYS[2]]
        assert set(store.holders(KEYS[:2])) == set(KEYS[:2])
        with pytest.raises(UsageError, match=f"pid {holder.pid}"):
            store.reset(KEYS[:1])
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
        assert [claim.key for claim in store.claim(KEYS[:3], ME)] == KEYS[:2]


def test_a_process_takes_back_what_it_never_let_go(store):
    store.claim(KEYS[:1], ME, lease_s=1000.0)
    assert store.claim(KEYS[:1], ME) == []
    store.claim(KEYS[1:2], ME, lease_s=-1.0)
    assert [claim.fence for claim in store.claim(KEYS[1:2], ME)] == [2]


# Scores of finished runs


def test_a_run_is_scored_by_one_process_and_each_evaluation_is_stored_once(store, url):
    (claim,) = store.claim(KEYS[:1], ME)
    assert not store.evaluations.claim(KEYS[0])  # it is not done
    store.finish(claim, outcome(metrics={"elbo": Estimate(-1.0)}))
    assert store.evaluations.claim(KEYS[0])
    execute(url, "UPDATE scoring SET owner_host = 'elsewhere'")
    assert not store.evaluations.claim(KEYS[0])  # its lease lasts
    execute(url, "UPDATE scoring SET lease_expires = 0")
    assert store.evaluations.claim(KEYS[0])
    first, second = (Evaluation("evaluation", version, "{}") for version in (1, 2))
    estimates = {"elbo": Estimate(math.nan, 0.5), "ess": Estimate(math.inf)}
    add = store.evaluations.add
    assert not add(KEYS[0], 7, first, estimates, 1.5, {})  # of another result
    assert store.evaluations.of(KEYS[:1]) == []
    for evaluation in (first, second, first):
        elbo = estimates if evaluation == first else {"elbo": Estimate(3.0)}
        assert add(KEYS[0], 1, evaluation, elbo, 1.5, {"bench": "0"})
    assert add(KEYS[0], 1, first, {"elbo": Estimate(9.0)}, 1.0, {})
    stored = store.evaluations.of(KEYS[:1])
    assert [(each.evaluation.version, each.name) for each in stored] == [
        (1, "elbo"),
        (1, "ess"),
        (2, "elbo"),
    ]
    assert repr(stored[0].estimate) == repr(Estimate(math.nan, 0.5))
    assert {each.name: each.evaluation.version for each in newest(stored)} == {"elbo": 2, "ess": 1}
    assert store.evaluations.evaluated(KEYS) == {(KEYS[0], first), (KEYS[0], second)}
    store.reset(KEYS[:1])
    assert store.evaluations.of(KEYS[:1]) == []
    (claim,) = store.claim(KEYS[:1], ME)
    store.finish(claim, outcome(Status.FAILED, "it broke"))  # so the earlier result comes back
    assert repr(store.evaluations.of(KEYS[:1])) == repr(stored)
    store.delete(KEYS[:1])
    assert store.evaluations.of(None) == []
