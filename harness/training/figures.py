"""PNG figures of what a trained model of images draws. The same numbers give the same bytes."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from harness.api import Batch, Data
from harness.numerics.noise import Noise
from harness.training.model import TrainedModel

SIDE = 8  # of the grid of samples, and columns between two latents
N_IMAGES = 16  # test images that are reconstructed
N_TRAJECTORIES = 6  # test images whose latents are followed
N_POSITIONS = 16  # shown of a trajectory; of a longer one, as many evenly spread
PARTICLES = 100  # at most, of which one is shown

CELL, GAP, TEXT, MARGIN = 56, 4, 12, 10
"""Pixels: about the side of a cell of a grid, the line between two, the height of letters, the
border around all.
"""
INK_LEVEL = 0x33
INK = "#333333"


def pngs(model: TrainedModel, data: Data) -> Iterator[tuple[str, bytes]]:
    """Draw every figure of a run, by its file's name: none where the task has no images."""
    zeros = model.like.new_zeros(1, model.task.latent_dim)
    if model.task.stacks or model.task.decode(model.theta, zeros) is None:
        return
    stream = f"{model.spec.seed}/pictures"
    samples = torch.from_numpy(model.sample(SIDE * SIDE, f"{stream}/samples")["pixels"])
    yield "samples.png", image_grid(samples.unflatten(0, (SIDE, SIDE)))
    images, z, path = reconstruct(model, test_batches_of(model, data), N_IMAGES, f"{stream}/test")
    yield "reconstructions.png", image_pairs(images, model.decode(z))
    if path is not None and len(path) > 2:
        yield (
            "path.png",
            trajectories(model, images[:N_TRAJECTORIES], path[:, :N_TRAJECTORIES]),
        )
    if len(z) > 1:
        yield "interpolation.png", interpolations(model, z)


