"""Finished runs in one file that another workspace can take in: written whole, checked whole, and
read run by run.

A bundle is a zip archive whose entries are stored as they are, in this order: `bundle.json`
(format, release, number of runs), `runs.jsonl` (a run a line, sorted by key), and `files/SHA256`
(checkpoints and pictures, sorted). Dates and names are fixed, so the same runs give the same bytes.
"""

from __future__ import annotations

from harness.execution.bundle.moving import read_in, write
from harness.execution.bundle.reading import Bundle, opened

__all__ = ["Bundle", "opened", "read_in", "write"]
