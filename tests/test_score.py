"""`bench score`: metrics of stored runs from their checkpoints."""

from __future__ import annotations

import json
import shutil
import signal
import time

import pytest
import runs as programs
from conftest import json_lines

import harness
from harness.base.workspace import Workspace
from harness.execution import score
from harness.plan import registry
from harness.store import ResultStore

pytestmark = pytest.mark.usefixtures("no_mirror")
SMOKE = ("-t", "gaussian-3", "--protocol", "smoke")
MANY = ("--particles", "3000")
FILE = """
from harness.api import Method, Particles, log_std_normal


class Mine(Method, frozen=True):
    name = "mine"

    def init(self, dim, noise, n_context=0):
        return {}

    def particles(self, params, problem, noise, n_particles, trace=False):
        epsilon = noise.normal(n_particles, *problem.base.mean.shape, like=problem.base.mean)
        z = problem.base.mean + problem.base.log_scale.exp() * epsilon
        log_w = problem.log_joint(z) - problem.base.log_prob(z)
        return Particles(z, log_w)
"""


def made(bench, *options):
    return json_lines(bench("run", "-m", "vb", *SMOKE, *options, "--json"))


def stored(key, home="."):
    with ResultStore.open(Workspace.current(home).database_url) as store:
        return store.evaluations.of([key])


def test_the_same_particles_give_the_runs_own_numbers_and_leave_them(bench):
    before = made(bench, "--seeds", "0-3")  # a stack of four, which are scored one by one
    result = bench("score", "--json")
    assert result.exit_code == 0, result.output
    for run in before:
        scores = {score.name: score.estimate for score in stored(run["key"])}
        assert scores.keys() == run["metrics"].keys()
        for name, value in run["metrics"].items():
            assert scores[name].value == pytest.approx(float(value), rel=1e-10, abs=1e-12), name
        errors = {name: each.se for name, each in scores.items() if each.se is not None}
        assert errors == pytest.approx(run["standard_errors"], rel=1e-9)
    assert made(bench, "--seeds", "0-3")[0]["metrics"] == before[0]["metrics"]


def test_more_particles_are_a_score_and_cost_no_training(bench):
    (run,) = made(bench)
    (again,) = made(bench, "--set", "eval_particles=3000")  # the same training, scored with more
    records = json_lines(bench("score", *MANY, "--metric", "elbo", "-t", "gaussian-3", "--json"))
    by_key = {record["key"]: record for record in records}
    assert by_key.keys() == {run["key"]}  # the other one has so many
    record = by_key[run["key"]]
    assert record["value"] == pytest.approx(again["metrics"]["elbo"], rel=1e-12)
    assert record["se"] == pytest.approx(again["standard_errors"]["elbo"], rel=1e-9)
    assert record["estimator"], record["version"] == ("evaluation", 1)
    assert json.loads(record["estimator_settings"]) == {"eval_particles": 3000}
    rows = json_lines(bench("compare", *MANY, "--metric", "elbo", "--json"))
    assert {row["mean"] for row in rows} == {record["value"], again["metrics"]["elbo"]}
    (row,) = (row for row in rows if row["cell"] == run["cell"])
    assert "evaluation 1, eval_particles=3000" in row["notes"]
    (own,) = (
        row
        for row in json_lines(bench("compare", "--metric", "elbo", "--json"))
        if row["cell"] == run["cell"]
    )
    assert own["mean"] == run["metrics"]["elbo"]
    (why,) = json_lines(bench("why", run["key"], *MANY, "--metric", "elbo", "--json"))
    assert why["runs"][0]["value"] == record["value"]
    frame = harness.results.load().scores
    assert set(frame.estimator_settings) == {'{"eval_particles":3000}'}
    assert "evaluation 1, eval_particles=3000" in bench("show", run["key"]).output


