"""Where the numbers of tables come from: the runs, what they ran on, and where these differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.selection import Group, SelectedRuns, differences
from harness.analysis.tables import Entry, Options, Table, compare
from harness.store import CheckpointFile, Metric, Replicate


@dataclass(frozen=True)
class ContributingRun:
    """A run behind a number: its score, its last checkpoint, its copy in MLflow, and by name what
    it ran on.
    """

    run: Replicate
    score: Metric | None
    checkpoint: CheckpointFile | None
    mlflow_run_id: str | None
    environment: str | None
    plan: dict[str, Any]


@dataclass(frozen=True)
class Provenance:
    """A number of a table with the runs behind it; `environments` are by the name that the runs
    call them, `withdrawn` by key.
    """

    table: Table
    name: str
    entry: Entry
    group: Group
    runs: tuple[ContributingRun, ...]
    environments: dict[str, dict[str, Any]]
    withdrawn: dict[str, str]

    @property
    def notes(self) -> list[str]:
        """What the table says of this number."""
        return [
            note.partition("] ")[2]
            for note in self.table.notes
            if note.startswith(tuple(f"[{mark}]" for mark in self.entry.marks))
        ]

    @property
    def sources(self) -> dict[str, list[int]]:
        """The seeds by the hash of the code that made them."""
        found: dict[str, list[int]] = {}
        for made in self.runs:
            found.setdefault(made.run.source_hash, []).append(made.run.seed)
        return found


def provenances(sample: SelectedRuns, metric: str | None) -> list[Provenance]:
    """All numbers of a sample's tables with what is behind them, in the tables' order.

    Args:
        sample: the runs.
        metric: its name; None for each task's first one.

    Raises:
        UnknownName: no run has such a metric.
    """
    groups = {group.cell.cell: group for group in sample.groups}
    tables = compare(sample, Options(metrics=() if metric is None else (metric,)))
    places = Environments(sample)
    return [
        _origin(sample, table, line.name, entry, groups[entry.cell], places)
        for table in tables
        for line in table.lines
        for entry in line.entries
        if entry is not None
    ]


class Environments:
    """What the runs of a sample ran on, under short names: E1, E2, ..."""

    def __init__(self, sample: SelectedRuns) -> None:
        used = dict.fromkeys(
            run.environment for group in sample.groups for run in group.runs if run.environment
        )
        self._known = sample.store.scores.environments()
        self._names = {digest: f"E{number}" for number, digest in enumerate(used, 1)}

    def name(self, run: Replicate) -> str | None:
        """The short name of what a run ran on; None where that is not on record."""
        return self._names.get(run.environment or "")

    def of(self, group: Group) -> dict[str, dict[str, Any]]:
        """What the runs of a group ran on, by short name."""
        return {
            self._names[digest]: self._known.get(digest, {})
            for run in group.runs
            if (digest := run.environment)
        }


def _origin(
    sample: SelectedRuns, table: Table, name: str, entry: Entry, group: Group, places: Environments
) -> Provenance:
    keys = [run.key for run in group.runs]
    with sample.store.snapshot() as snapshot:
        rows, scores, plans = snapshot.rows(keys), snapshot.metrics(keys), snapshot.provenance(keys)
    made = []
    for run in group.runs:
        row, files = rows.get(run.key), sample.store.checkpoints(run.key)
        score = scores.get(run.key, {}).get(table.metric)
        plan = plans.get(run.key, ({}, {}))[1]
        made.append(
            ContributingRun(
                run,
                score,
                files[0] if files else None,
                row.mlflow_run_id if row else None,
                places.name(run),
                plan,
            )
        )
    withdrawn = {key: sample.withdrawn[key] for key in group.withdrawn}
    return Provenance(table, name, entry, group, tuple(made), places.of(group), withdrawn)


def flattened(environment: dict[str, Any]) -> dict[str, Any]:
    """An environment's values by address: `packages.torch`."""
    packages = {
        f"packages.{name}": value for name, value in (environment.get("packages") or {}).items()
    }
    return {name: value for name, value in environment.items() if name != "packages"} | packages


def environments_differ(found: Iterable[Provenance]) -> dict[str, dict[str, Any]]:
    """Where the environments behind these numbers differ: by address, the value of each."""
    known = {
        name: flattened(environment)
        for origin in found
        for name, environment in origin.environments.items()
    }
    return {
        address: dict(zip(known, values, strict=True))
        for address, values in differences(known.values()).items()
    }


def specs_differ(found: Sequence[Provenance]) -> dict[str, list[Any]]:
    """Where the specifications behind several numbers differ, with the value of each."""
    return differences(
        origin.group.cell.spec | {"protocol": origin.group.cell.protocol} for origin in found
    )


def environment_summary(environment: dict[str, Any]) -> dict[str, str]:
    """An environment in few words; `-` is what is not on record."""
    packages = environment.get("packages") or {}
    commit = (environment.get("git_commit") or "none")[:12] + (
        ", changed" if environment.get("git_dirty") else ""
    )
    machine = ", ".join(
        str(environment[name]) for name in ("system", "cpu") if environment.get(name)
    )
    cores = f", {environment['cores']} cores" if environment.get("cores") else ""
    said = {
        "bench": environment.get("bench"),
        "commit": commit,
        "torch": packages.get("torch"),
        "numpy": packages.get("numpy"),
    }
    said |= {"python": environment.get("python"), "machine": machine + cores}
    return {name: str(value) if value else "-" for name, value in said.items()}
