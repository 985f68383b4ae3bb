"""Training steps recorded once and replayed: on small problems Python takes longer than torch.

A recording is the list of torch operations of one step, forward and backward. torch's interpreter
replays it without running the Python code of task and method, and gives the same bits; fusing or
compiling would not.

What a step computed outside torch is a constant in its recording. A recording is therefore compared
with the step itself: at once, with other parameters and noise than it was made with, then after 1,
2, 4, ... steps. Where they differ, the state is put back to that of the last comparison, and from
there on steps are taken one by one.
"""

from __future__ import annotations

import os
import time
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

PATIENCE, PATIENCE_S = 300, 2.0
"""The steps, and the seconds that they took, before a recording is made: making it takes two
seconds, or as long as 150 to 300 steps where these are long.
"""
CHECK_EVERY = 1_000
"""The most steps between two comparisons."""
NEARBY = 0.1
"""Standard deviation of the noise on the parameters at which a recording is compared."""


class _NoiseRecorder(Noise):
    """Noise that keeps what it drew."""

    def __init__(self, noise: Noise) -> None:
        vars(self).update(vars(noise))
        self.calls: list[tuple[str, tuple[int, ...], torch.dtype]] = []
        self.draws: list[Tensor] = []

    def _draw(self, kind: str, shape: tuple[int, ...], like: Tensor | None) -> Tensor:
        self.draws.append(super()._draw(kind, shape, like))
        self.calls.append((kind, shape, self.draws[-1].dtype))
        return self.draws[-1]


class _DrawnNoise:
    """Noise that was drawn before. It has no step, so that what depends on one is not recorded."""

    def __init__(self, streams: tuple[str, ...], draws: tuple[Tensor, ...]) -> None:
        self.streams, self._draws = streams, iter(draws)

    def normal(self, *shape: int, like: Tensor | None = None) -> Tensor:
        return next(self._draws)

    uniform = normal


@dataclass(frozen=True)
class Recording:
    """A step as torch's interpreter runs it, on batches of these shapes and with these draws."""

    program: Callable[..., tuple[Tensor, Tensor]]
    shapes: dict[str, torch.Size]
    calls: list[tuple[str, tuple[int, ...], torch.dtype]]

    def __call__(self, flat: Tensor, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor]:
        draws = [
            getattr(noise, kind)(*shape, like=flat.new_empty((), dtype=dtype))
            for kind, shape, dtype in self.calls
        ]
        with torch.no_grad():
            return self.program(flat, *batch.values(), *draws)

    def unoptimised(self) -> Recording:
        """Return the recording without torch's optimisations, which may change the last bits."""

        def run(*inputs: Tensor) -> tuple[Tensor, Tensor]:
            with torch.jit.optimized_execution(False):  # pyright: ignore[reportPrivateImportUsage]
                return self.program(*inputs)

        return replace(self, program=run)


