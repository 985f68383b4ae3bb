"""The report: which sections there are, in which order, and what is not a comparison of methods:
failures, images, and the runs behind every number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from harness.analysis.provenance import environment_summary
from harness.analysis.ranks import Ranking
from harness.analysis.selection import Group, SelectedRuns
from harness.base.spec import Status, settings_text
from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.plan.grid import ranges
from harness.report import comparisons
from harness.report.charts import LINEAR, row_plot
from harness.report.curves import learning_curves
from harness.report.histograms import pareto_k_histograms, rank_histograms
from harness.report.page import Figure, Image, Key, Section, Style, Table, render
from harness.report.view import View, columns, label
from harness.store import Replicate
from harness.store.run_files import read_verified

Fragments = Sequence[tuple[str, str]]
NamedGroups = list[tuple[str, Group]]
"""Groups with the names of their columns."""

STATUS_STYLES = {
    "done": ("var(--green)", ""),
    "diverged": ("var(--vermilion)", "/"),
    "timeout": ("var(--orange)", "x"),
    "failed": ("var(--purple)", "\\"),
}
MOST_REASONS = 200
"""How many reasons are listed."""
IMAGES = {"samples.png": "samples", "reconstructions.png": "reconstructions"}
MOST_BYTES = 4_000_000
"""How many bytes of images a page holds."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def report(
    title: str,
    sample: SelectedRuns,
    workspace: Workspace,
    tuning: Sequence[Section] = (),
    tables: Fragments = (),
    published: Fragments = (),
    ranking: Ranking | None = None,
) -> str:
    """Return the page as HTML.

    Args:
        title: of the page.
        sample: the runs that it is about.
        workspace: where the runs' images are.
        tuning: the results of tuning studies.
        tables: comparisons, as titles with trusted HTML.
        published: stored results against published ones, the same.
        ranking: of the methods across tasks.
    """
    view = View(sample)
    named_groups = [
        (name, group) for name, groups in columns(sample.groups).items() for group in groups
    ]
    sections = [
        comparisons.sizes(view),
        comparisons.scores(view),
        comparisons.sandwich(view),
        rank_histograms(view),
        learning_curves(view),
        pareto_k_histograms(view),
        comparisons.sweeps(view),
        comparisons.choices(view),
        comparisons.ranks(ranking),
        Section("tables", "Tables", fragments=tables),
        Section("published", "Against published values", fragments=published),
        _failures(view, named_groups),
        *tuning,
        _images(view, named_groups, workspace),
        _provenance(view, named_groups),
    ]
    return render(title, _about(sample), [section for section in sections if not section.is_empty])


def _about(sample: SelectedRuns) -> list[str]:
    """What the page is about, and what was left out of it."""
    groups = sample.groups
    counts = Counter(run.status.value for group in groups for run in group.runs)
    finished = counts.pop(Status.DONE.value, 0)
    names = {
        "method": {group.row.method for group in groups},
        "task": {group.column.task for group in groups},
        "protocol": {group.cell.protocol for group in groups},
    }
    lists = [
        f"{plural(len(items), noun)} ({', '.join(sorted(items))})" for noun, items in names.items()
    ]
    cells = plural(len(groups), "cell")
    lines = [f"{plural(finished, 'finished run')} in {cells}: {'; '.join(lists)}."]
    if counts:
        statuses = ", ".join(f"{counts[name]:,} {name}" for name in sorted(counts))
        lines.append(
            f"{plural(counts.total(), 'run')} ended without a result: {statuses}. "
            "They are in no mean; see Failures."
        )
    return lines + [
        f"Left out: {plural(count, 'run')}, {reason}."
        for reason, count in sorted(sample.left_out.items())
    ]


# Failures


def _failures(view: View, named_groups: NamedGroups) -> Section:
    """How runs ended in the cells where not all of them are done."""
    failed = [(task, group) for task, group in named_groups if group.failures]
    if not failed:
        return Section("failures", "Failures")
    counts = [Counter(run.status.value for run in group.runs) for _, group in failed]
    statuses = sorted(
        {status for count in counts for status in count},
        key=lambda status: (*(name != status for name in STATUS_STYLES), status),
    )
    keys, bars = [], []
    for index, status in enumerate(statuses):
        color, pattern = STATUS_STYLES.get(status, ("var(--grey)", "."))
        keys.append(Key(status, Style(color, "", "square")))
        bars.append(
            go.Bar(
                x=[count[status] for count in counts],
                y=[-row for row in range(len(counts))],
                orientation="h",
                marker={"color": color, "pattern": {"shape": pattern, "solidity": 0.3}},
                hoverinfo="text",
                hovertext=[f"{count[status]} {label(status)}" for count in counts],
                textposition="none",
                legendgroup=str(index),
                showlegend=False,
            )
        )
    names = {-row: f"{task}: {view.key(group).name}" for row, (task, group) in enumerate(failed)}
    plot = row_plot("", bars, names, LINEAR.axis("runs"), barmode="stack", bargap=0.7)
    about = (
        f"Cells with a run that did not finish: {len(failed)} of {len(named_groups)}. "
        "Means are over the runs that did."
    )
    figure = Figure("How the runs ended", about, [plot], keys)
    return Section("failures", "Failures", figures=[figure], tables=[_reasons(view, failed)])


