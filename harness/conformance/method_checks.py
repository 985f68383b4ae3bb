"""What every method must satisfy, on problems whose evidence is known: proper weights, independent
particles, right gradients, nothing shared between replicates.
"""

from __future__ import annotations

import ast
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor

from harness.api import Method, Params, Particles
from harness.conformance.gradient_checks import surrogates_have_the_gradient
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
    gradients,
    leaf_fault,
    main_settings,
    method_leaves,
    none_of,
    recorded,
    reliable,
    reseeded,
    run_checks,
    tunable_ends,
)
from harness.conformance.task_checks import Case
from harness.densities import DiagNormal
from harness.numerics import bounds
from harness.numerics.noise import Noise
from harness.plan.registry import find

DRAWS = 20_000  # for each of the six problems of a main setting
CHUNK = 1_000  # draws computed at a time: the memory of one is a few MB
FAR = 1.0  # of the leaves' moves where numbers need only be finite
HEAVIEST_TAIL = 1 / 3
"""The Pareto shape from which weights have no third moment, and a mean's z-score is far from
normal.
"""
FEWEST_SETTINGS = 3
TASKS = ("gaussian-2", "bayes-linear-2", "student-mixture-1")
FEWEST_EFFECTIVE = 500
WIDTHS = (0.8, 0.4)  # of the narrow targets, in standard deviations of the method's own draws
BACKWARD_JITTER = 0.1  # a wrong law backwards shows where a network's numbers are large enough
BACKWARD_WIDTHS = (1.0, 0.9)  # reciprocal weights have no variance where a target is much narrower
Leaves = dict[str, Tensor]


def check_method(cls: type[Method], seed: int = 0, thoroughness: float = 1.0) -> Iterator[Check]:
    """Prove a method, one check at a time.

    Args:
        cls: the method's class; it must work with its defaults.
        seed: of all that is drawn.
        thoroughness: multiplies the draws of the statistical checks.
    """
    yield from run_checks(METHOD_CHECKS, cls, seed, thoroughness)


def settings_and_contexts(cls: type[Method]) -> Iterator[tuple[dict[str, Any], int]]:
    """The main settings without context, and the defaults with one."""
    yield from ((values, 0) for values in main_settings(cls))
    yield {}, N_CONTEXT


def log_ratios(method: Method, params: Params, target: Target, stream: str, draws: int) -> Tensor:
    r"""$\log w - \log p(x)$ of fresh particles, [S, N]."""
    noise, problem = Noise([stream]), target.problem()
    chunks = math.ceil(draws / CHUNK)
    size = math.ceil(draws / chunks)
    blocks = [
        method.particles(params, problem, noise.at(chunk), size).log_w for chunk in range(chunks)
    ]
    return torch.cat(blocks) - target.log_evidence


def six_targets(
    method: Method,
    params: Params,
    dim: int,
    seed: int,
    n_context: int,
    widths: tuple[float, float] = WIDTHS,
) -> Target:
    """Two conjugate Gaussians, and four of some widths centred where the method's own draws land;
    each under both bases.

    Where draws land can depend on the target, so it is looked for twice.
    """
    start = conjugate(6, dim, f"{seed}/conjugate", n_context)
    narrow = Target(start.base, bases(6, dim), torch.linspace(-3, 3, 6).double(), start.context)
    shrink = torch.tensor(widths).double().log().repeat_interleave(2)[:, None]
    for attempt in range(2):
        stream = f"{seed}/landing/{attempt}"
        z = method.particles(params, narrow.problem(), Noise([stream]), 1_000).z
        mean = torch.cat([start.posterior.mean[:2], z.mean(0)[2:]])
        log_scale = torch.cat([start.posterior.log_scale[:2], z.std(0).log()[2:] + shrink])
        evidence = torch.cat([start.log_evidence[:2], narrow.log_evidence[2:]])
        narrow = Target(start.base, DiagNormal(mean, log_scale), evidence, start.context)
    return narrow


def weight_z(log_ratio: Tensor) -> Tensor:
    """Standard errors between the mean weight and 1 for each problem that counts, [at most N]."""
    counts = reliable(log_ratio, HEAVIEST_TAIL)
    if not bool(counts.any()):
        return log_ratio.new_zeros(0)
    ratio = torch.exp(log_ratio[:, counts])
    return (ratio.mean(0) - 1) / (ratio.std(0) / math.sqrt(len(ratio))).clamp(min=1e-15)


