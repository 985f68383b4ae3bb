"""A trained model to draw from, and to encode images with, whichever method it was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.api import Batch, Method, Params, Particles, Task
from harness.base.errors import UsageError
from harness.base.spec import RunSpec
from harness.numerics.noise import Noise
from harness.training import checkpoint
from harness.training import loop as training
from harness.training.loop import State

IMAGES = 10  # encoded at a time
BLOCK = 50  # particles drawn by one generator
DECODED = 100  # latents at a time
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class TrainedModel:
    """A method and a task with the parameters that are scored, [1, *event]."""

    spec: RunSpec
    method: Method
    task: Task
    theta: Params
    phi: Params

    @property
    def like(self) -> Tensor:
        """A tensor of the parameters' dtype."""
        return next(iter(self.theta.values()))

    def decode(self, z: Tensor) -> Tensor:
        """Decode latents to images, a few at a time: z [n, D] -> [n, height, width].

        Raises:
            UsageError: the task has no pictures.
        """
        with torch.no_grad():
            decoded = [self.task.decode(self.theta, latents) for latents in z.split(DECODED)]
        images = [image for image in decoded if image is not None]
        if not images:
            raise UsageError(
                f"Task '{self.spec.task}' has no decoder: its latents stand for no pictures."
            )
        return torch.cat(images)

    def picture_size(self) -> tuple[int, int]:
        """Return the height and width of the task's images.

        Raises:
            UsageError: the task has no pictures.
        """
        height, width = self.decode(self.like.new_zeros(1, self.task.latent_dim)).shape[-2:]
        return height, width

    def particles(
        self,
        batch: Batch,
        stream: str,
        first_problem: int,
        n_particles: int,
        block: int = 0,
        trace: bool = False,
    ) -> Particles:
        """Draw the method's particles for a batch whose problems, each with noise of its own, have
        the numbers from `first_problem` on.
        """
        problem = self.task.problem(self.theta, batch, self.spec.base)
        numbers = range(first_problem, first_problem + len(problem.base.mean))
        noise = Noise([f"{stream}/{number}" for number in numbers]).at(block)
        with torch.no_grad():
            return self.method.particles(self.phi, problem, noise, n_particles, trace)

    def sample(self, n: int, stream: str) -> Arrays:
        """Draw from the prior: `z` [n, D], and their mean pixels, `pixels` [n, height, width]."""
        z = Noise([stream]).normal(n, self.task.latent_dim, like=self.like)
        return {"z": z.numpy(), "pixels": self.decode(z).numpy()}

    def encode(self, images: np.ndarray, n_particles: int) -> Arrays:
        """Infer the latents of grey images, uint8 [n, height, width].

        Returns: `mean`, `scale` [n, D] of the base; `z` [S, n, D] and `log_w` [S, n] of the
            particles, nats; `elbo` [n], the mean of their weights, nats. An image's particles do
            not depend on the images beside it.
        """
        batch = self.task.observe(torch.tensor(images))
        starts = range(0, len(images), IMAGES)
        parts = (
            {name: leaf[start : start + IMAGES] for name, leaf in batch.items()} for start in starts
        )
        encoded = [
            self._encode(part, start, n_particles)
            for start, part in zip(starts, parts, strict=True)
        ]
        axis = {"z": 1, "log_w": 1}
        return {
            name: np.concatenate([arrays[name] for arrays in encoded], axis.get(name, 0))
            for name in encoded[0]
        }

    def _encode(self, batch: Batch, first_problem: int, n_particles: int) -> Arrays:
        with torch.no_grad():
            base = self.task.problem(self.theta, batch, self.spec.base).base
        sizes = [min(BLOCK, n_particles - done) for done in range(0, n_particles, BLOCK)]
        blocks = [
            self.particles(batch, f"{self.spec.seed}/encode", first_problem, size, number)
            for number, size in enumerate(sizes)
        ]
        log_w = torch.cat([particles.log_w for particles in blocks])
        tensors = {
            "mean": base.mean,
            "scale": base.log_scale.exp(),
            "z": torch.cat([particles.z for particles in blocks]),
            "log_w": log_w,
            "elbo": log_w.mean(0),
        }
        return {name: tensor.numpy() for name, tensor in tensors.items()}


def trained(method: Method, task: Task, spec: RunSpec, state: State) -> TrainedModel:
    """Return the model of a run alone at the end of training."""
    return TrainedModel(spec, method, task, *state.layout.owned(state.best_parameters()))


def stored(spec: RunSpec, method: Method, task: Task, path: Path, sha256: str) -> TrainedModel:
    """Read the model in a run's checkpoint: its best parameters on validation data, else its last.

    Raises:
        CheckpointError: the file is missing or damaged.
        DataError: data that its first parameters followed from are missing.
    """
    tensors, _ = checkpoint.read(path, sha256, spec.key)
    leaves = checkpoint.parameters(tensors)
    layout, best = checkpoint.layout_of(leaves), tensors.get("best")
    flat = torch.cat([leaf.flatten(1) for leaf in leaves.values()], 1)
    if best is not None and not bool(best.isnan().any()):
        # A file has its tensors in an order of its own; the flat best ones are in the start's.
        start = training.initial_leaves(method, task, spec.base, spec.seed)
        layout = checkpoint.layout_of({name: leaf[None] for name, leaf in start.items()})
        flat = best[None]
    return TrainedModel(spec, method, task, *layout.owned(flat))
