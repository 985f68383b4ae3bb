"""What the commands of `bench study` do where the study is one that tunes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.base.errors import UnknownName
from harness.cli._options import Work
from harness.cli._output import print_json

if TYPE_CHECKING:
    from harness.plan.studies import Study
    from harness.tuning.search import Search, SearchRecord


def found_study(name: str) -> Study | list[SearchRecord]:
    """A study of grids, or the searches of a tuning study: as they were last run in this workspace,
    else as the file has them.
    """
    from harness.cli._tuning import searches_here
    from harness.plan.studies import load
    from harness.tuning.search import searches_of

    try:
        found = load(name)
    except UnknownName:
        if searches := searches_here(name):
            return searches
        raise
    return (
        found if found.tune is None else searches_here(found.name) or _records(searches_of(found))
    )


def _records(searches: Sequence[Search]) -> list[SearchRecord]:

    return [search.record() for search in searches]


def go_on(
    found: Study, sets: dict[str, Any], trials: int | None, work: Work, dry_run: bool, as_json: bool
) -> int:
    """Go on with a tuning study."""
    from harness.cli._tuning import tune_all
    from harness.tuning.search import searches_of

    searches = searches_of(found, sets, trials)
    if not dry_run:
        return tune_all(searches, work, as_json)
    show_best(_records(searches), as_json)
    return 0


def show_best(found: Sequence[SearchRecord], as_json: bool) -> None:
    """The winners, or how far the searches are."""
    from harness.cli._tuning import look
    from harness.cli._verdicts import print_verdicts

    verdicts = look(found)
    print_json(verdict.plain() for verdict in verdicts) if as_json else print_verdicts(verdicts)


def show_search(found: Sequence[SearchRecord], figures: str | None, as_json: bool) -> None:
    """Every trial, and the figures where a file is named."""
    from harness.cli._tuning import look, write_figures
    from harness.cli._verdicts import print_trials

    verdicts = look(found)
    print_trials(verdicts, as_json)
    if figures is not None:
        write_figures(verdicts, Path(figures))