def backward_weights_are_proper(cls: type[Method], seed: int, thoroughness: float) -> Verdict:
    r"""Over exact draws the mean of p(x) / w, w of a path backwards, is 1, and the paths are those
    of the method: $E_{forwards}[w\, h(w)] = p(x)\, E_{backwards}[h(w)]$, here with $h = \tanh \log
    (w / p(x))$. |z| is below the limit wherever it can be told: where both this mean and that of
    the forward weights have effective samples enough.
    """
    worst, n_reliable, n_problems, dim = Worst(), 0, 0, 2
    draws = max(2_000, int(DRAWS / 2 * thoroughness))
    settings = product(settings_and_contexts(cls), (0.0, BACKWARD_JITTER))
    for number, ((values, n_context), jitter) in enumerate(settings):
        method, stream = cls(**values), f"{seed}/backward/{number}"
        params = method_leaves(method, dim, stream, 6, n_context, jitter)
        with torch.no_grad():
            target = six_targets(method, params, dim, seed, n_context, BACKWARD_WIDTHS)
            log_w = backward_log_ratios(method, params, target, stream, draws)
            if log_w is None:
                return True, "not applicable: the method says no path backwards"
            forward = log_ratios(method, params, target, stream, draws)
            told = reliable(forward, HEAVIEST_TAIL) & reliable(-log_w, HEAVIEST_TAIL)
        n_problems += len(target.log_evidence)
        n_reliable += int(told.sum())
        if not bool(told.any()):
            continue
        z = torch.cat([weight_z(-log_w[:, told]), _difference_z(forward[:, told], log_w[:, told])])
        for excess in z.abs().tolist():
            worst.add(excess, f" at {described(values)}{', jittered' if jitter else ''}")
    if not n_reliable:
        return True, "not tested: nowhere have both kinds of weights effective samples enough"
    counted = f"{n_reliable} of {n_problems} settings counted"
    detail = f"worst |z| {worst.value:.1f}{worst.setting}, {counted} (limit {Z_LIMIT:g})"
    return worst.value < Z_LIMIT, detail


def backward_weights_are_proper_on_tasks(
    cls: type[Method], seed: int, thoroughness: float
) -> Verdict:
    """The same on tasks with exact draws, from a base with the moments of these: wherever both
    kinds of weights have an effective sample size above 500.
    """
    worst, counted, sizes = Worst(), [], []
    draws = max(2_000, int(DRAWS / 2 * thoroughness))
    for name in TASKS:
        plugin = find("task", name)
        case = Case(plugin.cls(**plugin.fields), seed, (seed,))
        oracle: Any = case.oracle
        theta, batch = case.theta("prior"), next(case.batches())
        others, exact = (
            oracle.draws(theta, batch, Noise([f"{seed}/{name}/{part}"]), n)
            for part, n in (("moments", 1_000), ("exact", draws))
        )
        base = DiagNormal(others.mean(0), others.std(0).log())
        problem = replace(case.task.problem(theta, batch, "prior"), base=base)
        stream, method = f"{seed}/backward/{name}", cls()
        params = method_leaves(method, exact.shape[-1], stream, 1)
        log_z, noise = oracle.log_evidence(theta, batch), Noise([f"{stream}/path"])
        with torch.no_grad():
            log_w = method.backward(params, problem, exact, noise)
            if log_w is None:
                return True, "not applicable: the method says no path backwards"
            forward = method.particles(params, problem, noise.at(1), draws).log_w - log_z
        backward = log_w - log_z
        effective = [float(bounds.ess(weights)) for weights in (forward, -backward)]
        sizes.append(f"{name} {min(effective):,.0f}")
        if min(effective) > FEWEST_EFFECTIVE:
            counted.append(name)
            light = reliable(forward, HEAVIEST_TAIL)
            difference = _difference_z(forward, backward)[light]
            for z in torch.cat([weight_z(-backward), difference]).abs().tolist():
                worst.add(z, f" on {name}")
    if not counted:
        return True, f"not tested: effective sample sizes are too small ({', '.join(sizes)})"
    detail = f"worst |z| {worst.value:.1f}{worst.setting}, {len(counted)} of {len(TASKS)} tasks"
    return worst.value < Z_LIMIT, f"{detail} counted (limit {Z_LIMIT:g})"


def _difference_z(forward: Tensor, backward: Tensor) -> Tensor:
    """Standard errors between two means that are equal where both kinds of paths are one law's,
    from log-weights less log p(x), [S, N] each: [N].
    """
    weighted, plain = forward.exp() * forward.tanh(), backward.tanh()
    error = (weighted.var(0) / len(weighted) + plain.var(0) / len(plain)).sqrt()
    return (weighted.mean(0) - plain.mean(0)) / error.clamp(min=1e-15)


