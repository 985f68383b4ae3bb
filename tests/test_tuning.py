"""Tuning: spaces, samplers, pruners, honesty, and studies that are killed and go on."""

from __future__ import annotations

import itertools
import json
import math
import random

import numpy as np
import optuna
import pytest
from conftest import json_lines
from mlflow import MlflowClient
from scipy import stats

from harness.analysis.statistics import t_interval
from harness.base.errors import UsageError
from harness.base.workspace import Workspace
from harness.plan.grid import parse_selector
from harness.plan.registry import find
from harness.plan.tune_options import Tune
from harness.store import ResultStore
from harness.tuning.coordinator import stages
from harness.tuning.result import best_of
from harness.tuning.search import run_keys, searches, short_name
from harness.tuning.space import Column, Dimension, space
from harness.tuning.trials import TrialLog, open_log, read_log, stored_searches

pytestmark = pytest.mark.usefixtures("no_mirror")

SMALL = [
    "-m",
    "hvae",
    "-t",
    "gaussian-2",
    "--protocol",
    "smoke",
    "--set",
    "steps=40",
    "--report-seeds",
    "0-2",
]


def asked(**fields):
    values = {
        "methods": ["hvae"],
        "tasks": ["gaussian-2"],
        "protocol": "smoke",
        "trials": 4,
        "set": {"steps": "40"},
    }
    return Tune.model_validate(values | fields)


def column(method="hvae", task="gaussian-2", **shared):
    (one,), (other,) = parse_selector("method", method), parse_selector("task", task)
    return Column(one, other, "smoke", shared)


# Spaces


def test_without_a_space_the_declared_real_numbers_that_have_an_effect_are_tuned():
    assert [one.address for one in space(column(), [])] == [
        "method.max_step",
        "method.init_step",
        "method.init_T0",
        "lr",
    ]
    assert [one.address for one in space(column("hvae-untempered"), [])] == [
        "method.max_step",
        "method.init_step",
        "lr",
    ]
    free = space(column("hvae[tempering=free]"), [])
    assert "method.init_factor" in [one.address for one in free]
    assert "method.init_T0" not in [one.address for one in free]


def test_a_space_is_read_as_the_fields_read_values():
    found = space(
        column(),
        [
            "lr=1e-3:1e-1:log",
            "particles=1,10",
            "method.n_leapfrog=1:5",
            "batch_size",
            "method.tempering=fixed,none",
        ],
    )
    assert found[0] == Dimension("lr", 1e-3, 1e-1, True)
    assert found[1].choices == (1, 10)
    assert (found[2].low, found[2].high) == (1, 5)
    assert isinstance(found[2].low, int)
    assert (found[3].low, found[3].high, found[3].log) == (16, 1024, True)
    assert found[4].choices == ("fixed", "none")


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["lr=1e-1:1e-3"], "Write the smaller number first: lr=1e-3:1e-1"),
        (["lr=0.1:0.1"], "Write the smaller number first"),
        (["method.n_leap=1:2"], "Did you mean 'method.n_leapfrog'"),
        (["n_leapfrog"], "Did you mean 'method.n_leapfrog'"),
        (["steps=10:20"], "No field that can be tuned named 'steps'"),
        (["task.n_data=10:20"], "No field that can be tuned named 'task.n_data'"),
        (["clip_norm"], "'clip_norm' declares no range"),
        (["method.tempering=fixed:none"], "are not numbers"),
        (["lr=-1:1"], "lr=-1 is not allowed"),
        (["clip_norm=1:2:cubic"], "Cannot read 'clip_norm=1:2:cubic'"),
        (["lr="], "Cannot read 'lr='"),
        (["lr", "lr=1e-3:1e-2"], "'lr' is in the space twice"),
    ],
)
def test_a_space_that_is_not_one_is_refused(texts, says):
    with pytest.raises(UsageError, match=r"^[^\n]*$") as caught:
        space(column(), texts)
    assert says in str(caught.value)


def test_what_is_tuned_cannot_be_set_too():
    with pytest.raises(UsageError, match="'lr' is tuned and set"):
        space(column(lr="0.1"), ["lr"])


def test_an_empty_space_is_refused(bench):
    result = bench("tune", "-m", "vb", "-t", "gaussian-2", "--set", "lr=0.1", "--space", " ")
    assert result.exit_code == 2
    assert "No field that can be tuned named ''" in result.stderr


