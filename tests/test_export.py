"""Results as files and frames: what is stored comes back to the bit, whatever names hold, and
nothing is half-written.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
import resource
from pathlib import Path

import comparisons
import filled_store
import pandas
import pytest
from bundles import CURVE, ODD
from click.testing import CliRunner
from conftest import json_lines
from pandas.testing import assert_frame_equal
from pyarrow import parquet

import harness
from harness.analysis import export as tables
from harness.analysis.export import ENDING, IDENTITY, MEASURED, ORIGIN, SCORED, TRACED
from harness.base.errors import UsageError
from harness.base.metrics import HARNESS_METRICS
from harness.base.spec import Protocol, Status
from harness.cli import main
from harness.plan import registry
from harness.store import Estimate, ResultStore

PAGE = Path(__file__).parent.parent / "docs" / "results.md"
HOSTILE = (
    *comparisons.HOSTILE,
    "-2+3",
    "@SUM(A1)",
    "\tx",
    "\u2028é\x85",
    "two\rlines\nand 'more', \"quoted\"",
)
TEXT = {"key": str, "cell": str}
READ = {
    "csv": lambda path: pandas.read_csv(path, dtype=TEXT),
    "jsonl": lambda path: pandas.DataFrame(
        [json.loads(line) for line in path.read_text().splitlines()]
    ),
    "parquet": pandas.read_parquet,
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Finished runs of two tasks; numbers of every kind; a method and a reason of each hostile
    name; tuned, pruned and queued ones.
    """
    workspace = filled_store.workspace_in(tmp_path_factory.mktemp("export"))
    runs = comparisons.gaussian_runs(range(3), ("gaussian-2", "gaussian-25"))
    comparisons.store_runs(workspace, [*runs, *comparisons.gaussian_runs([1000], ["gaussian-2"])])
    strange = [comparisons.renamed(runs[0], name) for name in HOSTILE]
    comparisons.store_runs(workspace, strange[::2], lambda run: {run.spec.method: 1.5})
    comparisons.store_runs(workspace, strange[1::2], lambda run: run.spec.method)
    with ResultStore.open(workspace.database_url) as store:
        odd, bare, pruned = filled_store.start(store, [5, 6, 7], n_leapfrog=3)
        filled_store.finish(workspace, store, odd, metrics=ODD, curves=CURVE)
        filled_store.finish(workspace, store, bare, Status.FAILED, metrics={}, curves={})
        filled_store.finish(workspace, store, pruned, Status.PRUNED, metrics={})
        store.enqueue([filled_store.new_run(8)])
    return workspace


@pytest.fixture(scope="module")
def stored(workspace):
    """What the database says of each run: its row, its metrics, its curves."""
    with ResultStore.open(workspace.database_url) as store:
        rows = {row.key: row for row in store.find("")}
        metrics = store.metrics(list(rows))
        return {key: (row, metrics.get(key, {}), store.curves(key)) for key, row in rows.items()}


def export(workspace, *arguments):
    """The command, and what it printed."""
    return CliRunner().invoke(
        main, ["export", *map(str, arguments)], env={"BENCH_HOME": str(workspace.home)}
    )


def exported(workspace, path, *arguments):
    """The file that the command wrote, read back."""
    result = export(workspace, "-o", path, *arguments)
    assert result.exit_code == 0, result.stderr
    return READ[path.suffix[1:]](path)


def exact(value):
    """A number as text from which it could be read back to the bit; NaN and missing are one thing
    to pandas.
    """
    return "missing" if value is None or math.isnan(float(value)) else repr(float(value))


# Numbers


@pytest.mark.parametrize("format_", READ)
def test_every_run_is_there_with_its_numbers_to_the_bit(workspace, stored, tmp_path, format_):
    frame = exported(workspace, tmp_path / f"runs.{format_}").set_index("key")
    assert sorted(frame.index) == sorted(stored)
    names = sorted({name for _, metrics, _ in stored.values() for name in metrics})
    for key, (row, metrics, _) in stored.items():
        found = frame.loc[key]
        assert (found.status, found.seed, found.step, exact(found.seconds)) == (
            row.status.value,
            row.seed,
            row.step,
            exact(row.wall_s),
        )
        assert [exact(found[f"metrics.{name}"]) for name in names] == [
            exact(getattr(metrics.get(name), "value", None)) for name in names
        ]
        errors = {name: metric.se for name, metric in metrics.items() if metric.se is not None}
        assert [exact(found[f"se.{name}"]) for name in errors] == [
            exact(error) for error in errors.values()
        ]


