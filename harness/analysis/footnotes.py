"""The notes below a table, and the letters with which entries refer to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.analysis.selection import Group, SelectedRuns
from harness.analysis.statistics import BCA_FROM, WILCOXON_FROM
from harness.base.metrics import IMPORTANCE_ESTIMATES, PARETO_K_LIMIT, Metric
from harness.base.text import plural

if TYPE_CHECKING:
    from harness.analysis.tables import Line, Options

FEW = 6
"""Of fewer seeds than this readers are warned."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TESTED_FROM = {"t": 2, "wilcoxon": WILCOXON_FROM}
TEST_NAMES = {
    "t": "Student's t",
    "bca": "bias-corrected and accelerated bootstrap",
    "wilcoxon": "Wilcoxon's signed-rank",
}


class Footnotes:
    """The notes of one table as they came up; each that marks entries has a letter."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}
        self._general: list[str] = []

    def lines(self) -> tuple[str, ...]:
        """Return all notes, those with letters first."""
        return (*(f"[{letter}] {text}" for text, letter in self._letters.items()), *self._general)

    def marks(self, selected: SelectedRuns, group: Group, metric: str) -> tuple[str, ...]:
        """Return the letters of what a reader must know of a group's entry."""
        reasons = Counter(selected.withdrawn[key] for key in group.withdrawn)
        texts = [
            f"{count} withdrawn, and in no mean: {reason}"
            for reason, count in sorted(reasons.items())
        ]
        tails = selected.values(group, "pareto_k") if metric in IMPORTANCE_ESTIMATES else {}
        if any(value > PARETO_K_LIMIT for value in tails.values()):
            texts.append(
                f"Pareto k is above {PARETO_K_LIMIT} in some of these runs: "
                "the estimate is not to be trusted."
            )
        if len({run.source_hash for run in group.done}) > 1:
            texts.append(
                "These runs were made with different code of one version: "
                "bench why shows which; --rerun makes them anew."
            )
        return tuple(map(self.letter, texts))

    def letter(self, text: str) -> str:
        """Return the letter of a note, a new one where it is new."""
        number = len(self._letters)
        return self._letters.setdefault(
            text, LETTERS[number] if number < len(LETTERS) else f"n{number}"
        )

    def add_general(
        self,
        metric: str,
        info: Metric,
        lines: Sequence[Line],
        options: Options,
        left_out: dict[str, int],
    ) -> None:
        """Add what is true of the whole table."""
        entries = [entry for line in lines for entry in line.entries if entry is not None]
        fewest = min((entry.interval.n for entry in entries if entry.interval.n), default=0)
        if info.description:
            end = f", {info.better} is better" if info.better else ""
            self._general.append(f"{metric}: {info.description}{end}.")
        if any(entry.best for entry in entries):
            self._general.append(
                f"Bold: the best mean of each column, and what {TEST_NAMES[options.test]} test of "
                "paired differences, with Holm's correction, does not tell apart from it (5 %). "
                "A row with failed runs is never bold."
            )
            if fewest < TESTED_FROM[options.test]:
                self._general.append(
                    f"Of fewer than {TESTED_FROM[options.test]} shared seeds this test says "
                    "nothing: it tells nobody apart."
                )
        if fewest < FEW:
            self._general.append(
                f"Fewer than {FEW} seeds somewhere: intervals are wide there, "
                "and tests see large differences only."
            )
        if options.interval == "bca" and fewest < BCA_FROM:
            self._general.append(
                f"Fewer than {BCA_FROM} seeds somewhere: "
                "the bootstrap's intervals are too narrow there."
            )
        self._general += [
            f"Left out: {plural(count, 'run')} ({why})." for why, count in sorted(left_out.items())
        ]
