"""Withdrawn results: marked, left out of every mean, made anew, and kept."""

from __future__ import annotations

import csv
import io
import os
import signal

import comparisons
import pytest
from conftest import json_lines
from stores import execute

from harness.base.spec import Plan, Status
from harness.base.workspace import Workspace
from harness.store import Estimate, Outcome, Owner, Progress, ResultStore

pytestmark = pytest.mark.usefixtures("no_mirror")
SHORT = ("--protocol", "smoke", "--set", "steps=20", "--set", "eval_particles=50")
RUN = ("run", "-m", "vb", "-t", "gaussian-2", "--seeds", "0-2", *SHORT)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, workspace, monkeypatch):
    """The workspace's database, with invented results of two methods on two tasks, four seeds
    each.
    """
    if request.param == "postgresql":
        monkeypatch.setenv("BENCH_DATABASE_URL", request.getfixturevalue("postgres_database")())
    comparisons.store_runs(Workspace.current(), invented())
    with ResultStore.open(Workspace.current().database_url) as opened:
        yield opened


def invented():
    """The runs."""
    return [
        run
        for run in comparisons.gaussian_runs(range(4), ["gaussian-2", "gaussian-25"])
        if run.spec.method in ("vb", "iaf")
    ]


def keys_of(method, task="gaussian-2"):
    """The keys of one method on one task, by seed."""
    return [
        run.spec.key for run in invented() if (run.spec.method, run.task_label) == (method, task)
    ]


# The database


def test_a_mark_is_set_once_lifted_and_remembered(store):
    keys = keys_of("vb")
    assert store.retractions.add(keys[:2], "wrong density") == sorted(keys[:2])
    assert store.retractions.add(keys[:3], "another reason") == [keys[2]]
    assert store.retractions.reasons(keys) == {
        keys[0]: "wrong density",
        keys[1]: "wrong density",
        keys[2]: "another reason",
    }
    assert store.retractions.reasons() == store.retractions.reasons(keys)
    assert store.retractions.lift(keys[1:]) == sorted(keys[1:3])
    assert store.retractions.lift(keys[1:]) == []
    assert store.retractions.reasons() == {keys[0]: "wrong density"}
    (mark,) = store.retractions.of(keys[1])
    assert mark.lifted_at >= mark.at
    assert (mark.replaced_at, mark.result) == (None, None)
    assert store.retractions.add(keys[1:2], "after all") == keys[1:2]
    assert [mark.reason for mark in store.retractions.of(keys[1])] == ["wrong density", "after all"]


def test_only_what_has_ended_can_be_marked_and_the_mirror_hears_of_it(store):
    (key,) = keys_of("vb")[:1]
    fresh = comparisons.gaussian_runs([9], ["gaussian-2"])[0]
    store.enqueue([fresh])
    assert store.retractions.add([fresh.spec.key, "0" * 16], "no result yet") == []
    before = store.rows([key])[key].revision
    store.retractions.add([key], "wrong")
    assert store.rows([key])[key].revision == before + 1
    store.retractions.lift([key])
    assert store.rows([key])[key].revision == before + 2


def test_what_is_made_anew_keeps_its_mark_alone(store):
    key, other = keys_of("vb")[:2]
    store.retractions.add([key], "wrong")
    store.reset([key, other])
    assert [mark.replaced_at for mark in store.retractions.of(key)] == [None]
    finish(key)
    (mark,) = store.retractions.of(key)
    assert store.retractions.reasons() == {}
    assert mark.replaced_at is not None
    assert mark.result is None
    assert store.retractions.of(other) == []  # a result without a mark leaves none
    store.retractions.add([other], "not ended now")
    assert store.retractions.reasons() == {}


def test_an_archive_of_an_earlier_release_is_shown(store, bench):
    key = keys_of("vb")[0]
    store.retractions.add([key], "wrong")
    execute(
        Workspace.current().database_url,
        'UPDATE errata SET replaced_at = 1e9, result = \'{"status"\\: "done"}\'',
    )
    assert store.retractions.of(key)[0].result == {"status": "done"}
    (shown,) = json_lines(bench("show", key, "--json"))
    assert [mark["result"] for mark in shown["errata"]] == [{"status": "done"}]