@pytest.mark.parametrize(
    ("option", "says"), [("--sampler", "No sampler named 'x'"), ("--pruner", "No pruner named 'x'")]
)
def test_an_unknown_sampler_or_pruner_is_one_line(option, says, bench, workspace):
    result = bench("tune", "-m", "vb", "-t", "gaussian-2", option, "x")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert says in result.stderr
    assert list(workspace.iterdir()) == []


def test_points_of_a_grid():
    assert Dimension("lr", 1e-3, 1e-1, True).points(3) == pytest.approx(
        [1e-3, 1e-2, 1e-1], rel=1e-12
    )
    assert Dimension("k", 1, 4).points(4) == [1, 2, 3, 4]
    assert Dimension("k", 1, 2).points(5) == [1, 2]
    (search,) = searches(asked(sampler="grid", space=["lr", "particles=1,10"], trials=9), "s")
    assert {name: len(values) for name, values in search.grid().items()} == {
        "lr": 4,
        "particles": 2,
    }
    assert search.n_trials == 8


# Searches


def test_seeds_that_are_tuned_on_are_not_reported_on():
    with pytest.raises(UsageError, match="Seed 5 is tuned on and reported on"):
        searches(asked(seeds="5-7", report_seeds="0-5"), "s")


@pytest.mark.parametrize("metric", ["sigma_sq_error", "elbo_gap", "nonsense"])
def test_only_scores_that_see_no_truth_can_be_tuned(metric):
    with pytest.raises(UsageError, match=f"'{metric}' cannot be tuned on gaussian.*are elbo"):
        searches(asked(metric=metric), "s")


def test_test_scores_cannot_be_tuned_on_images():
    with pytest.raises(UsageError, match=r"'nll' cannot be tuned on digits.*are validation_elbo"):
        searches(asked(metric="nll", tasks=["digits"], set={}), "s")


def test_the_name_of_a_study_without_a_file_follows_what_must_stay_the_same():
    assert short_name(asked(), {}) == short_name(asked(trials=9, report_seeds="0-3"), {})
    assert short_name(asked(), {}) != short_name(asked(), {"steps": "41"})
    assert short_name(asked(), {}).startswith("hvae-gaussian-2-")


def test_rungs_and_stages():
    (search,) = searches(asked(pruner="median", set={"steps": "90"}), "s")
    assert search.rungs() == [10, 30]
    assert [(stage.until, stage.at) for stage in stages(search)] == [(10, 10), (30, 30), (None, 90)]
    (search,) = searches(asked(pruner="wilcoxon"), "s")
    assert [(stage.seeds, stage.until) for stage in stages(search)] == [
        ([1000], None),
        ([1001], None),
        ([1002], None),
    ]


# The log


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'studies.db'}"


def told(log: TrialLog, number: int, outcome: str = "complete", score: float | None = None) -> None:
    log.tell(number, 0, outcome, score, {})


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "grid"])
def test_a_study_that_is_opened_anew_before_each_trial_asks_for_the_same(sampler, tmp_path):
    (search,) = searches(asked(sampler=sampler, trials=16, space=["lr", "method.init_step"]), "s")

    def trials(name, reopen):
        url, n = f"sqlite:///{tmp_path / name}.db", 13
        if not reopen:
            with open_log(url, search) as log:
                log.check()
                for number in range(n):
                    log.ask()
                    told(
                        log,
                        number,
                        *(
                            ("diverged", None)
                            if number % 5 == 4
                            else ("complete", -abs(math.log(log.trials()[-1].params["lr"] / 0.01)))
                        ),
                    )
                return log.trials()
        for number in range(n):
            with open_log(url, search) as log:
                log.check()
                log.ask()
            with open_log(url, search) as log:
                told(
                    log,
                    number,
                    *(
                        ("diverged", None)
                        if number % 5 == 4
                        else ("complete", -abs(math.log(log.trials()[-1].params["lr"] / 0.01)))
                    ),
                )
        with read_log(url, search.record()) as log:
            return log.trials()

    one, other = trials("one", False), trials("other", True)
    assert one == other
    assert len({json.dumps(trial.params) for trial in one}) == len(one)


