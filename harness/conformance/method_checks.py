"""What every method must satisfy, on problems whose evidence is known: proper weights, independent
particles, right gradients, nothing shared between replicates.
"""

from __future__ import annotations

import ast
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.api import Method, Params, Particles
from harness.conformance.problems import (
    JITTER,
    LIKE,
    N_CONTEXT,
    Z_LIMIT,
    Check,
    RecordedNoise,
    Target,
    Verdict,
    Worst,
    allowed,
    bases,
    choices,
    conjugate,
    described,
    distance,
    equal,
    global_state,
    leaf_fault,
    main_settings,
    method_leaves,
    reseeded,
    run_checks,
    tunable_ends,
)
from harness.densities import DiagNormal
from harness.numerics import bounds
from harness.numerics.noise import Noise

DRAWS = 20_000  # for each of the six problems of a main setting
CHUNK = 1_000  # draws computed at a time: the memory of one is a few MB
FEWEST_ESS = 500.0
HEAVIEST_TAIL = (
    1 / 3
)  # Pareto shape from which weights have no third moment, and a mean's z-score is far from normal
FEWEST_SETTINGS = 3
WIDTHS = (0.8, 0.4)  # of the narrow targets, in standard deviations of the method's own draws
Leaves = dict[str, Tensor]


def check_method(cls: type[Method], seed: int = 0, thoroughness: float = 1.0) -> Iterator[Check]:
    """Prove a method, one check at a time.

    Args:
        cls: the method's class; it must work with its defaults.
        seed: of all that is drawn.
        thoroughness: multiplies the draws of the statistical checks.
    """
    yield from run_checks(METHOD_CHECKS, cls, seed, thoroughness)


def crossed_settings(cls: type[Method]) -> Iterator[dict[str, Any]]:
    """Every value of a field that lists its values, at the upper end of every tunable range: a
    choice may only show its fault far out.
    """
    for choice in choices(cls):
        for end in tunable_ends(cls, "high"):
            if allowed(cls, choice | end) is not None:
                yield choice | end


def log_ratios(method: Method, params: Params, target: Target, stream: str, draws: int) -> Tensor:
    r"""$\log w - \log p(x)$ of fresh particles, [S, N]."""
    noise, problem = Noise([stream]), target.problem()
    chunks = math.ceil(draws / CHUNK)
    blocks = [
        method.particles(params, problem, noise.at(chunk), math.ceil(draws / chunks)).log_w
        for chunk in range(chunks)
    ]
    return torch.cat(blocks) - target.log_evidence


def landed(method: Method, params: Params, target: Target, stream: str) -> DiagNormal:
    """Where the method's draws land: their mean and scale, [N, D] each."""
    z = method.particles(params, target.problem(), Noise([stream]), 1_000).z
    return DiagNormal(z.mean(0), z.std(0).log())


def six_targets(method: Method, params: Params, dim: int, seed: int, n_context: int) -> Target:
    """Two conjugate Gaussians, and narrow ones centred where the method's own draws land; each
    under both bases.

    Where draws land can depend on the target, so it is looked for twice.
    """
    start = conjugate(6, dim, f"{seed}/conjugate", n_context)
    narrow = Target(start.base, bases(6, dim), torch.linspace(-3, 3, 6).double(), start.context)
    shrink = torch.tensor(WIDTHS).double().log().repeat_interleave(2)[:, None]
    for attempt in range(2):
        center = landed(method, params, narrow, f"{seed}/landing/{attempt}")
        mean = torch.cat([start.posterior.mean[:2], center.mean[2:]])
        log_scale = torch.cat([start.posterior.log_scale[:2], center.log_scale[2:] + shrink])
        evidence = torch.cat([start.log_evidence[:2], narrow.log_evidence[2:]])
        narrow = Target(start.base, DiagNormal(mean, log_scale), evidence, start.context)
    return narrow


def weight_z(log_ratio: Tensor) -> Tensor:
    """Standard errors between the mean weight and 1 for each problem that counts, [at most N]."""
    with np.errstate(over="ignore"):  # hopeless weights are no fault: they do not count
        reliable = (bounds.ess(log_ratio) > FEWEST_ESS) & (
            bounds.pareto_k(log_ratio) < HEAVIEST_TAIL
        )
    if not bool(reliable.any()):
        return log_ratio.new_zeros(0)
    ratio = torch.exp(log_ratio[:, reliable])
    return (ratio.mean(0) - 1) / (ratio.std(0) / math.sqrt(len(ratio))).clamp(min=1e-15)


