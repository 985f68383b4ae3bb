"""Tables in LaTeX, for `booktabs`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.analysis.formats.grid import Grid, Word

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\char34{}", "`": r"\textasciigrave{}", "±": r"$\pm$",
}  # fmt: skip
PACKAGES = "% Needs \\usepackage{booktabs}."
SCALED = re.compile(r"\(([-0-9. ±]+)\)e(-?\d+)")
POWER = re.compile(r"(-?\d+(?:\.\d+)?)e(-?\d+)")
NUMBER = re.compile(r"(?<![\w.,])-(?=\d)")


def latex(grids: Sequence[Grid]) -> str:
    """Each grid as a table with its notes below."""
    return "\n".join([PACKAGES, *(_one(grid) for grid in grids)])


def _one(grid: Grid) -> str:
    bold = {(number, place) for number, row in enumerate(grid.rows) for place, word in enumerate(row) if word.bold and word.text}
    lines = [r"\begin{table}", r"  \centering", rf"  \caption{{{escape(grid.title)}}}"]
    lines.append(rf"  \begin{{tabular}}{{l{'r' * (len(grid.heading) - 1)}}}")
    lines += [r"    \toprule", f"    {_row([escape(name) for name in grid.heading])}", r"    \midrule"]
    for number, row in enumerate(grid.rows):
        lines.append(f"    {_row([_word(word, (number, place) in bold) for place, word in enumerate(row)])}")
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    lines += [rf"  \par\smallskip\footnotesize {escape(note)}" for note in grid.notes]
    lines += [r"\end{table}", ""]
    return "\n".join(lines)


def _row(words: Sequence[str]) -> str:
    return " & ".join(words) + r" \\"


def _word(word: Word, bold: bool) -> str:
    text = _numbers(escape(word.text))
    marks = rf"\textsuperscript{{{','.join(word.marks)}}}" if word.marks else ""
    return (rf"{{\boldmath\textbf{{{text}}}}}" if bold else text) + marks


def _numbers(text: str) -> str:
    """Minus signs and powers of ten as mathematics."""
    text = SCALED.sub(r"(\1)$\\times 10^{\2}$", text)
    text = POWER.sub(r"\1$\\times 10^{\2}$", text)
    return NUMBER.sub("$-$", text)


def escape(text: str) -> str:
    r"""Text that LaTeX prints as it is, in one line; what it cannot print is a question mark.

    >>> escape("a_b 50% \\x")
    'a\\_b 50\\% \\textbackslash{}x'
    """
    one_line = " ".join(text.split())
    return "".join(SPECIAL.get(letter) or (letter if letter.isascii() and letter.isprintable() else "?") for letter in one_line)
