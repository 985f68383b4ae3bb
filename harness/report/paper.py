"""Figures for papers, by matplotlib: scores, gaps, a metric against the size of a task, and
learning curves. The same runs give the same bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.analysis.selection import Group, row_names, shared_settings
from harness.analysis.statistics import Interval
from harness.base.errors import UsageError, harmless
from harness.base.metrics import MLE_PREFIX
from harness.report.charts import OUTLIER
from harness.report.view import View, columns, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTHS = {"single": 3.35, "double": 6.9}
"""Inches: of one column of a journal's page, and of both."""
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#B8A800")
"""After Okabe and Ito (2008): distinct for people who see no red or no green, too."""
MARKERS = "osD^vPX*ph"
DASHES = ("-", "--", ":", "-.")
EXACT: dict[str, Any] = {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 0.8}
PANEL = 2.3  # inches: the height of a panel with axes of numbers
ROW = 0.17  # inches: the height of a row of names
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,  # letters stay letters
    "svg.hashsalt": "bench",
}


@dataclass(frozen=True)
class Line:
    """How a row is drawn, wherever it is."""

    color: str
    marker: str
    dash: str
    name: str


def file(kind: str, view: View, metric: str | None, width: str, format_: str) -> bytes:
    """Draw a figure of one kind of the selected runs, as the bytes of a PDF, SVG or PNG file.

    Raises:
        UsageError: there is nothing of that kind to draw.
    """
    import matplotlib as mpl

    with mpl.rc_context(STYLE):  # pyright: ignore[reportArgumentType]
        figure = KINDS[kind](view, metric, WIDTHS[width])
        buffer = io.BytesIO()
        dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(format_)
        figure.savefig(buffer, format=format_, metadata=dates, dpi=300)
    return buffer.getvalue()