def weight_settings(cls: type[Method]) -> Iterator[tuple[dict[str, Any], int, int, float, float]]:
    """Fields, dimension, context, jitter and share of the draws of each setting in which weights
    are tried.
    """
    for jitter in (0.0, JITTER):
        for values in main_settings(cls):
            yield values, 2, 0, jitter, 0.5 if values else 1.0
        for values in crossed_settings(cls):
            yield values, 2, 0, jitter, 0.2
        for values in ({}, *choices(cls)):
            yield values, 2, N_CONTEXT, jitter, 0.5
        for dim in (1, 3):
            yield {}, dim, 0, jitter, 0.5


def weights_are_proper(cls: type[Method], seed: int, thoroughness: float) -> Verdict:
    """The mean of exp(log_w - log p) is 1, with |z| below the limit wherever it can be told."""
    worst, n_reliable, n_problems = Worst(), 0, 0
    for number, (values, dim, n_context, jitter, share) in enumerate(weight_settings(cls)):
        method, stream = cls(**values), f"{seed}/weights/{number}"
        n_replicates = 1 if n_context else 6
        params = method_leaves(
            method,
            dim,
            [f"{stream}/{replicate}" for replicate in range(n_replicates)],
            n_context,
            jitter,
        )
        draws = max(2_000, int(DRAWS * share * thoroughness))
        with torch.no_grad():
            target = six_targets(method, params, dim, seed, n_context)
            z = weight_z(log_ratios(method, params, target, stream, draws))
            if (
                len(z) and float(z.abs().amax()) > Z_LIMIT
            ):  # a tail too rare to be seen, or a fault? ten times the draws tell
                z = weight_z(log_ratios(method, params, target, f"{stream}/again", 10 * draws))
        n_problems += len(target.log_evidence)
        n_reliable += len(z)
        if len(z):
            worst.add(
                float(z.abs().amax()),
                f" at {described(values)}, D={dim}{', jittered' if jitter else ''}{', with context' if n_context else ''}",
            )
    detail = (
        f"worst |z| {worst.value:.1f}{worst.setting}, {n_reliable} of {n_problems} settings counted "
        f"(limits {Z_LIMIT:g} and at least {FEWEST_SETTINGS})"
    )
    return worst.value < Z_LIMIT and n_reliable >= FEWEST_SETTINGS, detail


def bounds_are_ordered(cls: type[Method], seed: int, thoroughness: float) -> Verdict:
    """ELBO <= IWAE-2 <= IWAE-20 <= log p, each from draws of its own."""
    worst = Worst(-math.inf)
    for jitter in (0.0, JITTER):
        method, target = cls(), conjugate(4, 2, f"{seed}/bounds")
        params = method_leaves(
            method, 2, [f"{seed}/bounds/{replicate}" for replicate in range(4)], jitter=jitter
        )
        with torch.no_grad():
            log_ratio = log_ratios(
                method, params, target, f"{seed}/bounds/{jitter}", int(DRAWS * thoroughness)
            )
        size = len(log_ratio) // 60 * 20
        ladder = [
            bounds.iwae(log_ratio[i * size : (i + 1) * size].unflatten(0, (k, -1)).contiguous())
            for i, k in enumerate((1, 2, 20))
        ]
        ladder.append(torch.zeros(1, 4, dtype=torch.float64))  # log p - log p
        for (low, high), name in zip(
            pairwise(ladder),
            ("ELBO <= IWAE-2", "IWAE-2 <= IWAE-20", "IWAE-20 <= log p"),
            strict=True,
        ):
            z = float(((low.mean(0) - high.mean(0)) / _error(low, high)).amax())
            worst.add(z, name)
    return (
        worst.value < Z_LIMIT,
        f"largest excess {worst.value:.1f} standard errors, in {worst.setting} (limit {Z_LIMIT:g})",
    )


def _error(*samples: Tensor) -> Tensor:
    squares = [sample.var(0) / len(sample) for sample in samples if len(sample) > 1]
    return torch.stack(squares).sum(0).sqrt().clamp(min=1e-15)


