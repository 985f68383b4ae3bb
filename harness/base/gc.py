"""Python's collector of unreachable cycles, and libraries that it need not go over.

torch and MLflow bring hundreds of thousands of objects that stay to the end. The collector would go
over all of them again and again while they load, and once more when the process ends: a quarter of
a second and nearly half a one.
"""

from __future__ import annotations

import atexit
import gc

SELDOM = 100_000
"""New objects between two collections while libraries load; usually 700."""
USUAL = gc.get_threshold()


def collect_seldom() -> None:
    """At the start of a process: collect seldom until `collect_as_usual`, and not at all when the
    process ends.
    """
    gc.set_threshold(SELDOM)
    atexit.register(gc.freeze)


def collect_as_usual() -> None:
    """Libraries are loaded, work begins: from now on collect as always, but never look at what is
    there already.

    A process that did not call `collect_seldom` is somebody else's, and is left as it is.
    """
    if gc.get_threshold()[0] == SELDOM:
        gc.freeze()
        gc.set_threshold(*USUAL)
