"""`harness.run` and `harness.compare`, with classes that are in no file of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("notebook_script.py")
NETS = '''"""A file beside the notebook."""\n\nwidths = [0.8]\n'''


def in_a_process(workspace, text, name="notebook.py"):
    workspace.mkdir(exist_ok=True)
    (workspace / name).write_text(text)
    environment = {
        **os.environ,
        "BENCH_HOME": str(workspace),
    }
    return subprocess.run(
        [sys.executable, name],
        cwd=workspace,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_notebook_fits_runs_compares_saves_and_goes_on(bench, workspace):
    (workspace / "notebook_nets.py").write_text(NETS)
    ended = in_a_process(workspace, SCRIPT.read_text())
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert said["stored"] == pytest.approx(said["fitted"], rel=1e-9)
    result = bench("compare", "--metric", "elbo_gap", "--json")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    means = {row["method"]: row["mean"] for row in rows}
    assert means == said["frame"]
    assert [means["gauss"], means["narrow"]] == pytest.approx(said["fits"], rel=1e-9)
    assert {row["n"] for row in rows} == {3}
    # stored as text, the classes run where the notebook is not
    (workspace / "notebook_nets.py").unlink()
    again = in_a_process(
        workspace,
        "import harness, sys\n"
        "runs = harness.results.load().runs\n"
        "(key,) = runs.query(\"method == 'narrow' and seed == 1\")['key']\n"
        "print(harness.load_run(key, allow_plugins=True).score()['elbo_gap'])\n",
        "other.py",
    )
    assert again.returncode == 0, again.stderr
    assert float(again.stdout) < 10


REFUSED = {
    "a lambda": ("scale = lambda x: x", "scale(2.0)", "refers to scale, a lambda"),
    "an open file": ("scale = open(__file__)", "scale.name", "refers to scale, a TextIOWrapper"),
    "a large tensor": (
        "scale = torch.zeros(200, 200)",
        "scale[0, 0]",
        "refers to scale, a tensor of 40000 values",
    ),
    "a nan": ("scale = torch.tensor([float('nan')])", "scale[0]", "a tensor of 1 values"),
    "a class in a function": (
        "def make():\n    class Inner:\n        value = 1.0\n    return Inner\nscale = make()",
        "scale.value",
        "make.<locals>.Inner, which is defined inside a function or class",
    ),
    "two things of one name": (
        "def f(x):\n    return 2 * x\ng = f\ndef f(x):\n    return 3 * x",
        "f(g(1.0))",
        "two things called f",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(workspace, what):
    statement, use, message = REFUSED[what]
    text = (
        "import torch, harness\nfrom harness.api import LogDensity\n"
        f"{statement}\n"
        "class Mine(LogDensity):\n    dim = 2\n"
        f"    def log_density(self, z):\n        return {use} * z.sum(-1)\n"
        "from harness.base.errors import PluginError\n"
        "try:\n    harness.run('vb', Mine)\nexcept PluginError as err:\n    print(err)\n"
    )
    ended = in_a_process(workspace, text)
    assert ended.returncode == 0, ended.stderr
    assert message in ended.stdout
    assert sorted(path.name for path in workspace.iterdir()) == ["notebook.py"]
