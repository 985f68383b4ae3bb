"""`bench check`: prove that a method or a task keeps its contract."""

from __future__ import annotations

import time

import click

from harness.base.errors import UnknownName, UsageError
from harness.base.text import duration, plural
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
    """Run the contract suite on a method or a task.

    Exit status 3 when a contract does not hold.

    \b
    Example:
      bench check vb
    """
    from harness import conformance
    from harness.plan import registry

    try:
        cls, suite = registry.find("method", name).cls, conformance.check_method
    except UsageError as method_error:
        try:
            cls, suite = registry.find("task", name).cls, conformance.check_task
        except UsageError as err:
            if isinstance(err, UnknownName) and not isinstance(method_error, UnknownName):
                raise method_error from None  # it is a method, or meant to be one
            if ":" in name:
                raise
            known = [*registry.listings("method"), *registry.listings("task")]
            raise UnknownName("method or task", name, known, "bench list methods") from None
    out, start, n_broken = console(), time.monotonic(), 0
    for result in suite(cls, seed=seed):
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