def backward_log_ratios(
    method: Method, params: Params, target: Target, stream: str, draws: int
) -> Tensor | None:
    r"""$\log w - \log p(x)$ of paths that end in exact draws, [S, N]; None where there are none."""
    exact, noise, parts = Noise([f"{stream}/exact"]), Noise([f"{stream}/path"]), []
    for chunk in range(math.ceil(draws / CHUNK)):
        z = target.posterior.sample(exact.at(chunk), CHUNK)
        log_w = method.backward(params, target.problem(), z, noise.at(chunk))
        if log_w is None:
            return None
        parts.append(log_w - target.log_evidence)
    return torch.cat(parts)


def weight_settings(cls: type[Method]) -> Iterator[tuple[dict[str, Any], int, int, float, float]]:
    """Fields, dimension, context, jitter and share of the draws of each setting in which weights
    are tried.
    """
    for jitter in (0.0, JITTER):
        for values in main_settings(cls):
            yield values, 2, 0, jitter, 0.5 if values else 1.0
        # a choice may only show its fault far out
        for choice, end in product(choices(cls), tunable_ends(cls, "high")):
            if allowed(cls, choice | end) is not None:
                yield choice | end, 2, 0, jitter, 0.2
        for values in ({}, *choices(cls)):
            yield values, 2, N_CONTEXT, jitter, 0.5
        for dim in (1, 3):
            yield {}, dim, 0, jitter, 0.5


def weights_are_proper(cls: type[Method], seed: int, thoroughness: float) -> Verdict:
    """The mean of exp(log_w - log p) is 1, with |z| below the limit wherever it can be told."""
    worst, n_reliable, n_problems = Worst(), 0, 0
    for number, (values, dim, n_context, jitter, share) in enumerate(weight_settings(cls)):
        method, stream = cls(**values), f"{seed}/weights/{number}"
        params = method_leaves(method, dim, stream, 6, n_context, jitter)
        draws = max(2_000, int(DRAWS * share * thoroughness))
        with torch.no_grad():
            target = six_targets(method, params, dim, seed, n_context)
            z = weight_z(log_ratios(method, params, target, stream, draws))
            if len(z) and float(z.abs().amax()) > Z_LIMIT:
                # a tail too rare to be seen, or a fault? ten times the draws tell
                z = weight_z(log_ratios(method, params, target, f"{stream}/again", 10 * draws))
        n_problems += len(target.log_evidence)
        n_reliable += len(z)
        where = f"{', jittered' if jitter else ''}{', with context' if n_context else ''}"
        for excess in z.abs().tolist():
            worst.add(excess, f" at {described(values)}, D={dim}{where}")
    detail = (
        f"worst |z| {worst.value:.1f}{worst.setting}, {n_reliable} of {n_problems} settings "
        "counted "
        f"(limits {Z_LIMIT:g} and at least {FEWEST_SETTINGS})"
    )
    return worst.value < Z_LIMIT and n_reliable >= FEWEST_SETTINGS, detail


def bounds_are_ordered(cls: type[Method], seed: int, thoroughness: float) -> Verdict:
    """ELBO <= IWAE-2 <= IWAE-20 <= log p, each from draws of its own."""
    worst, draws = Worst(-math.inf), int(DRAWS * thoroughness)
    names = ("ELBO <= IWAE-2", "IWAE-2 <= IWAE-20", "IWAE-20 <= log p")
    for jitter in (0.0, JITTER):
        method, target = cls(), conjugate(4, 2, f"{seed}/bounds")
        params = method_leaves(method, 2, f"{seed}/bounds", 4, jitter=jitter)
        with torch.no_grad():
            log_ratio = log_ratios(method, params, target, f"{seed}/bounds/{jitter}", draws)
        size = len(log_ratio) // 60 * 20
        ladder = [
            bounds.iwae(log_ratio[i * size : (i + 1) * size].unflatten(0, (k, -1)).contiguous())
            for i, k in enumerate((1, 2, 20))
        ]
        ladder.append(torch.zeros(2, 4, dtype=torch.float64))  # log p - log p
        for name, (low, high) in zip(names, pairwise(ladder), strict=True):
            error = (low.var(0) / len(low) + high.var(0) / len(high)).sqrt().clamp(min=1e-15)
            worst.add(float(((low.mean(0) - high.mean(0)) / error).amax()), f", in {name}")
    return worst.verdict("largest excess in standard errors", Z_LIMIT)


