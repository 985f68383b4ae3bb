"""The winner of a tuning study as settings for other runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.base.errors import UsageError
from harness.base.workspace import Workspace
from harness.plan.grid import Setting
from harness.store import ResultStore
from harness.store.fresh import is_missing
from harness.tuning.log import read_log, stored
from harness.tuning.record import Plugin, Record
from harness.tuning.rounds import measured
from harness.tuning.verdict import best_of


class Preset:
    """What a tuning study has found, by method and task.

    Raises:
        UsageError: there is no such study here, or one of `seeds` was tuned on.
    """

    def __init__(self, workspace: Workspace, study: str, seeds: Sequence[int]) -> None:
        self._workspace, self._study = workspace, study
        self._searches = stored(workspace.study_url, study)
        if not self._searches:
            raise UsageError(
                f"No tuning study named '{study}' was run in this workspace. Run it first: bench study run {study}"
            )
        for search in self._searches:
            if used := sorted(set(seeds) & set(search.seeds)):
                raise UsageError(
                    f"Seed {used[0]} was tuned on by '{study}': a score on it is too good. Take other seeds."
                )

    def settings(self, method: Setting, task: Setting) -> tuple[str, dict[str, Any]]:
        """The protocol and the settings of the winner for a method on a task.

        Raises:
            UsageError: the study did not tune this pair, or has no winner yet.
        """
        found = [search for search in self._searches if _same(search.plugins, (method, task))]
        exact = [
            search
            for search in found
            if [plugin.values for plugin in search.plugins] == [method.values, task.values]
        ]
        chosen = exact or found
        if len(chosen) != 1:
            tuned = ", ".join(
                search.name.removeprefix(f"{self._study}/") for search in self._searches
            )
            several = "tuned several settings of" if found else "did not tune"
            raise UsageError(
                f"'{self._study}' {several} {method.found.name} on {task.found.name}. It tuned {tuned}."
            )
        return chosen[0].protocol, {**chosen[0].settings, **self._winner(chosen[0])}

    def _winner(self, search: Record) -> dict[str, Any]:
        url, best = self._workspace.database_url, None
        with read_log(self._workspace.study_url, search) as log:
            if log is not None and not is_missing(url):
                with ResultStore.open(url) as store:
                    best = best_of(measured(search, store, log.trials()))
        if best is None:
            raise UsageError(
                f"'{self._study}' has no winner for {search.method} on {search.task} yet: bench study status {self._study}"
            )
        return best.params


def _same(tuned: Sequence[Plugin], wanted: Sequence[Setting]) -> bool:
    """Whether these are the same plugins with the same variants; other settings of those that are
    wanted are the user's.
    """
    return [(plugin.name, plugin.fields) for plugin in tuned] == [
        (setting.found.name, setting.found.fields) for setting in wanted
    ]
