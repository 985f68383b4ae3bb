"""Published values: their files, the closed forms, the verdicts, and `bench verify`."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest
from conftest import json_lines
from filled_store import ENVIRONMENT

from harness.analysis import published
from harness.analysis.reproduction import (
    ReplicateMean,
    ReproductionRuns,
    Verdict,
    judge,
    settle,
)
from harness.analysis.statistics import t_interval
from harness.base.errors import UnknownName, UsageError
from harness.base.spec import Plan, Status
from harness.base.workspace import Workspace
from harness.plan import registry, studies
from harness.store import Estimate, Outcome, Owner, ResultStore

DIMS = [25, 50, 100, 200, 300, 400]
pytestmark = pytest.mark.usefixtures("no_mirror")


@cache
def study_runs(name="report-gaussian"):
    return studies.runs_of(name)


def cell(method, task, **fields):
    return ReproductionRuns(study_runs()).replicates(method, task, fields)


def store_runs(runs, values, metric="sigma_sq_error", statuses=None, other=None):
    """End these runs with invented metrics, without training; the status of each is `done` unless
    given.
    """
    keys = [run.spec.key for run in runs]
    with ResultStore.open(Workspace.current().database_url) as store:
        store.enqueue(runs)
        claims = {claim.key: claim for claim in store.claim(keys, Owner.current())}
        store.begin(
            list(claims.values()), Plan(members=tuple(keys), threads=1, torch="2.13.0"), ENVIRONMENT
        )
        for key, value, status in zip(
            keys, values, statuses or [Status.DONE] * len(keys), strict=True
        ):
            metrics = (
                {metric: Estimate(value)} if status is Status.DONE and value is not None else {}
            )
            reason = None if status is Status.DONE else "for a test"
            store.finish(claims[key], Outcome(status, reason, 80_000, 1.0, metrics | (other or {})))


def judged_here(source="report2020", **only):
    """The verdicts on this workspace whose fields are these."""
    with ResultStore.open(Workspace.current().database_url) as store:
        found = judge(store, published.load(source), study_runs)
    return [
        value
        for value in found
        if all(getattr(value, name) == wanted for name, wanted in only.items())
    ]


def mean_of(*values):
    return ReplicateMean(
        t_interval(values), len(values), {"done": len(values)}, tuple(map(str, values))
    )


def forms_of(d):
    return registry.find("task", "gaussian").cls(dim=d).closed_forms()


# The files


def test_every_source_parses_and_none_of_them_is_taken_for_a_study():
    named = published.publications()
    assert list(named) == ["caterini2018", "literature", "report2020", "samplers"]
    assert all(published.load(name).name == name for name in named)
    assert not set(named) & set(studies.listings())


def test_every_row_of_a_source_names_one_whole_cell_of_its_study():
    checked = 0
    for experiment in published.load("report2020").experiments:
        if experiment.study is None:
            continue
        ours = ReproductionRuns(studies.runs_of(experiment.study))
        for table in experiment.tables:
            for label, values in table.values.items():
                row = experiment.rows[label]
                for task, value in zip(experiment.tasks, values, strict=True):
                    for fields in (
                        [row.task, row.task | row.corrected_by] if value is not None else []
                    ):
                        runs = ours.replicates(row.method, task, fields)
                        assert (
                            len({run.spec.seed for run in runs})
                            == len(runs)
                            == experiment.n_datasets
                        )
                        assert {run.task_label for run in runs} == {task}
                        checked += 1
    assert checked == 2 * (2 * (8 * len(DIMS) - 2))


def test_the_two_tempered_rows_and_the_two_objectives_are_four_cells():
    selectors = [("hvae[n_leapfrog=1]", {}), ("hvae-untempered[n_leapfrog=1]", {})]
    selectors += [("iaf[n_layers=1]", {"objective": name}) for name in ("exact", "released-flow")]
    assert (
        len({cell(method, "gaussian-25", **fields)[0].spec.cell for method, fields in selectors})
        == 4
    )
    assert (
        cell("iaf[n_layers=1]", "gaussian-25", objective="exact")[0].spec.task_fields["objective"]
        == "exact"
    )


@pytest.mark.parametrize(
    ("method", "fields", "said"),
    [
        ("hvae[n_leapfrog=2]", {}, "matches none of the study's cells"),
        ("iaf[n_layers=1,2]", {}, "stands for several settings"),
        ("hvea", {}, "Did you mean 'hvae'?"),
        ("iaf[n_layers=1]", {"objective": "released"}, "is not allowed"),
    ],
)
def test_a_row_that_names_no_runs_of_the_study_is_refused(method, fields, said):
    with pytest.raises(UsageError, match=said.replace("?", r"\?")):
        cell(method, "gaussian-25", **fields)


GOOD = (Path(studies.__file__).parents[2] / "studies/published/report2020.yaml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("authors:", "author:", "author: there is no such field."),
        ("explained_by:\n", "explaned_by:\n", ".explaned_by: there is no such field."),
        ("0.0403, ", "", "sigma_sq_error of hvae-K1 has 5 values for 6 tasks."),
        ("0.0403", "o.0403", "tables[0].values.hvae-K1[0]: "),
        ("0.0403", "nan", "tables[0].values.hvae-K1[0]: "),
        ("      vb: {method: vb}", "      vb: {setting: as usual}", "row vb has no method."),
        ("    n_datasets: 3\n", "", "what can be compared has study, n_datasets and tables"),
        ("gaussian-300: {because", "gaussian-301: {because", (
            "No task named "
            "'gaussian-301'. Did you mean 'gaussian-300'?"
        )),
    ],
)  # fmt: skip
def test_a_fault_in_a_file_is_one_line_with_its_place(workspace, old, new, said):
    assert old in GOOD
    (workspace / "mine.yaml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(UsageError) as refused:
        published.read(workspace / "mine.yaml")
    text = str(refused.value)
    assert said in text
    assert text.startswith("mine.yaml, line ")
    assert "\n" not in text


def test_a_closed_form_that_the_task_has_not_is_refused(workspace):
    file = workspace / "mine.yaml"
    file.write_text(GOOD.replace("iaf-K1: missing-half", "iaf-K1: missing-third", 1))
    with pytest.raises(UnknownName, match="No closed form named 'missing-third'"):
        judge(None, published.read(file), study_runs)


def test_a_closed_form_without_a_deviation_tells_no_band(workspace):
    file = workspace / "mine.yaml"
    text = GOOD.replace("data_dependent: drawn-latent", "data_dependent: missing-half", 1)
    assert text != GOOD
    file.write_text(text)
    with pytest.raises(UsageError, match="'missing-half' has no deviation over data sets"):
        judge(None, published.read(file), study_runs)


def test_an_unknown_source_is_refused_with_the_nearest():
    with pytest.raises(
        UnknownName,
        match=r"No source of published values named 'report2021'\. Did you mean 'report2020'\?",
    ):
        published.load("report2021")


# The closed forms


@pytest.mark.parametrize(
    ("name", "digits", "expected"),
    [
        ("missing-half", 3, [1.135, 2.126, 4.114, 8.094, 12.074, 16.054]),
        ("no-contraction-missing-half", 2, [15.74, 31.58, 63.25, 126.59, 189.93, 253.27]),
        ("no-contraction", 2, [12.66, 25.67, 51.70, 103.74, 155.79, 207.83]),
        ("drawn-latent", 1, DIMS),
    ],
)
def test_closed_forms_give_the_figures_that_were_derived_apart(name, digits, expected):
    assert [round(forms_of(d)[name].value, digits) for d in DIMS] == expected


def test_the_floors_are_the_mean_errors_of_exact_fits_to_drawn_data():
    import torch

    from harness.tasks._gaussian_closed_forms import closed_forms
    from harness.tasks.gaussian import GaussianOracle

    d, n, n_sets = 5, 50, 4000
    sigma = registry.find("task", "gaussian").cls(dim=d).truth()[1]
    forms = closed_forms(sigma.tolist(), n)
    generator = torch.Generator().manual_seed(7)
    z = torch.randn(n_sets, 1, d, generator=generator, dtype=torch.float64)
    x = z + sigma * torch.randn(n_sets, n, d, generator=generator, dtype=torch.float64)
    mean = x.mean(1)
    data = type(
        "Drawn",
        (),
        {
            "train": {
                "n": torch.tensor(float(n)),
                "mean": mean,
                "variance": (x - mean[:, None]).square().mean(1),
            }
        },
    )
    fit = GaussianOracle().mle(data)
    errors = {
        "drawn-latent": fit["delta"].square().sum(1),
        "fit-of-sigma": (fit["log_sigma"].exp() - sigma).square().sum(1),
    }
    for name, drawn in errors.items():
        expected, se = forms[name].value, drawn.std().item() / math.sqrt(n_sets)
        assert (
            abs(drawn.mean().item() - expected) < 4 * se + expected / n
        )  # the forms leave out relative terms of order 1 / n
    deviation = forms["drawn-latent"].deviation
    assert errors["drawn-latent"].std().item() == pytest.approx(deviation, rel=0.1)


@pytest.mark.parametrize(
    ("name", "spread", "half"),
    [
        ("missing-half", 0.0, True),
        ("no-contraction-missing-half", 1.0, True),
        ("no-contraction", 1.0, False),
    ],
)
def test_sigma_of_a_closed_form_is_where_the_objective_of_the_task_is_largest(name, spread, half):
    import torch

    from harness.tasks._gaussian_closed_forms import closed_forms

    task = registry.find("task", "gaussian").cls(
        dim=25, objective="released-flow" if half else "exact"
    )
    delta, sigma = task.truth()
    n = task.n_data
    batch = {
        "n": torch.full((1, 1), float(n), dtype=sigma.dtype),
        "mean": delta[None],
        "variance": sigma.square()[None],
    }
    z = torch.stack([torch.full_like(sigma, s * math.sqrt(spread)) for s in (-1.0, 1.0)])[
        :, None
    ]  # mean 0, mean square `spread`
    hat = torch.sqrt((2 if half else 1) * sigma.square() + spread)
    log_sigma = hat.log()[None].requires_grad_()
    value = (
        task.problem({"delta": delta[None], "log_sigma": log_sigma}, batch, "prior", training=True)
        .log_joint(z)
        .mean()
    )
    (slope,) = torch.autograd.grad(value, log_sigma)
    assert slope.abs().max().item() < 1e-9 * n  # terms of size n cancel
    assert closed_forms(sigma.tolist(), n)[name].value == pytest.approx(
        (hat - sigma).square().sum().item(), rel=1e-12
    )


# The verdicts


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ((1.04, 1.05, 1.04), Verdict.REPRODUCED),  # within 5 %
        ((1.06, 1.06, 1.06), Verdict.NOT_REPRODUCED),  # 6 % off, and no spread
        ((0.95, 1.06, 1.30), Verdict.REPRODUCED),  # 10 % off, one standard error
        ((1.19, 1.20, 1.21), Verdict.NOT_REPRODUCED),  # 20 % off, many standard errors
        ((1.2,), Verdict.NOT_REPRODUCED),  # one run has no spread
        ((0.97,), Verdict.REPRODUCED),
    ],
)
def test_a_value_is_reproduced_within_five_per_cent_or_three_standard_errors(ours, verdict):
    assert settle(1.0, mean_of(*ours), 3)[0] is verdict


def test_three_combined_standard_errors_count_the_published_data_sets_too():
    ours = mean_of(
        0.9, 1.0, 1.1
    )  # deviation 0.1: three of ours and three of theirs combine to 0.0816
    published = 1.0 - 3 * 0.1 * math.sqrt(1 / 3 + 1 / 3)
    assert settle(published + 1e-6, ours, 3)[0] is Verdict.REPRODUCED
    assert settle(published - 1e-3, ours, 3)[0] is Verdict.NOT_REPRODUCED
    assert settle(published + 1e-6, ours, 300)[0] is Verdict.NOT_REPRODUCED


def test_where_data_sets_put_the_published_value_they_may_put_ours():
    band = (10.0, 40.0)
    assert (
        settle(22.0, mean_of(35.0, 35.1, 35.2), 3, band)[0] is Verdict.REPRODUCED
    )  # 60 % off, inside
    verdict, reason = settle(
        22.0, mean_of(41.0, 80.0, 41.0), 3, band
    )  # within three standard errors, outside
    assert (verdict, reason.startswith("outside 10 to 40")) == (Verdict.NOT_REPRODUCED, True)
    assert (
        settle(60.0, mean_of(61.0, 61.1, 61.2), 3, band)[0] is Verdict.REPRODUCED
    )  # the published one outside: the usual rule
    assert settle(60.0, mean_of(35.0, 35.1, 35.2), 3, band)[0] is Verdict.NOT_REPRODUCED


def test_the_band_of_delta_is_three_deviations_about_d(workspace):
    edge = 3 * math.sqrt(2 * 25 / 3)
    for shift, verdict in ((edge - 0.1, Verdict.REPRODUCED), (edge + 0.1, Verdict.NOT_REPRODUCED)):
        runs = cell(
            "hvae[n_leapfrog=1]" if verdict is Verdict.REPRODUCED else "hvae[n_leapfrog=10]",
            "gaussian-25",
        )
        store_runs(runs, [25 + shift] * 3, "delta_sq_error")
        row = "hvae-K1" if verdict is Verdict.REPRODUCED else "hvae-K10"
        (value,) = judged_here(row=row, task="gaussian-25", metric="delta_sq_error")
        assert value.verdict is verdict


def test_without_a_database_everything_that_could_be_compared_is_not_run():
    found = judge(None, published.load("report2020"), study_runs)
    gaussian = [value for value in found if value.experiment == "gaussian"]
    assert len(gaussian) == 2 * (8 * len(DIMS) - 2)
    reasons = {value.verdict: value.reason for value in gaussian}
    assert reasons[Verdict.NOT_RUN] == "0 of 3 runs are done."
    assert [(v.row, v.task, v.metric) for v in gaussian if v.verdict is Verdict.NOT_COMPARABLE] == [
        ("pnf-K1", "gaussian-300", "sigma_sq_error")
    ]
    assert {value.verdict for value in found if value.experiment != "gaussian"} == {
        Verdict.NOT_COMPARABLE
    }
    assert not any(value.fails for value in found)


def test_runs_that_did_not_end_done_are_counted_and_never_dropped(workspace):
    done, diverged, failed = Status.DONE, Status.DIVERGED, Status.FAILED
    store_runs(
        cell("hvae[n_leapfrog=1]", "gaussian-25"), [0.0403] * 3, statuses=[done, done, diverged]
    )
    store_runs(
        cell("hvae[n_leapfrog=10]", "gaussian-25"), [0.0383] * 3, statuses=[done, done, failed]
    )
    store_runs(cell("hvae-untempered[n_leapfrog=1]", "gaussian-25"), [3.9, 3.9, math.inf])
    store_runs(cell("vb", "gaussian-25"), [0.0003, 0.0003, None])
    store_runs(cell("vb", "gaussian-50")[:2], [0.000754] * 2)
    said = {
        (value.row, value.task): (str(value.verdict), value.ours.standing())
        for value in judged_here(metric="sigma_sq_error")
        if value.ours is not None and value.ours.interval.n
    }
    assert said == {
        ("hvae-K1", "gaussian-25"): ("not reproduced", "2 of 3, 1 diverged"),
        ("hvae-K10", "gaussian-25"): ("not run", "2 of 3, 1 failed"),
        ("hvae-untempered-K1", "gaussian-25"): ("not reproduced", "2 of 3, 1 not finite"),
        ("vb", "gaussian-25"): ("not run", "2 of 3, 1 without"),
        ("vb", "gaussian-50"): ("not run", "2 of 3"),
    }


def test_a_flow_stands_beside_its_runs_with_the_right_objective(workspace):
    store_runs(
        cell("pnf[n_layers=1][tied=true]", "gaussian-25", objective="released-flow"),
        [14.9, 15.0, 15.1],
    )
    store_runs(
        cell("pnf[n_layers=1][tied=true]", "gaussian-25", objective="exact"), [11.0, 12.0, 13.0]
    )
    (value,) = judged_here(row="pnf-K1", task="gaussian-25", metric="sigma_sq_error")
    assert (value.verdict, value.ours.interval.mean, value.corrected.interval.mean) == (
        Verdict.REPRODUCED,
        15.0,
        12.0,
    )
    assert value.closed_form.value == forms_of(25)["no-contraction-missing-half"].value
    assert value.corrected_closed_form.value == forms_of(25)["no-contraction"].value


def test_a_value_that_cannot_be_compared_shows_our_runs_and_fails_nothing(workspace):
    store_runs(
        cell("pnf[n_layers=1][tied=true]", "gaussian-300", objective="released-flow"),
        [189.0, 190.0, 191.0],
    )
    (value,) = judged_here(row="pnf-K1", task="gaussian-300", metric="sigma_sq_error")
    assert (value.verdict, value.ours.interval.mean, value.fails) == (
        Verdict.NOT_COMPARABLE,
        190.0,
        False,
    )


# The command


def test_the_command_works_without_a_database_and_makes_none(bench, workspace):
    result = bench("verify")
    assert result.exit_code == 0
    assert "not run: 0 of 3 runs are done" in result.stdout
    assert "bench study run report-gaussian" in result.stdout
    assert "not comparable: one of the three data sets had not converged" in result.stdout
    assert "No values to compare: it is published as figures" in result.stdout
    assert list(workspace.iterdir()) == []


def test_a_value_that_is_not_reproduced_ends_with_status_3(bench, workspace):
    runs = cell("hvae[n_leapfrog=1]", "gaussian-25")
    store_runs(runs, [0.0404, 0.0405, 0.0406])
    good = bench("verify", "report2020", "-t", "gaussian-25")
    assert (good.exit_code, "0.040500 ± 0.000058" in good.stdout) == (0, True)
    store_runs(cell("hvae[n_leapfrog=10]", "gaussian-25"), [0.05, 0.0501, 0.0502])
    bad = bench("verify", "report2020", "-t", "gaussian-25")
    assert bad.exit_code == 3
    assert "1 reproduced, 1 not reproduced, 14 not run" in bad.stdout
    assert f"bench show {cell('hvae[n_leapfrog=10]', 'gaussian-25')[0].spec.key}" in bad.stdout
    assert bench("verify", "report2020", "-t", "gaussian-25", "--json").exit_code == 3
    assert bench("verify", "report2020", "-t", "gaussian-50").exit_code == 0
    assert bench("verify", "literature").exit_code == 0


def test_a_failure_that_the_source_foresees_is_shown_and_does_not_fail(bench, workspace):
    store_runs(cell("vb", "gaussian-400"), [2000.0, 2001.0, 2002.0], "delta_sq_error")
    result = bench("verify", "report2020", "-t", "gaussian-400")
    assert result.exit_code == 0
    assert "not reproduced as expected" in result.stdout
    assert "1 not reproduced as expected" in result.stdout


def test_what_is_reproduced_though_far_off_says_why(bench, workspace):
    store_runs(
        cell("vb", "gaussian-25"),
        [0.0003, 0.0004, 0.0005],
        other={"delta_sq_error": Estimate(14.9)},
    )
    printed = " ".join(bench("verify", "report2020", "-t", "gaussian-25").stdout.split())
    assert "vb on gaussian-25 reproduced: 26.18% off, 1 standard errors." in printed
    assert "vb on gaussian-25 reproduced: inside 12.75 to 37.25, where data sets put it" in printed


def test_json_has_one_object_a_value(bench, workspace):
    runs = cell("iaf[n_layers=1]", "gaussian-25", objective="released-flow")
    store_runs(runs, [1.13, 1.14, 1.15])
    values = json_lines(bench("verify", "report2020", "-t", "gaussian-25", "--json"))
    assert {(value["row"], value["metric"]) for value in values} == {
        (row, metric)
        for row in published.load("report2020").experiments[0].rows
        for metric in ("sigma_sq_error", "delta_sq_error")
    }
    (value,) = [
        value
        for value in values
        if value["row"] == "iaf-K1" and value["metric"] == "sigma_sq_error"
    ]
    assert (value["published"], value["verdict"], value["fails"], value["task"]) == (
        1.1415,
        "reproduced",
        False,
        "gaussian-25",
    )
    assert value["ours"]["mean"] == pytest.approx(1.14)
    assert (value["ours"]["n"], value["ours"]["of"], value["ours"]["keys"]) == (
        3,
        3,
        [run.spec.key for run in runs],
    )
    assert value["closed_form"] == {
        "name": "missing-half",
        "value": forms_of(25)["missing-half"].value,
    }
    exact = [run.spec.key for run in cell("iaf[n_layers=1]", "gaussian-25")]
    assert value["corrected"] == {
        "mean": None,
        "se": None,
        "n": 0,
        "of": 3,
        "counts": {"missing": 3},
        "keys": exact,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["report2021"],
            "bench: No source of published values named 'report2021'. Did you mean 'report2020'?",
        ),
        (
            ["report2020", "-t", "gaussian-26"],
            "bench: No task with published values named 'gaussian-26'. Did you mean 'gaussian-2",
        ),
        (
            ["caterini2018", "-t", "gaussian-25"],
            "bench: No task with published values named 'gaussian-25'. Available: none.",
        ),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(bench, workspace, arguments, said):
    result = bench("verify", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(said)
    assert len(result.stderr.splitlines()) == 1
