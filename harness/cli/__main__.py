"""The command `bench`; also `python -m harness.cli`."""

from __future__ import annotations

import atexit
import gc

from harness.cli import main
from harness.cli._output import own_streams


def bench() -> None:
    """Run the command line in a process of its own."""
    # torch and MLflow bring hundreds of thousands of objects that stay: look for cyclic garbage,
    # of which training makes none, seldom (usual is 700), and not at all when the process ends
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    with own_streams():
        main(prog_name="bench")


if __name__ == "__main__":
    bench()
