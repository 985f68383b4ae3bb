"""`bench calibrate`: settings under which methods take equally long."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from harness.base.text import plural
from harness.cli._options import json_option
from harness.cli._output import print_json, say
from harness.cli._render import console, print_table

if TYPE_CHECKING:
    from harness.plan.grid import Setting
    from harness.training.calibration import Answer, Entrant, Point, Spread, Stopwatch

NOISY = 0.1  # spread of a ratio


@click.command()
@click.option(
    "-m",
    "--method",
    "methods",
    multiple=True,
    required=True,
    metavar="METHOD",
    help="Two or more; the first is the reference.",
)
@click.option("-t", "--task", required=True, metavar="TASK", help="A task: digits.")
@click.option(
    "--protocol",
    metavar="NAME",
    help="How runs train; each task has its own. See: bench show TASK.",
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Set a field for all methods: batch_size=100. Repeat for more.",
)
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

    The setting is n_leapfrog for methods that have it, and particles for all others. Steps are
    timed in rounds in which every method trains for a while, at three values or more; a line
    through them gives the value, which is timed again. One replicate is trained, in memory: nothing
    is written. Looks at validation data and the final scores are not counted. What is given as ± is
    half the distance between the quartiles.

    \b
    Example:
      bench calibrate -m hvae -m iwae -t digits
    """
    from harness.base.errors import UsageError
    from harness.plan.grid import parse_sets
    from harness.training.calibration import Stopwatch, entrant, search

    if len(methods) < 2:
        raise UsageError(
            "Give two methods or more; the first is the reference: bench calibrate -m hvae -m iwae -t mnist"
        )
    entrants, column, settings = (
        [entrant(text) for text in methods],
        _one_task(task),
        parse_sets(sets),
    )
    watch = Stopwatch(entrants, column, protocol, settings, steps)
    threads = threads or _usual_threads(column)
    with _threads(threads):
        step, answers = search(_telling(watch, entrants), watch.values)
    lines = [
        {
            **_described(one, answer),
            "command": _command(one, answer.value, task, protocol, settings),
        }
        for one, answer in zip(entrants[1:], answers, strict=True)
    ]
    first = {
        "method": methods[0],
        "field": entrants[0].field,
        "value": watch.values[0],
        **_seconds(step),
    }
    if as_json:
        print_json({**line, "task": task, "threads": threads, "reference": first} for line in lines)
    else:
        _print(first, lines, task, threads)


def _one_task(text: str) -> Setting:
    from harness.base.errors import UsageError
    from harness.plan.grid import parse_selector

    settings = parse_selector("task", text)
    if len(settings) > 1:
        raise UsageError(f"'{text}' stands for {len(settings)} settings; calibrate takes one task.")
    return settings[0]


def _usual_threads(task: Setting) -> int:
    """As many as a run takes that has the machine for itself."""
    from harness.execution.job import cores

    return 1 if task.plugin.cls.stacks else cores()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _telling(watch: Stopwatch, entrants: Sequence[Entrant]) -> Any:
    """The stopwatch, saying on stderr what it times."""

    def measure(points: Sequence[Point], rounds: int) -> Mapping[Point, Sequence[float]]:
        what = ", ".join(
            f"{entrants[point.method].typed} with {entrants[point.method].field}={point.value}"
            for point in points
        )
        say(f"Timing {what}: {plural(rounds, 'round')}", err=True)
        return watch(points, rounds)

    return measure


def _seconds(step: Spread) -> dict[str, float]:
    return {"step_s": step.median, "step_s_spread": step.spread}


def _described(one: Entrant, answer: Answer) -> dict[str, Any]:
    return {
        "method": one.typed,
        "field": one.field,
        "value": answer.value,
        **_seconds(answer.step),
        "ratio": answer.ratio.median,
        "ratio_spread": answer.ratio.spread,
        "equal": answer.equal,
        "ratios": {str(value): ratio for value, ratio in sorted(answer.ratios.items())},
    }


def _command(
    one: Entrant, value: int, task: str, protocol: str | None, settings: Mapping[str, str]
) -> str:
    """The `bench run` that uses the value found."""
    method = re.sub(r"\[\s*n_leapfrog\s*=[^\]]*\]", "", one.typed)
    method, more = (
        (method, {one.field: value})
        if one.field == "particles"
        else (f"{method}[{one.field}={value}]", {})
    )
    kept = {name: text for name, text in settings.items() if name != one.address}
    words = [
        "bench",
        "run",
        "-m",
        method,
        "-t",
        task,
        *(["--protocol", protocol] if protocol else []),
    ]
    return shlex.join(
        [
            *words,
            *(
                word
                for name, text in {**kept, **more}.items()
                for word in ("--set", f"{name}={text}")
            ),
        ]
    )


def _print(first: dict[str, Any], lines: Sequence[dict[str, Any]], task: str, threads: int) -> None:
    rows = [
        (
            line["method"],
            f"{line['field']}={line['value']}",
            _milliseconds(line),
            _ratio(line) if "ratio" in line else "reference",
        )
        for line in (first, *lines)
    ]
    print_table(("method", "setting", "ms a step", "ratio"), rows, left=2)
    out = console()
    for line in lines:
        out.print(_in_words(line, first), markup=False)
        out.print(f"  {line['command']}", markup=False)
    noisy = any(line["ratio_spread"] > NOISY for line in lines)
    busy = (
        " The times vary much: is the machine busy? Take more steps a round with --steps."
        if noisy
        else ""
    )
    out.print(f"On {task}, {plural(threads, 'thread')}.{busy}", markup=False)


def _in_words(line: dict[str, Any], first: dict[str, Any]) -> str:
    """`iwae with particles=37 takes as long a step as hvae with n_leapfrog=10 (ratio 1.01 ± 0.02)`."""
    one, other = (
        f"{entry['method']} with {entry['field']}={entry['value']}" for entry in (line, first)
    )
    if line["equal"]:
        return f"{one} takes as long a step as {other} (ratio {_ratio(line)})"
    if line["value"] == 1 and line["ratio"] > 1:
        return f"even {one} takes a longer step than {other} (ratio {_ratio(line)})"
    return f"{one} comes nearest to a step of {other} (ratio {_ratio(line)})"


def _ratio(line: dict[str, Any]) -> str:
    return f"{line['ratio']:.2f} ± {line['ratio_spread']:.2f}"


def _milliseconds(line: dict[str, Any]) -> str:
    return f"{1e3 * line['step_s']:.3g} ± {1e3 * line['step_s_spread']:.2g}"
