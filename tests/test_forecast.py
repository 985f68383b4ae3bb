"""How far a study is, and how long the rest will take."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from conftest import json_lines
from filled_store import ENVIRONMENT

from harness.base.spec import Plan, Status
from harness.base.workspace import Workspace
from harness.execution.forecast import Forecast, forecast
from harness.plan import studies
from harness.plan.grid import expand
from harness.store import Outcome, Owner, Progress, ResultStore

pytestmark = pytest.mark.usefixtures("no_mirror")


def test_status_in_an_empty_workspace_writes_nothing(bench, workspace):
    (shown,) = json_lines(bench("study", "status", "smoke", "--json"))
    n = 3 * 46  # seeds times cells, as tests/test_studies.py counts them
    counts = (shown["runs"], shown["counts"], shown["left"], shown["runs_without_estimate"])
    assert counts == (n, {"missing": n}, n, n)
    assert (shown["seconds_left"], shown["at_work"]) == (None, [])
    assert (
        f"{n} runs: {n} to run, time unknown until some have ended"
        in bench("study", "status", "smoke").stdout
    )
    assert (
        bench("study", "run", "smoke", "--dry-run").stdout
        == bench("study", "status", "smoke").stdout
    )
    assert bench("study", "show", "smoke").exit_code == bench("study", "list").exit_code == 0
    assert list(workspace.iterdir()) == []


def begun(store, runs, owner=None):
    """Claims on these runs as one stack, begun."""
    keys = [run.spec.key for run in runs]
    store.enqueue(runs)
    claims = store.claim(keys, owner or Owner.current())
    store.begin(claims, Plan(members=tuple(keys), threads=1, torch="2.13.0"), ENVIRONMENT)
    return claims


def ended(store, runs, step, wall_s, status=Status.DONE, reason=None):
    """Runs that ended."""
    claims = begun(store, runs)
    store.finish_all(
        claims, [Outcome(status=status, reason=reason, step=step, wall_s=wall_s)] * len(claims)
    )


STATUS = """summary: In every state.
grids:
  - {methods: [vb], tasks: [gaussian-2], seeds: 0-11, protocol: smoke}
  - {methods: [hvae], tasks: [gaussian-2], seeds: 0-1, protocol: smoke}
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, workspace, monkeypatch):
    """The address of an empty database that the workspace uses."""
    if request.param == "postgresql":
        monkeypatch.setenv("BENCH_DATABASE_URL", request.getfixturevalue("postgres_database")())
    return Workspace.current().database_url


def test_status_tells_who_is_at_work_on_what(bench, study, database):
    name = study(STATUS)
    assert json_lines(bench("study", "status", name, "--json"))[0]["counts"] == {"missing": 14}
    runs = studies.load(name).runs()
    with ResultStore.open(database) as store:
        ended(store, runs[:3], step=200, wall_s=8.0)
        ended(store, runs[3:4], step=90, wall_s=1.0, status=Status.DIVERGED)
        ended(
            store,
            runs[4:5],
            step=90,
            wall_s=1.0,
            status=Status.FAILED,
            reason="ArithmeticError: no",
        )
        ended(store, runs[5:6], step=90, wall_s=1.0, status=Status.FAILED, reason="crashed")
        store.enqueue(runs[6:7])
        mine = begun(store, runs[7:9])
        store.save(mine, [Progress(50, 2.0)] * 2)
        begun(store, runs[9:10], owner=replace(Owner.current(), process_start=1))
        store.release(begun(store, runs[10:11]), Status.TIMEOUT, "a limit")
        before = time.time()
    (shown,) = json_lines(bench("study", "status", name, "--json"))
    kinds = {
        "done": 3,
        "diverged": 1,
        "failed": 1,
        "crashed": 1,
        "queued": 1,
        "running": 2,
        "interrupted": 1,
        "timeout": 1,
        "missing": 3,
    }
    assert shown["counts"] == kinds
    assert {
        (part["task"], part["method"]): sum(part["counts"].values()) for part in shown["parts"]
    } == {
        ("gaussian-2", "vb"): 12,
        ("gaussian-2", "hvae"): 2,
    }
    assert (shown["left"], shown["workers"], shown["runs_without_estimate"]) == (9, 1, 2)
    me = Owner.current()
    for run in shown["at_work"]:
        assert (run["host"], run["pid"], run["step"], run["steps"]) == (me.host, me.pid, 50, 200)
        assert before - 20 < run["since"] <= run["heartbeat"] + 1e-3 <= before + 20
    text = bench("study", "status", name).stdout
    assert "14 runs: 3 done, 1 diverged, 1 failed, 1 crashed, 9 to run (2 at work), about" in text
    assert "for all but 2 runs whose time is unknown" in text
    (row,) = [line for line in text.splitlines() if me.host in line and str(me.pid) in line]
    assert "50 of 200" in row
    assert "7-8" in row
    retried = bench("study", "run", name, "--dry-run", "--retry").stdout
    assert "11 to run" in retried
    assert "14 to run" in bench("study", "run", name, "--dry-run", "--rerun").stdout


