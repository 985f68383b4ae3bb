"""Where the numbers of tables come from: the runs, what they ran on, and where these differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.selection import Group, SelectedRuns, differences
from harness.analysis.tables import Entry, Options, Table, compare
from harness.store import CheckpointFile, Estimate, Replicate


@dataclass(frozen=True)
class ContributingRun:
    """A run behind a number; `environment` is the short name of what it ran on."""

    run: Replicate
    score: Estimate | None
    checkpoint: CheckpointFile | None
    mlflow_run_id: str | None
    environment: str | None
    plan: dict[str, Any]


@dataclass(frozen=True)
class Provenance:
    """A number of a table with the runs behind it; `environments` are by short name, `withdrawn`
    has reasons by key.
    """

    table: Table
    name: str
    entry: Entry
    runs: tuple[ContributingRun, ...]
    environments: dict[str, dict[str, Any]]
    withdrawn: dict[str, str]

    @property
    def group(self) -> Group:
        """The runs behind the number."""
        return self.entry.group

    @property
    def notes(self) -> list[str]:
        """The table's notes on this number."""
        return self.table.explained(self.entry.marks)

    @property
    def sources(self) -> dict[str, list[int]]:
        """The seeds by the hash of the code that made them."""
        seeds: dict[str, list[int]] = {}
        for contributing in self.runs:
            seeds.setdefault(contributing.run.source_hash, []).append(contributing.run.seed)
        return seeds


def provenances(selected: SelectedRuns, metric: str | None) -> list[Provenance]:
    """Return all numbers of the tables of these runs with what is behind them; of each task's first
    metric where none is named.

    Raises:
        UnknownName: no run has such a metric.
    """
    used = dict.fromkeys(
        run.environment for group in selected.groups for run in group.runs if run.environment
    )
    short_names = {digest: f"E{number}" for number, digest in enumerate(used, 1)}
    environments = selected.store.scores.environments()
    numbers: list[Provenance] = []
    for table in compare(selected, Options(metrics=() if metric is None else (metric,))):
        for line in table.lines:
            for entry in filter(None, line.entries):
                group = entry.group
                digests = dict.fromkeys(run.environment for run in group.runs if run.environment)
                numbers.append(
                    Provenance(
                        table,
                        line.name,
                        entry,
                        _contributing(selected, group, table.metric, short_names),
                        {short_names[digest]: environments.get(digest, {}) for digest in digests},
                        {key: selected.withdrawn[key] for key in group.withdrawn},
                    )
                )
    return numbers


def _contributing(
    selected: SelectedRuns, group: Group, metric: str, short_names: dict[str, str]
) -> tuple[ContributingRun, ...]:
    keys = [run.key for run in group.runs]
    later = selected.computed_later(group, metric)
    with selected.store.snapshot() as snapshot:
        rows, metrics = snapshot.rows(keys), snapshot.metrics(keys)
        provenance = snapshot.provenance(keys)
    runs = []
    for run in group.runs:
        row, files = rows.get(run.key), selected.store.checkpoints(run.key)
        runs.append(
            ContributingRun(
                run,
                later[run.key].estimate
                if run.key in later
                else metrics.get(run.key, {}).get(metric),
                files[0] if files else None,
                row.mlflow_run_id if row else None,
                short_names.get(run.environment or ""),
                provenance.get(run.key, ({}, {}))[1],
            )
        )
    return tuple(runs)


def environments_differ(numbers: Iterable[Provenance]) -> dict[str, dict[str, Any]]:
    """Return where the environments behind these numbers differ: by address (`packages.torch`), the
    value of each.
    """
    flat = {}
    for number in numbers:
        for name, environment in number.environments.items():
            packages = environment.get("packages") or {}
            flat[name] = {key: value for key, value in environment.items() if key != "packages"}
            flat[name] |= {f"packages.{key}": value for key, value in packages.items()}
    return {
        address: dict(zip(flat, values, strict=True))
        for address, values in differences(flat.values()).items()
    }


def specs_differ(numbers: Sequence[Provenance]) -> dict[str, list[Any]]:
    """Return where the specifications behind several numbers differ, with the value of each."""
    cells = (number.group.cell for number in numbers)
    return differences(cell.spec | {"protocol": cell.protocol} for cell in cells)


def environment_summary(environment: dict[str, Any]) -> dict[str, str]:
    """Summarise an environment in a few words; `-` is what is not on record."""
    packages = environment.get("packages") or {}
    commit = (environment.get("git_commit") or "none")[:12]
    if environment.get("git_dirty"):
        commit += ", changed"
    names = [str(environment[name]) for name in ("system", "cpu") if environment.get(name)]
    cores = f", {environment['cores']} cores" if environment.get("cores") else ""
    summary = {
        "bench": environment.get("bench"),
        "commit": commit,
        "torch": packages.get("torch"),
        "numpy": packages.get("numpy"),
        "python": environment.get("python"),
        "machine": ", ".join(names) + cores,
    }
    return {name: str(value) if value else "-" for name, value in summary.items()}
