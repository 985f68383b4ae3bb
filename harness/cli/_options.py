"""Options that several commands share, and the result database they open."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from harness.base.errors import UsageError
from harness.base.workspace import Workspace

if TYPE_CHECKING:
    from harness.execution.job import Options
    from harness.store import ResultStore

Command = TypeVar("Command", bound=Callable[..., Any])


def open_store(workspace: Workspace) -> ResultStore | None:
    """Return the result database for reading; None where the workspace has none yet."""
    from harness.store import ResultStore
    from harness.store.create import is_missing

    url = workspace.database_url
    return None if is_missing(url) else ResultStore.open(url)


def bundle(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Return a decorator that adds options, in the order of the help."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class Quantity(click.ParamType):
    """A number with a unit, as `90`, `15m` or `4G`."""

    def __init__(self, name: str, units: dict[str, int], examples: str, smallest: float) -> None:
        self.name = name
        self._units, self._examples, self._smallest = units, examples, smallest

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number in the smallest unit."""
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

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
protocol_option = click.option(
    "--protocol",
    metavar="NAME",
    help="How runs train; each task has its own. See: bench show TASK.",
)
plugins_option = click.option(
    "--allow-plugins",
    is_flag=True,
    help="Run code that the database holds: whoever can write there can run code as you.",
)
output_option = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write there, whole or not at all.",
)


def methods_option(help_text: str) -> Callable[[Any], Any]:
    """Return `--method`, which may be repeated, with the help of a command."""
    return click.option(
        "-m",
        "--method",
        "methods",
        multiple=True,
        required=True,
        metavar="METHOD",
        help=help_text,
    )


def set_option(help_text: str) -> Callable[[Any], Any]:
    """Return `--set` with the help of a command."""
    return click.option("--set", "sets", multiple=True, metavar="FIELD=VALUE", help=help_text)


grid_options = bundle(
    methods_option(
        "A method: hvae, hvae-untempered, 'hvae[n_leapfrog=1,10][tempering=fixed,none]' "
        "or ./mine.py:Mine. Repeat to cross."
    ),
    click.option(
        "-t",
        "--task",
        "tasks",
        multiple=True,
        required=True,
        metavar="TASK",
        help="A task: gaussian-400. Repeat to cross.",
    ),
    click.option(
        "--seeds",
        default="0",
        show_default=True,
        metavar="SEEDS",
        help="Replicates: 0-9,12. Each seed is a run.",
    ),
    click.option(
        "--protocol",
        metavar="NAME",
        help="How runs train and are scored; each task has its own. See: bench show TASK.",
    ),
    set_option("Set a field: lr=1e-3, method.n_leapfrog=5, task.n_data=1000. Repeat for more."),
)
limit_options = bundle(
    click.option(
        "--time-limit",
        type=DURATION,
        metavar="TIME",
        help="For each run: 90s, 15m, 2.5h. It is saved, and ends as timeout.",
    ),
    click.option(
        "--total-time-limit",
        type=DURATION,
        metavar="TIME",
        help="For all runs together; what has not begun stays queued.",
    ),
    click.option(
        "--memory-limit",
        type=MEMORY,
        metavar="SIZE",
        help="For each worker: 4G. A run that needs more fails.",
    ),
    click.option(
        "--device",
        default="cpu",
        show_default=True,
        metavar="NAME",
        help="Where new runs train: cpu, cuda or cuda:N.",
    ),
    click.option(
        "--save-every",
        type=click.FloatRange(0),
        metavar="SECONDS",
        help="Time between checkpoints. Without it: five seconds, or longer, so that they take "
        "under one percent of a run.",
    ),
    click.option(
        "--other-torch",
        is_flag=True,
        help="Continue runs that began under another torch; their bits may differ.",
    ),
)


def work_options(command: Command) -> Command:
    """Add the options of how runs are executed; the command takes them as one `work`."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        names = [field.name for field in dataclasses.fields(Work) if field.name in kwargs]
        work = Work(**{name: kwargs.pop(name) for name in names})
        work.check()
        return command(*args, work=work, **kwargs)

    return bundle(
        click.option("--rerun", is_flag=True, help="Run again what has a result already."),
        click.option("--retry", is_flag=True, help="Run again what diverged or failed."),
        click.option(
            "--workers",
            type=click.IntRange(1),
            metavar="N",
            help="Worker processes here, which share the processors.",
        ),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Send the runs to a Dask cluster: tcp://HOST:8786.",
        ),
        click.option(
            "--queue", is_flag=True, help="Queue what is missing and leave: bench worker runs it."
        ),
        limit_options,
    )(wrapped)  # type: ignore[return-value]


@dataclass(frozen=True)
class Work:
    """How a command executes its runs, as it was typed. Times in seconds, memory in bytes."""

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
        """Refuse options that contradict each other.

        Raises:
            UsageError: they do.
        """
        if self.save_every is not None and not math.isfinite(self.save_every):
            raise UsageError("--save-every needs a number of seconds.")
        if sum((self.workers is not None, self.scheduler is not None, self.queue)) > 1:
            raise UsageError(
                "Give one of --workers (processes here), --scheduler (a Dask cluster) "
                "and --queue (leave it to bench worker)."
            )
        if self.memory_limit and not (self.workers or self.scheduler):
            raise UsageError("--memory-limit applies to workers: add --workers N.")
        self.check_device()

    def check_device(self) -> None:
        """Refuse a device that this machine does not have.

        Raises:
            UsageError: it has none.
        """
        if self.device != "cpu":
            from harness.training import devices

            devices.use(self.device)

    def options(self) -> Options:
        """Return the part that whoever executes the runs must know."""
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
