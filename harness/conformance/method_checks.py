"""What every method must satisfy, on problems whose evidence is known."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from harness.api import Method, Params, Particles
from harness.conformance.gradients import (
    Leaves,
    gradients,
    gradients_are_right,
    parameters_get_gradients,
    particles_are_independent,
)
from harness.conformance.problems import (
    JITTER,
    N_CONTEXT,
    Check,
    Target,
    Verdict,
    called,
    conjugate,
    distance,
    equal,
    global_state,
    leaf_fault,
    main_settings,
    method_leaves,
    reseeded,
    run_checks,
)
from harness.conformance.weights import bounds_are_ordered, weights_are_proper
from harness.numerics.noise import Noise


def check_method(cls: type[Method], seed: int = 0, thoroughness: float = 1.0) -> Iterator[Check]:
    """Prove a method, one check at a time.

    Args:
        cls: the method's class; it must work with its defaults.
        seed: of all that is drawn.
        thoroughness: multiplies the draws of the statistical checks.
    """
    yield from run_checks(METHOD_CHECKS, cls, seed, thoroughness)


def replicates_do_not_leak(cls: type[Method], seed: int, _: float) -> Verdict:
    """A stack of three gives the values and gradients that each replicate gives alone."""
    worst = 0.0
    for values, n_context in [*((values, 0) for values in main_settings(cls)), ({}, N_CONTEXT)]:
        method, streams = cls(**values), [f"{seed}/replicate/{replicate}" for replicate in range(3)]
        target = conjugate(3, 2, f"{seed}/replicates", n_context)
        params = method_leaves(method, 2, streams[:1] if n_context else streams, n_context, JITTER)
        stack, stack_slopes = _draw_with_slopes(method, params, target, streams)
        alone = []
        for index, stream in enumerate(streams):
            own = (
                params
                if n_context
                else {name: leaf[index : index + 1] for name, leaf in params.items()}
            )
            alone.append(_draw_with_slopes(method, own, target.one(index), [stream]))
        worst = max(
            worst,
            distance(stack.z, torch.cat([each.z for each, _ in alone], 1)),
            distance(stack.log_w, torch.cat([each.log_w for each, _ in alone], 1)),
        )
        for name, slope in stack_slopes.items():
            own_slopes = [slopes[name] for _, slopes in alone]
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
    first, again, other = (
        _default_draw(cls, stream) for stream in (f"{seed}/same", f"{seed}/same", f"{seed}/other")
    )
    repeated = torch.equal(first.log_w, again.log_w) and torch.equal(first.z, again.z)
    differs = not bool((first.z == other.z).all(-1).any()) and not torch.equal(
        first.log_w, other.log_w
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
            return False, f"a path may be there with trace=True only, at {called(values)}"
        if traced.path is None:
            without_path += 1
        elif traced.path.shape[1:] != traced.z.shape or not torch.equal(traced.path[-1], traced.z):
            shape = f"{list(traced.path.shape)}, z {list(traced.z.shape)}"
            return (
                False,
                f"the path must be [K + 1, S, N, D] and end at z: got {shape}, at {called(values)}",
            )
        if not (torch.equal(plain.z, traced.z) and torch.equal(plain.log_w, traced.log_w)):
            return False, f"trace=True changed the numbers, at {called(values)}"
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
        drawn = []
        for global_seed in (1, 2):
            with reseeded(global_seed):
                drawn.append(cls(**values).init(2, Noise([f"{seed}/init"]), n_context))
        if fault := leaf_fault(drawn[0]):
            return False, fault
        if not equal(*drawn):
            return False, f"the same stream gave other leaves, at {called(values)}"
    return True, "finite reals with at least one axis, drawn from the noise alone"


def noise_is_the_only_randomness(cls: type[Method], seed: int, _: float) -> Verdict:
    """The global generators of torch, numpy and Python are neither used nor moved."""
    drawn = []
    for global_seed in (1, 2):
        with reseeded(global_seed):
            before = global_state()
            drawn.append(_default_draw(cls, f"{seed}/global"))
            if global_state() != before:
                return False, "a global generator moved"
    same = torch.equal(drawn[0].log_w, drawn[1].log_w)
    return (
        same,
        f"global generators stood still, and the numbers {'did not depend' if same else 'depended'} on them",
    )


def device_words(source: str) -> list[str]:
    """Words in a source text that name a device: `cuda`, `mps`, "cpu", `device=`."""
    devices = ("cuda", "mps", "cpu")
    found = []
    for node in ast.walk(ast.parse(source)):
        word = (
            getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "value", None)
        )
        if isinstance(word, str) and word.split(":")[0] in devices:
            found.append(word)
        if isinstance(node, ast.keyword) and node.arg == "device":
            found.append("device=")
    return found


def no_device_words(cls: type[Method], _: int, __: float) -> Verdict:
    """The method's file leaves devices to the harness."""
    modules = {
        base.__module__ for base in cls.__mro__ if issubclass(base, Method) and base is not Method
    }
    found = [
        f"{word} in {name}"
        for name in sorted(modules)
        for word in device_words(inspect.getsource(sys.modules[name]))
    ]
    return not found, f"{len(found)} device words (limit 0)" + (
        f": {', '.join(found)}" if found else ""
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