def test_a_run_that_is_removed_takes_its_marks_along(store):
    key = keys_of("vb")[0]
    store.retractions.add([key], "wrong")
    store.delete([key])
    assert store.retractions.reasons() == {}
    assert store.retractions.of(key) == []


def finish(key):
    """Claim a queued run and store another result."""
    with ResultStore.open(Workspace.current().database_url) as store:
        (claim,) = store.claim([key], Owner.current())
        store.begin([claim], Plan(members=(key,), threads=1, torch="2.13.0"), {})
        store.save([claim], [Progress(10, 1.0)])
        store.finish(
            claim, Outcome(Status.DONE, None, 200, 3.0, metrics={"elbo_gap": Estimate(7.5)})
        )


def test_a_kill_between_retraction_and_the_new_result_loses_nothing(store):
    key = keys_of("vb")[0]
    old = store.metrics([key])[key]["elbo_gap"].value
    store.retractions.add([key], "wrong")
    child = os.fork()
    if child == 0:  # put back, then killed before anything new is there
        with ResultStore.open(Workspace.current().database_url) as mine:
            mine.reset([key])
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    waiting = {metric["name"]: metric["value"] for metric in store.earlier.of(key)["metrics"]}
    assert waiting["elbo_gap"] == old
    finish(key)
    assert store.metrics([key])[key]["elbo_gap"].value == 7.5
    assert store.retractions.of(key)[0].replaced_at is not None


# The command line


def test_results_are_picked_by_method_task_version_and_key(store, bench):
    def would(*options):
        done = bench("invalidate", *options, "--reason", "x", "--dry-run", "--json")
        return {
            (line["method"], line["task"], line["seed"]) for line in json_lines(done)
        }, done.exit_code

    every = {(run.spec.method, run.task_label, run.spec.seed) for run in invented()}
    vb = {one for one in every if one[0] == "vb"}
    assert would("-m", "vb") == (vb, 0)
    assert would("-m", "*", "-t", "gaussian-25")[0] == {
        one for one in every if one[1] == "gaussian-25"
    }
    assert (
        would("--version", "<2")[0]
        == would("--version", ">=1,<4")[0]
        == would("--version", "== 1")[0]
        == every
    )
    assert would("-m", "vb", "--version", "!=1")[1] == 2
    assert would("-m", "vb", "--task-version", ">1")[1] == 2
    key = keys_of("iaf")[0]
    assert would(key[:10])[0] == {("iaf", "gaussian-2", 0)}
    assert would(key[:10], "-m", "vb")[1] == 2
    assert store.retractions.reasons() == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "Say which results"),
        (("-m", "vb"), "Say why"),
        (("-m", "vb", "--reason", "  "), "Say why"),
        (("-m", "vb", "--reason", "\x1b[31mred"), "printable"),
        (("-m", "vb", "--reason", "x" * 501), "500"),
        (("-m", "nope", "--reason", "x"), "No run that has ended matches"),
        (("ffff", "--reason", "x"), "run"),
        (("-m", "vb", "--lift"), "matches other than 8 runs not retracted"),
    ],
)
def test_bad_input_is_one_line_and_marks_nothing(store, bench, options, said):
    done = bench("invalidate", *options)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
    assert store.retractions.reasons() == {}


def test_a_condition_that_is_none_says_what_one_is(store, bench):
    for text in ("2", "~2", "pnf<2"):
        done = bench("invalidate", "-m", "vb", "--version", text, "--reason", "x")
        assert done.exit_code == 2
        assert "Write '<2', '==1' or '>=2,<4'." in done.stderr


