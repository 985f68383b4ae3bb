"""`bench why`: from a number of a table to everything behind it."""

from __future__ import annotations

import statistics
from dataclasses import replace

import comparisons
import filled_store
import pytest
from click.testing import CliRunner
from conftest import json_lines

from harness.base.spec import Plan, Status
from harness.cli import main
from harness.store import Outcome, Owner, ResultStore

OTHER = {**filled_store.ENVIRONMENT, "python": "3.12.1", "packages": {"torch": "2.14.0"}}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Finished runs of two tasks; hostile names; one cell of which a seed diverged and another was
    made with other code elsewhere.
    """
    workspace = filled_store.workspace_in(tmp_path_factory.mktemp("why"))
    runs = comparisons.gaussian_runs(range(3), ("gaussian-2", "gaussian-25"))
    vb = [run for run in runs if (run.spec.method, run.task_label) == ("vb", "gaussian-25")]
    comparisons.store_runs(workspace, [run for run in runs if run not in vb])
    comparisons.store_runs(workspace, comparisons.gaussian_runs([1000], ["gaussian-2"]))
    comparisons.store_runs(workspace, vb[:1])
    comparisons.store_runs(workspace, vb[1:2], lambda run: "not finite at step 7")
    comparisons.store_runs(
        workspace, [comparisons.renamed(runs[0], name) for name in comparisons.HOSTILE[:5]]
    )
    store_elsewhere(workspace, replace(vb[2], source_hash="other"))
    return workspace


def store_elsewhere(workspace, run):
    """Finish a run of other code on another machine, with a checkpoint, mirrored in MLflow."""
    with ResultStore.open(workspace.database_url) as store:
        store.enqueue([run])
        (claim,) = store.claim([run.spec.key], Owner.current())
        store.begin([claim], Plan(members=(claim.key,), threads=2, torch="2.14.0"), OTHER)
        scores = {
            name: filled_store.Estimate(value) for name, value in comparisons.scores(run).items()
        }
        store.finish(
            claim, Outcome(Status.DONE, None, run.spec.steps, 9.0, scores, checkpoint=CHECKPOINT)
        )
        store.set_mlflow_run(claim.key, "0123abc")


CHECKPOINT = filled_store.CheckpointFile("final", 200, "sha", 10)


def bench(workspace, *arguments, **environment):
    """A command over the workspace."""
    return CliRunner().invoke(
        main,
        list(arguments),
        env={"BENCH_HOME": str(workspace.home), "MLFLOW_TRACKING_URI": None, **environment},
    )


@pytest.fixture(scope="module")
def cells(workspace):
    """What `bench compare` says of each entry, by cell."""
    return {line["cell"]: line for line in json_lines(bench(workspace, "compare", "--json"))}


def test_every_cell_of_the_tables_explains_itself(workspace, cells):
    assert len(cells) == 2 * 6 + 5
    found = json_lines(bench(workspace, "why", "--json", *cells))
    assert {line["cell"] for line in found} == set(cells)
    for line in found:
        shown = cells[line["cell"]]
        assert all(
            line[name] == shown[name]
            for name in (
                "metric",
                "unit",
                "mean",
                "se",
                "n",
                "low",
                "high",
                "seeds",
                "failures",
                "total",
            )
        )
        values = [run["value"] for run in line["runs"] if run["status"] == "done"]
        assert (len(values), statistics.fmean(values)) == (
            line["n"],
            pytest.approx(line["mean"], rel=1e-12),
        )
    assert (
        f'title="bench why {found[0]["cell"]}"'
        in bench(workspace, "compare", "--format", "html").stdout
    )


def test_a_number_is_named_by_its_cell_by_a_run_or_by_method_and_task(workspace, cells):
    (line,) = json_lines(bench(workspace, "why", "-m", "iaf", "-t", "gaussian-25", "--json"))
    for name in (
        line["cell"],
        line["cell"][:7],
        line["runs"][1]["key"],
        line["runs"][1]["key"][:7].upper(),
    ):
        assert json_lines(bench(workspace, "why", name, "--json")) == [line]
    (other,) = json_lines(
        bench(workspace, "why", line["cell"], "--metric", "sigma_sq_error", "--json")
    )
    with ResultStore.open(workspace.database_url) as store:
        stored = store.metrics([run["key"] for run in line["runs"]])
        assert [run["value"] for run in other["runs"]] == [
            stored[run["key"]]["sigma_sq_error"].value for run in line["runs"]
        ]
        assert (
            line["spec"].items()
            <= store.rows([line["runs"][0]["key"]])[line["runs"][0]["key"]].spec.items()
        )


def test_what_differs_between_the_runs_of_a_number_is_said(workspace):
    (line,) = json_lines(bench(workspace, "why", "-m", "vb", "-t", "gaussian-25", "--json"))
    first, failed, other = line["runs"]
    assert (failed["status"], failed["reason"], failed["value"]) == (
        "diverged",
        "not finite at step 7",
        None,
    )
    assert (line["n"], line["total"], line["failures"]) == (2, 3, "1 diverged")
    assert (first["environment"], other["environment"]) == ("E1", "E2")
    assert line["environments"] == {"E1": filled_store.ENVIRONMENT, "E2": OTHER}
    differing = {
        "python": {"E1": "3.11.2", "E2": "3.12.1"},
        "packages.torch": {"E1": None, "E2": "2.14.0"},
    }
    assert line["environments_differ"] == differing
    assert (other["source_hash"], other["plan"]["threads"], other["plan"]["members"]) == (
        "other",
        2,
        1,
    )
    path = other["checkpoint"].pop("path")
    assert (
        path.startswith("checkpoints/"),
        path.endswith(f"/{other['key']}.1/step-000000200.safetensors"),
    ) == (True, True)
    assert (other["checkpoint"], first["checkpoint"]) == (
        {"role": "final", "step": 200, "sha256": "sha", "size": 10},
        None,
    )
    assert line["notes"] == [
        "These runs were made with different code of one version: bench why shows which; --rerun "
        "makes them anew."
    ]
    text = bench(workspace, "why", "-m", "vb", "-t", "gaussian-25").stdout
    for said in (
        "1/3 diverged",
        "seed 1 diverged: not finite at step 7",
        "python differs: E1 3.11.2, E2 3.12.1",
        "step 200",
        "other, seeds 2",
    ):
        assert said in text


def test_where_the_specifications_of_several_numbers_differ_is_said(workspace, cells):
    several = json_lines(
        bench(
            workspace,
            "why",
            "-m",
            "hvae[n_leapfrog=1,10][tempering=fixed]",
            "-t",
            "gaussian-25",
            "--json",
        )
    )
    assert [line["differs"] for line in several] == [
        {"method.n_leapfrog": 1},
        {"method.n_leapfrog": 10},
    ]
    assert [line["left_out"] for line in several] == [{}, {}]
    text = bench(workspace, "why", *(line["cell"] for line in several)).stdout
    assert "differs in" in text
    assert text.count("method.n_leapfrog") == 1


def test_pages_in_mlflow_are_named(workspace):
    def pages(**environment):
        (line,) = json_lines(
            bench(workspace, "why", "-m", "vb", "-t", "gaussian-25", "--json", **environment)
        )
        return [run["mlflow_page"] for run in line["runs"]]

    assert pages() == [None, None, "http://127.0.0.1:5000/#/runs/0123abc"]
    assert (
        pages(MLFLOW_TRACKING_URI="https://ada:secret@example.org/mlflow/")[2]
        == "https://ada:***@example.org/mlflow/#/runs/0123abc"
    )
    assert pages(MLFLOW_TRACKING_URI="databricks")[2] is None
    shown = bench(workspace, "why", "-m", "vb", "-t", "gaussian-25")
    assert "seed 2 in MLflow: http://127.0.0.1:5000/#/runs/0123abc" in shown.stdout
    assert "bench ui, for pages in MLflow" in shown.stderr


def test_runs_that_are_in_no_table_are_counted_and_shown_when_asked_for(workspace):
    shown = bench(workspace, "why", "-m", "vb", "-t", "gaussian-2")
    assert "Left out: 1 run (seeds from 1000 on, which are for tuning)." in shown.stdout
    assert "3 of 3 runs, seeds 0-2; ± is one standard error" in shown.stdout
    (line,) = json_lines(
        bench(workspace, "why", "-m", "vb", "-t", "gaussian-2", "--seeds", "1000", "--json")
    )
    assert [run["seed"] for run in line["runs"]] == [1000]


def test_withdrawn_runs_are_named_with_their_reason(tmp_path):
    workspace = filled_store.workspace_in(tmp_path)
    keys = comparisons.store_runs(
        workspace, comparisons.gaussian_runs(range(3), ["gaussian-2"])[:3]
    )
    with ResultStore.open(workspace.database_url) as store:
        store.retractions.add(keys[:1], "faulty memory")
    (line,) = json_lines(bench(workspace, "why", keys[0], "--json"))
    assert (line["withdrawn"], line["n"], [run["key"] for run in line["runs"]]) == (
        {keys[0]: "faulty memory"},
        2,
        keys[1:],
    )
    assert f"{keys[0]} retracted: faulty memory" in bench(workspace, "why", keys[0]).stdout


@pytest.mark.parametrize("name", comparisons.HOSTILE[:5])
def test_hostile_names_are_shown_as_they_are(workspace, cells, name):
    cell = next(cell for cell, line in cells.items() if line["method"] == name)
    assert f"{name} on gaussian-2" in bench(workspace, "why", cell).stdout
    assert json_lines(bench(workspace, "why", cell, "--json"))[0]["spec"]["method"] == name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Say which number: bench why -m METHOD -t TASK, or bench why CELL"),
        (["vb"], "No cell or run named 'vb'"),
        ([""], "No cell or run of that name alone"),
        (["-m", "hvea"], "There is no finished run with -m hvea"),
        (["-m", "vb", "--metric", "elbo_gpa"], "Did you mean 'elbo_gap'?"),
        (["-t", "*"], "17 numbers match; at most 12 are explained together"),
        (["-m", "vb", "--study", "nope"], "nope"),
    ],
)
def test_bad_input_is_one_line(workspace, arguments, says):
    result = bench(workspace, "why", *arguments)
    assert (result.exit_code, len(result.stderr.splitlines()), result.stdout) == (2, 1, "")
    assert says in result.stderr


def test_without_results_there_is_nothing_to_explain(tmp_path):
    result = CliRunner().invoke(main, ["why", "abc"], env={"BENCH_HOME": str(tmp_path)})
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert list(tmp_path.iterdir()) == []


def test_the_table_names_a_command_that_explains_a_number(workspace):
    hint = bench(workspace, "compare", "-t", "gaussian-25").stderr
    assert hint == "Next: bench why -m METHOD -t TASK, or bench why KEY with the key of a run\n"
    assert bench(workspace, "why", "-m", "hvae", "-t", "gaussian-25").exit_code == 0