def test_what_diverges_steers_tpe_away_and_no_number_that_is_not_finite_reaches_optuna(url):
    (search,) = searches(asked(trials=60, space=["lr=1e-4:1:log"]), "s")
    with open_log(url, search) as log:
        for number in range(60):
            log.ask()
            lr = log.trials()[-1].params["lr"]
            told(
                log,
                number,
                *(("diverged", None) if lr > 1e-2 else ("complete", -abs(math.log(lr / 1e-3)))),
            )
        trials = log.trials()
        for frozen in log.study.get_trials(deepcopy=False):
            assert (frozen.value is None) == (frozen.user_attrs["bench.outcome"] == "diverged")
    late = [trial.outcome for trial in trials[-20:]]
    assert late.count("diverged") <= 5, "half of the range of lr diverges"
    assert best_of(trials).params["lr"] == pytest.approx(1e-3, rel=0.5)


def test_an_optuna_of_ones_own_opens_the_log(url):
    (search,) = searches(asked(), "s")
    with open_log(url, search) as log:
        log.check()
        log.ask()
        told(log, 0, score=1.5)
    loaded = optuna.load_study(storage=url, study_name=search.name)
    assert loaded.best_value == 1.5
    assert loaded.best_params == log.trials()[0].params


def test_two_coordinators_of_one_study(url):
    (search,) = searches(asked(), "s")
    (other,) = searches(asked(methods=["vb"]), "s")
    with open_log(url, search):
        with (
            pytest.raises(UsageError, match="Another process is tuning 's/hvae/gaussian-2'"),
            open_log(url, search),
        ):
            pass
        with open_log(url, other):
            pass


def test_two_coordinators_of_one_study_on_a_server(postgres_database):
    (search,) = searches(asked(), "s")
    url = postgres_database()
    with open_log(url, search) as log:
        log.check()
        log.ask()
        with pytest.raises(UsageError, match="Another process is tuning"), open_log(url, search):
            pass
    with open_log(url, search) as log:
        assert len(log.trials()) == 1


def test_a_study_that_has_changed_is_refused_with_the_difference(url):
    (search,), (changed,) = (
        searches(asked(), "s"),
        searches(asked(space=["lr=1e-3:1e-1:log"], seeds="1000"), "s"),
    )
    (more,) = searches(asked(trials=9, report_seeds="0-4"), "s")
    with open_log(url, search) as log:
        log.check()
        log.ask()
    with (
        open_log(url, changed) as log,
        pytest.raises(UsageError, match="has changed since its first trial") as caught,
    ):
        log.check()
    assert "\n" not in str(caught.value)
    assert "space.lr was {'high': 0.1, 'log': True, 'low': 0.0001} and is {" in str(caught.value)
    with open_log(url, more) as log:
        log.check()
    assert [one.total for one in stored_searches(url, "s")] == [9]


# Pruners


def finished(log, search, number, outcome, reports, score=None):
    log.ask()
    log.tell(number, number, outcome, score, reports)


def test_the_median_pruner_sees_trials_of_earlier_rounds_only(url):
    (search,) = searches(asked(pruner="median", set={"steps": "90"}), "s")
    with open_log(url, search) as log:
        for number in range(6):
            finished(
                log,
                search,
                number,
                "complete",
                {10: float(number), 30: float(number), 90: float(number)},
                float(number),
            )
        log.ask()
        log.ask()
        assert log.prunes(6, 6, {10: 1.0})[0]
        assert not log.prunes(6, 6, {10: 4.0})[0]
        log.tell(6, 6, "pruned", None, {10: 1.0})
        assert log.prunes(7, 6, {10: 2.0})[0] == log.prunes(7, 7, {10: 2.0})[0]
        assert not log.prunes(7, 3, {10: 0.0})[0], "three trials are too few for a median"