def test_withdrawn_results_are_in_no_mean_and_tables_say_why(store, bench):
    reason = "<script> a|b 50% a_b =1+1"
    keys = keys_of("vb")
    rest = [store.metrics([key])[key]["elbo_gap"].value for key in keys[2:]]
    assert bench("invalidate", *keys[:2], "--reason", reason).exit_code == 0
    shown = bench("compare", "-t", "gaussian-2", "-m", "vb").stdout
    assert f"2 withdrawn, and in no mean: {reason}" in shown
    entries = json_lines(bench("compare", "-t", "gaussian-2", "-m", "vb", "--json"))
    (entry,) = [one for one in entries if one["metric"] == "elbo_gap"]
    assert entry["n"] == 2
    assert entry["mean"] == pytest.approx(sum(rest) / 2)
    assert bench("compare", "-t", "gaussian-2", "--format", "html").stdout.count("<script>") == 0
    assert "a\\|b 50% a\\_b" in bench("compare", "-t", "gaussian-2", "--format", "markdown").stdout
    assert "50\\%" in bench("compare", "-t", "gaussian-2", "--format", "latex").stdout
    rows = list(
        csv.DictReader(io.StringIO(bench("compare", "-t", "gaussian-2", "--format", "csv").stdout))
    )
    assert len(rows) == 2
    assert bench("report", "-o", "r.html").exit_code == 0
    bench("invalidate", *keys[2:], "--reason", "all of them")
    assert "all of them" in bench("compare", "-t", "gaussian-2").stdout
    assert bench("report", "-o", "r.html").exit_code == 0


def test_lists_and_the_run_itself_show_the_mark(store, bench):
    key = keys_of("vb")[0]
    bench("invalidate", key, "--reason", "wrong [bold]density")
    assert "done, retracted" in bench("list", "runs", "-m", "vb").stdout
    listed = {
        line["key"]: line["withdrawn"] for line in json_lines(bench("list", "runs", "--json"))
    }
    assert {name for name, why in listed.items() if why} == {key}
    assert bench("show", key).stdout.count("wrong [bold]density") == 1
    assert bench("invalidate", key, "--lift").exit_code == 0
    assert "retracted" not in bench("list", "runs").stdout
    assert ", lifted " in bench("show", key).stdout


def test_bundles_leave_withdrawn_results_out(store, bench):
    bench("invalidate", "-m", "vb", "--reason", "wrong")
    done = bench("export", "--bundle", "out.bench", "-t", "gaussian-2")
    assert "4 retracted runs left out." in done.stderr
    assert "Wrote 4 runs" in done.stdout


def test_the_command_that_made_them_makes_them_anew(bench, workspace):
    assert bench(*RUN).exit_code == 0
    before = {line["key"]: line for line in json_lines(bench("list", "runs", "--json"))}
    chosen = sorted(before)[0]
    assert "Next: " in bench("invalidate", chosen, "--reason", "wrong").stderr
    grid = (
        "{methods: [vb], tasks: [gaussian-2], seeds: 0-2, protocol: smoke, "
        "set: {steps: 20, eval_particles: 50}}"
    )
    (workspace / "mine.yaml").write_text(f"summary: X.\ngrids:\n  - {grid}\n")
    (status,) = json_lines(bench("study", "status", "mine.yaml", "--json"))
    assert (status["counts"], status["left"]) == ({"done": 2, "withdrawn": 1}, 1)
    assert "1 to run (1 retracted)" in bench("study", "status", "mine.yaml").stdout
    again = bench(*RUN)
    assert again.exit_code == 0
    assert "1 retracted run executed again" in again.stderr
    after = {line["key"]: line for line in json_lines(bench("list", "runs", "--json"))}
    assert {key: line["metrics"] for key, line in after.items()} == {
        key: line["metrics"] for key, line in before.items()
    }
    assert all(line["withdrawn"] is None for line in after.values())
    with ResultStore.open(Workspace.current().database_url) as store:
        (mark,) = store.retractions.of(chosen)
    assert (mark.reason, mark.replaced_at is None, mark.result) == ("wrong", False, None)
    (status,) = json_lines(bench("study", "status", "mine.yaml", "--json"))
    assert status["counts"] == {"done": 3}


@pytest.mark.mirror
def test_mlflow_shows_the_mark_until_it_is_lifted(bench, workspace):
    (key,) = comparisons.store_runs(Workspace.current(), invented()[:1])
    assert bench("invalidate", key, "--reason", "wrong").exit_code == 0
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
    (run,) = json_lines(bench("list", "runs", "--json"))
    assert client.get_run(run["mlflow_run_id"]).data.tags["bench.withdrawn"] == "wrong"
    assert bench("invalidate", key, "--lift").exit_code == 0
    assert "bench.withdrawn" not in client.get_run(run["mlflow_run_id"]).data.tags
