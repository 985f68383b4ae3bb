"""`bench calibrate`: settings under which methods take equally long."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from harness.base.errors import UsageError
from harness.base.text import plural
from harness.cli._options import json_option, methods_option, protocol_option, set_option
from harness.cli._output import print_json, say

if TYPE_CHECKING:
    from harness.training.calibration import Answer, Entrant, Point, Spread

NOISY = 0.1  # spread of a ratio


@click.command()
@methods_option("Two or more; the first is the reference.")
@click.option("-t", "--task", required=True, metavar="TASK", help="A task: digits.")
@protocol_option
@set_option("Set a field for all methods: batch_size=100. Repeat for more.")
@click.option(
    "--steps",
    type=click.IntRange(1),
    metavar="N",
    help="Steps in a round of timing. Without it: about 0.15 s of them.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Threads. Without it: as many as bench run would take.",
)
@json_option
def calibrate(
    methods: Sequence[str],
    task: str,
    protocol: str | None,
    sets: Sequence[str],
    steps: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Find settings that make a training step of other methods as long as the reference's.

    The setting is n_leapfrog for methods that have it, and particles for all others. Steps of one
    replicate are timed in rounds, at three values or more; a line through them gives the value,
    which is timed again. Scoring is not counted, and nothing is written. What is given as ± is half
    the distance between the quartiles.

    \b
    Example:
      bench calibrate -m hvae -m iwae -t digits
    """
    from harness.execution.job import cores
    from harness.plan.grid import parse_selector, parse_sets
    from harness.training.calibration import entrant, search, stopwatch

    if len(methods) < 2:
        raise UsageError(
            "Give two methods or more; the first is the reference: "
            "bench calibrate -m hvae -m iwae -t mnist"
        )
    entrants, settings = [entrant(text) for text in methods], parse_sets(sets)
    tasks = parse_selector("task", task)
    if len(tasks) > 1:
        raise UsageError(f"'{task}' stands for {len(tasks)} settings; calibrate takes one task.")
    watch, values = stopwatch(entrants, tasks[0], protocol, settings, steps)
    threads = threads or (1 if tasks[0].plugin.cls.stacks else cores())

    def measure(points: Sequence[Point], rounds: int) -> Mapping[Point, Sequence[float]]:
        names = ", ".join(
            f"{entrants[point.method].typed} with {entrants[point.method].field}={point.value}"
            for point in points
        )
        say(f"Timing {names}: {plural(rounds, 'round')}", err=True)
        return watch(points, rounds)

    with _torch_threads(threads):
        step, answers = search(measure, values)
    reference = _line(entrants[0], values[0], step)
    lines = [
        _answer_line(method, answer)
        | {"command": _command(method, answer, task, protocol, settings)}
        for method, answer in zip(entrants[1:], answers, strict=True)
    ]
    if as_json:
        extra = {"task": task, "threads": threads, "reference": reference}
        print_json({**line, **extra} for line in lines)
    else:
        _print(reference, lines, f"On {task}, {plural(threads, 'thread')}.")


@contextmanager
def _torch_threads(n: int) -> Iterator[None]:
    """Let torch use so many threads meanwhile."""
    import torch

    previous = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def _answer_line(method: Entrant, answer: Answer) -> dict[str, Any]:
    return {
        **_line(method, answer.value, answer.step),
        "ratio": answer.ratio.median,
        "ratio_spread": answer.ratio.spread,
        "equal": answer.equal,
        "ratios": {str(value): ratio for value, ratio in sorted(answer.ratios.items())},
    }


def _line(method: Entrant, value: int, step: Spread) -> dict[str, Any]:
    return {
        "method": method.typed,
        "field": method.field,
        "value": value,
        "step_s": step.median,
        "step_s_spread": step.spread,
    }


def _command(
    method: Entrant, answer: Answer, task: str, protocol: str | None, settings: Mapping[str, str]
) -> str:
    """Return the `bench run` that uses the value."""
    name = re.sub(r"\[\s*n_leapfrog\s*=[^\]]*\]", "", method.typed)
    sets = {field: value for field, value in settings.items() if field != method.address}
    if method.field == "particles":
        sets["particles"] = str(answer.value)
    else:
        name += f"[{method.field}={answer.value}]"
    words = ["bench", "run", "-m", name, "-t", task]
    if protocol:
        words += ["--protocol", protocol]
    for field, value in sets.items():
        words += ["--set", f"{field}={value}"]
    return shlex.join(words)


def _print(reference: dict[str, Any], lines: Sequence[dict[str, Any]], conditions: str) -> None:
    from harness.cli._render import console, print_table

    rows = [
        (
            line["method"],
            f"{line['field']}={line['value']}",
            f"{1e3 * line['step_s']:.3g} ± {1e3 * line['step_s_spread']:.2g}",
            f"{line['ratio']:.2f} ± {line['ratio_spread']:.2f}" if "ratio" in line else "reference",
        )
        for line in (reference, *lines)
    ]
    print_table(("method", "setting", "ms a step", "ratio"), rows, left=2)
    out = console()
    names = [f"{method} with {setting}" for method, setting, *_ in rows]
    for line, name, row in zip(lines, names[1:], rows[1:], strict=True):
        verdict = "takes as long a step as" if line["equal"] else "comes nearest to a step of"
        out.print(f"{name} {verdict} {names[0]} (ratio {row[-1]})\n  {line['command']}")
    if any(line["ratio_spread"] > NOISY for line in lines):
        conditions += " The times vary much: take more steps a round with --steps."
    out.print(conditions)
