"""`bench check`: prove that a method or a task keeps its contract."""

from __future__ import annotations

import time

import click

from harness.base.text import duration, plural
from harness.cli._options import json_option
from harness.cli._output import print_json
from harness.cli._render import console
from harness.cli.show import find_plugin

BROKEN = 3
ENDINGS = (".yaml", ".yml")


@click.command()
@click.argument("name", metavar="NAME | module:Class | ./FILE.py:Class | ./FILE.yaml")
@click.option(
    "--seed",
    default=0,
    type=click.IntRange(0),
    help="Which random numbers to check with.",
)
@json_option
@click.pass_context
def check(ctx: click.Context, name: str, seed: int, as_json: bool) -> None:
    """Run the contract suite on a method or a task, or resolve the runs of a study.

    \b
    Example:
      bench check vb
    """
    from harness import conformance

    if name.endswith(ENDINGS):
        _check_study(name, as_json)
        return
    kind, plugin = find_plugin(name)
    suite = conformance.check_method if kind == "method" else conformance.check_task
    out, start, n_broken = console(), time.monotonic(), 0
    for result in suite(plugin.cls, seed=seed):
        n_broken += not result.holds
        if as_json:
            print_json([{"check": result.name, "holds": result.holds, "detail": result.detail}])
            continue
        out.print(
            "holds  " if result.holds else "BROKEN ",
            style="green" if result.holds else "bold red",
            end="",
        )
        out.print(f"{result.name}: {result.detail}")
    if not as_json:
        verdict = f"{plural(n_broken, 'contract')} broken" if n_broken else "every contract holds"
        out.print(f"{name}: {verdict} ({duration(time.monotonic() - start)})")
    ctx.exit(BROKEN if n_broken else 0)


def _check_study(name: str, as_json: bool) -> None:
    """Read a study and resolve every one of its runs; what is wrong is raised."""
    from harness.plan.studies import load
    from harness.tuning.search import searches_of

    study = load(name)
    if study.tune is None:
        count = plural(len(study.runs()), "run")
    else:
        count = plural(sum(search.n_trials for search in searches_of(study)), "trial")
    if as_json:
        print_json([{"check": "runs resolve", "holds": True, "detail": count}])
        return
    console().print(f"holds  runs resolve: {count}")
    console().print(f"{name}: every contract holds")
