"""`bench new`: what it writes works as it stands."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.usefixtures("no_mirror")
FILES = {"method": "my_flow.py", "task": "my_flow.py", "study": "my_flow.yaml"}


@pytest.mark.parametrize("kind", FILES)
def test_what_is_written_passes_check(bench, workspace, kind):
    done = bench("new", kind, "my-flow")
    assert done.exit_code == 0, done.output
    assert f"bench check ./{FILES[kind]}" in done.stderr
    checked = bench("check", f"./{FILES[kind]}")
    assert checked.exit_code == 0, checked.output
    assert "every contract holds" in checked.stdout
    assert sorted(path.name for path in workspace.iterdir()) == [FILES[kind]]


def test_what_is_written_runs(bench):
    bench("new", "method", "my-flow")
    bench("new", "task", "my-target")
    options = ("--protocol", "smoke", "--set", "steps=20", "--json")
    ran = bench("run", "-m", "./my_flow.py", "-t", "./my_target.py", *options)
    assert ran.exit_code == 0, ran.output
    (line,) = map(json.loads, ran.stdout.splitlines())
    assert (line["method"], line["task"], line["status"]) == ("my-flow", "my-target-2", "done")
    path = ("--set", "gradient=path")
    assert bench("run", "-m", "./my_flow.py", "-t", "gaussian-2", *path, *options).exit_code == 0
    bench("new", "study", "my-sweep")
    plan = bench("study", "run", "./my_sweep.yaml", "--dry-run", "--set", "steps=10")
    assert "30 runs" in plan.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("method", "vb"), "There is a method 'vb' already"),
        (("task", "norms"), "There is a task 'norms' already"),
        (("task", "My Flow"), "'My Flow' is no name for a task"),
        (("method", "../x"), "is no name for a method"),
        (("method", "taken"), "taken.py already exists"),
        (("flow", "x"), "'flow' is not one of"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(bench, workspace, arguments, says):
    (workspace / "taken.py").write_text("mine")
    refused = bench("new", *arguments)
    assert (refused.exit_code, says in refused.stderr) == (2, True), refused.output
    assert [path.read_text() for path in workspace.iterdir()] == ["mine"]


def test_a_study_is_checked(bench, workspace):
    grid = "summary: x\ngrids:\n  - {methods: [vbb], tasks: [norms-2], seeds: 0-3}\n"
    (workspace / "mine.yaml").write_text(grid)
    refused = bench("check", "./mine.yaml")
    assert (refused.exit_code, "No method named 'vbb'" in refused.stderr) == (2, True)
    (workspace / "mine.yaml").write_text(grid.replace("vbb", "vb"))
    assert json.loads(bench("check", "./mine.yaml", "--json").stdout) == {
        "check": "runs resolve", "holds": True, "detail": "4 runs",
    }  # fmt: skip
    tune = "{methods: [vb], tasks: [gaussian-2], space: [lr=1e-3:1e-1:log], trials: 7}"
    (workspace / "tune.yaml").write_text(f"summary: x\ntune: {tune}\n")
    assert "holds  runs resolve: 7 trials" in bench("check", "./tune.yaml").stdout