def particles_are_independent(cls: type[Method], seed: int, _: float) -> Verdict:
    """log_w[s, n] and z[s, n] have a gradient of exactly zero in the noise of every other particle
    and problem.
    """
    n, worst, stream = 3, Worst(), f"{seed}/independence"
    for values, n_context in settings_and_contexts(cls):
        method, noise = cls(**values), RecordedNoise([stream])
        params = method_leaves(method, 2, stream, n, n_context, JITTER)
        problem = conjugate(n, 2, stream, n_context).problem()
        particles = method.particles(params, problem, noise, n)
        for s, k in product(range(n), repeat=2):
            outputs = particles.log_w[s, k] + particles.z[s, k].sum()
            foreign = torch.ones(n, n, dtype=torch.bool)
            foreign[s, k] = False
            slopes = torch.autograd.grad(outputs, noise.draws, retain_graph=True, allow_unused=True)
            for slope in slopes:
                if slope is not None:
                    worst.add(float(slope[foreign].abs().amax()))
        if not any(draw.requires_grad for draw in noise.draws):
            return False, "nothing was drawn from the noise"
    return worst.verdict("largest slope in the noise of another particle or problem", 0)


def _all_leaves(method: Method, seed: int, n_context: int) -> tuple[Leaves, Tensor | None]:
    """The leaves of a method and of its problems, `method.*`, `base.*` and `posterior.*`, with two
    problems, jittered.
    """
    target = conjugate(2, 2, f"{seed}/gradients", n_context)
    params = method_leaves(method, 2, f"{seed}/gradients", 2, n_context, JITTER)
    leaves = {f"method.{name}": leaf for name, leaf in params.items()}
    for owner, density in (("base", target.base), ("posterior", target.posterior)):
        leaves |= {f"{owner}.{name}": leaf for name, leaf in vars(density).items()}
    return leaves, target.context


def _log_w_at(
    method: Method, leaves: Leaves, context: Tensor | None, stream: str, n_particles: int
) -> Tensor:
    parts: dict[str, Leaves] = {"method": {}}
    for address, leaf in leaves.items():
        owner, _, name = address.partition(".")
        parts.setdefault(owner, {})[name] = leaf
    base, posterior = DiagNormal(**parts["base"]), DiagNormal(**parts["posterior"])
    target = Target(base, posterior, torch.zeros(len(base.mean), dtype=torch.float64), context)
    return method.particles(parts["method"], target.problem(), Noise([stream]), n_particles).log_w


def parameters_get_gradients(cls: type[Method], seed: int, _: float) -> Verdict:
    """Every leaf of the method, and of the base where it is used, has a finite gradient of the ELBO
    that is not zero.
    """
    lacking = []
    for values, n_context in settings_and_contexts(cls):
        leaves, context = _all_leaves(cls(**values), seed, n_context)
        leaves = recorded(leaves)
        log_w = _log_w_at(cls(**values), leaves, context, f"{seed}/gradients", 8)
        for name, slope in gradients(bounds.elbo(log_w).sum(), leaves).items():
            if name.startswith("base.") and not cls.uses_base:
                continue
            if not bool(slope.isfinite().all()) or not bool(slope.any()):
                lacking.append(f"{name} at {described(values)}")
    return none_of(lacking, "leaves without one")


def gradients_are_right(cls: type[Method], seed: int, _: float) -> Verdict:
    r"""Slopes along a random direction in each leaf equal central differences, extrapolated from
    steps h and h/2.

    The differences' own error is judged by how far the two steps disagree and by rounding,
    $\epsilon \sum |\log w| / h$; the limit is ten times the first and a hundred times the second.
    """
    worst = Worst()
    for values, n_context in settings_and_contexts(cls):
        for name, excess in _slope_errors(cls(**values), seed, n_context):
            worst.add(excess, f" in {name} at {described(values)}")
    return worst.verdict("largest difference over its own error", 1)


