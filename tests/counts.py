"""What tests did to the program and what it cost, counted over a whole session, by kind and by
file.

A test counts with `record_property(KIND, n)`. With BENCH_FAULTS_JSON=FILE the counts go there too;
a later session replaces those of the files that it ran and keeps the others, so that a long run can
be made in pieces.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

KINDS = ("interruptions", "faults", "bad inputs", "losses")


def compared(
    record: Callable[[str, object], None], found: dict[str, Any], wanted: dict[str, Any]
) -> None:
    """Count as losses what is missing, too much or different, and fail if there is any."""
    lost = [key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)]
    record("losses", len(lost))
    assert not lost, [(found.get(key), wanted.get(key)) for key in lost]


def summed(reports: Iterable[Any]) -> dict[str, dict[str, float]]:
    """The counts of each file that counted, with its tests, those that failed, and their
    seconds.
    """
    files: dict[str, dict[str, float]] = {}
    calls = [
        report
        for report in reports
        if getattr(report, "when", None) == "call" and not report.skipped
    ]
    counting = {
        report.location[0]
        for report in calls
        if any(name in KINDS for name, _ in report.user_properties)
    }
    for report in calls:
        if report.location[0] in counting:
            counts = files.setdefault(
                report.location[0], dict.fromkeys(("tests", "failed", "seconds", *KINDS), 0)
            )
            counts["tests"] += 1
            counts["failed"] += report.failed
            counts["seconds"] = round(counts["seconds"] + report.duration, 1)
            for name, n in report.user_properties:
                if name in KINDS:
                    counts[name] += n
    return files


def table(files: dict[str, dict[str, float]]) -> list[str]:
    """The counts as lines: a file each, and their sum."""
    total = {kind: sum(counts[kind] for counts in files.values()) for kind in KINDS}
    rows = [("", *KINDS)] + [
        (name, *(f"{counts[kind]:,}" for kind in KINDS))
        for name, counts in [*sorted(files.items()), ("all", total)]
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(len(KINDS) + 1)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]


def keep(files: dict[str, dict[str, float]], path: Path) -> None:
    """Put the counts into a JSON file, in place of what it has of the same files."""
    known = json.loads(path.read_text())["files"] if path.exists() else {}
    origin = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "full": os.environ.get("BENCH_TESTS") == "full",
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    known |= {name: {**origin, **counts} for name, counts in files.items()}
    path.write_text(json.dumps({"files": dict(sorted(known.items()))}, indent=1) + "\n")
