"""Every method and task keeps its contract, and every known defect breaks it."""

from __future__ import annotations

import importlib
import math
import os
from pathlib import Path

import defects
import pytest
import torch

from harness.api import Method, Particles, Task, log_std_normal, tunable
from harness.base.errors import BenchError
from harness.conformance import METHOD_CHECKS, TASK_CHECKS, check_method, check_task
from harness.methods.hvae import HVAE
from harness.numerics.noise import Noise
from harness.tasks.gaussian import Gaussian

ROOT = Path(__file__).parents[1]
SEEDS = {0: 1.0} | dict.fromkeys(range(1, 10), 0.25)  # with the share of the draws
SEEDS = SEEDS if os.environ.get("BENCH_TESTS") == "full" else {0: 0.5}


def plugins(folder: str, kind: type) -> list[type]:
    """The classes in a folder's public files that are registered by having a name of their own."""
    found = []
    for file in sorted((ROOT / folder).glob("[!_]*.py")):
        module = importlib.import_module(f"harness.{folder}.{file.stem}")
        members = (
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, kind)
        )
        found += [
            value
            for value in members
            if value.__module__ == module.__name__ and "name" in vars(value)
        ]
    return found


METHODS = plugins("methods", Method)
TASKS = plugins("tasks", Task)


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: a second thread only gets in the way of the next worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def failures(checks) -> dict[str, str]:
    return {check.name: check.detail for check in checks if not check.holds}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.name)
def test_a_method_keeps_its_contract(cls, seed):
    assert failures(check_method(cls, seed, thoroughness=SEEDS[seed])) == {}


@pytest.mark.parametrize("cls", TASKS, ids=lambda cls: cls.name)
def test_a_task_keeps_its_contract(cls):
    try:
        cls().load(Noise(["0/data"]))
    except BenchError as error:  # its data are not on this machine
        pytest.skip(str(error))
    assert failures(check_task(cls)) == {}


def test_every_file_has_its_plugin():
    assert {cls.__module__.rpartition(".")[2] for cls in METHODS} >= {
        "vb",
        "iwae",
        "pnf",
        "iaf",
        "hvae",
        "hvae_iaf",
        "fullrank",
        "mixture",
        "realnvp",
        "nsf",
        "ula",
        "mcd",
        "cmcd",
        "uha",
        "dds",
    }
    assert {cls.__module__.rpartition(".")[2] for cls in TASKS} >= {
        "gaussian",
        "gaussian_ar1",
        "norms",
    }


class OutsideUHA(Method, frozen=True):
    """Hamiltonian annealing as a user would write it."""

    name = "outside-uha"
    source = "arXiv:2107.04150"
    base = "learned"
    n_steps: int = tunable(4, 1, 8, ge=1)

    def init(self, dim, noise, n_context=0):
        ones = torch.ones(self.n_steps, dtype=torch.float64)
        params = {"step": torch.zeros(dim).double() - 1, "refresh": ones[:1]}
        return params if self.n_steps == 1 else params | {"annealing": 0 * ones}

    def particles(self, params, problem, noise, n_particles, trace=False):
        h, epsilon = torch.sigmoid(params["refresh"]), 0.3 * torch.sigmoid(params["step"])
        increments = params.get("annealing", params["refresh"])
        betas = torch.nn.functional.softplus(increments).cumsum(-1)
        betas = betas / betas[:, -1:]
        scale = problem.base.log_scale.exp()

        def score(z, beta):
            to_base = (problem.base.mean - z) / scale**2
            return beta[:, None] * problem.score(z) + (1 - beta[:, None]) * to_base

        z = problem.base.sample(noise, n_particles)
        v, log_w, path = noise.normal(*z.shape, like=z), -problem.base.log_prob(z), [z]
        for beta in betas.unbind(-1):
            v = start = h * v + (1 - h**2).sqrt() * noise.normal(*z.shape, like=z)
            v = v + epsilon / 2 * score(z, beta)
            z = z + epsilon * v
            v = v + epsilon / 2 * score(z, beta)
            log_w = log_w + log_std_normal(v) - log_std_normal(start)
            path.append(z)
        return Particles(z, log_w + problem.log_joint(z), torch.stack(path) if trace else None)


