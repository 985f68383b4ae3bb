"""Write the figures of docs/reliability.md from docs/reliability.json; with --check, fail where
they are stale.

    BENCH_TESTS=full BENCH_FAULTS_JSON=docs/reliability.json python -m pytest -n 2 -m faults
    python docs/make_reliability.py

What stands between `<!-- figures -->` and `<!-- end -->` is replaced.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("reliability.md")
FIGURES = PAGE.with_suffix(".json")
KINDS = ("interruptions", "faults", "bad inputs", "losses")
ORIGIN = ("date", "processors", "python", "torch")


def page(text: str, files: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with these figures."""
    return re.sub(
        r"(<!-- figures -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{figures(files)}\n{match[2]}",
        text,
        flags=re.DOTALL,
    )


def figures(files: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a test file, their sum, and where they come from."""
    heading = ("tests", *KINDS, "minutes")
    rows = [(f"`{name}`", *row(counts)) for name, counts in files.items()]
    total = {
        name: sum(counts[name] for counts in files.values())
        for name in ("tests", "failed", "seconds", *KINDS)
    }
    lines = [("", *heading), ("---", *["---:"] * len(heading)), *rows, ("**all**", *row(total))]
    origin = [
        f"{name} {', '.join(sorted({str(counts[name]) for counts in files.values()}))}"
        for name in ORIGIN
    ]
    size = "full" if all(counts["full"] for counts in files.values()) else "not full throughout"
    said = f"Size: {size}. Tests that failed: {total['failed']}. {'; '.join(origin)}."
    return "\n".join(
        ["| " + " | ".join(line) + " |" for line in lines] + ["", said[0].upper() + said[1:]]
    )


def row(counts: Mapping[str, float]) -> Sequence[str]:
    """The cells of a file."""
    return [
        f"{counts['tests']:,}",
        *(f"{counts[kind]:,}" for kind in KINDS),
        f"{counts['seconds'] / 60:.1f}",
    ]


if __name__ == "__main__":
    fresh = page(
        PAGE.read_text(encoding="utf-8"), json.loads(FIGURES.read_text(encoding="utf-8"))["files"]
    )
    if "--check" in sys.argv:
        if PAGE.read_text(encoding="utf-8") != fresh:
            sys.exit("docs/reliability.md is stale. Run: python docs/make_reliability.py")
    else:
        PAGE.write_text(fresh, encoding="utf-8")
