"""Parts of pages that scripts write: what stands between `<!-- NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re


def replaced(page: str, name: str, text: str) -> str:
    """Put a text between a name's marks."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{text}\n{match[2]}", page, flags=re.DOTALL)