@pytest.mark.parametrize("format_", READ)
def test_metrics_and_curves_have_a_row_for_each_number(workspace, stored, tmp_path, format_):
    metrics = exported(workspace, tmp_path / f"metrics.{format_}", "--what", "metrics")
    wanted = {
        (key, name, exact(metric.value), exact(metric.se))
        for key, (_, found, _) in stored.items()
        for name, metric in found.items()
    }
    shown = [name.removeprefix("'") if format_ == "csv" else name for name in metrics.metric]
    rows = list(
        zip(metrics.key, shown, map(exact, metrics.value), map(exact, metrics.se), strict=True)
    )
    assert (set(rows), len(rows)) == (
        {(key, name.removeprefix("'"), *rest) for key, name, *rest in wanted},
        len(wanted),
    )
    curves = exported(workspace, tmp_path / f"curves.{format_}", "--what", "curves")
    points = [
        (key, name, step, exact(value))
        for key, (_, _, found) in stored.items()
        for name in found
        for step, value in found[name]
    ]
    assert sorted(
        zip(curves.key, curves.metric, curves.step, map(exact, curves.value), strict=True)
    ) == sorted(points)


def test_what_is_not_finite_is_told_from_what_is_missing(workspace, stored, tmp_path):
    odd = next(key for key, (_, metrics, _) in stored.items() if "zero" in metrics)
    names = ["metrics.elbo", "se.elbo", "metrics.elbo_gap", "metrics.pareto_k"]
    lines = csv.DictReader(
        io.StringIO(export(workspace, odd, "--format", "csv").stdout, newline="")
    )
    assert [[line[name] for name in names[:3]] for line in lines] == [["nan", "inf", "-inf"]]
    (line,) = json_lines(export(workspace, odd, "--json"))
    assert [line[name] for name in names[:3]] == ["nan", "inf", "-inf"]
    assert line["not_finite"] == "elbo=nan elbo_gap=-inf"
    exported(workspace, tmp_path / "runs.parquet")
    table = parquet.read_table(tmp_path / "runs.parquet").select(["key", *names]).to_pylist()
    (found,) = [row for row in table if row["key"] == odd]
    assert (
        math.isnan(found["metrics.elbo"]),
        found["metrics.elbo_gap"],
        found["metrics.pareto_k"],
    ) == (True, -math.inf, None)


@pytest.mark.parametrize("what", tables.TABLES)
def test_frames_have_what_files_have(workspace, tmp_path, what):
    results = harness.results.load(home=workspace.home)
    assert_frame_equal(
        getattr(results, what), exported(workspace, tmp_path / "x.parquet", "--what", what)
    )


def test_the_mean_of_a_cell_is_what_the_table_shows(workspace):
    runs = harness.results.load(
        home=workspace.home, protocol="smoke", method=["vb", "iaf", "hvae*"]
    ).runs
    means = runs[runs.in_means].groupby("cell")["metrics.elbo_gap"].mean()
    picked = ["--protocol", "smoke", "-m", "vb", "-m", "iaf", "-m", "hvae*"]
    shown = CliRunner().invoke(
        main, ["compare", *picked, "--json"], env={"BENCH_HOME": str(workspace.home)}
    )
    compared = {line["cell"]: line["mean"] for line in json_lines(shown)}
    assert means.to_dict() == pytest.approx(compared, rel=1e-14)
    assert (len(means), runs.for_tuning.any()) == (12, True)


def test_costs_settings_and_versions_are_columns(workspace):
    runs = harness.results.load(
        home=workspace.home, method="hvae[n_leapfrog=10]", task="gaussian-25"
    ).runs
    found = runs[runs.method == "hvae"].iloc[0]
    assert (found.gradients, found.step, found.particles) == (200 * 10 * (2 * 11 + 1), 200, 10)
    assert (
        found["method.n_leapfrog"],
        found["task.dim"],
        found.lr,
        found.stack,
        found.threads,
    ) == (10, 25, 0.05, 1, 1)
    assert (found.bench, found.python, found.commit) == tuple(
        filled_store.ENVIRONMENT[name] for name in ("bench", "python", "git_commit")
    )
    assert (
        pandas.to_datetime(found.created_at)
        <= pandas.to_datetime(found.started_at)
        <= pandas.to_datetime(found.finished_at)
    )


