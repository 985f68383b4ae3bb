"""The notes below a table, and the letters with which entries refer to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from harness.analysis.best import FEW, RELATIVE_MARGIN, one_value_dominates
from harness.analysis.selection import Group, SelectedRuns
from harness.analysis.statistics import BCA_FROM
from harness.base.metrics import RISING_Z, Metric
from harness.base.text import plural

if TYPE_CHECKING:
    from harness.analysis.tables import Line, Options

IN_CONFIDENCE_SET = "†"
FEW_NOTE = (
    f"Where rows share fewer than {FEW} seeds the best mean alone is bold, and nothing is claimed "
    "of it."
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
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
        self.seeds: list[tuple[int, int]] = []
        """How many seeds the rows of each column share that compete to be best, and how many they
        need.
        """

    def lines(self) -> tuple[str, ...]:
        """Return all notes, those with letters first."""
        return (*(f"[{letter}] {text}" for text, letter in self._letters.items()), *self._general)

    def marks(
        self,
        selected: SelectedRuns,
        group: Group,
        metric: str,
        values: Mapping[int, float],
        one_sided: str | None,
    ) -> tuple[str, ...]:
        """Return the letters of what a reader must know of a group's entry, whose estimates of the
        metric are bounds for the reason `one_sided`.
        """
        reasons = Counter(selected.withdrawn[key] for key in group.withdrawn)
        texts = [
            f"{count} withdrawn, and in no mean: {reason}"
            for reason, count in sorted(reasons.items())
        ]
        if one_sided:
            texts.append(
                f"{one_sided[0].upper()}{one_sided[1:]} in some of these runs: the estimate is a "
                "bound in expectation, and has no interval that would cover."
            )
        later = selected.computed_later(group, metric).values()
        if evaluations := sorted({str(score.evaluation) for score in later}):
            texts.append(
                f"Computed from {plural(len(later), 'stored run')} by bench score: "
                f"{'; '.join(evaluations)}."
            )
        if one_value_dominates(values):
            texts.append(
                "One run carries the mean, which is less than half as large without it: the median "
                "and the quartiles stand in its place."
            )
        if any(trend > RISING_Z for trend in selected.values(group, "bound_trend_z").values()):
            texts.append(
                "The bound still rose at the end of training in some of these runs: they had not "
                f"converged (bound_trend_z above {RISING_Z:.0f})."
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
        if any(n >= needed for n, needed in self.seeds if n):
            self._general.append(best_note(info, options))
        if any(1 < n < FEW for n, _ in self.seeds):
            self._general.append(FEW_NOTE)
        if too_few := [needed for n, needed in self.seeds if FEW <= n < needed]:
            self._general.append(
                f"Nothing is bold where rows share too few seeds to tell so many apart: "
                f"{max(too_few)} are needed."
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


def short_best_note(infos: Iterable[Metric], has_marks: bool) -> str:
    """Say what bold claims in a caption, and the mark of the confidence set where there is one."""
    margins = " or ".join(dict.fromkeys(map(_margin, infos)))
    bold = f"Bold: at most {margins} worse than every other row, P(any row wrongly) ≤ 5 %."
    mark = f" {IN_CONFIDENCE_SET}: may be the best, with 95 % confidence."
    return bold + mark if has_marks else bold


def _margin(info: Metric) -> str:
    return f"{RELATIVE_MARGIN * 100:g} %" if info.margin is None else f"{info.margin:g} {info.unit}"


def best_note(info: Metric, options: Options) -> str:
    """Say what bold claims, and the mark of the confidence set."""
    test = f"sign test and {TEST_NAMES[options.test]} test, one-sided and paired"
    return (
        f"Bold: shown to be at most {_margin(info)} worse than every other row on the seeds that "
        f"all rows share ({test}, of logarithms where all values are positive); a column has a row "
        f"that is bold wrongly with a probability of 5 % at most. {IN_CONFIDENCE_SET}: no row is "
        "shown to be better; the best row is among these, or the bold ones, with 95 % confidence. "
        "Rows with failed runs are neither."
    )