def _reasons(view: View, failed: NamedGroups) -> Table:
    rows = []
    for task, group in failed:
        reasons: dict[tuple[str, str], list[Replicate]] = {}
        for run in group.runs:
            if run.status is not Status.DONE:
                reason = (run.status.value, run.reason or "no reason is on record")
                reasons.setdefault(reason, []).append(run)
        for (status, reason), runs in sorted(reasons.items()):
            keys, seeds = [run.key for run in runs], ranges([run.seed for run in runs])
            rows.append((view.key(group).name, task, status, reason, seeds, keys, str(len(runs))))
    limit = f"; the first {MOST_REASONS} of {len(rows)}" if len(rows) > MOST_REASONS else ""
    caption = f"Why runs ended without a result{limit}"
    names = ("row", "task", "ended", "reason", "seeds", "keys", "runs")
    return Table(names, rows[:MOST_REASONS], caption, 6)


# Images


def _images(view: View, named_groups: NamedGroups, workspace: Workspace) -> Section:
    """Samples and reconstructions of the first finished seed of each row."""
    images, size = [], 0
    files = [
        (f"{task}, {view.key(group).name}: {IMAGES[file.name]}, seed {run.seed}", file)
        for task, group in named_groups
        if not group.cell.description.stacks  # tasks whose replicates stack have no images
        for run in group.done[:1]
        for file in sorted(view.sample.store.artifacts(run.key), key=lambda f: f.name)[::-1]
        if file.name in IMAGES
    ]
    for caption, file in files:
        png = read_verified(workspace, file)
        if png and png.startswith(PNG_SIGNATURE) and size + len(png) <= MOST_BYTES:
            images.append(Image(caption, png))
            size += len(png)
    about = [
        "Samples are drawn from the prior and decoded; reconstructions are beside their originals. "
        "Each row's first finished seed."
    ]
    if len(images) < len(files):
        about.append(
            f"Damaged, or left out for the page's size: {len(files) - len(images)} of "
            f"{plural(len(files), 'image')}. Which are damaged: bench doctor."
        )
    return Section("images", "Images", about if files else (), images=images)


# Provenance


def _provenance(view: View, named_groups: NamedGroups) -> Section:
    """The runs by cell, then the environments."""
    digests = {
        run.environment for _, group in named_groups for run in group.runs if run.environment
    }
    environments = {digest: f"E{index}" for index, digest in enumerate(sorted(digests), 1)}
    stored: dict[str, dict[str, Any]] = view.sample.store.scores.environments()
    about = (
        "Every number of this page is computed from the runs below and nothing else. bench show "
        "KEY "
        "prints one run with its full specification, history, metrics and files; the same database "
        "gives the same page, byte for byte."
    )
    names = ("row", "task", "protocol", "cell", "seeds", "keys", "versions", "settings", "ran on")
    cells = Table(
        (*names, "ended", "done"),
        [_cell_row(view, task, group, environments) for task, group in named_groups],
        f"{plural(len(named_groups), 'cell')} with their keys and settings",
        10,
        folded=True,
    )
    rows = [
        (name, *environment_summary(stored.get(digest, {})).values())
        for digest, name in environments.items()
    ]
    table = Table(("name", *environment_summary({})), rows, "Environments")
    return Section("provenance", "How each number was obtained", [about], tables=[cells, table])


def _cell_row(
    view: View, task: str, group: Group, environments: dict[str, str]
) -> tuple[str | list[str], ...]:
    cell, keys = group.cell, [run.key for run in group.runs]
    counts = Counter(run.status.value for run in group.runs)
    versions = f"method {cell.spec['method_version']}, task {cell.spec['task_version']}"
    sources = len({run.source_hash for run in group.runs})
    used = {environments[run.environment] for run in group.runs if run.environment in environments}
    return (
        view.key(group).name,
        task,
        cell.protocol,
        cell.cell,
        ranges([run.seed for run in group.runs]),
        keys,
        f"{versions}, {sources} sources" if sources > 1 else versions,
        settings_text(dict(sorted(cell.settings.items()))) or "defaults",
        ", ".join(sorted(used, key=lambda name: int(name[1:]))) or "not on record",
        ", ".join(f"{counts[status]:,} {status}" for status in sorted(counts)),
        f"{counts[Status.DONE.value]:,}",
    )
