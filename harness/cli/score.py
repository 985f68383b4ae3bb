"""`bench score`: metrics of stored runs, from their checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, TimeElapsedColumn

from harness.base.errors import UnknownName, UsageError
from harness.base.spec import plain_number
from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.cli._execute import INTERRUPTED, NOT_ALL_DONE, mirror_runs, stop_on_signals
from harness.cli._options import json_option, many, plugins_option, workers_option
from harness.cli._output import print_json, say
from harness.cli._render import Progress, state_column
from harness.cli._selection import open_results, select_finished, selection_options

if TYPE_CHECKING:
    from harness.analysis.selection import RunFilter, SelectedRuns
    from harness.execution.score import Estimator, NotScored, Scorer
    from harness.store import ResultStore

AIS_METRICS = ("nll_ais", "log_evidence_ais", "bdmc_gap", "ess_ais")


@click.command()
@selection_options
@many(
    *("--metric", "metrics"),
    metavar="NAME",
    help_text="Score only runs that lack this metric. Repeat for more.",
)
@click.option(
    "--particles",
    type=click.IntRange(2),
    metavar="N",
    help="Evaluate with N particles. Without it: as many as the run's own protocol says.",
)
@click.option(
    "--estimator",
    "name",
    type=click.Choice(["importance", "ais"]),
    default="importance",
    help="importance: by the method's own draws. ais: of the model and its base alone, by annealed "
    "importance sampling.",
)
@click.option(
    "--temperatures", type=click.IntRange(2), metavar="T", help="With ais. Without it: 500."
)
@click.option("--chains", type=click.IntRange(2), metavar="S", help="With ais. Without it: 16.")
@click.option(
    "--problems",
    type=click.IntRange(1),
    metavar="N",
    help="With ais: the first N problems, up to the end of their batch. Without it: 100.",
)
@workers_option
@plugins_option
@json_option
@click.pass_context
def score(
    ctx: click.Context,
    selection: RunFilter,
    metrics: Sequence[str],
    particles: int | None,
    name: str,
    workers: int | None,
    any_plugin: bool,
    as_json: bool,
    **annealing: int | None,
) -> None:
    """Compute metrics of finished runs from their checkpoints, without training: those that a run
    lacks, as it is of an older release, or all with more particles.

    What a run has stays as it is. Beside each value stand the estimator, its version and settings;
    tables take it where the run has none of its own, or with --particles. An interrupted command
    goes on when it is repeated, and the same command on other machines shares the work.

    \b
    Examples:
      bench score --metric eubo -t 'gaussian-*'
      bench score --particles 100000 -t 'logistic-*' --workers 2
      bench compare --particles 100000 -t 'logistic-*'
      bench score --estimator ais -t digits --workers 2
    """
    from harness.execution.job import Options, Stop
    from harness.execution.score import Scorer
    from harness.plan import registry

    estimator = _estimator(name, particles, annealing)
    workspace = Workspace.current()
    with open_results("score") as store, stop_on_signals() as stop:
        runs = select_finished(store, selection)
        _check_names(runs, metrics)
        todo = list(_lacking(store, runs, metrics, estimator))
        options = Options(plugins=tuple(registry.named), any_plugin=any_plugin)
        scorer = Scorer(workspace, store, estimator, options, stop)
        try:
            scored, failures = _score_all(scorer, todo, min(workers or 1, len(todo)))
        except Stop:
            say("Interrupted. What is scored is stored; the same command goes on.", err=True)
            ctx.exit(INTERRUPTED)
        if failures and not scored:
            raise failures[0].error
        mirror_runs(workspace, store, scored)
        if as_json:
            print_json(_records(store, runs, metrics, estimator))
        else:
            runs = select_finished(store, selection, particles)
            _print(runs, metrics or (AIS_METRICS if name == "ais" else ()), len(scored))
        ctx.exit(NOT_ALL_DONE if failures else 0)


def _estimator(name: str, particles: int | None, annealing: dict[str, int | None]) -> Estimator:
    """Return the estimator of that name with the settings that were given.

    Raises:
        UsageError: a setting of the other one.
    """
    from harness.execution.score import AnnealingSettings, Importance

    given = {field: value for field, value in annealing.items() if value is not None}
    if name == "ais" and particles is not None:
        raise UsageError("--particles is not for ais: its chains are --chains.")
    if name != "ais" and given:
        raise UsageError(f"--{next(iter(given))} needs --estimator ais.")
    return AnnealingSettings(**given) if name == "ais" else Importance(particles)


def _score_all(
    scorer: Scorer, keys: Sequence[str], n_workers: int
) -> tuple[list[str], list[NotScored]]:
    """Score these runs and show how far that is; return those that are scored, and the others."""
    from harness.execution.score import NotScored, score_on_workers

    scored: list[str] = []
    failures: list[NotScored] = []
    with Progress(BarColumn(), state_column(), TimeElapsedColumn()) as progress:
        progress.begin("runs", len(keys))
        scorer = replace(scorer, tell=progress.say)
        events = score_on_workers(scorer, keys, n_workers) if n_workers > 1 else scorer.score(keys)
        for event in events:
            if isinstance(event, NotScored):
                failures.append(event)
                if len(failures) < len(keys):  # else it is the command's own error
                    progress.say(str(event.error))
            else:
                scored.append(event.key)
            n_ended = len(scored) + len(failures)
            progress.update(n_ended, f"{n_ended} of {len(keys)}", n_ended == len(keys))
    return scored, failures


def _check_names(runs: SelectedRuns, metrics: Sequence[str]) -> None:
    """Refuse metrics that nothing here has or can have."""
    from harness.base.metrics import HARNESS_METRICS

    declared = (group.cell.description.metric_info for group in runs.groups)
    known = {*runs.metrics.names, *HARNESS_METRICS, *(name for each in declared for name in each)}
    for name in metrics:
        if name not in known:
            raise UnknownName("metric", name, sorted(known), "bench show KEY")


def _lacking(
    store: ResultStore, runs: SelectedRuns, metrics: Sequence[str], estimator: Estimator
) -> Iterator[str]:
    """Yield the runs that are to be scored."""
    from harness.base.spec import RunSpec
    from harness.execution.score import Importance, evaluation_of

    keys = [run.key for group in runs.groups for run in group.done]
    evaluated = store.evaluations.evaluated(keys)
    for group in runs.groups:
        evaluation = evaluation_of(RunSpec.from_plain(group.cell.spec), estimator)
        own = {evaluation_of(RunSpec.from_plain(group.cell.spec), Importance())}
        for run in group.done:
            has_all = bool(metrics) and all(run.key in runs.metrics.own(name) for name in metrics)
            if (run.key, evaluation) not in evaluated and not (has_all and evaluation in own):
                yield run.key


def _records(
    store: ResultStore, runs: SelectedRuns, metrics: Sequence[str], estimator: Estimator
) -> Iterator[dict[str, Any]]:
    """Yield a record a run and score."""
    from harness.analysis.selection import settings_text
    from harness.base.spec import RunSpec
    from harness.execution.score import evaluation_of

    for group in runs.groups:
        evaluation = evaluation_of(RunSpec.from_plain(group.cell.spec), estimator)
        seeds = {run.key: run.seed for run in group.done}
        for stored in store.evaluations.of(seeds):
            if stored.evaluation == evaluation and (not metrics or stored.name in metrics):
                se = stored.estimate.se
                yield {
                    "key": stored.run,
                    "method": group.cell.description.method,
                    "settings": settings_text(dict(group.row.settings)),
                    "task": group.cell.task_label,
                    "seed": seeds[stored.run],
                    "metric": stored.name,
                    "value": plain_number(stored.estimate.value),
                    "se": None if se is None else plain_number(se),
                    "estimator": evaluation.estimator,
                    "version": evaluation.version,
                    "estimator_settings": evaluation.settings,
                }


def _print(runs: SelectedRuns, metrics: Sequence[str], n_scored: int) -> None:
    """Print the tables of what was asked for."""
    from harness.analysis.grids import Style, table_grids
    from harness.analysis.tables import Options, compare
    from harness.cli.compare import print_grids

    n_done = sum(len(group.done) for group in runs.groups)
    say(f"{plural(n_scored, 'run')} scored, {n_done} selected.", err=True)
    available = [name for name in metrics if any(runs.values(group, name) for group in runs.groups)]
    for name in metrics:
        if name not in available:
            say(f"None of these methods gives {name} on these tasks.", err=True)
    if available or not metrics:
        tables = compare(runs, Options(metrics=tuple(available)))
        print_grids([grid for table in tables for grid in table_grids(table, Style(costs=False))])
    option = "" if runs.particles is None else f" --particles {runs.particles}"
    say(f"Next: bench compare{option}, or bench show KEY", err=True)
