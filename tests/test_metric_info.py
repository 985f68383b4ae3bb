"""What a task declares of its metrics is stored with its runs, and tables and ranks follow it."""

from __future__ import annotations

import dataclasses
import json

import comparisons
import filled_store
import pytest
from click.testing import CliRunner
from pyarrow import parquet

from harness.api import Metric
from harness.base.errors import BenchError
from harness.base.metrics import metric_by_name
from harness.base.spec import Description
from harness.cli import main
from harness.plan.grid import expand
from harness.store import ResultStore

TASK = """
from typing import ClassVar
from harness.api import Metric
from harness.tasks.gaussian import Gaussian

class {cls}(Gaussian, frozen=True):
    name: ClassVar[str] = "{name}"
    headline: ClassVar[tuple[str, ...]] = ("accuracy",)
    metric_info: ClassVar[dict[str, Metric]] = {{
        "accuracy": Metric("%", "{better}", "share of right answers")
    }}
"""


def accuracy(run):
    return {"accuracy": {"vb": 60.0, "iaf": 70.0, "hvae": 80.0}[run.spec.method] + run.spec.seed}


def task_file(folder, name, better):
    path = folder / f"{name}.py"
    path.write_text(TASK.format(cls=name.title(), name=name, better=better))
    return f"{path}:{name.title()}"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Three methods on two tasks of one's own, `quiz` and `exam`, that both have an accuracy."""
    workspace = filled_store.workspace_in(tmp_path_factory.mktemp("declared"))
    for name in ("quiz", "exam"):
        task = task_file(workspace.home, name, "higher")
        runs = expand(["vb", "iaf", "hvae"], [task], range(3), "smoke")
        comparisons.store_runs(workspace, runs, accuracy)
    return workspace


def bench(home, *arguments):
    done = CliRunner().invoke(main, arguments, env={"BENCH_HOME": str(home)})
    assert done.exit_code == 0, done.output
    return done.stdout


def records(home, *arguments):
    return [json.loads(line) for line in bench(home, "compare", *arguments, "--json").splitlines()]


def test_an_accuracy_is_bold_and_ranked_by_what_its_task_declares(workspace):
    found = records(workspace.home, "--ranks")
    assert {(line["method"], line["best"]) for line in found[:-1]} == {
        ("vb", False),
        ("iaf", False),
        ("hvae", True),
    }
    assert {(line["unit"], line["better"]) for line in found[:-1]} == {("%", "higher")}
    ranking = found[-1]["ranking"]
    assert dict(zip(ranking["names"], ranking["mean_ranks"], strict=True)) == {
        "hvae": 1.0,
        "iaf": 2.0,
        "vb": 3.0,
    }
    text = bench(workspace.home, "compare")
    assert "accuracy (%), protocol smoke" in text
    assert "accuracy: share of right answers, higher is better." in text


def test_exports_and_reports_say_it_too(workspace, tmp_path):
    path = tmp_path / "runs.parquet"
    bench(workspace.home, "export", "-o", str(path))
    metadata = parquet.read_schema(path).field("metrics.accuracy").metadata
    assert (metadata[b"unit"], metadata[b"about"]) == (b"%", b"share of right answers")
    lines = bench(workspace.home, "export", "--what", "metrics", "--json").splitlines()
    assert {json.loads(line)["unit"] for line in lines} == {"%"}
    bench(workspace.home, "report", "-o", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert "accuracy: share of right answers, higher is better</figcaption>" in page


def test_tasks_that_mean_opposite_things_by_a_name_share_no_table(tmp_path):
    workspace = filled_store.workspace_in(tmp_path)
    for name, better in (("quiz", "higher"), ("golf", "lower")):
        runs = expand(["vb", "hvae"], [task_file(tmp_path, name, better)], range(3), "smoke")
        comparisons.store_runs(workspace, runs, accuracy)
    found = records(tmp_path, "--ranks")
    best = {(line["task"], line["method"]) for line in found[:-1] if line["best"]}
    assert best == {("quiz-25", "hvae"), ("golf-25", "vb")}
    assert found[-1]["ranking"]["mean_ranks"] == [1.5, 1.5]
    assert bench(tmp_path, "compare").count("accuracy (%)") == 2
    with pytest.raises(AssertionError, match="'accuracy' has another unit or another better end"):
        bench(tmp_path, "compare", "--one-table")
    one = ("compare", "--one-table", "--notes", "short", "-t", "quiz*")
    assert "Higher is better." in bench(tmp_path, *one)


def test_runs_stored_without_it_mean_what_the_installed_task_declares(tmp_path):
    workspace = filled_store.workspace_in(tmp_path)
    runs = expand(["vb", "hvae"], ["gaussian-2"], range(2), "smoke")
    assert runs[0].description.metric_info["delta_sq_error"].better == "lower"
    old = [
        dataclasses.replace(run, description=run.description.model_copy(update={"metric_info": {}}))
        for run in runs
    ]
    comparisons.store_runs(workspace, old)
    found = records(tmp_path, "--metric", "sigma_sq_error")
    assert {(line["unit"], line["better"]) for line in found} == {("squared units", "lower")}


def test_a_description_without_metrics_is_the_text_of_earlier_releases():
    bare = Description(method="vb")
    assert "metric_info" not in bare.text
    told = Description(method="vb", metric_info={"accuracy": Metric("%", "higher")})
    assert Description.model_validate_json(told.text) == told
    assert told.digest != bare.digest


def test_it_comes_back_from_the_database(workspace):
    with ResultStore.open(workspace.database_url) as store:
        for cell in store.scores.cells():
            info = cell.description.metric_info["accuracy"]
            assert info == Metric("%", "higher", "share of right answers")


def test_a_metric_that_nobody_declares_means_what_its_ending_says():
    assert metric_by_name("my_loss") == Metric(better="lower")
    assert metric_by_name("mle_my_error") == metric_by_name("colour") == Metric()


def test_an_end_that_does_not_exist_is_refused_in_one_line(tmp_path):
    with pytest.raises(BenchError) as refused:
        expand(["vb"], [task_file(tmp_path, "quiz", "hihger")], [0], "smoke")
    assert "\n" not in str(refused.value)
    assert "quiz.py" in str(refused.value)
