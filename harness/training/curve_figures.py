"""PNG figures of learning curves, without torch, which the process that mirrors runs does not need.
The same numbers give the same bytes.
"""

from __future__ import annotations

import io
import math
import warnings
from typing import TYPE_CHECKING, Any

from harness.base.errors import harmless, shortened
from harness.base.metrics import PERCENTILES, RANKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = list[tuple[int, float]]

LABELS = {"bound": "bound (nats)", "grad_norm": "gradient norm (nats per unit)"}
WARM_UP = 0.25
"""Share of the steps that the range of the bound leaves out: a bound begins at -1e9 and ends at
-1e5.
"""
INK, COLOURS = "#333333", ("#1f5fa8", "#b8561b", "#3d7a3d", "#7a4a8c")


def learning_curves(curves: dict[str, Curve], title: str) -> bytes:
    """Draw one panel a curve of training, the bound on top, over a common axis of steps, as a PNG.

    The range of a panel is that of the points after the first quarter of the steps; where it leaves
    out a distant start, its value is written into the corner. What is not finite leaves a gap.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = sorted(
        (
            name
            for name, curve in curves.items()
            if curve and not name.endswith((PERCENTILES, RANKS))
        ),
        key=lambda name: (name != "bound", name),
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