@pytest.mark.parametrize("pruner", ["hyperband", "wilcoxon", "median"])
def test_a_pruners_verdict_is_the_same_when_asked_again(pruner, url):
    (search,) = searches(
        asked(pruner=pruner, set={"steps": "90"}, seeds="1000-1007", trials=20), "s"
    )
    draw = random.Random(1)
    steps = [stage.at for stage in stages(search)]
    with open_log(url, search) as log:
        outcomes = []
        for number in range(16):
            log.ask()
            level, reports, pruned = draw.gauss(0, 1), {}, False
            for step in steps:
                reports[step] = level + draw.gauss(0, 0.1)
                pruned = step != steps[-1] and log.prunes(number, number // 2 * 2, reports)[0]
                assert (
                    step == steps[-1] or pruned == log.prunes(number, number // 2 * 2, reports)[0]
                )
                if pruned:
                    break
            outcomes.append("pruned" if pruned else "complete")
            log.tell(number, number // 2 * 2, outcomes[-1], None if pruned else level, reports)
    assert "pruned" in outcomes
    assert "complete" in outcomes


# Whole studies


def test_a_search_with_a_failed_run_has_its_winner_and_does_not_exit_with_0(bench, monkeypatch):
    cls = find("method", "hvae").cls
    init, calls = cls.init, itertools.count()

    def fails_once(self, *arguments, **named):
        if next(calls) == 3:
            raise ArithmeticError("the sky fell")
        return init(self, *arguments, **named)

    monkeypatch.setattr(cls, "init", fails_once)
    result = bench("tune", *SMALL, "--trials", "2", "--json")
    (shown,) = json_lines(result)
    assert (shown["counts"], shown["best"]["score"] is None, result.exit_code) == (
        {"complete": 1, "failed": 1},
        False,
        3,
    )


def test_tuning_ends_with_a_winner_on_other_seeds(bench, workspace):
    result = bench("tune", *SMALL, "--trials", "4", "--json")
    (shown,) = json_lines(result)
    assert result.exit_code == 0
    assert shown["counts"] == {"complete": 4}
    assert shown["cost"]["runs"] == 12
    store = ResultStore.open(Workspace.current().database_url)
    (name,) = {line.split()[1] for line in result.stderr.splitlines() if line.startswith("study ")}
    with store:
        (search,) = stored_searches(Workspace.current().study_url, name)
        with read_log(Workspace.current().study_url, search) as log:
            best = best_of(log.trials())
        assert best.params == shown["best"]["settings"]

        def scores_of(spec, seeds):
            metrics = store.metrics(run_keys(spec, seeds))
            return [metrics[key]["elbo"].value for key in run_keys(spec, seeds)]

        scores, default = scores_of(best.spec, [0, 1, 2]), scores_of(search.default_spec, [0, 1, 2])
        tuned = scores_of(best.spec, [1000, 1001, 1002])
        default_then = scores_of(search.default_spec, [1000, 1001, 1002])
    assert shown["tuned"]["mean"] == pytest.approx(sum(scores) / 3, rel=1e-12)
    assert shown["best"]["score"] == pytest.approx(sum(tuned) / 3, rel=1e-12)
    seen, gains = (
        np.subtract(first, second) for first, second in ((tuned, default_then), (scores, default))
    )
    assert shown["tuning_gain"]["mean"] == pytest.approx(seen.mean(), rel=1e-9)
    assert shown["optimism_gap"] == pytest.approx(seen.mean() - gains.mean(), rel=1e-9)
    width = shown["optimism"]["high"] - shown["optimism"]["low"]
    assert width == pytest.approx(shown["gain"]["high"] - shown["gain"]["low"], rel=1e-9)
    by_scipy = stats.ttest_rel(scores, default).confidence_interval()
    assert (shown["gain"]["low"], shown["gain"]["high"]) == pytest.approx(
        (by_scipy.low, by_scipy.high), rel=1e-9
    )

    again = bench("tune", *SMALL, "--trials", "4", "--json")
    assert json_lines(again) == [shown]
    assert "  trial" not in again.stderr, "nothing is left to do"
    listed = json_lines(
        bench("study", "show", name, "--json", "--figures", str(workspace / "figures.html"))
    )
    assert [trial["number"] for trial in listed] == [0, 1, 2, 3]
    page = (workspace / "figures.html").read_text()
    assert page.count('<article class="figure"') == 5
    assert "<script src" not in page
    assert "<link" not in page
    assert json_lines(bench("study", "best", name, "--json")) == [shown]
    assert f"best trial {shown['best']['trial']}" in bench("study", "status", name).stdout

    plan = json_lines(
        bench("run", "-m", "hvae", "-t", "gaussian-2", "--preset", name, "--dry-run", "--json")
    )
    assert all(plan[0]["settings"][address] == value for address, value in best.params.items())
    assert plan[0]["spec"]["steps"] == 40
    told = json_lines(bench("run", "-m", "hvae", "-t", "gaussian-2", "--preset", name, "--json"))
    assert told[0]["outcome"] == "hit", "it is the winner's run"
    refused = bench("run", "-m", "hvae", "-t", "gaussian-2", "--preset", name, "--seeds", "1001")
    assert refused.exit_code == 2
    assert "Seed 1001 was tuned on" in refused.stderr
    other = bench("run", "-m", "vb", "-t", "gaussian-2", "--preset", name)
    assert other.exit_code == 2
    assert f"'{name}' did not tune vb on gaussian" in other.stderr


def test_pruned_trials_stop_on_the_way_and_go_on_where_they_are_asked_for(bench, workspace):
    (workspace / "mine.yaml").write_text(
        "summary: S.\ntune:\n  methods: [vb]\n  tasks: [gaussian-2]\n  protocol: smoke\n  set: "
        "{steps: 90}\n"
        '  space: ["lr=1e-5:1e-1:log"]\n  trials: 14\n  seeds: 1000\n  report_seeds: 0-1\n  '
        "pruner: median\n"
    )
    (shown,) = json_lines(bench("study", "run", "mine.yaml", "--json"))
    assert shown["counts"]["pruned"] > 0
    trials = json_lines(bench("study", "show", "mine.yaml", "--json"))
    pruned = next(trial for trial in trials if trial["outcome"] == "pruned")
    lr = repr(pruned["params"]["lr"])
    cell = [
        "run",
        "-m",
        "vb",
        "-t",
        "gaussian-2",
        "--protocol",
        "smoke",
        "--set",
        "steps=90",
        "--set",
        f"lr={lr}",
        "--seeds",
        "1000",
        "--json",
    ]
    key = json_lines(bench(*cell, "--dry-run"))[0]["key"]
    (stopped,) = json_lines(bench("show", key, "--json"))
    assert stopped["status"] == "pruned"
    assert stopped["step"] in (10, 30)
    assert "median pruner" in stopped["reason"]
    (whole,) = json_lines(bench(*cell))
    assert (whole["status"], whole["outcome"], whole["step"]) == ("done", "resumed", 90)
    fresh = json_lines(bench(*cell, "--rerun"))[0]
    assert fresh["metrics"] == whole["metrics"], "stopping changes no bit"


def test_a_pruner_that_looks_before_there_is_a_number_lets_the_trial_go_on(bench, workspace):
    (workspace / "mine.yaml").write_text(
        "summary: S.\ntune:\n  methods: [vb]\n  tasks: [digits]\n  protocol: smoke\n  set: "
        "{steps: 18, validate_every: 9}\n"
        "  space: [lr]\n  trials: 2\n  seeds: 1000\n  report_seeds: 0\n  pruner: median\n"
    )
    (shown,) = json_lines(
        bench("study", "run", "mine.yaml", "--json")
    )  # it looks at steps 2 and 6; the first look at validation is 9
    assert shown["counts"] == {"complete": 2}


def test_a_preset_is_the_winners_whole_setting(bench, workspace):
    (workspace / "mine.yaml").write_text(
        'summary: S.\ntune:\n  methods: ["hvae[n_leapfrog=2,3]", vb]\n  tasks: [gaussian-2]\n  '
        "protocol: smoke\n  set: {steps: 20}\n"
        "  space: [lr]\n  trials: 1\n  seeds: 1000\n  report_seeds: 0\n"
    )
    bench("study", "run", "mine.yaml")
    command = ["run", "-t", "gaussian-2", "--preset", "mine", "--dry-run", "--json"]
    (plan,) = json_lines(bench(*command, "-m", "hvae[n_leapfrog=3]"))
    assert (plan["spec"]["method_fields"]["n_leapfrog"], plan["spec"]["steps"]) == (3, 20)
    several = bench(*command, "-m", "hvae")
    assert several.exit_code == 2
    assert "tuned several settings of hvae on gaussian" in several.stderr
    (workspace / "one.yaml").write_text(
        (workspace / "mine.yaml").read_text().replace("=2,3]", "=2]")
    )
    bench("study", "run", "one.yaml")
    (plan,) = json_lines(
        bench("run", "-t", "gaussian-2", "--preset", "one", "--dry-run", "--json", "-m", "hvae")
    )
    assert plan["spec"]["method_fields"]["n_leapfrog"] == 2, "it is the winner's, not the default"


def test_a_setting_that_diverges_is_a_trial_that_diverged(bench, workspace):
    (workspace / "mine.yaml").write_text(
        "summary: S.\ntune:\n  methods: [hvae-untempered]\n  tasks: [gaussian-2]\n  protocol: "
        "smoke\n  set: {steps: 60, clip_norm: none}\n"
        '  space: ["lr=0.01,1e6"]\n  sampler: grid\n  trials: 2\n  report_seeds: 0-1\n'
    )
    result = bench("study", "run", "mine.yaml", "--json")
    (shown,) = json_lines(result)
    assert shown["counts"] == {"complete": 1, "diverged": 1}
    assert shown["best"]["settings"] == {"lr": 0.01}
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "sampler: cmaes",
            "mine.yaml, line 5, tune.sampler: input should be 'tpe', 'gp', 'random' or 'grid'",
        ),
        ("pruner: percentile", "line 5, tune.pruner"),
        ("metric: accuracy", "'accuracy' cannot be tuned on gaussian"),
        ("trials: 0", "line 5, tune.trials"),
        ('space: ["lr=1:0.1"]', "The range of 'lr' runs from 1 to 0.1"),
        ("spaces: [lr]", "No field of tune named 'spaces'. Did you mean 'space'?"),
        ("seeds: 0-3", "Seed 0 is tuned on and reported on"),
    ],
)
def test_a_tuning_study_that_is_not_one_is_refused(line, says, bench, workspace):
    (workspace / "mine.yaml").write_text(
        f"summary: S.\ntune:\n  methods: [vb]\n  tasks: [gaussian-2]\n  {line}\n"
    )
    result = bench("study", "run", "mine.yaml")
    assert result.exit_code == 2
    assert says.lower() in result.stderr.lower()
    assert result.stderr.count("\n") == 1
    assert not (workspace / "studies.db").exists()
    assert not (workspace / "bench.db").exists()


