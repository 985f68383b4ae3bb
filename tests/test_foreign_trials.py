"""Optuna studies that others write in as well: trials enqueued, added, asked for and told by hand,
and studies of the same name.
"""

from __future__ import annotations

import math
import sqlite3

import optuna
import pytest
from conftest import json_lines
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from harness.base.workspace import Workspace
from harness.tuning.search import run_keys
from harness.tuning.trials import read_log, stored_searches

pytestmark = pytest.mark.usefixtures("no_mirror")

LR = FloatDistribution(1e-4, 1e-1, log=True)
STUDY = """summary: S.
tune:
  methods: [vb]
  tasks: [gaussian-2]
  protocol: smoke
  set: {{steps: 20, eval_particles: 50}}
  space: [lr, "particles=1,10"]
  trials: {trials}
  seeds: 1000-1001
  report_seeds: 0-1
  sampler: {sampler}
"""
NAME = "mine/vb/gaussian-2"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, workspace, monkeypatch):
    """The database of studies."""
    if request.param == "sqlite":
        return Workspace.current().study_url
    address = request.getfixturevalue("postgres_database")()
    monkeypatch.setenv("BENCH_STUDY_URL", address)
    return address.replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture
def local(workspace):
    """A database of studies in the workspace."""
    return Workspace.current().study_url


@pytest.fixture
def tune(bench, workspace):
    """Go on with the study: its verdict, what was said on the way, and the exit status."""

    def call(trials: int = 2, sampler: str = "tpe", status: int = 0):
        (workspace / "mine.yaml").write_text(STUDY.format(trials=trials, sampler=sampler))
        result = bench("study", "run", "mine.yaml", "--json")
        assert result.exit_code == status, result.stderr
        return json_lines(result)[0], result.stderr

    return call


@pytest.fixture
def trials(bench, workspace):
    """The trials as `bench study show` prints them, by number."""
    return lambda: {
        trial["number"]: trial
        for trial in json_lines(bench("study", "show", "mine.yaml", "--json"))
    }


_opened: list[RDBStorage] = []


@pytest.fixture(autouse=True)
def _closed():
    """Nothing is left open."""
    yield
    while _opened:
        storage = _opened.pop()
        storage.remove_session()
        storage.engine.dispose()


def theirs(url: str, name: str = NAME) -> optuna.Study:
    """The study, opened by another program."""
    _opened.append(RDBStorage(url))
    return optuna.load_study(storage=_opened[-1], study_name=name)


def test_what_others_do_in_a_study_is_run_or_named_and_never_wins(
    url, tune, trials, bench, workspace
):
    first, _ = tune(2)
    assert first["counts"] == {"complete": 2}
    study = theirs(url)
    study.add_trial(
        create_trial(params={"lr": 0.01, "particles": 1}, distributions=_distributions(), value=1e9)
    )  # 2
    study.add_trials(theirs(url).get_trials()[:1])  # 3, a copy of ours
    study.ask()  # 4, and nobody tells
    study.tell(study.ask(_distributions()), 2e9)  # 5
    study.ask(_distributions())  # 6, as bench itself asks
    study.enqueue_trial({"lr": 0.05, "particles": 10})  # 7
    study.enqueue_trial({"particles": 1})  # 8, which leaves lr open
    study.enqueue_trial({"learning_rate": 1.0})  # 9
    study.enqueue_trial({"lr": 5.0})  # 10
    study.enqueue_trial({"lr": "high"})  # 11
    verdict, said = tune(2)
    assert (
        said.count("  trial 6 of") == said.count("  trial 7 of") == said.count("  trial 8 of") == 1
    )
    assert verdict["left_out"].keys() == {"2", "4", "5", "9", "10", "11"}
    assert "another program ended it" in verdict["left_out"]["2"]
    assert "'learning_rate' is not tuned here" in verdict["left_out"]["9"]
    assert verdict["left_out"]["10"] == "lr=5.0 is outside the space"
    shown = trials()
    assert {number: trial["outcome"] for number, trial in shown.items()} == dict.fromkeys(
        [0, 1, 3, 6, 7, 8], "complete"
    )
    assert shown[7]["params"] == {"lr": 0.05, "particles": 10}
    assert shown[8]["params"]["particles"] == 1
    assert 1e-4 <= shown[8]["params"]["lr"] <= 1e-1
    assert verdict["best"]["score"] == max(trial["score"] for trial in shown.values()) < 0
    again, said = tune(2)
    assert (again, "  trial" in said) == (verdict, False)
    more, _ = tune(8)
    assert more["counts"] == {"complete": 8}
    plan = json_lines(
        bench("run", "-m", "vb", "-t", "gaussian-2", "--preset", "mine", "--dry-run", "--json")
    )
    assert plan[0]["spec"]["lr"] == more["best"]["settings"]["lr"]
    assert "trial 2 is left out: another program" in bench("study", "status", "mine.yaml").stdout
    assert bench("study", "show", "mine.yaml", "--figures", "f.html").exit_code == 0
    assert bench("compare").exit_code == bench("report").exit_code == 0


def _distributions():
    return {"lr": LR, "particles": CategoricalDistribution((1, 10))}


