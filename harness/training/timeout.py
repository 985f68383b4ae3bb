"""A step that does not end: what a limit that is looked at between steps cannot stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

GRACE_S = 30.0
"""Seconds that a step may go on after the time is over."""


class Overdue(BaseException):
    """Raised inside whatever is going on, which is not to catch it."""


@contextmanager
def broken_off(deadline: float) -> Iterator[None]:
    """Break off what goes on `GRACE_S` after `deadline`, a finite moment of `time.monotonic`.

    Python code is broken off wherever it is, a single call of a library when it returns. Elsewhere
    than in the main thread, and on systems without SIGALRM, nothing is.

    Raises:
        Overdue: it was broken off; what it was at work on may be half done.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        yield
        return

    def rise(*_: Any) -> None:
        raise Overdue

    before = signal.signal(signal.SIGALRM, rise)
    signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 0.0) + GRACE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