class _TorchOnly(TorchFunctionMode):
    """A context in which no values leave torch: what is computed elsewhere is not recorded."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.numpy, Tensor.__dlpack__):
            raise ValueError("the step looks at values")
        return func(*args, **(kwargs or {}))


def record(step: Step, flat: Tensor, batch: Batch, noise: Noise) -> Recording | None:
    """Record a step; None where it uses values outside torch, or the noise beyond its draws."""
    from torch.fx.experimental.proxy_tensor import make_fx

    recorder, names = _NoiseRecorder(noise), list(batch)
    step(flat, batch, recorder)

    def step_of_tensors(flat: Tensor, *leaves_and_draws: Tensor) -> tuple[Tensor, Tensor]:
        replayed_noise: Any = _DrawnNoise(noise.streams, leaves_and_draws[len(names) :])
        with _TorchOnly():
            return step(flat, dict(zip(names, leaves_and_draws, strict=False)), replayed_noise)

    inputs = (flat, *batch.values(), *recorder.draws)
    try:
        graph = make_fx(step_of_tensors)(*inputs)
        with warnings.catch_warnings(), torch.no_grad():
            # torch has no other interpreter that keeps every bit.
            warnings.simplefilter("ignore", DeprecationWarning)
            program: Any = torch.jit.trace(graph, inputs, check_trace=False)
    except Exception:  # noqa: BLE001  a step that cannot be recorded is taken all the same
        return None
    return Recording(program, {name: leaf.shape for name, leaf in batch.items()}, recorder.calls)


def identical(results: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor]) -> bool:
    """Tell whether all numbers are equal; NaN equals NaN."""
    return all(
        bool(((a == b) | (a.isnan() & b.isnan())).all())
        for a, b in zip(results, others, strict=True)
    )


class RecordedSteps:
    """Takes steps one by one, and once they have cost as much, where that is possible, from a
    recording.

    `BENCH_REPLAY=off` in the environment never records, `BENCH_REPLAY=always` records before the
    first step.

    Args:
        step: the step itself.
        is_faster: whether replaying is faster: on large problems it is not.
        snapshot: copies the state; what it returns puts the state back.
    """

    def __init__(
        self, step: Step, is_faster: bool, snapshot: Callable[[], Callable[[], None]]
    ) -> None:
        self.warning: str | None = None  # why steps are not replayed, where results differed
        self._step, self._snapshot = step, snapshot
        self._recording: Recording | None = None
        self._restore: Callable[[], None] = lambda: None
        self._count, self._compare_at, self._interval = 0, 0, 1
        mode = os.environ.get("BENCH_REPLAY", "")
        self._records = mode == "always" or (is_faster and mode != "off")
        self._patience, self._patience_s = (0, 0.0) if mode == "always" else (PATIENCE, PATIENCE_S)
        self._began = time.monotonic()

    def __call__(
        self, flat: Tensor, batch: Batch, noise: Noise, number: int, is_last: bool
    ) -> tuple[Tensor, Tensor] | None:
        """Take the step of that number: the bound [R] and its gradient [R, P]; None where replayed
        steps gave other numbers, and the state is that of the last comparison again.
        """
        if self._count == 0:
            self._start = flat.clone()
        spent = time.monotonic() - self._began
        if self._records and self._count >= self._patience and spent >= self._patience_s:
            self._records = False  # once
            self._record(flat, batch, noise, number)
        self._count += 1
        recording, shapes = self._recording, {name: leaf.shape for name, leaf in batch.items()}
        if recording is None or recording.shapes != shapes:
            return self._step(flat, batch, noise.at(number))
        if not is_last and self._count < self._compare_at:
            return recording(flat, batch, noise.at(number))
        self._compare_at = self._count + self._interval
        self._interval = min(2 * self._interval, CHECK_EVERY)
        return self._compare(recording, flat, batch, noise, number)

    def confirmed(
        self, flat: Tensor, batch: Callable[[], Batch], noise: Noise, number: int
    ) -> bool:
        """Tell whether the steps since the last comparison were right; if not, go back to it."""
        return (
            self._recording is None
            or self._compare(self._recording, flat, batch(), noise, number) is not None
        )

    def _record(self, flat: Tensor, batch: Batch, noise: Noise, number: int) -> None:
        """Record the step, if its recording gives the same bits also with other parameters."""
        recording = record(self._step, flat, batch, noise.at(number))
        if recording is None:
            return
        nearby = flat + NEARBY * Noise(["replay"]).normal(*flat.shape, like=flat)
        points = [flat, flat, self._start, nearby]  # torch optimises what it runs a second time

        def agrees(candidate: Recording, point: Tensor, number: int) -> bool:
            try:
                return identical(
                    candidate(point, batch, noise.at(number)),
                    self._step(point, batch, noise.at(number)),
                )
            except Exception:  # noqa: BLE001  a plugin may refuse parameters that training would not reach
                return False

        for candidate in (recording, recording.unoptimised()):
            if all(agrees(candidate, point, number + i) for i, point in enumerate(points)):
                self._recording, self._restore = candidate, self._snapshot()
                return
        self.warning = (
            f"steps are taken one by one: a recording of step {number:,} gave other "
            "numbers with other parameters or noise"
        )

    def _compare(
        self, recording: Recording, flat: Tensor, batch: Batch, noise: Noise, number: int
    ) -> tuple[Tensor, Tensor] | None:
        result = self._step(flat, batch, noise.at(number))
        if identical(recording(flat, batch, noise.at(number)), result):
            self._restore = self._snapshot()
            return result
        self._recording = None
        self._restore()
        self.warning = (
            f"steps are taken one by one: step {number:,} gave other numbers when it "
            "was played back"
        )
        return None