def particles_are_independent(cls: type[Method], seed: int, _: float) -> Verdict:
    """log_w[s, n] and z[s, n] have a gradient of exactly zero in the noise of every other particle
    and problem.
    """
    n, largest = 3, 0.0
    for values, n_context in [*((values, 0) for values in main_settings(cls)), ({}, N_CONTEXT)]:
        method, noise = cls(**values), RecordedNoise([f"{seed}/independence"])
        streams = [f"{seed}/independence/{replicate}" for replicate in range(1 if n_context else n)]
        params = method_leaves(method, 2, streams, n_context, JITTER)
        particles = method.particles(
            params, conjugate(n, 2, f"{seed}/independence", n_context).problem(), noise, n
        )
        for index in range(n * n):
            s, k = divmod(index, n)
            outputs = particles.log_w[s, k] + particles.z[s, k].sum()
            own = torch.zeros(n, n, dtype=torch.bool)
            own[s, k] = True
            slopes = torch.autograd.grad(outputs, noise.draws, retain_graph=True, allow_unused=True)
            foreign = [float(slope[~own].abs().amax()) for slope in slopes if slope is not None]
            largest = max(largest, *foreign)
        if not any(draw.requires_grad for draw in noise.draws):
            return False, "nothing was drawn from the noise"
    return (
        largest == 0.0,
        f"largest slope in the noise of another particle or problem {largest:.1e} (limit 0)",
    )


def _all_leaves(method: Method, seed: int, n_context: int) -> tuple[Leaves, Tensor | None]:
    """The leaves of a method and of its problems, `method.*`, `base.*` and `posterior.*`, with two
    problems, jittered.
    """
    target = conjugate(2, 2, f"{seed}/gradients", n_context)
    streams = [f"{seed}/gradients/{replicate}" for replicate in range(1 if n_context else 2)]
    leaves = {
        f"method.{name}": leaf
        for name, leaf in method_leaves(method, 2, streams, n_context, JITTER).items()
    }
    for owner, density in (("base", target.base), ("posterior", target.posterior)):
        leaves |= {f"{owner}.mean": density.mean, f"{owner}.log_scale": density.log_scale}
    return leaves, target.context


def _draw_at(
    method: Method, leaves: Leaves, context: Tensor | None, stream: str, n_particles: int
) -> Particles:
    params = {
        name.removeprefix("method."): leaf
        for name, leaf in leaves.items()
        if name.startswith("method.")
    }
    base, posterior = (
        DiagNormal(leaves[f"{owner}.mean"], leaves[f"{owner}.log_scale"])
        for owner in ("base", "posterior")
    )
    target = Target(base, posterior, torch.zeros(len(base.mean), dtype=torch.float64), context)
    return method.particles(params, target.problem(), Noise([stream]), n_particles)


def gradients(value: Tensor, leaves: Leaves) -> Leaves:
    """The slope of `value` in each leaf, zeros where it does not depend on it."""
    slopes = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if slope is None else slope
        for (name, leaf), slope in zip(leaves.items(), slopes, strict=True)
    }


def parameters_get_gradients(cls: type[Method], seed: int, _: float) -> Verdict:
    """Every leaf of the method and of the base has a finite gradient of the ELBO that is not zero."""
    lacking = []
    for values, n_context in [*((values, 0) for values in main_settings(cls)), ({}, N_CONTEXT)]:
        leaves, context = _all_leaves(cls(**values), seed, n_context)
        leaves = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
        log_w = _draw_at(cls(**values), leaves, context, f"{seed}/gradients", 8).log_w
        for name, slope in gradients(bounds.elbo(log_w).sum(), leaves).items():
            if not bool(slope.isfinite().all()) or not bool(slope.any()):
                lacking.append(f"{name} at {described(values)}")
    return not lacking, f"{len(lacking)} leaves without one (limit 0)" + (
        f": {lacking[0]}" if lacking else ""
    )


def gradients_are_right(cls: type[Method], seed: int, _: float) -> Verdict:
    r"""Slopes along a random direction in each leaf equal central differences, extrapolated from
    steps h and h/2.

    The differences' own error is judged by how far the two steps disagree and by rounding,
    $\epsilon \sum |\log w| / h$; the limit is ten times the first and a hundred times the second.
    """
    worst = Worst()
    for values, n_context in [*((values, 0) for values in main_settings(cls)), ({}, N_CONTEXT)]:
        for name, excess in _slope_errors(cls(**values), seed, n_context):
            worst.add(excess, f" in {name} at {described(values)}")
    detail = f"largest difference {worst.value:.2g} times its own error{worst.setting} (limit 1)"
    return worst.value <= 1.0, detail


