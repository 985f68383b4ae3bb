"""Steps from a recording: the same bits, or none is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from conftest import json_lines
from plugins import (
    DivergesAt50,
    FreezesDomain,
    FreezesNoise,
    FreezesParameters,
    FreezesRange,
    Shift,
    UsesNumpy,
)

from harness.plan.grid import expand
from harness.plan.registry import find
from harness.training import loop as training
from harness.training import recorded_steps as replay

PLUGINS = Path(__file__).parent / "plugins.py"
METHODS = ["vb", "iwae", "pnf", "iaf", "hvae", "hvae-untempered", "hvae-iaf"]
SETS = {
    "whole": {},
    "batches": {"batch_size": 300, "optimiser": "rmsprop", "clip_norm": 5.0},
    "single": {"dtype": "float32"},
}
PARTS = ("flat", "curve", "window", "diverged_at")


@pytest.fixture
def recordings(monkeypatch):
    """What recordings were made; every third step is taken both ways."""
    made, record = [], replay.record

    def kept(*arguments: Any) -> Any:
        made.append(record(*arguments))
        return made[-1]

    monkeypatch.setattr(replay, "record", kept)
    monkeypatch.setattr(replay, "CHECK_EVERY", 3)
    return made


def trained(
    method, seeds, monkeypatch, way, look=lambda progress, state: None, task="gaussian-3", **sets
):
    monkeypatch.setenv("BENCH_REPLAY", way)
    (run,) = expand(
        [method if isinstance(method, str) else "vb"],
        [task],
        [0],
        "smoke",
        {"task.n_data": 1000, "steps": 40, **sets},
    )
    spec = run.spec
    found = (
        find("method", spec.method).cls(**spec.method_fields) if isinstance(method, str) else method
    )
    gaussian = find("task", spec.task).cls(**spec.task_fields)
    state = training.start(found, gaussian, spec.protocol(), seeds)
    for progress in training.train(found, gaussian, spec.protocol(), state):
        look(progress, state)
    return state


@pytest.fixture
def remarks(monkeypatch):
    """What training said."""
    said, progress = [], training.Progress

    def heard(*values: Any) -> Any:
        said.extend(text for text in values[3:] if text)
        return progress(*values)

    monkeypatch.setattr(training, "Progress", heard)
    return said


def equal(one, other):
    pairs = [(getattr(one, name), getattr(other, name)) for name in PARTS]
    pairs += [(one.moments[name], other.moments[name]) for name in one.moments]
    return all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in pairs)


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_bit_is_that_of_steps_taken_one_by_one(method, kind, recordings, monkeypatch):
    usual = trained(method, [3, 4, 5], monkeypatch, "off", **SETS[kind])
    assert recordings == []
    played = trained(method, [3, 4, 5], monkeypatch, "always", **SETS[kind])
    assert [made is not None for made in recordings] == [True]
    assert equal(usual, played)


@pytest.mark.parametrize("method", METHODS)
def test_so_it_is_for_one_replicate_and_another_task(method, recordings, monkeypatch):
    usual, played = (
        trained(method, [0], monkeypatch, way, task="gaussian-ar1") for way in ("off", "always")
    )
    assert len(recordings) == 1
    assert equal(usual, played)


def test_a_method_that_looks_at_the_step_is_not_recorded(recordings, monkeypatch):
    usual, played = (
        trained(DivergesAt50(), [0, 1, 2], monkeypatch, way, steps=120) for way in ("off", "always")
    )
    assert recordings == [None]
    assert played.diverged_at.tolist() == [-1, 50, -1]
    assert equal(usual, played)


class LooksAtValues(Shift, frozen=True):
    """Takes another way by what came out."""

    name: ClassVar[str] = "looks-at-values"

    def bent(self, log_w: torch.Tensor, noise: Any) -> torch.Tensor:
        return log_w * 2 if bool(log_w.mean() > -2000) else log_w


def test_a_method_that_looks_at_values_is_not_recorded(recordings, monkeypatch):
    usual, played = (
        trained(LooksAtValues(), [0, 1], monkeypatch, way) for way in ("off", "always")
    )
    assert recordings == [None]
    assert equal(usual, played)


def test_numbers_that_leave_torch_are_not_recorded(recordings, monkeypatch):
    usual, played = (trained(UsesNumpy(), [0, 1], monkeypatch, way) for way in ("off", "always"))
    assert recordings == [None]
    assert equal(usual, played)


@pytest.mark.parametrize("method", [FreezesParameters(), FreezesNoise()])
def test_what_a_recording_freezes_shows_at_once(method, recordings, remarks, monkeypatch):
    usual, played = (trained(method, [0, 1], monkeypatch, way) for way in ("off", "always"))
    assert [made is not None for made in recordings] == [True]
    assert remarks == [
        "steps are taken one by one: a recording of step 0 gave other numbers with other "
        "parameters or noise"
    ]
    assert equal(usual, played)


@pytest.mark.parametrize("method", [FreezesRange(), FreezesDomain()])
def test_steps_since_the_last_comparison_are_taken_anew(method, monkeypatch, remarks):
    monkeypatch.setattr(replay, "CHECK_EVERY", 1000)
    usual, played = (
        trained(method, [0], monkeypatch, way, task="gaussian-1", steps=120, lr=0.05)
        for way in ("off", "always")
    )
    assert remarks
    assert remarks[0].endswith("gave other numbers when it was played back")
    assert usual.diverged_at.tolist() == [-1]
    assert equal(usual, played)


def test_whoever_keeps_a_state_between_comparisons_keeps_no_wrong_one(monkeypatch, remarks):
    monkeypatch.setattr(replay, "CHECK_EVERY", 1000)
    states = {}

    def look(progress: Any, state: Any) -> None:
        if state.step % 10 == 0 and progress.confirmed():
            states.setdefault(state.step, state.flat.clone())
            assert torch.equal(states[state.step], state.flat)

    for way in ("off", "always"):
        trained(FreezesRange(), [0], monkeypatch, way, look, task="gaussian-1", steps=120, lr=0.05)
    assert len(states) == 12
    assert len(remarks) == 1


def test_a_run_says_that_its_steps_are_taken_one_by_one(bench, no_mirror, monkeypatch):
    monkeypatch.setenv("BENCH_REPLAY", "always")
    result = bench(
        "run",
        "-m",
        f"{PLUGINS}:FreezesNoise",
        "-t",
        "gaussian-2",
        "--protocol",
        "smoke",
        "--set",
        "steps=30",
        "--json",
    )
    (run,) = json_lines(result)
    reason = (
        "steps are taken one by one: a recording of step 0 gave other numbers with other "
        "parameters or noise"
    )
    assert f"freezes-noise on gaussian ({run['key']}): {reason}." in result.stderr
    (shown,) = json_lines(bench("show", run["key"], "--json"))
    assert [line["reason"] for line in shown["history"]] == [None, None, reason, None]


@pytest.mark.parametrize("pause", ["0", "1000"])
def test_a_run_saves_and_stores_what_steps_taken_one_by_one_give(
    bench, no_mirror, monkeypatch, pause
):
    words = (
        "-t",
        "gaussian-1",
        "--protocol",
        "smoke",
        "--set",
        "steps=60",
        "--set",
        "lr=0.05",
        "--save-every",
        pause,
        "--rerun",
        "--json",
    )
    metrics = []
    for way in ("off", "always"):
        monkeypatch.setenv("BENCH_REPLAY", way)
        result = bench("run", "-m", f"{PLUGINS}:FreezesRange", *words)
        metrics.append(json_lines(result)[0]["metrics"])
        assert ("gave other numbers when it was played back" in result.stderr) == (way == "always")
    assert metrics[0] == metrics[1]


def test_a_recording_is_made_once_steps_have_cost_as_much(recordings, monkeypatch):
    monkeypatch.setattr(replay, "PATIENCE", 40)
    trained("vb", [0], monkeypatch, "", steps=41)
    assert recordings == []  # these steps took no two seconds
    monkeypatch.setattr(replay, "PATIENCE_S", 0.0)
    trained("vb", [0], monkeypatch, "")
    assert recordings == []
    trained("vb", [0], monkeypatch, "", steps=41)
    assert len(recordings) == 1
