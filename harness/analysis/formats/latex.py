"""Tables in LaTeX, for `booktabs` and `graphicx`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.analysis.formats.grid import NOTHING, Grid, Word

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\char34{}", "`": r"\`{}", "±": r"$\pm$", "[": "{[}", "*": "{*}",
}  # fmt: skip
PACKAGES = "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}."
FITTED = r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
"""A table that is wider than the text is made as small as the text is wide."""
POWER = re.compile(r"(?<=[\d)])e(-?\d+)\b")
NUMBER = re.compile(r"(?<![\w.,])-(?=\d)")


def latex(grids: Sequence[Grid]) -> str:
    """Each grid as a table with its notes below."""
    return "\n".join([PACKAGES, *(_one(grid) for grid in grids)])


def _one(grid: Grid) -> str:
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape(grid.title)}}}",
        r"  \smallskip",
        FITTED,
    ]
    lines.append(rf"  \begin{{tabular}}{{l{'r' * (len(grid.heading) - 1)}}}")
    lines += [
        r"    \toprule",
        f"    {_row([escape(name) for name in grid.heading])}",
        r"    \midrule",
    ]
    lines += [f"    {_row([escape(name.text), *map(_word, words)])}" for name, *words in grid.rows]
    lines += [r"    \bottomrule", r"  \end{tabular}}"]
    if grid.notes:
        lines += [r"  \begin{minipage}{\linewidth}", r"    \footnotesize\raggedright\smallskip"]
        lines += [rf"    {escape(note)}\par" for note in grid.notes]
        lines.append(r"  \end{minipage}")
    lines += [r"\end{table}", ""]
    return "\n".join(lines)


def _row(words: Sequence[str]) -> str:
    return " & ".join(words) + r" \\"


def _word(word: Word) -> str:
    text = "--" if word.text == NOTHING else _numbers(escape(word.text))
    marks = rf"\textsuperscript{{{','.join(word.marks)}}}" if word.marks else ""
    return (rf"{{\boldmath\textbf{{{text}}}}}" if word.bold and text else text) + marks


def _numbers(text: str) -> str:
    """Minus signs and powers of ten as mathematics."""
    return POWER.sub(r"$\\times 10^{\1}$", NUMBER.sub("$-$", text))


def escape(text: str) -> str:
    r"""Text that LaTeX prints as it is, in one line; what it cannot print is a question mark.

    >>> escape("a_b 50% \\x")
    'a\\_b 50\\% \\textbackslash{}x'
    """
    one_line = " ".join(text.split())
    return "".join(
        SPECIAL.get(letter) or (letter if letter.isascii() and letter.isprintable() else "?")
        for letter in one_line
    )