def test_a_file_is_the_same_whatever_is_held_at_a_time(workspace, tmp_path, monkeypatch):
    whole = [export(workspace, "--what", what, "--format", "csv").stdout for what in tables.TABLES]
    monkeypatch.setattr(tables, "RUNS", 2)
    assert [
        export(workspace, "--what", what, "--format", "csv").stdout for what in tables.TABLES
    ] == whole
    exported(workspace, tmp_path / "x.parquet")
    assert parquet.ParquetFile(tmp_path / "x.parquet").num_row_groups > 10


def test_postgresql_gives_the_same_tables(postgres_database, tmp_path):
    runs = comparisons.gaussian_runs(range(2), ("gaussian-2",))
    loaded = []
    for number, environment in enumerate(({}, {"BENCH_DATABASE_URL": postgres_database()})):
        workspace = filled_store.workspace_in(tmp_path / str(number), **environment)
        comparisons.store_runs(workspace, runs)
        with ResultStore.open(workspace.database_url) as store:
            store.retractions.add([runs[0].spec.key], "wrong")
        loaded.append(harness.results.load(database=workspace.database_url))
    here, there = loaded
    times = ["created_at", "started_at", "finished_at"]
    assert_frame_equal(here.runs.drop(columns=times), there.runs.drop(columns=times))
    assert_frame_equal(here.metrics, there.metrics)
    assert_frame_equal(here.curves, there.curves)


# Names


@pytest.mark.parametrize("format_", READ)
def test_hostile_names_come_back_as_they_are(workspace, tmp_path, format_):
    frame = exported(workspace, tmp_path / f"runs.{format_}")
    odd = [
        f"'{name}" if format_ == "csv" and name.startswith(("=", "-", "@", "\t")) else name
        for name in HOSTILE
    ]
    assert set(odd) <= set(frame.method)
    assert set(odd[1::2]) <= set(frame.reason)
    assert {f"metrics.{name}" for name in HOSTILE[::2]} <= set(frame.columns)


@pytest.mark.parametrize("what", tables.TABLES)
def test_no_field_of_a_csv_file_is_a_formula(workspace, what):
    rows = list(
        csv.reader(
            io.StringIO(export(workspace, "--what", what, "--format", "csv").stdout, newline="")
        )
    )
    assert len({len(row) for row in rows}) == 1
    for field in {
        field
        for row in rows
        for field in row
        if field.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    }:
        float(field)


# Which runs


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (
            ["-m", "hvae*", "-t", "gaussian-25"],
            lambda row: row.method == "hvae" and row.task_label == "gaussian-25",
        ),
        (
            ["-m", "hvae[n_leapfrog=10]"],
            lambda row: row.method == "hvae" and row.spec["method_fields"]["n_leapfrog"] == 10,
        ),
        (["--seeds", "1,1000"], lambda row: row.seed in (1, 1000)),
        (
            ["--status", "diverged", "--status", "failed"],
            lambda row: row.status in (Status.DIVERGED, Status.FAILED),
        ),
        (["--protocol", "standard"], lambda row: row.protocol == "standard"),
        (["--status", "queued"], lambda row: row.status is Status.QUEUED),
        ([], lambda row: True),
    ],
)
def test_runs_are_picked_as_elsewhere(workspace, stored, arguments, wanted):
    keys = [line["key"] for line in json_lines(export(workspace, "--json", *arguments))]
    assert sorted(keys) == sorted(key for key, (row, _, _) in stored.items() if wanted(row))


def test_a_study_s_runs_are_picked(workspace, tmp_path):
    study = tmp_path / "mine.yaml"
    study.write_text(
        "summary: A part.\ngrids:\n  - "
        "{methods: [vb], tasks: [gaussian-2], seeds: 1-2, protocol: smoke}\n"
    )
    (first, second) = json_lines(export(workspace, "--json", "--study", study))
    assert [(line["method"], line["seed"]) for line in (first, second)] == [("vb", 1), ("vb", 2)]
    assert list(harness.results.load(home=workspace.home, study=str(study), seeds=2).runs.key) == [
        second["key"]
    ]


