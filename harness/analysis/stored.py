"""The metrics of a database, each read once: tables and figures of one moment ask for the same ones
again and again.
"""

from __future__ import annotations

from functools import cached_property

from harness.store import ResultStore


class StoredMetrics:
    """What a database holds of each metric when it is first asked for; without a database, nothing."""

    def __init__(self, store: ResultStore | None) -> None:
        self._store = store
        self._read: dict[str, dict[str, float]] = {}

    @cached_property
    def names(self) -> list[str]:
        """The names of all stored metrics, sorted."""
        return [] if self._store is None else self._store.scores.metric_names()

    def of(self, name: str) -> dict[str, float]:
        """A metric by run, of all runs that have it."""
        if name not in self._read:
            self._read[name] = (
                {}
                if self._store is None or name not in self.names
                else self._store.scores.metric(name)
            )
        return self._read[name]