def test_a_copy_from_another_study_has_no_score_here(local, tune, bench, workspace):
    tune(2)
    study = theirs(local)
    (workspace / "other.yaml").write_text(
        STUDY.format(trials=1, sampler="random").replace("steps: 20", "steps: 40")
    )
    assert bench("study", "run", "other.yaml").exit_code == 0
    other = theirs(local, NAME.replace("mine", "other"))
    forged = create_trial(
        params={"lr": 0.09, "particles": 1},
        distributions=_distributions(),
        value=1e9,
        user_attrs={"bench.outcome": "complete"},
    )
    study.add_trial(forged)
    study.add_trials(other.get_trials())
    verdict, _ = tune(3)
    assert verdict["left_out"] == {
        "2": "the result database has no score of it",
        "3": "it was copied from the study 'other/vb/gaussian-2'",
    }
    assert verdict["counts"] == {"complete": 3, "not measured": 1}
    assert verdict["best"]["score"] < 0


def test_scores_come_from_the_result_database(local, tune, bench):
    first, _ = tune(3)
    (search,) = stored_searches(Workspace.current().study_url, "mine")
    with sqlite3.connect(Workspace.current().home / "studies.db") as database:
        database.execute("UPDATE trial_values SET value = 1e9")
    database.close()
    verdict, _ = tune(3)
    assert verdict["best"] == first["best"]
    with read_log(local, search) as log:
        key = run_keys(log.trials()[first["best"]["trial"]].spec, search.seeds)[0]
    assert bench("invalidate", key, "--reason", "a test").exit_code == 0
    verdict, _ = tune(3)
    assert verdict["best"]["trial"] != first["best"]["trial"]
    assert verdict["counts"] == {"complete": 3, "not measured": 1}, "another trial stands in for it"


def test_a_foreign_study_of_the_same_name_is_refused_and_stays(
    local, tune, trials, bench, workspace
):
    study = optuna.create_study(storage=local, study_name=NAME, direction="maximize")
    study.add_trial(
        create_trial(params={"x": 1.0}, distributions={"x": FloatDistribution(0, 2)}, value=1e9)
    )
    before = study.get_trials()
    (workspace / "mine.yaml").write_text(STUDY.format(trials=2, sampler="tpe"))
    refused = bench("study", "run", "mine.yaml")
    assert (
        refused.exit_code,
        refused.stderr.splitlines()[-1].startswith(
            f"bench: The study '{NAME}' was begun by another program"
        ),
    ) == (
        2,
        True,
    )
    assert "Traceback" not in refused.stderr
    loaded = theirs(local)
    assert (loaded.get_trials(), loaded.user_attrs) == (before, {})
    assert "Not begun" in bench("study", "status", "mine.yaml").stdout
    assert (
        "No tuning study named 'mine'"
        in bench("run", "-m", "vb", "-t", "gaussian-2", "--preset", "mine").stderr
    )


@pytest.mark.parametrize("directions", [["minimize"], ["maximize", "minimize"]])
def test_an_empty_study_that_wants_something_else_is_refused(directions, local, bench, workspace):
    optuna.create_study(storage=local, study_name=NAME, directions=directions)
    (workspace / "mine.yaml").write_text(STUDY.format(trials=2, sampler="tpe"))
    refused = bench("study", "run", "mine.yaml")
    assert (refused.exit_code, "was begun by another program" in refused.stderr) == (2, True)


def test_a_study_begun_from_another_result_database_is_refused(
    local, tune, bench, workspace, monkeypatch
):
    tune(2)
    monkeypatch.setenv("BENCH_DATABASE_URL", f"sqlite:///{workspace / 'other.db'}")
    refused = bench("study", "run", "mine.yaml")
    assert (refused.exit_code, "was begun with another result database" in refused.stderr) == (
        2,
        True,
    )
    monkeypatch.delenv("BENCH_DATABASE_URL")
    assert tune(2)[0]["counts"] == {"complete": 2}


def test_a_study_of_an_earlier_release_goes_on(local, tune, workspace):
    tune(2)
    with sqlite3.connect(workspace / "studies.db") as database:
        assert (
            database.execute(
                "DELETE FROM study_user_attributes WHERE key = 'bench.database'"
            ).rowcount
            == 1
        )
    database.close()
    assert tune(3)[0]["counts"] == {"complete": 3}
    assert "bench.database" in theirs(local).user_attrs


def test_a_grid_runs_what_was_enqueued_whole_and_names_the_rest(local, tune):
    tune(2, "grid")
    study = theirs(local)
    study.enqueue_trial({"lr": 0.05, "particles": 10})
    study.enqueue_trial({"lr": 0.05})
    verdict, _ = tune(2, "grid")
    assert verdict["counts"] == {"complete": 3}
    assert verdict["left_out"] == {"3": "a grid has no value for what it leaves open"}


def test_a_trial_that_was_taken_up_in_part_goes_on_with_the_same_values(local, tune, trials):
    values = []
    for broken in (False, True):
        tune(2)
        study = theirs(local)
        number = len(study.get_trials())
        study.enqueue_trial({"particles": 10})
        if broken:  # as a kill may leave it
            study._storage.set_trial_state_values(
                study.get_trials()[number]._trial_id, TrialState.RUNNING
            )
        tune(2)
        values.append(trials()[number])
    assert [value["outcome"] for value in values] == ["complete"] * 2
    assert all(
        value["params"]["particles"] == 10 and math.isfinite(value["score"]) for value in values
    )


def test_an_outsider_who_tells_a_trial_that_bench_is_making_ends_no_search(
    local, tune, monkeypatch
):
    from harness.tuning.trials import TrialLog

    tell = TrialLog.tell

    def meddled(self, number, *rest):
        if number == 1:
            theirs(local).tell(number, 1e9)
        tell(self, number, *rest)

    monkeypatch.setattr(TrialLog, "tell", meddled)
    verdict, _ = tune(2)
    assert verdict["left_out"] == {"1": "another program ended it"}
    assert verdict["counts"] == {"complete": 2}
