"""PNG figures of runs: learning curves, and what a trained model of images draws. The same numbers
give the same bytes.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from harness.api import Data
from harness.base.errors import harmless, shortened
from harness.numerics.noise import Noise
from harness.training.model import TrainedModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = list[tuple[int, float]]

SIDE = 8  # of the grid of samples, and columns between two latents
N_IMAGES = 16  # test images that are reconstructed
N_TRAJECTORIES = 6  # test images whose latents are followed
N_POSITIONS = 16  # shown of a trajectory; of a longer one, as many evenly spread
PARTICLES = 100  # at most, of which one is shown

LABELS = {"bound": "bound (nats)", "grad_norm": "gradient norm (nats per unit)"}
WARM_UP = 0.25
"""Share of the steps that the range of the bound leaves out: a bound begins at -1e9 and ends at
-1e5.
"""
CELL, GAP, TEXT, MARGIN = 56, 4, 12, 10
"""Pixels: about the side of a cell of a grid, the line between two, the height of letters, the
border around all.
"""
INK_LEVEL = 0x33
INK, COLOURS = "#333333", ("#1f5fa8", "#b8561b", "#3d7a3d", "#7a4a8c")


def pngs(model: TrainedModel, data: Data) -> Iterator[tuple[str, bytes]]:
    """Draw every figure of a run, by its file's name: none where the task has no images."""
    zeros = model.like.new_zeros(1, model.task.latent_dim)
    if model.task.stacks or model.task.decode(model.theta, zeros) is None:
        return
    stream = f"{model.spec.seed}/pictures"
    samples = torch.from_numpy(model.sample(SIDE * SIDE, f"{stream}/samples")["pixels"])
    yield "samples.png", image_grid(samples.unflatten(0, (SIDE, SIDE)))
    images, z, path = reconstruct(model, data, f"{stream}/test")
    decoded = torch.stack([images.to(z.dtype), model.decode(z)])
    yield "reconstructions.png", image_grid(decoded, rows=["image", "decoded"])
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


def reconstruct(
    model: TrainedModel, data: Data, stream: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Take the first test images [n, height, width], and for each a particle [n, D], drawn by its
    weight from as many as training drew for a step, with its trajectory [K + 1, n, D], if any.
    """
    images, latents, paths, n_images = [], [], [], 0
    for batch in model.task.scored_batches(
        data, model.spec.batch_size, Noise([stream], shuffled=False)
    ):
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
        if n_images >= N_IMAGES:
            break
    traced = [path for path in paths if path is not None]
    path = torch.cat(traced, 1)[:, :N_IMAGES] if traced else None
    return torch.cat(images)[:N_IMAGES], torch.cat(latents)[:N_IMAGES], path


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


def learning_curves(curves: dict[str, Curve], title: str) -> bytes:
    """Draw one panel a curve, the bound on top, over a common axis of steps, as a PNG.

    The range of a panel is that of the points after the first quarter of the steps; where it leaves
    out a distant start, its value is written into the corner. What is not finite leaves a gap.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = sorted(
        (name for name, curve in curves.items() if curve), key=lambda name: (name != "bound", name)
    )
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of a letter that the font lacks there is a box
        matplotlib.rcdefaults()  # not what the user's matplotlibrc says
        matplotlib.rcParams.update(
            {
                "font.size": 9,
                "text.color": INK,
                "axes.labelcolor": INK,
                "xtick.color": INK,
                "ytick.color": INK,
            }
        )
        height = 0.9 + 2.4 * max(1, len(names))  # inches
        figure = Figure(figsize=(7.2, height), dpi=110)
        figure.suptitle(
            shortened(harmless(title), 100),  # the width has room for as many
            y=1 - 0.1 / height,
            fontsize=10.5,
            parse_math=False,
        )
        figure.subplots_adjust(
            left=0.14, right=0.975, top=1 - 0.4 / height, bottom=0.5 / height, hspace=0.1
        )
        panels = figure.subplots(max(1, len(names)), 1, sharex=True, squeeze=False)[:, 0]
        for number, (name, panel) in enumerate(zip(names, panels, strict=False)):
            _draw(panel, name, curves[name], COLOURS[number % len(COLOURS)])
        figure.align_ylabels()
        panels[-1].set_xlabel("step")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _draw(panel: Axes, name: str, curve: Curve, colour: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    steps, values = zip(*curve, strict=True)
    finite = [value if math.isfinite(value) else math.nan for value in values]
    style: dict[str, Any] = {"marker": "o", "markersize": 3} if len(steps) < 20 else {}
    panel.plot(steps, finite, color=colour, linewidth=1.4, **style)
    panel.set_ylabel(LABELS.get(name, harmless(name.replace("_", " "))), parse_math=False)
    panel.grid(visible=True, color="#e3e3e3", linewidth=0.7)
    panel.spines[["top", "right"]].set_visible(False)
    panel.margins(x=0.01)
    if name == "grad_norm" and any(value > 0 for value in finite):
        panel.set_yscale("log", nonpositive="mask")
        panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_locator(
            NullLocator()
        )  # its ticks, and powers as mathematics, take a third of a picture's time
    else:
        _zoom(panel, curve)


def _zoom(panel: Axes, curve: Curve) -> None:
    """Choose the range from the later points, and write down a start that it leaves out."""
    finite = [(step, value) for step, value in curve if math.isfinite(value)]
    panel.ticklabel_format(axis="y", useOffset=False, scilimits=(-4, 7))
    if not finite:
        return
    later = [value for step, value in finite if step >= WARM_UP * finite[-1][0]]
    low, high = min(later), max(later)
    margin = 0.06 * (high - low) or max(1e-9, 1e-6 * abs(high))
    start_step, start = finite[0]
    if not low - 4 * (high - low) <= start <= high + 4 * (high - low) and high > low:
        panel.set_ylim(low - margin, high + margin)
        note = f"starts at {start:.3g} (step {start_step})"
        panel.annotate(
            note, (0.99, 0.06), xycoords="axes fraction", ha="right", fontsize=8, color="#666666"
        )
