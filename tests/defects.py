"""Methods and tasks that are wrong in one way each: seen in published code, or easily written."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch

from harness.api import Data, Noise, Params, Particles, Problem, log_std_normal
from harness.methods._langevin import Bridge, Point
from harness.methods.cmcd import CMCD
from harness.methods.dds import DDS
from harness.methods.hvae import HVAE
from harness.methods.iaf import IAF
from harness.methods.mcd import MCD
from harness.methods.mixture import Mixture
from harness.methods.realnvp import RealNVP
from harness.methods.uha import UHA
from harness.methods.ula import ULA
from harness.methods.vb import VB
from harness.tasks.digits import Digits
from harness.tasks.gaussian import Gaussian
from harness.tasks.gaussian_ar1 import GaussianAR1
from harness.tasks.norms import Norms


class AsPrinted(HVAE, frozen=True):
    """Right: the leapfrog of the paper's Algorithm 1, word by word."""

    name: ClassVar[str] = "as-printed"

    def evolve(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ):
        z = problem.base.sample(noise, n_particles)
        g = noise.normal(*z.shape, like=z)
        log_start = -problem.base.log_prob(z) - (-0.5 * (g.square() + math.log(2 * math.pi))).sum(
            -1
        )
        T = self.temperatures(params)
        path, v = [z], T[0] * g
        for k in range(1, self.n_leapfrog + 1):
            step = self.max_step * torch.sigmoid(params["step"])
            epsilon = step[:, k - 1] if self.vary_steps else step
            kicked = v + epsilon / 2 * problem.score(z)
            z = z + epsilon * self.moving(v, kicked)
            v = (T[k] / T[k - 1]) * (kicked + epsilon / 2 * problem.score(z))
            path.append(z)
        return path, v, log_start

    def moving(self, v: torch.Tensor, kicked: torch.Tensor) -> torch.Tensor:
        """The momentum that moves the position."""
        return kicked


class UnkickedMomentum(AsPrinted, frozen=True):
    """The position moves with the momentum from before the kick."""

    name: ClassVar[str] = "unkicked-momentum"

    def moving(self, v: torch.Tensor, kicked: torch.Tensor) -> torch.Tensor:
        return v


class DroppedTempering(AsPrinted, frozen=True):
    """The momentum starts hot and is never cooled."""

    name: ClassVar[str] = "dropped-tempering"

    def temperatures(self, params: Params) -> torch.Tensor:
        T = super().temperatures(params)
        return T[:1].expand_as(T)


class CooledTwice(AsPrinted, frozen=True):
    """The momentum ends colder than it began, and the weights do not know."""

    name: ClassVar[str] = "cooled-twice"

    def temperatures(self, params: Params) -> torch.Tensor:
        T = super().temperatures(params)
        return T / T[:1]


