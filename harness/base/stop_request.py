"""A request to save and leave that a signal handler may make at any moment."""

from __future__ import annotations

import queue
from contextlib import suppress


class StopRequest:
    """What `threading.Event` is to threads, for signal handlers.

    A handler runs between two instructions of the main thread. `Event.set` waits there for a lock
    which that thread may hold inside `Event.wait`; `SimpleQueue.put` may interrupt `get`.
    """

    def __init__(self) -> None:
        self._made = False
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """Make the request."""
        self._made = True
        self._news.put(None)

    def is_set(self) -> bool:
        """Whether it was made."""
        return self._made

    def wait(self, timeout_s: float) -> bool:
        """Wait for it, at most `timeout_s` seconds; says whether it was made."""
        if not self._made:
            with suppress(queue.Empty):
                self._news.get(timeout=timeout_s)
        return self._made
