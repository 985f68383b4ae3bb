"""A step's operations, recorded once and played back: on small problems torch takes longer to be
told what to do than to do it.

A recording is the list of operations that a step ran, forward and back, in their order, without the
code that asked for them. It is run by torch's own interpreter, and gives the same bits. Fusing or
compiling would be faster still, and would not.

What a step computed outside torch is a constant of its recording. So a recording is compared with
the step itself: at once, with other parameters and other noise than its own, then after 1, 2, 4,
... steps. Where the two differ, the state goes back to the comparison before, and from there on
steps are taken one by one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from harness.api import Batch
from harness.numerics.noise import Noise

Step = Callable[[Tensor, Batch, Noise], tuple[Tensor, Tensor]]
"""Parameters [R, P], a batch and a step's noise to the bound [R] and its gradient [R, P]."""

PATIENCE = 2_000
"""Steps before a recording is made: it takes two seconds, about as long as they do."""
CHECK_EVERY = 1_000
"""The most steps from one that is taken both ways, and must give the same bits, to the next."""
NEARBY = 0.1
"""How far the parameters of a comparison lie from those of the recording: a standard deviation."""


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
        drawn = [
            getattr(noise, kind)(*shape, like=flat.new_empty((), dtype=dtype))
            for kind, shape, dtype in self.calls
        ]
        with torch.no_grad():
            return self.program(flat, *batch.values(), *drawn)

    def as_written(self) -> Recording:
        """The same, run as it stands: what torch makes of a program may split an operation in two,
        with other last bits.
        """

        def run(*inputs: Tensor) -> tuple[Tensor, Tensor]:
            with torch.jit.optimized_execution(False):  # pyright: ignore[reportPrivateImportUsage]
                return self.program(*inputs)

        return replace(self, program=run)


class _Sealed(TorchFunctionMode):
    """Within it numbers do not leave torch: what comes of them elsewhere is not recorded."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.numpy, Tensor.__dlpack__):
            raise ValueError("the step looks at values")
        return func(*args, **(kwargs or {}))


def record(step: Step, flat: Tensor, batch: Batch, noise: Noise) -> Recording | None:
    """The recording of a step; None where it looks at values, or at more of the noise than its
    numbers.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    heard, names = _Listening(noise), list(batch)
    step(flat, batch, heard)

    def written(flat: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        given: Any = _Given(noise.streams, rest[len(names) :])
        with _Sealed():
            return step(flat, dict(zip(names, rest, strict=False)), given)

    inputs = (flat, *batch.values(), *heard.drawn)
    try:
        graph = make_fx(written)(*inputs)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # torch has no other interpreter that keeps every bit
            program: Any = torch.jit.trace(graph, inputs, check_trace=False)
    except Exception:  # noqa: BLE001  whatever hinders a recording hinders no step
        return None
    return Recording(program, {name: leaf.shape for name, leaf in batch.items()}, heard.calls)


def same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    """Whether all numbers are equal; NaN equals NaN."""
    return all(
        bool(((a == b) | (a.isnan() & b.isnan())).all()) for a, b in zip(one, other, strict=True)
    )


class Replayed:
    """Takes steps one by one, and from `PATIENCE` on, where it can, from a recording.

    Where the numbers take the time, and not the operations, it is not `worth` it.
    `BENCH_REPLAY=off` never records, and `BENCH_REPLAY=always` does before the first step.

    Args:
        step: the step itself.
        worth: whether playing back is faster.
        keep: keeps the state as it is; what it returns puts the state back.
    """

    def __init__(self, step: Step, worth: bool, keep: Callable[[], Callable[[], None]]) -> None:
        self._step, self._keep = step, keep
        self.remark: str | None = (
            None  # why steps are not played back, where they give other numbers
        )
        self._recording: Recording | None = None
        self._go_back: Callable[[], None] = lambda: None
        self._count, self._compare_at, self._distance = 0, 0, 1
        wish = os.environ.get("BENCH_REPLAY")
        self._record_at = {"off": -1, "always": 0}.get(wish or "", PATIENCE if worth else -1)

    def __call__(
        self, flat: Tensor, batch: Batch, noise: Noise, number: int, last: bool
    ) -> tuple[Tensor, Tensor] | None:
        """The step of that number: the bound [R] and its gradient [R, P]; the last one is compared.

        None where steps that were played back gave other numbers: the state is that of the last
        comparison again.
        """
        if self._count == 0:
            self._first = flat.clone()
        if self._count == self._record_at:
            self._record(flat, batch, noise, number)
        self._count += 1
        recording = self._recording
        if recording is None or not recording.fits(batch):
            return self._step(flat, batch, noise.at(number))
        if not last and self._count < self._compare_at:
            return recording(flat, batch, noise.at(number))
        self._compare_at = self._count + self._distance
        self._distance = min(2 * self._distance, CHECK_EVERY)
        return self._compared(recording, flat, batch, noise, number)

    def holds(self, flat: Tensor, batch: Callable[[], Batch], noise: Noise, number: int) -> bool:
        """Whether the steps since the last comparison stand; where they do not, the state is that
        of the last comparison again.
        """
        return (
            self._recording is None
            or self._compared(self._recording, flat, batch(), noise, number) is not None
        )

    def _record(self, flat: Tensor, batch: Batch, noise: Noise, number: int) -> None:
        """Record the step, if its recording gives the same bits with these and other parameters and
        noise.
        """
        recording = record(self._step, flat, batch, noise.at(number))
        if recording is None:
            return
        nearby = flat + NEARBY * Noise(["replay"]).normal(*flat.shape, like=flat)
        places = [
            flat,
            flat,
            self._first,
            nearby,
        ]  # torch optimises what it runs for the second time
        for candidate in (recording, recording.as_written()):
            if all(
                self._agrees(candidate, place, batch, noise, number + ahead)
                for ahead, place in enumerate(places)
            ):
                self._recording, self._go_back = candidate, self._keep()
                return
        self.remark = f"steps are taken one by one: a recording of step {number:,} gave other numbers with other parameters or noise"

    def _agrees(
        self, recording: Recording, flat: Tensor, batch: Batch, noise: Noise, number: int
    ) -> bool:
        try:
            return same(
                recording(flat, batch, noise.at(number)), self._step(flat, batch, noise.at(number))
            )
        except Exception:  # noqa: BLE001  a plugin may refuse parameters that training would not reach
            return False

    def _compared(
        self, recording: Recording, flat: Tensor, batch: Batch, noise: Noise, number: int
    ) -> tuple[Tensor, Tensor] | None:
        taken = self._step(flat, batch, noise.at(number))
        if same(recording(flat, batch, noise.at(number)), taken):
            self._go_back = self._keep()
            return taken
        self._recording = None
        self._go_back()
        self.remark = f"steps are taken one by one: step {number:,} gave other numbers when it was played back"
        return None
