"""Which runs an export is about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.export_columns import Shape, shape_of
from harness.analysis.sample import wanted
from harness.base.errors import UnknownName, UsageError
from harness.base.spec import Status
from harness.store import Snapshot

CELLS = 500
"""How many cells' runs are looked up together."""


@dataclass(frozen=True)
class Choice:
    """What runs must be to be wanted; what is None or empty rules nothing out. `said` is how that
    was typed.
    """

    methods: Sequence[str] = ()
    tasks: Sequence[str] = ()
    protocol: str | None = None
    seeds: Collection[int] | None = None
    statuses: Collection[Status] = ()
    keys: Collection[str] | None = None
    said: str = ""


@dataclass(frozen=True)
class Chosen:
    """The keys of the runs, by task, method, cell and seed; the shapes of their specs; how many
    there are of each status; and the newest code of each plugin that is not installed.
    """

    keys: list[str]
    shapes: set[Shape]
    statuses: Counter[str]
    newest: Mapping[tuple[str, str], str]

    def __str__(self) -> str:
        """`12 runs: 11 done, 1 diverged`."""
        counts = ", ".join(f"{count:,} {status}" for status, count in self.statuses.most_common())
        return f"{len(self.keys):,} {'run' if len(self.keys) == 1 else 'runs'}: {counts}"


def choose(snapshot: Snapshot, choice: Choice) -> Chosen:
    """The runs that are wanted, whatever became of them."""
    shapes: dict[Shape, Shape] = {}
    cells: dict[str, Shape] = {}
    for cell in snapshot.each_cell():
        if wanted(cell, choice.methods, choice.tasks, choice.protocol):
            shape = shape_of(cell.spec)
            cells[cell.cell] = shapes.setdefault(
                shape, shape
            )  # most cells have the shape of another
    chosen = Chosen([], set(), Counter(), snapshot.newest_sources())
    names = list(cells)
    for start in range(0, len(names), CELLS):
        _add(chosen, snapshot, cells, names[start : start + CELLS], choice)
    return chosen


def choose_some(snapshot: Snapshot, choice: Choice) -> Chosen:
    """The same where there has to be one.

    Raises:
        UsageError: there is none.
    """
    chosen = choose(snapshot, choice)
    if not chosen.keys:
        raise UsageError(
            f"There is no run{f' with {choice.said}' if choice.said else ''}. What there is: bench list runs"
        )
    return chosen


def _add(
    chosen: Chosen,
    snapshot: Snapshot,
    cells: dict[str, Shape],
    names: Sequence[str],
    choice: Choice,
) -> None:
    by_cell: dict[str, list[str]] = {name: [] for name in names}
    for run in snapshot.replicates(names):
        if (
            (choice.keys is None or run.key in choice.keys)
            and (choice.seeds is None or run.seed in choice.seeds)
            and (not choice.statuses or run.status in choice.statuses)
        ):
            by_cell[run.cell].append(run.key)
            chosen.statuses[run.status.value] += 1
    for name, keys in by_cell.items():
        chosen.keys.extend(keys)
        if keys:
            chosen.shapes.add(cells[name])


def keys_of_study(study: str) -> set[str]:
    """The keys of a study's runs.

    Raises:
        UsageError: it is a tuning study, which has trials instead.
    """
    from harness.plan.studies import load

    found = load(study)
    if found.tune is not None:
        raise UsageError(
            f"'{found.name}' is a tuning study. What it found: bench study best {study}"
        )
    return {run.spec.key for run in found.runs()}


def parse_statuses(names: Iterable[str]) -> list[Status]:
    """The statuses of these names.

    Raises:
        UnknownName: there is none of a name.
    """
    known = list(Status)
    for name in names:
        if name not in known:
            raise UnknownName("status", name, known)
    return [Status(name) for name in names]