class _Still:
    """Noise whose second draw, the momentum, is zero."""

    def __init__(self, noise: Noise) -> None:
        self.noise, self.calls = noise, 0

    def normal(self, *shape: int, like: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.noise.normal(*shape, like=like) * (self.calls == 1)


class ZeroMomentum(HVAE, frozen=True):
    """The momentum starts at zero, and the weights claim that it was drawn so."""

    name: ClassVar[str] = "zero-momentum"

    def evolve(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ):
        return super().evolve(params, problem, _Still(noise), n_particles, trace)  # type: ignore[arg-type]


class ForgottenMomentum(HVAE, frozen=True):
    """The momentum starts at zero while the weights go on with a draw that was not used."""

    name: ClassVar[str] = "forgotten-momentum"

    def temperatures(self, params: Params) -> torch.Tensor:
        T = super().temperatures(params)
        return torch.cat([torch.zeros_like(T[:1]), torch.ones_like(T[1:])])

    def evolve(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ):
        untempered = HVAE(**self.model_dump() | {"tempering": "none"})
        path, v, log_start = untempered.evolve(params, problem, _Still(noise), n_particles, trace)  # type: ignore[arg-type]
        return path, v, log_start + 0.5 * noise.normal(*v.shape, like=v).square().sum(-1)


class DetachedScore(HVAE, frozen=True):
    """No gradient flows through the score."""

    name: ClassVar[str] = "detached-score"

    def evolve(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ):
        return super().evolve(
            params,
            dataclasses.replace(problem, score=lambda z: problem.score(z).detach()),
            noise,
            n_particles,
            trace,
        )


class BackwardWithoutMomentum(HVAE, frozen=True):
    """Paths backwards forget the density of the momentum that they end in."""

    name: ClassVar[str] = "backward-without-momentum"

    def backward(self, params: Params, problem: Problem, z: torch.Tensor, noise: Noise):
        rho = noise.normal(*z.shape, like=z)
        return problem.log_joint(z) + self.retrace(params, problem, z, rho)


class BackwardByAnotherKernel(HVAE, frozen=True):
    """Paths backwards draw a momentum of twice the scale and weigh it so: the mean of 1 / w is
    right, and the weights are not those of the paths forwards.
    """

    name: ClassVar[str] = "backward-by-another-kernel"

    def backward(self, params: Params, problem: Problem, z: torch.Tensor, noise: Noise):
        unit = noise.normal(*z.shape, like=z)
        log_momentum = log_std_normal(unit) - z.shape[-1] * math.log(2.0)
        return problem.log_joint(z) + log_momentum + self.retrace(params, problem, z, 2 * unit)


class BackwardWithoutDeterminant(IAF, frozen=True):
    """Paths backwards leave the flow's determinant out."""

    name: ClassVar[str] = "backward-without-determinant"

    def log_weight(self, params: Params, problem: Problem, z: torch.Tensor):
        z_0, _ = self.invert(params, z, problem.context)
        return problem.log_joint(z) - problem.base.log_prob(z_0)


class ControlAtTheWrongEnd(CMCD, frozen=True):
    """Paths backwards take the control forwards where a step ends, not where it begins."""

    name: ClassVar[str] = "control-at-the-wrong-end"
    n_steps: int = 8

    def reverse(self, params: Params, bridge: Bridge, k: int, there: Point, noise: Noise):
        xi, epsilon = noise.normal(*there.y.shape, like=there.y), bridge.steps[k - 1]
        scale = (2 * epsilon).sqrt()
        mean = there.y + epsilon * self.backward_drift(params, bridge, k, there)
        here = bridge.point(mean + scale * xi)
        drift = bridge.score(k, here) + self.control(params, bridge, k, there)
        ahead = here.y + epsilon * drift
        return here, log_std_normal(xi) - log_std_normal((there.y - ahead) / scale)


class AnotherKernelBackwards(MCD, frozen=True):
    """The weights forwards know nothing of the correction that paths backwards are drawn with: both
    are proper, and not of one law.
    """

    name: ClassVar[str] = "another-kernel-backwards"
    n_steps: int = 8

    def forward(self, params: Params, bridge: Bridge, k: int, here: Point, noise: Noise):
        return ULA.forward(ULA(**self.of_ula()), params, bridge, k, here, noise)

    def of_ula(self) -> dict:
        """Its fields but the network's."""
        return {name: value for name, value in self if name in ULA.model_fields}


class ClippedNoise(DDS, frozen=True):
    """The noise of every step is cut at two deviations."""

    name: ClassVar[str] = "clipped-noise"
    n_steps: int = 2
    scale: float = 1.0
    hidden: int = 16

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        return super().particles(params, problem, _Clipped(noise), n_particles, trace)  # type: ignore[arg-type]


class _Clipped:
    """Noise without what is beyond two deviations."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def normal(self, *shape: int, like: torch.Tensor) -> torch.Tensor:
        return self.noise.normal(*shape, like=like).clamp(-2, 2)


class DroppedComponent(Mixture, frozen=True):
    """The density sums over all components but the last."""

    name: ClassVar[str] = "dropped-component"

    def log_weight(self, params: Params, problem: Problem, z: torch.Tensor) -> torch.Tensor:
        others = {name: leaf[:, :-1] for name, leaf in params.items()}
        return super().log_weight(others, problem, z)


class MissingRefreshment(UHA, frozen=True):
    """The weights compare a momentum with the one before it was refreshed."""

    name: ClassVar[str] = "missing-refreshment"
    n_steps: int = 4
    init_step: float = 0.2

    def forward(self, params: Params, bridge: Bridge, k: int, here: Point, noise: Noise):
        kept = _Kept(noise)
        there, log_ratio = super().forward(params, bridge, k, here, kept)  # type: ignore[arg-type]
        refreshed = self.refreshed(params, k, here.momentum, kept.again())  # type: ignore[arg-type]
        return there, log_ratio + log_std_normal(refreshed) - log_std_normal(here.momentum)


class _Kept:
    """Noise whose last draw can be had again."""

    def __init__(self, noise: Noise) -> None:
        self.noise, self.draw, self.repeat = noise, torch.zeros(0), False

    def normal(self, *shape: int, like: torch.Tensor) -> torch.Tensor:
        self.draw = self.draw if self.repeat else self.noise.normal(*shape, like=like)
        return self.draw

    def again(self):
        self.repeat = True
        return self


class UnboundedScales(RealNVP, frozen=True):
    """The log scales of couplings have no bound."""

    name: ClassVar[str] = "unbounded-scales"

    def transform(self, outputs: torch.Tensor, y: torch.Tensor):
        log_scale = outputs[..., 0]
        return y * log_scale.exp() + outputs[..., 1], log_scale


class PermutedBatch(IAF, frozen=True):
    """The reversal between layers runs along the problems, not along the dimensions."""

    name: ClassVar[str] = "permuted-batch"
    axis: ClassVar[int] = 1

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        z_0 = problem.base.sample(noise, n_particles).flip(self.axis)
        steps = self.flow(params, z_0, problem.context)
        log_w = (
            problem.log_joint(steps[-1][0])
            - problem.base.log_prob(z_0)
            + sum(log_det for _, log_det in steps)
        )
        return Particles(
            steps[-1][0], log_w, torch.stack([z_0, *(z for z, _ in steps)]) if trace else None
        )


class PermutedParticles(PermutedBatch, frozen=True):
    """The reversal runs along the particles."""

    name: ClassVar[str] = "permuted-particles"
    axis: ClassVar[int] = 0


class MissingDeterminant(IAF, frozen=True):
    """The last layer's determinant is left out of the weights."""

    name: ClassVar[str] = "missing-determinant"

    def flow(self, params: Params, z: torch.Tensor, context: torch.Tensor | None):
        *others, (last, log_det) = super().flow(params, z, context)
        return [*others, (last, torch.zeros_like(log_det))]


class LeakyReplicates(HVAE, frozen=True):
    """Every replicate moves with the mean of all step sizes."""

    name: ClassVar[str] = "leaky-replicates"

    def evolve(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ):
        shared = params["step"].mean(0, keepdim=True).expand_as(params["step"])
        return super().evolve(params | {"step": shared}, problem, noise, n_particles, trace)


class IdleParameter(VB, frozen=True):
    """A parameter that nothing uses."""

    name: ClassVar[str] = "idle-parameter"

    def init(self, dim: int, noise: Noise, n_context: int = 0) -> Params:
        return {"idle": torch.zeros(1, dtype=torch.float64)}


class GlobalDraw(VB, frozen=True):
    """Particles are shifted by a number of torch's own generator."""

    name: ClassVar[str] = "global-draw"

    def particles(
        self, params: Params, problem: Problem, noise: Noise, n_particles: int, trace: bool = False
    ) -> Particles:
        shift = 0.1 * torch.randn(())
        moved = dataclasses.replace(problem, log_joint=lambda z: problem.log_joint(z) + shift)
        return super().particles(params, moved, noise, n_particles, trace)


class MissingHalf(Gaussian, frozen=True):
    """The factor 1/2 on the squares is dropped."""

    def problem(self, params: Params, batch: dict, base: str, training: bool = False) -> Problem:
        released = self.model_copy(update={"objective": "released-flow"})
        return Gaussian.problem(released, params, batch, base, training=True)


class MissingHalfInTraining(Gaussian, frozen=True):
    """The factor 1/2 on the squares is dropped in training, though the fields say the density is
    exact.
    """

    def problem(self, params: Params, batch: dict, base: str, training: bool = False) -> Problem:
        released = self.model_copy(update={"objective": "released-flow"})
        return Gaussian.problem(released, params, batch, base, training)


class ReversedLikelihood(Gaussian, frozen=True):
    """The likelihood's part of the score has its sign reversed."""

    def problem(self, params: Params, batch: dict, base: str, training: bool = False) -> Problem:
        right = super().problem(params, batch, base, training)
        return dataclasses.replace(right, score=lambda z: -(right.score(z) + z) - z)


class OrdinaryVariance(Gaussian, frozen=True):
    """The stated maximum divides the squares by n, though the latent takes a degree of freedom."""

    def oracle(self):
        class Oracle(type(super().oracle())):
            def mle(self, data: Data) -> Params:
                return {
                    "delta": data.train["mean"],
                    "log_sigma": 0.5 * torch.log(data.train["variance"]),
                }

        return Oracle()


class UnnormalisedPosterior(Gaussian, frozen=True):
    """Posterior and evidence are off by the same constant, so that they agree with each other."""

    def oracle(self):
        class Oracle(type(super().oracle())):
            def log_evidence(self, params: Params, batch: dict) -> torch.Tensor:
                return super().log_evidence(params, batch) + 0.5

            def posterior(self, params: Params, batch: dict):
                right = super().posterior(params, batch)

                class Shifted:
                    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
                        return right.log_prob(z) - 0.5

                return Shifted()

        return Oracle()


class DataOfTheMethod(Gaussian, frozen=True):
    """The data depend on the base that a method asked for before."""

    asked: ClassVar[list[str]] = []

    def init(self, base: str, noise: Noise) -> Params:
        self.asked.append(base)
        return super().init(base, noise)

    def load(self, noise: Noise) -> Data:
        data = super().load(noise)
        return Data({**data.train, "mean": data.train["mean"] + len(self.asked)})


class GlobalData(Gaussian, frozen=True):
    """The data come from torch's own generator."""

    def load(self, noise: Noise) -> Data:
        data = super().load(noise)
        return Data({**data.train, "x": data.train["x"] + torch.randn(())})


class StatefulBatches(Gaussian, frozen=True):
    """Which batch comes next depends on how many came before."""

    drawn: ClassVar[list[int]] = []

    def batch(self, data: Data, step: int, batch_size: int | None, noise: Noise) -> dict:
        self.drawn.append(step)
        return super().batch(data, len(self.drawn), batch_size, noise)


class LeakyTask(Gaussian, frozen=True):
    """Every replicate is compared with the mean delta of all."""

    def problem(self, params: Params, batch: dict, base: str, training: bool = False) -> Problem:
        shared = params["delta"].mean(0, keepdim=True).expand_as(params["delta"])
        return super().problem(params | {"delta": shared}, batch, base, training)


class MisspelledProtocol(Gaussian, frozen=True):
    """A protocol with an address that does not exist."""

    protocols: ClassVar[dict] = {
        **Gaussian.protocols,
        "smoke": {"steps": 10, "lr": 0.1, "task.batch_likelyhood": "scaled"},
    }


class SimulatesWhiterImages(Digits, frozen=True):
    """One simulated pixel in twenty is white whatever the decoder says."""

    def simulate(self, params: Params, batch: dict, noise: Noise) -> tuple:
        data, z = super().simulate(params, batch, noise)
        added = noise.uniform(1, *data["x"].shape)[0] < 0.05
        return {"x": data["x"] | added.to(data["x"])}, z


class ReversedDeterminant(GaussianAR1, frozen=True):
    """The evidence adds half the posterior precision's log-determinant, where it should take it
    off.
    """

    def oracle(self):
        class Oracle(type(super().oracle())):
            def log_evidence(self, params: Params, batch: dict) -> torch.Tensor:
                return super().log_evidence(params, batch) + self.log_det_precision(batch["n"])

        return Oracle(self.dim, self.rho)


class UntiedEnds(GaussianAR1, frozen=True):
    """The score takes the covariance's inverse to have the same number all along its diagonal."""

    def problem(self, params: Params, batch: dict, base: str, training: bool = False) -> Problem:
        right = super().problem(params, batch, base, training)
        m, n = batch["mean"] - params["delta"], batch["n"]
        excess = torch.zeros(self.dim, dtype=torch.float64)
        excess[0] = excess[-1] = self.rho**2 / (1 - self.rho**2)
        return dataclasses.replace(right, score=lambda z: right.score(z) + n * excess * (m - z))


class UnnormalisedChi(Norms, frozen=True):
    """The density of |z| lacks its constant."""

    def oracle(self):
        class Oracle(type(super().oracle())):
            def log_evidence(self, params: Params, batch: dict) -> torch.Tensor:
                return (
                    super().log_evidence(params, batch)
                    + (self.dim / 2 - 1) * math.log(2)
                    + math.lgamma(self.dim / 2)
                )

        return Oracle(self.dim)


class MeanEvidence(Norms, frozen=True):
    """The evidence is given as one number for all problems."""

    def oracle(self):
        class Oracle(type(super().oracle())):
            def log_evidence(self, params: Params, batch: dict) -> torch.Tensor:
                return super().log_evidence(params, batch).mean(0, keepdim=True)

        return Oracle(self.dim)


class BatchNormalised(Norms, frozen=True):
    """A point's density is computed from z less the mean over the batch."""

    def problem(self, params: Params, batch: dict, base: str, training: bool = False) -> Problem:
        right = super().problem(params, batch, base, training)
        return dataclasses.replace(
            right, log_joint=lambda z: right.log_joint(z - 0.1 * z.mean(1, keepdim=True))
        )


METHODS = {
    UnkickedMomentum: "weights are proper",
    DroppedTempering: "weights are proper",
    CooledTwice: "weights are proper",
    ZeroMomentum: "weights are proper",
    ForgottenMomentum: "weights are proper",
    MissingDeterminant: "weights are proper",
    DetachedScore: "gradients equal finite differences",
    PermutedBatch: "particles depend on their own noise alone",
    PermutedParticles: "particles depend on their own noise alone",
    LeakyReplicates: "replicates do not leak",
    IdleParameter: "every parameter gets a gradient",
    GlobalDraw: "noise is the only randomness",
    BackwardWithoutMomentum: "weights backwards are proper",
    BackwardByAnotherKernel: "weights backwards are proper",
    BackwardWithoutDeterminant: "weights backwards are proper",
    ControlAtTheWrongEnd: "weights backwards are proper",
    AnotherKernelBackwards: "weights backwards are proper",
    ClippedNoise: "weights are proper",
    DroppedComponent: "weights are proper",
    MissingRefreshment: "weights are proper",
    UnboundedScales: "numbers are finite far from the start",
}
"""Each wrong method with the check that catches it."""

TASKS = {
    MissingHalf: "joint = evidence x posterior",
    MissingHalfInTraining: "joint = evidence x posterior",
    ReversedLikelihood: "score is the gradient",
    OrdinaryVariance: "the best parameters are the maximum",
    UnnormalisedPosterior: "evidence agrees with sampling",
    DataOfTheMethod: "data depend on the seed alone",
    GlobalData: "data depend on the seed alone",
    StatefulBatches: "batches depend on the step alone",
    LeakyTask: "replicates do not leak",
    MisspelledProtocol: "protocols are valid",
    SimulatesWhiterImages: "simulated data are the model's",
    ReversedDeterminant: "joint = evidence x posterior",
    UntiedEnds: "score is the gradient",
    UnnormalisedChi: "evidence agrees with sampling",
    MeanEvidence: "shapes are kept",
    BatchNormalised: "problems do not leak",
}
"""Each wrong task with the check that catches it."""
