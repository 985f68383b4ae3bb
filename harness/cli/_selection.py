"""The options that pick finished runs, of every command that shows results."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import gc
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from harness.base.errors import BenchError, UnknownName, UsageError, one_line
from harness.base.workspace import Workspace
from harness.cli._options import Command, open_store
from harness.cli._output import say

if TYPE_CHECKING:
    from harness.analysis.selection import RunFilter, SelectedRuns
    from harness.base.spec import NewRun
    from harness.plan.studies import Study
    from harness.store import ResultStore, RunRow
    from harness.tuning.result import TuningResult


@dataclass(frozen=True)
class Selection:
    """Which runs are wanted, as it was typed."""

    methods: Sequence[str] = ()
    tasks: Sequence[str] = ()
    study: str | None = None
    protocol: str | None = None
    seeds: str | None = None

    def __str__(self) -> str:
        """The options as one would type them."""
        words = [("-m", name) for name in self.methods] + [("-t", name) for name in self.tasks]
        words += [("--study", self.study), ("--protocol", self.protocol), ("--seeds", self.seeds)]
        return shlex.join(
            word for option, value in words if value is not None for word in (option, value)
        )


def pattern_options(command: Command) -> Command:
    """`-m` and `-t`: names, names with their variant, or patterns."""
    options = [
        click.option(
            "-m", "--method", "methods", multiple=True, metavar="METHOD",
            help="Of these methods only: vb, 'hvae[n_leapfrog=10]' or 'hvae*'. Repeat for more.",
        ),
        click.option(
            "-t", "--task", "tasks", multiple=True, metavar="TASK",
            help="On these tasks only: gaussian-25 or 'gaussian-*'. Repeat for more.",
        ),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def selection(command: Command) -> Command:
    """What picks finished runs: a function that takes `chosen` in place of these options."""

    @functools.wraps(command)
    def gathered(*arguments: Any, **typed: Any) -> Any:
        chosen = Selection(
            **{field.name: typed.pop(field.name) for field in dataclasses.fields(Selection)}
        )
        with _uncollected():
            return command(*arguments, chosen=chosen, **typed)

    options = [
        click.option("--study", metavar="NAME-or-FILE", help="Of the runs of this study only."),
        click.option("--protocol", metavar="NAME", help="Of runs under this protocol only."),
        click.option(
            "--seeds",
            metavar="SEEDS",
            help="Of these replicates only: 0-9. Those from 1000 on, of tuning, are in no table unasked.",
        ),
    ]
    made: Any = gathered
    for option in reversed(options):
        made = option(made)
    return pattern_options(made)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without looking for garbage in cycles, now or at the end: at 100,000 runs that takes as long
    as all the rest.
    """
    collecting = gc.isenabled()
    gc.disable()
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def opened(doing: str) -> ResultStore:
    """The workspace's results.

    Raises:
        UsageError: there are none.
    """
    store = open_store(Workspace.current())
    if store is None:
        raise UsageError(
            f"There are no runs here to {doing}. Make some: bench run -m vb -m hvae -t gaussian-25 --protocol smoke --seeds 0-2"
        )
    return store


def drawn(
    store: ResultStore, chosen: Selection, cells: Collection[str] | None = None
) -> SelectedRuns:
    """The finished runs that were picked, of `cells` only where there are any.

    Raises:
        UsageError: none fits.
    """
    from harness.analysis.selection import select_runs

    sample = select_runs(store, dataclasses.replace(choice_of(chosen), cells=cells))
    if not sample.groups:
        waiting = "; ".join(f"{count:,} {why}" for why, count in sample.left_out.items())
        asked = f" with {chosen}" if str(chosen) else ""
        raise UsageError(
            f"There is no finished run{asked}{f' ({waiting})' if waiting else ''}. What there is: bench list runs"
        )
    return sample


def with_tuning(workspace: Workspace, sample: SelectedRuns) -> list[TuningResult]:
    """Tell a sample what finding its settings took; returns what became of every search of this
    workspace.

    Nothing is loaded where no study was ever begun; a study whose plugins have changed since is
    left out, and said so.
    """
    from harness.store.database import sqlite_file

    file = sqlite_file(workspace.study_url)
    if file is not None and not file.exists():
        return []
    from harness.tuning.result import cost_by_cell, read_results
    from harness.tuning.trials import stored_searches, study_names

    found: list[TuningResult] = []
    try:
        begun = study_names(workspace.study_url)
    except BenchError as err:
        say(one_line(f"What tuning took is left out: {err}"), err=True)
        return []
    for name in begun:
        try:
            searches = stored_searches(workspace.study_url, name)
        except BenchError as err:
            say(one_line(f"The tuning study {name} is left out: {err}"), err=True)
            continue
        found += read_results(
            workspace.study_url, sample.store, sorted(searches, key=lambda search: search.name)
        )
    sample.tuning = cost_by_cell(found)
    return found


def choice_of(
    chosen: Selection, statuses: Sequence[str] = (), keys: Collection[str] | None = None
) -> RunFilter:
    """The runs of an export that were picked, `keys` among them only.

    Raises:
        UsageError: there is no such study or status.
    """
    from harness.analysis.selection import RunFilter, parse_statuses, study_keys
    from harness.plan.grid import parse_seeds

    said = " ".join(
        [*([str(chosen)] if str(chosen) else []), *(f"--status {name}" for name in statuses)]
    )
    seeds = None if chosen.seeds is None else set(parse_seeds(chosen.seeds))
    if chosen.study is not None:
        of_study = study_keys(chosen.study)
        keys = of_study if keys is None else of_study.intersection(keys)
    return RunFilter(
        chosen.methods, chosen.tasks, chosen.protocol, seeds, parse_statuses(statuses), keys, said
    )


def run_of(store: ResultStore, prefix: str) -> RunRow:
    """The one run whose key begins so.

    Raises:
        UnknownName: there is none, or there are several.
    """
    found = store.find(prefix)
    if len(found) != 1:
        raise UnknownName(
            "run of that key alone" if found else "run",
            prefix,
            [row.key for row in found],
            "bench list runs",
        )
    return found[0]


def runs_of_study(
    found: Study, methods: Sequence[str], tasks: Sequence[str], sets: dict[str, Any] | None = None
) -> list[NewRun]:
    """The runs of a study, with `-m` and `-t` those that they pick.

    Raises:
        UsageError: none fits.
    """
    from harness.plan.grid import matches_any

    def fits(run: NewRun) -> bool:
        spec = run.spec
        labels = spec.method, run.description.method
        return matches_any(methods, labels, spec.method_fields) and matches_any(
            tasks, (spec.task, run.task_label), spec.task_fields
        )

    runs = [run for run in found.runs(sets) if fits(run)]
    if not runs:
        raise UsageError(
            f"'{found.name}' has no run with {Selection(methods, tasks)}. What it has: bench study show {found.name}"
        )
    return runs
