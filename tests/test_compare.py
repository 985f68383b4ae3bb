"""`bench compare`: what its tables hold, worked out by hand from invented runs, and what it
refuses.
"""

from __future__ import annotations

import json
import math
import statistics

import comparisons
import filled_store
import pytest
from click.testing import CliRunner
from scipy import stats

from harness.cli import main
from harness.plan.grid import expand, parse_selector
from harness.plan.tune_options import Tune
from harness.store import ResultStore
from harness.tuning.result import best_settings, cost
from harness.tuning.search import searches
from harness.tuning.trials import open_log, read_log

GAPS = {"vb": (1, 2, 3), "iaf": (1, 3, 5), "pnf": (6, 9, 12), "hvae": (10, 12, 14)}
"""By hand, against vb: differences 0 1 2; 5 7 9; 9 10 11."""


def gap(run):
    """The gap of a run by the table above; of the other task, what the seed says, and two seeds
    that diverge.
    """
    method, seed = run.spec.method, run.spec.seed
    if run.task_label == "gaussian-2":
        return {"elbo_gap": float(GAPS[method][seed]), "mle_elbo_gap": seed / 2}
    if method == "hvae" and seed in (3, 7):
        return "not finite"
    return {
        "elbo_gap": 5.0 + seed / 10 - 4.0 * (method == "hvae"),
        "theta_sq_error": float(seed),
        "nothing": 1.0,
    }


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Four methods with the gaps above on gaussian-2; on gaussian-3 ten seeds of two, of which
    hvae, far the best, diverged twice.
    """
    workspace = filled_store.workspace_in(tmp_path_factory.mktemp("compare"))
    comparisons.store_runs(workspace, expand(list(GAPS), ["gaussian-2"], range(3), "smoke"), gap)
    comparisons.store_runs(
        workspace, expand(["vb", "hvae"], ["gaussian-3"], range(10), "smoke"), gap
    )
    return workspace


@pytest.fixture(scope="module")
def compare(workspace):
    """`bench compare` over these runs, in this process."""

    def call(*arguments, home=workspace.home, status=0):
        environment = {"BENCH_HOME": str(home), "BENCH_STUDY_URL": None, "BENCH_DATABASE_URL": None}
        done = CliRunner().invoke(main, ["compare", *arguments], env=environment)
        assert done.exit_code == status, done.output
        return done.stderr if status else done.stdout

    return call


@pytest.fixture(scope="module")
def records(compare):
    """The records of `bench compare --json`, by method and task."""

    def call(*arguments, **named):
        found = [json.loads(line) for line in compare(*arguments, "--json", **named).splitlines()]
        return {(record["method"], record["settings"], record["task"]): record for record in found}

    return call


def of(found, method, task="gaussian-2"):
    (record,) = [
        record for (name, _, label), record in found.items() if (name, label) == (method, task)
    ]
    return record


def row(text, name):
    """The words of the first row of a plain table that begins with this name, split where two
    spaces stand.
    """
    line = next(line.strip() for line in text.splitlines() if line.strip().startswith(name))
    return [word.strip() for word in line.split("  ") if word.strip()]


# Worked by hand


def test_means_standard_errors_and_intervals(records, compare):
    found = of(records(), "iaf")
    half = stats.t.ppf(0.975, 2) * 2 / math.sqrt(3)
    assert (found["mean"], found["se"], found["n"], found["total"]) == (
        3.0,
        pytest.approx(2 / math.sqrt(3)),
        3,
        3,
    )
    assert (found["low"], found["high"]) == pytest.approx((3 - half, 3 + half))
    assert found["seeds"] == "0 1 2"
    assert row(compare("-t", "gaussian-2"), "iaf")[1] == "3.0 ± 1.2"
    assert row(compare("-t", "gaussian-2", "--interval", "t"), "iaf")[1] == "3.0 [-2.0, 8.0]"


def test_paired_differences_to_the_best_with_holms_correction(records, compare):
    """With two degrees of freedom p = 1 - t / sqrt(2 + t^2); t = sqrt(3), 3.5 sqrt(3), 10 sqrt(3).
    Then times 1, 2 and 3.
    """
    found = records()
    for method, mean, t, times in (
        ("iaf", 1, 3**0.5, 1),
        ("pnf", 7, 3.5 * 3**0.5, 2),
        ("hvae", 10, 10 * 3**0.5, 3),
    ):
        record = of(found, method)
        assert (record["reference"], record["difference_mean"], record["difference_n"]) == (
            "vb",
            mean,
            3,
        )
        assert record["p_holm"] == pytest.approx(times * (1 - t / math.sqrt(2 + t * t)))
    assert of(found, "vb")["reference"] is None
    text = compare("-t", "gaussian-2", "--differences")
    assert "reference" in row(text.partition("differences from")[2], "vb")
    assert "7.0 [2.0, 12.0], p 0.052" in row(text.partition("differences from")[2], "pnf")


def test_of_few_seeds_the_best_mean_alone_is_bold(records, compare):
    found = records("-t", "gaussian-2")
    assert {method for (method, _, _), record in found.items() if record.get("best")} == {"vb"}
    assert not any(record.get("in_confidence_set") for record in found.values())
    text = compare("-t", "gaussian-2")
    bold = [row(text, name)[1][0] == "*" for name in ("vb", "iaf", "pnf", "hvae")]
    assert bold == [True, False, False, False]
    assert "*: bold." in text
    assert "Where rows share fewer than 6 seeds the best mean alone is bold" in text
    page = compare("-t", "gaussian-2", "--format", "markdown")
    assert "| vb | **2.00 ± 0.58** |" in page
    assert "| hvae | 12.0 ± 1.2 |" in page


def stored_gaps(tmp_path, gaps):
    """A workspace with `elbo_gap` of methods by seed."""
    workspace = filled_store.workspace_in(tmp_path)
    for method, values in gaps.items():
        runs = expand([method], ["gaussian-2"], range(len(values)), "smoke")
        comparisons.store_runs(
            workspace, runs, lambda run, values=values: {"elbo_gap": values[run.spec.seed]}
        )
    return workspace.home


def test_bold_is_shown_to_be_within_the_margin_and_a_mark_is_the_confidence_set(
    records, compare, tmp_path
):
    ups = [1.0, 1.1, 0.9, 1.2, 0.8, 1.05, 0.95, 1.15, 0.85, 1.0]
    home = stored_gaps(
        tmp_path,
        {
            "vb": ups,
            "iaf": [1.01 * up for up in ups],  # within 5 % on every seed
            "pnf": [up if seed % 2 else 2 * up for seed, up in enumerate(ups)],
        },
    )
    found = records(home=home)
    marks = {method: (r["best"], r["in_confidence_set"]) for (method, _, _), r in found.items()}
    assert marks == {
        "vb": (True, True),
        "iaf": (True, False),  # it is worse on every seed
        "pnf": (False, True),  # on five of ten it is not
    }
    text = compare(home=home)
    assert row(text, "pnf")[1].endswith("†")
    assert "Bold: shown to be at most 5 % worse than every other row" in text


def test_a_mean_that_one_run_carries_gives_way_to_median_and_quartiles(records, compare, tmp_path):
    home = stored_gaps(tmp_path, {"vb": [1.0] * 9 + [2.0], "iaf": [1.0] * 9 + [1e26]})
    found = records(home=home)
    assert [of(found, "iaf")[name] for name in ("median", "lower_quartile")] == [1.0, 1.0]
    assert of(found, "vb")["median"] is None
    text = compare(home=home)
    assert row(text, "iaf")[1].startswith("1 † [a]")
    assert "[a] One run carries the mean" in text


def test_another_baseline_changes_the_differences_and_not_what_is_bold(records, compare):
    found = records("-t", "gaussian-2", "--baseline", "hvae")
    assert of(found, "vb")["difference_mean"] == -10
    assert of(found, "hvae")["reference"] is None
    assert [of(found, name)["best"] for name in GAPS] == [True, False, False, False]
    text = compare("--baseline", "pnf").partition("differences from pnf")[2]
    assert "Nothing to compare with on gaussian-3: the baseline was not run there" in text
    assert row(text, "hvae")[-1] == "-"


def test_failures_are_said_and_what_failed_is_never_best(records, compare):
    found = of(records(), "hvae", "gaussian-3")
    assert (found["failures"], found["n"], found["total"], found["best"]) == (
        "2 diverged",
        8,
        10,
        False,
    )
    assert found["mean"] == pytest.approx(
        statistics.fmean(1 + seed / 10 for seed in range(10) if seed not in (3, 7))
    )
    assert of(records(), "vb", "gaussian-3")["best"]
    assert "(2/10 diverged)" in row(compare("-t", "gaussian-3"), "hvae")[1]


def test_a_baseline_with_failures_is_compared_over_the_seeds_that_both_finished(records):
    found = of(records("-t", "gaussian-3", "--baseline", "hvae"), "vb", "gaussian-3")
    assert (found["difference_n"], found["difference_mean"]) == (8, pytest.approx(4.0))
    assert found["p_holm"] < 1e-9


def test_other_numbers_of_runs_than_usual_are_said(compare):
    text = compare()
    assert row(text, "vb")[1:3] == ["*2.00 ± 0.58", "*5.450 ± 0.096 (n = 10)"]
    assert "n = 3 to 10." in text


def test_wilcoxon_tells_nobody_apart_where_there_are_too_few_pairs(records, compare):
    few, enough = (
        records("--test", "wilcoxon", "-t", "gaussian-2"),
        records("--test", "wilcoxon", "-t", "gaussian-3", "--baseline", "vb"),
    )
    assert of(few, "hvae")["p_holm"] is None
    assert of(enough, "hvae", "gaussian-3")["p_holm"] == pytest.approx(2 / 2**8)


def test_few_seeds_are_warned_of(compare):
    assert "Fewer than 6 seeds somewhere" in compare("-t", "gaussian-2")
    assert "Fewer than 6 seeds" not in compare("-t", "gaussian-3")
    assert "Fewer than 20 seeds somewhere: the bootstrap's" in compare(
        "-t", "gaussian-3", "--interval", "bca"
    )


def test_the_exact_fit_has_a_row_of_its_own(records, compare):
    floor = records("--metric", "elbo_gap")["exact MLE", "", "gaussian-2"]
    assert (floor["mean"], floor["n"], floor["protocol"]) == (0.5, 3, None)
    text = compare("-t", "gaussian-2")
    assert row(text, "exact MLE") == ["exact MLE", "0.50 ± 0.29"]
    assert "exact MLE: the exact maximum-likelihood fit to the same data sets." in text
    assert "exact MLE" not in compare("-t", "gaussian-3")


def test_limits_are_rows(records, compare, tmp_path):
    workspace = filled_store.workspace_in(tmp_path)
    runs = expand(["vb"], ["gaussian-2"], range(3), "smoke")
    limits = {"mean_field_elbo_gap": 0.0, "volume_elbo_gap": 5.0, "mle_elbo_gap": 1.0}
    comparisons.store_runs(workspace, runs, lambda run: {"elbo_gap": 2.0 + run.spec.seed} | limits)
    text = compare(home=tmp_path)
    assert row(text, "exact MLE") == ["exact MLE", "1"]
    assert row(text, "best mean field") == ["best mean field", "0"]
    assert row(text, "best volume-preserving map") == ["best volume-preserving map", "5"]
    assert (
        "best volume-preserving map: elbo_gap of the best map by dimension, from the prior" in text
    )
    joined = compare("--one-table", home=tmp_path)
    assert row(joined, "best volume-preserving map") == ["best volume-preserving map", "5"]
    found = records(home=tmp_path)
    assert found["best volume-preserving map", "", "gaussian-2"]["mean"] == 5.0


def test_costs_are_steps_gradient_evaluations_and_seconds(records, compare):
    """hvae asks for the score at both ends of each of its ten steps, eleven times; training goes
    back through each, and the bound is differentiated once.
    """
    (run,) = expand(["hvae"], ["gaussian-2"], [0], "smoke")
    found = of(records(), "hvae")
    assert found["steps"] == run.spec.steps
    assert found["gradients"] == run.spec.steps * run.spec.particles * (2 * 11 + 1)
    assert of(records(), "vb")["gradients"] == run.spec.steps * run.spec.particles
    assert found["seconds"] == 2.5
    assert row(compare("-t", "gaussian-2"), "hvae")[2:] == [
        f"{run.spec.steps:,}",
        f"{found['gradients']:,}",
        "2.5 s",
    ]
    assert "gradients" not in compare("--no-costs")
    assert "No settings here were found by a tuning study of this workspace." in compare()


def test_ranks_across_tasks_take_a_failed_run_for_the_worst(compare):
    """On gaussian-3 two of hvae's ten runs failed, and eight are better than vb's."""
    text = compare("-m", "vb", "-m", "hvae", "--ranks").partition("mean ranks across tasks")[2]
    assert (row(text, "vb")[:2], row(text, "hvae")[:2]) == (["vb", "1.50"], ["hvae", "1.50"])
    (ranking,) = [
        json.loads(line)["ranking"]
        for line in compare("-m", "vb", "-m", "hvae", "--ranks", "--json").splitlines()[-1:]
    ]
    assert (ranking["names"], ranking["mean_ranks"], ranking["n_blocks"], ranking["p"]) == (
        ["hvae", "vb"],
        [1.5, 1.5],
        2,
        None,
    )


# What may stand in one column


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """One method trained in two ways, on a task scored in two ways; the same replicate of each."""
    workspace = filled_store.workspace_in(tmp_path_factory.mktemp("mixed"))
    for sets in (
        {},
        {"lr": "0.01234567"},
        {"task.objective": "released-flow"},
        {"eval_particles": "50"},
    ):
        comparisons.store_runs(workspace, expand(["vb"], ["gaussian-2"], range(2), "smoke", sets))
    comparisons.store_runs(workspace, expand(["vb"], ["gaussian-2"], range(2), "standard"))
    return workspace.home


def test_training_settings_label_rows_and_what_is_scored_splits_tables(compare, records, mixed):
    text = compare(home=mixed)
    titles = [line for line in text.splitlines() if line.startswith("elbo_gap (nats)")]
    assert len(titles) == 4
    assert sum("task.objective=released-flow" in title for title in titles) == 1
    assert sum(title.endswith("eval_particles=50") for title in titles) == 1
    assert (
        "In a table of its own because of task.objective, eval_particles: scores under other "
        "values are not comparable." in text
    )
    both = next(part for part in text.split("elbo_gap (nats)") if "lr=" in part)
    assert [row(both, name)[0] for name in ("vb  ", "vb lr")] == ["vb", "vb lr=0.01235"]
    assert {settings for _, settings, _ in records(home=mixed)} >= {"", "lr=0.01234567"}


def test_a_protocol_of_its_own_is_in_the_title_or_with_the_row(compare, mixed):
    assert "elbo_gap (nats), protocol standard" in compare("--protocol", "standard", home=mixed)


def test_a_row_is_named_as_it_is_shown_in_full_or_by_its_method_where_that_is_one(
    compare, records, mixed
):
    for name in ("vb lr=0.01235", "vb lr=0.01234567"):
        found = records("--baseline", name, "--protocol", "smoke", home=mixed)
        assert (
            found["vb", "", "gaussian-2"]["reference"] is None
            or found["vb", "", "gaussian-2"]["reference"] == "vb lr=0.01234567"
        )
    assert "differences from vb" in compare("--baseline", "vb", "--protocol", "smoke", home=mixed)


def test_a_baseline_that_is_several_rows_is_refused(compare, tmp_path):
    workspace = filled_store.workspace_in(tmp_path)
    comparisons.store_runs(
        workspace, expand(["hvae[n_leapfrog=1,5]"], ["gaussian-2"], [0], "smoke")
    )
    said = compare("--baseline", "hvae", home=tmp_path, status=2)
    assert said.count("\n") == 1
    assert (
        "'hvae' is 2 rows here: hvae n_leapfrog=1 (smoke); hvae n_leapfrog=5 (smoke). "
        "Say which one: --baseline 'hvae n_leapfrog=1 (smoke)'" in said
    )


# Nothing left


def test_a_row_of_which_everything_is_withdrawn_says_so(compare, records, tmp_path):
    workspace = filled_store.workspace_in(tmp_path)
    runs = expand(list(GAPS), ["gaussian-2"], range(3), "smoke")
    comparisons.store_runs(workspace, runs, gap)
    gone = [
        run.spec.key
        for run in runs
        if run.spec.method == "pnf" or (run.spec.method, run.spec.seed) == ("vb", 0)
    ]
    with ResultStore.open(workspace.database_url) as store:
        store.retractions.add(gone, "wrong Jacobian")
    assert of(records(home=tmp_path), "vb")["mean"] == 2.5
    page = compare("--format", "markdown", home=tmp_path)
    assert page.count("\\[a\\]") == page.count("\\[b\\]") == 2
    assert "| pnf | withdrawn \\[a\\] |" in page
    assert "- \\[a\\] 3 withdrawn, and in no mean: wrong Jacobian" in page
    assert "| vb | **2.50 ± 0.50 (n = 2)** \\[b\\] |" in page
    assert "n = 2 to 3" in page


def test_where_all_failed_there_is_no_mean_and_nothing_breaks(compare, records, tmp_path):
    workspace = filled_store.workspace_in(tmp_path)
    comparisons.store_runs(
        workspace, expand(["vb"], ["gaussian-2"], range(3), "smoke"), lambda run: "not finite"
    )
    comparisons.store_runs(
        workspace,
        expand(["iaf"], ["gaussian-2"], range(3), "smoke"),
        lambda run: {"elbo_gap": float("nan")},
    )
    found = records(home=tmp_path)
    assert (of(found, "vb")["failures"], of(found, "iaf")["failures"]) == (
        "3 diverged",
        "3 not finite",
    )
    assert (of(found, "vb")["n"], of(found, "vb")["mean"], of(found, "vb")["best"]) == (
        0,
        None,
        False,
    )
    text = compare("--differences", home=tmp_path)
    assert (row(text, "vb")[1], row(text, "iaf")[1]) == ("3/3 diverged", "3/3 not finite")
    assert "Nothing to compare with on gaussian-2: " in text


# What tuning took


def test_settings_that_tuning_found_say_what_that_took(compare, records, tmp_path):
    workspace = filled_store.workspace_in(tmp_path)
    tune = Tune.model_validate(
        {
            "methods": ["vb"],
            "tasks": ["gaussian-2"],
            "protocol": "smoke",
            "trials": 3,
            "report_seeds": "0-2",
        }
    )
    (search,) = searches(tune, "mine")
    with open_log(workspace.study_url, search) as log:
        log.check()
        for number, score in enumerate((1.0, 3.0, 2.0)):
            log.ask()
            comparisons.store_runs(workspace, search.runs(log.trials()[-1].params, search.seeds))
            log.tell(number, 0, "complete", score, {})
    (method,), (task,) = parse_selector("method", "vb"), parse_selector("task", "gaussian-2")
    preset = best_settings(workspace, "mine", range(3))
    comparisons.store_runs(workspace, expand(["vb"], ["gaussian-2"], range(3), None, {}, preset))
    comparisons.store_runs(workspace, expand(["vb", "iaf"], ["gaussian-2"], range(3), "smoke"))
    _, settings = preset(method, task)

    found = records(home=tmp_path)
    (tuned,) = [record for record in found.values() if record["tuning_runs"]]
    assert tuned["settings"] == f"lr={settings['lr']}"
    with (
        ResultStore.open(workspace.database_url) as store,
        read_log(workspace.study_url, search.record()) as log,
    ):
        spent = cost(search.record(), store, log.trials())
    (run, *_) = search.runs({}, [0])
    assert (tuned["tuning_runs"], tuned["tuning_steps"], tuned["tuning_seconds"]) == (
        9,
        9 * run.spec.steps,
        3 * 2.5,
    )
    assert tuned["tuning_gradients"] == spent.gradients == 9 * run.spec.steps * run.spec.particles
    text = compare(home=tmp_path)
    assert row(text, "vb lr=")[-1] == f"{spent.gradients:,} gradients, 7.5 s"
    assert (row(text, "iaf")[-1], row(text, "vb  ")[-1]) == ("-", "-")
    assert "Tuning: all trials of the search that found a row's settings; - where none did." in text


# What is refused


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--metric", "elbo_gab"], "No metric named 'elbo_gab'. Did you mean 'elbo_gap'?"),
        (["--baseline", "vbb"], "No row named 'vbb'. Did you mean 'vb'?"),
        (["-t", "mnist"], "There is no finished run with -t mnist"),
        (["--seeds", "99"], "no finished run with --seeds 99"),
        (["--format", "parquet"], "Say which file to write: -o FILE.parquet"),
        (["-o", "table.docx"], "Cannot tell the format of 'table.docx'"),
        (["--ranks", "--format", "csv"], "csv holds one record an entry and no ranks"),
        (
            ["--ranks", "--metric", "elbo_gap", "--metric", "theta_sq_error"],
            "Ranks are of one metric",
        ),
        (["--ranks", "--metric", "nothing"], "Neither high nor low values of 'nothing' are better"),
        (["--ranks", "-m", "vb"], "no two rows have a value in every column"),
        (
            ["--metric", "nothing", "-t", "gaussian-2"],
            "None of these runs has the metric 'nothing'",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line(compare, arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = compare(*arguments, status=2)
    assert says in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_was_run_or_nothing_has_finished_one_line_says_so(compare, tmp_path):
    said = compare(home=tmp_path, status=2)
    assert (
        said.count("\n"),
        "There are no runs here to compare. Make some: bench run" in said,
    ) == (1, True)
    workspace = filled_store.workspace_in(tmp_path)
    with ResultStore.open(workspace.database_url) as store:
        store.enqueue(expand(["vb"], ["gaussian-2"], range(2), "smoke"))
    said = compare(home=tmp_path, status=2)
    assert (said.count("\n"), "There is no finished run (2 not ended yet)" in said) == (1, True)


def test_a_metric_that_does_not_rank_makes_nobody_best_and_needs_a_baseline(compare, records):
    found = records("--metric", "nothing")
    assert not any(record["best"] for record in found.values())
    assert "every row has failed runs or the metric does not rank." in compare(
        "--metric", "nothing", "--differences"
    )
    assert (
        of(records("--metric", "nothing", "--baseline", "vb"), "hvae", "gaussian-3")[
            "difference_mean"
        ]
        == 0.0
    )


@pytest.mark.parametrize(
    "options", [[], ["--interval", "bca"], ["--test", "wilcoxon", "--differences"]]
)
def test_values_as_large_as_numbers_go_are_compared(compare, tmp_path, options):
    workspace = filled_store.workspace_in(tmp_path)
    huge = {"vb": 8e307, "iaf": -8e307, "hvae": 8e-308}
    runs = expand(list(huge), ["gaussian-2"], range(6), "smoke")
    comparisons.store_runs(
        workspace, runs, lambda run: {"elbo_gap": huge[run.spec.method] * (1 - run.spec.seed / 10)}
    )
    text = compare(*options, home=tmp_path)
    assert row(text, "iaf")[1].startswith("*")
    assert "e307" in row(text, "vb")[1]


def test_seeds_for_tuning_are_left_out_and_counted(compare, tmp_path):
    workspace = filled_store.workspace_in(tmp_path)
    comparisons.store_runs(workspace, expand(["vb"], ["gaussian-2"], [0, 1, 1000], "smoke"))
    assert "Left out: 1 run (seeds from 1000 on, which are for tuning)." in compare(home=tmp_path)
    assert "Left out: 2 runs (other seeds)." in compare("--seeds", "1000", home=tmp_path)


# For papers


@pytest.fixture
def alike(tmp_path):
    """Rows that share two settings, and differ in another."""
    workspace = filled_store.workspace_in(tmp_path)
    rows, shared = ["vb", "hvae[n_leapfrog=1,2]"], {"lr": "0.02", "steps": "400"}
    comparisons.store_runs(workspace, expand(rows, ["gaussian-2"], range(3), "smoke", shared))
    return workspace.home


def test_settings_of_all_rows_are_in_the_caption(compare, records, alike):
    text = compare("--notes", "short", home=alike)
    assert text.startswith("elbo_gap (nats), protocol smoke, lr=0.02, steps=400\n")
    assert row(text, "hvae n_leapfrog=2")
    assert row(text, "vb  ")
    assert row(compare("-m", "vb", home=alike), "vb lr=0.02 steps=400")
    assert {settings for _, settings, _ in records(home=alike)} == {
        f"{first}lr=0.02 steps=400" for first in ("", "n_leapfrog=1 ", "n_leapfrog=2 ")
    }
    assert row(compare("--baseline", "vb lr=0.02 steps=400", home=alike), "vb  ")


def test_short_notes_say_what_a_caption_needs(compare):
    text = compare("--notes", "short", "-t", "gaussian-2")
    assert text.splitlines()[-5:] == [
        "Means over seeds ± standard error; n = 3.",
        "Lower is better.",
        "Where rows share fewer than 6 seeds the best mean alone is bold, "
        "and nothing is claimed of it.",
        "*: bold.",
        "",
    ]


def test_one_table_has_the_cells_of_all(compare, records):
    metrics = ("--metric", "elbo_gap", "--metric", "theta_sq_error")
    text = compare(*metrics, "--one-table", "--notes", "short")
    heading = row(text, "method")
    assert heading[1:] == [
        "gaussian-2, elbo_gap",
        "gaussian-3, elbo_gap",
        "gaussian-3, theta_sq_error",
    ]
    alone = compare("--metric", "elbo_gap")
    for method in GAPS:
        assert row(text, method)[1:3] == row(alone, method)[1:3]
    assert row(text, "iaf") == ["iaf", "3.0 ± 1.2", "-", "-"]
    assert row(text, "exact MLE") == ["exact MLE", "0.50 ± 0.29"]
    assert "Lower is better.\n" in text
    one_task = compare("--metric", "elbo_gap", "--one-table", "-t", "gaussian-3")
    assert one_task.startswith("elbo_gap (nats), gaussian-3, protocol smoke\n")
    assert row(one_task, "method") == ["method", "gaussian-3"]


def test_one_table_of_what_was_scored_apart_says_so_in_its_headings(compare, mixed):
    text = compare("--one-table", "--protocol", "smoke", home=mixed)
    assert row(text, "method") == [
        "method",
        "task.objective=exact, eval_particles=500",
        "task.objective=exact, eval_particles=50",
        "task.objective=released-flow, eval_particles=500",
    ]


def test_marks_of_one_table_are_lettered_anew(compare, tmp_path):
    workspace = filled_store.workspace_in(tmp_path)
    runs = expand(["vb"], ["gaussian-2", "gaussian-3"], range(2), "smoke")
    comparisons.store_runs(
        workspace, runs, lambda run: {"log_evidence": 1.0, "elbo": 1.0, "pareto_k": 0.9}
    )
    text = compare(
        "--metric", "elbo", "--metric", "log_evidence", "--one-table", "--notes", "short",
        home=tmp_path,
    )  # fmt: skip
    assert row(text, "vb")[1:] == ["*1", "*1", "*≥ 1 [a]", "*≥ 1 [a]"]
    assert "[a] Pareto k is above 0.7 in some of these runs" in text


def test_labels_are_for_latex(compare):
    options = ("--format", "latex", "--label", "tab:gaps")
    assert "\\label{tab:gaps}\n" in compare(*options, "--one-table")
    text = compare(*options, "--metric", "elbo_gap", "--metric", "theta_sq_error")
    assert text.index("\\caption") < text.index("\\label{tab:gaps}")
    assert "\\label{tab:gaps-2}" in text
    assert "\\label" not in compare("--format", "latex")
    refused = {
        ("--label", "tab:gaps"): "table has no labels",
        ("--label", "a}b", "--format", "latex"): "'a}b' is no label of LaTeX",
        ("--one-table", "--differences"): "holds means alone",
        ("--one-table", "--json"): "json holds one record an entry",
    }
    for arguments, message in refused.items():
        assert message in compare(*arguments, status=2)
