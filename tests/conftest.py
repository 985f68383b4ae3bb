"""What several test files share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import counts
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase
from postgres import postgres_database, postgres_server  # noqa: F401  fixtures

from harness.cli import main

# The same examples every time: nobody's first run fails by chance. With BENCH_TESTS=full other
# ones; a find is kept, and tried again.
settings.register_profile("usual", derandomize=True, database=None)
settings.register_profile(
    "full",
    database=DirectoryBasedExampleDatabase(
        Path(__file__).parent.parent / ".hypothesis" / "examples"
    ),
)
settings.load_profile("full" if os.environ.get("BENCH_TESTS") == "full" else "usual")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what tests counted, also where they ran in other processes."""
    for report in terminalreporter.stats.get("passed", []):
        for name, text in report.user_properties:
            if name == "printed":
                terminalreporter.write_line(text)
    files = counts.summed(
        report for reports in terminalreporter.stats.values() for report in reports
    )
    if files:
        terminalreporter.write_line("\n".join(counts.table(files)))
        if path := os.environ.get("BENCH_FAULTS_JSON"):
            counts.keep(files, Path(path))


# Run as a program by test_notebook.py.
collect_ignore = ["notebook_script.py"]

# Files whose tests start processes, servers or browsers, build the wheel or the site, tune, or try
# hundreds of bad inputs.
SLOW_FILES = {
    "test_before.py",
    "test_browser.py",
    "test_bundles_hostile.py",
    "test_calibration.py",
    "test_cluster.py",
    "test_docs.py",
    "test_download.py",
    "test_foreign_trials.py",
    "test_installed.py",
    "test_mirror_waits.py",
    "test_notebook.py",
    "test_own_files.py",
    "test_reading.py",
    "test_report.py",
    "test_tuning.py",
    "test_verify.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the folder `faults` by its name, and as slow with those of `SLOW_FILES` and
    those that start MLflow.
    """
    for item in items:
        if item.path.parent.name == "faults":
            item.add_marker("faults")
        if (
            item.path.parent.name == "faults"
            or item.path.name in SLOW_FILES
            or item.get_closest_marker("mirror")
        ):
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests run side by side; more threads than cores only slow them, in runs too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    yield
    torch.set_num_threads(before)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace that is the current folder."""
    for name in ("BENCH_HOME", "BENCH_DATABASE_URL", "MLFLOW_TRACKING_URI", "BENCH_STUDY_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bench(workspace: Path) -> Callable[..., Result]:
    """The command line, in this process, in an empty workspace."""

    def call(*arguments: str) -> Result:
        result = CliRunner().invoke(main, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


def json_lines(result: Result) -> list[dict[str, Any]]:
    """What a command printed with --json."""
    return [json.loads(line) for line in result.stdout.splitlines()]


class NoMirror:
    """In place of the process that mirrors runs in MLflow: it has nothing to do."""

    error = None

    def __enter__(self) -> NoMirror:
        return self

    def __exit__(self, *unused: object) -> None:
        return None

    @classmethod
    def start(cls, *unused: object) -> NoMirror:
        """Nothing is started."""
        return cls()

    def add(self, keys: object) -> None:
        """Nothing is taken note of."""

    def finish(self, **unused: object) -> list[str]:
        """Nothing is left to mirror."""
        return []


@pytest.fixture
def no_mirror(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Most tests are not about MLflow. Those marked `mirror` keep the real one."""
    if "mirror" not in request.keywords:
        monkeypatch.setattr("harness.tracking.Mirror.start", NoMirror.start)
        monkeypatch.setattr("harness.tracking.runs.show_search", lambda *unused: None)


@pytest.fixture
def study(workspace):
    """A function that writes a study file into the workspace and returns its name."""

    def write(text: str, name: str = "mine.yaml") -> str:
        (workspace / name).write_text(text)
        return name

    return write
