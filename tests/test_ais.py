"""Annealed importance sampling: exact answers are between its bounds, and faults are seen."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import pytest
import torch
from conftest import json_lines
from linear_gaussian import NOISE_SCALE, LinearGaussian, weights

from harness.api import DiagNormal, Noise
from harness.base.spec import Protocol
from harness.numerics.noise import TRAIN_BLOCK
from harness.plan import registry
from harness.training import annealed_importance as ais
from harness.training.annealed_scores import AnnealingSettings, annealed_scoring
from harness.training.loop import start, train

pytestmark = pytest.mark.usefixtures("no_mirror")
PPCA = registry.find("task", "ppca-3")
N, CHAINS = 40, 100


def result(work, yielded=None):
    """What a generator returns; what it yields is appended to a list."""
    yielded = [] if yielded is None else yielded
    while True:
        try:
            yielded.append(next(work))
        except StopIteration as done:
            return done.value


def streams(name, n):
    return Noise([f"{name}/{i}" for i in range(n)], TRAIN_BLOCK)


@dataclass(frozen=True)
class Case:
    """Points of ppca at the exact fit, from a base that is a little off their posteriors."""

    problem: object
    log_evidence: torch.Tensor
    exact: torch.Tensor


@pytest.fixture(scope="module")
def case():
    task = PPCA.cls(**PPCA.fields)
    data, oracle = task.load(Noise(["data"])), task.oracle()
    first = task.init("prior", Noise(["init"]))
    theta = {name: leaf[None] for name, leaf in first.items()} | oracle.mle(data)
    batch = {**data.train, "x": data.test["x"][:N]}
    draws = oracle.draws(theta, batch, streams("moments", N), 500)
    base = DiagNormal(draws.mean(0) + 0.2, (1.3 * draws.std(0)).log())
    problem = replace(task.problem(theta, batch, "prior"), base=base)
    exact = oracle.draws(theta, batch, streams("exact", N), CHAINS)
    return Case(problem, oracle.log_evidence(theta, batch), exact)


def z_of_both(case, kind=ais.Annealing, temperatures=10):
    """Standard errors between the mean weight of all chains and 1, forwards; and of reciprocal
    weights backwards.
    """
    betas = ais.sigmoid_schedule(temperatures)
    steps = torch.full((temperatures - 1,), 0.7, dtype=torch.float64)
    chains = kind(case.problem, betas, steps)
    with torch.no_grad():
        forwards = result(chains.forwards(streams("forwards", N), CHAINS)) - case.log_evidence
        backwards = case.log_evidence - result(
            chains.backwards(case.exact, streams("backwards", N))
        )
    ratios = [log_ratio.exp().flatten() for log_ratio in (forwards, backwards)]
    return [float((r.mean() - 1) / (r.std() / math.sqrt(len(r)))) for r in ratios]


def test_weights_are_proper_in_both_directions(case):
    assert max(map(abs, z_of_both(case))) < 4


class WrongNormaliser(ais.Annealing):
    """The base's normal density without its constant."""

    def _increment(self, t, point):
        return super()._increment(t, point) - 0.5 * (self.betas[t] - self.betas[t - 1])


