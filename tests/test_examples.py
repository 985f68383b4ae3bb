"""The files of the pages `add-a-task` and `add-a-method`, as a reader would copy them."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path

import pytest
import torch

import harness
from harness import conformance
from harness.api import Model, Noise
from harness.base.errors import InvalidSetting, PluginError
from harness.training.loop import load_data

PAGES = Path(__file__).parent.parent / "docs"


def blocks(page: str) -> list[str]:
    """The Python code of a page."""
    return re.findall(r"```python\n(.*?)```", (PAGES / page).read_text(), re.DOTALL)


def block(page: str, word: str) -> str:
    (text,) = [text for text in blocks(page) if f"class {word}(" in text]
    return text


def code_lines(text: str) -> int:
    return sum(bool(line.strip()) for line in text.splitlines())


FUNNEL = block("add-a-task.md", "MyFunnel")
DRAWS = next(text for text in blocks("add-a-task.md") if text.startswith("    def draws"))
WITH_DRAWS = f"import torch\n{FUNNEL}{DRAWS}"
CANCER = block("add-a-task.md", "BreastCancer")
REAL_NVP = block("add-a-method.md", "RealNVP")
METHODS = ("vb", "iwae", "pnf", "iaf", "hvae", "hvae-iaf")


def test_the_examples_are_short():
    assert code_lines(FUNNEL) <= 8
    assert code_lines(CANCER) <= 30
    assert code_lines(REAL_NVP) <= 45


@pytest.mark.parametrize(
    ("name", "text"),
    [("my_funnel", FUNNEL), ("draws", WITH_DRAWS), ("cancer", CANCER), ("nvp", REAL_NVP)],
)
def test_each_passes_the_checks(bench, name, text):
    Path(f"{name}.py").write_text(text)
    result = bench("check", f"./{name}.py")
    assert result.exit_code == 0, result.output
    told = "holds  draws follow the density: worst |z|" in result.output
    assert told == (name == "draws")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("v = 3 * noise", "v = 2.7 * noise"),  # draws of another density
        ("log_z = 10, 0.0", "log_z = 10, 0.1"),
        ("Normal(0, 3)", "Normal(1, 3)"),
    ],
)
def test_exact_answers_that_do_not_agree_are_refused(bench, old, new):
    assert old in WITH_DRAWS
    Path("my_funnel.py").write_text(WITH_DRAWS.replace(old, new))
    result = bench("check", "./my_funnel.py")
    assert result.exit_code == 3
    assert "BROKEN draws follow the density" in result.output


@pytest.mark.usefixtures("no_mirror")
def test_every_method_runs_on_both_with_both_bases(bench):
    Path("my_funnel.py").write_text(FUNNEL)
    Path("cancer.py").write_text(CANCER)
    for base in ("prior", "learned"):
        result = bench(
            "run",
            *(option for method in METHODS for option in ("-m", method)),
            *("-t", "./my_funnel.py", "-t", "./cancer.py", "--protocol", "smoke", "--seeds", "0"),
            *("--set", f"base={base}", "--set", "steps=10", "--json"),
        )
        assert result.exit_code == 0, result.output
        runs = [json.loads(line) for line in result.stdout.splitlines()]
        assert {(run["method"], run["task"]) for run in runs} == set(
            product(METHODS, ("my-funnel-10", "breast-cancer"))
        )
        for run in runs:
            metrics = run["metrics"]
            assert ("elbo_gap" in metrics) == (run["task"] == "my-funnel-10")
            assert ("predictive" in metrics) == (run["task"] == "breast-cancer")
            if run["task"] == "my-funnel-10":
                assert metrics["elbo_gap"] == pytest.approx(-metrics["elbo"], abs=1e-9)


def test_a_notebook_makes_a_target_of_a_function():
    normal = torch.distributions.Normal(1.0, 2.0)

    def shifted_normal(z):
        return normal.log_prob(z).sum(-1) + 3.0

    def draws(noise, n):
        return 1.0 + 2.0 * noise.normal(n, 2)

    task = harness.target(shifted_normal, dim=2, log_z=3.0, draws=draws)
    assert (task.name, task.latent_dim) == ("shifted-normal", 2)
    fitted = harness.fit("vb", task, protocol="smoke", settings={"steps": 1_000})
    assert abs(fitted.score()["elbo_gap"]) < 0.01
    assert [check for check in conformance.check_task(type(task)) if not check.holds] == []
    unknown = harness.target(shifted_normal, dim=2, name="unknown")
    assert "elbo_gap" not in harness.fit("vb", unknown, protocol="smoke").score()
    assert {"fit", "target", "results"} <= set(dir(harness))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        harness.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda z: z.sum(), r"log density of z \[\d+, 1, 2\] is \[\]"),
        (lambda z: z, r"is \[\d+, 1, 2\]"),
    ],
)
def test_a_density_of_another_shape_is_said(answer, message):
    with pytest.raises(PluginError, match=message):
        harness.fit("vb", harness.target(answer, dim=2, name="odd"), protocol="smoke")


def test_mini_batches_of_a_model_weigh_their_examples():
    """The mean of the mini-batches' log joints is that of all the data; a model that gives
    `log_joint` alone has none.
    """

    class Mean(Model):
        dim = 1

        def data(self):
            return {"x": torch.arange(10.0, dtype=torch.float64)}

        def log_likelihood(self, params, data, z):
            return -0.5 * (z - data["x"]).square()

    class Whole(Mean):
        def log_joint(self, params, data, z):
            return -z.square().sum(-1)

    task, order = Mean(), Noise(["0/batch"])
    data = load_data(task, [0], torch.float64)
    z = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None, None]
    whole, *parts = [
        task.problem({}, task.batch(data, step, size, order), "prior").log_joint(z)
        for step, size in ((0, None), (0, 5), (1, 5))
    ]
    torch.testing.assert_close(sum(parts) / 2, whole, rtol=1e-12, atol=0)
    last = task.batch(data, 3, 3, order)
    assert (len(last["x"]), float(last["_weight"])) == (1, 10.0)
    with pytest.raises(InvalidSetting, match="has no mini-batches"):
        harness.fit("vb", Whole(), protocol="smoke", settings={"batch_size": 5})


@pytest.mark.usefixtures("no_mirror")
def test_checkpoints_are_read_as_the_page_says(bench):
    ran = bench("run", "-m", "vb", "-t", "gaussian-25", "--protocol", "smoke", "--json")
    names = {"key": json.loads(ran.stdout)["key"]}
    for text in blocks("checkpoints.md"):
        exec(text, names)
    assert names["z"].shape == (1000, 25)
    assert json.loads(names["meta"])["step"] == 200
    page = (PAGES / "checkpoints.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    patterns = [name for row in rows for name in re.findall("`(.*?)`", row)]
    for name in names["tensors"]:
        assert any(fnmatchcase(name, pattern) for pattern in patterns), name


def test_the_page_of_studies_has_every_field(bench, workspace):
    from harness.plan.studies import Grid, Study, Tune

    (workspace / "mine.py").write_text(REAL_NVP.replace("class RealNVP", "class Mine"))
    page = (PAGES / "studies.md").read_text()
    for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)):
        (workspace / f"study{number}.yaml").write_text(text)
        checked = bench("check", f"./study{number}.yaml")
        assert checked.exit_code == 0, checked.output
    assert "holds  runs resolve: 90 runs" in bench("check", "./study0.yaml").stdout
    named = set(re.findall("`(.*?)`", "".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE))))
    fields = [
        field.alias or name
        for model in (Grid, Study, Tune)
        for name, field in model.model_fields.items()
        if name != "direction"  # has one value
    ]
    assert named == set(fields)
