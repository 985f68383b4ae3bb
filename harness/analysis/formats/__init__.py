"""Tables as text for papers and pages, and as data; whatever a name holds, it stays text."""

from __future__ import annotations

from harness.analysis.formats.html import html
from harness.analysis.formats.latex import latex
from harness.analysis.formats.markdown import markdown
from harness.analysis.formats.records import SCHEMA_VERSION, csv_text, parquet_bytes, records

__all__ = ["SCHEMA_VERSION", "csv_text", "html", "latex", "markdown", "parquet_bytes", "records"]
