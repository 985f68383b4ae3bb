"""What the program said before its rooms were rebuilt, at commit a7e0a90, and says still.

`data/metrics-0003.jsonl` has the metrics of 48 runs; `data/workspace-0003.zip` a workspace with a
tuning study, retracted results, pictures and a method from a file; `data/workspace-0003.json` what
commands printed of it.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import harness
from harness.base.workspace import Workspace
from harness.numerics.noise import Noise
from harness.store import upgrade
from harness.training import loop

DATA = Path(__file__).parent / "data"
METHODS = ("vb", "iwae", "pnf", "iaf", "hvae", "hvae-iaf")
# Processors differ; images are computed in float32.
TOLERANCE = {"gaussian-25": 1e-8, "gaussian-ar1-9": 1e-8, "norms-2": 1e-8, "digits": 1e-2}
STUDY = "vb-gaussian-4-019ccf"


def json_lines(result: Any) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def differences(before: Any, now: Any, tolerance: float, where: str = "") -> list[str]:
    """Where two JSON values differ: numbers by more than the tolerance, all else at all; what is
    new in a mapping is no difference.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        missing = [f"{where}.{name} is gone" for name in before if name not in now]
        return missing + [
            line
            for name in before
            if name in now
            for line in differences(before[name], now[name], tolerance, f"{where}.{name}")
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [
            line
            for number, pair in enumerate(zip(before, now, strict=True))
            for line in differences(*pair, tolerance, f"{where}[{number}]")
        ]
    if isinstance(before, float) and isinstance(now, int | float):
        alike = (
            math.isclose(before, now, rel_tol=tolerance, abs_tol=1e-12) or before != before != now
        )
    else:
        alike = before == now
    return [] if alike else [f"{where}: {before!r:.200} is {now!r:.200}"]


def spreads(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """How far each metric of a run moves with its first parameters, by a hundred roundings: what
    another processor, which rounds each of 200 steps otherwise, may make of it.
    """
    start, scores = loop.start, []
    torch.set_num_threads(1)
    for stream in range(3):

        def moved(*arguments: Any, stream: int = stream) -> loop.State:
            state = start(*arguments)
            noise = Noise([f"rounding/{stream}"]).normal(*state.flat.shape, like=state.flat)
            state.flat *= 1 + (stream > 0) * 100 * torch.finfo(state.flat.dtype).eps * noise
            return state

        monkeypatch.setattr(loop, "start", moved)
        fitted = harness.fit(run["method"], run["task"], seed=run["seed"], protocol="smoke")
        scores.append(fitted.score())
    monkeypatch.undo()
    return {
        name: max(abs(other[name] - value) for other in scores[1:])
        for name, value in scores[0].items()
    }


FORMER = ("--set", "task.base_coordinates=latent")
"""What the Gaussian tasks did before they had this field."""


@pytest.mark.usefixtures("no_mirror")
@pytest.mark.parametrize("task", TOLERANCE)
def test_the_metrics_are_those_of_before(task, bench, monkeypatch):
    """Metrics are held to the tolerance, or to fifty times what rounding makes of them: under hvae
    on norms-2 an ulp at the start is up to 4 % at the end.
    """
    before = [
        run
        for run in map(json.loads, (DATA / "metrics-0003.jsonl").read_text().splitlines())
        if run["task"] == task
    ]
    methods = [word for method in METHODS for word in ("-m", method)]
    coordinates = FORMER if task.startswith("gaussian") else ()
    options = ("--protocol", "smoke", "--seeds", "0-1", *coordinates, "--json")
    printed = bench("run", *methods, "-t", task, *options)
    now = {run["key"]: run for run in json_lines(printed)}
    assert len(before) == 2 * len(METHODS)
    for run in before:
        again = now[run["key"]]
        if differences(run, again, TOLERANCE[task]):
            spread = spreads(run, monkeypatch)
            for part, suffix in (("metrics", ""), ("standard_errors", "_se")):
                for name, value in run[part].items():
                    if (
                        isinstance(value, float)
                        and abs(again[part][name] - value) <= 50 * spread[name + suffix]
                    ):
                        again[part][name] = value
        assert differences(run, again, TOLERANCE[task]) == []


@pytest.fixture
def saved_workspace(workspace):
    """The saved workspace, in the current folder."""
    shutil.unpack_archive(DATA / "workspace-0003.zip", workspace)
    upgrade(Workspace.current(workspace).database_url)
    return workspace


def test_commands_say_of_a_saved_workspace_what_they_said(bench, saved_workspace):
    for saved in json.loads((DATA / "workspace-0003.json").read_text(encoding="utf-8")):
        result = bench(*saved["command"])
        assert result.exit_code == 0, result.output
        is_text = isinstance(saved["printed"][0], str)
        printed = result.stdout.splitlines() if is_text else json_lines(result)
        assert differences(saved["printed"], printed, 1e-9) == [], saved["command"]


def test_a_saved_workspace_goes_on(bench, saved_workspace):
    """Results are there, what was queued is made, retracted ones are made anew, tuning adds trials,
    a trained model is used, and nothing is amiss.
    """
    smoke = ("--protocol", "smoke", "--json")
    again = json_lines(bench("run", "-m", "vb", "-t", "norms-2", "--seeds", "0-2", *smoke))
    assert [run["outcome"] for run in again] == ["hit"] * 3
    pnf = ("-m", "pnf", "-t", "gaussian-4", "--seeds", "0-1", *FORMER)
    queued = json_lines(bench("run", *pnf, *smoke))
    assert [(run["status"], run["outcome"]) for run in queued] == [("done", "ran")] * 2
    anew = json_lines(bench("run", "-m", "hvae", "-t", "norms-2", "--seeds", "0-2", *smoke))
    assert [run["outcome"] for run in anew] == ["ran"] * 3
    entries = json_lines(bench("compare", "-t", "norms-2", "--metric", "elbo", "--json"))
    assert {entry["method"]: entry["n"] for entry in entries} == {"vb": 3, "hvae": 3}
    tune = ("tune", "-m", "vb", "-t", "gaussian-4", "--trials", "5", "--protocol", "smoke")
    options = ("--seeds", "1000-1001", "--report-seeds", "0-1", "--json")
    (tuned,) = json_lines(bench(*tune, *FORMER, *options))
    (best,) = json_lines(bench("study", "best", STUDY, "--json"))
    # what was the default is a setting now, so this is another study; its trials are the same
    assert (tuned["trials"], best["trials"]) == (5, 4)
    assert tuned["best"] == best["best"]
    sampled = bench("sample", "56b95de911376cce", "-o", "samples.png")
    assert sampled.exit_code == 0, sampled.output
    assert Path("samples.png").read_bytes().startswith(b"\x89PNG")
    bench("doctor", "--repair", "--json")
    faults = [line for line in json_lines(bench("doctor", "--json")) if "data" not in str(line)]
    assert faults == []