class NothingButRounding(HVAE, frozen=True):
    """A leaf that is divided by itself: its slope is rounding, another in a stack than alone."""

    name = "nothing-but-rounding"

    def init(self, dim, noise, n_context=0):
        return super().init(dim, noise) | {"share": torch.zeros(3, dtype=torch.float64)}

    def particles(self, params, problem, noise, n_particles, trace=False):
        drawn = super().particles(params, problem, noise, n_particles, trace)
        share = torch.nn.functional.softplus(params["share"])
        one = (share / share.sum(-1, keepdim=True)).sum(-1)
        return Particles(drawn.z, drawn.log_w * one, drawn.path)


@pytest.mark.parametrize("seed", range(4))
def test_a_slope_of_nothing_but_rounding_is_no_leak(seed):
    holds, detail = METHOD_CHECKS["replicates do not leak"](NothingButRounding, seed, 1.0)
    assert holds, detail


def test_a_path_written_by_a_user_passes():
    assert failures(check_method(OutsideUHA, 0, thoroughness=0.5)) == {}


@pytest.mark.parametrize(
    ("cls", "name"), defects.METHODS.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_a_wrong_method_is_caught(cls, name):
    holds, detail = METHOD_CHECKS[name](cls, 0, 0.5)
    assert not holds, detail


@pytest.mark.parametrize("cls", [defects.BackwardWithoutMomentum, defects.BackwardByAnotherKernel])
def test_wrong_paths_backwards_are_caught_on_tasks_too(cls):
    holds, detail = METHOD_CHECKS["weights backwards are proper on tasks"](cls, 0, 1.0)
    assert not holds, detail


@pytest.mark.parametrize(
    ("cls", "name"), defects.TASKS.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_a_wrong_task_is_caught(cls, name):
    holds, detail = TASK_CHECKS[name](cls, 0, 1.0)
    assert not holds, detail


def test_a_trace_is_optional():
    from plugins import Shift

    holds, detail = METHOD_CHECKS["tracing changes nothing"](Shift, 0, 1.0)
    assert (holds, detail) == (True, "there is no path, and tracing leaves every bit")


def test_what_a_plugin_raises_is_one_failed_line():
    class Broken(Method, frozen=True):
        name = "broken"
        source = "nowhere"

        def init(self, dim, noise, n_context=0):
            raise RuntimeError("two\nlines")

        def particles(self, params, problem, noise, n_particles, trace=False):
            raise AssertionError("without parameters there are no particles")

    checks = {check.name: check for check in check_method(Broken)}
    assert checks.keys() == METHOD_CHECKS.keys()
    assert not checks["weights are proper"].holds
    assert checks["weights are proper"].detail == "RuntimeError: two lines"


def test_the_same_seed_gives_the_same_verdicts():
    first, again = ([*check_method(METHODS[-1], 3, thoroughness=0.1)] for _ in range(2))
    assert first == again


def test_gaussian_data_come_from_the_stated_model():
    task, n_replicates = Gaussian(dim=4, n_data=50), 400
    delta, sigma = task.truth()
    x = torch.stack([task.load(Noise([f"{seed}/data"])).train["x"] for seed in range(n_replicates)])
    means, variances = x.mean(1), x.var(1)
    for sample, truth in ((means, delta), (means.var(0)[None], None), (variances, sigma.square())):
        if truth is not None:
            z = (sample.mean(0) - truth) / (sample.std(0) / math.sqrt(n_replicates))
        else:
            # the latent adds 1 to the variance of a mean; a sample variance has relative error
            # sqrt(2 / (n - 1))
            expected = 1 + sigma.square() / 50
            z = (sample[0] / expected - 1) / math.sqrt(2 / (n_replicates - 1))
        assert float(z.abs().amax()) < 5


def test_an_epoch_of_gaussian_batches_covers_the_data():
    task = Gaussian(dim=3, n_data=50, batch_likelihood="as-dataset")
    data = task.load(Noise(["0/data"]))
    stacked = type(data)({name: leaf[None] for name, leaf in data.train.items()})
    for shuffled in (False, True):
        order = Noise(["0/batch"], shuffled=shuffled)
        batches = [task.batch(stacked, step, 16, order.at(step)) for step in range(4)]
        assert [int(batch["n"]) for batch in batches] == [16, 16, 16, 2]
        total = sum(batch["n"] * batch["mean"] for batch in batches)
        torch.testing.assert_close(total / 50, stacked.train["mean"], rtol=1e-12, atol=1e-14)