def _lines(view: View) -> dict[Any, Line]:
    """The colour of each method, the marker and dash of each of its rows, and a name without the
    settings that all rows share.
    """
    rows = sorted({group.row for group in view.groups}, key=lambda row: row.order)
    names = row_names(rows, shared_settings(rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    lines = {}
    for index, row in enumerate(rows):
        same = [other for other in rows if other.method == row.method]
        lines[row] = Line(
            COLORS[methods.index(row.method) % len(COLORS)],
            MARKERS[index % len(MARKERS)],
            DASHES[same.index(row) % len(DASHES)],
            _text(names[row]),
        )
    return lines


def _text(name: str) -> str:
    """A name as matplotlib draws it: a dollar is no mathematics."""
    return harmless(name).replace("$", r"\$")


def _axis_label(view: View, metric: str) -> str:
    info = view.sample.metric_info(metric)
    arrow = {"lower": r" $\leftarrow$", "higher": r" $\rightarrow$"}.get(info.better or "", "")
    return f"{_text(metric)} ({info.unit or '1'}){arrow}"


def _canvas(n_panels: int, width: float, heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Panels beside one another, two at most in a row."""
    from matplotlib.figure import Figure

    n_columns = 1 if width < 5 or n_panels == 1 else 2
    n_rows = math.ceil(n_panels / n_columns)
    row_heights = [max(heights[row * n_columns : (row + 1) * n_columns]) for row in range(n_rows)]
    figure = Figure(figsize=(width, sum(row_heights)), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False, height_ratios=row_heights)
    axes = list(grid.flat)
    for empty in axes[n_panels:]:
        empty.remove()
    return figure, axes[:n_panels]


def _first_metric(groups: Sequence[Group], metric: str | None) -> str:
    return metric or groups[0].cell.description.headline[0]


def scores(view: View, metric: str | None, width: float) -> Figure:
    """Draw the mean of each row with its interval, a panel a task; of one task a panel a metric."""
    tasks = columns(view.groups)
    panels = [(task, groups, _first_metric(groups, metric)) for task, groups in tasks.items()]
    if len(tasks) == 1 and metric is None:
        ((task, groups),) = tasks.items()
        panels = [(task, groups, name) for name in groups[0].cell.description.headline]
    drawn = [
        (task, name, measured)
        for task, groups, name in panels
        if (measured := [(group, view.interval(group, name)) for group in groups])
        and any(interval for _, interval in measured)
    ]
    if not drawn:
        raise _nothing(metric)
    figure, axes = _canvas(len(drawn), width, [0.75 + ROW * len(rows) for _, _, rows in drawn])
    lines = _lines(view)
    for axis, (task, name, measured) in zip(axes, drawn, strict=True):
        present = [(group, interval) for group, interval in measured if interval]
        for at, (group, interval) in enumerate(present):
            line = lines[group.row]
            axis.errorbar(
                interval.mean, at, xerr=np.array([_bar(interval)]).T, color=line.color,
                marker=line.marker, elinewidth=0.9,
            )  # fmt: skip
        _reference(axis, view, [group for group, _ in present], name, axis.axvline)
        axis.set_yticks(range(len(present)), [lines[group.row].name for group, _ in present])
        axis.set_ylim(len(present) - 0.5, -0.5)
        axis.set_xlabel(_axis_label(view, name))
        axis.set_title(_text(task), loc="left")
        _spread(axis, [interval.mean for _, interval in present], "x")
    return figure


def gap(view: View, metric: str | None, width: float) -> Figure:
    """Draw the gap to the exact log-evidence of each row on each task."""
    metric = metric or "elbo_gap"
    tasks = {
        task: [(group, view.interval(group, metric)) for group in groups]
        for task, groups in columns(view.groups).items()
    }
    tasks = {
        task: [(group, interval) for group, interval in members if interval]
        for task, members in tasks.items()
    }
    tasks = {task: members for task, members in tasks.items() if members}
    if not tasks:
        raise _nothing(metric)
    figure, (axis,) = _canvas(1, width, [PANEL])
    lines = _lines(view)
    n_rows, order = len(lines), {row: index for index, row in enumerate(lines)}
    for at, members in enumerate(tasks.values()):
        for group, interval in members:
            x = at + 0.7 * ((order[group.row] + 0.5) / n_rows - 0.5)
            line = lines[group.row]
            axis.errorbar(
                x, interval.mean, yerr=np.array([_bar(interval)]).T, color=line.color,
                marker=line.marker, elinewidth=0.9,
            )  # fmt: skip
    axis.set_xticks(range(len(tasks)), [_text(task) for task in tasks])
    axis.set_ylabel(_axis_label(view, metric))
    _spread(axis, [interval.mean for members in tasks.values() for _, interval in members], "y")
    _legend(figure, lines)
    return figure


def dimension(view: View, metric: str | None, width: float) -> Figure:
    """Draw a metric against the size of a task, a line a row; dashed the exact maximum-likelihood
    fit.
    """
    by_task: dict[str, dict[int, list[Group]]] = {}
    for group in view.groups:
        if (n := size(group)) is not None:
            by_task.setdefault(group.cell.task, {}).setdefault(n, []).append(group)
    by_task = {task: by_size for task, by_size in by_task.items() if len(by_size) > 1}
    if not by_task:
        raise UsageError(
            "No task was run in two sizes. Make some: "
            "bench run -m hvae -t gaussian-25 -t gaussian-50"
        )
    figure, axes = _canvas(len(by_task), width, [PANEL] * len(by_task))
    lines, has_exact = _lines(view), False
    for axis, (task, by_size) in zip(axes, by_task.items(), strict=True):
        sizes, first = sorted(by_size), next(iter(by_size.values()))
        name, exact = _first_metric(first, metric), {}
        points: dict[Any, list[tuple[int, Interval]]] = {}
        for n in sizes:
            for group in by_size[n]:
                if interval := view.interval(group, name):
                    points.setdefault(group.row, []).append((n, interval))
                if interval := view.interval(group, MLE_PREFIX + name):
                    exact[n] = interval.mean
        for row, members in points.items():
            _curve_with_bars(axis, members, lines[row])
        if exact:
            axis.plot(list(exact), list(exact.values()), **EXACT)
            has_exact = True
        axis.set_xscale("log")
        axis.set_xticks(sizes, [str(n) for n in sizes])
        axis.minorticks_off()
        axis.set_xlabel(first[0].cell.description.task_variant or "size")
        axis.set_ylabel(_axis_label(view, name))
        axis.set_title(_text(task), loc="left")
        _spread(axis, [each.mean for members in points.values() for _, each in members], "y")
    _legend(figure, lines, "exact maximum-likelihood fit" if has_exact else None)
    return figure


def curves(view: View, metric: str | None, width: float) -> Figure:
    r"""Draw the bound during training: where the truth is known its gap to the best evidence, else
    the bound itself; the median over seeds with the range of the middle half.

    The best evidence of a run is `elbo + elbo_gap + evidence_gap` of its scores, nats; without a
    model to fit it is `elbo + elbo_gap`, which is log Z.
    """
    keys = [run.key for group in view.groups for run in group.done]
    stored = {key: curve for key, _, curve in view.sample.store.curves_of(keys, "bound")}
    panels = columns(view.groups)
    figure, axes = _canvas(len(panels), width, [PANEL] * len(panels))
    lines, n_lines = _lines(view), 0
    for axis, (task, groups) in zip(axes, panels.items(), strict=True):
        truths = [view.best_evidence(group) for group in groups]
        is_known = all(truths)
        for group, truth in zip(groups, truths, strict=True):
            members = {run.seed: dict(stored[run.key]) for run in group.done if run.key in stored}
            n_lines += _band(axis, members, truth if is_known else {}, lines[group.row])
        axis.set_xlabel("training steps")
        axis.set_ylabel("gap of the training bound (nats)" if is_known else "training bound (nats)")
        axis.set_title(_text(task), loc="left")
        axis.margins(x=0.02)
        if is_known:
            _logarithmic(axis, "y")
        _robust(axis)
    if not n_lines:
        raise UsageError("None of these runs has a learning curve.")
    _legend(figure, lines)
    return figure


def _band(
    axis: Axes, members: dict[int, dict[int, float]], truth: dict[int, float], line: Line
) -> int:
    """Draw the curves of a row's seeds, and return whether there were any."""
    if not members:
        return 0
    steps = sorted(set.intersection(*(set(curve) for curve in members.values())))
    values = np.array(
        [
            [truth[seed] - curve[step] if truth else curve[step] for step in steps]
            for seed, curve in members.items()
            if not truth or seed in truth
        ]
    )
    if not values.size:
        return 0
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
    axis.plot(steps, middle, color=line.color, ls=line.dash)
    if len(values) > 1:
        axis.fill_between(steps, low, high, color=line.color, alpha=0.2, lw=0)
    return 1


def _curve_with_bars(axis: Axes, points: Sequence[tuple[int, Interval]], line: Line) -> None:
    sizes, means = [n for n, _ in points], [interval.mean for _, interval in points]
    bars = np.array([_bar(interval) for _, interval in points]).T
    axis.errorbar(
        sizes, means, yerr=bars, color=line.color, marker=line.marker, ls=line.dash, elinewidth=0.8
    )


def _bar(interval: Interval) -> tuple[float, float]:
    """How far the ends are below and above the mean; 0 where one run has no interval."""
    below, above = interval.mean - interval.low, interval.high - interval.mean
    return (below, above) if math.isfinite(below + above) else (0.0, 0.0)


def _spread(axis: Axes, means: Sequence[float], which: str) -> None:
    """A logarithmic axis where positive values go over more than two decades."""
    finite = [mean for mean in means if math.isfinite(mean)]
    if finite and min(finite) > 0 and max(finite) > 100 * min(finite):
        _logarithmic(axis, which)


def _logarithmic(axis: Axes, which: str) -> None:
    """Label decades, and 2 and 5 between them where few decades are shown."""
    from matplotlib.ticker import LogLocator

    (axis.set_xscale if which == "x" else axis.set_yscale)("log")
    scale = axis.xaxis if which == "x" else axis.yaxis
    low, high = axis.get_xlim() if which == "x" else axis.get_ylim()
    if high < 100 * low:
        scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
    if high < 1e5 and low > 1e-4:
        scale.set_major_formatter(lambda value, _: f"{value:g}")
    scale.set_minor_formatter(lambda value, _: "")


def _robust(axis: Axes) -> None:
    """Let the axis show where each median starts and nine tenths of it: a spike would squeeze all
    else, and so would a median a million times above four of five others.
    """
    medians = [np.asarray(line.get_ydata(), dtype=float) for line in axis.get_lines()]
    medians = [median[np.isfinite(median)] for median in medians]
    tops = [max(median[0], np.quantile(median, 0.9)) for median in medians if len(median)]
    if tops:
        low, high = axis.get_ylim()
        is_log = axis.get_yscale() == "log"
        limit = OUTLIER * sorted(tops)[max(0, 4 * len(tops) // 5 - 1)]
        tops = [top for top in tops if not is_log or top <= limit]
        top = 2 * max(tops) if is_log else max(tops) + 0.1 * (high - low)
        bottom = (
            max(low, 0.3 * min(m[m > 0].min() for m in medians if (m > 0).any())) if is_log else low
        )
        axis.set_ylim(bottom, min(high, top))


def _reference(
    axis: Axes, view: View, groups: Sequence[Group], metric: str, draw: Callable[..., Any]
) -> None:
    """A dashed line at the mean of the exact maximum-likelihood fit, where there is one."""
    for group in groups:
        if interval := view.interval(group, MLE_PREFIX + metric):
            draw(interval.mean, **EXACT)
            return


def _legend(figure: Figure, lines: dict[Any, Line], exact: str | None = None) -> None:
    """A legend below the panels."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=line.color, marker=line.marker, ls=line.dash, label=line.name)
        for line in lines.values()
    ]
    if exact:
        handles.append(Line2D([], [], label=exact, **EXACT))
    n_columns = 2 if figure.get_figwidth() < 5 else 4
    figure.legend(handles=handles, loc="outside lower center", ncols=min(n_columns, len(handles)))


def _nothing(metric: str | None) -> UsageError:
    of = f" of '{metric}'" if metric else ""
    return UsageError(f"There is nothing{of} to draw. What a run has: bench show KEY")


KINDS: dict[str, Callable[[View, str | None, float], Figure]] = {
    "scores": scores,
    "gap": gap,
    "dimension": dimension,
    "curves": curves,
}
"""Each figure by its name."""
