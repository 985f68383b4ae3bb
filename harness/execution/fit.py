"""One method on one task in a notebook: no command line, and no file that is not asked for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch

from harness.api import Method, Params, Particles, Task
from harness.base.errors import UsageError
from harness.base.spec import Protocol, RunSpec
from harness.base.workspace import Workspace
from harness.execution.job import Options, permitted_source
from harness.execution.local import STACK
from harness.execution.start_from import start_from
from harness.numerics.noise import Noise
from harness.plan import registry
from harness.plan.grid import Resolved, Setting, resolve, selected, settings_of
from harness.store import ResultStore
from harness.store.create import is_missing
from harness.training import checkpoint, evaluation
from harness.training import loop as training
from harness.training.loop import Progress, State

if TYPE_CHECKING:
    import pandas

Curve = list[tuple[int, float]]
Watch = Callable[[Progress], object] | None
CONVERGENCE = ("bound_trend_z", "travel_used")


@dataclass(frozen=True)
class Fit:
    """A trained method with its task: draw from it, score it, look at its curve, keep it in a file,
    train it on.

    `spec` is the run that `bench run` would store; `earlier` is the curve up to where `continue_`
    went on.
    """

    method: Method
    task: Task
    spec: RunSpec
    state: State
    earlier: tuple[tuple[int, float], ...] = ()

    @property
    def protocol(self) -> Protocol:
        """How it was trained and is scored."""
        return self.spec.protocol()

    @property
    def seed(self) -> int:
        """Which replicate it is."""
        return self.spec.seed

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
    def curve(self) -> Curve:
        """The bound during training: (steps done, mean bound over the steps since the point before,
        nats).
        """
        points = training.curves(self.protocol, self.state, 0)["bound"]
        return [*self.earlier, *(point for point in points if not math.isnan(point[1]))]

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
        if self.earlier:  # of a curve in two parts, and steps under two schedules, they say nothing
            scores = {name: scores[name] for name in scores if name not in CONVERGENCE}
        errors = {
            f"{name}_se": float(score.error[0])
            for name, score in scores.items()
            if score.error is not None
        }
        return {name: float(score.value[0]) for name, score in scores.items()} | errors

    def continue_(self, steps: int, watch: Watch = None) -> Fit:
        """Train `steps` steps more, with fresh noise; this fit stays as it is.

        The optimiser goes on where it was, and the learning rate follows the schedule of the longer
        run: a constant one gives, to the bit, what that many steps at once give; under a cosine it
        rises again.

        Raises:
            UsageError: it has diverged, or there is no step to take.
        """
        if steps < 1:
            raise UsageError(f"continue_ takes one step or more, not {steps}.")
        if self.diverged_at is not None:
            raise UsageError(
                f"This fit diverged at step {self.diverged_at} and cannot go on. Fit anew with a "
                "smaller learning rate: settings={'lr': ...}."
            )
        spec = self.spec.model_copy(update={"steps": self.state.step + steps})
        state = training.extended(self.method, self.task, spec.protocol(), self.state)
        _train(self.method, self.task, spec.protocol(), state, watch)
        return replace(self, spec=spec, state=state, earlier=tuple(self.curve))

    def save(self, path: str | Path) -> Path:
        """Write the parameters, the optimiser's state and the curve to a file (safetensors), whole
        or not at all, in place of what was there; `Fit.load` reads it.

        Raises:
            CheckpointError: it cannot be written.
        """
        path = Path(path).expanduser()
        earlier = torch.tensor(self.earlier, dtype=torch.float64).reshape(-1, 2)
        checkpoint.write(path, checkpoint.encode(self.state, 0, self.spec, earlier=earlier))
        return path

    @classmethod
    def load(
        cls,
        path: str | Path,
        method: type[Method] | str | None = None,
        task: type[Task] | str | None = None,
    ) -> Fit:
        """Read what `save` wrote.

        Args:
            path: the file.
            method: the class, or its file `"./mine.py:Mine"`, where it is not an installed one.
            task: the same of the task.

        Raises:
            CheckpointError: the file is missing or damaged.
            UsageError: it is of another method or task.
        """
        path = Path(path).expanduser()
        tensors, meta = checkpoint.read(path)
        spec = RunSpec.from_plain(meta["spec"])
        fitted = _restored(
            _built("method", method, spec.method, spec.method_fields, spec.method_source),
            _built("task", task, spec.task, spec.task_fields, spec.task_source),
            spec,
            tensors,
            meta["step"],
        )
        points = tensors["earlier"].tolist() if "earlier" in tensors else []
        return replace(fitted, earlier=tuple((int(step), bound) for step, bound in points))


class Fits(list[Fit]):
    """The fits of several seeds, in their order."""

    def score(self) -> pandas.DataFrame:
        """Return a frame of every metric, a row a seed."""
        import pandas

        seeds = pandas.Index([fitted.seed for fitted in self], name="seed")
        return pandas.DataFrame([fitted.score() for fitted in self], index=seeds)


@overload
def fit(
    method: str | Method | type[Method],
    task: str | Task | type[Task],
    *,
    seed: int = 0,
    seeds: None = None,
    protocol: str | None = None,
    settings: dict[str, Any] | None = None,
    watch: Watch = None,
) -> Fit: ...
@overload
def fit(
    method: str | Method | type[Method],
    task: str | Task | type[Task],
    *,
    seeds: Iterable[int],
    protocol: str | None = None,
    settings: dict[str, Any] | None = None,
    watch: Watch = None,
) -> Fits: ...
def fit(
    method: str | Method | type[Method],
    task: str | Task | type[Task],
    *,
    seed: int = 0,
    seeds: Iterable[int] | None = None,
    protocol: str | None = None,
    settings: dict[str, Any] | None = None,
    watch: Watch = None,
) -> Fit | Fits:
    """Train one method on one task, with the numbers that `bench run` would give. One that blew up
    warns.

    Args:
        method: a name (`"hvae"`, `"hvae[n_leapfrog=5]"`, `"./mine.py:Mine"`), a class or an
            instance.
        task: a name (`"gaussian-25"`), a class or an instance.
        seed: which replicate.
        seeds: several replicates, which train together where the task allows: `range(5)`.
        protocol: one of the task's; its default where none is given.
        settings: what `--set` would say: `{"steps": 500, "lr": 1e-2}`.
        watch: called with each step's `Progress`.

    Returns: a `Fit`; with `seeds` a list of them, whose `score()` is a frame.

    Raises:
        UsageError: a name, field or value that is not allowed.

    >>> fitted = fit("vb", "gaussian-2", protocol="smoke")
    >>> fitted.sample(1000).z.shape
    torch.Size([1000, 1, 2])
    >>> fitted.score()["sigma_sq_error"] < 0.01
    True
    >>> fit("vb", "gaussian-2", protocol="smoke", seeds=range(3)).score()["elbo"].shape
    (3,)
    """
    method_setting, task_setting = _setting("method", method), _setting("task", task)
    resolved = resolve(
        method_setting.plugin,
        task_setting.plugin,
        protocol or task_setting.plugin.cls.default_protocol,
        {**selected(method_setting, task_setting), **(settings or {})},
    )
    if seeds is None:
        return _fits(resolved, [seed], watch)[0]
    distinct, size = list(dict.fromkeys(seeds)), STACK if resolved.task.stacks else 1
    stacks = [distinct[start : start + size] for start in range(0, len(distinct), size)]
    return Fits(fitted for stack in stacks for fitted in _fits(resolved, stack, watch))


def load_run(key: str, *, home: str | Path | None = None, allow_plugins: bool = False) -> Fit:
    """Load a stored run as a `Fit`, from its newest checkpoint.

    Args:
        key: the run's key, or as much of it as is one run's alone.
        home: the workspace; without it the current folder, or what BENCH_HOME and
            BENCH_DATABASE_URL name.
        allow_plugins: run the code of a method or task that the database holds; what this process
            has named itself runs without it.

    Raises:
        UnknownName: there is no such run, or there are several.
        UsageError: there is no database, or the run has no checkpoint.
        PluginError: its code is the database's, and was not allowed.
    """
    workspace = Workspace.current(home)
    with open_store(workspace) as store:
        spec = RunSpec.from_plain(store.find_one(key).spec)
        file = next(iter(store.checkpoints(spec.key)), None)
        if file is None:
            raise UsageError(f"Run {spec.key} has no checkpoint. Finish it with bench run.")
        options = Options(any_plugin=allow_plugins)
        method, task = registry.load(spec, partial(permitted_source, store, options))
    tensors, _ = checkpoint.read(file.path_in(workspace), file.sha256, spec.key)
    return _restored(method, task, spec, tensors, file.step)


def open_store(workspace: Workspace) -> ResultStore:
    """Open a workspace's result database, which must exist.

    Raises:
        UsageError: it does not.
    """
    if is_missing(workspace.database_url):
        raise UsageError(f"There are no runs in {workspace.home}. Name a workspace: home=...")
    return ResultStore.open(workspace.database_url)


def _fits(resolved: Resolved, seeds: Sequence[int], watch: Watch) -> list[Fit]:
    method, task, protocol = resolved.method, resolved.task, resolved.protocol
    state = training.start(method, task, protocol, seeds)
    if protocol.start_from is not None:
        workspace = Workspace.current()
        with open_store(workspace) as store:
            source_of = partial(permitted_source, store, Options())
            start_from(store, workspace, source_of, resolved.spec(seeds[0]), state)
    _train(method, task, protocol, state, watch)
    return [
        Fit(method, task, resolved.spec(seed), training.replicate(task, state, index))
        for index, seed in enumerate(seeds)
    ]


def _train(method: Method, task: Task, protocol: Protocol, state: State, watch: Watch) -> None:
    for progress in training.train(method, task, protocol, state):
        if watch is not None:
            watch(progress)
        if progress.warning:
            warnings.warn(f"{method.name}: {progress.warning}", stacklevel=4)
    for seed, step in zip(state.seeds, state.diverged_at.tolist(), strict=True):
        if step != training.NEVER:
            warnings.warn(
                f"{method.name} on {task.name}, seed {seed}: the bound or its gradient was not "
                f"finite at step {step}, where training ended.",
                stacklevel=4,
            )


def _setting(kind: registry.Kind, selector: Any) -> Setting:
    settings = settings_of(kind, selector, as_stored=False)
    if len(settings) > 1:
        raise UsageError(
            f"'{selector}' stands for {len(settings)} settings; fit takes one. "
            "To cross settings: harness.run."
        )
    return settings[0]


def _built(
    kind: registry.Kind, given: Any, name: str, fields: dict[str, Any], source: str | None
) -> Any:
    """Return the method or task of a saved fit."""
    if given is None and source is None and name in registry.installed(kind):
        given = name
    if given is None:
        raise UsageError(
            f"The {kind} '{name}' of this fit is not an installed one. Say what it is: "
            f"Fit.load(path, {kind}=Mine), or {kind}='./mine.py:Mine'."
        )
    plugin = _setting(kind, given).plugin
    if plugin.cls.name != name:
        raise UsageError(f"This fit is of the {kind} '{name}', not of '{plugin.cls.name}'.")
    if source is not None and plugin.source is not None and plugin.source.digest != source:
        warnings.warn(f"The {kind} '{name}' has changed since this fit was saved.", stacklevel=4)
    return registry.build(plugin.cls, f"{kind} '{name}'", fields, f"{kind}.")


def _restored(
    method: Method, task: Task, spec: RunSpec, tensors: dict[str, torch.Tensor], step: int
) -> Fit:
    state = training.start(method, task, spec.protocol(), [spec.seed])
    checkpoint.restore(state, [tensors], step)
    return Fit(method, task, spec, state)
