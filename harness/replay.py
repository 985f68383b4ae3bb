"""A step's operations, recorded once and played back: on small problems torch takes longer to be told what to do than to do it.

A recording is the list of operations that a step ran, forward and back, in their order, without the code that asked for them. It is
run by torch's own interpreter, and gives the same bits. Fusing or compiling would be faster still, and would not.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.api import Batch
from harness.errors import PluginError
from harness.noise import Noise

Step = Callable[[Tensor, Batch, Noise], tuple[Tensor, Tensor]]
"""Parameters [R, P], a batch and a step's noise to the bound [R] and its gradient [R, P]."""

PATIENCE = 2_000
"""Steps before a recording is made: it takes two seconds, about as long as they do."""
CHECK_EVERY = 1_000
"""Every so many steps one is taken both ways, and must give the same bits."""


class _Listening(Noise):
    """Noise that keeps what it gave."""

    def __init__(self, noise: Noise) -> None:
        vars(self).update(vars(noise))
        self.calls: list[tuple[str, tuple[int, ...], torch.dtype]] = []
        self.drawn: list[Tensor] = []

    def _draw(self, kind: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        self.calls.append((kind, shape, like.dtype))
        self.drawn.append(super()._draw(kind, shape, like))
        return self.drawn[-1]


class _Given:
    """Noise that was drawn before; it has no step, so that nothing which looks at one is recorded."""

    def __init__(self, streams: tuple[str, ...], drawn: tuple[Tensor, ...]) -> None:
        self.streams, self._drawn = streams, iter(drawn)

    def normal(self, *shape: int, like: Tensor) -> Tensor:
        return next(self._drawn)

    uniform = normal


@dataclass(frozen=True)
class Recording:
    """A step as torch's interpreter runs it, on batches of these shapes, with these draws."""

    program: Callable[..., tuple[Tensor, Tensor]]
    shapes: dict[str, torch.Size]
    calls: list[tuple[str, tuple[int, ...], torch.dtype]]

    def fits(self, batch: Batch) -> bool:
        """Whether the batch is of the same shapes."""
        return {name: leaf.shape for name, leaf in batch.items()} == self.shapes

    def __call__(self, flat: Tensor, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor]:
        drawn = [getattr(noise, kind)(*shape, like=flat.new_empty((), dtype=dtype)) for kind, shape, dtype in self.calls]
        with torch.no_grad():
            return self.program(flat, *batch.values(), *drawn)


def record(step: Step, flat: Tensor, batch: Batch, noise: Noise) -> Recording | None:
    """The recording of a step; None where it looks at values, or at more of the noise than its numbers, or gives other bits."""
    from torch.fx.experimental.proxy_tensor import make_fx

    heard, names = _Listening(noise), list(batch)
    taken = step(flat, batch, heard)

    def written(flat: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        given: Any = _Given(noise.streams, rest[len(names) :])
        return step(flat, dict(zip(names, rest, strict=False)), given)

    inputs = (flat, *batch.values(), *heard.drawn)
    try:
        graph = make_fx(written)(*inputs)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch has no other interpreter that keeps every bit
            program: Any = torch.jit.trace(graph, inputs, check_trace=False)
    except Exception:  # noqa: BLE001  whatever hinders a recording hinders no step
        return None
    recording = Recording(program, {name: leaf.shape for name, leaf in batch.items()}, heard.calls)
    with torch.no_grad():
        return recording if same(taken, program(*inputs)) else None


def same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    """Whether all numbers are equal; NaN equals NaN."""
    return all(bool(((a == b) | (a.isnan() & b.isnan())).all()) for a, b in zip(one, other, strict=True))


class Replayed:
    """Takes steps one by one, and from `PATIENCE` on, where it can, from a recording.

    Where the numbers take the time, and not the operations, it is not `worth` it. `BENCH_REPLAY=off` never records, and
    `BENCH_REPLAY=always` does before the first step.
    """

    def __init__(self, step: Step, worth: bool) -> None:
        self._step, self._count, self._recording = step, 0, None
        wish = os.environ.get("BENCH_REPLAY")
        self._record_at = {"off": -1, "always": 0}.get(wish or "", PATIENCE if worth else -1)

    def __call__(self, flat: Tensor, batch: Batch, noise: Noise, number: int) -> tuple[Tensor, Tensor]:
        """The step of that number: the bound [R] and its gradient [R, P].

        Raises:
            PluginError: played back it gives other numbers; what is recorded must depend on nothing but its arguments.
        """
        if self._count == self._record_at:
            self._recording = record(self._step, flat, batch, noise.at(number))
        self._count += 1
        recording = self._recording
        if recording is None or not recording.fits(batch):
            return self._step(flat, batch, noise.at(number))
        found = recording(flat, batch, noise.at(number))
        if self._count % CHECK_EVERY == 0 and not same(found, self._step(flat, batch, noise.at(number))):
            raise PluginError(f"Step {number} gives other numbers when it is played back: method or task depend on more than arguments.")
        return found
