"""Parts of pages that scripts write: what stands between `<!-- NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.analysis.formats import markdown
from harness.analysis.grids import Grid


def replaced(page: str, name: str, text: str) -> str:
    """Put a text between a name's marks.

    Raises:
        ValueError: the page has none.
    """
    if f"<!-- {name} -->\n" not in page:
        raise ValueError(f"The page has no '<!-- {name} -->'. Put it, and '<!-- end -->', there.")
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{text}\n{match[2]}", page, flags=re.DOTALL)


def tables_of(grids: Sequence[Grid]) -> str:
    """Return tables as a page has them, a level below its own headings."""
    return markdown(grids).replace("### ", "#### ").strip()