def _slope_errors(
    method: Method, seed: int, n_context: int, h: float = 1e-4
) -> Iterator[tuple[str, float]]:
    """Each leaf's difference between slope and central difference, over the difference's error."""
    leaves, context = _all_leaves(method, seed, n_context)
    noise = Noise([f"{seed}/directions"])
    weight = noise.normal(2, 2, like=LIKE)

    def value(leaves: Leaves) -> Tensor:
        return weight * _draw_at(method, leaves, context, f"{seed}/differences", 2).log_w

    recorded = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
    at_start = value(recorded)
    slopes = gradients(at_start.sum(), recorded)
    rounding = 100 * torch.finfo(torch.float64).eps * (1 + float(at_start.detach().abs().sum())) / h
    for name, leaf in leaves.items():
        direction = noise.normal(*leaf.shape, like=LIKE)

        def slope(
            step: float, name: str = name, leaf: Tensor = leaf, direction: Tensor = direction
        ) -> float:
            above, below = (
                value(leaves | {name: leaf + side * step * direction}) for side in (1, -1)
            )
            return float((above - below).sum()) / (2 * step)

        with torch.no_grad():
            coarse, fine = slope(h), slope(h / 2)
        error = 10 * abs(fine - coarse) + rounding
        yield name, abs(float((slopes[name] * direction).sum()) - (4 * fine - coarse) / 3) / error


def replicates_do_not_leak(cls: type[Method], seed: int, _: float) -> Verdict:
    """A stack of three gives the values and gradients that each replicate gives alone."""
    worst = 0.0
    for values, n_context in [*((values, 0) for values in main_settings(cls)), ({}, N_CONTEXT)]:
        method, streams = cls(**values), [f"{seed}/replicate/{replicate}" for replicate in range(3)]
        target = conjugate(3, 2, f"{seed}/replicates", n_context)
        params = method_leaves(method, 2, streams[:1] if n_context else streams, n_context, JITTER)
        stack, stack_slopes = _draw_with_slopes(method, params, target, streams)
        singles = []
        for index, stream in enumerate(streams):
            own = (
                params
                if n_context
                else {name: leaf[index : index + 1] for name, leaf in params.items()}
            )
            singles.append(_draw_with_slopes(method, own, target.alone(index), [stream]))
        worst = max(
            worst,
            distance(stack.z, torch.cat([single.z for single, _ in singles], 1)),
            distance(stack.log_w, torch.cat([single.log_w for single, _ in singles], 1)),
        )
        for name, slope in stack_slopes.items():
            own_slopes = [slopes[name] for _, slopes in singles]
            worst = max(
                worst,
                distance(
                    slope, torch.stack(own_slopes).sum(0) if n_context else torch.cat(own_slopes)
                ),
            )
    return (
        worst < 1e-10,
        f"largest relative difference between a stack and one alone {worst:.1e} (limit 1e-10)",
    )


def _draw_with_slopes(
    method: Method, params: Params, target: Target, streams: list[str]
) -> tuple[Particles, Leaves]:
    recorded = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
    particles = method.particles(recorded, target.problem(), Noise(streams), 7)
    return particles, gradients(particles.log_w.sum(), recorded) if recorded else {}


def _default_draw(
    cls: type[Method], stream: str, n_context: int = 0, trace: bool = False, **values: Any
) -> Particles:
    method, streams = cls(**values), [f"{stream}/{replicate}" for replicate in range(3)]
    params = method_leaves(method, 2, streams[:1] if n_context else streams, n_context, JITTER)
    return method.particles(
        params, conjugate(3, 2, "conjugate", n_context).problem(), Noise(streams), 5, trace=trace
    )


def same_seed_same_numbers(cls: type[Method], seed: int, _: float) -> Verdict:
    """The same streams give the same bits, another seed others."""
    draw, same_seed, another_seed = (
        _default_draw(cls, stream) for stream in (f"{seed}/same", f"{seed}/same", f"{seed}/other")
    )
    repeated = torch.equal(draw.log_w, same_seed.log_w) and torch.equal(draw.z, same_seed.z)
    differs = not bool((draw.z == another_seed.z).all(-1).any()) and not torch.equal(
        draw.log_w, another_seed.log_w
    )
    detail = f"the same seed {'repeated' if repeated else 'changed'}, another seed {'differed' if differs else 'repeated too'}"
    return repeated and differs, detail


def shapes_and_precision_are_kept(cls: type[Method], seed: int, _: float) -> Verdict:
    """z [S, N, D] and log_w [S, N], in the precision of the parameters."""
    for dtype in (torch.float32, torch.float64):
        for n_context in (0, N_CONTEXT):
            target, method = conjugate(4, 3, f"{seed}/shapes", n_context).to(dtype), cls()
            leaves = method_leaves(
                method,
                3,
                [f"{seed}/{replicate}" for replicate in range(1 if n_context else 4)],
                n_context,
            )
            params = {name: leaf.to(dtype) for name, leaf in leaves.items()}
            particles = method.particles(params, target.problem(), Noise([f"{seed}/shapes"]), 5)
            for name, leaf, shape in (
                ("z", particles.z, (5, 4, 3)),
                ("log_w", particles.log_w, (5, 4)),
            ):
                if leaf.shape != shape or leaf.dtype != dtype:
                    return (
                        False,
                        f"{name} is {list(leaf.shape)} of {leaf.dtype}, and must be {list(shape)} of {dtype}",
                    )
    return True, "z [S, N, D] and log_w [S, N], float32 and float64"


