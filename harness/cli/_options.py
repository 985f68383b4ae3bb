"""Options that several commands share, and the result database they open."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
    return lambda command: functools.reduce(lambda c, option: option(c), options[::-1], command)


def many(*names: str, metavar: str, help_text: str, **extra: Any) -> Callable[[Any], Any]:
    """Return an option that may be repeated."""
    return click.option(*names, multiple=True, metavar=metavar, help=help_text, **extra)


class Quantity(click.ParamType):
    """A number with a unit, as `90`, `15m` or `4G`."""

    def __init__(self, name: str, examples: str, units: dict[str, int], smallest: float) -> None:
        self.name, self._examples, self._units, self._smallest = name, examples, units, smallest

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number in the smallest unit, whole where that is."""
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([a-z]?)b?", str(value).strip().lower())
        number = -1.0
        if match and match[2] in self._units:
            number = float(match[1]) * self._units[match[2]]
        if number < self._smallest:
            self.fail(f"'{value}' is not a {self.name}; write {self._examples}", param, ctx)
        return type(self._smallest)(number)


DURATION = Quantity(
    "time", "90s, 15m or 2.5h", {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}, 0.0
)
MEMORY = Quantity(
    "size",
    "1G or more: a worker needs as much to start",
    {"": 1, "m": 2**20, "g": 2**30, "t": 2**40},
    2**30,
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
protocol_option = click.option(
    "--protocol",
    metavar="NAME",
    help="How runs train and are scored; each task has its own. See: bench show TASK.",
)
plugins_option = click.option(
    "--allow-plugins",
    "any_plugin",
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
    names = ("-m", "--method", "methods")
    return many(*names, required=True, metavar="METHOD", help_text=help_text)


def set_option(help_text: str) -> Callable[[Any], Any]:
    """Return `--set` with the help of a command."""
    return many("--set", "sets", metavar="FIELD=VALUE", help_text=help_text)


grid_options = bundle(
    methods_option(
        "A method: hvae, hvae-untempered, 'hvae[n_leapfrog=1,10][tempering=fixed,none]' "
        "or ./mine.py:Mine. Repeat to cross."
    ),
    many(
        *("-t", "--task", "tasks"),
        required=True,
        metavar="TASK",
        help_text="A task: gaussian-400. Repeat to cross.",
    ),
    click.option(
        "--seeds",
        default="0",
        metavar="SEEDS",
        help="Replicates: 0-9,12. Each seed is a run.",
    ),
    protocol_option,
    set_option("Set a field: lr=1e-3, method.n_leapfrog=5, task.n_data=1000. Repeat for more."),
)


def _check_device(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if value != "cpu":
        from harness.training import devices

        devices.use(value)
    return value


LIMITS = ("time_limit_s", "total_limit_s", "memory_limit", "device", "save_every_s", "other_torch")
limit_options = bundle(
    click.option(
        "--time-limit",
        "time_limit_s",
        type=DURATION,
        metavar="TIME",
        help="For each run: 90s, 15m, 2.5h. It is saved, and ends as timeout.",
    ),
    click.option(
        "--total-time-limit",
        "total_limit_s",
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
        callback=_check_device,
        metavar="NAME",
        help="Where new runs train: cpu, cuda or cuda:N.",
    ),
    click.option(
        "--save-every",
        "save_every_s",
        type=DURATION,
        metavar="TIME",
        help="Time between checkpoints. Without it: five seconds, or longer, so that they take "
        "under one percent of a run.",
    ),
    click.option(
        "--other-torch",
        is_flag=True,
        help="Continue runs that began under another torch; their bits may differ.",
    ),
)


workers_option = click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Worker processes here, which share the processors.",
)


def work_options(command: Command) -> Command:
    """Add the options of how runs are executed; the command takes them as one `work`."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        limits = {name: kwargs.pop(name) for name in LIMITS}
        names = ("rerun", "retry", "workers", "scheduler", "queue")
        work = Work(**{name: kwargs.pop(name) for name in names}, limits=limits)
        if sum((work.workers is not None, work.scheduler is not None, work.queue)) > 1:
            raise UsageError(
                "Give one of --workers (processes here), --scheduler (a Dask cluster) "
                "and --queue (leave it to bench worker)."
            )
        if limits["memory_limit"] and not (work.workers or work.scheduler):
            raise UsageError("--memory-limit applies to workers: add --workers N.")
        return command(*args, work=work, **kwargs)

    return bundle(
        click.option("--rerun", is_flag=True, help="Run again what has a result already."),
        click.option("--retry", is_flag=True, help="Run again what diverged or failed."),
        workers_option,
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
    """How runs are executed, as it was typed; `limits` are fields of `Options`."""

    rerun: bool = False
    retry: bool = False
    workers: int | None = None
    scheduler: str | None = None
    queue: bool = False
    limits: Mapping[str, Any] = field(default_factory=dict)

    def options(self) -> Options:
        """Return the part that whoever executes the runs must know."""
        from harness.execution.job import Options
        from harness.plan import registry

        return Options(**self.limits, plugins=tuple(registry.named))
