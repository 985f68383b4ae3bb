"""Published values beside ours, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.formats.grid import Grid, Word
from harness.analysis.ours import Mean
from harness.analysis.verdicts import Form, Judged
from harness.base.text import number

HEADING = (
    "method",
    "task",
    "published",
    "ours",
    "n",
    "verdict",
    "closed form",
    "corrected",
    "its closed form",
)


def published_grids(judged: Sequence[Judged]) -> list[Grid]:
    """A grid for each metric of each source: the values that our runs could be held against."""
    settled = [value for value in judged if value.verdict in ("reproduced", "not reproduced")]
    parts: dict[tuple[str, str], list[Judged]] = {}
    for value in settled:
        parts.setdefault((value.source, value.metric), []).append(value)
    return [
        Grid(f"{metric}: {source}", HEADING, tuple(map(_row, values)))
        for (source, metric), values in parts.items()
    ]


def _row(value: Judged) -> tuple[Word, ...]:
    n = "" if value.ours is None else str(value.ours.interval.n)
    texts = (
        value.row,
        value.task,
        f"{value.published:.7g}",
        _mean(value.ours),
        n,
        str(value.verdict),
        _form(value.closed_form),
    )
    return tuple(map(Word, (*texts, _mean(value.corrected), _form(value.corrected_closed_form))))


def _mean(mean: Mean | None) -> str:
    return (
        "" if mean is None or not mean.interval.n else number(mean.interval.mean, mean.interval.se)
    )


def _form(form: Form | None) -> str:
    return "" if form is None else f"{number(form.value)} ({form.name})"