def test_a_run_that_lacks_a_metric_gets_it_and_only_that_run(bench, monkeypatch):
    first, _ = made(bench, "--seeds", "0-1")
    with ResultStore.open(Workspace.current().database_url) as store:
        from sqlalchemy import delete

        from harness.store.schema import metrics

        with store._database.write() as connection:  # as an earlier release left it
            condition = (metrics.c.run == first["key"]) & (metrics.c.name == "eubo")
            connection.execute(delete(metrics).where(condition))
    (record,) = json_lines(bench("score", "--metric", "eubo", "--json"))
    assert record["key"] == first["key"]
    assert record["value"] == pytest.approx(first["metrics"]["eubo"], rel=1e-10)
    (row,) = json_lines(bench("compare", "--metric", "eubo", "--json"))
    assert row["n"] == 2
    assert "Computed from 1 stored run by bench score" in row["notes"]
    monkeypatch.setattr(score.Scorer, "_evaluate", None)  # nothing is left to do
    assert bench("score", "--metric", "eubo").exit_code == 0


def test_a_changed_estimator_overwrites_nothing(bench, monkeypatch):
    (run,) = made(bench)
    assert bench("score", *MANY).exit_code == 0
    before = stored(run["key"])
    monkeypatch.setattr(score.evaluation, "VERSION", 2)
    real = score.Scorer._evaluate

    def shifted(self, spec, file):
        estimates = real(self, spec, file)
        return estimates | {"elbo": score.Estimate(estimates["elbo"].value + 1.0)}

    monkeypatch.setattr(score.Scorer, "_evaluate", shifted)
    assert bench("score", *MANY).exit_code == 0
    after = stored(run["key"])
    assert [each for each in after if each.evaluation.version == 1] == before
    (row,) = json_lines(bench("compare", *MANY, "--metric", "elbo", "--json"))
    (old,) = (each for each in before if each.name == "elbo")
    assert row["mean"] == old.estimate.value + 1.0
    assert "evaluation 2, eval_particles=3000" in row["notes"]


def test_workers_and_several_commands_share_the_runs(bench, workspace, monkeypatch):
    keys = [run["key"] for run in made(bench, "--seeds", "0-7")]
    together = [programs.start(workspace, ["--workers", "2", *MANY], "score") for _ in range(2)]
    for process in together:
        process.communicate()
        assert process.returncode == 0
    by_workers = {key: stored(key) for key in keys}
    assert all(by_workers.values())
    shutil.copytree(workspace, workspace / "alone")
    with ResultStore.open(Workspace.current(workspace / "alone").database_url) as store:
        from sqlalchemy import delete

        from harness.store.schema import scores, scoring

        with store._database.write() as connection:
            assert connection.execute(scoring.select()).first() is None  # all claims are let go of
            connection.execute(delete(scores))
    monkeypatch.setenv("BENCH_HOME", str(workspace / "alone"))
    assert bench("score", *MANY).exit_code == 0
    for key in keys:
        mine = {each.name: each.estimate for each in stored(key, workspace / "alone")}
        assert mine == {each.name: each.estimate for each in by_workers[key]}


def test_a_killed_command_goes_on_and_its_claim_bars_nobody(bench, workspace):
    made(bench, "--seeds", "0-3")
    process = programs.start(workspace, ["--particles", "200000"], "score")
    with ResultStore.open(Workspace.current().database_url) as store:
        keys = sorted(store.scores.metric("elbo"))
        deadline = time.monotonic() + programs.PATIENCE_S
        while not store.evaluations.evaluated(keys) and time.monotonic() < deadline:
            time.sleep(0.02)
    programs.kill(process)
    before = {key: stored(key) for key in keys}
    assert any(before.values())
    assert bench("score", "--particles", "200000").exit_code == 0
    for key in keys:
        assert stored(key)
        assert not before[key] or stored(key) == before[key]


def test_an_interrupted_command_says_so(bench, workspace):
    made(bench, "--seeds", "0-3")
    process = programs.start(workspace, ["--particles", "2000000"], "score")
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert "the same command goes on" in stderr