def forecast_of(store, methods, tasks, seeds, stack=10, **sets) -> Forecast:
    return forecast(expand(methods, tasks, seeds, "smoke", sets), store, stack)


def test_time_left_is_steps_times_seconds_a_step_for_each_stack(workspace):
    with ResultStore.open(Workspace.current().database_url) as store:
        assert forecast_of(store, ["vb"], ["gaussian-2"], [0]).seconds_with(1) is None
        ended(
            store, expand(["vb"], ["gaussian-2"], range(3), "smoke"), step=200, wall_s=8.0
        )  # 0.04 s a step of the stack
        rest = forecast_of(store, ["vb"], ["gaussian-2"], range(28))
        assert rest.remaining == 25
        assert rest.seconds == pytest.approx(3 * 8.0)  # stacks of 10, 10 and 5
        assert forecast_of(
            store, ["vb"], ["gaussian-2"], range(28), stack=5
        ).seconds == pytest.approx(5 * 8.0)
        assert rest.seconds_with(2) == pytest.approx(12.0)
        assert rest.seconds_with(100) == pytest.approx(8.0)  # no stack is cut in two
        assert (
            forecast_of(store, ["vb"], ["gaussian-2"], [0]).seconds_with(1) == 0
        )  # nothing is left
        store.save(
            begun(store, expand(["vb"], ["gaussian-2"], [10, 11], "smoke")),
            [Progress(150, 6.0)] * 2,
        )
        assert forecast_of(store, ["vb"], ["gaussian-2"], [10, 11, 12]).seconds == pytest.approx(
            50 * 0.04 + 200 * 0.04
        )


def test_the_nearest_kind_of_run_gives_the_time(workspace):
    with ResultStore.open(Workspace.current().database_url) as store:
        ended(
            store,
            expand(["hvae[n_leapfrog=1]"], ["gaussian-2"], [0], "smoke", {"lr": 0.3}),
            step=200,
            wall_s=2.0,
        )
        ended(
            store,
            expand(["hvae[n_leapfrog=1]"], ["gaussian-25"], [0], "smoke"),
            step=200,
            wall_s=4.0,
        )
        ended(
            store,
            expand(["hvae[n_leapfrog=10]"], ["gaussian-2"], [0], "smoke"),
            step=200,
            wall_s=12.0,
        )
        ended(store, expand(["hvae"], ["norms-2"], [0], "smoke"), step=100, wall_s=100.0)
        seconds = {
            "its settings, at another rate": forecast_of(
                store, ["hvae[n_leapfrog=1]"], ["gaussian-2"], [1], lr=0.1
            ).seconds,
            "its settings, for more steps": forecast_of(
                store, ["hvae[n_leapfrog=1]"], ["gaussian-2"], [1], steps=1000
            ).seconds,
            "its task, whatever the settings": forecast_of(
                store, ["hvae[n_leapfrog=3]"], ["gaussian-50"], [1]
            ).seconds,
            "its method": forecast_of(store, ["hvae"], ["gaussian-ar1-2"], [1]).seconds,
            "nothing": forecast_of(store, ["vb"], ["gaussian-2"], [1]).seconds,
        }
    assert seconds == pytest.approx(
        {
            "its settings, at another rate": 2.0,
            "its settings, for more steps": 10.0,
            "its task, whatever the settings": 200 * (2 + 4 + 12) / 600,
            "its method": 200 * (2 + 4 + 12 + 100) / 700,
            "nothing": 0.0,
        }
    )


def test_a_task_that_does_not_stack_takes_its_time_for_each_run(workspace):
    with ResultStore.open(Workspace.current().database_url) as store:
        ended(store, expand(["vb"], ["norms-2"], [0], "smoke"), step=100, wall_s=3.0)
        assert forecast_of(store, ["vb"], ["norms-2"], range(5)).seconds == pytest.approx(4 * 3.0)


def test_runs_of_other_ends_tell_no_time(workspace):
    with ResultStore.open(Workspace.current().database_url) as store:
        ended(
            store,
            expand(["vb"], ["gaussian-2"], [0], "smoke"),
            step=5,
            wall_s=100.0,
            status=Status.DIVERGED,
        )
        assert forecast_of(store, ["vb"], ["gaussian-2"], [1]).unknown == 1
