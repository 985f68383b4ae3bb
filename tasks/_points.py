"""What tasks of points share: a latent vector behind each, one set of weights for all of them."""

from __future__ import annotations

from typing import ClassVar

from harness.api import Batch, Data, Noise, Task

from .gaussian import mini_batch

PART = 250  # held-out points that are scored at a time: it bounds memory and touches no number


class Points(Task, frozen=True):
    """Points x [n, C] to learn from, and as many as the task likes held out, which scores are means
    over. `load` also gives `centre` and `scale` [C] of the training data.
    """

    stacks: ClassVar[bool] = False
    default_base: ClassVar[str] = "learned"
    default_protocol: ClassVar[str] = "standard"

    def batch(self, data: Data, step: int, batch_size: int | None, noise: Noise) -> Batch:
        """`x` [N, C]: all points, or those of a mini-batch; `centre` and `scale` [C]."""
        x = data.train["x"]
        part = x if batch_size is None else mini_batch(x[None], step, batch_size, noise)[0]
        return {**data.train, "x": part}

    def scored_batches(self, data: Data, batch_size: int | None, noise: Noise) -> list[Batch]:
        """The held-out points, in parts."""
        held_out = (data.test or data.train)["x"]
        return [{**data.train, "x": part} for part in held_out.split(PART)]
