"""`bench tune`: a tuning study without a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import click

from harness.base.errors import UnknownName
from harness.cli._options import Work, json_option, many, protocol_option, set_option, work_options
from harness.cli._output import say
from harness.plan.tune_defaults import REPORT_SEEDS, SAMPLER, SEEDS, TRIALS, Pruner, Sampler

SAMPLERS, PRUNERS = get_args(Sampler), get_args(Pruner)


@click.command()
@click.option("-m", "--method", required=True, metavar="METHOD", help="A method: hvae.")
@click.option("-t", "--task", required=True, metavar="TASK", help="A task: gaussian-100.")
@click.option(
    "--trials",
    type=click.IntRange(1),
    default=TRIALS,
    metavar="N",
    help="How many settings are tried.",
)
@many(
    "--space",
    metavar="FIELD[=RANGE]",
    help_text="A field to tune: lr, lr=1e-4:1e-1:log or particles=1,10,100. Repeat for more. "
    "Without it: all declared ranges of real numbers.",
)
@protocol_option
@set_option("Set a field in all trials: steps=2000. Repeat for more.")
@click.option("--seeds", default=SEEDS, metavar="SEEDS", help="Replicates of a trial.")
@click.option(
    "--report-seeds",
    default=REPORT_SEEDS,
    metavar="SEEDS",
    help="Seeds on which the winner is scored.",
)
@click.option(
    "--sampler",
    metavar="NAME",
    default=SAMPLER,
    help=f"What chooses the next setting: {', '.join(SAMPLERS)}.",
)
@click.option(
    "--pruner",
    metavar="NAME",
    default="median",
    help=f"What ends hopeless trials early: {', '.join(PRUNERS)}.",
)
@work_options
@json_option
@click.pass_context
def tune(
    ctx: click.Context,
    method: str,
    task: str,
    sets: Sequence[str],
    work: Work,
    as_json: bool,
    **asked: Any,
) -> None:
    """Find settings of a method on a task, and score them on seeds that the search never saw.

    Trials are ordinary runs. They are judged by a score that sees neither the truth nor test data,
    on seeds of their own; then the best setting and the default one are run on the report seeds.
    The same command continues where it was interrupted, or adds trials.

    \b
    Example:
      bench tune -m hvae -t gaussian-25 --trials 30 --set steps=500
    """
    from harness.cli._tuning import tune_all
    from harness.plan.grid import parse_sets
    from harness.plan.tune_options import Tune
    from harness.tuning.search import searches, short_name

    for kind, available in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        if asked[kind] not in available:
            raise UnknownName(kind, asked[kind], available)
    options = Tune.model_validate(asked | {"methods": [method], "tasks": [task]})
    settings = parse_sets(sets)
    study = short_name(options, settings)
    say(f"study {study}", err=True)
    ctx.exit(tune_all(searches(options, study, settings), work, as_json))
