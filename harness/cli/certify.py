"""`bench certify`: compute a target's log Z anew, and hold it against the stored value."""

from __future__ import annotations

import time

import click

from harness.base.text import duration
from harness.cli._options import json_option
from harness.cli._output import print_json
from harness.cli._render import console

DIFFERS = 3


@click.command()
@click.argument("tasks", metavar="TASK...", nargs=-1, required=True)
@json_option
@click.pass_context
def certify(ctx: click.Context, tasks: tuple[str, ...], as_json: bool) -> None:
    """Compute log Z of targets anew, by other code than their density or by importance sampling,
    and hold it against the stored value. Exit status 3 where they are more than three combined
    errors apart.

    \b
    Examples:
      bench certify funnel
      bench certify logistic-sonar 'brownian[known_scales=true]'
      bench certify ./mine.py
    """
    from harness.conformance.certify import certify as certificate_of
    from harness.plan.grid import parse_selector
    from harness.plan.registry import build

    settings = [setting for text in tasks for setting in parse_selector("task", text)]
    built = [build(s.plugin.cls, f"task '{s.plugin.name}'", s.values, "task.") for s in settings]
    n_different = 0
    for setting, task in zip(settings, built, strict=True):
        start = time.monotonic()
        certificate = certificate_of(task)
        n_different += not certificate.agrees
        computed, stored = certificate.computed, certificate.stored
        fields = " ".join(f"{name}={value}" for name, value in setting.values.items())
        name = " ".join(filter(None, [setting.plugin.name, fields]))
        if as_json:
            samples = [vars(sample) for sample in certificate.samples]
            record = {"task": name, "log_z": vars(computed), "stored": stored and vars(stored)}
            print_json([record | {"agrees": certificate.agrees, "samples": samples}])
            continue
        out = console()
        if stored is None:
            out.print("new     ", style="bold", end="")
            comparison = "; no value is stored"
        else:
            style = "green" if certificate.agrees else "bold red"
            out.print("agrees  " if certificate.agrees else "DIFFERS ", style=style, end="")
            comparison = (
                f"; stored {stored.value:.6f} ± {stored.error:.2g}, difference "
                f"{certificate.difference:.2g} (limit {certificate.allowed:.2g})"
            )
        took = duration(time.monotonic() - start)
        out.print(
            f"{name}: log Z {round(computed.value, 6) + 0.0:.6f} ± {computed.error:.2g} "
            f"by {computed.how}{comparison} ({took})"
        )
        for sample in certificate.samples:
            out.print(
                f"        {sample.value:.6f} ± {sample.error:.2g}, effective sample size "
                f"{100 * sample.ess:.3g} % of the draws"
            )
    ctx.exit(DIFFERS if n_different else 0)