def test_scores_go_with_their_result_and_come_back_with_it(bench, workspace):
    (run,) = made(bench)
    assert bench("score", *MANY).exit_code == 0
    scores = stored(run["key"])
    assert bench("export", "--bundle", "there.bench").exit_code == 0
    elsewhere = programs.start(workspace / "there", [str(workspace / "there.bench")], "import")
    elsewhere.communicate()
    assert elsewhere.returncode == 0
    assert stored(run["key"], workspace / "there") == scores
    made(bench, "--rerun")  # another result: nothing was computed from it yet
    assert stored(run["key"]) == []
    again = bench("import", "there.bench")  # the same numbers: what is missing here comes along
    assert again.exit_code == 0, again.output
    assert stored(run["key"]) == scores


def test_bad_input_is_one_line_and_stores_nothing(bench, workspace):
    first, second = made(bench, "--seeds", "0-1")
    unknown = bench("score", "--metric", "eubu")
    assert (unknown.exit_code, unknown.stderr.count("\n")) == (2, 1)
    assert "eubo" in unknown.stderr
    for file in (workspace / "checkpoints").rglob(f"{first['key']}.1/*.safetensors"):
        file.unlink()
    gone = bench("score", *MANY, "--seeds", "0")
    assert (gone.exit_code, gone.stderr.count("\n")) == (2, 2)  # with the line of progress
    assert "Cannot read the checkpoint" in gone.stderr
    assert "See: bench doctor" in gone.stderr
    with_another = bench("score", *MANY)
    assert with_another.exit_code == 3
    assert stored(first["key"]) == []
    assert stored(second["key"])


def test_code_of_a_file_runs_where_it_is_named_with_its_hash_or_allowed(
    bench, workspace, monkeypatch
):
    monkeypatch.setattr(registry, "named", {})
    (workspace / "mine.py").write_text(FILE)
    options = ("-m", "./mine.py:Mine", *SMOKE, "--json")
    (run,) = json_lines(bench("run", *options))
    registry.named.clear()
    refused = bench("score", *MANY)
    assert refused.exit_code == 2
    assert "may not run here" in refused.stderr
    assert stored(run["key"]) == []
    (workspace / "other.py").write_text(FILE + "\n# changed\n")
    other = bench("score", *MANY, "-m", "./other.py:Mine")
    assert other.exit_code == 2  # no run is of that code
    assert stored(run["key"]) == []
    assert bench("score", *MANY, "-m", "./mine.py:Mine").exit_code == 0
    assert stored(run["key"])
    registry.named.clear()
    assert bench("score", "--particles", "50", "--allow-plugins").exit_code == 0


def test_every_command_that_selects_takes_a_file(bench, workspace, monkeypatch, study):
    monkeypatch.setattr(registry, "named", {})
    (workspace / "mine.py").write_text(
        FILE.replace("frozen=True):", "frozen=True):\n    k: int = 1\n")
    )
    (run,) = json_lines(bench("run", "-m", "./mine.py:Mine", *SMOKE, "--json"))
    made(bench)
    for file in ("./mine.py:Mine", "./mine.py", "./mine.py:Mine[k=1]"):
        rows = json_lines(bench("compare", "-m", file, "--json"))
        assert {row["cell"] for row in rows if "cell" in row} == {run["cell"]}
    assert bench("compare", "-m", "./mine.py:Mine[k=2]").exit_code == 2
    grid = "{methods: [vb, './mine.py:Mine'], tasks: [gaussian-3], seeds: 0, protocol: smoke}"
    name = study(f"summary: X.\ngrids:\n  - {grid}\n")
    result = bench("study", "run", name, "-m", "./mine.py:Mine", "--json")
    assert result.exit_code == 0, result.output
    only = json_lines(result)
    assert [each["key"] for each in only] == [run["key"]]
    retracted = json_lines(
        bench("invalidate", "-m", "./mine.py:Mine", "--reason", "a test", "--json")
    )
    assert [each["key"] for each in retracted] == [run["key"]]
