"""Write `docs/commands.md` from the help texts; with --check, fail where it is stale."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from harness.cli import main

PAGE = Path(__file__).with_name("commands.md")


def sections(
    command: click.Command, name: str, parent: click.Context | None = None
) -> Iterator[str]:
    """The help of a command and of those below it."""
    context = click.Context(
        command,
        info_name=name,
        parent=parent,
        max_content_width=100,
        terminal_width=100,
        help_option_names=["-h", "--help"],
        show_default=True,
    )
    yield (
        f"{'#' * (2 + name.count(' '))} "
        f"{context.command_path}\n\n```\n{command.get_help(context)}\n```\n"
    )
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None:
                yield from sections(found, child, context)


def page() -> str:
    """The whole page."""
    return (
        "# Commands\n\nMade from the help texts by `python docs/make_commands.py`.\n\n"
        + "\n".join(sections(main, "bench"))
    )


if __name__ == "__main__":
    if "--check" in sys.argv:
        if PAGE.read_text(encoding="utf-8") != page():
            sys.exit("docs/commands.md is stale. Run: python docs/make_commands.py")
    else:
        PAGE.write_text(page(), encoding="utf-8")
