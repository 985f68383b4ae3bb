"""The command line: a group that loads a command's file only when that command is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import click

import harness
from harness.base.errors import BenchError, UnknownName, one_line
from harness.cli._output import say, with_clean_stdout

COMMANDS = {
    "run": "run",
    "study": "study",
    "tune": "tune",
    "worker": "worker",
    "list": "listing",
    "show": "show",
    "score": "score",
    "compare": "compare",
    "why": "why",
    "report": "report",
    "figure": "figure",
    "sample": "sample",
    "encode": "encode",
    "reconstruct": "reconstruct",
    "verify": "verify",
    "invalidate": "invalidate",
    "rm": "rm",
    "export": "export",
    "import": "transfer",
    "new": "new",
    "check": "check",
    "certify": "certify",
    "calibrate": "calibrate",
    "data": "data",
    "ui": "ui",
    "db": "db",
    "doctor": "doctor",
}
"""Modules by command; the command has the module's name in it."""


@cache
def _import_command(module: str) -> click.Command:
    command = getattr(importlib.import_module(f"harness.cli.{module}"), module)
    for leaf in command.commands.values() if isinstance(command, click.Group) else [command]:
        leaf.callback = leaf.callback and with_clean_stdout(leaf.callback)
    return command


@contextmanager
def _short_usage_errors() -> Iterator[None]:
    """Make click's message one printable line of bounded length."""
    try:
        yield
    except click.ClickException as err:
        err.message = one_line(err.message, 1800)  # type: ignore[misc]
        raise


class LazyGroup(click.Group):
    """Commands that are imported when used. Here alone a `BenchError` becomes an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        return _import_command(COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with a suggestion where the name is unknown."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise UnknownName("command", args[0], COMMANDS, "bench --help")
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """As click's, with shorter messages."""
        with _short_usage_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a `BenchError` is one line on stderr."""
        try:
            with _short_usage_errors():
                return super().invoke(ctx)
        except BenchError as err:
            say(one_line(f"bench: {err}"), err=True)
            ctx.exit(err.exit_status)
        except KeyboardInterrupt:
            say("Interrupted.", err=True)
            ctx.exit(130)


@click.group(
    cls=LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
)
@click.version_option(harness.__version__, prog_name="bench")
def main() -> None:
    """Benchmark variational inference: methods crossed with tasks, every number checked, no result
    lost.

    Results lie in the current folder, or in BENCH_HOME: bench.db holds them, mlflow.db and mlruns/
    mirror them for `mlflow ui`, checkpoints/ holds the trained states. Repeating a command resumes
    it.

    Exit status: 0 all is done and well, 1 an error, 2 bad usage, 3 some run is not done or
    something is not as it should be, 130 interrupted.

    \b
    Examples:
      bench run --method hvae --task gaussian-400
      bench run -m vb -m iaf -m hvae -t gaussian-25 --seeds 0-9
      bench list methods
    """
