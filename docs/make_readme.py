"""Write the output, the table and the figure of the first page from the workspace, which must have
the runs of the study `overview`.

    BENCH_HOME=... python docs/make_readme.py

What stands between `<!-- NAME -->` and `<!-- end -->` in README.md is replaced, and
docs/overview.svg.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from marked import replaced

from harness.analysis.formats import markdown
from harness.analysis.grids import Style, joined_grid
from harness.analysis.selection import RunFilter, SelectedRuns, select_runs, study_keys
from harness.analysis.tables import Options, compare
from harness.base.workspace import Workspace
from harness.report import paper
from harness.report.view import View
from harness.store import ResultStore

PAGE = Path(__file__).parent.parent / "README.md"
FIGURE = Path(__file__).with_name("overview.svg")
STUDY, METRIC = "overview", "elbo_gap"
COMMAND = "bench run -m vb -m iaf -m hvae -t gaussian-25 --set steps=3000 --seeds 0-4"


def main() -> None:
    """Replace the parts of the page."""
    keys = study_keys(STUDY)
    with ResultStore.open(Workspace.current().database_url) as store:
        runs = select_runs(store, RunFilter(keys=keys))
        n_runs = sum(len(group.runs) for group in runs.groups)
        if n_runs < len(keys):
            sys.exit(f"{n_runs} of {len(keys)} runs are there. Make them: bench study run {STUDY}")
        parts = {"output": output(), "table": table(runs)}
        FIGURE.write_bytes(paper.file("curves", View(runs), None, "double", "svg"))
    page = PAGE.read_text()
    for name, text in parts.items():
        page = replaced(page, name, text)
    PAGE.write_text(page)


def table(runs: SelectedRuns) -> str:
    """Return the comparison as Markdown, its caption and notes below it."""
    grid = joined_grid(compare(runs, Options((METRIC,))), Style(costs=False, short=True))
    lines = markdown([grid]).strip().splitlines()
    caption = lines[0].removeprefix("### ")
    rows = [line for line in lines if line.startswith("|")]
    notes = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    return "\n".join([*rows, "", f"{caption}. {' '.join(notes)}"])


def output() -> str:
    """Return the command with what it prints in a new workspace."""
    with TemporaryDirectory() as home:
        environment = {**os.environ, "BENCH_HOME": home, "NO_COLOR": "1"}
        program = [sys.executable, "-m", "harness.cli", *shlex.split(COMMAND)[1:]]
        done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    text = "\n".join(line.rstrip() for line in done.stdout.splitlines() if "Next:" not in line)
    return f"```\n$ {COMMAND}\n{text.strip()}\n```"


if __name__ == "__main__":
    main()
