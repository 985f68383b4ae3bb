"""The collector goes over libraries seldom while they load, and not at all once work begins;
another's process is left alone.
"""

from __future__ import annotations

import json
import subprocess
import sys

from harness.base.gc import SELDOM
from harness.base.subprocesses import Subprocess

READ = "print(json.dumps([gc.get_threshold()[0], gc.get_freeze_count()]))"


def stages(*acts: str) -> list[list[int]]:
    """The first threshold and the count of what is never looked at, after each act in a process of
    its own.
    """
    lines = "\n".join(f"{act}\n{READ}" for act in acts)
    words = [sys.executable, "-c", f"import gc, json\nfrom harness import collector\n{lines}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_libraries_are_left_out_once_and_what_comes_later_is_collected():
    (usual, _), (seldom, none), (again, left_out), later = stages(
        "pass",
        "collector.collect_seldom()",
        "collector.collect_as_usual()",
        "held = [[n] for n in range(50_000)]; collector.collect_as_usual()",
    )
    assert (seldom, none) == (SELDOM, 0)
    assert again == usual
    assert left_out > 1_000
    assert later == [usual, left_out]  # what was made meanwhile is not left out


def test_a_process_that_is_somebody_elses_is_left_as_it_is():
    assert stages("gc.set_threshold(500)", "collector.collect_as_usual()") == [[500, 0], [500, 0]]


def test_a_helper_begins_with_it(tmp_path, monkeypatch):
    (tmp_path / "probe.py").write_text(
        "import gc\n\ndef main(parent):\n    parent.send(threshold=gc.get_threshold()[0])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    helper = Subprocess("probe")
    assert helper.wait(60) == 0
    assert list(helper.received()) == [{"threshold": SELDOM}]
    helper.close()


def test_the_command_begins_with_it():
    (_, (seldom, _)) = stages(
        "pass",
        f"from harness.cli import __main__ as command; command.main = lambda **_: {READ}; command.bench()",
    )
    assert seldom == SELDOM