def trace_changes_nothing(cls: type[Method], seed: int, _: float) -> Verdict:
    """With `trace` the path [K + 1, S, N, D], where there is one, ends at z, and the numbers are
    the same; without it there is none.
    """
    without_path = 0
    for values in main_settings(cls):
        plain, traced = (
            _default_draw(cls, f"{seed}/trace", trace=trace, **values) for trace in (False, True)
        )
        if plain.path is not None:
            return False, f"a path may be there with trace=True only, at {described(values)}"
        if traced.path is None:
            without_path += 1
        elif traced.path.shape[1:] != traced.z.shape or not torch.equal(traced.path[-1], traced.z):
            shape = f"{list(traced.path.shape)}, z {list(traced.z.shape)}"
            return (
                False,
                f"the path must be [K + 1, S, N, D] and end at z: got {shape}, at {described(values)}",
            )
        if not (torch.equal(plain.z, traced.z) and torch.equal(plain.log_w, traced.log_w)):
            return False, f"trace=True changed the numbers, at {described(values)}"
    return (
        True,
        f"{'there is no path' if without_path else 'the path ends at z'}, and tracing leaves every bit",
    )


def init_is_sound(cls: type[Method], seed: int, _: float) -> Verdict:
    """First leaves are real, finite, [*event] with at least one axis, and the same whenever the
    stream is the same.
    """
    for values, n_context in [
        (values, n_context) for values in main_settings(cls) for n_context in (0, N_CONTEXT)
    ]:
        draws = []
        for global_seed in (1, 2):
            with reseeded(global_seed):
                draws.append(cls(**values).init(2, Noise([f"{seed}/init"]), n_context))
        if fault := leaf_fault(draws[0]):
            return False, fault
        if not equal(*draws):
            return False, f"the same stream gave other leaves, at {described(values)}"
    return True, "finite reals with at least one axis, drawn from the noise alone"


def noise_is_the_only_randomness(cls: type[Method], seed: int, _: float) -> Verdict:
    """The global generators of torch, numpy and Python are neither used nor moved."""
    draws = []
    for global_seed in (1, 2):
        with reseeded(global_seed):
            state = global_state()
            draws.append(_default_draw(cls, f"{seed}/global"))
            if global_state() != state:
                return False, "a global generator moved"
    same = torch.equal(draws[0].log_w, draws[1].log_w)
    return (
        same,
        f"global generators stood still, and the numbers {'did not depend' if same else 'depended'} on them",
    )


def device_words(source: str) -> list[str]:
    """Words in a source text that name a device: `cuda`, `mps`, "cpu", `device=`."""
    devices = ("cuda", "mps", "cpu")
    words = []
    for node in ast.walk(ast.parse(source)):
        word = (
            getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "value", None)
        )
        if isinstance(word, str) and word.split(":")[0] in devices:
            words.append(word)
        if isinstance(node, ast.keyword) and node.arg == "device":
            words.append("device=")
    return words


def no_device_words(cls: type[Method], _: int, __: float) -> Verdict:
    """The method's file leaves devices to the harness."""
    modules = {
        base.__module__ for base in cls.__mro__ if issubclass(base, Method) and base is not Method
    }
    words = [
        f"{word} in {name}"
        for name in sorted(modules)
        for word in device_words(inspect.getsource(sys.modules[name]))
    ]
    return not words, f"{len(words)} device words (limit 0)" + (
        f": {', '.join(words)}" if words else ""
    )


METHOD_CHECKS: dict[str, Callable[[type[Method], int, float], Verdict]] = {
    "weights are proper": weights_are_proper,
    "particles depend on their own noise alone": particles_are_independent,
    "bounds are ordered": bounds_are_ordered,
    "every parameter gets a gradient": parameters_get_gradients,
    "gradients equal finite differences": gradients_are_right,
    "replicates do not leak": replicates_do_not_leak,
    "same seed, same numbers": same_seed_same_numbers,
    "shapes and precision are kept": shapes_and_precision_are_kept,
    "tracing changes nothing": trace_changes_nothing,
    "first parameters come from the noise": init_is_sound,
    "noise is the only randomness": noise_is_the_only_randomness,
    "no device words": no_device_words,
}
"""Each check of a method by its name."""