def test_grids_and_tune_exclude_one_another(bench, workspace):
    (workspace / "mine.yaml").write_text("summary: S.\n")
    assert "either grids or tune" in bench("study", "show", "mine.yaml").stderr
    assert "has no trials" in bench("study", "run", "smoke", "--trials", "3").stderr
    assert "is not a tuning study" in bench("study", "best", "smoke").stderr


def test_time_for_all_trials_together_ends_without_telling_one_that_is_not_done(bench, workspace):
    command = [
        "tune",
        *SMALL,
        "--set",
        "steps=800",
        "--trials",
        "2",
        "--seeds",
        "1000",
        "--report-seeds",
        "0",
    ]
    stopped = bench(*command, "--total-time-limit", "0.05s", "--json")
    assert stopped.exit_code == 3
    assert "The time is over" in stopped.stderr
    assert json_lines(stopped)[0]["counts"] == {"going": 1}
    (shown,) = json_lines(bench(*command, "--json"))
    assert shown["counts"] == {"complete": 2}
    refused = bench(*command, "--time-limit", "1s")
    assert refused.exit_code == 2
    assert "--total-time-limit" in refused.stderr


@pytest.mark.mirror
def test_mlflow_shows_a_search_over_the_runs_of_its_trials(bench, workspace):
    result = bench("tune", *SMALL, "--trials", "2", "--seeds", "1000", "--json")
    assert result.exit_code == 0, result.stderr
    (shown,) = json_lines(result)
    for _ in range(2):  # saying it twice changes nothing
        client = MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
        runs = client.search_runs([client.get_experiment_by_name("gaussian-2").experiment_id])
        (parent,) = [run for run in runs if "bench.search" in run.data.tags]
        children = [
            run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
        ]
        assert sorted(run.data.tags["trial"] for run in children) == ["0", "1"]
        assert {run.data.params["seed"] for run in children} == {"1000"}
        assert parent.data.metrics["best_score"] == shown["best"]["score"]
        assert parent.data.metrics["optimism_gap"] == shown["optimism_gap"]
        assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {
            "figures.html",
            "result.json",
        }
        bench("tune", *SMALL, "--trials", "2", "--seeds", "1000", "--json")


# Statistics


@pytest.mark.parametrize("n", [2, 3, 10])
def test_intervals_are_scipys(n):
    draw = random.Random(n)
    one, other = ([draw.gauss(3, 2) for _ in range(n)] for _ in range(2))
    found, by_scipy = t_interval(one), stats.ttest_1samp(one, 0.0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((by_scipy.low, by_scipy.high), rel=1e-12)
    assert found.se == pytest.approx(stats.sem(one), rel=1e-12)
    both = stats.ttest_rel(one, other).confidence_interval()
    found = t_interval([a - b for a, b in zip(one, other, strict=True)])
    assert (found.low, found.high) == pytest.approx((both.low, both.high), rel=1e-10)
    assert math.isnan(t_interval([1.0]).low)
