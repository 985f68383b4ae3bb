"""Named random streams that can be read at any step: the only source of randomness."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

DOUBLE = torch.zeros((), dtype=torch.float64)
TRAIN_BLOCK = 16
"""Steps drawn at a time in training. It decides which numbers a step sees, so it is a constant and
no setting.
"""


def _generator(*name: object) -> np.random.Generator:
    """A Philox generator whose 128-bit key is the hash of a name, so that streams never overlap."""
    text = "/".join(map(str, name))
    return np.random.Generator(
        np.random.Philox(key=int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little"))
    )


class Noise:
    """Random numbers that depend on nothing but a stream's name, a step and the place of the call
    within that step.

    A generator is keyed by a hash of (stream, block of steps, kind, call), so any step can be drawn
    without those before it: a checkpoint need not store a generator's state, and one stream never
    disturbs another.

    Args:
        streams: one name a replicate (or, in evaluation, one a problem). With several streams, axis
            1 of every draw has one entry a stream, each of which is what that stream would give
            alone.
        steps_per_block: steps drawn by one generator; a stream always keeps the same.
        shuffled: with False, `permutation` is the identity.

    >>> import torch
    >>> noise, like = Noise(["0/train"]), torch.zeros((), dtype=torch.float64)
    >>> again = Noise(["0/train"]).at(5)
    >>> torch.equal(noise.at(5).normal(3, 1, 2, like=like), again.normal(3, 1, 2, like=like))
    True
    """

    def __init__(
        self, streams: Sequence[str], steps_per_block: int = 1, shuffled: bool = True
    ) -> None:
        self.streams = tuple(streams)
        self.steps_per_block = steps_per_block
        self.shuffled = shuffled
        self._step = 0
        self._calls = 0
        self._blocks: dict[tuple[str, int], _Block] = {}

    def at(self, step: int) -> Noise:
        """The same streams at the start of another step."""
        noise = Noise(self.streams, self.steps_per_block, self.shuffled)
        noise._step, noise._blocks = step, self._blocks
        return noise

    def normal(self, *shape: int, like: Tensor | None = None) -> Tensor:
        """Standard normal numbers of the full `shape`, with the dtype and device of `like`; without
        it in double precision on the CPU.
        """
        return self._draw("normal", shape, like)

    def uniform(self, *shape: int, like: Tensor | None = None) -> Tensor:
        """Numbers uniform on [0, 1) of the full `shape`, as `normal` has them."""
        return self._draw("uniform", shape, like)

    def permutation(self, n: int) -> Tensor:
        """An order of `n` items for each stream, `[R, n]`."""
        if not self.shuffled:
            return torch.arange(n).expand(len(self.streams), n)
        rows = [
            _generator(stream, self._step, "permutation", n).permutation(n)
            for stream in self.streams
        ]
        return torch.from_numpy(np.stack(rows))

    def _draw(self, kind: str, shape: tuple[int, ...], like: Tensor | None) -> Tensor:
        block, index = divmod(self._step, self.steps_per_block)
        call = (kind, self._calls)
        self._calls += 1
        drawn_block = self._blocks.get(call)
        if drawn_block is None or drawn_block.shape != shape:
            drawn_block = self._blocks[call] = _Block(
                shape, self._drawn_alone(shape), self.steps_per_block
            )
        if drawn_block.number != block:
            drawn_block.fill(
                [_generator(stream, block, kind, call[1]) for stream in self.streams], block, kind
            )
        like = DOUBLE if like is None else like
        return torch.empty(shape, dtype=like.dtype, device=like.device).copy_(
            drawn_block.step(index)
        )

    def _drawn_alone(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape with an axis of streams before it, and without the one within."""
        n = len(self.streams)
        if n == 1:
            return (1, *shape)
        if len(shape) < 2 or shape[1] != n:
            raise ValueError(
                f"axis 1 of a draw has one entry a stream: got shape {shape} for {n} streams"
            )
        return (n, shape[0], *shape[2:])


class _Block:
    """The numbers of some steps, in memory that is filled again and again: a new piece each time
    costs a quarter more.
    """

    def __init__(self, shape: tuple[int, ...], alone: tuple[int, ...], n_steps: int) -> None:
        self.shape, self.number = shape, -1
        self._numbers = np.empty((alone[0], n_steps, *alone[1:]))

    def fill(self, generators: Sequence[np.random.Generator], number: int, kind: str) -> None:
        """Draw the block of that number, a stream at a time."""
        for generator, numbers in zip(generators, self._numbers, strict=True):
            if kind == "normal":
                generator.standard_normal(out=numbers)
            else:
                generator.random(out=numbers)
        self.number = number

    def step(self, index: int) -> Tensor:
        """One step's numbers in the shape that was asked for; they change when the block is filled
        again.
        """
        numbers = torch.from_numpy(self._numbers[:, index])
        return numbers[0] if len(numbers) == 1 else numbers.transpose(0, 1)
