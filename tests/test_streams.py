"""What a command's streams carry, and what becomes of a command whose streams are closed, full or
cut off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.base.workspace import Workspace
from harness.store import ResultStore

pytestmark = pytest.mark.usefixtures("no_mirror")

LOUD = '''
import atexit, ctypes, os, sys
from typing import ClassVar
import torch
from harness.api import Method, Particles, Task

def shout(where):
    print("python", where)
    sys.__stdout__.write(f"original {where}\\n")
    os.write(1, f"descriptor {where}\\n".encode())
    ctypes.CDLL(None).puts(f"library {where}".encode())
    os.system(f"echo child {where}")

shout("import")
atexit.register(shout, "exit")

class Loud(Method, frozen=True):
    """It prints."""

    name: ClassVar[str] = "loud"
    source: ClassVar[str] = "a test"

    def init(self, dim, noise, n_context=0):
        shout("init")
        return {"shift": torch.zeros(dim, dtype=torch.float64)}

    def particles(self, params, problem, noise, n_particles, trace=False):
        print("python particles")
        z_0 = problem.base.sample(noise, n_particles)
        z = z_0 + params["shift"]
        return Particles(z, problem.log_joint(z) - problem.base.log_prob(z_0))
'''
SMALL = "-m vb -t gaussian-2 --protocol smoke --set steps=10"
LOUDLY = "-m ./loud.py:Loud -t gaussian-2 --protocol smoke --set steps=10"


@pytest.fixture
def home(workspace):
    (workspace / "loud.py").write_text(LOUD)
    return workspace


def shell(command: str, home: Path) -> subprocess.CompletedProcess[str]:
    """A command line of a shell, in which `bench` is this program."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BENCH_", "MLFLOW_"))
    }
    environment |= {
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    }
    script = f'bench() {{ "{sys.executable}" -m harness.cli "$@"; }}; {command}'
    return subprocess.run(
        ["bash", "-c", script],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_whatever_a_plugin_prints_the_results_stand_alone(home):
    for command in (f"bench run {LOUDLY} --json", "bench show ./loud.py:Loud --json"):
        done = shell(command, home)
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        assert "source" in json.loads(line) or json.loads(line)["status"] == "done"
        for speaker in ("python", "original", "descriptor", "library", "child"):
            assert f"{speaker} import" in done.stderr, command
            assert f"{speaker} exit" in done.stderr, command


def test_in_another_program_too_what_a_plugin_prints_is_no_result(bench, workspace):
    (workspace / "loud.py").write_text(LOUD.replace("atexit.register", "print"))
    result = bench("run", *LOUDLY.split(), "--dry-run", "--json")
    assert [json.loads(line)["task"] for line in result.stdout.splitlines()] == ["gaussian-2"]
    assert "python import" in result.stderr
    result = bench("run", *LOUDLY.split(), "--json")
    assert [json.loads(line)["status"] for line in result.stdout.splitlines()] == ["done"]
    assert "python particles" in result.stderr


@pytest.mark.parametrize(
    ("streams", "status", "says"),
    [
        (">&-", 1, "bench: Cannot write to standard output: it is closed. "),
        ("<&- 2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
    ],
)
def test_a_run_is_made_and_stored_whatever_its_streams_are(streams, status, says, workspace):
    done = shell(f"bench run {SMALL} {streams}", workspace)
    assert (done.returncode, "Traceback" in done.stderr) == (status, False)
    assert done.stderr.splitlines()[-1].startswith(says) if says else done.stderr == ""
    with ResultStore.open(Workspace.current().database_url) as store:
        assert store.count() == {"done": 1}


def test_every_command_that_prints_says_in_one_line_that_it_cannot(bench, workspace):
    assert bench("run", *SMALL.split()).exit_code == 0
    commands = ["compare", "export --format csv", "list methods", "--help"]
    told = shell(
        "; ".join(f"bench {command} >/dev/full; echo STATUS $? >&2" for command in commands),
        workspace,
    ).stderr
    assert (
        told.count("Cannot write to standard output: No space left on device.")
        == told.count("STATUS 1")
        == len(commands)
    ), told
    assert "Traceback" not in told


def test_where_nobody_reads_on_nothing_is_said(workspace):
    done = shell("bench list methods | true; exit ${PIPESTATUS[0]}", workspace)
    assert (done.returncode, done.stdout) == (1, "")
    assert "bench:" not in done.stderr
    assert "Broken" not in done.stderr


def test_help_is_a_result(workspace):
    done = shell("bench data --help; bench data list --help; bench --version", workspace)
    assert (done.stdout.count("Usage:"), done.stderr) == (2, "")
    assert "version" in done.stdout


def test_a_device_or_a_pipe_is_written_to_and_not_replaced(bench, workspace):
    assert bench("run", *SMALL.split()).exit_code == 0
    os.mkfifo(workspace / "pipe")
    (workspace / "full").symlink_to("/dev/full")
    done = shell("cat pipe & bench compare -o pipe --format csv; wait", workspace)
    assert done.stdout.count("gaussian-2,,best volume-preserving map") == 1, done
    assert (workspace / "pipe").is_fifo()
    assert "gaussian-2" in bench("compare", "-o", "/dev/stdout", "--format", "csv").stdout
    full = bench("compare", "-o", "full", "--format", "csv")
    assert (full.exit_code, full.stderr) == (
        2,
        "bench: Cannot write full: No space left on device.\n",
    )
    assert Path("/dev/full").is_char_device()
