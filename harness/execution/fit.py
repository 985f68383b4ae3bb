"""One method on one task in a notebook: no command line, no database, no files."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from harness.api import Method, Params, Particles, Task
from harness.base.errors import UsageError
from harness.base.spec import Protocol
from harness.numerics.noise import Noise
from harness.plan.grid import Setting, parse_selector, resolve, selected
from harness.plan.registry import NamedPlugin
from harness.training import evaluation
from harness.training import loop as training
from harness.training.loop import Progress, State


@dataclass(frozen=True)
class Fit:
    """A trained method with its task: draw from it, score it, look at its curve."""

    method: Method
    task: Task
    protocol: Protocol
    state: State

    @property
    def params(self) -> Params:
        """The trained parameters, `task.*` and `method.*`, each [1, *event]."""
        return self.state.layout.views(self.state.flat)

    @property
    def diverged_at(self) -> int | None:
        """The step at which training met a number that is not finite; None where it never did."""
        step = int(self.state.diverged_at[0])
        return None if step == training.NEVER else step

    @property
    def curve(self) -> list[tuple[int, float]]:
        """The bound during training: (steps done, mean bound over the steps since the point before,
        nats).
        """
        return training.curves(self.protocol, self.state, 0)["bound"]

    def sample(self, n_particles: int, seed: int = 0, trace: bool = False) -> Particles:
        """Draw weighted samples of the latent given the training data: z [S, N, D], log_w [S, N].

        Args:
            n_particles: S.
            seed: which draws.
            trace: also the trajectory from the base to z, `path` [K + 1, S, N, D].
        """
        noise, in_order = Noise([f"{seed}/sample"]), Noise(["batch"], shuffled=False)
        size = self.protocol.batch_size
        batch = next(iter(self.task.scored_batches(self.state.data, size, in_order)))
        with torch.no_grad():
            theta, phi = self.state.layout.owned(self.state.best_parameters())
            problem = self.task.problem(theta, batch, self.protocol.base)
            return self.method.particles(phi, problem, noise, n_particles, trace)

    def score(self) -> dict[str, float]:
        """Return every metric that `bench run` would store for this run, and `<name>_se` where it
        is an estimate; nats.
        """
        scores = evaluation.evaluate(self.method, self.task, self.protocol, self.state)
        errors = {
            f"{name}_se": float(score.error[0])
            for name, score in scores.items()
            if score.error is not None
        }
        return {name: float(score.value[0]) for name, score in scores.items()} | errors


def fit(
    method: str | Method,
    task: str | Task,
    *,
    seed: int = 0,
    protocol: str | None = None,
    settings: dict[str, Any] | None = None,
    watch: Callable[[Progress], object] | None = None,
) -> Fit:
    """Train one method on one task, with the numbers that `bench run` would give.

    Args:
        method: a name (`"hvae"`, `"hvae[n_leapfrog=5]"`, `"./mine.py:Mine"`) or an instance.
        task: a name (`"gaussian-25"`) or an instance.
        seed: which replicate.
        protocol: one of the task's; its default where none is given.
        settings: what `--set` would say: `{"steps": 500, "lr": 1e-2}`.
        watch: called with each step's `Progress`.

    Raises:
        UsageError: a name, field or value that is not allowed.

    >>> fitted = fit("vb", "gaussian-2", protocol="smoke")
    >>> fitted.sample(1000).z.shape
    torch.Size([1000, 1, 2])
    >>> fitted.score()["sigma_sq_error"] < 0.01
    True
    """
    method_setting, task_setting = _setting("method", method), _setting("task", task)
    resolved = resolve(
        method_setting.plugin,
        task_setting.plugin,
        protocol or task_setting.plugin.cls.default_protocol,
        {**selected(method_setting, task_setting), **(settings or {})},
    )
    state = training.start(resolved.method, resolved.task, resolved.protocol, [seed])
    for progress in training.train(resolved.method, resolved.task, resolved.protocol, state):
        if watch is not None:
            watch(progress)
        if progress.warning:
            warnings.warn(f"{resolved.method.name}: {progress.warning}", stacklevel=2)
    return Fit(resolved.method, resolved.task, resolved.protocol, state)


def _setting(kind: Any, selector: str | Method | Task) -> Setting:
    if not isinstance(selector, str):
        return Setting(NamedPlugin(type(selector), selector.name), selector.model_dump())
    settings = parse_selector(kind, selector)
    if len(settings) > 1:
        raise UsageError(
            f"'{selector}' stands for {len(settings)} settings; fit takes one. "
            "To cross settings: bench run."
        )
    return settings[0]