def square(cells: Tensor) -> bytes:
    """Draw images [n, height, width] with about as many rows as columns."""
    side = math.isqrt(len(cells) - 1) + 1
    n_rows = -(-len(cells) // side)
    blank = cells.new_ones(n_rows * side - len(cells), *cells.shape[1:])
    return image_grid(torch.cat([cells, blank]).unflatten(0, (n_rows, side)))


def test_batches_of(model: TrainedModel, data: Data) -> Iterable[Batch]:
    """Return the test images of a run in parts."""
    in_order = Noise(["batch"], shuffled=False)
    return model.task.scored_batches(data, model.spec.batch_size, in_order)


def reconstruct(
    model: TrainedModel, batches: Iterable[Batch], n: int, stream: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Take the first `n` images [n, height, width], and for each a particle [n, D], drawn by its
    weight from as many as training drew for a step, with its trajectory [K + 1, n, D], if any.
    """
    images, latents, paths, n_images = [], [], [], 0
    for batch in batches:
        originals = model.task.originals(batch)
        particles = model.particles(
            batch, stream, n_images, min(model.spec.particles, PARTICLES), trace=True
        )
        selected = by_weight(particles.log_w, Noise([f"{stream}/choice/{n_images}"]))  # [N]
        problems = torch.arange(len(selected))
        images.append(originals)
        latents.append(particles.z[selected, problems])
        paths.append(particles.path[:, selected, problems] if particles.path is not None else None)
        n_images += len(originals)
        if n_images >= n:
            break
    traced = [path for path in paths if path is not None]
    path = torch.cat(traced, 1)[:, :n] if traced else None
    return torch.cat(images)[:n], torch.cat(latents)[:n], path


def image_pairs(images: Tensor, decoded: Tensor) -> bytes:
    """Draw images [n, height, width] above what their latents decode to, as many beside one another
    as `N_IMAGES`.
    """
    rows = []
    for above, below in zip(images.split(N_IMAGES), decoded.split(N_IMAGES), strict=True):
        n_missing = min(len(images), N_IMAGES) - len(above)
        blank = decoded.new_ones(n_missing, *decoded.shape[1:])
        rows += [torch.cat([above.to(decoded.dtype), blank]), torch.cat([below, blank])]
    return image_grid(torch.stack(rows), rows=["image", "decoded"] * (len(rows) // 2))


def by_weight(log_w: Tensor, noise: Noise) -> Tensor:
    r"""Draw the number of one particle for each problem, with probability $w_s / \sum_s w_s$: [S,
    N] -> [N].

    The largest of $\log w_s + g_s$ with Gumbel noise $g_s = -\log(-\log u_s)$ is such a draw.
    """
    uniform = noise.uniform(*log_w.shape, like=log_w.new_zeros((), dtype=torch.float64))
    return (log_w.double() - (-uniform.clamp(min=1e-300).log()).log()).argmax(0)


def trajectories(model: TrainedModel, images: Tensor, path: Tensor) -> bytes:
    """Draw a row for each image: the image, then what its latents, `path` [K + 1, n, D], decode
    to.
    """
    K = len(path) - 1
    numbers = list(range(K + 1))
    if K >= N_POSITIONS:
        numbers = sorted({round(i * K / (N_POSITIONS - 1)) for i in range(N_POSITIONS)})
    steps = path[numbers]  # [steps, n, D]
    decoded = model.decode(steps.flatten(0, 1)).unflatten(0, steps.shape[:2])
    cells = torch.cat([images.to(decoded.dtype)[None], decoded]).transpose(0, 1)
    return image_grid(cells, columns=["image", *(f"z{step}" for step in numbers)])


def interpolations(model: TrainedModel, z: Tensor) -> bytes:
    """Draw a row for each pair of latents: what the points on a line between them decode to."""
    starts, ends = z[0 : len(z) // 2 * 2 : 2], z[1::2]
    weight = torch.linspace(0, 1, SIDE, dtype=z.dtype)[None, :, None]
    points = (1 - weight) * starts[:, None] + weight * ends[:, None]  # [pairs, columns, D]
    decoded = model.decode(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    return image_grid(decoded, columns=["first", *[""] * (SIDE - 2), "second"])


def image_grid(cells: Tensor, columns: Sequence[str] = (), rows: Sequence[str] = ()) -> bytes:
    """Draw small grey images in rows and columns as a PNG, each pixel a square of whole pixels.

    Args:
        cells: [rows, columns, height, width], 0 (black) to 1 (white); what is not finite is black.
        columns, rows: a short text above each column and before each row.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=TEXT)
    finite = np.nan_to_num(cells.double().numpy(), posinf=0.0, neginf=0.0)
    levels = (finite.clip(0, 1) * 255).round().astype(np.uint8)
    factor = max(1, round(CELL / max(cells.shape[2:])))
    big = levels.repeat(factor, 2).repeat(factor, 3)
    n_rows, n_columns, height, width = big.shape
    left_edge = MARGIN + (
        max(math.ceil(font.getlength(text)) for text in rows) + MARGIN if rows else 0
    )
    top_edge = MARGIN + (TEXT + 6 if columns else 0)
    size = (
        left_edge + n_columns * (width + GAP) - GAP + MARGIN,
        top_edge + n_rows * (height + GAP) - GAP + MARGIN,
    )
    sheet = Image.new("L", size, 255)
    draw = ImageDraw.Draw(sheet)
    for column in range(n_columns):
        across = left_edge + column * (width + GAP)
        for row in range(n_rows):
            sheet.paste(
                Image.fromarray(big[row, column]), (across, top_edge + row * (height + GAP))
            )
        if columns:
            draw.text(
                (across + width / 2, top_edge - 6),
                columns[column],
                fill=INK_LEVEL,
                font=font,
                anchor="ms",
            )
    for row, text in enumerate(rows):
        draw.text(
            (left_edge - MARGIN, top_edge + row * (height + GAP) + height / 2),
            text,
            fill=INK_LEVEL,
            font=font,
            anchor="rm",
        )
    file = io.BytesIO()
    sheet.save(file, format="PNG")
    return file.getvalue()