def _slope_errors(
    method: Method, seed: int, n_context: int, h: float = 1e-4
) -> Iterator[tuple[str, float]]:
    """Each leaf's difference between slope and central difference, over the difference's error."""
    leaves, context = _all_leaves(method, seed, n_context)
    noise = Noise([f"{seed}/directions"])
    weight = noise.normal(2, 2, like=LIKE)

    def value(leaves: Leaves) -> Tensor:
        return weight * _log_w_at(method, leaves, context, f"{seed}/differences", 2)

    start = recorded(leaves)
    at_start = value(start)
    slopes = gradients(at_start.sum(), start)
    rounding = 100 * torch.finfo(torch.float64).eps * (1 + float(at_start.detach().abs().sum())) / h
    for name, leaf in leaves.items():
        direction, differences = noise.normal(*leaf.shape, like=LIKE), []
        with torch.no_grad():
            for step in (h, h / 2):
                above = value(leaves | {name: leaf + step * direction})
                below = value(leaves | {name: leaf - step * direction})
                differences.append(float((above - below).sum()) / (2 * step))
        coarse, fine = differences
        error = 10 * abs(fine - coarse) + rounding
        yield name, abs(float((slopes[name] * direction).sum()) - (4 * fine - coarse) / 3) / error


def replicates_do_not_leak(cls: type[Method], seed: int, _: float) -> Verdict:
    """A stack of three gives the values and gradients that each replicate gives alone; slopes are
    measured against those of all leaves, as one leaf may have none but rounding.
    """
    worst, streams = Worst(), [f"{seed}/replicate/{replicate}" for replicate in range(3)]
    for values, n_context in settings_and_contexts(cls):
        method = cls(**values)
        target = conjugate(3, 2, f"{seed}/replicates", n_context)
        params = method_leaves(method, 2, f"{seed}/replicate", 3, n_context, JITTER)
        stack, stack_slopes = _draw_with_slopes(method, params, target, streams)
        draws, slopes = [], []
        for index, stream in enumerate(streams):
            own = {name: leaf[index : index + 1] for name, leaf in params.items()}
            own = params if n_context else own
            draw, slope = _draw_with_slopes(method, own, target.alone(index), [stream])
            draws.append(draw)
            slopes.append(slope)
        worst.add(distance(stack.z, torch.cat([draw.z for draw in draws], 1)))
        worst.add(distance(stack.log_w, torch.cat([draw.log_w for draw in draws], 1)))
        steepest = max((float(s.abs().amax()) for s in stack_slopes.values()), default=0.0)
        for name, slope in stack_slopes.items():
            singles = torch.stack([single[name] for single in slopes])
            own_slopes = singles.sum(0) if n_context else singles.flatten(0, 1)
            worst.add(distance(slope, own_slopes, steepest))
    return worst.verdict("largest relative difference between a stack and one alone", 1e-10)


def _draw_with_slopes(
    method: Method, params: Params, target: Target, streams: list[str]
) -> tuple[Particles, Leaves]:
    leaves = recorded(params)
    particles = method.particles(leaves, target.problem(), Noise(streams), 7)
    return particles, gradients(particles.log_w.sum(), leaves)


def _default_draw(cls: type[Method], stream: str, trace: bool = False, **values: Any) -> Particles:
    method = cls(**values)
    params = method_leaves(method, 2, stream, 3, jitter=JITTER)
    noise = Noise([f"{stream}/{replicate}" for replicate in range(3)])
    return method.particles(params, conjugate(3, 2, "conjugate").problem(), noise, 5, trace=trace)


def same_seed_same_numbers(cls: type[Method], seed: int, _: float) -> Verdict:
    """The same streams give the same bits, another seed others."""
    draw, again, another = (
        _default_draw(cls, f"{seed}/{name}") for name in ("same", "same", "other")
    )
    if not (torch.equal(draw.log_w, again.log_w) and torch.equal(draw.z, again.z)):
        return False, "the same seed gave other numbers"
    if bool((draw.z == another.z).all(-1).any()) or torch.equal(draw.log_w, another.log_w):
        return False, "another seed gave the same numbers"
    return True, "the same seed repeated, another seed differed"


def numbers_are_finite(cls: type[Method], seed: int, _: float) -> Verdict:
    """Draws and log-weights stay finite where every leaf is far from its start, by N(0, 1)."""
    method, unbounded = cls(), 0
    for n_context in (0, N_CONTEXT):
        stream = f"{seed}/far"
        params = method_leaves(method, 2, stream, 4, n_context, FAR)
        problem = conjugate(4, 2, stream, n_context).problem()
        with torch.no_grad():
            particles = method.particles(params, problem, Noise([stream]), CHUNK)
        finite = particles.z.isfinite().all(-1) & particles.log_w.isfinite()
        unbounded += int((~finite).sum())
    return not unbounded, f"{unbounded} of {8 * CHUNK:,} particles are not finite (limit 0)"


