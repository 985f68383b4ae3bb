"""`harness.fit` and `harness.load_run`: several seeds, files, going on, stored runs."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import harness
from harness.api import Method, Particles
from harness.base.errors import CheckpointError, PluginError, UnknownName, UsageError

SHORT = {"steps": 120}


class Wide(Method, frozen=True):
    """Draws from the base, with a scale of its own."""

    name = "wide"
    source = "a test"
    rate: float = 1.0

    def init(self, dim, noise, n_context=0):
        return {"log_scale": torch.zeros(dim, dtype=torch.float64)}

    def particles(self, params, problem, noise, n_particles, trace=False):
        base, log_scale = problem.base, self.rate * params["log_scale"]
        draws = noise.normal(n_particles, *base.mean.shape, like=base.mean)
        z = base.mean + (base.log_scale + log_scale).exp() * draws
        log_q = torch.distributions.Normal(base.mean, (base.log_scale + log_scale).exp())
        return Particles(z, problem.log_joint(z) - log_q.log_prob(z).sum(-1))


def run(bench, *options):
    result = bench("run", *options, "--protocol", "smoke", "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.usefixtures("no_mirror")
@pytest.mark.parametrize(("method", "task"), [("hvae", "gaussian-3"), ("vb", "norms-2")])
def test_several_seeds_have_the_numbers_of_bench_run(bench, method, task):
    lines = run(bench, "-m", method, "-t", task, "--seeds", "0-2", "--set", "steps=50")
    fits = harness.fit(method, task, seeds=[0, 1, 2], protocol="smoke", settings={"steps": 50})
    scores = fits.score()
    assert list(scores.index) == [0, 1, 2]
    for line in lines:
        for name, value in line["metrics"].items():
            assert scores.loc[line["seed"], name] == pytest.approx(value, rel=1e-9, abs=1e-9), name
    assert [each.curve[-1][0] for each in fits] == [50, 50, 50]
    assert fits[1].sample(4).z.shape == fits[0].sample(4).z.shape
    alone = harness.fit(method, task, seed=2, protocol="smoke", settings={"steps": 50})
    assert alone.score() == pytest.approx(fits[2].score(), rel=1e-9, abs=1e-9)


def test_going_on_gives_to_the_bit_what_as_many_steps_at_once_give(tmp_path):
    settings = {"lr_schedule": "constant"}
    whole = harness.fit("hvae", "gaussian-3", protocol="smoke", settings={**settings, "steps": 450})
    part = harness.fit("hvae", "gaussian-3", protocol="smoke", settings={**settings, "steps": 301})
    before = part.params["task.delta"].clone()
    longer = part.continue_(149)
    assert torch.equal(longer.state.flat, whole.state.flat)
    assert torch.equal(part.params["task.delta"], before)
    assert longer.spec == whole.spec
    steps = [step for step, _ in longer.curve]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (part.curve[0][0], 450)
    assert dict(longer.curve)[450] == dict(whole.curve)[450]
    assert not any(math.isnan(bound) for _, bound in longer.curve)
    shared = longer.score()
    assert not {"bound_trend_z", "travel_used"} & shared.keys()
    assert {name: whole.score()[name] for name in shared} == shared
    again = harness.Fit.load(longer.save(tmp_path / "longer.fit"))
    assert (again.curve, again.score()) == (longer.curve, shared)


@pytest.mark.parametrize("method", ["vb", "iaf"])
def test_a_file_holds_the_whole_fit(tmp_path, method):
    fitted = harness.fit(method, "gaussian-3", seed=4, protocol="smoke", settings=SHORT)
    path = fitted.save(tmp_path / "one.fit")
    loaded = harness.Fit.load(path)
    assert (loaded.method, loaded.task, loaded.seed) == (fitted.method, fitted.task, 4)
    assert (loaded.curve, loaded.score()) == (fitted.curve, fitted.score())
    assert torch.equal(loaded.sample(5).log_w, fitted.sample(5).log_w)
    longer = [each.continue_(30).state.flat for each in (loaded, fitted)]
    assert torch.equal(*longer)


def test_a_fit_of_a_class_of_the_session_is_loaded_with_it(tmp_path):
    by_class = harness.fit(Wide, "gaussian-3", protocol="smoke", settings=SHORT)
    fitted = harness.fit(Wide(rate=0.5), "gaussian-3", protocol="smoke", settings=SHORT)
    assert by_class.method == Wide()
    path = fitted.save(tmp_path / "wide.fit")
    loaded = harness.Fit.load(path, method=Wide)
    assert loaded.method == Wide(rate=0.5)
    assert loaded.score() == fitted.score()
    with pytest.raises(UsageError, match=r"'wide' of this fit is not an installed one"):
        harness.Fit.load(path)
    with pytest.raises(UsageError, match=r"of the method 'wide', not of 'vb'"):
        harness.Fit.load(path, method="vb")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="is damaged"):
        harness.Fit.load(path, method=Wide)
    with pytest.raises(CheckpointError, match="No such file"):
        harness.Fit.load(tmp_path / "nothing.fit")


def test_a_fit_that_blows_up_warns():
    with pytest.warns(UserWarning, match=r"vb on gaussian, seed 1: .* not finite at step \d+"):
        fits = harness.fit(
            "vb", "gaussian-3", seeds=[1], protocol="smoke", settings={"lr": 1e300, "steps": 50}
        )
    assert fits[0].diverged_at is not None
    with pytest.raises(UsageError, match="cannot go on"):
        fits[0].continue_(10)
    fitted = harness.fit("vb", "gaussian-3", protocol="smoke", settings={"steps": 5})
    with pytest.raises(UsageError, match="one step or more, not 0"):
        fitted.continue_(0)


@pytest.mark.usefixtures("no_mirror")
@pytest.mark.parametrize(("method", "task"), [("hvae", "gaussian-3"), ("vb", "digits")])
def test_a_stored_run_is_loaded_as_it_was_scored(bench, workspace, tmp_path, method, task):
    options = ("--set", "steps=20", "--set", "eval_particles=20")
    (line,) = run(bench, "-m", method, "-t", task, "--seeds", "3", *options)
    fitted = harness.load_run(line["key"][:8])
    assert fitted.spec.key == line["key"]
    for name, value in line["metrics"].items():
        assert fitted.score()[name] == pytest.approx(
            float(value), rel=1e-9, abs=1e-9, nan_ok=True
        ), name
    assert fitted.continue_(5).curve[-1][0] == 25
    assert harness.load_run(line["key"], home=workspace).spec == fitted.spec
    with pytest.raises(UnknownName, match="No run"):
        harness.load_run("ffff")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="There are no runs in"):
        harness.load_run(line["key"], home=tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.usefixtures("no_mirror")
def test_the_code_of_a_stored_run_needs_leave(bench, monkeypatch):
    text = Path(__file__).read_text()
    file = text[: text.index("def run(")].replace("import pytest\n", "")
    Path("mine.py").write_text(file)
    (line,) = run(bench, "-m", "./mine.py:Wide", "-t", "gaussian-3", "--set", "steps=20")
    scores = harness.load_run(line["key"]).score()  # this process has named it
    monkeypatch.setattr("harness.plan.registry.named", {})
    with pytest.raises(PluginError, match="may not run here"):
        harness.load_run(line["key"])
    assert harness.load_run(line["key"], allow_plugins=True).score() == scores
    assert scores["elbo"] == pytest.approx(line["metrics"]["elbo"], rel=1e-9)


@pytest.mark.usefixtures("no_mirror")
def test_the_pages_code_runs(bench, workspace):
    page = (Path(__file__).parent.parent / "docs" / "python.md").read_text()
    (line,) = run(bench, "-m", "vb", "-t", "gaussian-2")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    code = code.replace("3f9c2a", line["key"]).replace("2_000", "200").replace("(1_000)", "(100)")
    code += (
        "print(scores.shape[0], longer.curve[-1][0], stored.spec.key)\n"
        "print(*table.frame['n'], made.not_done.empty)\n"
    )
    (workspace / "page.py").write_text(code)
    ended = subprocess.run(
        [sys.executable, "page.py"], cwd=workspace, capture_output=True, text=True, check=False
    )
    assert ended.stdout == f"5 300 {line['key']}\n3 3 True\n", ended.stderr
    assert (workspace / "hvae.fit").is_file()
