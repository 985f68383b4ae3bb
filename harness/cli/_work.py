"""The options of every command that makes runs."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from harness.base.errors import UsageError
from harness.cli._options import Command

if TYPE_CHECKING:
    from harness.execution.job import Options


class Quantity(click.ParamType):
    """A number with a unit, as `90`, `15m` or `4G`."""

    def __init__(self, name: str, units: dict[str, int], examples: str, smallest: float) -> None:
        self.name = name
        self._units, self._examples, self._smallest = units, examples, smallest

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number in the smallest unit."""
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([a-z]?)b?", str(value).strip().lower())
        if match is None or match[2] not in self._units:
            self.fail(f"'{value}' is not a {self.name}; write {self._examples}", param, ctx)
        number = float(match[1]) * self._units[match[2]]
        if number < self._smallest:
            self.fail(f"{value} is too little; write {self._examples}", param, ctx)
        return number


DURATION = Quantity(
    "time", {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}, "90s, 15m or 2.5h", 1e-3
)
MEMORY = Quantity(
    "size",
    {"": 1, "m": 2**20, "g": 2**30, "t": 2**40},
    "1G or more: a worker needs as much to start",
    2**30,
)


@dataclass(frozen=True)
class Work:
    """How a command wants its runs made, as it was typed. Times in seconds, memory in bytes."""

    rerun: bool = False
    retry: bool = False
    save_every: float | None = None
    other_torch: bool = False
    workers: int | None = None
    scheduler: str | None = None
    queue: bool = False
    memory_limit: float | None = None
    time_limit: float | None = None
    total_time_limit: float | None = None
    device: str = "cpu"
    allow_plugins: bool = False

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            UsageError: it does.
        """
        if self.save_every is not None and not math.isfinite(self.save_every):
            raise UsageError("--save-every needs a number of seconds.")
        if sum((self.workers is not None, self.scheduler is not None, self.queue)) > 1:
            raise UsageError(
                "Give one of --workers (processes here), --scheduler (a Dask cluster) and --queue (leave it to bench worker)."
            )
        if self.memory_limit and not (self.workers or self.scheduler):
            raise UsageError("--memory-limit is a worker's: give --workers N too.")
        self.check_device()

    def check_device(self) -> None:
        """Refuse a device that is not here.

        Raises:
            UsageError: it is not.
        """
        if self.device != "cpu":
            from harness.training import devices

            devices.use(self.device)

    def options(self) -> Options:
        """The part that whoever makes the runs must know."""
        from harness.execution.job import Options
        from harness.plan import registry

        return Options(
            self.save_every,
            self.other_torch,
            self.time_limit,
            self.total_time_limit,
            None if self.memory_limit is None else int(self.memory_limit),
            device=self.device,
            plugins=tuple(registry.named),
            any_plugin=self.allow_plugins,
        )


plugins_option = click.option(
    "--allow-plugins",
    is_flag=True,
    help="Run code that the database holds: whoever can write there can run code as you.",
)
SAVE_HELP = "Time between checkpoints. Without it: five seconds, or longer, so that they take under one percent of a run."


def limit_options(command: Command) -> Command:
    """How whoever makes runs makes them."""
    options = [
        click.option("--time-limit", type=DURATION, metavar="TIME", help="For each run: 90s, 15m, 2.5h. It is saved, and ends as timeout."),
        click.option("--total-time-limit", type=DURATION, metavar="TIME", help="For all runs together; what is not begun stays queued."),
        click.option("--memory-limit", type=MEMORY, metavar="SIZE", help="For each worker: 4G. A run that wants more fails."),
        click.option("--device", default="cpu", show_default=True, metavar="NAME", help="Where new runs are made: cpu, cuda or cuda:N."),
        click.option("--save-every", type=click.FloatRange(0), metavar="SECONDS", help=SAVE_HELP),
        click.option("--other-torch", is_flag=True, help="Go on with runs that began under another torch; their bits may differ."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def work_options(command: Command) -> Command:
    """How a command makes its runs: a function that takes `work` in place of these options."""

    @functools.wraps(command)
    def gathered(*arguments: Any, **typed: Any) -> Any:
        work = Work(
            **{
                field.name: typed.pop(field.name)
                for field in dataclasses.fields(Work)
                if field.name in typed
            }
        )
        work.check()
        return command(*arguments, work=work, **typed)

    options = [
        click.option("--rerun", is_flag=True, help="Run anew whatever is there already."),
        click.option("--retry", is_flag=True, help="Run anew what diverged or failed."),
        click.option("--workers", type=click.IntRange(1), metavar="N", help="Worker processes here, which share the processors."),
        click.option("--scheduler", metavar="ADDRESS", help="Send the runs to a Dask cluster: tcp://HOST:8786."),
        click.option("--queue", is_flag=True, help="Queue what is missing and leave: bench worker runs it."),
    ]  # fmt: skip
    made: Any = limit_options(gathered)
    for option in reversed(options):
        made = option(made)
    return made