class Unweighted(ais.Annealing):
    """Chains that are drawn anew halfway as though all weighed the same: the heavier half is kept
    twice.
    """

    def transition(self, t, point, noise):
        moved, probability = super().transition(t, point, noise)
        if t != len(self.betas) // 2:
            return moved, probability
        order = (moved.log_p - ais.log_std_normal(moved.y)).argsort(0, descending=True)
        half = order[: len(order) // 2].repeat(2, 1)
        of_vectors = half[..., None].expand(-1, -1, moved.y.shape[-1])
        kept = ais.Point(
            moved.y.gather(0, of_vectors),
            moved.log_p.gather(0, half),
            moved.score.gather(0, of_vectors),
        )
        return kept, probability


class AlwaysAccepted(ais.Annealing):
    """Leapfrog steps that nothing corrects: they do not leave the density as it is."""

    def transition(self, t, point, noise):
        v = noise.normal(*point.y.shape, like=point.y)
        score = float(self.betas[t]) * point.score - (1 - float(self.betas[t])) * point.y
        return ais.point_at(self.problem, point.y + 0.7 * (v + 0.35 * score)), point.log_p


@pytest.mark.parametrize("kind", [WrongNormaliser, Unweighted, AlwaysAccepted])
def test_a_fault_is_seen(case, kind):
    assert max(map(abs, z_of_both(case, kind))) > 5


def test_a_step_size_that_is_adapted_accepts_as_many_as_it_should(case):
    betas = ais.sigmoid_schedule(60)
    with torch.no_grad():
        steps = result(ais.adapted_steps(case.problem, betas, streams("steps", N), 8))
        point = ais.point_at(case.problem, case.problem.base.standardised(case.exact))
        probability = ais.transition(
            case.problem, 1.0, float(steps[-1]), point, streams("again", N)
        )[1]
    assert float(probability.mean()) == pytest.approx(ais.ACCEPTANCE, abs=0.1)


def test_the_schedule_goes_from_the_base_to_the_target():
    betas = ais.sigmoid_schedule(500)
    assert (float(betas[0]), float(betas[-1])) == (0.0, 1.0)
    assert bool((betas.diff() > 0).all())
    assert float(betas[250]) == pytest.approx(0.5)


class Simulated(LinearGaussian, frozen=True):
    """The linear decoder, with data of its own."""

    def scored_batches(self, data, batch_size, noise):
        """100 points."""
        return [{"x": data.train["x"][:100]}]

    def simulate(self, params, batch, noise):
        """z from the prior, then x."""
        z = noise.normal(1, len(batch["x"]), 2)[0]
        errors = NOISE_SCALE * noise.normal(1, *batch["x"].shape)[0]
        return {"x": z @ weights().T + params["b"][0] + errors}, z


@pytest.mark.parametrize("task", [Simulated(), PPCA.cls(**PPCA.fields)], ids=lambda task: task.name)
def test_exact_evidence_is_between_the_bounds_which_are_near(task, record_property):
    protocol = Protocol(steps=500, lr=0.05, lr_schedule="cosine", base="learned", batch_size=250)
    method = registry.find("method", "vb").cls()
    state = start(method, task, protocol, [0])
    for _ in train(method, task, protocol, state):
        pass
    shares: list[float] = []
    scores = result(annealed_scoring(task, protocol, state, AnnealingSettings()), shares)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0, abs=0.35)
    theta, _ = state.layout.owned(state.flat)
    (batch, *_) = task.scored_batches(state.data, None, Noise(["order"]))
    exact = float(task.oracle().log_evidence(theta, batch).mean())
    lower, gap = scores["log_evidence_ais"], scores["bdmc_gap"]
    assert float(lower.value - exact) == pytest.approx(0, abs=4 * float(lower.error))
    text = f"{float(gap.value):.4f} +- {float(gap.error):.4f} nats"
    record_property("printed", f"{task.name}: annealing from below and from above, {text} apart")
    assert -4 * float(gap.error) < float(gap.value) < 0.05


def test_scores_are_stored_beside_the_run_and_tables_take_them(bench, workspace):
    words = ["-m", "vb", "-t", "ppca-2", "--protocol", "smoke"]
    (run,) = json_lines(bench("run", *words, "--json"))
    few = ["--estimator", "ais", "--temperatures", "20", "--chains", "8"]
    records = json_lines(bench("score", *few, "--json"))
    by_name = {record["metric"]: record for record in records}
    assert {"nll_ais", "log_evidence_ais", "bdmc_gap", "ess_ais"} <= by_name.keys()
    assert {record["estimator"] for record in records} == {"ais"}
    settings = {json.dumps(record["estimator_settings"]) for record in records}
    assert len(settings) == 1
    assert by_name["nll_ais"]["value"] == -by_name["log_evidence_ais"]["value"]
    assert 0 < by_name["bdmc_gap"]["value"] < 1
    assert bench("score", *few).exit_code == 0  # nothing is left to do
    assert "ais 1, chains=8, temperatures=20" in bench("show", run["key"]).output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--chains", "8"], "--chains needs --estimator ais"),
        (["--estimator", "ais", "--particles", "10"], "--particles is not for ais"),
    ],
)
def test_settings_of_the_other_estimator_are_refused(bench, options, says):
    result = bench("score", *options)
    assert result.exit_code == 2
    assert says in result.stderr


def test_images_simulate_what_their_decoder_says():
    plugin = registry.find("task", "digits")
    task = plugin.cls(**plugin.fields)
    theta = {name: leaf[None] for name, leaf in task.init("learned", Noise(["init"])).items()}
    order = Noise(["order"])
    batch = next(iter(task.scored_batches(task.load(Noise(["data"])), None, order)))
    noises = (Noise([f"{i}/{j}" for j in range(len(batch["x"]))]) for i in range(200))
    simulated, z = zip(*(task.simulate(theta, batch, noise) for noise in noises), strict=True)
    x, z = torch.cat([each["x"] for each in simulated]), torch.cat(z)
    assert x.shape[1:] == batch["x"].shape[1:]
    assert set(x.unique().tolist()) == {0, 1}
    score = task.problem(theta, {"x": x}, "prior").score(z[None])[0]  # its mean over p(x, z) is 0
    assert float((score.mean(0) / (score.std(0) / math.sqrt(len(score)))).abs().max()) < 4.5
