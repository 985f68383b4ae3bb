"""Where runs are computed: the plan's device, and one that is not there."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner
from torch import Tensor

from harness.cli import main
from harness.plan.grid import resolve
from harness.plan.registry import find, listings
from harness.training import loop as training


@pytest.mark.parametrize(
    "command",
    [
        ("run", "-m", "vb", "-t", "gaussian-2"),
        ("worker", "--drain"),
        ("tune", "-m", "vb", "-t", "gaussian-2"),
    ],
)
@pytest.mark.parametrize("device", ["cuda:99", "toaster"])
def test_a_device_that_is_not_there_is_one_line_and_nothing_is_written(
    command, device, tmp_path, monkeypatch
):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    result = CliRunner().invoke(main, [*command, "--device", device])
    assert result.exit_code == 2
    assert f"No device '{device}' on this machine. Available: cpu" in result.stderr
    assert "Choose one: --device" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "home").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library's memory")
def test_memory_that_a_step_frees_is_there_for_the_next():
    source = """if True:
        import resource, torch
        from harness.training import devices
        {}
        def steps():
            for _ in range(10):
                torch.ones(10, 1_000_000).mul_(2)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        before = steps()
        print(steps() - before)
    """
    faults = [
        int(
            subprocess.run(
                [sys.executable, "-c", source.format(line)], capture_output=True, check=True
            ).stdout
        )
        for line in ("", "devices.use('cpu')")
    ]
    assert faults[1] < 100 < 10_000 < faults[0]


@pytest.mark.parametrize(
    ("task", "settings"), [("gaussian-2", {}), ("digits", {"validate_every": 1})]
)
def test_a_state_moves_as_a_whole(task, settings):
    found = resolve(find("method", "hvae"), find("task", task), "smoke", {"steps": 2} | settings)
    state = training.start(found.method, found.task, found.protocol, [0])
    state.to("meta")
    splits = [
        split for split in (state.data.train, state.data.validation, state.data.test) if split
    ]
    owned = [getattr(state, item.name) for item in fields(state)]
    tensors = (
        [leaf for leaf in owned if isinstance(leaf, Tensor)]
        + [*state.moments.values()]
        + [x for split in splits for x in split.values()]
    )
    assert len(tensors) > 8
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_no_task_names_a_device():
    from harness.conformance.method_checks import device_words

    sources = {
        item.name: find("task", item.name).cls.__module__ for item in listings("task").values()
    }
    assert len(sources) > 3
    for module in set(sources.values()):
        assert (
            device_words(Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8")) == []
        ), module
