"""`bench check`: prove that a method or a task keeps its contract."""

from __future__ import annotations

import time

import click

from harness.base.errors import UnknownName, UsageError
from harness.base.text import duration
from harness.cli._options import json_option
from harness.cli._output import print_json
from harness.cli._render import console

BROKEN = 3


@click.command()
@click.argument("name", metavar="NAME | module:Class | ./FILE.py:Class")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Which random numbers to check with.",
)
@json_option
@click.pass_context
def check(ctx: click.Context, name: str, seed: int, as_json: bool) -> None:
    """Run the contract suite over a method or a task.

    Exit status 3 when a contract does not hold.

    \b
    Example:
      bench check vb
    """
    from harness import conformance
    from harness.plan import registry

    try:
        cls, suite = registry.find("method", name).cls, conformance.check_method
    except UsageError as unusable:
        try:
            cls, suite = registry.find("task", name).cls, conformance.check_task
        except UsageError as err:
            if not isinstance(unusable, UnknownName) and isinstance(err, UnknownName):
                raise unusable from None  # it is a method, or meant to be one
            if ":" in name:
                raise
            known = [*registry.listings("method"), *registry.listings("task")]
            raise UnknownName("method or task", name, known, "bench list methods") from None
    out, began, broken = console(), time.monotonic(), 0
    for result in suite(cls, seed=seed):
        broken += not result.holds
        if as_json:
            print_json([{"check": result.name, "holds": result.holds, "detail": result.detail}])
        else:
            out.print(
                "holds  " if result.holds else "BROKEN ",
                style="green" if result.holds else "bold red",
                end="",
            )
            out.print(f"{result.name}: {result.detail}", markup=False)
    if not as_json:
        verdict = f"{broken} contracts are broken" if broken else "every contract holds"
        out.print(f"{name}: {verdict} ({duration(time.monotonic() - began)})", markup=False)
    ctx.exit(BROKEN if broken else 0)