def test_a_withdrawn_result_says_so_in_tables_and_is_in_no_bundle(tmp_path):
    workspace = filled_store.workspace_in(tmp_path)
    kept, gone = filled_store.fill(workspace, [0, 1])
    with ResultStore.open(workspace.database_url) as store:
        store.retractions.add([gone], "=faulty memory")
    for frame in (
        harness.results.load(home=tmp_path).runs,
        exported(workspace, tmp_path / "c.parquet", "--what", "curves"),
    ):
        assert frame.groupby("key", sort=False).withdrawn.first().dropna().to_dict() == {
            gone: "=faulty memory"
        }
        assert set(frame.key) == {kept, gone}
        assert set(frame[frame.in_means].key) == {kept}
    result = export(workspace, "--bundle", tmp_path / "x.bench", "--json")
    assert ([line["key"] for line in json_lines(result)], result.stderr.splitlines()[0]) == (
        [kept],
        "1 retracted run left out.",
    )


# Refusals


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["x.parquet"], "To write a file of that name: bench export -o x.parquet"),
        (["-o", "x.xlsx"], "Give it an ending (.csv, .jsonl, .ndjson, .parquet), or add --format"),
        (["--format", "parquet"], "Say which file to write: -o FILE.parquet"),
        (["-o", "x.csv", "-m", "hvea"], "There is no run with -m hvea"),
        (["-o", "x.csv", "--status", "don"], "Did you mean 'done'?"),
        (["-o", "x.csv", "--seeds", "2-1"], "run backwards"),
        (["-o", "x.csv", "--study", "nope"], "nope"),
        (["-o", "x.csv", "ffff"], "No run named 'ffff'"),
        (
            ["-o", "x.csv", "--bundle", "y"],
            "Write a table (-o, --what, --format) or a bundle (--bundle), not both",
        ),
        (["-o", "kept.csv/x.csv"], "Cannot write"),
    ],
)
def test_bad_input_is_one_line_and_no_file(workspace, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    Path("kept.csv").write_text("mine")
    result = export(workspace, *arguments)
    assert (result.exit_code, len(result.stderr.splitlines()), result.stdout) == (2, 1, "")
    assert says in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["kept.csv"]
    assert Path("kept.csv").read_text() == "mine"


@pytest.mark.parametrize("format_", READ)
def test_a_full_disk_is_one_line_and_leaves_the_old_file(workspace, tmp_path, monkeypatch, format_):
    monkeypatch.setattr(tables, "RUNS", 2)  # much is written before the limit is met
    path = tmp_path / f"x.{format_}"
    path.write_text("mine")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    try:
        result = export(workspace, "-o", path, "--what", "curves")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (result.exit_code, result.stderr) == (
        2,
        f"bench: Cannot write {path}: File too large.\n",
    )
    assert ([found.name for found in tmp_path.iterdir()], path.read_text()) == ([path.name], "mine")


def test_load_says_what_it_cannot_find(tmp_path, workspace):
    with pytest.raises(UsageError, match="There are no results at"):
        harness.results.load(home=tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="There is no run with method='hvea'"):
        harness.results.load(home=workspace.home, method="hvea")
    with pytest.raises(UsageError, match="Did you mean 'done'"):
        harness.results.load(database=workspace.database_url, status="don")


# The page


def test_the_examples_of_the_page_run(workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(workspace.home))
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text()
    commands = re.findall(r"^bench (export .*?)(?:\s+#.*)?$", page, re.M)
    for command in commands:
        assert export(workspace, *command.replace("'", "").split()[1:]).exit_code == 0
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(code, names)
    assert len(commands) == 5
    assert names["table"]["count"].tolist() == [3] * 6
    assert names["failures"].sum() == len(names["counted"])
    assert (names["less_than_the_first"].iloc[:, 0] == 0).all()
    assert names["bound"].query("method == 'vb'").seconds_so_far.max() == 2.5
    assert_frame_equal(names["runs"], harness.results.load().runs)


def test_the_page_explains_every_column(workspace):
    page = PAGE.read_text().splitlines()
    for column in (*IDENTITY, *ENDING, *ORIGIN, *MEASURED, *SCORED, *TRACED):
        assert f"| `{column.name}` | {column.kind} | {column.unit} | {column.about} |" in page
    tasks = [registry.find("task", name).cls for name in registry.listings("task")]
    declared = [HARNESS_METRICS, *(task.metric_info for task in tasks)]
    for name, metric in (item for metrics in declared for item in metrics.items()):
        assert f"| `{name}` | {metric.unit} | {metric.description} |" in page
    fixed = {column.name for column in (*IDENTITY, *ENDING, *ORIGIN)}
    assert not fixed & set(Protocol.model_fields)
    others = [
        name for name in harness.results.load(home=workspace.home).runs.columns if name not in fixed
    ]
    settings = {*Protocol.model_fields, "method_version", "task_version"}
    assert [
        name
        for name in others
        if name not in settings and not name.startswith(("metrics.", "se.", "method.", "task."))
    ] == []


def test_a_parquet_file_says_its_version_and_its_units(workspace, tmp_path):
    exported(workspace, tmp_path / "x.parquet")
    schema = parquet.read_schema(tmp_path / "x.parquet")
    assert schema.metadata[b"bench_schema_version"] == b"1"
    assert schema.field("metrics.elbo_gap").metadata[b"unit"] == b"nats"
    assert set(pandas.read_parquet(tmp_path / "x.parquet").schema_version) == {1}
    assert {line["schema_version"] for line in json_lines(export(workspace, "--json"))} == {1}
    assert export(workspace, "--format", "csv").stdout.startswith("schema_version,key,cell,")


def test_an_unknown_kind_of_environment_is_missing_and_mixed_settings_are_text(tmp_path):
    workspace = filled_store.workspace_in(tmp_path)
    with ResultStore.open(workspace.database_url) as store:
        store.enqueue(
            [filled_store.new_run(0, width=value) for value in (1, "wide", [1, 2], 2**70)]
        )
        (claim,) = store.claim([filled_store.spec(0, width=1).key], filled_store.Owner.current())
        plan = filled_store.Plan(members=(claim.key,), threads=1, torch="2.13.0")
        store.begin(
            [claim], plan, {"cores": "many", "packages": 3, "python": ["3"], "git_dirty": "yes"}
        )
        filled_store.finish(workspace, store, claim, metrics={"elbo": Estimate(1.0)})
    runs = harness.results.load(home=tmp_path).runs
    assert set(runs["method.width"]) == {"1", "[1,2]", str(2**70), "wide"}
    assert runs[["cores", "torch", "python", "commit_changed"]].isna().all().all()


def test_integers_stay_integers_in_columns_with_gaps(tmp_path):
    workspace = filled_store.workspace_in(tmp_path)
    ordinary = comparisons.gaussian_runs([0], ["gaussian-2"])[0]
    long = 1234567890123456789
    given = comparisons.renamed(ordinary, "other")
    spec = given.spec.model_copy(
        update={"seed": long, "patience": long, "method_fields": {"width": long}}
    )
    comparisons.store_runs(workspace, [ordinary, dataclasses.replace(given, spec=spec)])
    frame = harness.results.load(home=tmp_path).runs
    assert_frame_equal(frame, exported(workspace, tmp_path / "runs.parquet"))
    for name in ("patience", "method.width", "seed"):
        assert str(frame[name].dtype) == "Int64"
        assert frame[name].max() == long
    assert frame.patience.isna().sum() == frame["method.width"].isna().sum() == 1
    lines = csv.DictReader(io.StringIO(export(workspace, "--format", "csv").stdout, newline=""))
    assert sorted(line["method.width"] for line in lines) == ["", str(long)]


def test_types_do_not_depend_on_what_a_column_holds(tmp_path):
    workspace = filled_store.workspace_in(tmp_path)
    ordinary = comparisons.gaussian_runs([0], ["gaussian-2"])[0]
    full = {"batch_size": 10, "clip_norm": 1.0, "validate_every": 5, "patience": 2}
    comparisons.store_runs(
        workspace,
        [ordinary, dataclasses.replace(ordinary, spec=ordinary.spec.model_copy(update=full))],
    )
    schemas = []
    for key in (row.key for row in ResultStore.open(workspace.database_url).find("")):
        assert export(workspace, key, "-o", tmp_path / f"{key}.parquet").exit_code == 0
        schemas.append(parquet.read_schema(tmp_path / f"{key}.parquet"))
    assert schemas[0].equals(schemas[1])
