"""The command line: what it prints, what it stores, what it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import json_lines
from stores import execute

from harness.base.workspace import Workspace
from harness.store import ResultStore

PLUGINS = Path(__file__).with_name("plugins.py")
SMOKE = ("-t", "gaussian-2", "--protocol", "smoke")


pytestmark = pytest.mark.usefixtures("no_mirror")


def test_every_method_runs_and_then_hits(bench):
    methods = [
        part
        for name in ("vb", "iwae", "pnf", "iaf", "hvae", "hvae-untempered", "hvae-iaf")
        for part in ("-m", name)
    ]
    first = json_lines(bench("run", *methods, *SMOKE, "--seeds", "0-2", "--json"))
    assert [(run["status"], run["outcome"]) for run in first] == [("done", "ran")] * 21
    assert {"elbo", "elbo_gap", "sigma_sq_error", "pareto_k", "travel_used"} <= first[0][
        "metrics"
    ].keys()
    again = json_lines(bench("run", *methods, *SMOKE, "--seeds", "0-2", "--json"))
    assert [run["outcome"] for run in again] == ["hit"] * 21
    assert [{**run, "outcome": "ran"} for run in again] == first


def test_a_json_line_has_the_promised_fields(bench):
    (line,) = json_lines(bench("run", "-m", "hvae[n_leapfrog=2]", *SMOKE, "--json"))
    promised = {
        "key",
        "cell",
        "method",
        "task",
        "settings",
        "seed",
        "status",
        "outcome",
        "reason",
        "step",
        "metrics",
        "wall_s",
        "mlflow_run_id",
    }
    assert promised <= line.keys()
    assert (line["method"], line["task"], line["settings"]["method.n_leapfrog"]) == (
        "hvae",
        "gaussian-2",
        2,
    )


def test_the_closing_table_shows_the_gap_to_the_truth_and_where_to_look_next(bench):
    result = bench("run", "-m", "vb", *SMOKE, "--seeds", "0-1")
    assert result.exit_code == 0
    assert all(
        text in result.stdout
        for text in ("gaussian-2", "elbo_gap", "sigma_sq_error", "vb", "bench show", "bench ui")
    )
    assert "training from step 0 of 200" in result.stderr


def test_a_dry_run_writes_nothing(bench, workspace):
    lines = json_lines(
        bench("run", "-m", "vb", "-m", "hvae", *SMOKE, "--seeds", "0-4", "--dry-run", "--json")
    )
    assert len(lines) == 10
    assert lines[0]["spec"]["steps"] == 200
    assert list(workspace.iterdir()) == []
    assert lines[0]["key"] in bench("run", "-m", "vb", *SMOKE, "--dry-run").stdout


def test_a_dry_run_says_what_is_cached_and_how_long_the_rest_takes(bench):
    ask = ("run", "-m", "vb", "-m", "hvae", *SMOKE, "--dry-run")
    assert "2 runs: 2 to run, time unknown until some have ended." in bench(*ask).stdout
    bench("run", "-m", "vb", *SMOKE)
    plan = bench(*ask, "--seeds", "0-1").stdout
    assert [line.split()[4:6] for line in plan.splitlines() if " vb " in line] == [
        ["done", "(cached)"], ["to", "run"],
    ]  # fmt: skip
    assert re.search(r"4 runs: 1 done, 3 to run, about .* with 1 worker for all but 2 runs", plan)
    assert "1 to run" in bench("run", "-m", "vb", *SMOKE, "--dry-run", "--rerun").stdout
    lines = json_lines(bench(*ask, "--json"))
    assert [(line["status"], line["to_run"]) for line in lines] == [("done", False), (None, True)]
    slow = ("-m", "vb", *SMOKE, "--set", "steps=100000")
    bench("run", *slow, "--time-limit", "1s")
    assert re.search(r"to run from step [\d,]+ ", bench("run", *slow, "--dry-run").stdout)


def test_a_headline_metric_that_never_comes_is_said(bench, workspace):
    text = (
        "from harness.api import LogDensity, Metric\n"
        "class Mine(LogDensity):\n"
        "    dim = 2\n"
        "    headline = ('elbo', 'elbo_gap', 'spread')\n"
        "    metric_info = {'spread': Metric('units', 'lower', 'a spread')}\n"
        "    def log_density(self, z):\n        return -z.square().sum(-1)\n"
    )
    (workspace / "mine.py").write_text(text)
    out = bench("run", "-m", "vb", "-t", "./mine.py", "--protocol", "smoke").stdout
    assert "spread: in the headline of mine-2, but its metrics() or posterior_metrics() did " in out
    assert "elbo_gap: in the headline of mine-2, but its oracle() did not give it." in out
    (workspace / "mine.py").write_text(
        text.replace("    headline = ('elbo', 'elbo_gap', 'spread')\n", "")
    )
    out = bench("run", "-m", "vb", "-t", "./mine.py", "--protocol", "smoke").stdout
    assert "in the headline of" not in out
    assert "elbo_gap" not in out


def test_rerun_and_retry(bench):
    first = json_lines(bench("run", "-m", "vb", *SMOKE, "--json"))
    (again,) = json_lines(bench("run", "-m", "vb", *SMOKE, "--json", "--rerun"))
    assert again["outcome"] == "ran"
    assert again["metrics"] == first[0]["metrics"]
    (kept,) = json_lines(bench("run", "-m", "vb", *SMOKE, "--json", "--retry"))
    assert kept["outcome"] == "hit"


def test_a_diverged_replicate_is_a_result_and_the_others_are_done(bench):
    method = f"{PLUGINS}:DivergesAt50"
    result = bench("run", "-m", method, *SMOKE, "--seeds", "0-2", "--json")
    assert result.exit_code == 3
    runs = json_lines(result)
    assert [run["status"] for run in sorted(runs, key=lambda run: run["seed"])] == [
        "done",
        "diverged",
        "done",
    ]
    (diverged,) = [run for run in runs if run["status"] == "diverged"]
    assert diverged["step"] == 50
    assert "not finite at step 50" in diverged["reason"]
    assert diverged["metrics"] == {}
    hit = bench("run", "-m", method, *SMOKE, "--seeds", "0-2", "--json")
    assert (hit.exit_code, {run["outcome"] for run in json_lines(hit)}) == (3, {"hit"})
    retried = json_lines(bench("run", "-m", method, *SMOKE, "--seeds", "1", "--json", "--retry"))
    assert (retried[0]["status"], retried[0]["outcome"]) == ("diverged", "ran")
    assert "1/3 diverged" in bench("run", "-m", method, *SMOKE, "--seeds", "0-2").stdout


def test_a_method_that_raises_is_a_failed_run(bench):
    result = bench("run", "-m", f"{PLUGINS}:Raises", *SMOKE, "--json")
    assert result.exit_code == 3
    (run,) = json_lines(result)
    assert (run["status"], run["reason"]) == ("failed", "ArithmeticError: the sky fell")


LINE = 1 + next(
    number for number, line in enumerate(PLUGINS.read_text().splitlines()) if "the sky fell" in line
)


@pytest.mark.parametrize("workers", [(), ("--workers", "1")])
def test_a_failed_run_keeps_the_end_of_its_traceback_and_the_line_of_the_users_code(bench, workers):
    closing = bench("run", "-m", f"{PLUGINS}:Raises", *SMOKE, *workers).stdout
    assert f"failed: ArithmeticError: the sky fell (plugins.py:{LINE} in bent)" in closing
    (run,) = json_lines(bench("list", "runs", "--json"))
    shown, (line,) = (
        bench("show", run["key"]).stdout,
        json_lines(bench("show", run["key"], "--json")),
    )
    assert f'plugins.py", line {LINE}, in bent' in shown
    assert line["traceback"].endswith("ArithmeticError: the sky fell")
    assert "harness/execution/" not in line["traceback"]
    assert f"the sky fell (plugins.py:{LINE} in bent)" in bench("why", run["key"]).stdout


def test_the_list_of_failed_runs_names_variants_and_counts_those_it_leaves_out(bench):
    diverging = f"{PLUGINS}:Poisoned[number=nan,inf][where=weights,gradient]"
    closing = bench("run", "-m", diverging, *SMOKE, "--seeds", "0-3").stdout
    listed = [line for line in closing.splitlines() if "diverged: " in line]
    assert len(listed) == 4
    assert {"number=nan" in line for line in listed} == {True, False}
    raising = bench("run", "-m", f"{PLUGINS}:Raises", *SMOKE, "--seeds", "0-6").stdout
    assert raising.count("the sky fell") == 5
    assert "and 2 more runs that ended so: bench list runs" in raising


def test_a_wrong_shape_is_one_line_and_leaves_no_run(bench):
    result = bench("run", "-m", f"{PLUGINS}:WrongShape", *SMOKE)
    assert result.exit_code == 1
    assert "log_w of shape [1, 10]" in result.stderr
    assert "[S, N] = [10, 1]" in result.stderr
    assert json_lines(bench("list", "runs", "--json")) == []


def test_a_scalar_without_an_axis_is_named_and_leaves_no_run(bench):
    result = bench("run", "-m", f"{PLUGINS}:Scalar", *SMOKE)
    assert result.exit_code == 1
    assert (
        "Method 'scalar' returned leaf 'size' of shape [] from init(); a scalar has shape [1]."
        in result.stderr
    )
    assert json_lines(bench("list", "runs", "--json")) == []


def test_a_metric_with_a_name_that_is_too_long_is_one_line(bench):
    task = f"{PLUGINS}:Verbose"
    result = bench("run", "-m", "vb", "-t", task, "--protocol", "smoke", "--set", "steps=2")
    assert result.exit_code == 1
    assert f"Task 'verbose' calls a metric '{'x' * 39} ... (" in result.stderr
    assert "a name has 1 to 200 printable letters, not 251." in result.stderr
    checked = bench("check", task, "--json")
    assert checked.exit_code == 3
    assert any("Task 'verbose' calls a metric" in line["detail"] for line in json_lines(checked))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "-m", "hvea", "-t", "gaussian-2"), "No method named 'hvea'. Did you mean 'hvae'?"),
        (
            ("run", "-m", "hvae", "-t", "gausian-2"),
            "No task named 'gausian-2'. Did you mean 'gaussian'?",
        ),
        (("run", "-m", "hvae-tempred", "-t", "gaussian-2"), "hvae-untempered"),
        (("run", "-m", "hvae", "-t", "gaussian-x"), "task.dim=x is not allowed"),
        (("run", "-m", "hvae", "-t", "gaussian-0"), "task.dim=0 is not allowed"),
        (("run", "-m", "hvae", "-t", "gaussian-2", "--protocol", "smok"), "Did you mean 'smoke'?"),
        (
            ("run", "-m", "hvae", "-t", "gaussian-2", "--set", "method.n_leapfrog=0"),
            "greater than or equal to 1",
        ),
        (
            ("run", "-m", "vb", "-t", "gaussian-2", "--set", "method.n_leapfrog=1"),
            "No field of vb on gaussian named 'method.n_leapfrog'",
        ),
        (("run", "-m", "hvae", "-t", "gaussian-2", "--set", "lr"), "FIELD=VALUE"),
        (("run", "-m", "hvae[n_leapfrog=1", "-t", "gaussian-2"), "Cannot read 'hvae[n_leapfrog=1'"),
        (("run", "-m", "hvae", "-t", "gaussian-2", "--seeds", "3-1"), "run backwards"),
        (("run", "-m", "./nowhere.py:Mine", "-t", "gaussian-2"), "nowhere.py"),
        (("run", "-m", f"{PLUGINS}:Nobody", "-t", "gaussian-2"), "No method class in"),
        (("run", "-t", "gaussian-2"), "Missing option '-m'"),
        (("rnu",), "Did you mean 'run'?"),
        (("show", "hvea"), "Did you mean 'hvae'?"),
        (("check", "hvea"), "Did you mean 'hvae'?"),
        (("list", "runs", "--status", "don"), "Did you mean 'done'?"),
    ],
)
def test_bad_input_is_one_clear_line_and_writes_nothing(bench, workspace, arguments, says):
    result = bench(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stdout == ""
    assert (
        len(
            [line for line in result.stderr.splitlines() if not line.startswith(("Usage:", "Try "))]
        )
        <= 2
    )
    assert list(workspace.iterdir()) == []


def test_an_unwritable_workspace_is_one_line(bench, workspace, monkeypatch):
    (workspace / "file").write_text("in the way")
    monkeypatch.setenv("BENCH_HOME", str(workspace / "file" / "below"))
    result = bench("run", "-m", "vb", *SMOKE)
    assert result.exit_code == 1
    assert "Cannot write to the workspace" in result.stderr


def test_a_garbage_database_is_one_line_and_stays_as_it_is(bench, workspace):
    (workspace / "bench.db").write_text("these are not the pages you are looking for" * 30)
    result = bench("run", "-m", "vb", *SMOKE)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "these are not" in (workspace / "bench.db").read_text()


def test_show_and_list_a_run(bench):
    (run,) = json_lines(bench("run", "-m", "hvae-untempered", *SMOKE, "--json"))
    shown = bench("show", run["key"][:6]).stdout
    assert all(
        text in shown
        for text in (
            run["key"],
            "hvae-untempered on gaussian-2",
            "elbo_gap",
            "queued",
            "running",
            "done",
            "safetensors",
        )
    )
    (full,) = json_lines(bench("show", run["key"], "--json"))
    assert full["metrics"] == run["metrics"]
    assert len(full["curves"]["bound"]) == 200
    assert full["plan"]["members"] == [run["key"]]
    assert [line["status"] for line in full["history"]] == ["queued", "running", "done"]
    assert run["key"] in bench("list", "runs", "-t", "gaussian-2", "--status", "done").stdout
    assert json_lines(bench("list", "runs", "-m", "vb", "--json")) == []


def test_lists_without_a_workspace_write_nothing(bench, workspace):
    assert "No runs here yet" in bench("list", "runs").stderr
    assert {line["name"] for line in json_lines(bench("list", "methods", "--json"))} >= {
        "vb",
        "iwae",
        "pnf",
        "iaf",
        "hvae",
        "hvae-iaf",
    }
    assert "gaussian" in bench("list", "tasks").stdout
    assert "--protocol standard (default)" in bench("show", "gaussian").stdout
    assert list(workspace.iterdir()) == []


def test_db_info_and_backup(bench, workspace):
    bench("run", "-m", "vb", *SMOKE)
    (info,) = json_lines(bench("db", "info", "--json"))
    assert info["runs"] == {"done": 1}
    saved = bench("db", "backup", "-o", "copy.db")
    assert saved.exit_code == 0
    assert (workspace / "copy.db").stat().st_size > 0
    assert bench("db", "upgrade").exit_code == 0


def test_other_source_of_an_installed_method_is_said_and_still_a_hit(bench):
    bench("run", "-m", "vb", *SMOKE)
    execute(Workspace.current().database_url, "UPDATE runs SET source_hash = 'another'")
    again = bench("run", "-m", "vb", *SMOKE, "--json")
    assert "other source code" in again.stderr
    assert "--rerun" in again.stderr
    assert json.loads(again.stdout)["outcome"] == "hit"


def run_python(code: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BENCH_", "MLFLOW_"))
    }
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, *arguments, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


def all_mirrored() -> None:
    """Let the database say that MLflow shows everything."""
    with ResultStore.open(Workspace.current().database_url) as store:
        for row in store.rows(store.behind()).values():
            store.mirrored(row.key, row.revision)


LOADED = (
    "import sys, json; sys.argv[0] = 'bench'\nfrom harness.cli import main\ntry:\n    "
    "main({arguments})\nexcept SystemExit:\n    pass\n"
)
LOADED += "print('LOADED', json.dumps(sorted(name for name in sys.modules if '.' not in name)))"


def loaded_by(arguments: list[str], folder: Path) -> set[str]:
    out = run_python(LOADED.format(arguments=arguments), folder).stdout
    return set(json.loads(out.rpartition("LOADED ")[2]))


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["list", "methods"]])
def test_help_and_lists_load_nothing_heavy(arguments, tmp_path):
    assert not {"torch", "mlflow", "pandas", "sqlalchemy", "numpy", "scipy", "optuna"} & loaded_by(
        arguments, tmp_path
    )


def test_a_call_that_finds_only_hits_loads_neither_mlflow_nor_pandas(bench, workspace):
    bench("run", "-m", "vb", "-m", "hvae", *SMOKE)
    all_mirrored()
    arguments = ["run", "-m", "vb", "-m", "hvae", *SMOKE, "--json"]
    assert not {"mlflow", "pandas", "scipy", "optuna", "alembic", "matplotlib"} & loaded_by(
        arguments, workspace
    )


@pytest.mark.mirror
def test_six_processes_with_one_command_make_each_run_once(tmp_path):
    command = [
        sys.executable,
        "-m",
        "harness.cli",
        "run",
        "-m",
        "vb",
        "-m",
        "pnf",
        *SMOKE,
        "--seeds",
        "0-1",
        "--json",
    ]
    environment = {
        **os.environ,
        "BENCH_HOME": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    started = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    ended = [(process, *process.communicate(timeout=300)) for process in started]
    assert [
        (process.returncode, errors)
        for process, _, errors in ended
        if process.returncode or "Error" in errors
    ] == []
    runs = [json.loads(line) for _, out, _ in ended for line in out.splitlines()]
    assert len(runs) == 6 * 4
    ran = [run["key"] for run in runs if run["outcome"] == "ran"]
    assert len(ran) == len(set(ran)) == 4
    assert len({json.dumps(run["metrics"]) for run in runs}) == 4

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "gaussian-2"]
    mirrored = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["bench.key"] for run in mirrored) == sorted(ran)
    assert {run.info.status for run in mirrored} == {"FINISHED"}


def test_check_proves_a_method_and_exits_with_3_for_a_wrong_one(bench):
    right = bench("check", "vb")
    assert (right.exit_code, "every contract holds" in right.stdout) == (0, True)
    assert bench("check", "methods.vb:VB").exit_code == 0
    wrong = bench("check", f"{Path(__file__).with_name('defects.py')}:MissingHalf", "--json")
    assert wrong.exit_code == 3
    assert {line["holds"] for line in json_lines(wrong)} == {True, False}


def test_a_newer_database_is_refused_in_one_line(bench, workspace):
    import sqlite3

    bench("run", "-m", "vb", *SMOKE)
    with sqlite3.connect(workspace / "bench.db") as database:
        database.execute("UPDATE bench_alembic_version SET version_num = '9999'")
    database.close()
    result = bench("run", "-m", "vb", *SMOKE)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "newer" in result.stderr


def test_a_method_that_exits_is_a_failed_run_and_the_others_go_on(bench):
    result = bench("run", "-m", f"{PLUGINS}:Exits", "-m", "vb", *SMOKE, "--json")
    assert result.exit_code == 3
    assert sorted(run["status"] for run in json_lines(result)) == ["done", "failed"]


def test_a_backup_overwrites_nothing(bench, workspace):
    bench("run", "-m", "vb", *SMOKE)
    (workspace / "notes.txt").write_text("important")
    assert bench("db", "backup", "-o", "notes.txt").exit_code == 2
    assert (workspace / "notes.txt").read_text() == "important"


def test_runs_are_listed_by_variant(bench):
    bench("run", "-m", "hvae", "-m", "hvae-untempered", *SMOKE)
    assert [
        run["settings"]["method.tempering"]
        for run in json_lines(bench("list", "runs", "-m", "hvae-untempered", "--json"))
    ] == ["none"]
    assert len(json_lines(bench("list", "runs", "-m", "hvae", "--json"))) == 2
    assert "None matches" in bench("list", "runs", "-t", "nope").stderr


@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("methods.iaf:Autoregressive", "method has: name, init, particles"),
        ("{PLUGINS}:AbstractMethod", "method has: init, particles"),
        ("{PLUGINS}:AbstractTask", "task has: batch, init, latent_dim, load, problem"),
    ],
)
def test_an_abstract_class_is_told_what_it_lacks(bench, name, lacks):
    result = bench("check", name.format(PLUGINS=PLUGINS))
    assert result.exit_code == 2
    assert f"lacks what every {lacks}" in result.stderr


def test_a_time_between_checkpoints_is_a_number(bench):
    assert bench("run", "-m", "vb", *SMOKE, "--save-every", "nan").exit_code == 2


def test_a_plugin_without_what_every_plugin_has_is_told_what_it_lacks(bench, workspace):
    (workspace / "mine.py").write_text(
        "from harness.api import Method\n\nclass Mine(Method, frozen=True):\n    name = 'mine'\n   "
        " source = 'me'\n"
    )
    result = bench("run", "-m", "./mine.py:Mine", "-t", "gaussian-2", "--protocol", "smoke")
    assert result.exit_code == 2
    assert "'./mine.py:Mine' lacks what every method has: init, particles" in result.stderr
    assert not (workspace / "bench.db").exists()
