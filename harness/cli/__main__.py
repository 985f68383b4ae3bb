"""The command `bench`; also `python -m harness.cli`."""

from __future__ import annotations

from harness.base.gc import collect_seldom
from harness.cli import main
from harness.cli._output import own_streams


def bench() -> None:
    """Run the command line in a process of its own."""
    collect_seldom()
    with own_streams():
        main(prog_name="bench")


if __name__ == "__main__":
    bench()