def shapes_and_precision_are_kept(cls: type[Method], seed: int, _: float) -> Verdict:
    """z [S, N, D] and log_w [S, N], in the precision of the parameters."""
    for dtype, n_context in product((torch.float32, torch.float64), (0, N_CONTEXT)):
        target, method = conjugate(4, 3, f"{seed}/shapes", n_context).to(dtype), cls()
        leaves = method_leaves(method, 3, str(seed), 4, n_context)
        params = {name: leaf.to(dtype) for name, leaf in leaves.items()}
        particles = method.particles(params, target.problem(), Noise([f"{seed}/shapes"]), 5)
        for name, shape in (("z", (5, 4, 3)), ("log_w", (5, 4))):
            leaf = getattr(particles, name)
            if leaf.shape != shape or leaf.dtype != dtype:
                got = f"{list(leaf.shape)} of {leaf.dtype}"
                return False, f"{name} is {got}, and must be {list(shape)} of {dtype}"
    return True, "z [S, N, D] and log_w [S, N], float32 and float64"


def trace_changes_nothing(cls: type[Method], seed: int, _: float) -> Verdict:
    """With `trace` the path [K + 1, S, N, D], where there is one, ends at z, and the numbers are
    the same; without it there is none.
    """
    has_path = True
    for values in main_settings(cls):
        plain, traced = (
            _default_draw(cls, f"{seed}/trace", trace=trace, **values) for trace in (False, True)
        )
        at, path, z = f", at {described(values)}", traced.path, traced.z
        has_path = has_path and path is not None
        if plain.path is not None:
            return False, f"a path may be there with trace=True only{at}"
        if path is not None and not (path.shape[1:] == z.shape and torch.equal(path[-1], z)):
            got = f"{list(path.shape)}, z {list(z.shape)}"
            return False, f"the path must be [K + 1, S, N, D] and end at z: got {got}{at}"
        if not (torch.equal(plain.z, z) and torch.equal(plain.log_w, traced.log_w)):
            return False, f"trace=True changed the numbers{at}"
    path = "the path ends at z" if has_path else "there is no path"
    return True, f"{path}, and tracing leaves every bit"


def init_is_sound(cls: type[Method], seed: int, _: float) -> Verdict:
    """First leaves are real, finite, [*event] with at least one axis, and the same whenever the
    stream is the same.
    """
    for values, n_context in product(main_settings(cls), (0, N_CONTEXT)):
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
    how = "did not depend" if same else "depended"
    return same, f"global generators stood still, and the numbers {how} on them"


def device_words(source: str) -> list[str]:
    """Words in a source text that name a device: `cuda`, `mps`, "cpu", `device=`."""
    devices = ("cuda", "mps", "cpu")
    words = []
    for node in ast.walk(ast.parse(source)):
        for name in ("attr", "id", "value"):
            word = getattr(node, name, None)
            if isinstance(word, str) and word.split(":")[0] in devices:
                words.append(word)
        if isinstance(node, ast.keyword) and node.arg == "device":
            words.append("device=")
    return words


def no_device_words(cls: type[Method], _: int, __: float) -> Verdict:
    """The method's file leaves devices to the harness."""
    bases = (base for base in cls.__mro__ if issubclass(base, Method) and base is not Method)
    words = [
        f"{word} in {name}"
        for name in sorted({base.__module__ for base in bases})
        for word in device_words(inspect.getsource(sys.modules[name]))
    ]
    return none_of(words, "device words")


METHOD_CHECKS: dict[str, Callable[[type[Method], int, float], Verdict]] = {
    "weights are proper": weights_are_proper,
    "weights backwards are proper": backward_weights_are_proper,
    "weights backwards are proper on tasks": backward_weights_are_proper_on_tasks,
    "particles depend on their own noise alone": particles_are_independent,
    "bounds are ordered": bounds_are_ordered,
    "every parameter gets a gradient": parameters_get_gradients,
    "gradients equal finite differences": gradients_are_right,
    "surrogates have the gradient": surrogates_have_the_gradient,
    "replicates do not leak": replicates_do_not_leak,
    "numbers are finite far from the start": numbers_are_finite,
    "same seed, same numbers": same_seed_same_numbers,
    "shapes and precision are kept": shapes_and_precision_are_kept,
    "tracing changes nothing": trace_changes_nothing,
    "first parameters come from the noise": init_is_sound,
    "noise is the only randomness": noise_is_the_only_randomness,
    "no device words": no_device_words,
}
"""Each check of a method by its name."""
