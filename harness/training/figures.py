"""The pictures of a trained model: samples, reconstructions, the way of the latents, and what lies
between two of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import Data
from harness.numerics.noise import Noise
from harness.training import png as pictures
from harness.training.model import Model

SIDE = 8  # of the grid of samples, and columns between two latents
SHOWN = 16  # test images
WAYS = 6  # test images whose latents are followed
LONGEST = 16  # steps of a way that are shown; of a longer one, as many evenly spread
PARTICLES = 100  # at most, of which one is shown


@dataclass(frozen=True)
class Reconstructed:
    """Test images, [n, height, width], with one particle of each, `z` [n, D], and its way, `path`
    [K + 1, n, D], where it has one.
    """

    images: Tensor
    z: Tensor
    path: Tensor | None


def pngs(model: Model, data: Data) -> Iterator[tuple[str, bytes]]:
    """Every picture of a run by its file's name. Where replicates stack, and where the task has no
    pictures, there are none.
    """
    if (
        model.task.stacks
        or model.task.decode(model.theta, model.like.new_zeros(1, model.task.latent_dim)) is None
    ):
        return
    stream = f"{model.spec.seed}/pictures"
    drawn = torch.from_numpy(model.sample(SIDE * SIDE, f"{stream}/samples")["pixels"])
    yield "samples.png", sheet(drawn.unflatten(0, (SIDE, SIDE)))
    seen = reconstructed(model, data, f"{stream}/test")
    yield "reconstructions.png", reconstructions(model, seen)
    if seen.path is not None and len(seen.path) > 2:
        yield "path.png", ways(model, seen.images[:WAYS], seen.path[:, :WAYS])
    if len(seen.z) > 1:
        yield "interpolation.png", between(model, seen.z)


def sheet(cells: Tensor, columns: list[str] | None = None, rows: list[str] | None = None) -> bytes:
    """Pictures [rows, columns, height, width] as a PNG."""
    return pictures.grid(cells.double().numpy(), columns or [], rows or [])


def square(cells: Tensor) -> bytes:
    """Pictures [n, height, width] as a PNG with about as many rows as columns; the last row may end
    early, in white.
    """
    side = next(side for side in range(1, len(cells) + 1) if side * side >= len(cells))
    n_rows = -(-len(cells) // side)
    blank = cells.new_ones(n_rows * side - len(cells), *cells.shape[1:])
    return sheet(torch.cat([cells, blank]).unflatten(0, (n_rows, side)))


def reconstructed(model: Model, data: Data, stream: str) -> Reconstructed:
    """The first test images with a particle each, drawn by its weight from as many as training drew
    for a step.
    """
    images, latents, paths, n_seen = [], [], [], 0
    for batch in model.task.scored_batches(
        data, model.spec.batch_size, Noise([stream], shuffled=False)
    ):
        originals = model.task.originals(batch)
        drawn = model.particles(
            batch, stream, n_seen, min(model.spec.particles, PARTICLES), trace=True
        )
        chosen = by_weight(drawn.log_w, Noise([f"{stream}/choice/{n_seen}"]))  # [N]
        each = torch.arange(len(chosen))
        images.append(originals)
        latents.append(drawn.z[chosen, each])
        paths.append(drawn.path[:, chosen, each] if drawn.path is not None else None)
        n_seen += len(originals)
        if n_seen >= SHOWN:
            break
    whole = [path[:, :SHOWN] for path in paths if path is not None]
    path = torch.cat(whole, 1)[:, :SHOWN] if whole else None
    return Reconstructed(torch.cat(images)[:SHOWN], torch.cat(latents)[:SHOWN], path)


def by_weight(log_w: Tensor, noise: Noise) -> Tensor:
    r"""The number of one particle for each problem, drawn with probability $w_s / \sum_s w_s$: [S,
    N] -> [N].

    The largest of $\log w_s + g_s$ with Gumbel noise $g_s = -\log(-\log u_s)$ is such a draw.
    """
    uniform = noise.uniform(*log_w.shape, like=log_w.new_zeros((), dtype=torch.float64))
    return (log_w.double() - (-uniform.clamp(min=1e-300).log()).log()).argmax(0)


def reconstructions(model: Model, seen: Reconstructed) -> bytes:
    """Test images above what their particles decode to."""
    return sheet(
        torch.stack([seen.images.to(seen.z.dtype), model.decode(seen.z)]), rows=["image", "decoded"]
    )


def ways(model: Model, images: Tensor, path: Tensor) -> bytes:
    """A row for each image: the image, then what its latent decodes to at each step from z_0 to
    z_K, [K + 1, n, D].
    """
    last = len(path) - 1
    shown = (
        sorted({round(place * last / (LONGEST - 1)) for place in range(LONGEST)})
        if last >= LONGEST
        else list(range(last + 1))
    )
    steps = path[shown]  # [steps, n, D]
    decoded = model.decode(steps.flatten(0, 1)).unflatten(0, steps.shape[:2])
    cells = torch.cat([images.to(decoded.dtype)[None], decoded]).transpose(0, 1)
    return sheet(cells, columns=["image", *(f"z{step}" for step in shown)])


def between(model: Model, z: Tensor) -> bytes:
    """A row for each pair of latents: what the points on the straight line from one to the other
    decode to.
    """
    first, second = z[0 : len(z) // 2 * 2 : 2], z[1::2]
    weight = torch.linspace(0, 1, SIDE, dtype=z.dtype)[None, :, None]
    points = (1 - weight) * first[:, None] + weight * second[:, None]  # [pairs, columns, D]
    decoded = model.decode(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    return sheet(decoded, columns=["first", *[""] * (SIDE - 2), "second"])
