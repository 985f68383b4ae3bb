"""The table at the end of `bench run`, and where to look next."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from harness.base.metrics import IMPORTANCE_ESTIMATES, PARETO_K_LIMIT
from harness.base.spec import NewRun, settings_text
from harness.base.tracebacks import reason_and_place
from harness.cli._options import console, duration, number, plural

LEFT = ("method", "settings", "status")
MARK = "a"
SPENT = 0.9
STILL_RISING = 3.0
MOST_FAILED = 5  # runs that are listed one by one


def print_closing(
    results: Sequence[dict[str, Any]], runs: Sequence[NewRun], given_up: dict[str, str]
) -> None:
    """Each task with a row a cell: means over its seeds with standard errors; then what needs
    saying about them.

    Args:
        results: the runs that have ended, as they are stored.
        runs: what was asked for.
        given_up: why runs could not be made anew, which have their earlier results.
    """
    by_key = {run.spec.key: run for run in runs}
    out = console()
    for task in dict.fromkeys(result["task"] for result in results):
        members = [result for result in results if result["task"] == task]
        out.print(f"{task}, protocol {by_key[members[0]['key']].protocol}", style="bold")
        _print_rows(out, [_row(cell, by_key) for cell in _cells(members)])
    for line in (
        *_failures(results, by_key, given_up),
        *_remarks(results, {name for run in runs for name in run.description.headline}),
    ):
        out.print(line, markup=False)


def _cells(results: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    cells: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        cells.setdefault(result["cell"], []).append(result)
    return list(cells.values())


def _row(members: list[dict[str, Any]], by_key: dict[str, NewRun]) -> dict[str, str]:
    """One cell, by column."""
    told = by_key[members[0]["key"]].description
    values = {name: _mean(members, name) for name in told.headline}
    counts = {"seeds": str(len(members)), "status": _statuses(members)}
    return (
        {"method": told.method, "settings": settings_text(told.settings or {})}
        | counts
        | values
        | {"time": _time(members)}
    )


def _print_rows(out: Any, rows: list[dict[str, str]]) -> None:
    """As a table where it fits; else a block a row."""
    from rich import box
    from rich.measure import Measurement
    from rich.table import Table

    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(
            name,
            justify="left" if name in LEFT else "right",
            no_wrap=name not in LEFT[:2],
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(row[name] for name in columns))
    unlimited = out.options.update(max_width=10_000)
    if Measurement.get(out, unlimited, table).maximum <= out.width or not out.is_terminal:
        out.print(table)
        return
    for row in rows:
        out.print()
        for name in columns:
            out.print(f"  {name:<{max(map(len, columns))}}  {row[name]}", markup=False)


def _statuses(members: list[dict[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for member in members:
        counts[member["status"]] = counts.get(member["status"], 0) + 1
    if len(counts) == 1:
        outcome = {member["outcome"] for member in members}
        return (
            f"{next(iter(counts))} ({outcome.pop()})" if len(outcome) == 1 else next(iter(counts))
        )
    return ", ".join(f"{count}/{len(members)} {status}" for status, count in counts.items())


def _mean(members: list[dict[str, Any]], name: str) -> str:
    """The mean over seeds with its standard error; of one seed, the value with the estimate's own."""
    values = [float(member["metrics"][name]) for member in members if name in member["metrics"]]
    if not values:
        return "-"
    mark = f" [{MARK}]" if name in IMPORTANCE_ESTIMATES and any(map(_is_doubtful, members)) else ""
    if len(values) == 1:
        return number(values[0], members[0]["standard_errors"].get(name)) + mark
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(
        math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)
    )
    return number(mean, spread) + mark


def _is_doubtful(member: dict[str, Any]) -> bool:
    return float(member["metrics"].get("pareto_k", 0.0)) > PARETO_K_LIMIT


def _time(members: list[dict[str, Any]]) -> str:
    return duration(max(member["wall_s"] for member in members))


def _failures(
    results: Sequence[dict[str, Any]], by_key: dict[str, NewRun], given_up: dict[str, str]
) -> list[str]:
    """The runs that are not done, and why; how many more there are."""
    failed = [
        result for result in results if result["status"] != "done" or result["key"] in given_up
    ]
    lines: list[str] = []
    for result in failed[:MOST_FAILED]:
        told = by_key[result["key"]].description
        name = f"{told.method} {settings_text(told.settings or {})}".strip()
        status, why = result["status"], reason_and_place(result["reason"], result["traceback"])
        if result["key"] in given_up:
            status, why = f"not made anew, {status} as before", given_up[result["key"]]
        lines.append(
            f"{result['key']} {name} on {result['task']}, seed {result['seed']}, {status}: {why}"
        )
    if more := failed[MOST_FAILED:]:
        statuses = dict.fromkeys(
            result["status"] for result in more if result["key"] not in given_up
        )
        where = " · ".join(f"bench list runs --status {status}" for status in statuses)
        lines.append(
            f"and {plural(len(more), 'more run')} that {'is' if len(more) == 1 else 'are'} not done{where and f': {where}'}"
        )
    return lines


def _remarks(results: Sequence[dict[str, Any]], headlines: Collection[str]) -> list[str]:
    """What a reader of the table must know, and where to look next."""
    spent = [r for r in results if float(r["metrics"].get("travel_used", 0)) > SPENT]
    rising = [r for r in results if float(r["metrics"].get("bound_trend_z", 0)) > STILL_RISING]
    doubtful = [r for r in results if _is_doubtful(r)]
    lines: list[str] = []
    if any("elbo_gap" in r["metrics"] for r in results):
        lines.append(
            "elbo_gap: nats below the exact log-evidence; evidence_gap: that below its maximum; ± one standard error."
        )
    if spent:
        lines.append(
            f"{len(spent)} of {len(results)} runs went over {SPENT:.0%} as far as their learning rate allows: give them more steps."
        )
    if rising:
        lines.append(
            f"{len(rising)} of {len(results)} runs were still improving at the end (bound_trend_z above {STILL_RISING:.0f})."
        )
    if doubtful:
        estimates = " and ".join(IMPORTANCE_ESTIMATES)
        shown = any(
            name in IMPORTANCE_ESTIMATES and name in r["metrics"]
            for r in doubtful
            for name in headlines
        )
        mark = f"[{MARK}] " if shown else ""
        lines.append(
            f"{mark}{len(doubtful)} of {len(results)} runs have Pareto k above {PARETO_K_LIMIT}: do not trust their {estimates}."
        )
    if results:
        lines.append(
            f"Next: bench show {results[0]['key']} · bench list runs · bench ui (curves and checkpoints in MLflow)"
        )
    return lines
